"""What a crash may leave of files that are being written.

A folder is copied whenever the code under test syncs or renames a file, and of two copies that follow one another any
mixture may be on the disk: of what changed between them, some sectors are there and others not, and a file that grew
may be cut off anywhere. Between two syncs nothing is promised about the order (Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import attrs

__all__ = ["Moment", "Recording", "failing_syncs", "mixtures", "read_image", "recorded", "write_image"]

# The content of each file, by its path in the folder.
Image = dict[str, bytes]

SECTOR_BYTES = 512
# Mixtures tried of two images that follow one another, beside the cuts.
MIXTURES = 6
CUTS = 6
# Shared memory, which no crash leaves.
_VOLATILE = ("-shm",)


@attrs.frozen
class Moment:
    """A folder at one moment: what is in its files, and which of these contents were synced."""

    image: Image
    synced: frozenset[bytes] = frozenset()


@attrs.define
class Recording:
    """A folder while the code under test ran."""

    # In order; no two that follow one another have the same image.
    moments: list[Moment] = attrs.field(factory=list)
    # What would be there if all that was not synced were lost: contents by the names that were synced.
    synced: Image = attrs.field(factory=dict)

    def add(self, image: Image) -> None:
        """Add an image."""
        moment = Moment(image, frozenset(self.synced.values()))
        if self.moments and self.moments[-1].image == image:
            self.moments.pop()
        self.moments.append(moment)


def read_image(folder: Path) -> Image:
    """Return all files of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(_VOLATILE)
    }


def write_image(image: Image, folder: Path) -> None:
    """Make a folder that holds these files."""
    for name, content in image.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def recorded(folder: Path) -> Iterator[Recording]:
    """Record the images of a folder while the body runs, in whatever thread it syncs.

    What is there at the beginning counts as synced.
    """
    before = read_image(folder)
    recording = Recording(synced=before)
    recording.add(before)

    def watch(function: Callable[..., Any], *, is_sync: bool) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            recording.add(read_image(folder))
            result = function(*args, **kwargs)
            image = read_image(folder)
            if is_sync:
                recording.synced = _with_synced(recording.synced, image, args[0], folder)
            recording.add(image)
            return result

        return watched

    with (
        mock.patch.object(os, "fsync", watch(os.fsync, is_sync=True)),
        mock.patch.object(os, "fdatasync", watch(os.fdatasync, is_sync=True)),
        mock.patch.object(os, "replace", watch(os.replace, is_sync=False)),
        mock.patch.object(os, "rename", watch(os.rename, is_sync=False)),
    ):
        yield recording
        recording.add(read_image(folder))


def _with_synced(synced: Image, image: Image, descriptor: Any, folder: Path) -> Image:
    """Return what is synced after one more sync: of a file its content, of a folder which names there are."""
    target = os.path.realpath(f"/dev/fd/{descriptor if isinstance(descriptor, int) else descriptor.fileno()}")
    if os.path.isdir(target):
        known = set(synced.values())
        return {
            name: content if content in known else synced[name]
            for name, content in image.items()
            if content in known or name in synced
        }
    name = os.path.relpath(target, os.path.realpath(folder))
    return synced | ({name: image[name]} if name in image else {})


@contextmanager
def failing_syncs() -> Iterator[list[int]]:
    """Make every sync fail with EIO while the body runs; yields one number for each that was tried."""
    tried: list[int] = []

    def fail(descriptor: Any) -> None:
        tried.append(len(tried))
        raise OSError(5, "Input/output error")

    with mock.patch.object(os, "fsync", fail), mock.patch.object(os, "fdatasync", fail):
        yield tried


def mixtures(before: Moment, after: Moment, random: Random) -> Iterator[Image]:
    """Yield what may be on a disk that was on its way from one moment to the next, both of them included."""
    old, new = before.image, after.image
    yield old
    yield new
    # A file that was synced under another name and then got this one is there wholly, or not at all.
    torn = [name for name in new if new[name] != old.get(name) and new[name] not in before.synced]
    for name in torn:
        for length in _cuts(len(old.get(name, b"")), len(new[name]), random):
            yield old | {name: new[name][:length]}
    for _ in range(MIXTURES if torn else 0):
        yield old | {name: _mix(old.get(name, b""), new[name], random) for name in torn}


def _cuts(old_bytes: int, new_bytes: int, random: Random) -> list[int]:
    """Return lengths at which a file that grew may be cut off."""
    if new_bytes <= old_bytes:
        return []
    sectors = range(old_bytes // SECTOR_BYTES * SECTOR_BYTES, new_bytes, SECTOR_BYTES)
    chosen = [*random.sample(sectors, min(CUTS, len(sectors))), old_bytes + 1, (old_bytes + new_bytes) // 2]
    return sorted({length for length in (*chosen, new_bytes - 1) if old_bytes < length < new_bytes})


def _mix(old: bytes, new: bytes, random: Random) -> bytes:
    """Return a file of which some sectors are old and some new; what was never written is zeros."""
    length = random.choice([len(old), len(new), max(len(old), len(new))])
    share = random.random()
    sectors = [
        (new if random.random() < share else old)[offset : offset + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
        for offset in range(0, max(length, 1), SECTOR_BYTES)
    ]
    return b"".join(sectors)[:length]

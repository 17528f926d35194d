"""What a crash may leave, as the kit of storages imagines it."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from clustercore.testing.conformance.disk_images import (
    SECTOR_BYTES,
    Moment,
    failing_syncs,
    mixtures,
    read_image,
    recorded,
    write_image,
)


def write(path: Path, content: bytes, *, sync: bool) -> None:
    """Write a file, and perhaps sync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync which names there are."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_image_is_written_as_it_was_read(tmp_path: Path) -> None:
    """Files in folders come back, shared memory does not."""
    image = {"a": b"1", "b/c": b"2"}
    write_image(image | {"node.db-shm": b"3"}, tmp_path)

    assert read_image(tmp_path) == image


def test_recording_has_an_image_for_each_sync_and_rename(tmp_path: Path) -> None:
    """Before and after each, and at the end; what has not changed is there once."""
    with recorded(tmp_path) as recording:
        write(tmp_path / "new", b"content", sync=True)
        os.replace(tmp_path / "new", tmp_path / "file")
        write(tmp_path / "other", b"more", sync=False)

    images = [moment.image for moment in recording.moments]
    assert images == [
        {},
        {"new": b"content"},
        {"file": b"content"},
        {"file": b"content", "other": b"more"},
    ]
    assert recording.moments[1].synced == {b"content"}


def test_synced_is_what_a_power_cut_leaves(tmp_path: Path) -> None:
    """Content counts from the sync of its file, a new name from the sync of its folder."""
    write(tmp_path / "file", b"old", sync=False)
    with recorded(tmp_path) as recording:
        write(tmp_path / "new", b"new", sync=True)
        os.replace(tmp_path / "new", tmp_path / "file")
        assert recording.synced["file"] == b"old"

        sync_folder(tmp_path)
        assert recording.synced == {"file": b"new"}

        write(tmp_path / "file", b"newer", sync=False)
        sync_folder(tmp_path)
        assert recording.synced == {"file": b"new"}


def test_file_that_grew_may_be_cut_off_anywhere() -> None:
    """Both images are possible, and lengths between, at sectors and within them."""
    old, new = b"a" * 100, b"a" * 100 + b"b" * 3000

    images = list(mixtures(Moment({"log": old}), Moment({"log": new}), Random(1)))

    lengths = {len(image["log"]) for image in images}
    assert {"log": old} in images
    assert {"log": new} in images
    assert lengths & set(range(SECTOR_BYTES, 3100, SECTOR_BYTES))
    assert {101, 3099} <= lengths


def test_renamed_file_that_was_synced_is_whole() -> None:
    """Renaming is atomic: the old content or the new, never a part. What was not synced before may be torn."""
    before, after = {"file": b"old", "new": b"n" * 2000}, {"file": b"n" * 2000}

    whole = list(mixtures(Moment(before, frozenset({b"n" * 2000})), Moment(after), Random(1)))
    torn = list(mixtures(Moment(before), Moment(after), Random(1)))

    assert whole == [before, after]
    assert any(image["file"] not in (b"old", b"n" * 2000) for image in torn)


def test_failing_syncs_fail_and_are_counted(tmp_path: Path) -> None:
    """Each sync is EIO as long as the body runs."""
    with failing_syncs() as tried:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                write(tmp_path / "file", b"x", sync=True)
    write(tmp_path / "file", b"x", sync=True)

    assert tried == [0, 1]

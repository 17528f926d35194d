"""Members from a file, which may be edited while nodes run."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

import attrs
import trio

from clustercore.interfaces import ConfigError, FollowingDiscovery, Member
from clustercore_static.lines import parse_lines

__all__ = ["FileDiscovery"]

# Some file systems count the time of a change in steps as long as this: what was written a moment ago may be written
# again without a trace in it.
_CLOCK_STEP_NS = 2_000_000_000
# A list of members has a few hundred bytes. What is larger is another file.
_MAX_BYTES = 1 << 20


@attrs.frozen
class _Look:
    """What one look at the file has found."""

    # What the file system says of it, to tell whether it was written to since.
    signature: tuple[int, int, int, int]
    digest: bytes
    content: bytes = attrs.field(repr=False)
    # Whether it was so soon after the last change that another one may leave the signature as it is.
    is_young: bool


class FileDiscovery(FollowingDiscovery):
    """Knows the members that a file names, and follows it: who edits the file needs to restart nothing.

    A line is a node's id, its address and, if wanted, tags; see ``clustercore_static.lines``::

        # id  address          what else is told of it
        n1    10.0.0.1:7101    zone=north
        n2    10.0.0.2:7101

    New content counts once two looks in a row have found it the same, so a file that is being written is not taken for
    one that is complete. Content that is wrong, empty, or cannot be read is not taken at all: the log names the line,
    and the last good content holds, as stale. ``register`` and ``deregister`` write nothing: they concern this object
    alone.

    Args:
        path: The file. It may be a symbolic link that is set anew, as Kubernetes does.
        interval_s: Seconds between two looks.

    Raises:
        ConfigError: ``interval_s`` is not above 0; when it is entered, the file cannot be read, or a line is wrong.
    """

    def __init__(self, path: Path, interval_s: float = 1.0) -> None:
        if not interval_s > 0:
            raise ConfigError(f"interval_s = {interval_s!r}: expected a number of seconds above 0")
        super().__init__("file")
        self._path = Path(path)
        self._interval_s = interval_s
        # What the last look found that found anything.
        self._last: _Look | None = None

    async def begin(self) -> None:
        self._last = await _look(self._path, None)
        self._known.tell(_parse(self._last.content, self._path))

    async def follow(self) -> None:
        while True:
            await trio.sleep(self._interval_s)
            await self._look_again()

    async def _look_again(self) -> None:
        before = self._last
        try:
            self._last = await _look(self._path, before)
            if before is not None and before.digest == self._last.digest:
                # To take the same again confirms it.
                self._known.tell(_parse(self._last.content, self._path))
        except ConfigError as error:
            self._known.fail(str(error))


async def _look(path: Path, last: _Look | None) -> _Look:
    # A file system over the network may hang: then the thread does, and nobody waits for it at the end.
    return await trio.to_thread.run_sync(_read, path, last, abandon_on_cancel=True)


def _read(path: Path, last: _Look | None) -> _Look:
    """Return what is in the file, without reading it if it is as it was.

    Raises: ConfigError if it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            signature = status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
            if last is not None and last.signature == signature and not last.is_young:
                return last
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: has more than {_MAX_BYTES} bytes: it is no list of members")
    return _Look(signature, sha256(content).digest(), content, is_young=signature[0] > time.time_ns() - _CLOCK_STEP_NS)


def _parse(content: bytes, path: Path) -> tuple[Member, ...]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8: byte {error.start} of the file is wrong") from error
    return parse_lines(text, str(path))

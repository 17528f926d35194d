"""The storage contract over one SQLite file: threads, cancellation and what an error means.

*Why a thread.* A commit of 1 / 64 / 512 rows of 64 B takes 294 / 375 / 803 us in the event loop and 358 / 454 / 904
us through the worker thread (medians; ``benchmarks/storage_writes.py``): 1.1 to 1.2 times as long. But an fsync can
take far longer than its median: behind a checkpoint, another program's writes, or a cloud disk that has used up its
burst, where whole seconds are no rarity; with two other programs writing, the same disk took 3.8 ms a commit. A node
that cannot send heartbeats meanwhile loses its leadership for a slow disk, and one that cannot answer votes delays
everyone's election. Under load the difference is lost in the batch: while one commit is under way, the next batch
gathers. ``worker`` says what else a thread needs beside a busy loop.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import trio

from clustercore.interfaces import (
    ConfigError,
    Entry,
    HardState,
    InvariantError,
    LogCorrupt,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    SnapshotReader,
    Storage,
    StorageError,
    StorageIdentity,
    StoredState,
)
from clustercore_sqlite.database import Database
from clustercore_sqlite.errors import ADVICE, translate
from clustercore_sqlite.records import StoredSnapshot
from clustercore_sqlite.worker import Worker

__all__ = ["SqliteStorage"]

T = TypeVar("T")


class SqliteStorage(Storage):
    """Keeps a node's identity, term, vote, log and snapshot in one SQLite file.

    Args:
        path: The database file. It is made if it does not exist; its directory must. Beside it appear ``<path>-wal``,
            which belongs to the data and must be copied with it, and ``<path>-lock``.

    Durability: as the contract says, on a disk that does what fsync asks, and that leaves alone the bytes before
    those it writes.
    Errors: every one that a file or SQLite raises is a StorageError. After the first, each later call raises
    StorageError without touching the disk.
    Space: a snapshot's is free for the next one but one, so a file holds up to two, and one more for each that is being
    sent to a peer.
    """

    def __init__(self, path: Path | str) -> None:
        # Options come from a configuration file, so the type is no more certain than the value.
        given: object = path
        if not isinstance(given, (str, Path)) or str(given) in ("", ".", ":memory:"):
            raise ConfigError(f"path = {path!r}: expected the path of a file, which need not exist yet")
        # Resolved, so that two paths to one file meet at one lock.
        self._path = Path(path).resolve()
        self._database: Database | None = None
        self._failure: BaseException | None = None
        self._worker = Worker()

    async def __aenter__(self) -> Self:
        if self._database is not None:
            raise StorageError(f"{self._path} is open already, in this storage")
        self._failure = None
        self._worker.__enter__()
        try:
            self._database = await self._worker.run(self._open)
        except BaseException:
            self._worker.__exit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            # Bounded by one checkpoint. A cancelled node must give its file back too.
            with trio.CancelScope(shield=True):
                await self._worker.run(database.close)
        except (sqlite3.Error, OSError) as error:
            raise translate(self._path, error) from error
        finally:
            self._worker.__exit__(None, None, None)

    async def load(self) -> StoredState:
        return await self._run(Database.load)

    async def save_identity(self, identity: StorageIdentity) -> None:
        await self._run(lambda database: database.save_identity(identity))

    async def save_hard_state(self, hard_state: HardState) -> None:
        await self._run(lambda database: database.save_hard_state(hard_state))

    async def append(self, entries: Sequence[Entry]) -> None:
        await self._run(lambda database: database.append(entries))

    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await self._run(lambda database: database.write_snapshot_chunk(metadata, offset, data))

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        await self._run(lambda database: database.install_snapshot(metadata, keep_from))

    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._run(lambda database: database.discard_snapshot(snapshot_id))

    async def open_snapshot(self) -> SnapshotReader | None:
        stored = await self._run(Database.open_snapshot)
        return None if stored is None else _Reader(stored, self._run)

    async def _run(self, operation: Callable[[Database], T]) -> T:
        return await self._worker.run(lambda: self._guard(operation))

    # -- In the thread --

    def _open(self) -> Database:
        try:
            return Database.open(self._path)
        except (sqlite3.Error, OSError) as error:
            raise translate(self._path, error) from error

    def _guard(self, operation: Callable[[Database], T]) -> T:
        """Carry out an operation, unless one before it failed."""
        if self._database is None:
            raise StorageError(f"{self._path} is not open; use it inside `async with storage`")
        if self._failure is not None:
            raise StorageError(
                f"{self._path} failed before ({self._failure}); nobody knows what is on disk until it is opened again"
            ) from self._failure
        try:
            return operation(self._database)
        except InvariantError:
            # Found before anything was written.
            raise
        except (sqlite3.Error, OSError) as error:
            self._failure = error
            raise translate(self._path, error) from error
        except BaseException as error:
            self._failure = error
            raise


class _Run(Protocol):
    """How an operation on the database gets to its thread."""

    async def __call__(self, operation: Callable[[Database], T]) -> T: ...


class _Reader(SnapshotReader):
    """Reads the chunks of one snapshot."""

    def __init__(self, stored: StoredSnapshot, run: _Run) -> None:
        self.metadata = stored.metadata
        self.size = stored.size
        self._stored = stored
        self._run = run
        self._is_open = True
        # The end of what was read in one go from the start, and its CRC-32.
        self._read_to = 0
        self._checksum = 0

    async def read(self, offset: int, max_bytes: int) -> bytes:
        if not self._is_open:
            raise StorageError("this snapshot is closed")
        if offset >= self.size:
            await trio.lowlevel.checkpoint()
            return b""
        data = (await self._run(lambda database: database.read_snapshot(self._stored, offset)))[:max_bytes]
        if offset == self._read_to:
            self._read_to += len(data)
            self._checksum = zlib.crc32(data, self._checksum)
            if self._read_to == self.size and self._checksum != self._stored.checksum:
                raise LogCorrupt(f"the snapshot as a whole fails its checksum; {ADVICE}")
        return data

    async def aclose(self) -> None:
        if not self._is_open:
            await trio.lowlevel.checkpoint()
            return
        self._is_open = False
        await self._run(lambda database: database.close_snapshot(self._stored))

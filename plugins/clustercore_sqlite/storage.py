"""The storage contract over one SQLite file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import trio

from clustercore.interfaces import (
    Entry,
    HardState,
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
from clustercore_sqlite.errors import ADVICE
from clustercore_sqlite.guarded import GuardedFile
from clustercore_sqlite.records import StoredSnapshot

__all__ = ["SqliteStorage"]

T = TypeVar("T")


class SqliteStorage(GuardedFile[Database], Storage):
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

    database_class = Database

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

"""A storage that lasts as long as its object.

To open the object again shows what was written before: so a test restarts a node. It keeps every rule of the contract
but one, durability, and checks what it is asked more closely than a disk could, because its callers are being tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import trio

from clustercore.interfaces import (
    BytesSnapshotReader,
    Entry,
    HardState,
    InvariantError,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    SnapshotReader,
    Storage,
    StorageError,
    StorageIdentity,
    StoredState,
)

__all__ = ["MemoryStorage"]


class MemoryStorage(Storage):
    """Keeps everything in memory. For tests and examples: a cluster of these forgets its votes when a process dies.

    Raises:
        InvariantError: from ``append`` and ``install_snapshot``, if they would leave a gap in the log or take it back
            behind the snapshot; nothing is changed.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._identity: StorageIdentity | None = None
        self._hard_state = HardState()
        self._snapshot: SnapshotMetadata | None = None
        self._snapshot_data = b""
        # Snapshots that are being stored, with what there is of each.
        self._drafts: dict[SnapshotId, tuple[SnapshotMetadata, bytearray]] = {}
        # Consecutive by index.
        self._entries: list[Entry] = []

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        if self._is_open:
            raise StorageError("this memory storage is open already; each node needs one of its own")
        self._is_open = True
        self._drafts.clear()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False

    async def load(self) -> StoredState:
        await self._begin()
        return StoredState(self._hard_state, self._snapshot, tuple(self._entries), self._identity)

    async def save_identity(self, identity: StorageIdentity) -> None:
        await self._begin()
        self._identity = identity

    async def save_hard_state(self, hard_state: HardState) -> None:
        await self._begin()
        self._hard_state = hard_state

    async def append(self, entries: Sequence[Entry]) -> None:
        await self._begin()
        self._check_appendable(entries)
        kept = self._count_below(entries[0].index)
        self._entries[kept:] = entries

    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await self._begin()
        if offset == 0:
            self._drafts[metadata.snapshot_id] = (metadata, bytearray())
        draft = self._draft_of(metadata)
        if len(draft) != offset:
            raise InvariantError(f"a part of a snapshot at {offset} does not follow the {len(draft)} bytes there are")
        draft += data

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        await self._begin()
        self._check_snapshot(metadata, keep_from)
        data = bytes(self._draft_of(metadata))
        dropped = len(self._entries) if keep_from is None else self._count_below(keep_from)
        self._snapshot, self._snapshot_data = metadata, data
        del self._entries[:dropped]
        covered = metadata.last_included_index
        self._drafts = {name: draft for name, draft in self._drafts.items() if draft[0].last_included_index > covered}

    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._begin()
        self._drafts.pop(snapshot_id, None)

    async def open_snapshot(self) -> SnapshotReader | None:
        await self._begin()
        return None if self._snapshot is None else BytesSnapshotReader(self._snapshot, self._snapshot_data, self._begin)

    def _draft_of(self, metadata: SnapshotMetadata) -> bytearray:
        draft = self._drafts.get(metadata.snapshot_id)
        if draft is None or draft[0] != metadata:
            raise InvariantError(f"no part of snapshot {metadata.snapshot_id!r} was written")
        return draft[1]

    async def _begin(self) -> None:
        """Be the checkpoint of every method, before anything is changed: what follows cannot be cancelled."""
        await trio.lowlevel.checkpoint()
        if not self._is_open:
            raise StorageError("this memory storage is not open; use it inside `async with storage`")

    @property
    def _covered_index(self) -> int:
        return self._snapshot.last_included_index if self._snapshot else 0

    @property
    def _last_index(self) -> int:
        return max(self._entries[-1].index if self._entries else 0, self._covered_index)

    def _count_below(self, index: int) -> int:
        """Return how many stored entries come before ``index``."""
        if not self._entries:
            return 0
        return min(max(index - self._entries[0].index, 0), len(self._entries))

    def _check_appendable(self, entries: Sequence[Entry]) -> None:
        indexes = [entry.index for entry in entries]
        if not indexes or indexes != list(range(indexes[0], indexes[0] + len(indexes))):
            raise InvariantError(f"append needs entries that are consecutive by index, not {indexes}")
        if not self._covered_index < indexes[0] <= self._last_index + 1:
            raise InvariantError(
                f"entry {indexes[0]} cannot be appended: the snapshot ends at {self._covered_index}, "
                f"the log at {self._last_index}"
            )

    def _check_snapshot(self, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
        covered = metadata.last_included_index
        if covered <= self._covered_index:
            raise InvariantError(f"a snapshot up to {covered} cannot replace one up to {self._covered_index}")
        if keep_from is not None and (keep_from > covered + 1 or keep_from <= self._last_index < covered):
            raise InvariantError(
                f"keeping the log from {keep_from} beside a snapshot up to {covered} would leave a gap: "
                f"the log ends at {self._last_index}"
            )

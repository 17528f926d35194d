"""Storage: what a node must remember.

A storage holds four things: whose it is, the hard state (term and vote), the log, and one snapshot. The node calls one
method at a time, in the order in which the core asked for the writes. A snapshot may be larger than memory: it is
written in parts and read in parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import attrs
import trio

from clustercore.interfaces.errors import StorageError
from clustercore.raft.entry import Entry
from clustercore.raft.types import HardState, LogIndex, NodeId, SnapshotId, SnapshotMetadata

__all__ = ["BytesSnapshotReader", "SnapshotReader", "Storage", "StorageIdentity", "StoredState"]


@attrs.frozen
class StorageIdentity:
    """What tells one storage from every other, and one start of a node on it from the next.

    A node whose disk was wiped has a new incarnation. One whose disk was copied, or put back to what it once was, has
    an incarnation that was seen with more starts. Either has forgotten what it promised.
    """

    # Whose storage it is; it serves no other node.
    node_id: NodeId
    # Made once, with the first start: nobody else's.
    incarnation: str
    # How often a node was started on it, the present time included.
    starts: int
    # The cluster it belongs to; empty until that has formed, and never changed after that.
    cluster_id: str = ""
    # The longest election timeout, in seconds, with which a node on it may still be protecting a leader that it heard.
    # A node that comes back with a shorter one keeps that promise first. 0 if none is known.
    election_timeout_s: float = 0.0


@attrs.frozen
class StoredState:
    """All that a node remembers when it starts."""

    hard_state: HardState = attrs.field(factory=HardState)
    # Its bytes are for ``open_snapshot``.
    snapshot: SnapshotMetadata | None = None
    # Consecutive by index. The first is at most one past the snapshot's last_included_index; 1 without a snapshot.
    entries: tuple[Entry, ...] = ()
    # None until a node was started on it; also on a storage that an older version made.
    identity: StorageIdentity | None = None


class SnapshotReader(ABC):
    """A stored snapshot, open for reading. It stays readable until it is closed, whatever is stored meanwhile.

    It counts as a part of its storage: one call at a time, of both together, and none after the storage is closed. A
    few are open at once: one for each peer that is being sent one, and one to restore from.
    """

    metadata: SnapshotMetadata
    # How many bytes it has; 0 or more.
    size: int

    @abstractmethod
    async def read(self, offset: int, max_bytes: int) -> bytes:
        """Read from ``offset`` on: at least one byte, at most ``max_bytes``; nothing only at the end.

        What it returns has passed its checksum. Read from 0 to the end, the whole has too.

        Raises: LogCorrupt if it is damaged; StorageError.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of it: once a newer one is stored, its space is free. Closing again changes nothing."""


class BytesSnapshotReader(SnapshotReader):
    """Holds the bytes that were stored when it was opened, for a storage that has them in memory or reads them whole.

    Args:
        metadata: What they are a snapshot of.
        data: They themselves, which have passed their checksum.
        begin: Called before each reading; it raises StorageError where the storage is of no use any more.
    """

    def __init__(self, metadata: SnapshotMetadata, data: bytes, begin: Callable[[], Awaitable[None]]) -> None:
        self.metadata = metadata
        self.size = len(data)
        self._data = data
        self._begin = begin
        self._is_open = True

    async def read(self, offset: int, max_bytes: int) -> bytes:
        """See ``SnapshotReader``."""
        await self._begin()
        if not self._is_open:
            raise StorageError("this snapshot is closed")
        return self._data[offset : offset + max_bytes]

    async def aclose(self) -> None:
        """See ``SnapshotReader``."""
        self._is_open = False
        await trio.lowlevel.checkpoint()


class Storage(ABC):
    """Keeps a node's identity, hard state, log and snapshot across restarts and power cuts.

    Life: ``async with storage:`` opens it, and checks what it finds; everything else is called inside. At most one
    process has it open. Its constructor's parameters are its options in a configuration file.

    Durability: when a method that writes returns, what it wrote survives a power cut. When it raises StorageError or is
    cut off by a crash, what it was to write is there wholly, or not at all, or (``append`` only) up to some entry; what
    was durable before, except what the write replaces, is untouched. After a StorageError the node never calls again: a
    failed fsync must not be retried, because the kernel may have dropped the pages and report success the next time
    (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).

    Cancellation: a write may raise Cancelled before it starts, never after; then it is finished, and its result
    reported. The node does not cancel writes except when it stops.

    A call that breaks a rule below (a gap in the log, a part that does not follow, a snapshot that is not newer) is the
    caller's bug: it raises InvariantError and changes nothing. One outside of the block raises StorageError.

    ``clustercore.testing.conformance.StorageConformance`` tests all of this.
    """

    async def __aenter__(self) -> Self:
        """Open.

        Raises:
            StorageError: it cannot be opened, or another process has it open.
            LogCorrupt: what is stored fails its checks.
        """
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. Nothing that was durable depends on it."""
        return None

    @abstractmethod
    async def load(self) -> StoredState:
        """Read everything but the bytes of the snapshot. Called once, after opening.

        Raises: LogCorrupt if an entry, what is known of the snapshot or the hard state is damaged, or entries are
            missing between others; StorageError if the disk refuses.
        """

    @abstractmethod
    async def save_identity(self, identity: StorageIdentity) -> None:
        """Make durable whose storage this is, replacing what was said before.

        Called by: the node, once at each start before any other write, and once when its cluster is known.
        Raises: StorageFull, StorageError.
        """

    @abstractmethod
    async def save_hard_state(self, hard_state: HardState) -> None:
        """Make term and vote durable, replacing those before.

        Raises: StorageFull, StorageError.
        """

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> None:
        """Make ``entries`` durable at the end of the log, replacing any suffix from the first one's index on.

        Args:
            entries: One or more, consecutive by index; the first is at most one past the last stored, and above the
                snapshot's ``last_included_index``.

        Raises: StorageFull, StorageError.
        """

    @abstractmethod
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        """Add a part to a snapshot that is being stored, beside the one that is stored.

        Two can be under way at once, told apart by their ``snapshot_id``: this node's own, and one from its leader.

        Args:
            metadata: The same for each part.
            offset: Where the part begins: at the end of those before. At 0 the snapshot begins anew.
            data: At most a few MiB. Empty only for a snapshot without bytes.

        Durability: none; ``install_snapshot`` makes all parts durable. What is not installed is dropped when the
            storage is opened again, or by ``discard_snapshot``.
        Raises: StorageFull, StorageError.
        """

    @abstractmethod
    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        """Put the snapshot whose parts were written in place of the stored one, and drop the log it replaces.

        All of it is one atomic step: after a crash there is the old snapshot with the old log, or the new with the new.
        Others under way that cover no more than this one are dropped too.

        Args:
            metadata: As at its parts, of which there is at least one. It covers more than the stored one.
            keep_from: The first log index that stays; entries below it are dropped. At most one past
                ``last_included_index``; lower keeps a tail for slow followers. None drops the whole log.

        Raises: StorageFull, StorageError.
        """

    @abstractmethod
    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Drop the parts of a snapshot that is not installed. One that is not there, or is, changes nothing.

        Raises: StorageError.
        """

    @abstractmethod
    async def open_snapshot(self) -> SnapshotReader | None:
        """Open the stored snapshot for reading. None if there is none.

        Raises: LogCorrupt, StorageError.
        """

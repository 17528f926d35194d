"""The one task that uses the storage: it carries out writes in the order the core asked for them.

While one write is under way the next ones gather, and are then done as one (group commit). What a write makes safe to
say leaves when the core hears of it, never before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from clustercore.interfaces.storage import Storage, StorageIdentity
from clustercore.raft.effects import PersistEntries, PersistHardState, PersistSnapshot, PersistSnapshotChunk
from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, SnapshotId, SnapshotMetadata, WriteId
from clustercore.runtime.signals import Wakeup

__all__ = ["SaveIdentity", "StorageCall", "StorageJob", "Writer"]

T = TypeVar("T")


@attrs.frozen
class StorageCall:
    """Anything else that uses the storage, in turn with the writes."""

    call: Callable[[Storage], Awaitable[None]]


@attrs.frozen
class SaveIdentity:
    """Make durable who this node is. Nothing waits for it: without it, the log tells the same again."""

    identity: StorageIdentity


StorageJob = PersistHardState | PersistEntries | PersistSnapshotChunk | PersistSnapshot | StorageCall | SaveIdentity


class Writer:
    """Carries out storage jobs, in order.

    Its queue is bounded by what fills it: proposals are bounded, a leader's window to each follower is, snapshots are
    taken one at a time, and their chunks stored, sent and received one at a time.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        snapshot_index: LogIndex,
        on_durable: Callable[[WriteId], None],
    ) -> None:
        self._storage = storage
        # What the stored snapshot covers.
        self._snapshot_index = snapshot_index
        # The leader's snapshot of which parts are stored.
        self._receiving: SnapshotId | None = None
        self._on_durable = on_durable
        # When a write was last made durable, on Trio's clock: at first, when the writer began.
        self.durable_at = -math.inf
        # Since when there has been work without any of it being done; None if there is none.
        self._busy_since: float | None = None
        self._jobs: deque[StorageJob] = deque()
        self._wakeup = Wakeup()

    def post(self, job: StorageJob) -> None:
        """Queue a job."""
        self._jobs.append(job)
        self._wakeup.set()

    def wait_s(self, now: float) -> float:
        """Return for how many seconds there has been work without any of it being done; 0 if there is none."""
        return 0.0 if self._busy_since is None else now - self._busy_since

    async def use(self, operation: Callable[[Storage], Awaitable[T]]) -> T:
        """Carry out an operation in turn with the writes, and return its result.

        If it fails, the writer does, and with it the node: this call then never returns.

        Cancellation: the operation is carried out all the same.
        """
        results: list[T] = []
        done = trio.Event()

        async def call(storage: Storage) -> None:
            results.append(await operation(storage))
            done.set()

        self.post(StorageCall(call))
        await done.wait()
        return results[0]

    async def write_own_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> bool:
        """Store a part of this node's own snapshot; return False if a leader's newer one was stored meanwhile."""

        async def write(storage: Storage) -> bool:
            if metadata.last_included_index <= self._snapshot_index:
                return False
            await storage.write_snapshot_chunk(metadata, offset, data)
            return True

        return await self.use(write)

    async def install_own(self, metadata: SnapshotMetadata, keep_from: LogIndex) -> bool:
        """Make this node's own snapshot the stored one; return False if a leader's newer one was stored meanwhile."""

        async def install(storage: Storage) -> bool:
            if metadata.last_included_index <= self._snapshot_index:
                return False
            await self._install(metadata, keep_from)
            return True

        return await self.use(install)

    async def run(self) -> None:
        """Work until cancelled or until the storage fails.

        Raises: StorageError. Nothing that depended on the failed write has been said, or will be.
        """
        self.durable_at = trio.current_time()
        while True:
            await self._wakeup.wait()
            self._busy_since = trio.current_time()
            while self._jobs:
                await self._do_next()
                self.durable_at = self._busy_since = trio.current_time()
            self._busy_since = None

    async def _do_next(self) -> None:
        job = self._jobs[0]
        if isinstance(job, PersistHardState | PersistEntries):
            await self._write_joined(self._take_joinable())
            return
        self._jobs.popleft()
        match job:
            case PersistSnapshotChunk():
                await self._write_received(job)
                self._on_durable(job.write_id)
            case PersistSnapshot():
                await self._install(job.metadata, job.keep_from)
                self._on_durable(job.write_id)
            case StorageCall():
                await job.call(self._storage)
            case SaveIdentity():
                await self._storage.save_identity(job.identity)

    def _take_joinable(self) -> list[PersistHardState | PersistEntries]:
        taken: list[PersistHardState | PersistEntries] = []
        while self._jobs:
            job = self._jobs[0]
            if not isinstance(job, PersistHardState | PersistEntries):
                break
            taken.append(job)
            self._jobs.popleft()
        return taken

    async def _write_joined(self, jobs: list[PersistHardState | PersistEntries]) -> None:
        """Do several writes as one of each kind; nobody hears of any before all are durable.

        The hard state goes first, so that no entry on disk is ever of a later term than the stored one.
        """
        hard_states = [job.hard_state for job in jobs if isinstance(job, PersistHardState)]
        runs = [job.entries for job in jobs if isinstance(job, PersistEntries)]
        if hard_states:
            await self._storage.save_hard_state(hard_states[-1])
        if runs:
            await self._storage.append(_join(runs))
        self._on_durable(jobs[-1].write_id)

    async def _write_received(self, job: PersistSnapshotChunk) -> None:
        metadata = job.metadata
        if metadata.last_included_index <= self._snapshot_index:
            # This node has caught up in another way, and has a newer snapshot of its own. The core knows by now.
            return
        if self._receiving not in (None, metadata.snapshot_id):
            await self._storage.discard_snapshot(self._receiving)
        self._receiving = metadata.snapshot_id
        await self._storage.write_snapshot_chunk(metadata, job.offset, job.data)

    async def _install(self, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
        await self._storage.install_snapshot(metadata, keep_from=keep_from)
        self._snapshot_index = metadata.last_included_index


def _join(runs: list[tuple[Entry, ...]]) -> list[Entry]:
    """Join runs of entries, each written after those before it, into the one run that has the same effect."""
    joined = list(runs[0])
    for run in runs[1:]:
        keep = max(0, run[0].index - joined[0].index)
        del joined[keep:]
        joined.extend(run)
    return joined

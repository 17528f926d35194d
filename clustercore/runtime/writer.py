"""The one task that uses the storage: it carries out writes in the order the core asked for them.

While one write is under way the next ones gather, and are then done as one (group commit). What a write makes safe to
say leaves when the core hears of it, never before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from clustercore.interfaces.storage import Storage, StorageIdentity
from clustercore.raft.effects import PersistEntries, PersistHardState, PersistSnapshot
from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, Snapshot, WriteId
from clustercore.runtime.signals import Wakeup

__all__ = ["OwnSnapshot", "ReadSnapshot", "SaveIdentity", "StorageJob", "Writer"]


@attrs.frozen
class OwnSnapshot:
    """Make a snapshot of this node's own state machine durable."""

    snapshot: Snapshot
    keep_from: LogIndex


@attrs.frozen
class ReadSnapshot:
    """Read the stored snapshot and hand it on, if there is one."""

    on_read: Callable[[Snapshot], None]


@attrs.frozen
class SaveIdentity:
    """Make durable who this node is. Nothing waits for it: without it, the log tells the same again."""

    identity: StorageIdentity


StorageJob = PersistHardState | PersistEntries | PersistSnapshot | OwnSnapshot | ReadSnapshot | SaveIdentity


class Writer:
    """Carries out storage jobs, in order.

    Its queue is bounded by what fills it: proposals are bounded, a leader's window to each follower is, and snapshots
    are taken one at a time.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        snapshot_index: LogIndex,
        on_durable: Callable[[WriteId], None],
        on_snapshot_saved: Callable[[LogIndex, LogIndex], None],
    ) -> None:
        self._storage = storage
        self._snapshot_index = snapshot_index
        self._on_durable = on_durable
        self._on_snapshot_saved = on_snapshot_saved
        self._jobs: deque[StorageJob] = deque()
        self._wakeup = Wakeup()

    def post(self, job: StorageJob) -> None:
        """Queue a job."""
        self._jobs.append(job)
        self._wakeup.set()

    async def run(self) -> None:
        """Work until cancelled or until the storage fails.

        Raises: StorageError. Nothing that depended on the failed write has been said, or will be.
        """
        while True:
            await self._wakeup.wait()
            while self._jobs:
                job = self._jobs[0]
                if isinstance(job, PersistHardState | PersistEntries):
                    await self._write_joined(self._take_joinable())
                    continue
                self._jobs.popleft()
                match job:
                    case PersistSnapshot():
                        await self._save_snapshot(job.snapshot, job.keep_from)
                        self._on_durable(job.write_id)
                    case OwnSnapshot():
                        await self._save_own_snapshot(job)
                    case ReadSnapshot():
                        snapshot = await self._storage.load_snapshot()
                        if snapshot is not None:
                            job.on_read(snapshot)
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

    async def _save_own_snapshot(self, job: OwnSnapshot) -> None:
        # A leader's newer snapshot may have been stored since this one was taken.
        if job.snapshot.last_included_index > self._snapshot_index:
            await self._save_snapshot(job.snapshot, job.keep_from)
            self._on_snapshot_saved(job.snapshot.last_included_index, job.keep_from)

    async def _save_snapshot(self, snapshot: Snapshot, keep_from: LogIndex | None) -> None:
        await self._storage.save_snapshot(snapshot, keep_from=keep_from)
        self._snapshot_index = snapshot.last_included_index


def _join(runs: list[tuple[Entry, ...]]) -> list[Entry]:
    """Join runs of entries, each written after those before it, into the one run that has the same effect."""
    joined = list(runs[0])
    for run in runs[1:]:
        keep = max(0, run[0].index - joined[0].index)
        del joined[keep:]
        joined.extend(run)
    return joined

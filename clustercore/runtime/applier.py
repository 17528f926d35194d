"""The one task that touches the state machine's state: it applies what is committed, in order, and takes snapshots."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

import trio

from clustercore.interfaces.errors import InvalidCommand, NodeStopped, StateMachineError
from clustercore.raft.configuration import decode_configuration
from clustercore.raft.effects import Apply, RestoreSnapshot
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import Configuration, LogIndex, Snapshot
from clustercore.runtime.replicated_state import (
    ReplicatedState,
    VersionNotUnderstood,
    join_snapshot,
    split_snapshot,
)
from clustercore.runtime.session_entries import MalformedOperation
from clustercore.runtime.signals import Wakeup

__all__ = ["Applier", "restore"]

# Entries applied between two checkpoints. At tens of microseconds each, heartbeats are not kept waiting for long.
ENTRIES_PER_CHECKPOINT = 128


class Applier:
    """Applies committed entries and takes a snapshot every so many.

    Its queue holds entries that are in the log anyway, so the log's bound is its bound.
    """

    def __init__(
        self,
        state: ReplicatedState,
        *,
        last_applied: LogIndex,
        snapshot_entries: int,
        on_applied: Callable[[Entry, bytes], None],
        on_snapshot: Callable[[Snapshot], None],
        on_members: Callable[[Configuration], None],
    ) -> None:
        """Prepare; ``run`` makes it live. It holds what the entries up to ``last_applied`` made."""
        self._state = state
        self._last_applied = last_applied
        self._snapshot_index = last_applied
        self._snapshot_entries = snapshot_entries
        self._on_applied = on_applied
        self._on_snapshot = on_snapshot
        self._on_members = on_members
        self._jobs: deque[Apply | RestoreSnapshot] = deque()
        self._wakeup = Wakeup()
        # Who waits for an index to be applied, the lowest first; the number in the middle keeps equal ones in order.
        self._waiting: list[tuple[LogIndex, int, trio.Event]] = []
        self._waits = 0
        self._is_stopped = False

    @property
    def last_applied(self) -> LogIndex:
        """The last entry whose effect is in the state machine (Raft Figure 2)."""
        return self._last_applied

    def post(self, job: Apply | RestoreSnapshot) -> None:
        """Queue a job."""
        self._jobs.append(job)
        self._wakeup.set()

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until the entry at ``index`` is applied.

        Raises: NodeStopped.
        """
        if self._last_applied < index and not self._is_stopped:
            self._waits += 1
            applied = trio.Event()
            heapq.heappush(self._waiting, (index, self._waits, applied))
            await applied.wait()
        if self._last_applied < index:
            raise NodeStopped("the node has stopped; nothing was read")

    def query(self, query: bytes) -> tuple[bytes, LogIndex]:
        """Ask the state machine; return its answer and the last entry applied before.

        Raises: InvalidCommand if it can never answer; StateMachineError if it raised anything else.
        """
        try:
            return self._state.machine.query(query), self._last_applied
        except InvalidCommand:
            raise
        except Exception as error:
            raise StateMachineError(
                self._last_applied, f"the state machine raised {error!r} from query; nothing was changed"
            ) from error

    def stop(self) -> None:
        """End every wait with NodeStopped."""
        self._is_stopped = True
        for _, _, applied in self._waiting:
            applied.set()

    async def run(self) -> None:
        """Work until cancelled.

        Raises: StateMachineError if the machine raised; its state can no longer be trusted to be everyone's.
        """
        while True:
            await self._wakeup.wait()
            while self._jobs:
                job = self._jobs.popleft()
                if isinstance(job, RestoreSnapshot):
                    self._restore(job.snapshot)
                    continue
                for start in range(0, len(job.entries), ENTRIES_PER_CHECKPOINT):
                    if start:
                        await trio.lowlevel.checkpoint()
                    for entry in job.entries[start : start + ENTRIES_PER_CHECKPOINT]:
                        self._apply(entry)
                    self._wake_waiting()

    def _wake_waiting(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._last_applied:
            heapq.heappop(self._waiting)[2].set()

    def _apply(self, entry: Entry) -> None:
        try:
            result = self._state.apply(entry)
        except (VersionNotUnderstood, MalformedOperation) as error:
            raise StateMachineError(
                entry.index,
                f"the entry at index {entry.index} was written by a newer version, and cannot be left out: {error}",
            ) from error
        except Exception as error:
            raise StateMachineError(
                entry.index,
                f"the state machine raised {error!r} for the command at index {entry.index}; apply must not raise, "
                "as every node would meet the same command. Mend the machine, then start the node again",
            ) from error
        self._last_applied = entry.index
        self._on_applied(entry, result)
        if entry.kind is EntryKind.CONFIGURATION:
            self._on_members(decode_configuration(entry.command))
        if entry.index - self._snapshot_index >= self._snapshot_entries:
            self._snapshot_index = entry.index
            self._on_snapshot(Snapshot(entry.index, entry.term, self._take_snapshot(entry.index)))

    def _take_snapshot(self, index: LogIndex) -> bytes:
        try:
            return join_snapshot(self._state.preamble(), self._state.machine.snapshot())
        except Exception as error:
            raise StateMachineError(index, f"the state machine raised {error!r} from snapshot at {index}") from error

    def _restore(self, snapshot: Snapshot) -> None:
        restore(self._state, snapshot)
        self._last_applied = self._snapshot_index = snapshot.last_included_index
        self._on_members(snapshot.configuration)
        self._wake_waiting()


def restore(state: ReplicatedState, snapshot: Snapshot) -> None:
    """Put a snapshot's state in place of what there is.

    Raises: StateMachineError if it cannot be read.
    """
    try:
        preamble, machine_bytes = split_snapshot(snapshot.data)
        state.restore_preamble(preamble)
        state.machine.restore(machine_bytes)
    except Exception as error:
        raise StateMachineError(
            snapshot.last_included_index,
            f"the state machine could not read the snapshot up to index {snapshot.last_included_index}: {error!r}",
        ) from error

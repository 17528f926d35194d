"""The one task that touches the state machine's state: it applies what is committed, in order, and takes snapshots."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence

import trio

from clustercore.interfaces.errors import InvalidCommand, NodeStopped, StateMachineError
from clustercore.interfaces.state_machine import SnapshotHandle
from clustercore.raft.configuration import decode_configuration
from clustercore.raft.effects import Apply, RestoreSnapshot
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import NO_TERM, Configuration, LogIndex
from clustercore.runtime.replicated_state import ReplicatedState, VersionNotUnderstood
from clustercore.runtime.session_entries import MalformedOperation
from clustercore.runtime.signals import Wakeup
from clustercore.runtime.snapshot_stream import Source
from clustercore.runtime.snapshots import Snapshots

__all__ = ["Applier"]

# Entries applied between two checkpoints. At tens of microseconds each, heartbeats are not kept waiting for long.
ENTRIES_PER_CHECKPOINT = 128

# Looked up once and not for each entry: to find a member of an enumeration takes as long as to note an entry applied.
_CONFIGURATION = EntryKind.CONFIGURATION


class Applier:
    """Applies committed entries and takes a snapshot every so many entries or bytes of them.

    Its queue holds entries that are in the log anyway, so the log's bound is its bound.
    """

    def __init__(
        self,
        state: ReplicatedState,
        *,
        last_applied: LogIndex,
        snapshot_entries: int,
        snapshot_bytes: int,
        on_applied: Callable[[Entry, bytes], None],
        snapshots: Snapshots,
        on_members: Callable[[Configuration], None],
    ) -> None:
        """Prepare; ``run`` makes it live. It holds what the entries up to ``last_applied`` made."""
        self._state = state
        self._last_applied = last_applied
        self._snapshot_entries = snapshot_entries
        self._snapshot_bytes = snapshot_bytes
        # The term of the last entry applied here.
        self._term_applied = NO_TERM
        # Applied since the last snapshot was taken.
        self._entries_since = 0
        self._bytes_since = 0
        # Applied since other tasks last had a turn.
        self._unyielded = 0
        self._on_applied = on_applied
        self._snapshots = snapshots
        self._on_members = on_members
        self._jobs: deque[Apply | RestoreSnapshot] = deque()
        self._wakeup = Wakeup()
        # Who waits for an index to be applied, the lowest first; the number in the middle keeps equal ones in order.
        self._waiting: list[tuple[LogIndex, int, trio.Event]] = []
        self._waits = 0
        self._is_stopped = False
        # Whether the state is being replaced by a snapshot's, and what is set when it was, or never will be.
        self._is_restoring = False
        self._restored = trio.Event()

    @property
    def last_applied(self) -> LogIndex:
        """The last entry whose effect is in the state machine (Raft Figure 2)."""
        return self._last_applied

    def post(self, job: Apply | RestoreSnapshot) -> None:
        """Queue a job."""
        self._jobs.append(job)
        self._wakeup.set()

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until the entry at ``index`` is applied, and no snapshot is being restored: the state can be asked.

        Raises: NodeStopped.
        """
        while not self._is_stopped and (self._last_applied < index or self._is_restoring):
            if self._is_restoring:
                await self._restored.wait()
                continue
            self._waits += 1
            applied = trio.Event()
            heapq.heappush(self._waiting, (index, self._waits, applied))
            await applied.wait()
        if self._last_applied < index or self._is_restoring:
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
        self._restored.set()
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
                    await self._restore(job.metadata.last_included_index)
                else:
                    await self._apply_all(job.entries)

    async def _apply_all(self, entries: Sequence[Entry]) -> None:
        # The snapshot that was restored last may have been newer than the one that was meant.
        entries = entries[max(0, self._last_applied + 1 - entries[0].index) :]
        while entries:
            entries = entries[self._apply_some(entries) :]
            if self._is_snapshot_due and not self._snapshots.is_busy:
                await self._take_snapshot()
            if self._unyielded >= ENTRIES_PER_CHECKPOINT:
                # Counted over all jobs: a long queue of short ones is as long.
                self._unyielded = 0
                self._wake_waiting()
                await trio.lowlevel.checkpoint()
        self._wake_waiting()

    def _apply_some(self, entries: Sequence[Entry]) -> int:
        """Apply entries until a snapshot is due, or it is other tasks' turn; return how many."""
        room = ENTRIES_PER_CHECKPOINT - self._unyielded
        bytes_left: float = self._snapshot_bytes - self._bytes_since
        if self._snapshots.is_busy:
            # It stays so until other tasks had their turn, and the next one is not due before it ends.
            bytes_left = math.inf
        else:
            room = min(room, self._snapshot_entries - self._entries_since)
        size = 0
        for count, entry in enumerate(entries, 1):  # there is one at least
            self._apply(entry)
            size += len(entry.encoded)
            if count >= room or size >= bytes_left:
                break
        self._term_applied = entry.term
        self._unyielded += count
        self._entries_since += count
        self._bytes_since += size
        return count

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
        if entry.kind is _CONFIGURATION:
            self._on_members(decode_configuration(entry.command))

    @property
    def _is_snapshot_due(self) -> bool:
        return self._entries_since >= self._snapshot_entries or self._bytes_since >= self._snapshot_bytes

    async def _take_snapshot(self) -> None:
        """Take a snapshot of the state after the last entry applied."""
        index = self._last_applied
        try:
            preamble = self._state.preamble()
            source: Source = self._state.machine.snapshot()
        except Exception as error:
            raise StateMachineError(index, f"the state machine raised {error!r} from snapshot at {index}") from error
        self._entries_since = self._bytes_since = 0
        self._snapshots.take(index, self._term_applied, source, preamble)
        if not isinstance(source, bytes | SnapshotHandle):
            # Its parts are made from the state as it is, which must stay as it is until the last one. It can be asked.
            self._wake_waiting()
            await self._snapshots.wait_idle()

    async def _restore(self, index: LogIndex) -> None:
        if index <= self._last_applied:
            # The one that was restored last was newer than the one that was meant.
            return
        await self._snapshots.give_up()
        self._is_restoring, self._restored = True, trio.Event()
        metadata = await self._snapshots.restore(self._state, index)
        self._last_applied = metadata.last_included_index
        self._is_restoring = False
        self._restored.set()
        self._entries_since = self._bytes_since = 0
        self._on_members(metadata.configuration)
        self._wake_waiting()

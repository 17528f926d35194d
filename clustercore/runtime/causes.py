"""Why a node's role changed, in words: for the log, so that an election nobody expected can be explained afterwards.

The core says only what it became. What it went by is known around it: whose message it was given, or who had been
silent for how long; and whether this node was itself the one that stood still.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces.values import RoleChange
from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import AppendEntriesRequest, InstallSnapshotRequest, RaftMessage, TimeoutNowRequest
from clustercore.raft.state import RaftState
from clustercore.raft.types import NodeId, Role

__all__ = ["Cause", "Causes", "LoopStalls"]

# Stalls are told for so many election timeouts: what led to an election lies that far back at the most.
_TOLD_FOR = 3
# More than one is seldom told. With so many, the longest of a bad minute is among them.
_REMEMBERED = 64


class LoopStalls(trio.abc.Instrument):
    """Notices when the event loop does not turn: a task that computes or blocks, or a process that gets no processor.

    Trio tells it before and after each wait for I/O. What lies between two waits, the tasks took; and a wait that took
    longer than it was to, the process was not run.
    """

    def __init__(self, noticed_s: float, *, real_time: Callable[[], float] = time.perf_counter) -> None:
        """Notice what takes longer than ``noticed_s`` seconds, on Trio's clock and by ``real_time``.

        Where the clock is simulated it jumps while nothing happens, which is no stall.
        """
        self._noticed_s = noticed_s
        self._real_time = real_time
        # From when on the loop is late, by either clock.
        self._due_at = self._really_due_at = math.inf
        # When each ended, and how long it took.
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def before_io_wait(self, timeout: float) -> None:
        """Take note that the tasks have run."""
        self._look(timeout)

    def after_io_wait(self, timeout: float) -> None:
        """Take note that the tasks are about to run."""
        self._look(0.0)

    def _look(self, allowed_s: float) -> None:
        now, really = trio.current_time(), self._real_time()
        late_s = min(now - self._due_at, really - self._really_due_at)
        if late_s > self._noticed_s:
            self._stalls.append((now, late_s))
        self._due_at, self._really_due_at = now + allowed_s, really + allowed_s

    def longest_s(self, since: float) -> float:
        """Return how long the longest stall was that ended at ``since`` or later, in seconds; 0 if there was none."""
        return max((late_s for ended_at, late_s in self._stalls if ended_at >= since), default=0.0)


@attrs.frozen
class Cause:
    """Why a role changed, as far as it is known."""

    # Empty where there is nothing to tell: a follower heard of its leader.
    text: str
    # Whether something is not as it should be.
    is_trouble: bool = False


class Causes:
    """Keeps what the core is given, as long as it may be asked for."""

    def __init__(self, config: RaftConfig, *, stalls: LoopStalls, write_wait_s: Callable[[float], float]) -> None:
        """Know nothing yet.

        Args:
            config: How long an election takes.
            stalls: Whether this node stood still.
            write_wait_s: Tells how long writes have been waiting without one being done, in seconds.
        """
        self._config = config
        self._stalls = stalls
        self._write_wait_s = write_wait_s
        # When the leader was last heard, on Trio's clock.
        self._leader_heard_at: float | None = None
        self._sender = NodeId("")
        self._message: RaftMessage | None = None
        # When each follower was last heard, if the time has come to look whether they are a majority.
        self._contacts: dict[NodeId, float] = {}
        self._had_transfer = False

    def received(self, sender: NodeId, message: RaftMessage) -> None:
        """Note that the core is given a message."""
        self._sender, self._message = sender, message
        self._contacts = {}

    def leader_heard(self, message: RaftMessage, state: RaftState, now: float) -> None:
        """Note, after the core took it, whether that was the leader's word."""
        if isinstance(message, AppendEntriesRequest | InstallSnapshotRequest) and message.leader_id == state.leader_id:
            self._leader_heard_at = now

    def write_done(self) -> None:
        """Note that the core is told that a write is done."""
        self._message = None
        self._contacts = {}

    def time_passes(self, state: RaftState) -> None:
        """Note that the core is told the time."""
        self._message = None
        self._contacts = {peer: progress.last_contact for peer, progress in state.progress.items()}
        self._had_transfer = state.transfer is not None

    def hand_over(self, state: RaftState, now: float) -> str:
        """Say, after the core was told the time, whether it hands over because of its disk; empty if it does not."""
        if self._had_transfer or state.transfer is None:
            return ""
        wait_s = now - max(state.oldest_log_write_since, state.log_write_done_at)
        return f"hands over to {state.transfer.target}: its disk has kept a write of the log waiting for {wait_s:.2f} s"

    def of(self, before: RoleChange, after: RoleChange, now: float) -> Cause:
        """Say why the role became what it is."""
        if before.role is Role.LEADER and after.term == before.term:
            return self._of_stepping_down(now)
        if after.role is Role.PRE_CANDIDATE:
            return Cause(f"{self._silence_of_leader(now)}{self._of_its_own(now)}")
        if after.role is Role.CANDIDATE:
            is_told = isinstance(self._message, TimeoutNowRequest)
            return Cause(f"{self._sender} told it to stand" if is_told else "a majority would vote for it")
        if after.role is Role.LEADER:
            return Cause("a majority voted for it")
        if after.leader_id is None and self._message is not None:
            return Cause(f"{self._sender} is in that term")
        return Cause("")

    def _of_stepping_down(self, now: float) -> Cause:
        silent = {
            peer: now - heard_at
            for peer, heard_at in self._contacts.items()
            if now - heard_at >= self._config.election_timeout_s
        }
        if not silent:
            return Cause("the members that were agreed on do without it")
        who = ", ".join(
            f"{peer} not yet" if silence_s == math.inf else f"{peer} for {silence_s:.2f} s"
            for peer, silence_s in sorted(silent.items())
        )
        return Cause(f"it has not heard a majority: {who}{self._of_its_own(now)}", is_trouble=True)

    def _silence_of_leader(self, now: float) -> str:
        if self._leader_heard_at is None:
            return "it has heard no leader since it started"
        return f"it has heard no leader for {now - self._leader_heard_at:.2f} s"

    def _of_its_own(self, now: float) -> str:
        """Say what of it may be this node's own fault."""
        stall_s = self._stalls.longest_s(now - _TOLD_FOR * self._config.election_timeout_s)
        wait_s = self._write_wait_s(now)
        return "".join(
            (
                f"; its own event loop stood still for {stall_s:.2f} s" if stall_s else "",
                f"; its disk keeps a write waiting for {wait_s:.2f} s"
                if wait_s >= self._config.heartbeat_interval_s
                else "",
            )
        )

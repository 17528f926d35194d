"""What a leader knows of one follower's log, and how much it may send it now.

Three states (thesis §10.2.2; the names are those of etcd's raft):

* PROBE: the leader does not know where the logs agree. One request at a time.
* REPLICATE: they agree up to ``next_index - 1``, counting what is on its way. A window of requests at a time.
* SNAPSHOT: the follower needs entries the leader has dropped. No entries until it has the snapshot, which is sent chunk
  by chunk, one at a time.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

import attrs

from clustercore.raft.types import BEFORE_LOG, LogIndex, Round, SnapshotMetadata

__all__ = ["Inflight", "Progress", "ProgressState", "SnapshotTransfer"]


class ProgressState(Enum):
    """How a leader replicates to one follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@attrs.frozen
class Inflight:
    """A request with entries that is not answered yet."""

    # The last entry it carries.
    last_index: LogIndex
    # What its entries take, encoded.
    size_bytes: int


@attrs.define
class SnapshotTransfer:
    """A snapshot on its way to a follower. The same one to the end, whatever the leader stores meanwhile."""

    metadata: SnapshotMetadata
    # Where the chunk begins that was sent last.
    offset: int = 0


@attrs.define
class Progress:
    """A leader's view of one follower (Raft Figure 2, "volatile state on leaders")."""

    # The next entry to send. match_index < next_index <= the leader's last index + 1.
    next_index: LogIndex
    # The highest index known durable on the follower and equal to the leader's log. Never falls within a term.
    match_index: LogIndex = BEFORE_LOG
    state: ProgressState = ProgressState.PROBE
    # PROBE: nothing is sent until the follower answers something, be it a heartbeat. SNAPSHOT: the chunk that was sent
    # last is lost, as its connection broke.
    is_paused: bool = False
    # SNAPSHOT only.
    sending: SnapshotTransfer | None = None
    # REPLICATE only: the unanswered requests with entries, ascending, and what they take together.
    inflight: deque[Inflight] = attrs.field(factory=deque)
    inflight_bytes: int = 0
    # When the oldest thing unanswered was sent, or the follower last moved on (the caller's monotonic seconds). In
    # SNAPSHOT: when the last chunk was sent.
    waiting_since: float = 0.0
    # The newest round of heartbeats the follower answered in this term.
    answered_round: Round = Round(0)
    # When the follower last answered anything in this term (the caller's monotonic seconds).
    last_contact: float = -math.inf
    # The catch-up rounds of a new follower (thesis §4.2.1): a round is over when the follower has what was in the
    # leader's log at its start, and then the next one starts. When the present one started, what it takes, and how long
    # the last one took.
    catch_up_target: LogIndex = BEFORE_LOG
    catch_up_since: float = 0.0
    last_catch_up_s: float = math.inf

    def has_room(self, max_inflight_appends: int, max_inflight_bytes: int) -> bool:
        """Say whether another request with entries may be sent now.

        It may be of any size, so that large entries pass too: what is on its way exceeds the bytes by one request.
        """
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) < max_inflight_appends and self.inflight_bytes < max_inflight_bytes
        return self.state is ProgressState.PROBE and not self.is_paused

    def sent(self, last_index: LogIndex, size_bytes: int, now: float) -> None:
        """Note that entries up to ``last_index``, which take ``size_bytes``, are on their way."""
        if self.state is ProgressState.PROBE:
            self.is_paused = True
            return
        if not self.inflight:
            self.waiting_since = now
        self.inflight.append(Inflight(last_index, size_bytes))
        self.inflight_bytes += size_bytes
        self.next_index = LogIndex(last_index + 1)

    def become_probe(self, *, is_paused: bool) -> None:
        """Forget what is on its way and find again where the logs agree."""
        self.state = ProgressState.PROBE
        self.is_paused = is_paused
        self.sending = None
        self._forget_inflight()
        self.next_index = LogIndex(self.match_index + 1)

    def become_snapshot(self, metadata: SnapshotMetadata) -> None:
        """Stop sending entries until the follower has this snapshot."""
        self.state = ProgressState.SNAPSHOT
        self.sending = SnapshotTransfer(metadata)
        self._forget_inflight()

    def acknowledged(self, match_index: LogIndex, now: float) -> bool:
        """Take a positive answer; return whether it moved ``match_index``."""
        moved = match_index > self.match_index
        if moved:
            self.match_index = match_index
            self.waiting_since = now
        while self.inflight and self.inflight[0].last_index <= match_index:
            self.inflight_bytes -= self.inflight.popleft().size_bytes
        if match_index >= self.next_index - 1 and (self.state is ProgressState.PROBE or moved):
            # The logs agree up to where the next request starts: nothing more to find out. (In SNAPSHOT only news
            # counts: a heartbeat's answer repeats what was known when the snapshot became necessary.)
            self.state = ProgressState.REPLICATE
            self.sending = None
        if self.state is not ProgressState.SNAPSHOT:
            self.is_paused = False
        self.next_index = max(self.next_index, LogIndex(self.match_index + 1))
        return moved

    def catch_up(self, last_log_index: LogIndex, now: float) -> None:
        """End the catch-up round if it is over, and start the next; ``last_log_index`` is the leader's."""
        if self.match_index >= self.catch_up_target:
            self.last_catch_up_s = now - self.catch_up_since
            self.catch_up_target = last_log_index
            self.catch_up_since = now

    def has_caught_up(self, within_s: float, now: float) -> bool:
        """Say whether the follower keeps up: it answers, and a round takes it less than this (thesis §4.2.1)."""
        return (
            self.last_catch_up_s < within_s
            and (self.match_index >= self.catch_up_target or now - self.catch_up_since < within_s)
            and now - self.last_contact < within_s
        )

    def rejected(self, prev_log_index: LogIndex, retry_from: LogIndex) -> None:
        """Take a log mismatch at ``prev_log_index``. One that is known to be late or repeated changes nothing.

        A true rejection is above match_index, because what matched once matches for the term. In PROBE it is also the
        answer to the one request that is out. In REPLICATE a late one above match_index cannot be told from a true
        one: it costs a request sent twice.
        """
        is_late = prev_log_index <= self.match_index or (
            self.state is ProgressState.PROBE and prev_log_index != self.next_index - 1
        )
        if is_late or self.state is ProgressState.SNAPSHOT:
            return
        self.become_probe(is_paused=False)
        self.next_index = LogIndex(max(self.match_index + 1, min(retry_from, prev_log_index)))

    def _forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0

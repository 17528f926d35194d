"""How long the cluster could not write: from the leader's death to the first write that a new leader acknowledged."""

from __future__ import annotations

import attrs
import trio

from clustercore.interfaces import NodeStatus, Role

__all__ = ["Failover"]


@attrs.define
class Failover:
    """Tells an acknowledgement of the new term from a late one of the old.

    An answer names a log index and no term. But every acknowledged entry of the old term is on a majority, so on a
    survivor, and at most at the highest last_log_index that the survivors tell after the kill, while still in the old
    term. They stay in it for most of an election timeout, and are asked many times meanwhile. What is acknowledged
    above that index was written by a new leader. (One below it may have been, too, if the winner's log was the shorter
    one; then the time comes out too long, by the little that the writers take to pass it.)
    """

    # When the leader was killed, in seconds.
    killed_at: float
    # The term it led.
    old_term: int
    _old_last_index: int = 0
    _has_new_leader: bool = False
    # Answers after the kill, until one of them ends it: (when, log index).
    _answers: list[tuple[float, int]] = attrs.field(factory=list)
    _ended_at: float | None = None
    # Set at the end of the failover.
    over: trio.Event = attrs.field(factory=trio.Event)

    def observe(self, status: NodeStatus) -> None:
        """Take in what a survivor tells of itself."""
        if status.term == self.old_term:
            self._old_last_index = max(self._old_last_index, status.last_log_index)
        elif status.role is Role.LEADER and status.term > self.old_term:
            self._has_new_leader = True
            self._decide()

    def acknowledged(self, now: float, revision: int) -> None:
        """Take in an answer to a writer."""
        if self._ended_at is None:
            self._answers.append((now, revision))
            if self._has_new_leader:
                self._decide()

    def _decide(self) -> None:
        if self._ended_at is not None:
            return
        for when, revision in self._answers:
            if revision > self._old_last_index:
                self._ended_at = when
                self._answers.clear()
                self.over.set()
                return

    @property
    def duration_s(self) -> float | None:
        """The time without a leader that writes, in seconds; None while it lasts."""
        return None if self._ended_at is None else self._ended_at - self.killed_at

"""How far the wall clocks of peers are from this node's, by what the sync asks them anyway.

An answer says what the peer's wall clock was. It was read after the question had left and before the answer came, so
the peer's clock is ahead of this node's by what it said less what this one said in the middle between the two, give or
take half of the time between them: however the way there and the way back share it. Of the last samples the one with
the least doubt counts (RFC 5905, section 10: the clock filter, by delay). One that cannot be true together with the
newest was made before a clock was set, and is dropped.

The time between question and answer is the monotonic clock's. Where the wall clock says another, because it was set
meanwhile or the machine slept, the difference is doubt too. No clock is read here, and nothing waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from statistics import median

import attrs

from clustercore.interfaces import NodeId

__all__ = ["SAMPLES", "ClockJudge", "ClockOffset", "ClockStanding", "ClockWatch", "OffsetFilter", "Reading"]

logger = logging.getLogger("clustercore")

# As many as RFC 5905's clock filter has.
SAMPLES = 8
# How fast two clocks drift apart that nobody sets: a quartz is good to 50 parts in a million.
_DRIFT_MS_PER_S = 0.1
# Wall clocks are read in whole milliseconds, two of them.
_READING_ERROR_MS = 1.0
# This node's clock is off from the first share of the largest offset that is allowed on, and right again below the
# second: one that is at the limit is not told of again and again.
_OFF_SHARE = 0.8
_RIGHT_SHARE = 0.6


@attrs.frozen
class Reading:
    """What the two clocks of this node said at one moment."""

    # Seconds of the monotonic clock.
    at: float
    # Milliseconds since 1970-01-01 UTC, by the wall clock.
    wall_ms: int


@attrs.frozen
class ClockOffset:
    """How far a peer's wall clock is from this node's."""

    # It is ahead by so many milliseconds; below 0, behind.
    offset_ms: float
    # The true offset is at most so many milliseconds above or below that, if neither clock was set since.
    error_ms: float
    # How long ago that was measured, in seconds.
    age_s: float


@attrs.frozen
class _Sample:
    offset_ms: float
    error_ms: float
    at: float

    def error_at(self, now: float) -> float:
        return self.error_ms + _DRIFT_MS_PER_S * (now - self.at)

    def agrees_with(self, newer: _Sample) -> bool:
        distance_ms = abs(self.offset_ms - newer.offset_ms)
        return distance_ms <= self.error_at(newer.at) + newer.error_ms


class OffsetFilter:
    """The last samples of one peer's clock.

    Args:
        max_age_s: A sample that is older, in seconds, says nothing any more.
    """

    def __init__(self, max_age_s: float = 240.0) -> None:
        self._max_age_s = max_age_s
        self._samples: list[_Sample] = []

    def add(self, sent: Reading, received: Reading, peer_wall_ms: int) -> None:
        """Take in one answer.

        Args:
            sent: When the question left.
            received: When the answer came.
            peer_wall_ms: What the peer's wall clock said in between.
        """
        round_trip_ms = max(0.0, 1000 * (received.at - sent.at))
        by_wall_ms = received.wall_ms - sent.wall_ms
        sample = _Sample(
            peer_wall_ms - (received.wall_ms - round_trip_ms / 2),
            round_trip_ms / 2 + abs(by_wall_ms - round_trip_ms) + _READING_ERROR_MS,
            received.at,
        )
        kept = [old for old in self._samples if old.agrees_with(sample)]
        self._samples = [*kept, sample][-SAMPLES:]

    def estimate(self, now: float) -> ClockOffset | None:
        """Return what is known of the peer's clock at ``now``, in seconds of the monotonic clock; None if nothing."""
        fresh = [sample for sample in self._samples if now - sample.at <= self._max_age_s]
        if not fresh:
            return None
        best = min(fresh, key=lambda sample: sample.error_at(now))
        return ClockOffset(best.offset_ms, best.error_at(now), now - best.at)


@attrs.frozen
class ClockStanding:
    """How this node's wall clock stands among those of all members."""

    # Whether it is known to be far from those of a majority of all members, on one side.
    is_off: bool
    # How far the clock in the middle of those that are known, this node's too, is ahead of this node's, in ms; below 0,
    # behind. If it is off: that of those in ``against``.
    offset_ms: float
    # All members, and those of the others whose clocks are known.
    members: int
    measured: int
    # The others whose clocks are too far from this node's, by id.
    against: tuple[NodeId, ...]

    def __str__(self) -> str:
        """Say it for people."""
        side = "behind" if self.offset_ms > 0 else "ahead of"
        return f"its wall clock is {abs(self.offset_ms):.0f} ms {side} those of most members"


class ClockJudge:
    """Says whether it is this node's clock that is wrong, and not another's.

    It is if more than half of all members, this one counted, have clocks that are beyond doubt further off than 80 % of
    what is allowed, all of them ahead or all of them behind. So of two nodes none can tell; of three, both others have
    to say so. It is right again when that holds for 60 % no more, even if all that cannot be asked would say so.

    Args:
        max_offset_ms: What is allowed.
    """

    def __init__(self, max_offset_ms: int) -> None:
        self._max_offset_ms = max_offset_ms
        self._is_off = False
        self._offset_ms = 0.0

    def judge(self, members: int, offsets: Mapping[NodeId, ClockOffset]) -> ClockStanding:
        """Return the standing by what is known now.

        Args:
            members: How many there are, this node included.
            offsets: Of the other members, those that are known.
        """
        share = _RIGHT_SHARE if self._is_off else _OFF_SHARE
        against = max(
            _beyond(share * self._max_offset_ms, offsets, 1), _beyond(share * self._max_offset_ms, offsets, -1), key=len
        )
        unknown = max(0, members - 1 - len(offsets)) if self._is_off else 0
        self._is_off = 2 * (len(against) + unknown) > members
        if self._is_off and against:
            self._offset_ms = median(offsets[peer].offset_ms for peer in against)
        elif not self._is_off:
            self._offset_ms = median([0.0, *(each.offset_ms for each in offsets.values())])
        return ClockStanding(self._is_off, self._offset_ms, members, len(offsets), tuple(sorted(against)))


class ClockWatch:
    """Keeps the standing of one node, and tells when it is off, and when it is right again: once each time.

    Args:
        node_id: Whose clock it is.
        max_offset_ms: What is allowed.
        on_change: Is told of each change. It must not raise.
    """

    def __init__(self, node_id: NodeId, max_offset_ms: int, on_change: Callable[[ClockStanding], None]) -> None:
        self._node_id = node_id
        self._max_offset_ms = max_offset_ms
        self._on_change = on_change
        self._judge = ClockJudge(max_offset_ms)
        self.standing = self._judge.judge(1, {})

    def look(self, members: int, offsets: Mapping[NodeId, ClockOffset]) -> None:
        """Judge again; see ``ClockJudge.judge``."""
        before, self.standing = self.standing, self._judge.judge(members, offsets)
        if self.standing.is_off is before.is_off:
            return
        if self.standing.is_off:
            logger.warning(
                "node %s: %s, and at most %d ms are allowed: set it right, for of edits that do not know each other it "
                "makes the wrong one win",
                self._node_id,
                self.standing,
                self._max_offset_ms,
            )
        else:
            logger.info("node %s: its wall clock is near those of the members again", self._node_id)
        self._on_change(self.standing)


def _beyond(limit_ms: float, offsets: Mapping[NodeId, ClockOffset], side: int) -> list[NodeId]:
    """Return whose clocks are ahead (1) or behind (-1) by more than the limit, whatever the error."""
    return [peer for peer, each in offsets.items() if side * each.offset_ms - each.error_ms > limit_ms]

"""A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014): wall time that never goes back.

A reading is later than each one before it on this node, and than each that the node took in from others, and no more
than ``max_offset_ms`` ahead of a wall clock that is right. To keep that promise it refuses to follow a peer that is
further ahead: one bad clock would otherwise take all others along, and win every conflict from then on.

Across a restart: before a reading leaves the node, a bound above it is to be on disk (``bound_ms``); the clock starts
above the bound that it is given. Time comes in by a function, so a test says what time it is. This file knows neither a
disk nor peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

import attrs
import trio

from clustercore.interfaces import ConfigError, HybridTime

__all__ = ["ClockReport", "HybridLogicalClock", "OffsetPolicy", "system_time_ms"]

_LOGICAL_LIMIT = 2**16
# How far above the last reading the bound on disk is set, in ms: at most one commit in 10 s is for the clock alone.
BOUND_AHEAD_MS = 10_000


def system_time_ms() -> int:
    """Return the system's wall clock, in whole milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


class OffsetPolicy(Enum):
    """What happens to a write whose time is further ahead of this node's clock than it may be."""

    # It waits until its time is no longer ahead, and the clock does not follow it.
    QUARANTINE = "quarantine"
    # It is taken, and the clock follows no further than the bound.
    CLAMP = "clamp"
    # It is taken, and the clock follows.
    ACCEPT = "accept"


@attrs.frozen
class ClockReport:
    """What a clock has met; the counts are since it was made."""

    # How far the last reading is ahead of the wall clock, in ms; below 0 only for a clock that was not read lately.
    ahead_ms: int
    # Times that the wall clock stood below what it had said before.
    backward_jumps: int
    # The furthest of these, in ms.
    largest_backward_jump_ms: int
    # Times that a reading had to wait: all 65,536 of a millisecond were used up, or the clock was behind its bound.
    waits: int
    # Times of peers that were too far ahead.
    refused: int


class HybridLogicalClock:
    """One node's clock. Its readings go up, strictly.

    Args:
        wall_ms: Returns the wall clock, in ms since 1970-01-01 UTC.
        max_offset_ms: How far ahead of this node's wall clock a peer's may be.
        policy: What is done about a peer that is further ahead.
        bound_ms: What was last kept of ``bound_ms``; 0 on the first start.

    Raises: ConfigError if ``max_offset_ms`` is below 1.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int] = system_time_ms,
        *,
        max_offset_ms: int = 500,
        policy: OffsetPolicy = OffsetPolicy.QUARANTINE,
        bound_ms: int = 0,
    ) -> None:
        if max_offset_ms < 1:
            raise ConfigError(f"max_offset_ms is {max_offset_ms}; it must be at least 1")
        self._wall_ms = wall_ms
        self.max_offset_ms = max_offset_ms
        self.policy = policy
        # The last reading: no wall clock said so, if it is a bound.
        self._last = HybridTime(0)
        self._bound_ms = 0
        self._highest_wall_ms = 0
        self._backward_jumps = 0
        self._largest_backward_jump_ms = 0
        self._waits = 0
        self._refused = 0
        if bound_ms:
            self.start_above(bound_ms)

    def start_above(self, bound_ms: int) -> None:
        """Give no reading at or below this millisecond any more: what the node was before may have given it."""
        self._last = max(self._last, HybridTime(bound_ms, _LOGICAL_LIMIT - 1))
        self._bound_ms = max(self._bound_ms, bound_ms)

    def wall(self) -> int:
        """Return the wall clock in ms, and note if it went back."""
        now = self._wall_ms()
        if now < self._highest_wall_ms:
            self._backward_jumps += 1
            self._largest_backward_jump_ms = max(self._largest_backward_jump_ms, self._highest_wall_ms - now)
            # A clock that was set is a new clock: the same step is not counted again with each reading.
        self._highest_wall_ms = now
        return now

    def read_nowait(self) -> HybridTime | None:
        """Return a reading, or None if the millisecond has none left."""
        wall = self.wall()
        if wall > self._last.physical_ms:
            self._last = HybridTime(wall)
        elif self._last.logical + 1 < _LOGICAL_LIMIT:
            self._last = HybridTime(self._last.physical_ms, self._last.logical + 1)
        else:
            return None
        return self._last

    async def read(self) -> HybridTime:
        """Return a reading; wait for the next millisecond if this one has none left.

        It waits for as long as a right clock may be behind, and as the bound on disk may be ahead. If the wall clock
        has still not come by then, because it was set back, the clock goes on without it.

        Cancellation: at any time while it waits; nothing is lost.
        """
        waited_ms = 0
        if (reading := self.read_nowait()) is not None:
            return reading
        self._waits += 1
        while (reading := self.read_nowait()) is None:
            behind_ms = self._last.physical_ms + 1 - self._wall_ms()
            left_ms = self.max_offset_ms + BOUND_AHEAD_MS - waited_ms
            if behind_ms > left_ms:
                self._last = HybridTime(self._last.physical_ms + 1)
                return self._last
            pause_ms = max(1, behind_ms)
            await trio.sleep(pause_ms / 1000)
            waited_ms += pause_ms
        return reading

    def is_too_far_ahead(self, time: HybridTime) -> bool:
        """Whether a peer's time is further ahead of this node's wall clock than it may be."""
        return time.physical_ms > self._wall_ms() + self.max_offset_ms

    def takes(self, time: HybridTime) -> bool:
        """Whether a write of this time may be taken; ``observe`` says the same, and takes the time in."""
        return time <= self._last or self.policy is not OffsetPolicy.QUARANTINE or not self.is_too_far_ahead(time)

    def observe(self, time: HybridTime) -> bool:
        """Take in a peer's time, so that all later readings are above it. Return whether a write of it may be taken."""
        if time <= self._last:
            return True
        if self.is_too_far_ahead(time):
            self._refused += 1
            if self.policy is OffsetPolicy.QUARANTINE:
                return False
            if self.policy is OffsetPolicy.CLAMP:
                time = min(time, HybridTime(self._wall_ms() + self.max_offset_ms))
        self._last = max(self._last, time)
        return True

    def next_bound_ms(self) -> int | None:
        """Return the bound that must be on disk before the last reading leaves the node; None if it is there."""
        if self._last.physical_ms <= self._bound_ms and self._bound_ms:
            return None
        return self._last.physical_ms + BOUND_AHEAD_MS

    def bound_is_kept(self, bound_ms: int) -> None:
        """Say that a bound is on disk."""
        self._bound_ms = max(self._bound_ms, bound_ms)

    @property
    def last_ms(self) -> int:
        """The millisecond of the last reading: the bound to keep when the node ends in peace."""
        return self._last.physical_ms

    def report(self) -> ClockReport:
        """Return what the clock has met."""
        return ClockReport(
            self._last.physical_ms - self._wall_ms(),
            self._backward_jumps,
            self._largest_backward_jump_ms,
            self._waits,
            self._refused,
        )

"""How long this node has led: what a leader stamps on the entries of sessions.

It counts only the time in which the node was really running. A process that was stopped, or a machine that was paused,
comes back with its clock hours ahead; if those hours counted, every session would end at once, although its client was
stopped as well, or could not reach a leader. A leader runs at least once in a heartbeat interval, so a longer silence
than ``max_tick_s`` is such a pause, and only ``max_tick_s`` of it counts.
"""

from __future__ import annotations

__all__ = ["LeaderClock"]


class LeaderClock:
    """Counts milliseconds from the beginning of a leadership. Its owner lets it ``tick`` whenever it runs."""

    def __init__(self, max_tick_s: float) -> None:
        """Nobody leads yet."""
        self._max_tick_s = max_tick_s
        self._ticked_at = 0.0
        self._led_s = 0.0

    def start(self, now: float) -> None:
        """Begin to count: this node leads from now (Trio's clock)."""
        self._ticked_at, self._led_s = now, 0.0

    def tick(self, now: float) -> None:
        """Count what has passed since the last tick."""
        self._led_s += min(now - self._ticked_at, self._max_tick_s)
        self._ticked_at = now

    def led_ms(self, now: float) -> int:
        """Return how long this node has led its term, in milliseconds. It never falls within a term."""
        self.tick(now)
        return int(self._led_s * 1000)

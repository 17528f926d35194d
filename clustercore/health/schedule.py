"""When each node is checked next. No clock, no I/O: what is due is asked for with the time.

Each node has a rate of its own, fixed on the clock: how long a check takes, or waits for its turn, moves no later one.
Intervals are lengthened or shortened by the jitter, or not at all, and starts are spread over ten slots of an interval:
so the checks of many nodes fall together into a few moments, and one wake-up serves them all.
"""

from __future__ import annotations

import heapq
import math
from random import Random

from clustercore.health.config import HealthConfig
from clustercore.raft.types import NodeId

__all__ = ["Schedule"]

# Slots into which the first checks of an interval are spread.
_SLOTS = 10


class Schedule:
    """The times of all nodes' next checks."""

    def __init__(self, config: HealthConfig, rng: Random) -> None:
        self._interval = config.check_interval
        self._shifts = (-config.jitter, 0.0, config.jitter)
        self._rng = rng
        # (time, tie-break, node): what is on top and is not the node's newest is thrown away.
        self._heap: list[tuple[float, int, NodeId]] = []
        self._newest: dict[NodeId, int] = {}
        self._count = 0

    @property
    def next_due(self) -> float:
        """When something is due next; infinity if nothing ever is."""
        while self._heap and self._newest.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def begin(self, node_id: NodeId, now: float) -> None:
        """Schedule a node's first check, within one interval."""
        self._set(node_id, now + self._interval / _SLOTS * self._rng.randrange(_SLOTS))

    def hurry(self, node_id: NodeId, due: float) -> None:
        """Have a node checked at ``due`` instead, and at its rate from then on."""
        self._set(node_id, due)

    def end(self, node_id: NodeId) -> None:
        """Forget a node. Idempotent."""
        self._newest.pop(node_id, None)

    def pop_due(self, now: float) -> tuple[NodeId, float] | None:
        """Return a node that is due, and since when; None if there is none. Whoever takes it says when it is next."""
        if self.next_due > now:
            return None
        due, _, node_id = heapq.heappop(self._heap)
        return node_id, due

    def again(self, node_id: NodeId, due: float, now: float, interval: float) -> int:
        """Schedule the check after the one that was due at ``due``; return how many had to be skipped.

        That is so many as lie in the past already: a checker that was held up does not catch up in a burst.
        """
        following = due + interval + self._interval * self._shifts[int(self._rng.random() * 3)]
        skipped = 0
        if following <= now:
            skipped = int((now - following) / interval) + 1
            following += skipped * interval
        self._set(node_id, following)
        return skipped

    def _set(self, node_id: NodeId, due: float) -> None:
        self._count += 1
        self._newest[node_id] = self._count
        heapq.heappush(self._heap, (due, self._count, node_id))

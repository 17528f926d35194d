"""The last checks and changes of one node, and what they say in numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import attrs

from clustercore.interfaces.health import CheckOutcome, CheckRecord, StatusChange
from clustercore.interfaces.statistics import percentile

__all__ = ["HISTORY", "CheckStatistics", "History", "LatencyStatistics"]

# How many checks, and how many changes, are kept of each node.
HISTORY = 100

# How much the newest check weighs in the moving average: about the last ten count.
_NEWEST_WEIGHT = 0.2


@attrs.frozen
class LatencyStatistics:
    """How long checks took, in seconds. All 0 if there were none."""

    count: int
    min_s: float
    mean_s: float
    max_s: float
    # A moving average in which the newest check weighs a fifth.
    recent_s: float
    # Exact: the smallest of the times that so many in a hundred do not exceed.
    p50_s: float
    p95_s: float
    p99_s: float


@attrs.frozen
class CheckStatistics:
    """The last checks of a node in numbers: those that were answered well apart from those that failed."""

    count: int
    # The share of good checks among those that were good or failed; 1 if there were none.
    success_rate: float
    good: LatencyStatistics
    failed: LatencyStatistics


class History:
    """Keeps the last ``HISTORY`` checks and changes of one node, oldest first."""

    def __init__(self) -> None:
        self._checks: deque[CheckRecord] = deque(maxlen=HISTORY)
        self._changes: deque[StatusChange] = deque(maxlen=HISTORY)

    def add_check(self, record: CheckRecord) -> None:
        """Keep a check."""
        self._checks.append(record)

    def add_change(self, change: StatusChange) -> None:
        """Keep a change."""
        self._changes.append(change)

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """The last checks."""
        return tuple(self._checks)

    @property
    def changes(self) -> tuple[StatusChange, ...]:
        """The last changes."""
        return tuple(self._changes)

    def statistics(self) -> CheckStatistics:
        """Return the checks that are kept in numbers."""
        good = [
            check.latency_s for check in self._checks if check.result.outcome in (CheckOutcome.OK, CheckOutcome.WARN)
        ]
        failed = [check.latency_s for check in self._checks if check.result.outcome is CheckOutcome.FAIL]
        judged = len(good) + len(failed)
        return CheckStatistics(len(self._checks), len(good) / judged if judged else 1.0, _times(good), _times(failed))


def _times(latencies: Sequence[float]) -> LatencyStatistics:
    if not latencies:
        return LatencyStatistics(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(latencies)
    recent = latencies[0]
    for latency in latencies[1:]:
        recent += _NEWEST_WEIGHT * (latency - recent)

    return LatencyStatistics(
        len(ordered),
        ordered[0],
        math.fsum(ordered) / len(ordered),
        ordered[-1],
        recent,
        percentile(ordered, 50),
        percentile(ordered, 95),
        percentile(ordered, 99),
    )

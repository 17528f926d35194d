"""Health: what a probe of a node answers, and what is known of a node by its probes.

A probe author writes one method, ``check``. When it is called, how long it may take, and how many bad answers make a
node unhealthy is the checker's affair (``clustercore.HealthChecker``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum

import attrs

from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.raft.types import NodeId

__all__ = ["CheckOutcome", "CheckRecord", "CheckResult", "HealthStatus", "Probe", "StatusChange"]

# What a check says in words is kept for each node, a hundred times: so much of it, in characters.
MAX_DETAIL = 4096


class CheckOutcome(StrEnum):
    """What one check found."""

    OK = "ok"
    # It works, and something is not as it should be.
    WARN = "warn"
    FAIL = "fail"
    # Whoever was asked is alive and does not know: neither well nor unwell.
    UNKNOWN = "unknown"


class HealthStatus(StrEnum):
    """What a node is taken for."""

    # Not checked yet, or those who could say do not know it.
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    # It answers, with warnings.
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    # An operator has it in hand, whatever its checks say.
    MAINTENANCE = "maintenance"


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 3] + "..."


@attrs.frozen
class CheckResult:
    """The answer to one check."""

    outcome: CheckOutcome
    # For people, in a line; what is beyond 4096 characters is cut.
    detail: str = attrs.field(default="", converter=_cut)
    # Of a failure: what kind it is of, if that is known.
    category: ErrorCategory | None = None
    # Whether it counts at once, without waiting for more of its kind: the node itself says that it does not serve.
    is_decisive: bool = False


@attrs.frozen
class CheckRecord:
    """A check that was made."""

    result: CheckResult
    # When it ended, on Trio's clock.
    at: float
    # How long it took, in seconds. Of one that was not answered in time it is the timeout.
    latency_s: float


@attrs.frozen
class StatusChange:
    """A node is taken for something else than before."""

    node_id: NodeId
    old: HealthStatus
    new: HealthStatus
    # Why, for people.
    reason: str
    # The number of the change among those of this node, from 1.
    sequence: int
    # When, on Trio's clock.
    at: float
    # The check that made the difference; None if it was no check, but an operator.
    result: CheckResult | None = None


class Probe(ABC):
    """A way to ask whether a node is well."""

    @abstractmethod
    async def check(self) -> CheckResult:
        """Ask once, and return the answer.

        Called by: the checker, in a task for this one call, never twice at a time. It is cancelled after the timeout.
        Cancellation: leaves nothing open that the next call, or nobody, would not close.
        Raises: whatever it likes; an exception is a failed check, and its text the detail.
        """

    async def watch(self, report: Callable[[CheckResult], None]) -> None:
        """Report changes that the node tells by itself, between checks. The default reports none.

        Each ``report`` counts like the answer to a check. It may return when there is nothing to watch; it must not
        give up for an error that may pass, but wait, longer each time, and watch again.

        Called by: the checker, once, for as long as the node is monitored; cancelled then.
        Raises: whatever it likes; it is logged, and ``check`` goes on.
        """
        return None

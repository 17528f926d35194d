"""What the checker knows of one node."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from clustercore.health.config import HealthConfig
from clustercore.health.history import History
from clustercore.health.tracker import GOOD, StatusTracker
from clustercore.interfaces.health import CheckOutcome, CheckRecord, CheckResult, HealthStatus, Probe, StatusChange
from clustercore.raft.types import NodeId

__all__ = ["Monitored"]


class Monitored:
    """A node that is monitored: its probe, its status, its history."""

    def __init__(self, node_id: NodeId, probe: Probe, config: HealthConfig, *, now: float) -> None:
        self.node_id = node_id
        self.probe = probe
        self.history = History()
        self.is_paused = False
        self.is_in_maintenance = False
        # Whether a check of it is under way or waits for its turn.
        self.is_busy = False
        # Set for good when nothing that it is asked counts any more.
        self.is_stopped = False
        # Around the check under way; around the probe's watching.
        self.scope = trio.CancelScope()
        self.watch_scope = trio.CancelScope()
        # What the last check found, and whether there was one in this round of the checker.
        self.last_outcome: CheckOutcome | None = None
        self.was_checked = False
        # The interval, in seconds, that was chosen when a check was last begun.
        self.last_interval = 0.0
        self._config = config
        self._tracker = StatusTracker(config)
        self._sequence = 0
        self._last_at = now
        self._since = now

    def with_probe(self, probe: Probe, *, is_paused: bool | None = None) -> Monitored:
        """Return the same node, asked anew: what the old one's check still says does not count."""
        node = Monitored(self.node_id, probe, self._config, now=self._last_at)
        node.history, node._tracker = self.history, self._tracker
        node.is_in_maintenance = self.is_in_maintenance
        node.is_paused = self.is_paused if is_paused is None else is_paused
        node._sequence, node._since = self._sequence, self._since
        return node

    def stop(self) -> None:
        """Give up what is under way. Nothing that it still says counts."""
        self.is_stopped = True
        self.scope.cancel()
        self.watch_scope.cancel()

    @property
    def status(self) -> HealthStatus:
        """What the node is taken for."""
        return HealthStatus.MAINTENANCE if self.is_in_maintenance else self._tracker.status

    @property
    def since(self) -> float:
        """Since when it has this status, on Trio's clock."""
        return self._since

    def unhealthy_for(self, now: float) -> float | None:
        """Return for how many seconds the node has been unhealthy without a break; None if it is not."""
        return now - self._since if self.status is HealthStatus.UNHEALTHY else None

    def is_routable(self, now: float) -> bool:
        """Whether the node should get work."""
        bad = (HealthStatus.UNHEALTHY, HealthStatus.MAINTENANCE)
        return self.status not in bad and not self._tracker.is_held(now)

    def is_well(self, now: float) -> bool:
        """Whether the node is known to be well, and not held back because it flaps."""
        return self.status in GOOD and not self._tracker.is_held(now)

    @property
    def held_until(self) -> float:
        """Until when it gets no work for having flapped (Trio's clock); minus infinity if it never did."""
        return self._tracker.held_until

    @property
    def is_backing_off(self) -> bool:
        """Whether it has been unhealthy for so long that it is asked less often."""
        is_unhealthy = self._tracker.status is HealthStatus.UNHEALTHY
        return is_unhealthy and self._tracker.failures >= self._config.patience

    def interval(self) -> float:
        """Return the seconds until the next check: longer and longer while the node stays unhealthy."""
        if not self.is_backing_off:
            return self._config.check_interval
        over = self._tracker.failures - self._config.patience
        # The exponent is bounded only so that it does not grow without limit; long before, the maximum counts.
        return min(self._config.check_interval * 2.0 ** min(over + 1, 30), self._config.max_check_interval_s)

    def take(self, result: CheckResult, now: float, latency: float, *, is_reported: bool) -> str | None:
        """Count an answer; return why the node is taken for something else now, or None."""
        self._last_at = now
        self.last_outcome, self.was_checked = result.outcome, True
        if not is_reported:
            self.history.add_check(CheckRecord(result, now, latency))
        reason = self._tracker.take(result)
        if reason is not None and self._tracker.note_change(now):
            reason += "; it flaps"
        return reason

    def changed(self, before: HealthStatus, reason: str, now: float, result: CheckResult | None) -> StatusChange | None:
        """Note a change of the status, and return it; None if it is as before."""
        if self.status is before:
            return None
        self._sequence += 1
        self._since = now
        change = StatusChange(self.node_id, before, self.status, reason, self._sequence, now, result)
        self.history.add_change(change)
        return change

    def is_stale(self, now: float) -> bool:
        """Whether there was no answer, good or bad, for longer than any check may take to come."""
        longest = self._config.max_check_interval_s * (1 + self._config.jitter) + self._config.timeout
        return now - self._last_at > max(longest, self._config.worst_case_detection_s)

    def snapshot(self, now: float, with_history: bool) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        checks, changes = self.history.checks, self.history.changes
        told: dict[str, Any] = {
            "status": self.status,
            "since_s": now - self._since,
            "is_routable": self.is_routable(now),
            "is_flapping": self._tracker.is_flapping(now),
            "is_held": self._tracker.is_held(now),
            "is_stale": self.is_stale(now),
            "is_paused": self.is_paused,
            "failures_in_a_row": self._tracker.failures,
            "successes_in_a_row": self._tracker.successes,
            "last_check": _check(checks[-1], now) if checks else None,
            "statistics": attrs.asdict(self.history.statistics()),
        }
        if with_history:
            told["checks"] = [_check(record, now) for record in checks]
            told["changes"] = [
                {
                    "old": each.old,
                    "new": each.new,
                    "reason": each.reason,
                    "sequence": each.sequence,
                    "ago_s": now - each.at,
                }
                for each in changes
            ]
        return told


def _check(record: CheckRecord, now: float) -> dict[str, Any]:
    return {
        "outcome": record.result.outcome,
        "detail": record.result.detail,
        "category": record.result.category,
        "latency_s": record.latency_s,
        "ago_s": now - record.at,
    }

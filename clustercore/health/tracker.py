"""What a node is taken for, by its checks: the thresholds, and the damping of nodes that flap. No clock, no I/O.

=============  ==================================================  =====================
from           when                                                to
=============  ==================================================  =====================
unknown        the first ok, or warning                            healthy, or degraded
unhealthy      ``success_threshold`` good checks in a row          healthy, or degraded
degraded       ``success_threshold`` ok in a row                   healthy
healthy        ``failure_threshold`` in a row, none of them ok     degraded
any            ``failure_threshold`` failures in a row             unhealthy
any            one decisive failure                                unhealthy
any            one "unknown"                                       unknown
=============  ==================================================  =====================

A good check is an ok or a warning. Any failure zeroes the count of good ones, any good one that of failures. So that
no start takes anybody out early, failures need the threshold from the beginning.
"""

from __future__ import annotations

from collections import deque

from clustercore.health.config import HealthConfig
from clustercore.interfaces.health import CheckOutcome, CheckResult, HealthStatus

__all__ = ["GOOD", "StatusTracker"]

GOOD = frozenset({HealthStatus.HEALTHY, HealthStatus.DEGRADED})


class StatusTracker:
    """Counts the checks of one node."""

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        # By the checks alone: what an operator said is not in it.
        self.status = HealthStatus.UNKNOWN
        # In a row, until now. At most one of the first two is above 0.
        self.failures = 0
        self.successes = 0
        self._oks = 0
        self._not_oks = 0
        # When the status changed between good and bad, within the window.
        self._turns: deque[float] = deque()
        self._was_good: bool | None = None
        # Times that the node was found flapping, one less for each window without.
        self.flap_count = 0
        self._flap_decays_at = 0.0
        # The node gets no work before.
        self._held_until = float("-inf")

    # --- Status ---

    def take(self, result: CheckResult) -> str | None:
        """Count a check. Return why the status has changed, or None if it has not."""
        before = self.status
        match result.outcome:
            case CheckOutcome.UNKNOWN:
                self._forget()
                self.status = HealthStatus.UNKNOWN
            case CheckOutcome.FAIL:
                self._fail(result)
            case outcome:
                self._succeed(outcome)
        if self.status is before:
            return None
        reason = self._reason(before, result)
        return f"{reason}: {result.detail}" if result.detail else reason

    def _forget(self) -> None:
        self.failures = self.successes = self._oks = self._not_oks = 0

    def _reason(self, before: HealthStatus, result: CheckResult) -> str:
        """Say why the status is another than before."""
        match self.status:
            case HealthStatus.UNKNOWN:
                return "unknown to whom was asked"
            case HealthStatus.UNHEALTHY if result.is_decisive:
                return "it says so itself"
            case HealthStatus.UNHEALTHY:
                return f"{self.failures} failed checks in a row"
            case HealthStatus.DEGRADED if before is HealthStatus.HEALTHY:
                return f"{self._not_oks} checks in a row, and none was ok"
            case _ if before is HealthStatus.UNKNOWN:
                return "the first good check"
            case _:
                return f"{self.successes} good checks in a row"

    def _fail(self, result: CheckResult) -> None:
        self.successes = self._oks = 0
        self.failures += 1
        self._not_oks += 1
        threshold = self._config.failure_threshold
        if result.is_decisive:
            # What follows counts from here: as many good checks as after any other failure.
            self.failures = max(self.failures, threshold)
        if self.failures >= threshold:
            self.status = HealthStatus.UNHEALTHY
        elif self._not_oks >= threshold and self.status is HealthStatus.HEALTHY:
            self.status = HealthStatus.DEGRADED

    def _succeed(self, outcome: CheckOutcome) -> None:
        self.failures = 0
        self.successes += 1
        is_ok = outcome is CheckOutcome.OK
        self._oks = self._oks + 1 if is_ok else 0
        self._not_oks = 0 if is_ok else self._not_oks + 1
        needed = self._config.success_threshold
        match self.status:
            case HealthStatus.UNKNOWN:
                self.status = HealthStatus.HEALTHY if is_ok else HealthStatus.DEGRADED
            case HealthStatus.UNHEALTHY if self.successes >= needed:
                self.status = HealthStatus.HEALTHY if self._oks >= needed else HealthStatus.DEGRADED
            case HealthStatus.DEGRADED if self._oks >= needed:
                self.status = HealthStatus.HEALTHY
            case HealthStatus.HEALTHY if self._not_oks >= self._config.failure_threshold:
                self.status = HealthStatus.DEGRADED

    # --- Flapping ---

    def note_change(self, now: float) -> bool:
        """Note a change of the status at ``now``; return whether the node has just become a flapping one.

        Only turns between good and bad count.
        """
        is_good = self.status in GOOD
        if self.status is HealthStatus.UNKNOWN or is_good is self._was_good:
            return False
        first, self._was_good = self._was_good is None, is_good
        if first:
            return False
        self._decay(now)
        was_flapping = self.is_flapping(now)
        self._turns.append(now)
        is_flapping = self.is_flapping(now)
        if is_flapping and (not was_flapping or not is_good):
            self.flap_count += 1
            self._flap_decays_at = now + self._config.flap_window_s
        if is_flapping or self.is_held(now):
            self._held_until = now + self.flap_hold_s
        return is_flapping and not was_flapping

    def is_flapping(self, now: float) -> bool:
        """Whether the node turned between good and bad too often of late."""
        while self._turns and self._turns[0] < now - self._config.flap_window_s:
            self._turns.popleft()
        return len(self._turns) >= self._config.flap_changes

    @property
    def flap_hold_s(self) -> float:
        """How long the node must be well before it gets work again, in seconds."""
        return min(self._config.flap_hold_s * self.flap_count, self._config.max_flap_hold_s)

    def is_held(self, now: float) -> bool:
        """Whether the node is well, and gets no work yet because it flapped."""
        return now < self._held_until

    @property
    def held_until(self) -> float:
        """Until when it gets no work for having flapped (Trio's clock); minus infinity if it never did."""
        return self._held_until

    def _decay(self, now: float) -> None:
        while self.flap_count and now >= self._flap_decays_at:
            self.flap_count -= 1
            self._flap_decays_at += self._config.flap_window_s

"""What the retries of one category on one target teach: whether to make fewer and slower ones for now.

It goes by how often *retries* succeed. How often calls fail says nothing about whether trying again helps, and a policy
that retries more when more fails feeds the very outage it meets (Bronson et al., "Metastable Failures in Distributed
Systems", HotOS 2021).
"""

from __future__ import annotations

import math
from collections import deque

import attrs

from clustercore.interfaces import CategoryLimits

__all__ = ["PROBE_INTERVAL_S", "STEP_INTERVAL_S", "Learner", "wilson_bounds"]

# Evidence older or more than this is forgotten.
_WINDOW_S = 300.0
_WINDOW_OUTCOMES = 500
# Fewer outcomes lower nothing: any run of bad luck is as long.
_LEAST_OUTCOMES = 20
# One step at a time, and time to see what it does.
STEP_INTERVAL_S = 30.0
# Where no retry is left, one is made this often all the same: without any, nothing would ever be learned again.
PROBE_INTERVAL_S = 30.0
# Fewer succeed: they are not worth their load. More succeed: they are.
_HOPELESS = 0.1
_WORTHWHILE = 0.5
# The pace is 1 / the factor of the delays: halved and raised by this, within [1/4, 1].
_LEAST_PACE = 0.25
_PACE_STEP = 0.5
# Of the normal distribution, for 95 %.
_Z = 1.959964


def wilson_bounds(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, at 95 %: at least and at most. Of no trials: (0, 1)."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z * _Z
    centre = share + z2 / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@attrs.define
class _Health:
    """First attempts since a retry last failed."""

    total: int = 0
    successes: int = 0


class Learner:
    """Invariant: 0 <= max_retries <= the table's, and 1/4 <= pace <= 1."""

    def __init__(self, table: CategoryLimits) -> None:
        self._table = table
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_WINDOW_OUTCOMES)
        self._health = _Health()
        self._changed_at = -math.inf
        self._probed_at = -math.inf
        self.max_retries = table.max_retries
        self.pace = 1.0

    @property
    def is_lowered(self) -> bool:
        """Whether less than the table is in force."""
        return self.max_retries < self._table.max_retries or self.pace < 1

    @property
    def limits(self) -> CategoryLimits:
        """What is in force."""
        if not self.is_lowered:
            return self._table
        slowed = min(self._table.base_delay_s / self.pace, self._table.max_delay_s)
        return attrs.evolve(self._table, max_retries=self.max_retries, base_delay_s=slowed)

    def restore(self, max_retries: int, pace: float) -> None:
        """Set what is in force, kept within its bounds, and forget the evidence."""
        self.max_retries = max(0, min(max_retries, self._table.max_retries))
        self.pace = max(_LEAST_PACE, min(pace, 1.0))
        self._forget()

    # --- Probes -------------------------------------------------------------------------------------------------------

    def may_probe(self, now: float) -> bool:
        """Return whether a retry may be made although none is left."""
        return 0 == self.max_retries < self._table.max_retries and now - self._probed_at >= PROBE_INTERVAL_S

    def probe(self, now: float) -> float:
        """Take note of a probe; return what ``withdraw_probe`` takes."""
        before, self._probed_at = self._probed_at, now
        return before

    def withdraw_probe(self, before: float) -> None:
        """Take note that the probe was not made after all."""
        self._probed_at = before

    # --- Evidence -----------------------------------------------------------------------------------------------------

    def record_retry(self, now: float, success: bool) -> None:
        """Take note of how a retry ended."""
        self._outcomes.append((now, success))
        if not success:
            self._health = _Health()

    def record_first_attempt(self, success: bool) -> None:
        """Take note of how a first attempt on the target ended. It only ever undoes what was lowered."""
        self._health.total += 1
        self._health.successes += success

    def step(self, now: float) -> str | None:
        """Make the one step that the evidence asks for, if it does and it is time; return the evidence in words."""
        # A clock that went backwards must not stop it for ever.
        if 0 <= now - self._changed_at < STEP_INTERVAL_S:
            return None
        while self._outcomes and now - self._outcomes[0][0] > _WINDOW_S:
            self._outcomes.popleft()
        total, successes = len(self._outcomes), sum(success for _, success in self._outcomes)
        least, most = wilson_bounds(successes, total)
        told = f"{successes} of {total} retries succeeded"
        if total >= _LEAST_OUTCOMES and most < _HOPELESS:
            return self._lower(now, told)
        if not self.is_lowered:
            return None
        if least > _WORTHWHILE:
            return self._raise(now, told)
        # Once an outage is over there may be nothing left to retry, and so nothing to learn from retries.
        health = self._health
        if health.total >= _LEAST_OUTCOMES and wilson_bounds(health.successes, health.total)[0] > _WORTHWHILE:
            return self._raise(
                now, f"{health.successes} of {health.total} first attempts succeeded, and no retry failed"
            )
        return None

    def _lower(self, now: float, evidence: str) -> str | None:
        if self.max_retries == 0 and self.pace == _LEAST_PACE:
            return None
        self.max_retries = max(0, self.max_retries - 1)
        self.pace = max(_LEAST_PACE, self.pace / 2)
        return self._changed(now, evidence)

    def _raise(self, now: float, evidence: str) -> str:
        self.max_retries = min(self._table.max_retries, self.max_retries + 1)
        self.pace = min(1.0, self.pace + _PACE_STEP)
        return self._changed(now, evidence)

    def _changed(self, now: float, evidence: str) -> str:
        self._forget()
        self._changed_at = now
        return evidence

    def _forget(self) -> None:
        # What was seen under other limits is no evidence about these.
        self._outcomes.clear()
        self._health = _Health()

"""The phi-accrual failure detector (Hayashibara et al. 2004): how unlikely is it that the next heartbeat just is late?

Instead of a fixed time it learns how regular the heartbeats are. ``phi`` is -log10 of the probability that one comes
even later than now, if intervals are normally distributed: at 1 one in ten alarms would be false, at 8 one in 10^8. The
defaults are those of Akka's detector.
"""

from __future__ import annotations

import math
from collections import deque

import trio

from clustercore.interfaces.errors import ConfigError
from clustercore.interfaces.health import CheckOutcome, CheckResult, Probe
from clustercore.interfaces.retry_values import ErrorCategory

__all__ = ["PhiAccrualProbe"]

# With fewer intervals than this, how regular they are is not known: they are taken to vary by a quarter at least.
_FEW = 10
# Phi is told up to here; what is beyond says nothing more, and its probability is no number any more.
_MAX_PHI = 300.0


class PhiAccrualProbe(Probe):
    """Waits to be told, as ``TtlProbe`` does, and finds out by itself how long is too long.

    Its failure is decisive: what other probes count by failures in a row is in ``phi`` already.
    """

    def __init__(
        self,
        *,
        threshold: float = 8.0,
        min_deviation_s: float = 0.1,
        acceptable_pause_s: float = 3.0,
        samples: int = 1000,
    ) -> None:
        """Fail when ``phi`` reaches ``threshold``.

        Args:
            threshold: Above 0.
            min_deviation_s: Heartbeats are taken for no more regular than this, in seconds.
            acceptable_pause_s: So much longer than usual an interval may be, in seconds, before it counts: a pause for
                garbage collection, a short loss of the network.
            samples: How many of the last intervals count.

        Raises: ConfigError.
        """
        for name, value in (("threshold", threshold), ("min_deviation_s", min_deviation_s)):
            if not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if not acceptable_pause_s >= 0:
            raise ConfigError(f"acceptable_pause_s is {acceptable_pause_s}; it must be at least 0")
        if samples < 1:
            raise ConfigError(f"samples is {samples}; it must be at least 1")
        self._threshold = threshold
        self._min_deviation_s = min_deviation_s
        self._acceptable_pause_s = acceptable_pause_s
        self._intervals: deque[float] = deque(maxlen=samples)
        # Of the intervals that are kept.
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._last: float | None = None

    def beat(self) -> None:
        """Say that whoever is watched is alive. Called inside Trio."""
        now = trio.current_time()
        # What was taken for a failure says nothing of how regular heartbeats are.
        if self._last is not None and (len(self._intervals) < _FEW or self.phi(now) < self._threshold):
            self._keep(now - self._last)
        self._last = now

    def _keep(self, interval: float) -> None:
        if len(self._intervals) == self._intervals.maxlen:
            oldest = self._intervals[0]
            self._sum -= oldest
            self._sum_of_squares -= oldest * oldest
        self._intervals.append(interval)
        self._sum += interval
        self._sum_of_squares += interval * interval

    def phi(self, now: float) -> float:
        """Return the suspicion at ``now`` (Trio's clock): 0 while nothing is known of the intervals, 300 at most."""
        if self._last is None or not self._intervals:
            return 0.0
        count = len(self._intervals)
        mean = self._sum / count
        deviation = max(math.sqrt(max(self._sum_of_squares / count - mean * mean, 0.0)), self._min_deviation_s)
        if count < _FEW:
            deviation = max(deviation, mean / 4)
        y = (now - self._last - mean - self._acceptable_pause_s) / deviation
        later = math.erfc(y / math.sqrt(2)) / 2
        return min(-math.log10(later), _MAX_PHI) if later > 0 else _MAX_PHI

    async def check(self) -> CheckResult:
        """Return whether the next heartbeat is too late by now."""
        if self._last is None:
            return CheckResult(CheckOutcome.UNKNOWN, "it was not heard yet")
        phi = self.phi(trio.current_time())
        detail = f"phi is {phi:.2f}; {self._threshold:g} is a failure"
        if phi >= self._threshold:
            return CheckResult(CheckOutcome.FAIL, detail, ErrorCategory.TIMEOUT_ERROR, is_decisive=True)
        return CheckResult(CheckOutcome.OK, detail)

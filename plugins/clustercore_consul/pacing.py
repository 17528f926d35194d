"""How often Consul is asked: seldom when it fails, and not without limit when it answers at once every time."""

from __future__ import annotations

from random import Random

import trio

__all__ = ["Backoff", "RateLimit"]


class Backoff:
    """The pauses after failures: twice as long each time, up to a limit, and spread so that nodes do not ask in step.

    Consul's own clients wait up to three minutes. A node that moved meanwhile should be found sooner.
    """

    def __init__(self, rng: Random, *, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._rng = rng
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._failures = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Return how long to wait after one more failure, in seconds; at least as long as the server asks for."""
        # The exponent is bounded before it is used: no number of failures overflows.
        pause_s: float = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return max(pause_s * self._rng.uniform(0.5, 1.0), at_least_s or 0.0)


class RateLimit:
    """A bucket of tokens: so many at once, and then one each ``interval_s``.

    A service that changes all the time answers each blocking query at once; without a limit it would be asked as fast
    as it can answer.
    """

    def __init__(self, *, burst: int, interval_s: float) -> None:
        self._burst = burst
        self._interval_s = interval_s
        # When the bucket will be full again, on Trio's clock.
        self._full_at = -float("inf")

    async def wait(self) -> None:
        """Take a token, waiting for one if there is none. Cancelled meanwhile, none is taken."""
        now = trio.current_time()
        full_at = max(self._full_at, now) + self._interval_s
        await trio.sleep(max(0.0, full_at - now - self._burst * self._interval_s))
        self._full_at = full_at

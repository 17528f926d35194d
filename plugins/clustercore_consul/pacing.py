"""How often Consul is asked: seldom when it fails, and not without limit when it answers at once every time."""

from __future__ import annotations

from random import Random

import trio

from clustercore.interfaces import Backoff

__all__ = ["RateLimit", "failure_pauses"]


def failure_pauses(rng: Random, longest_s: float = 30.0) -> Backoff:
    """Return the pauses after failures.

    Consul's own clients wait up to three minutes. A node that moved meanwhile should be found sooner.
    """
    return Backoff(0.5, 2.0, longest_s, rng)


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

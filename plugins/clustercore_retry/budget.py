"""The budget of a target: how many retries it may be sent, at most, whatever its callers' policies would allow.

Each retry costs tokens; successes and time bring them back. So in an outage the retries of all callers together are a
small share of the requests before it, and a trickle: what is sent to a target that cannot answer does not keep it from
recovering. A budget that only successes refill would stay empty once it is (aws/aws-sdk-go-v2#3550).
"""

from __future__ import annotations

import attrs

from clustercore.interfaces import ConfigError, ErrorCategory

__all__ = ["Budget", "BudgetConfig"]


@attrs.frozen(kw_only=True)
class BudgetConfig:
    """The numbers of a budget.

    With the defaults, of retries that all fail, a target gets at most ``(120 + successes + 0.5 * seconds) / 14``:
    eight, and 7 % of the calls that succeeded at once before, and one every 28 s. For a rate limit, whose
    rejections are cheap for the server, the cost is 5: one every 10 s.

    Raises: ConfigError if a value is out of range.
    """

    # A reserve of 35 retries, for the moment in which everything fails at once.
    capacity: float = 500.0
    # What a target begins with: no reserve was earned yet. Enough for one call with all its retries, and some.
    initial: float = 120.0
    retry_cost: float = 14.0
    rate_limit_cost: float = 5.0
    # What a call that succeeds at once brings.
    success_deposit: float = 1.0
    # With rate_limit_cost, a tenth of a retry a second: no trickle is faster.
    refill_per_s: float = 0.5

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        for name in ("retry_cost", "rate_limit_cost", "refill_per_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.success_deposit < 0:
            raise ConfigError(f"success_deposit is {self.success_deposit}; it must be at least 0")
        dearest = max(self.retry_cost, self.rate_limit_cost)
        if self.capacity < dearest:
            raise ConfigError(f"capacity is {self.capacity}; it must be at least the cost of a retry ({dearest})")
        if not 0 <= self.initial <= self.capacity:
            raise ConfigError(f"initial is {self.initial}; it must be from 0 to capacity ({self.capacity})")

    def cost(self, category: ErrorCategory) -> float:
        """Return what a retry after such an error costs."""
        return self.rate_limit_cost if category is ErrorCategory.RATE_LIMIT_ERROR else self.retry_cost


class Budget:
    """A bucket of tokens. 0 <= level <= capacity, always."""

    def __init__(self, config: BudgetConfig, now: float) -> None:
        self._config = config
        self._level = config.initial
        self._at = now

    def level(self, now: float) -> float:
        """Return what it holds now."""
        # A clock that went backwards, as from one Trio run to the next, brings nothing.
        elapsed = max(0.0, now - self._at)
        self._at = now
        self.give(elapsed * self._config.refill_per_s)
        return self._level

    def take(self, cost: float, now: float) -> bool:
        """Take the cost if there is enough; return whether it was taken."""
        if self.level(now) < cost:
            return False
        self._level -= cost
        return True

    def give(self, tokens: float) -> None:
        """Put tokens in; what would overflow is lost."""
        self._level = min(self._config.capacity, self._level + tokens)

"""How long to wait before the next attempt: longer each time, spread, and from the start once one has succeeded."""

from __future__ import annotations

import math
from random import Random

import attrs

from clustercore.interfaces.errors import ConfigError

__all__ = ["Backoff"]

# Each wait is drawn from this share below to this share above, so that those who lost a peer or a server at the same
# moment do not all call it at the same moment (gRPC's connection-backoff.md).
_SPREAD = 0.2


@attrs.define(eq=False)
class Backoff:
    """The waits between attempts to reach one peer, server or cluster.

    Raises: ConfigError if the first wait is not above 0, the longest is shorter, or the factor below 1.
    """

    first_s: float
    factor: float
    max_s: float
    # Spreads the waits, and keeps no secret.
    rng: Random = attrs.field(factory=Random, repr=False)
    # The next wait before it is spread.
    _next_s: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        if not (0 < self.first_s <= self.max_s < math.inf and self.factor >= 1):
            raise ConfigError(
                f"a back-off from {self.first_s} s by {self.factor} to {self.max_s} s: the first wait must be above 0, "
                "the longest finite and not shorter, and the factor at least 1"
            )
        self.reset()

    def draw(self, at_least_s: float | None = None) -> float:
        """Return how long to wait now, in seconds; the next wait is longer by the factor.

        Args:
            at_least_s: What the other side has asked for, in seconds, if it has.
        """
        wait_s = self._next_s * self.rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._next_s = min(self._next_s * self.factor, self.max_s)
        return max(wait_s, at_least_s or 0.0)

    def reset(self) -> None:
        """Begin again with the first wait: an attempt has succeeded, or the other side was heard."""
        self._next_s = self.first_s

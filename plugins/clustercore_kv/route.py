"""Which node a client asks next, and how long it waits before it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import trio

from clustercore.interfaces import Backoff, ConfigError

__all__ = ["Route", "Router"]


class Router:
    """What all requests of a client share: the addresses, and the one that answered last.

    Args:
        addresses: One or more, each once, in the transport's form.
        rng: Spreads the pauses, so that clients that failed together do not come back together.
        first_pause_s: The pause after the first round of nodes, in seconds. It doubles with each round.
        max_pause_s: What it grows to, in seconds.

    Raises: ConfigError.
    """

    def __init__(self, addresses: Sequence[str], rng: Random, first_pause_s: float, max_pause_s: float) -> None:
        if isinstance(addresses, str) or not addresses:
            raise ConfigError(f"addresses is {addresses!r}; it must be a list of one address or more")
        if not 0 < first_pause_s <= max_pause_s < math.inf:
            raise ConfigError(
                f"first_pause_s is {first_pause_s} and max_pause_s {max_pause_s}; the first must be above 0 and at "
                "most the second, which is finite"
            )
        # Without repetition, in the order given.
        self.addresses = tuple(dict.fromkeys(addresses))
        # An index of addresses: where the next request begins.
        self.preferred = 0
        # Why each address failed last; one that answered since, or was never asked, is missing.
        self.failures: dict[str, str] = {}
        self._rng = rng
        self._pauses_s = first_pause_s, max_pause_s

    @property
    def name(self) -> str:
        """The cluster, as a target of retries: by all of its addresses."""
        return ",".join(sorted(self.addresses))

    def pauses(self) -> Backoff:
        """Return the pauses of one request, one for each round of nodes that all failed."""
        first_s, max_s = self._pauses_s
        return Backoff(first_s, 2.0, max_s, self._rng)


class Route:
    """One request's way from node to node: every one in turn, with a pause after each round."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._position = router.preferred
        self._pauses = router.pauses()
        # Of the present round.
        self._failures = 0

    @property
    def address(self) -> str:
        """The node to ask now."""
        return self._router.addresses[self._position]

    def arrived(self) -> None:
        """Take note that this node answered: other requests begin with it."""
        self._router.preferred = self._position
        self._router.failures.pop(self.address, None)
        self._pauses.reset()
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Take note of why this node did not answer, for whoever waits in vain."""
        self._router.failures[self.address] = reason

    def turn(self) -> None:
        """Turn to the next node."""
        self._position = (self._position + 1) % len(self._router.addresses)

    async def advance(self) -> None:
        """Turn to the next node. Waits first, once every node has failed."""
        self._failures += 1
        self.turn()
        if self._failures < len(self._router.addresses):
            await trio.lowlevel.checkpoint()
        else:
            self._failures = 0
            await trio.sleep(self._pauses.draw())

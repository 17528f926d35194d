"""How good the wires of a memory network are."""

from __future__ import annotations

import math

import attrs

from clustercore.interfaces import ConfigError

__all__ = ["LinkQuality"]


@attrs.frozen(kw_only=True)
class LinkQuality:
    """What becomes of the messages that are sent on links. By default they arrive at once, each once.

    A transport may lose, delay, repeat and reorder messages, so a node must bear any of these. Calls of services are
    not touched.

    Raises: ConfigError for a value out of its range.
    """

    # Seconds that every message is on its way.
    latency_s: float = 0.0
    # A message is on its way for up to so many seconds more, drawn for each: so one overtakes another.
    jitter_s: float = 0.0
    # The share of the messages that do not arrive, and of those that arrive twice; from 0 to 1.
    loss: float = 0.0
    repetition: float = 0.0
    # What a link carries each way: a message waits for those before it, and takes time by its size on a wire.
    bytes_per_s: float = math.inf

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        for name in ("latency_s", "jitter_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: expected seconds, at least 0, and finite")
        for name in ("loss", "repetition"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: expected a share from 0 to 1")
        if not self.bytes_per_s > 0:
            raise ConfigError(f"bytes_per_s = {self.bytes_per_s!r}: expected a number above 0")

"""What a ``RaftClient`` may be told, checked where it comes in."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import attrs

from clustercore.interfaces import ConfigError

__all__ = ["RaftClientConfig"]

# What a wait is multiplied by: drawn evenly from this range.
_JITTERS = {"spread": (0.8, 1.2), "full": (0.0, 1.0)}


def _check_above_0(config: RaftClientConfig, attribute: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{attribute.name} = {value!r}: expected a number above 0, and finite")


def _check_count(config: RaftClientConfig, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{attribute.name} = {value!r}: expected a whole number, at least 0")


def _check_factor(config: RaftClientConfig, attribute: attrs.Attribute[float], value: float) -> None:
    _check_above_0(config, attribute, value)
    if value < 1:
        raise ConfigError(f"{attribute.name} = {value!r}: expected a number, at least 1")


def _check_jitter(config: RaftClientConfig, attribute: attrs.Attribute[str], value: object) -> None:
    if value not in _JITTERS:
        raise ConfigError(f"{attribute.name} = {value!r}: expected one of {', '.join(map(repr, _JITTERS))}")


@attrs.frozen(kw_only=True)
class RaftClientConfig:
    """What a client may be told. Raises: ConfigError, naming the field, its value and what is allowed."""

    # Seconds for one call: for its turn, connecting, all attempts and the waits between them.
    timeout: float = attrs.field(default=2.0, validator=_check_above_0)
    # Seconds for one attempt, after which the next is made; None: as long as the call may take.
    attempt_timeout_s: float | None = attrs.field(default=None, validator=attrs.validators.optional(_check_above_0))
    # Attempts after the first.
    max_retries: int = attrs.field(default=3, validator=_check_count)
    # Seconds before the first retry; each wait after that is ``retry_backoff`` times as long, up to
    # ``max_retry_delay_s``. All are drawn from 0.8 to 1.2 times that (gRFC A6), or with ``jitter = "full"`` from 0 to
    # once. What the node says about coming back wins, and the waits begin anew after it.
    retry_delay: float = attrs.field(default=0.1, validator=_check_above_0)
    retry_backoff: float = attrs.field(default=2.0, validator=_check_factor)
    max_retry_delay_s: float = attrs.field(default=5.0, validator=_check_above_0)
    jitter: str = attrs.field(default="spread", validator=_check_jitter)
    # The rest is the transport's.
    keepalive_time_ms: int = 2_000
    keepalive_timeout_ms: int = 2_000
    max_message_bytes: int = 64 * 1024 * 1024
    token: str = attrs.field(default="", repr=False)
    tls_certificate: Path | str = ""
    tls_key: Path | str = ""
    tls_authority: Path | str = ""
    # What the client says of the node in whose name it asks: see ``Hello``.
    cluster_id: str = ""
    incarnation: str = ""
    starts: int = 0

    def delay_s(self, retry: int, rng: Random) -> float:
        """Return how long to wait before retry number ``retry``, from 1, in seconds."""
        # Compared by logarithms: the power of a large number would overflow.
        grown = math.log(self.retry_delay) + (retry - 1) * math.log(self.retry_backoff)
        delay_s = self.max_retry_delay_s if grown >= math.log(self.max_retry_delay_s) else math.exp(grown)
        return delay_s * rng.uniform(*_JITTERS[self.jitter])

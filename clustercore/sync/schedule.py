"""When to sync with which peer, by the monotonic clock. No clock is read here, and nothing waits.

Slots are at fixed distances, so that a session that takes long moves none of those after it; each begins a little
earlier or later, so that the nodes of a cluster do not fall into step, and each peer has slots of its own.
"""

from __future__ import annotations

import math
from enum import Enum
from random import Random

import attrs

from clustercore.interfaces import ConfigError
from clustercore.sync.entities import GRACE_S

__all__ = ["MAX_BATCH_BYTES", "MAX_BATCH_CHANGES", "PeerSchedule", "SyncConfig", "SyncKind"]

# The most that one answer may carry, whatever the receiver asks for: memory is bounded by one batch for each peer.
MAX_BATCH_CHANGES = 500
MAX_BATCH_BYTES = 1024 * 1024


class SyncKind(Enum):
    """What a session does."""

    # Fetches what changed since the last one.
    INCREMENTAL = "incremental"
    # Compares everything there is, and fetches what differs.
    FULL = "full"


def _positive(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{attribute.name} is {value}; it must be above 0")


@attrs.frozen(kw_only=True)
class SyncConfig:
    """Limits and timing of the sync between nodes. The defaults are those of the Cluster Center.

    Raises: ConfigError if a value is out of range.
    """

    # Seconds between two sessions with one peer.
    incremental_interval_s: float = attrs.field(default=30.0, validator=_positive)
    # Seconds between two of them that compare everything, the net below the incremental ones. Infinity turns it off.
    full_interval_s: float = attrs.field(default=300.0, validator=_positive)
    # The share of the interval by which a session begins earlier or later, from 0 to below 0.5.
    jitter: float = 0.1
    # An entity that changed within so many seconds sends only its key fields; the rest follows. 0 turns it off.
    window_s: float = 5.0
    # For how long, in seconds, an entity that never rests may keep the rest back.
    window_limit_s: float = attrs.field(default=60.0, validator=_positive)
    # The most that one answer carries; a larger record travels alone.
    max_batch_changes: int = MAX_BATCH_CHANGES
    max_batch_bytes: int = MAX_BATCH_BYTES
    # Seconds a peer may take for one answer. A retry policy, if there is one, tries again within the slot.
    call_timeout_s: float = attrs.field(default=5.0, validator=_positive)
    # The most bytes a second that this node takes from one peer; infinity for no limit.
    max_bytes_per_s: float = attrs.field(default=math.inf, validator=_positive)
    # Seconds between two looks for deletions that can be forgotten. Infinity turns it off.
    collect_interval_s: float = attrs.field(default=600.0, validator=_positive)
    # How old a deletion must be to be forgotten, in seconds, once every member knows of it. A warning names who holds
    # back older ones, so this is longer than members usually are away.
    grace_s: float = attrs.field(default=GRACE_S, validator=_positive)

    def __attrs_post_init__(self) -> None:
        """Check what belongs together."""
        if not 0 <= self.jitter < 0.5:
            raise ConfigError(f"jitter is {self.jitter}; it must be at least 0 and below 0.5")
        if not 0 <= self.window_s <= self.window_limit_s:
            limit_s = self.window_limit_s
            raise ConfigError(f"window_s is {self.window_s}; it must be from 0 to window_limit_s, {limit_s}")
        if not 1 <= self.max_batch_changes <= MAX_BATCH_CHANGES:
            raise ConfigError(
                f"max_batch_changes is {self.max_batch_changes}; it must be from 1 to {MAX_BATCH_CHANGES}"
            )
        if not 1024 <= self.max_batch_bytes <= MAX_BATCH_BYTES:
            raise ConfigError(f"max_batch_bytes is {self.max_batch_bytes}; it must be from 1024 to {MAX_BATCH_BYTES}")


class PeerSchedule:
    """The slots of one peer."""

    def __init__(self, config: SyncConfig, rng: Random, now: float, *, is_first: bool) -> None:
        """Begin now.

        Args:
            rng: Draws jitter and stagger; a seeded one repeats itself.
            now: Seconds on the monotonic clock, as everywhere here.
            is_first: Nothing was ever fetched from this peer, so that the first session is due at once, and is full.
                Otherwise it is incremental, and due within the first interval, at a time of the peer's own.
        """
        self._config = config
        self._rng = rng
        self._is_first = is_first
        self._start = now if is_first else now + rng.random() * config.incremental_interval_s
        # Slots since the start: which is next, and when.
        self._slot = 0
        self._full_at = self._start + config.full_interval_s
        self.due_at = self._start

    def take(self, now: float) -> SyncKind:
        """Begin the session that is due: return what it is to do, and set the next one."""
        is_full = self._is_first or now >= self._full_at
        self._is_first = False
        if is_full:
            self.full_done(now)
        # Slots that a long session or a suspended machine slept through are not made up for.
        passed = math.floor((now - self._start) / self._config.incremental_interval_s + 0.5)
        self._slot = max(self._slot, passed) + 1
        spread_s = self._config.incremental_interval_s * self._config.jitter
        self.due_at = max(now, self._time_of(self._slot) + self._rng.uniform(-spread_s, spread_s))
        return SyncKind.FULL if is_full else SyncKind.INCREMENTAL

    def full_done(self, now: float) -> None:
        """Take note of a full comparison; the next is an interval away."""
        # The slot that is an interval away may come early by the jitter, and this one have been late by it.
        spread_s = 2 * self._config.jitter * self._config.incremental_interval_s
        self._full_at = now + max(self._config.full_interval_s - spread_s, self._config.full_interval_s / 2)

    def full_failed(self) -> None:
        """Take note that a full comparison did not come to its end: the next session tries again."""
        self._full_at = -math.inf

    def _time_of(self, slot: int) -> float:
        return self._start + slot * self._config.incremental_interval_s

"""The numbers by which nodes are checked."""

from __future__ import annotations

import math

import attrs

from clustercore.interfaces.errors import ConfigError

__all__ = ["HealthConfig"]


@attrs.frozen(kw_only=True)
class HealthConfig:
    """How often nodes are checked, and when which of them is taken for unhealthy. All times are in seconds.

    A node that stops to answer is unhealthy after ``worst_case_detection_s`` at the latest, as long as the
    checker itself is well and below its own limits.

    Raises: ConfigError if a value is out of range; the text names it and what is allowed.
    """

    # From the beginning of one check of a node to the beginning of the next.
    check_interval: float = 10.0
    # How long one check may take; below check_interval, so that a node's checks never overlap.
    timeout: float = 2.0
    # So many failed checks in a row make a node unhealthy, and so many good ones healthy again. Of a node that nothing
    # is known of yet the first good one is enough.
    failure_threshold: int = 3
    success_threshold: int = 2
    # Each interval is longer or shorter by up to this share, so that checkers do not fall into step.
    jitter: float = 0.1
    # A node that stays unhealthy for longer than deregister_after_s is checked less and less often, but at least this
    # often.
    max_check_interval_s: float = 60.0
    # Checks under way at once, and begun in a second, over all nodes; the others wait for their turn, and those whose
    # next turn comes meanwhile are skipped.
    max_concurrent_checks: int = 64
    max_checks_per_s: float = 200.0
    # So many changes between good and bad within so many intervals, and a node is flapping: it gets no work until it
    # has been well for flap_hold_s, which is longer each time, up to max_flap_hold_s.
    flap_changes: int = 5
    flap_intervals: int = 10
    flap_hold_s: float = 30.0
    max_flap_hold_s: float = 300.0

    # --- What follows is for nodes that discovery is told of ---

    # An unhealthy node gets no work at once; it is taken out of discovery after so long without a good moment.
    deregister_after_s: float = 60.0
    # Never more than this share of the nodes is taken out, but always one.
    max_removed_share: float = 0.33
    # With less than this share of the nodes healthy, the checker doubts itself: nothing is taken out, and all get work.
    panic_share: float = 0.5
    # If more than this share turns unhealthy within one interval, none of those is taken out for cliff_hold_s seconds.
    cliff_share: float = 0.5
    cliff_hold_s: float = 300.0
    # So many other nodes are asked to look at one that does not answer, before the check counts as failed: then it has
    # half of the timeout to answer itself. One that others reach gets a warning. All nodes should use the same.
    indirect_probes: int = 0
    # After being unhealthy for so long, a member's replacement is suggested to the operator.
    suggest_replacement_after_s: float = 600.0

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        for name in ("check_interval", "timeout", "max_checks_per_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("failure_threshold", "success_threshold", "max_concurrent_checks", "flap_intervals"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.indirect_probes < 0:
            raise ConfigError(f"indirect_probes is {self.indirect_probes}; it must be at least 0")
        if self.flap_changes < 2:
            raise ConfigError(f"flap_changes is {self.flap_changes}; it must be at least 2")
        for name in ("flap_hold_s", "deregister_after_s", "cliff_hold_s", "suggest_replacement_after_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 seconds")
        for name in ("max_removed_share", "panic_share", "cliff_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter is {self.jitter}; it must be at least 0 and below 1")
        shortest = self.check_interval * (1 - self.jitter)
        if not self.timeout < shortest:
            raise ConfigError(
                f"timeout is {self.timeout}; it must be below the shortest interval, {shortest:g} seconds, or the "
                "checks of a node would overlap"
            )
        for name, least in (("max_check_interval_s", "check_interval"), ("max_flap_hold_s", "flap_hold_s")):
            if getattr(self, name) < getattr(self, least):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def worst_case_detection_s(self) -> float:
        """The longest time from the moment a node stops to answer until it is unhealthy, in seconds.

        It stops just after a check has begun that was answered. Each of the next ones begins an interval after the one
        before, and the last that it takes has its timeout.
        """
        return self.check_interval * (1 + self.jitter) * self.failure_threshold + self.timeout

    @property
    def patience(self) -> int:
        """So many failed checks in a row, and a node is asked less often.

        Before ``deregister_after_s`` is over it is not: a node that is well again by then must be found so.
        """
        return self.failure_threshold + math.ceil(self.deregister_after_s / self.check_interval)

    @property
    def flap_window_s(self) -> float:
        """The time in which changes are counted that make a node flapping, in seconds."""
        return self.flap_intervals * self.check_interval * (1 + self.jitter)

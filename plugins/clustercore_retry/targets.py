"""What is kept of each target: its budget, its hold, what was learned of it, and what was counted."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import attrs

from clustercore.interfaces import CategoryLimits, CategoryStatistics, ErrorCategory, StopReason, TargetStatistics
from clustercore_retry.budget import Budget, BudgetConfig
from clustercore_retry.learning import Learner

__all__ = ["Counters", "Target", "Targets"]

# The operations of a target that are counted apart; further ones are counted as "". Names made of keys or ids must not
# fill the memory.
_MAX_OPERATIONS = 64


@attrs.define
class Counters:
    """Counts of one category, in one operation on one target: the fields of ``CategoryStatistics``."""

    errors: int = 0
    retries: int = 0
    retry_successes: int = 0
    # By the number of the retry, from 1.
    successes_by_retry: dict[int, int] = attrs.field(factory=dict)
    stops: dict[StopReason, int] = attrs.field(factory=dict)
    delay_s: float = 0.0

    def stopped(self, reason: StopReason) -> None:
        """Count an error that was not tried again."""
        self.stops[reason] = self.stops.get(reason, 0) + 1

    def succeeded(self, retry: int) -> None:
        """Count a retry that succeeded, by its number in its call."""
        self.retry_successes += 1
        self.successes_by_retry[retry] = self.successes_by_retry.get(retry, 0) + 1

    def frozen(self, target: str, operation: str, category: ErrorCategory) -> CategoryStatistics:
        """Return the counts as they are now."""
        last = max(self.successes_by_retry, default=0)
        return CategoryStatistics(
            target=target,
            operation=operation,
            category=category,
            errors=self.errors,
            retries=self.retries,
            retry_successes=self.retry_successes,
            successes_by_retry=tuple(self.successes_by_retry.get(retry, 0) for retry in range(1, last + 1)),
            stops=dict(self.stops),
            delay_s=self.delay_s,
        )


class Target:
    """One target."""

    def __init__(
        self, name: str, limits: Mapping[ErrorCategory, CategoryLimits], budget: BudgetConfig, now: float
    ) -> None:
        self.name = name
        self.budget = Budget(budget, now)
        self.learners = {category: Learner(table) for category, table in limits.items()}
        self.first_attempts = 0
        self.first_successes = 0
        self._capacity = budget.capacity
        # Until when it asks all its callers to wait.
        self._held_until = -math.inf
        self._operations: dict[str, dict[ErrorCategory, Counters]] = {}

    def hold(self, until: float) -> None:
        """Take note of its wish to be left alone. The latest moment counts: another answer may have told an earlier."""
        self._held_until = max(self._held_until, until)

    def hold_s(self, now: float) -> float:
        """Return how long it asks to be left alone still."""
        return max(0.0, self._held_until - now)

    def counters(self, operation: str, category: ErrorCategory) -> Counters:
        """Return the counts to add to."""
        if operation not in self._operations and len(self._operations) >= _MAX_OPERATIONS:
            operation = ""
        return self._operations.setdefault(operation, {}).setdefault(category, Counters())

    def first_attempt_ended(self, success: bool) -> None:
        """Take note of how a call's first attempt ended."""
        self.first_attempts += 1
        self.first_successes += success
        for learner in self.learners.values():
            if learner.is_lowered:
                learner.record_first_attempt(success)

    def category_statistics(self) -> Iterator[CategoryStatistics]:
        """Yield the counts, by operation and category."""
        for operation, categories in self._operations.items():
            for category, counters in categories.items():
                yield counters.frozen(self.name, operation, category)

    def statistics(self, now: float) -> TargetStatistics:
        """Return what holds for all its operations."""
        return TargetStatistics(
            target=self.name,
            first_attempts=self.first_attempts,
            first_successes=self.first_successes,
            retries=sum(counted.retries for counted in self.category_statistics()),
            budget_level=self.budget.level(now),
            budget_capacity=self._capacity,
            hold_s=self.hold_s(now),
            limits=tuple(learner.limits for learner in self.learners.values()),
        )


class Targets:
    """The targets that are remembered: at most so many, the one that was not asked for longest goes first."""

    def __init__(self, limits: Mapping[ErrorCategory, CategoryLimits], budget: BudgetConfig, most: int) -> None:
        self._limits = limits
        self._budget = budget
        self._most = most
        self._targets: OrderedDict[str, Target] = OrderedDict()

    def get(self, name: str, now: float) -> Target:
        """Return a target, new if it is not remembered."""
        target = self._targets.get(name)
        if target is None:
            target = self._targets[name] = Target(name, self._limits, self._budget, now)
            if len(self._targets) > self._most:
                self._targets.popitem(last=False)
        self._targets.move_to_end(name)
        return target

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

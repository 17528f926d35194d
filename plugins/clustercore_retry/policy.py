"""CategoryRetryPolicy: the policy's methods, on top of classification, budgets and learning."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random

import trio

from clustercore.interfaces import (
    CategoryLimits,
    Classification,
    ConfigError,
    ErrorCategory,
    ErrorStatistics,
    LimitChange,
    RetryCall,
    RetryEvent,
    RetryOperation,
    RetryPolicy,
    RetryTable,
    StopReason,
)
from clustercore_retry.budget import BudgetConfig
from clustercore_retry.classifier import Classifier
from clustercore_retry.operation import CategoryOperation, Grant
from clustercore_retry.rule import RetryRule
from clustercore_retry.table import CATEGORY_DEFAULTS
from clustercore_retry.targets import Target, Targets

__all__ = ["CategoryRetryPolicy"]

# The changes that the statistics remember.
_MAX_CHANGES = 1000
# Callers that a target has asked to wait do not come back all at once: each waits up to this share longer.
_HOLD_SPREAD = 0.1
# 2 to a larger power, by little, raises OverflowError. A product that is too large is infinite, and the longest wait
# counts.
_MAX_DOUBLINGS = 1000


class CategoryRetryPolicy(RetryPolicy):
    """Retries by category of error: ``clustercore retry table`` shows what is retried, how often and how soon.

    A call whose errors change uses each category's own allowance, and ``max_total_retries`` over all. An example: a
    call fails with NETWORK twice, and then goes on failing with SERVER. It is tried again three times more, for that is
    what SERVER allows and what is left of five; had NETWORK come three times, there would be two left.

    Safe to make anywhere; it keeps no task and no file. Its time is Trio's inside ``trio.run``, else the system's
    monotonic clock; a policy that serves more than one run sees the clock jump between them, which at worst fills its
    budgets.

    Args:
        rules: Consulted before the table: see ``RetryRule``.
        wrappers: Names of exceptions that only wrap another, such as "acme:CallFailed". Their cause is classified.
        limits: Rows that replace the table's.
        max_total_retries: Of one call, whatever the categories.
        is_idempotent: Whether calls are, if nothing else is said.
        max_hint_s: A server that asks for a longer wait than this, in seconds, is not waited for: the call fails.
        budget: The numbers of each target's budget.
        max_targets: Targets remembered; the one not asked for longest is forgotten first.
        auto_adjust: Learn while in use. Without, only ``auto_adjust_configs`` changes anything.
        clock: Returns seconds, never going back.
        rng: Draws the delays.
        on_event: Called with each decision. It must be quick; what it raises, the call raises.
        on_change: Called with each change of limits, likewise.

    Raises: ConfigError if a value is out of range, or a category is given limits twice.
    """

    def __init__(
        self,
        *,
        rules: Sequence[RetryRule] = (),
        wrappers: Sequence[str] = (),
        limits: Sequence[CategoryLimits] = (),
        max_total_retries: int = 5,
        is_idempotent: bool = False,
        max_hint_s: float = 60.0,
        budget: BudgetConfig | None = None,
        max_targets: int = 1000,
        auto_adjust: bool = True,
        clock: Callable[[], float] | None = None,
        rng: Random | None = None,
        on_event: Callable[[RetryEvent], None] | None = None,
        on_change: Callable[[LimitChange], None] | None = None,
    ) -> None:
        for name, value, least in (
            ("max_total_retries", max_total_retries, 0),
            ("max_hint_s", max_hint_s, 0),
            ("max_targets", max_targets, 1),
        ):
            if not value >= least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        self.default_call = RetryCall(is_idempotent=is_idempotent)
        self._classifier = Classifier(rules, wrappers)
        self._limits = _merged(limits)
        self._max_total_retries = max_total_retries
        self._max_hint_s = max_hint_s
        self._budget = budget or BudgetConfig()
        self._max_targets = max_targets
        self._is_adjusting = auto_adjust
        self._is_frozen = False
        self._clock = clock or _now
        self._rng = rng or Random()
        self._on_event = on_event
        self._on_change = on_change
        self._targets = Targets(self._limits, self._budget, max_targets)
        self._changes: deque[LimitChange] = deque(maxlen=_MAX_CHANGES)

    # --- What an error is ---------------------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> Classification:
        return self._classifier.classify(error)

    def table(self) -> RetryTable:
        return RetryTable(tuple(self._limits.values()), self._classifier.rows())

    # --- Deciding by hand ---------------------------------------------------------------------------------------------

    def should_retry(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> bool:
        _check_count(retry_count)
        found = self.explain(error)
        if found.category is None:
            return False
        call = call or self.default_call
        target = self._target(call)
        if retry_count == 0:
            target.first_attempt_ended(success=False)
        counters = target.counters(call.operation, found.category)
        counters.errors += 1
        self.note_hint(target, found)
        outcome = self.decide(
            target,
            found,
            found.category,
            call,
            category_retries=retry_count,
            total_retries=retry_count,
            remaining_s=math.inf,
        )
        if isinstance(outcome, StopReason):
            counters.stopped(outcome)
            return False
        return True

    def get_retry_delay(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> float:
        _check_count(retry_count)
        found = self.explain(error)
        if found.category is None or not self._limits[found.category].max_retries:
            return 0.0
        return self._delay_s(self._target(call or self.default_call), found, found.category, retry_count)

    def record_retry(self, error: BaseException, success: bool, call: RetryCall | None = None) -> None:
        found = self.explain(error)
        if found.category is None:
            return
        call = call or self.default_call
        target = self._target(call)
        counters = target.counters(call.operation, found.category)
        counters.retries += 1
        counters.retry_successes += success
        self.retry_ended(target, found.category, success, self._budget.cost(found.category))
        self.adjust(target)

    # --- What was learned ---------------------------------------------------------------------------------------------

    def get_error_statistics(self) -> ErrorStatistics:
        now = self._clock()
        return ErrorStatistics(
            tuple(counted for target in self._targets for counted in target.category_statistics()),
            tuple(target.statistics(now) for target in self._targets),
            tuple(self._changes),
        )

    def auto_adjust_configs(self) -> tuple[LimitChange, ...]:
        return tuple(change for target in self._targets for change in self._adjusted(target))

    def freeze(self) -> None:
        """Change no limits from now on, until ``thaw``. Evidence goes on being gathered."""
        self._is_frozen = True

    def thaw(self) -> None:
        """Learn again after ``freeze``."""
        self._is_frozen = False

    def reset(self) -> None:
        """Put the table in force again for every target, and forget the evidence. Counts and budgets stay."""
        for target in self._targets:
            for category, table in self._limits.items():
                self._restore(target, category, table.max_retries, 1.0, "reset")

    def export_limits(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return what is lowered, by target and category, as JSON can hold it."""
        return {
            target.name: lowered
            for target in self._targets
            if (
                lowered := {
                    category.value: {"max_retries": learner.max_retries, "pace": learner.pace}
                    for category, learner in target.learners.items()
                    if learner.is_lowered
                }
            )
        }

    def import_limits(self, exported: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Put in force what ``export_limits`` told, within the table's caps; what it does not name stays as it is.

        Raises: ConfigError, having changed nothing, if a category is not known or a number is missing.
        """
        wanted = [
            (target, *_read_limits(target, category, numbers))
            for target, categories in exported.items()
            for category, numbers in categories.items()
        ]
        for name, category, max_retries, pace in wanted:
            self._restore(self._targets.get(name, self._clock()), category, max_retries, pace, "imported")

    # --- Calling ------------------------------------------------------------------------------------------------------

    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        return CategoryOperation(self, self._target(call), call, is_nested)

    # --- For CategoryOperation ----------------------------------------------------------------------------------------

    def decide(
        self,
        target: Target,
        found: Classification,
        category: ErrorCategory,
        call: RetryCall,
        *,
        category_retries: int,
        total_retries: int,
        remaining_s: float,
    ) -> Grant | StopReason:
        """Grant a retry, taking it from the budget, or say why not. Called by: this and ``CategoryOperation``."""
        now = self._clock()
        learner = target.learners[category]
        if not found.is_retried or not self._limits[category].max_retries:
            return StopReason.NEVER
        if not call.is_idempotent and not found.is_certainly_undone:
            return StopReason.NOT_IDEMPOTENT
        is_probe = category_retries == 0 and learner.may_probe(now)
        if category_retries >= learner.max_retries and not is_probe:
            return StopReason.CATEGORY_LIMIT
        if total_retries >= self._max_total_retries:
            return StopReason.TOTAL_LIMIT
        if found.retry_after_s is not None and found.retry_after_s > self._max_hint_s:
            return StopReason.SERVER_HINT
        delay_s = self._delay_s(target, found, category, category_retries)
        if delay_s >= remaining_s:
            return StopReason.DEADLINE
        cost = self._budget.cost(category)
        # Last, because it takes.
        if not target.budget.take(cost, now):
            return StopReason.BUDGET
        return Grant(category, delay_s, cost, learner.probe(now) if is_probe else None)

    def take_hedge(self, target: Target) -> bool:
        """Take from the budget what an attempt beside another costs: as much as a retry of one that was too slow."""
        return target.budget.take(self._budget.cost(ErrorCategory.TIMEOUT_ERROR), self._clock())

    def spread_hold(self, target: Target) -> float:
        """Return how long a caller waits whom the target's hint was not told to: as long, and a little, by chance."""
        hold = target.hold_s(self._clock())
        return hold * (1 + _HOLD_SPREAD * self._rng.random()) if hold else 0.0

    def note_hint(self, target: Target, found: Classification) -> None:
        """Let all callers of the target wait as long as its server asks for."""
        if found.retry_after_s is not None and found.retry_after_s <= self._max_hint_s:
            target.hold(self._clock() + found.retry_after_s)

    def deposit(self, target: Target) -> None:
        """Pay in for a call that succeeded at once."""
        target.budget.give(self._budget.success_deposit)

    def retry_ended(self, target: Target, category: ErrorCategory, success: bool, cost: float) -> None:
        """Learn from a retry, and give its cost back if it was worth it."""
        target.learners[category].record_retry(self._clock(), success)
        if success:
            target.budget.give(cost)

    def adjust(self, target: Target) -> None:
        """Make the steps that are due, if the policy learns while in use."""
        if self._is_adjusting:
            self._adjusted(target)

    def tell(self, event: RetryEvent) -> None:
        """Tell a decision to the hook."""
        if self._on_event is not None:
            self._on_event(event)

    # --- Inside -------------------------------------------------------------------------------------------------------

    def _target(self, call: RetryCall) -> Target:
        return self._targets.get(call.target, self._clock())

    def _delay_s(self, target: Target, found: Classification, category: ErrorCategory, retry_count: int) -> float:
        """Return the wait: by the server's hint exactly, else by the limits, but no less than the target's hold."""
        if found.retry_after_s is not None:
            # A hint for good is no delay; whoever asks all the same gets the longest wait that would be granted.
            return min(found.retry_after_s, self._max_hint_s)
        limits = target.learners[category].limits
        longest = min(limits.max_delay_s, limits.base_delay_s * 2.0 ** min(retry_count, _MAX_DOUBLINGS))
        return max(longest * (1 - limits.jitter * self._rng.random()), self.spread_hold(target))

    def _adjusted(self, target: Target) -> list[LimitChange]:
        if self._is_frozen:
            return []
        now = self._clock()
        changes = []
        for category, learner in target.learners.items():
            old = learner.limits
            evidence = learner.step(now)
            if evidence is not None:
                changes.append(self._changed(target, category, old, evidence))
        return changes

    def _restore(self, target: Target, category: ErrorCategory, max_retries: int, pace: float, why: str) -> None:
        """Change limits by command, with an event if that makes a difference."""
        learner = target.learners[category]
        old = learner.limits
        learner.restore(max_retries, pace)
        if learner.limits != old:
            self._changed(target, category, old, why)

    def _changed(self, target: Target, category: ErrorCategory, old: CategoryLimits, evidence: str) -> LimitChange:
        change = LimitChange(
            target=target.name,
            category=category,
            old=old,
            new=target.learners[category].limits,
            evidence=evidence,
            at_s=self._clock(),
        )
        self._changes.append(change)
        if self._on_change is not None:
            self._on_change(change)
        return change


def _merged(given: Sequence[CategoryLimits]) -> dict[ErrorCategory, CategoryLimits]:
    limits = {row.category: row for row in CATEGORY_DEFAULTS}
    seen: set[ErrorCategory] = set()
    for row in given:
        if row.category in seen:
            raise ConfigError(f"limits has two rows for {row.category}; give one")
        seen.add(row.category)
        limits[row.category] = row
    return limits


def _read_limits(target: str, category: str, numbers: Mapping[str, float]) -> tuple[ErrorCategory, int, float]:
    try:
        return ErrorCategory(category), int(numbers["max_retries"]), float(numbers["pace"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{target}: {category} = {numbers!r}: expected one of {', '.join(ErrorCategory)} with the numbers "
            "max_retries and pace"
        ) from error


def _check_count(retry_count: int) -> None:
    if retry_count < 0:
        raise ValueError(f"retry_count is {retry_count}; it must be at least 0: the retries made so far")


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        # Not inside trio.run.
        return time.monotonic()

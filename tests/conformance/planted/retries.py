"""One faulty retry policy, at least, for each rule of their kit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import ClassVar

import attrs

from clustercore.interfaces import (
    Classification,
    ErrorCategory,
    ErrorStatistics,
    LimitChange,
    RetryCall,
    RetryDecision,
    RetryOperation,
    RetryPolicy,
    RetryTable,
    StopReason,
)
from clustercore.testing.conformance import RetryPolicyConformance
from clustercore_retry import BudgetConfig, CategoryRetryPolicy
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "RetryKit"]

FAULTS: list[Fault] = []


class ProxyOperation(RetryOperation):
    """Hands on what it is asked."""

    def __init__(self, inner: RetryOperation, policy: Proxy, call: RetryCall) -> None:
        self.inner = inner
        self.policy = policy
        self.call = call

    def hold_s(self, remaining_s: float) -> float:
        return self.inner.hold_s(remaining_s)

    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        return self.inner.failed(error, remaining_s)

    def succeeded(self) -> None:
        self.inner.succeeded()

    def withdrawn(self) -> None:
        self.inner.withdrawn()


class Proxy(RetryPolicy):
    """A sound policy, asked by way of one that can differ from it."""

    operation: ClassVar[type[ProxyOperation]] = ProxyOperation

    def __init__(self) -> None:
        self.now = 0.0
        self.inner = CategoryRetryPolicy(rng=Random(0), clock=lambda: self.now, budget=self.budget())

    def budget(self) -> BudgetConfig:
        return BudgetConfig()

    def explain(self, error: BaseException) -> Classification:
        return self.inner.explain(error)

    def table(self) -> RetryTable:
        return self.inner.table()

    def should_retry(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> bool:
        return self.inner.should_retry(error, retry_count, call)

    def get_retry_delay(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> float:
        return self.inner.get_retry_delay(error, retry_count, call)

    def record_retry(self, error: BaseException, success: bool, call: RetryCall | None = None) -> None:
        self.inner.record_retry(error, success, call)

    def get_error_statistics(self) -> ErrorStatistics:
        return self.inner.get_error_statistics()

    def auto_adjust_configs(self) -> tuple[LimitChange, ...]:
        return self.inner.auto_adjust_configs()

    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        return self.operation(self.inner.begin(call, is_nested), self, call)


def _asking_to_wait() -> Exception:
    error = ConnectionResetError("come back later")
    error.retry_after_s = 7.0  # type: ignore[attr-defined]  # any error may say so
    return error


class RetryKit(RetryPolicyConformance):
    """The kit as the author of such a policy derives it."""

    hints = (_asking_to_wait(),)
    policy: ClassVar[type[Proxy]] = Proxy

    def make(self) -> RetryPolicy:
        return self.policy()

    def pass_time(self, policy: RetryPolicy, seconds: float) -> None:
        assert isinstance(policy, Proxy)
        policy.now += seconds


def plant(rule: str, what: str, expects: type[Exception] = AssertionError) -> Callable[[type[Proxy]], type[Proxy]]:
    """Add a fault to the table."""

    def add(policy: type[Proxy]) -> type[Proxy]:
        FAULTS.append(Fault(f"test_{rule}", what, type("TestPlanted", (RetryKit,), {"policy": policy}), expects))
        return policy

    return add


def plant_operation(
    rule: str, what: str, expects: type[Exception] = AssertionError
) -> Callable[[type[ProxyOperation]], type[ProxyOperation]]:
    """Add a fault in the operations of a policy."""

    def add(operation: type[ProxyOperation]) -> type[ProxyOperation]:
        plant(rule, what, expects)(type("Planted", (Proxy,), {"operation": operation}))
        return operation

    return add


# --- What an error is ------------------------------------------------------------------------------------------------


@plant("explains_every_error", "reads the text of errors", RuntimeError)
class ReadsTexts(Proxy):
    def explain(self, error: BaseException) -> Classification:
        if "timeout" in str(error):
            return attrs.evolve(super().explain(error), category=ErrorCategory.TIMEOUT_ERROR)
        return super().explain(error)


@plant("explaining_changes_nothing", "counts what it explains")
class CountsWhatItExplains(Proxy):
    def explain(self, error: BaseException) -> Classification:
        self.inner.record_retry(error, False)
        return super().explain(error)


@plant("no_error_of_the_call_is_never_retried", "takes asyncio's cancellation for an error")
class TakesCancellationForAnError(Proxy):
    def explain(self, error: BaseException) -> Classification:
        found = super().explain(error)
        is_cancelled = isinstance(error, asyncio.CancelledError)
        return attrs.evolve(found, category=ErrorCategory.UNKNOWN_ERROR) if is_cancelled else found


@plant("no_error_of_the_call_is_never_retried", "retries a bug")
class RetriesABug(Proxy):
    def should_retry(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> bool:
        return isinstance(error, AssertionError) or super().should_retry(error, retry_count, call)


@plant("table_has_the_limits_of_what_it_retries", "leaves a category out of its table")
class LeavesACategoryOut(Proxy):
    def table(self) -> RetryTable:
        table = super().table()
        return attrs.evolve(table, limits=table.limits[1:])


# --- Deciding --------------------------------------------------------------------------------------------------------


@plant("call_that_may_have_been_done_is_not_repeated", "takes every call for idempotent")
class TakesEveryCallForIdempotent(Proxy):
    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        return super().begin(attrs.evolve(call, is_idempotent=True), is_nested)


@plant_operation("decision_is_a_delay_or_a_reason", "gives no reason")
class GivesNoReason(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        return attrs.evolve(super().failed(error, remaining_s), stop=None)


@plant_operation("decision_is_a_delay_or_a_reason", "waits for ever")
class WaitsForEver(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        decision = super().failed(error, remaining_s)
        return decision if decision.delay_s is None else attrs.evolve(decision, delay_s=math.inf)


@plant_operation("call_ends", "tries for as long as it fails")
class TriesOnAndOn(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        decision = super().failed(error, remaining_s)
        if decision.stop in (StopReason.CATEGORY_LIMIT, StopReason.TOTAL_LIMIT):
            return RetryDecision(classification=decision.classification, delay_s=0.1)
        return decision


@plant_operation("no_wait_outlasts_the_deadline", "does not look at the deadline")
class IgnoresTheDeadline(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        return super().failed(error, math.inf)


@plant("wait_is_finite_for_any_count", "doubles without a limit", OverflowError)
class DoublesWithoutALimit(Proxy):
    def get_retry_delay(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> float:
        return 0.1 * float(2**retry_count)


@plant("negative_count_is_refused", "takes any count")
class TakesAnyCount(Proxy):
    def should_retry(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> bool:
        return super().should_retry(error, max(retry_count, 0), call)


# --- Budgets ---------------------------------------------------------------------------------------------------------


@plant("outage_is_not_fed", "has a budget for everything")
class HasABudgetForEverything(Proxy):
    def budget(self) -> BudgetConfig:
        return BudgetConfig(capacity=1e9, initial=1e9)


@plant("budget_is_the_targets_own", "has one budget for all targets")
class HasOneBudget(Proxy):
    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        return super().begin(attrs.evolve(call, target="all"), is_nested)


@plant_operation("success_earns_retries", "earns nothing")
class EarnsNothing(ProxyOperation):
    def succeeded(self) -> None:
        return


@plant("nested_call_takes_nothing", "does not see that it is nested")
class DoesNotSeeThatItIsNested(Proxy):
    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        return super().begin(call, False)


@plant_operation("withdrawn_retry_is_given_back", "keeps what was withdrawn")
class KeepsWhatWasWithdrawn(ProxyOperation):
    def withdrawn(self) -> None:
        return


# --- Learning --------------------------------------------------------------------------------------------------------


@plant("learning_only_lowers", "learns to retry more")
class LearnsToRetryMore(Proxy):
    def get_error_statistics(self) -> ErrorStatistics:
        found = super().get_error_statistics()
        targets = tuple(
            attrs.evolve(
                target, limits=tuple(attrs.evolve(row, max_retries=row.max_retries + 1) for row in target.limits)
            )
            for target in found.targets
        )
        return attrs.evolve(found, targets=targets)


@plant("memory_is_bounded", "remembers every target")
class RemembersEveryTarget(Proxy):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        self.seen.add(call.target)
        return super().begin(call, is_nested)

    def get_error_statistics(self) -> ErrorStatistics:
        found = super().get_error_statistics()
        if not found.targets:
            return found
        return attrs.evolve(found, targets=tuple(attrs.evolve(found.targets[0], target=each) for each in self.seen))


@plant("time_earns_retries", "has a budget that only successes refill")
class OnlySuccessesRefill(Proxy):
    def budget(self) -> BudgetConfig:
        return attrs.evolve(super().budget(), refill_per_s=0.0)


@plant("time_earns_retries", "earns a budget without bounds")
class EarnsWithoutBounds(Proxy):
    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        # The longer nobody asked, the more there is.
        if self.now:
            self.inner = CategoryRetryPolicy(rng=Random(0), clock=lambda: self.now, budget=self.budget())
        return super().begin(call, is_nested)


@plant_operation("hint_of_the_server_is_kept", "waits half of what it is asked to")
class WaitsHalf(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        decision = super().failed(error, remaining_s)
        return decision if decision.delay_s is None else attrs.evolve(decision, delay_s=decision.delay_s / 2)


@plant_operation("hint_of_the_server_is_kept", "cuts the wait to the time that is left")
class CutsTheWait(ProxyOperation):
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        decision = super().failed(error, math.inf)
        is_long = decision.delay_s is not None and decision.delay_s >= remaining_s
        return attrs.evolve(decision, delay_s=remaining_s / 2) if is_long else decision

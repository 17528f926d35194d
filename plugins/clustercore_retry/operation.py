"""One call under the policy: what it has used up, and the decision after each failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from clustercore.interfaces import (
    Classification,
    ErrorCategory,
    RetryCall,
    RetryDecision,
    RetryEvent,
    RetryOperation,
    StopReason,
)

if TYPE_CHECKING:
    from clustercore_retry.policy import CategoryRetryPolicy
    from clustercore_retry.targets import Target

__all__ = ["CategoryOperation", "Grant"]


@attrs.frozen
class Grant:
    """A retry that was granted, with all that is needed to take it back."""

    category: ErrorCategory
    delay_s: float
    cost: float
    # When the last probe was, if this is one.
    probed_before: float | None


class CategoryOperation(RetryOperation):
    """A call, from its first attempt to its end."""

    def __init__(self, policy: CategoryRetryPolicy, target: Target, call: RetryCall, is_nested: bool) -> None:
        self._policy = policy
        self._target = target
        self._call = call
        self._is_nested = is_nested
        # The retry under way, or waited for; None during the first attempt.
        self._grant: Grant | None = None
        # Retries granted, by the category of the error they were for.
        self._retries: dict[ErrorCategory, int] = {}

    def hold_s(self, remaining_s: float) -> float:
        hold = self._policy.spread_hold(self._target)
        # Waiting in vain helps nobody: the attempt is made, and the server says no again, or not.
        return hold if hold < remaining_s else 0.0

    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        found = self._policy.explain(error)
        if found.category is None:
            return RetryDecision(classification=found, stop=StopReason.NOT_AN_ERROR)
        self._attempt_ended(success=False)
        counters = self._target.counters(self._call.operation, found.category)
        counters.errors += 1
        self._policy.note_hint(self._target, found)
        outcome = self._decide(found, found.category, remaining_s)
        if isinstance(outcome, Grant):
            counters.retries += 1
            counters.delay_s += outcome.delay_s
            self._grant = outcome
            self._retries[found.category] = self._retries.get(found.category, 0) + 1
            decision = RetryDecision(classification=found, delay_s=outcome.delay_s)
        else:
            counters.stopped(outcome)
            decision = RetryDecision(classification=found, stop=outcome)
        # Its number is 1 for the first attempt, and one more for each retry before this one.
        number = sum(self._retries.values()) + (0 if isinstance(outcome, Grant) else 1)
        self._policy.tell(RetryEvent(call=self._call, error=error, decision=decision, attempt=number))
        return decision

    def succeeded(self) -> None:
        self._attempt_ended(success=True)

    def may_hedge(self) -> bool:
        return not self._is_nested and self._policy.take_hedge(self._target)

    def withdrawn(self) -> None:
        grant = self._grant
        assert grant is not None, "a retry is taken back before it was granted"
        self._grant = None
        counters = self._target.counters(self._call.operation, grant.category)
        counters.retries -= 1
        counters.delay_s -= grant.delay_s
        self._target.budget.give(grant.cost)
        if grant.probed_before is not None:
            self._target.learners[grant.category].withdraw_probe(grant.probed_before)

    def _decide(self, found: Classification, category: ErrorCategory, remaining_s: float) -> Grant | StopReason:
        if self._is_nested:
            return StopReason.NESTED
        return self._policy.decide(
            self._target,
            found,
            category,
            self._call,
            category_retries=self._retries.get(category, 0),
            total_retries=sum(self._retries.values()),
            remaining_s=remaining_s,
        )

    def _attempt_ended(self, success: bool) -> None:
        grant, self._grant = self._grant, None
        if grant is None:
            self._target.first_attempt_ended(success)
            if success and not self._is_nested:
                self._policy.deposit(self._target)
        else:
            self._policy.retry_ended(self._target, grant.category, success, grant.cost)
            if success:
                counters = self._target.counters(self._call.operation, grant.category)
                counters.succeeded(sum(self._retries.values()))
        # Both kinds of outcome are evidence.
        self._policy.adjust(self._target)

"""The RetryPolicy contract, rule by rule: see ``clustercore.interfaces.retry``.

Policies differ in what they retry and how often. What they share are laws: what is never retried, what a retry may
cost, and that an outage is not fed. They are tried on errors that any program meets, and on those of the author's.

No method of a policy waits, but all are called in a Trio run, whose clock a policy may ask: so the rules run in one.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import (
    ClusterError,
    InvariantError,
    LinkClosed,
    PeerTimeout,
    PeerUnreachable,
    RetryCall,
    RetryPolicy,
    ServiceError,
    StorageFull,
)
from clustercore.testing.conformance.base import Conformance

__all__ = ["RetryPolicyConformance"]


class _Unfriendly(Exception):
    """An error whose every part fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")


def _circular() -> Exception:
    error, other = ValueError("one"), ValueError("other")
    error.__cause__, other.__cause__ = other, error
    return error


# What is no error of the call: whoever retries it takes from the user what he asked for, or hides a bug.
NO_ERRORS: tuple[BaseException, ...] = (
    KeyboardInterrupt(),
    SystemExit(1),
    GeneratorExit(),
    asyncio.CancelledError(),
    BaseExceptionGroup("a group", [ConnectionResetError(), KeyboardInterrupt()]),
    MemoryError(),
    RecursionError(),
    AssertionError("a bug"),
    InvariantError("a bug"),
)
ERRORS: tuple[Exception, ...] = (
    ConnectionResetError(104, "reset"),
    ConnectionRefusedError(111, "refused"),
    BrokenPipeError(),
    TimeoutError(),
    OSError(),
    OSError(28, "no space left"),
    PermissionError(13, "denied"),
    ValueError("wrong"),
    KeyError("missing"),
    Exception(),
    Exception("never heard of", object()),
    ExceptionGroup("a group", [ConnectionResetError(), ValueError()]),
    PeerUnreachable("nobody"),
    PeerTimeout("no answer"),
    LinkClosed("closed"),
    ServiceError("malformed"),
    StorageFull("full"),
    ClusterError("some"),
    _Unfriendly(),
    _circular(),
)
IDEMPOTENT = RetryCall(target="t", is_idempotent=True)
# Enough time for any budget to be full again.
LONG_S = 24 * 3600.0
# Failed calls in an outage, of which none is ever retried with success.
OUTAGE = 1000
TARGETS = 20_000


class RetryPolicyConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` how the policy is made: on a clock that stands, if it takes one."""

    # Errors that the policy knows, beside those of the standard library and of clustercore.
    errors: ClassVar[Sequence[Exception]] = ()
    # Errors with which a server says how long to wait: a minute at most. They are tried as the others are, too.
    hints: ClassVar[Sequence[Exception]] = ()
    # Retries that the budget of one target may allow while nothing succeeds and no time passes.
    most_retries_in_an_outage: ClassVar[int] = 100

    @abstractmethod
    def make(self) -> RetryPolicy:
        """Make another policy, with a full budget and nothing learned."""

    def pass_time(self, policy: RetryPolicy, seconds: float) -> None:
        """Let the clock go on that a policy was made with. Override it if it takes one, or asks Trio's."""
        raise NotImplementedError

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this policy, by the name of the test, each with the reason."""
        reasons = super().left_out()
        if type(self).pass_time is RetryPolicyConformance.pass_time:
            reasons["test_time_earns_retries"] = "pass_time is not overridden"
        if not self.hints:
            reasons["test_hint_of_the_server_is_kept"] = "hints is empty"
        return reasons

    def all_errors(self) -> list[Exception]:
        """Return the errors that rules are tried on."""
        return [*ERRORS, *self.errors, *self.hints]

    # --- What an error is ---

    async def test_explains_every_error(self) -> None:
        """Total: any exception has a classification by a named rule, even one whose every part fails."""
        policy = self.make()
        for error in (*self.all_errors(), *NO_ERRORS):
            found = policy.explain(error)
            assert found.rule
            assert found.retry_after_s is None or found.retry_after_s >= 0
            assert str(found)

    async def test_explaining_changes_nothing(self) -> None:
        """Pure: the same error is explained in the same way again, and nothing is counted or taken."""
        policy, fresh = self.make(), self.make()
        before = policy.get_error_statistics()
        for error in (*self.all_errors(), *NO_ERRORS):
            assert policy.explain(error) == policy.explain(error) == fresh.explain(error)
        assert policy.get_error_statistics() == before

    async def test_no_error_of_the_call_is_never_retried(self) -> None:
        """Cancellation, a group that holds one, and the failure of the program itself are passed on, uncounted."""
        policy = self.make()
        before = policy.get_error_statistics()
        for error in NO_ERRORS:
            found = policy.explain(error)
            assert found.category is None, f"{type(error).__name__} is {found}"
            assert not found.is_retried
            assert not policy.should_retry(error, 0, IDEMPOTENT), type(error).__name__
            assert policy.get_retry_delay(error, 0, IDEMPOTENT) == 0
        assert policy.get_error_statistics().categories == before.categories

    async def test_table_has_the_limits_of_what_it_retries(self) -> None:
        """Each category has one row of limits at most, each rule a name of its own, and what is retried has limits."""
        policy = self.make()
        table = policy.table()
        categories = [row.category for row in table.limits]
        assert len(set(categories)) == len(categories)
        assert len({row.name for row in table.rules}) == len(table.rules)
        for error in self.all_errors():
            found = policy.explain(error)
            assert not found.is_retried or found.category in categories, f"{found} is retried, and has no limits"

    # --- Deciding ---

    async def test_call_that_may_have_been_done_is_not_repeated(self) -> None:
        """Unless it is idempotent, a call is tried again only after an error that certainly left no effect."""
        for error in self.all_errors():
            policy = self.make()
            found = policy.explain(error)
            if not found.is_certainly_undone:
                assert not policy.should_retry(error, 0, RetryCall(target="t")), f"{found} is repeated"
                decision = policy.begin(RetryCall(target="t"), is_nested=False).failed(error, math.inf)
                assert decision.delay_s is None, f"{found} is repeated"

    async def test_decision_is_a_delay_or_a_reason(self) -> None:
        """Exactly one of them is set, a delay is finite and at least 0, and ``explain`` says the same of the error."""
        for error in self.all_errors():
            policy = self.make()
            decision = policy.begin(IDEMPOTENT, is_nested=False).failed(error, math.inf)
            assert (decision.delay_s is None) is not (decision.stop is None)
            assert decision.classification == policy.explain(error)
            assert decision.delay_s is None or 0 <= decision.delay_s < math.inf
            assert decision.classification.is_retried or decision.delay_s is None

    async def test_call_ends(self) -> None:
        """However a call fails, and whatever mix of errors it meets, its retries are at most those of the table."""
        errors = self.all_errors()

        @given(st.lists(st.sampled_from(range(len(errors))), min_size=1, max_size=30))
        def law(numbers: list[int]) -> None:
            policy = self.make()
            limits = {row.category: row.max_retries for row in policy.table().limits}
            operation = policy.begin(IDEMPOTENT, is_nested=False)
            made: list[object] = []
            for number in numbers:
                decision = operation.failed(errors[number], math.inf)
                if decision.delay_s is None:
                    break
                made.append(decision.classification.category)
            for category, most in limits.items():
                assert made.count(category) <= most, f"{category} is retried {made.count(category)} times"

        law()

    async def test_no_wait_outlasts_the_deadline(self) -> None:
        """A delay is shorter than what remains of the call's time; when none remains, there is no retry."""
        for error in self.all_errors():
            for remaining_s in (0.0, -1.0, 1e-9, 0.5, 1000.0):
                decision = self.make().begin(IDEMPOTENT, is_nested=False).failed(error, remaining_s)
                assert decision.delay_s is None or decision.delay_s < remaining_s
            assert 0 <= self.make().begin(IDEMPOTENT, is_nested=False).hold_s(math.inf) < math.inf

    async def test_hint_of_the_server_is_kept(self) -> None:
        """What a server asks to wait is waited at least, or the call ends: it is never asked again before."""
        for error in self.hints:
            hint_s = self.make().explain(error).retry_after_s
            assert hint_s is not None, f"no hint is found in {error!r}"
            for retry_count in range(3):
                policy = self.make()
                operation = policy.begin(IDEMPOTENT, is_nested=False)
                for _ in range(retry_count + 1):
                    decision = operation.failed(error, math.inf)
                    assert decision.delay_s is None or decision.delay_s >= hint_s, repr(error)
            # A call with less time than that ends at once.
            assert self.make().begin(IDEMPOTENT, is_nested=False).failed(error, hint_s).delay_s is None, repr(error)

    async def test_wait_is_finite_for_any_count(self) -> None:
        """However often it was tried, the wait is finite and at least 0: nothing overflows."""
        policy, errors = self.make(), self.all_errors()

        @given(st.sampled_from(range(len(errors))), st.integers(0, 10**6))
        def law(number: int, count: int) -> None:
            assert 0 <= policy.get_retry_delay(errors[number], count, IDEMPOTENT) < math.inf

        law()

    async def test_negative_count_is_refused(self) -> None:
        """A count of retries below 0 is a bug of the caller: ValueError."""
        policy = self.make()
        with pytest.raises(ValueError):  # noqa: PT011 - its text is the policy's
            policy.should_retry(ConnectionResetError(), -1, IDEMPOTENT)
        with pytest.raises(ValueError):  # noqa: PT011
            policy.get_retry_delay(ConnectionResetError(), -1, IDEMPOTENT)

    # --- Budgets ---

    async def test_outage_is_not_fed(self) -> None:
        """While nothing succeeds, the retries of one target are bounded, however many calls there are."""
        for error in self._retried():
            policy = self.make()
            assert self._fail(policy, error, OUTAGE) <= self.most_retries_in_an_outage, repr(error)
            by_hand = self.make()
            granted = sum(by_hand.should_retry(error, 0, IDEMPOTENT) for _ in range(OUTAGE))
            assert granted <= self.most_retries_in_an_outage, repr(error)

    async def test_budget_is_the_targets_own(self) -> None:
        """An outage of one target costs another none of its retries."""
        for error in self._retried():
            policy, fresh = self.make(), self.make()
            other = RetryCall(target="other", is_idempotent=True)
            self._fail(policy, error, OUTAGE)
            assert (policy.begin(other, is_nested=False).failed(error, math.inf).delay_s is None) is (
                fresh.begin(other, is_nested=False).failed(error, math.inf).delay_s is None
            )

    async def test_success_earns_retries(self) -> None:
        """After an outage, calls that succeed bring retries back: a budget is not empty for good."""
        for error in self._retried():
            policy = self.make()
            self._fail(policy, error, OUTAGE)
            for _ in range(OUTAGE):
                policy.begin(IDEMPOTENT, is_nested=False).succeeded()
            assert policy.begin(IDEMPOTENT, is_nested=False).failed(error, math.inf).delay_s is not None, repr(error)

    async def test_time_earns_retries(self) -> None:
        """After an outage, time alone brings retries back: who makes no first attempts any more is not stuck."""
        for error in self._retried():
            policy = self.make()
            self._fail(policy, error, OUTAGE)
            assert policy.begin(IDEMPOTENT, is_nested=False).failed(error, math.inf).delay_s is None, repr(error)
            self.pass_time(policy, LONG_S)
            assert policy.begin(IDEMPOTENT, is_nested=False).failed(error, math.inf).delay_s is not None, repr(error)
            assert self._fail(policy, error, OUTAGE) <= self.most_retries_in_an_outage, "time earned too many"

    async def test_nested_call_takes_nothing(self) -> None:
        """Calls within a retried call take nothing from a budget: the one further out does the retrying."""
        for error in self._retried():
            policy = self.make()
            for _ in range(OUTAGE):
                policy.begin(IDEMPOTENT, is_nested=True).failed(error, math.inf)
            assert policy.begin(IDEMPOTENT, is_nested=False).failed(error, math.inf).delay_s is not None, repr(error)

    async def test_withdrawn_retry_is_given_back(self) -> None:
        """A retry that was granted and not made, because its wait was cancelled, costs nothing."""
        for error in self._retried():
            policy = self.make()
            for number in range(OUTAGE):
                operation = policy.begin(IDEMPOTENT, is_nested=False)
                assert operation.failed(error, math.inf).delay_s is not None, f"call {number} after {error!r}"
                operation.withdrawn()

    # --- Learning ---

    async def test_learning_only_lowers(self) -> None:
        """Whatever retries come to, what is in force is never above the table: not more retries, no shorter waits."""
        for success in (False, True):
            policy = self.make()
            table = {row.category: row for row in policy.table().limits}
            for error in self._retried():
                for _ in range(OUTAGE):
                    policy.record_retry(error, success, IDEMPOTENT)
                policy.auto_adjust_configs()
            changed = [change.new for change in policy.get_error_statistics().changes]
            in_force = [row for target in policy.get_error_statistics().targets for row in target.limits]
            for row in (*changed, *in_force):
                assert row.max_retries <= table[row.category].max_retries
                assert row.base_delay_s >= table[row.category].base_delay_s
            assert {row.category: row for row in policy.table().limits} == table

    async def test_memory_is_bounded(self) -> None:
        """Of very many targets, those that were not asked for longest are forgotten."""
        policy = self.make()
        for number in range(TARGETS):
            policy.begin(RetryCall(target=f"t{number}"), is_nested=False).failed(ConnectionResetError(), math.inf)
        assert len(policy.get_error_statistics().targets) < TARGETS
        assert len(policy.get_error_statistics().categories) < TARGETS

    # --- Helpers ---

    def _retried(self) -> list[Exception]:
        """Return one error of each rule that is retried at all."""
        policy = self.make()
        found: dict[object, Exception] = {}
        for error in self.all_errors():
            if policy.explain(error).retry_after_s is not None:
                continue
            decision = self.make().begin(IDEMPOTENT, is_nested=False).failed(error, math.inf)
            if decision.delay_s is not None:
                found.setdefault(decision.classification.category, error)
        return list(found.values())

    def _fail(self, policy: RetryPolicy, error: Exception, calls: int) -> int:
        """Let calls fail with an error until they are given up; return the retries there were."""
        retries = 0
        for _ in range(calls):
            operation = policy.begin(IDEMPOTENT, is_nested=False)
            while operation.failed(error, math.inf).delay_s is not None:
                retries += 1
        return retries

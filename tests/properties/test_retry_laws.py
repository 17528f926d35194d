"""Laws of the retry policy that hold for all numbers: of waits, of budgets, and of what is learned."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clustercore.interfaces import CategoryLimits, ErrorCategory, RetryCall, StopReason
from clustercore_retry import CATEGORY_DEFAULTS, BudgetConfig, CategoryRetryPolicy
from clustercore_retry.budget import Budget
from clustercore_retry.learning import Learner, wilson_bounds
from tests.unit.retry.samples import grpc_error, http_error

C = ErrorCategory
IDEMPOTENT = RetryCall(is_idempotent=True)
RETRIED = {
    C.NETWORK_ERROR: grpc_error("UNAVAILABLE"),
    C.TIMEOUT_ERROR: grpc_error("DEADLINE_EXCEEDED"),
    C.SERVER_ERROR: http_error(500),
    C.CLIENT_ERROR: http_error(409),
    C.RATE_LIMIT_ERROR: http_error(429),
    C.UNKNOWN_ERROR: Exception("never heard of"),
}
TABLE = {row.category: row for row in CATEGORY_DEFAULTS}

seconds = st.floats(0, 1000)
seeds = st.integers(0, 2**32)


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- Waits -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    base_s=st.floats(0, 100),
    longer_s=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    count=st.integers(0, 10**6),
    seed=seeds,
)
@example(base_s=100, longer_s=0, jitter=0, count=10**6, seed=0)
def test_wait_is_within_its_bounds(base_s: float, longer_s: float, jitter: float, count: int, seed: int) -> None:
    """For any limits and any count, the wait is finite and from ``(1 - jitter) * d`` to ``d``: nothing overflows."""
    row = CategoryLimits(
        category=C.SERVER_ERROR, max_retries=3, base_delay_s=base_s, max_delay_s=base_s + longer_s, jitter=jitter
    )
    policy = CategoryRetryPolicy(limits=[row], rng=Random(seed), clock=HandClock())

    wait = policy.get_retry_delay(http_error(500), count)

    longest = min(row.max_delay_s, base_s * 2.0 ** min(count, 1000))
    assert longest * (1 - jitter) * (1 - 1e-12) <= wait <= longest < math.inf


@given(hint_s=st.integers(0, 60), count=st.integers(0, 100), seed=seeds)
def test_wait_is_the_servers_hint_exactly(hint_s: int, count: int, seed: int) -> None:
    """Whatever the count and the generator, a hint is taken as it is."""
    policy = CategoryRetryPolicy(rng=Random(seed), clock=HandClock())

    assert policy.get_retry_delay(http_error(429, retry_after=str(hint_s)), count) == hint_s


@pytest.mark.slow
@given(seed=seeds, counts=st.lists(st.integers(0, 5), max_size=20))
def test_waits_are_the_generators(seed: int, counts: list[int]) -> None:
    """The same generator gives the same waits."""
    drawn = [
        [policy.get_retry_delay(TimeoutError(), count) for count in counts]
        for policy in (CategoryRetryPolicy(rng=Random(seed), clock=HandClock()) for _ in range(2))
    ]

    assert drawn[0] == drawn[1]


# --- Budgets ---------------------------------------------------------------------------------------------------------

moves = st.lists(st.tuples(st.sampled_from(["take", "give", "wait"]), st.floats(0, 600)), max_size=60)


@pytest.mark.slow
@given(moves=moves)
def test_budget_stays_between_empty_and_full(moves: list[tuple[str, float]]) -> None:
    """Whatever is taken, given and waited for: 0 <= level <= capacity, and nothing is taken that is not there."""
    config = BudgetConfig()
    budget, now = Budget(config, 0.0), 0.0

    for move, amount in moves:
        before = budget.level(now)
        if move == "take":
            assert budget.take(amount, now) is (before >= amount)
        elif move == "give":
            budget.give(amount)
        else:
            now += amount
        assert 0 <= budget.level(now) <= config.capacity


@given(elapsed_s=st.floats(0, 10**6), back_s=seconds)
def test_budget_recovers_by_time_alone_and_never_by_a_clock_that_goes_back(elapsed_s: float, back_s: float) -> None:
    """Empty for good is impossible; a clock that jumps back brings nothing."""
    config = BudgetConfig()
    budget = Budget(config, back_s)
    assert budget.take(config.initial, back_s)

    assert budget.level(0.0) == 0
    assert math.isclose(budget.level(elapsed_s), min(config.capacity, elapsed_s * config.refill_per_s), abs_tol=1e-6)


@pytest.mark.slow
@given(
    category=st.sampled_from(sorted(RETRIED)),
    successes=st.integers(0, 600),
    calls=st.lists(st.floats(0, 30), min_size=1, max_size=120),
)
def test_failing_retries_are_bounded_by_what_was_earned(
    category: ErrorCategory, successes: int, calls: list[float]
) -> None:
    """In an outage, of however many calls, however timed: no more retries than start, successes and time have paid."""
    clock, config = HandClock(), BudgetConfig()
    policy = CategoryRetryPolicy(is_idempotent=True, clock=clock, rng=Random(0))
    for _ in range(successes):
        policy.begin(IDEMPOTENT, is_nested=False).succeeded()

    retries = 0
    for pause_s in calls:
        clock.now += pause_s
        operation = policy.begin(IDEMPOTENT, is_nested=False)
        while operation.failed(RETRIED[category], math.inf).delay_s is not None:
            retries += 1

    earned = config.initial + successes * config.success_deposit + clock.now * config.refill_per_s
    assert retries <= earned / config.cost(category) + 1e-6
    # The bound that is promised, for as long as the policy lives: a reserve, and then 10 % and 0.1/s. A rate limit's
    # retries are cheap to refuse, and cost less; 20 % of the successes pay for them.
    share = 0.2 if category is C.RATE_LIMIT_ERROR else 0.1
    assert retries <= config.initial / config.cost(category) + share * (successes + len(calls)) + 0.1 * clock.now + 1e-6


# --- Counting --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    errors=st.lists(st.sampled_from(sorted(RETRIED)), max_size=20),
    is_idempotent=st.booleans(),
    most=st.integers(0, 8),
)
def test_call_never_exceeds_its_allowances(errors: list[ErrorCategory], is_idempotent: bool, most: int) -> None:
    """Whatever mix of errors a call meets: no category beyond its row, not more than the total, none if unsafe."""
    policy = CategoryRetryPolicy(max_total_retries=most, clock=HandClock(), budget=BudgetConfig(initial=500))
    operation = policy.begin(RetryCall(is_idempotent=is_idempotent), is_nested=False)

    made: list[ErrorCategory] = []
    for category in errors:
        decision = operation.failed(RETRIED[category], math.inf)
        assert (decision.delay_s is None) != (decision.stop is None)
        if decision.stop is not None:
            assert is_idempotent or decision.stop is StopReason.NOT_IDEMPOTENT
            break
        made.append(category)

    assert len(made) <= (most if is_idempotent else 0)
    assert all(made.count(category) <= TABLE[category].max_retries for category in made)


# --- Learning --------------------------------------------------------------------------------------------------------


@given(trials=st.integers(0, 1000), share=st.floats(0, 1))
def test_wilson_bounds_hold_the_share(trials: int, share: float) -> None:
    """The interval is within [0, 1], and the share is in it."""
    successes = round(trials * share)

    least, most = wilson_bounds(successes, trials)

    assert 0 <= least <= most <= 1
    assert not trials or least - 1e-9 <= successes / trials <= most + 1e-9


@pytest.mark.slow
@given(
    row=st.sampled_from(CATEGORY_DEFAULTS),
    events=st.lists(
        st.tuples(st.sampled_from(["retry", "first", "step"]), st.booleans(), st.floats(0, 60)), max_size=300
    ),
)
def test_learning_stays_within_the_table(row: CategoryLimits, events: list[tuple[str, bool, float]]) -> None:
    """Whatever is seen: never more retries than the table, never shorter waits, and at most one step in 30 s."""
    learner, now, stepped_at = Learner(row), 0.0, -math.inf

    for what, success, pause_s in events:
        now += pause_s
        if what == "retry":
            learner.record_retry(now, success)
        elif what == "first":
            learner.record_first_attempt(success)
        elif learner.step(now) is not None:
            assert now - stepped_at >= 30
            stepped_at = now
        in_force = learner.limits
        assert 0 <= in_force.max_retries <= row.max_retries
        assert row.base_delay_s <= in_force.base_delay_s <= min(4 * row.base_delay_s, in_force.max_delay_s)
        assert in_force.max_delay_s == row.max_delay_s

"""Asking again beside what is slow: when, how often, and what comes of the others."""

from __future__ import annotations

from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import ConfigError, LinkClosed, ServiceError
from clustercore_retry import BudgetConfig, CategoryRetryPolicy


@attrs.define
class Server:
    """Answers each attempt after a time, or fails then; the number of the attempt is the answer."""

    # In seconds; an error is raised after it.
    answers: list[tuple[float, Exception | None]]
    begun: list[float] = attrs.field(factory=list)
    cancelled: int = 0

    async def ask(self) -> int:
        self.begun.append(trio.current_time())
        number = len(self.begun)
        wait_s, error = self.answers[number - 1]
        try:
            await trio.sleep(wait_s)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        return number


def policy_of(**budget: float) -> CategoryRetryPolicy:
    """One that learns nothing meanwhile."""
    return CategoryRetryPolicy(rng=Random(1), auto_adjust=False, budget=BudgetConfig(**budget))


async def test_quick_answer_needs_no_other_attempt(autojump_clock: MockClock) -> None:
    """Nor does it cost anything."""
    server, policy = Server([(0.09, None)]), policy_of()

    assert await policy.hedge(server.ask, delay_s=0.1) == 1

    assert len(server.begun) == 1
    assert policy.get_error_statistics().targets[0].first_successes == 1


async def test_slow_attempt_gets_others_beside_it_and_the_first_answer_counts(autojump_clock: MockClock) -> None:
    """One more each time the delay has passed, up to the limit; the rest are cancelled."""
    server, policy = Server([(9, None), (9, None), (0.05, None)]), policy_of()

    assert await policy.hedge(server.ask, delay_s=0.1, max_attempts=3) == 3

    assert server.begun == pytest.approx([0, 0.1, 0.2])
    assert server.cancelled == 2
    assert trio.current_time() == pytest.approx(0.25)


async def test_no_more_attempts_than_allowed_are_made(autojump_clock: MockClock) -> None:
    """However slow they are."""
    server = Server([(9, None), (5, None)])

    assert await policy_of().hedge(server.ask, delay_s=0.1) == 2

    assert trio.current_time() == pytest.approx(5.1)


async def test_failure_makes_the_next_attempt_due_at_once(autojump_clock: MockClock) -> None:
    """One that is not for ever; the error of the last one is raised if all fail."""
    server = Server([(0.03, LinkClosed("one")), (0.03, LinkClosed("two"))])

    with pytest.raises(LinkClosed, match="two"):
        await policy_of().hedge(server.ask, delay_s=0.1)

    assert server.begun == pytest.approx([0, 0.03])


async def test_refusal_ends_all_attempts(autojump_clock: MockClock) -> None:
    """No other would be answered otherwise."""
    server = Server([(9, None), (0.01, ServiceError("malformed")), (0, None)])

    with pytest.raises(ServiceError):
        await policy_of().hedge(server.ask, delay_s=0.1, max_attempts=3)

    assert (len(server.begun), server.cancelled) == (2, 1)


async def test_server_says_when_the_next_attempt_may_be_made(autojump_clock: MockClock) -> None:
    """Its hint wins over at once."""
    server = Server([(0.01, LinkClosed("busy", retry_after_s=2.0)), (0.01, None)])

    assert await policy_of().hedge(server.ask, delay_s=0.1) == 2

    assert server.begun == pytest.approx([0, 2.01])


async def test_attempts_beside_the_first_are_taken_from_the_budget(autojump_clock: MockClock) -> None:
    """Where it is empty, the first attempt is waited for."""
    server, policy = Server([(1, None), (9, None), (1, None)]), policy_of(initial=20)
    assert await policy.hedge(server.ask, delay_s=0.1) == 1
    assert len(server.begun) == 2

    assert await policy.hedge(server.ask, delay_s=0.1) == 3

    assert len(server.begun) == 3


async def test_granted_retry_that_is_not_needed_is_given_back(autojump_clock: MockClock) -> None:
    """An answer came before the moment that the server had named."""
    server, policy = Server([(0.5, None), (0.01, LinkClosed("busy", retry_after_s=9.0)), (0, None)]), policy_of()

    assert await policy.hedge(server.ask, delay_s=0.1, max_attempts=3) == 1

    # The one beside the first was made, and cost a retry.
    level = policy.get_error_statistics().targets[0].budget_level
    assert 120 - 14 <= level <= 120 - 14 + 2
    assert len(server.begun) == 2


async def test_inside_a_retried_call_nothing_is_hedged(autojump_clock: MockClock) -> None:
    """The outermost does the asking again; and a call inside a hedged one is attempted once."""
    server, policy = Server([(1, None), (0, None)]), policy_of()
    assert await policy.bind(is_idempotent=True).call(lambda: policy.hedge(server.ask, delay_s=0.1)) == 1
    assert len(server.begun) == 1

    failing = Server([(0, LinkClosed("x"))] * 9)
    with pytest.raises(LinkClosed):
        await policy.hedge(lambda: policy.bind(is_idempotent=True).call(failing.ask), max_attempts=1)
    assert len(failing.begun) == 1


async def test_cancellation_ends_all_attempts(autojump_clock: MockClock) -> None:
    """And is counted as nothing."""
    server, policy = Server([(9, None), (9, None)]), policy_of()
    with trio.move_on_after(0.5) as scope:
        await policy.hedge(server.ask, delay_s=0.1)

    assert scope.cancelled_caught
    assert server.cancelled == 2
    assert policy.get_error_statistics().targets[0].first_attempts == 0


@pytest.mark.parametrize(("delay_s", "max_attempts"), [(-1.0, 2), (float("nan"), 2), (0.1, 0)])
async def test_numbers_out_of_range_are_refused(delay_s: float, max_attempts: int) -> None:
    """Both are named."""
    with pytest.raises(ConfigError, match=f"delay_s = {delay_s}, max_attempts = {max_attempts}"):
        await policy_of().hedge(Server([]).ask, delay_s=delay_s, max_attempts=max_attempts)

"""The loop, under the shipped policy and under any: what it calls, waits for, raises and leaves alone."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    ConfigError,
    ErrorCategory,
    PeerUnreachable,
    RetryEvent,
    RetryPolicy,
    StopReason,
)
from clustercore_retry import BudgetConfig, CategoryRetryPolicy
from tests.unit.retry.samples import http_error

C = ErrorCategory


def policy(**options: object) -> CategoryRetryPolicy:
    """Return a policy whose calls are idempotent, and whose budget is full."""
    given: dict[str, object] = {"is_idempotent": True, "rng": Random(1), "budget": BudgetConfig(initial=500)}
    return CategoryRetryPolicy(**(given | options))  # type: ignore[arg-type]


class Server:
    """Raises what it is given, in turn, and then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = iter(errors)
        self.calls = 0
        self.times: list[float] = []

    async def ask(self, answer: str = "answer") -> str:
        self.calls += 1
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        for error in self._errors:
            raise error
        return answer


def forever(make: Callable[[], BaseException]) -> Server:
    """Return a server that never answers."""
    return Server(*(make() for _ in range(50)))


# --- Calling ---------------------------------------------------------------------------------------------------------


async def test_call_returns_what_the_first_success_returns(autojump_clock: MockClock) -> None:
    """Arguments go to each attempt, and the result comes back."""
    server = Server(ConnectionResetError(), TimeoutError())

    assert await policy().call(server.ask, answer="yes") == "yes"
    assert server.calls == 3


async def test_wrapped_function_is_called_again(autojump_clock: MockClock) -> None:
    """The decorator is a call."""
    server = Server(ConnectionResetError())

    assert await policy().bind().wrap(server.ask)("yes") == "yes"


async def test_loop_of_attempts_ends_with_success(autojump_clock: MockClock) -> None:
    """``async for attempt in policy`` numbers its attempts, and the body that succeeds is the last."""
    server = Server(ConnectionResetError(), ConnectionResetError())
    numbers = []

    async for attempt in policy():
        with attempt:
            numbers.append(attempt.number)
            await server.ask()

    assert numbers == [1, 2, 3]


async def test_loop_may_be_left_early(autojump_clock: MockClock) -> None:
    """A body that breaks has succeeded."""
    made = policy()

    async for attempt in made:
        with attempt:
            break

    (target,) = made.get_error_statistics().targets
    assert (target.first_attempts, target.first_successes) == (1, 1)


async def test_loop_whose_body_does_not_enter_the_attempt_ends(autojump_clock: MockClock) -> None:
    """Without ``with attempt`` there is nothing to try again."""
    assert [attempt.number async for attempt in policy()] == [1]


async def test_error_raised_at_last_is_the_original_with_one_note(autojump_clock: MockClock) -> None:
    """No wrapper: the function's last error itself, with a note that lists the attempts; also when raised again."""
    error = ConnectionResetError("reset")

    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            await policy().call(Server(TimeoutError(), *[error] * 9).ask)
        assert caught.value is error

    (note,) = error.__notes__
    assert note.startswith("clustercore retry: not tried again: total limit; attempt 1: TIMEOUT_ERROR by the rule")
    assert note.count("; attempt ") == 6


async def test_categories_have_allowances_of_their_own_within_the_total(autojump_clock: MockClock) -> None:
    """The documented example: NETWORK twice, then SERVER three times more, is five; three times leaves two."""
    first = Server(*[ConnectionResetError() for _ in range(2)], *[http_error(500) for _ in range(9)])
    second = Server(*[ConnectionResetError() for _ in range(3)], *[http_error(500) for _ in range(9)])

    for server in (first, second):
        with pytest.raises(type(http_error(500))):
            await policy().call(server.ask)

    assert (first.calls, second.calls) == (6, 6)


@pytest.mark.parametrize("error", [ValueError(), http_error(401), KeyboardInterrupt(), AssertionError()], ids=repr)
async def test_error_that_is_never_retried_leaves_at_once(error: BaseException, autojump_clock: MockClock) -> None:
    """One attempt, and the error is the same object."""
    server = Server(error)

    with pytest.raises(type(error)) as caught:
        await policy().call(server.ask)

    assert caught.value is error
    assert server.calls == 1


# --- Idempotency -----------------------------------------------------------------------------------------------------


async def test_call_that_is_not_idempotent_is_retried_only_if_it_is_certainly_undone(autojump_clock: MockClock) -> None:
    """A reset connection may have carried the request; a refused one did not."""
    made = policy(is_idempotent=False)
    sent, refused = Server(ConnectionResetError()), Server(PeerUnreachable("no"), ConnectionRefusedError())

    with pytest.raises(ConnectionResetError):
        await made.call(sent.ask)
    await made.call(refused.ask)

    assert (sent.calls, refused.calls) == (1, 3)
    assert made.get_error_statistics().of(C.NETWORK_ERROR).stops == {StopReason.NOT_IDEMPOTENT: 1}


# --- Nesting ---------------------------------------------------------------------------------------------------------


async def test_nested_retries_collapse_into_the_outermost(autojump_clock: MockClock) -> None:
    """Three layers, each with a policy of its own, make the attempts of the outermost."""
    server = forever(ConnectionResetError)
    inner, middle, outer = policy(), policy(), policy(max_total_retries=2)

    async def one() -> str:
        return await inner.call(server.ask)

    async def two() -> str:
        return await middle.call(one)

    with pytest.raises(ConnectionResetError) as caught:
        await outer.call(two)

    assert server.calls == 3
    assert len(caught.value.__notes__) == 1
    assert inner.get_error_statistics().of(C.NETWORK_ERROR).stops == {StopReason.NESTED: 3}
    assert inner.get_error_statistics().targets[0].budget_level == 500


async def test_tasks_inside_a_retried_call_are_inside_it_until_it_ends(autojump_clock: MockClock) -> None:
    """A task that outlives the call it was started in retries on its own from then on."""
    made = policy()
    during, after = forever(ConnectionResetError), forever(ConnectionResetError)
    ended = trio.Event()

    async def work() -> None:
        with pytest.raises(ConnectionResetError):
            await made.call(during.ask)
        await ended.wait()
        with pytest.raises(ConnectionResetError):
            await made.call(after.ask)

    async def start(nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        await made.call(start, nursery)
        ended.set()

    assert (during.calls, after.calls) == (1, 6)


async def test_calls_one_after_another_are_not_nested(autojump_clock: MockClock) -> None:
    """The scope ends with its call, also in the body of a loop and between its turns."""
    made = policy()
    first, second = forever(ConnectionResetError), forever(ConnectionResetError)

    for server in (first, second):
        with pytest.raises(ConnectionResetError):
            await made.call(server.ask)

    assert (first.calls, second.calls) == (6, 6)


# --- Cancellation and deadlines --------------------------------------------------------------------------------------


async def test_cancelled_attempt_is_not_counted(autojump_clock: MockClock) -> None:
    """Cancelled passes through, and no statistics know of it."""
    made = policy()

    with trio.move_on_after(1):
        await made.call(trio.sleep_forever)

    statistics = made.get_error_statistics()
    assert statistics.categories == ()
    assert statistics.targets[0].first_attempts == 0


async def test_cancelled_wait_gives_the_retry_back(autojump_clock: MockClock) -> None:
    """A retry that was granted and not made costs nothing, and is not counted."""
    made = policy()
    server = Server(http_error(500, retry_after="30"))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.call, server.ask)
            await wait_all_tasks_blocked()
            assert made.get_error_statistics().targets[0].budget_level == 486
            scope.cancel()

    statistics = made.get_error_statistics()
    assert server.calls == 1
    assert statistics.targets[0].budget_level == 500
    assert (statistics.of(C.SERVER_ERROR).retries, statistics.of(C.SERVER_ERROR).delay_s) == (0, 0)


async def test_cancellation_in_a_group_is_left_alone(autojump_clock: MockClock) -> None:
    """A group with a Cancelled in it is not ours to look at, whatever else is in it."""

    async def fail() -> None:
        raise BaseExceptionGroup("", [ConnectionResetError(), KeyboardInterrupt()])

    made = policy()
    with pytest.raises(BaseExceptionGroup):
        await made.call(fail)

    assert made.get_error_statistics().categories == ()


async def test_no_wait_outlasts_the_timeout(autojump_clock: MockClock) -> None:
    """A retry that would come too late is not waited for; the error leaves at once."""
    server = forever(lambda: http_error(429, retry_after="20"))
    made = policy()

    with pytest.raises(type(http_error(429))):
        await made.bind(timeout_s=50).call(server.ask)

    assert [time - server.times[0] for time in server.times] == [0, 20, 40]
    assert trio.current_time() - server.times[-1] == 0
    assert made.get_error_statistics().of(C.RATE_LIMIT_ERROR).stops == {StopReason.DEADLINE: 1}


async def test_trios_deadline_is_a_deadline(autojump_clock: MockClock) -> None:
    """A surrounding scope that would end during the wait ends the retries instead, with the error."""
    server = forever(lambda: http_error(429, retry_after="20"))

    with trio.move_on_after(30) as scope, pytest.raises(type(http_error(429))):
        await policy().call(server.ask)

    assert server.calls == 2
    assert not scope.cancelled_caught


# --- Hints -----------------------------------------------------------------------------------------------------------


async def test_hint_is_waited_for_exactly(autojump_clock: MockClock) -> None:
    """The server's wait is taken as it is, in place of the table's."""
    server = Server(http_error(503, retry_after="7"))

    await policy().call(server.ask)

    assert server.times[1] - server.times[0] == 7


@pytest.mark.parametrize("hint", ["61", "9" * 20])
async def test_hint_that_is_too_long_ends_the_call(hint: str, autojump_clock: MockClock) -> None:
    """What is longer than a minute is not waited for; the error still says how long it would have been."""
    made = policy()
    server = Server(http_error(503, retry_after=hint))

    with pytest.raises(type(http_error(503))) as caught:
        await made.call(server.ask)

    assert made.explain(caught.value).retry_after_s == float(hint if len(hint) < 10 else "inf")
    assert made.get_error_statistics().of(C.SERVER_ERROR).stops == {StopReason.SERVER_HINT: 1}


async def test_hint_holds_all_callers_of_the_target(autojump_clock: MockClock) -> None:
    """Others wait as long, and a little longer by chance, so as not to come all at once; other targets do not."""
    made = policy()
    busy, same, other, hasty = Server(http_error(503, retry_after="10")), Server(), Server(), Server()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.bind(target="a").call, busy.ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(made.bind(target="a").call, same.ask)
        nursery.start_soon(made.bind(target="a", timeout_s=5).call, hasty.ask)
        nursery.start_soon(made.bind(target="b").call, other.ask)

    start = busy.times[0]
    assert other.times[0] == hasty.times[0] == start
    assert 10 <= same.times[0] - start <= 11


# --- Hooks and options -----------------------------------------------------------------------------------------------


async def test_hook_sees_each_decision(autojump_clock: MockClock) -> None:
    """Attempt, call, error and decision are told."""
    events: list[RetryEvent] = []

    await policy(on_event=events.append).bind(target="a", operation="read").call(Server(TimeoutError()).ask)
    with pytest.raises(ValueError, match="bad"):
        await policy(on_event=events.append).call(Server(TimeoutError(), ValueError("bad")).ask)

    assert [(event.attempt, event.call.target, event.decision.stop) for event in events] == [
        (1, "a", None),
        (1, "", None),
        (2, "", StopReason.NEVER),
    ]
    assert isinstance(events[0].error, TimeoutError)


def test_timeout_must_be_above_nothing() -> None:
    """A timeout of 0 would mean no attempt at all, or no limit: it is refused."""
    with pytest.raises(ConfigError, match="timeout_s is 0; it must be above 0 seconds"):
        policy().bind(timeout_s=0)


# --- By hand ---------------------------------------------------------------------------------------------------------


async def by_hand(made: RetryPolicy, ask: Callable[[], Awaitable[str]]) -> str:
    """The loop that the contract shows."""
    last: Exception | None = None
    for retry_count in itertools.count():
        try:
            result = await ask()
        except Exception as error:
            if last is not None:
                made.record_retry(last, success=False)
            if not made.should_retry(error, retry_count):
                raise
            last = error
            await trio.sleep(made.get_retry_delay(error, retry_count))
        else:
            if last is not None:
                made.record_retry(last, success=True)
            return result
    raise AssertionError


async def test_loop_by_hand_makes_the_same_attempts(autojump_clock: MockClock) -> None:
    """should_retry, get_retry_delay and record_retry do what ``call`` does, and count the same."""
    counted = []
    for call in (by_hand, lambda made, ask: made.call(ask)):
        made = policy()
        server, hopeless = Server(TimeoutError(), TimeoutError()), forever(TimeoutError)
        await call(made, server.ask)
        with pytest.raises(TimeoutError):
            await call(made, hopeless.ask)
        found = made.get_error_statistics().of(C.TIMEOUT_ERROR)
        counted.append((server.calls, hopeless.calls, found.errors, found.retries, found.retry_successes, found.stops))

    assert counted[0] == counted[1] == (3, 4, 6, 5, 1, {StopReason.CATEGORY_LIMIT: 1})


@pytest.mark.parametrize("ask", ["should_retry", "get_retry_delay"])
def test_negative_retry_count_is_refused(ask: str) -> None:
    """The count is of retries made."""
    with pytest.raises(ValueError, match="retry_count is -1; it must be at least 0"):
        getattr(policy(), ask)(TimeoutError(), -1)


# --- Statistics ------------------------------------------------------------------------------------------------------


async def test_statistics_tell_which_retry_succeeded(autojump_clock: MockClock) -> None:
    """Per target, operation and category: errors, retries, successes by the number of the retry, waits and stops."""
    made = policy(rng=Random(2))
    reader = made.bind(target="a", operation="read")

    for failures in (0, 1, 2, 2):
        await reader.call(Server(*[TimeoutError() for _ in range(failures)]).ask)

    statistics = made.get_error_statistics()
    (found,) = statistics.categories
    assert (found.target, found.operation, found.errors, found.retries) == ("a", "read", 5, 5)
    assert (found.retry_successes, found.successes_by_retry, found.retry_success_rate) == (3, (1, 2), 0.6)
    assert 0 < found.delay_s < 1
    assert (statistics.targets[0].first_attempts, statistics.targets[0].first_successes) == (4, 1)
    assert statistics.of(C.TIMEOUT_ERROR, "b").retry_success_rate is None
    assert statistics.of(C.TIMEOUT_ERROR).successes_by_retry == (1, 2)


async def test_statistics_are_bounded(autojump_clock: MockClock) -> None:
    """The targets not asked for longest are forgotten; operations without end are counted together."""
    made = policy(max_targets=2)

    for target in ("a", "b", "a", "c"):
        await made.bind(target=target).call(Server().ask)
    assert [counted.target for counted in made.get_error_statistics().targets] == ["a", "c"]

    for number in range(100):
        await made.bind(target="a", operation=f"read {number}").call(Server(TimeoutError()).ask)
    operations = made.get_error_statistics().categories
    assert len(operations) == 65
    assert sum(counted.errors for counted in operations) == 100

"""Waking one task, and telling the newest value."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.runtime.signals import Newest, Wakeup


async def test_wakeup_set_before_waiting_is_not_lost() -> None:
    """A task that comes late still wakes, once however often it was called."""
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()

    await wakeup.wait()
    with trio.move_on_after(0) as scope:
        await wakeup.wait()

    assert scope.cancelled_caught


async def test_wakeup_cancelled_keeps_the_call() -> None:
    """A wait that is cancelled consumes nothing."""
    wakeup = Wakeup()
    wakeup.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught

    with trio.fail_after(1):
        await wakeup.wait()


async def test_wakeup_wakes_whoever_sleeps(nursery: trio.Nursery) -> None:
    """Once for each call that it had not heard of, and again after a sleep that was cancelled."""
    wakeup, woken = Wakeup(), list[int]()

    async def sleep() -> None:
        with trio.move_on_after(0):
            await wakeup.wait()
        while True:
            await wakeup.wait()
            woken.append(len(woken))

    nursery.start_soon(sleep)
    for number in range(3):
        await wait_all_tasks_blocked()
        assert len(woken) == number
        wakeup.set()
        wakeup.set()
    await wait_all_tasks_blocked()

    assert woken == [0, 1, 2]


async def test_wakeup_tells_a_timer_from_a_call(autojump_clock: MockClock) -> None:
    """A timer that rings ends the wait without an exception, and each call is still heard once."""
    wakeup = Wakeup()
    with trio.CancelScope(deadline=trio.current_time() + 1) as timer:
        heard = [await wakeup.wait(timer)]
        assert heard == [False]
        assert trio.current_time() == timer.deadline
        wakeup.set()
        # In a scope that has ended each checkpoint raises. The call is not taken away.
        await wakeup.wait(timer)
    assert timer.cancelled_caught

    with trio.CancelScope(deadline=trio.current_time() + 1) as timer:
        assert await wakeup.wait(timer)
        assert not await wakeup.wait(timer)


async def test_wakeup_called_as_the_timer_rings_is_heard(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A call between the timer and the turn of the task that it woke is not lost."""
    wakeup, heard = Wakeup(), list[bool]()

    async def sleep() -> None:
        with trio.CancelScope() as timer:
            timers.append(timer)
            heard.append(await wakeup.wait(timer))

    timers: list[trio.CancelScope] = []
    nursery.start_soon(sleep)
    await wait_all_tasks_blocked()
    sleeps = [wakeup.has_sleeper]
    timers[0].cancel()
    sleeps.append(wakeup.has_sleeper)
    wakeup.set()
    await wait_all_tasks_blocked()

    assert sleeps == [True, False]
    assert heard == [True]


async def test_wakeup_timer_hides_no_other_cancellation(nursery: trio.Nursery) -> None:
    """What is cancelled around the timer's scope raises as ever, also if the timer has rung as well."""
    wakeup, ended = Wakeup(), list[str]()

    async def sleep(name: str, *, rings: bool) -> None:
        with trio.CancelScope() as around:
            scopes.append(around)
            with trio.CancelScope() as timer:
                timers.append(timer)
                while await wakeup.wait(timer):
                    pass
            await trio.sleep_forever()
        ended.append(name)

    scopes: list[trio.CancelScope] = []
    timers: list[trio.CancelScope] = []
    for name, rings in (("around", False), ("both", True)):
        wakeup = Wakeup()
        nursery.start_soon(partial(sleep, name, rings=rings))
        await wait_all_tasks_blocked()
        if rings:
            timers[-1].cancel()
        scopes[-1].cancel()
        await wait_all_tasks_blocked()

    assert ended == ["around", "both"]


async def test_newest_yields_the_present_value_first_and_skips_old_ones() -> None:
    """A reader sees the value of now, then the newest at each step, and misses what was replaced meanwhile."""
    newest = Newest(1)
    iterator = aiter(newest)
    assert await anext(iterator) == 1

    for value in (2, 3, 4):
        newest.set(value)

    assert await anext(iterator) == 4


async def test_newest_yields_each_value_once(nursery: trio.Nursery) -> None:
    """A reader that is up to date waits for the next change, and several readers each see it."""
    newest, seen = Newest("a"), list[str]()

    async def read() -> None:
        async for value in newest:
            seen.append(value)

    nursery.start_soon(read)
    nursery.start_soon(read)
    await wait_all_tasks_blocked()
    assert seen == ["a", "a"]

    newest.set("b")
    await wait_all_tasks_blocked()
    assert seen == ["a", "a", "b", "b"]
    nursery.cancel_scope.cancel()


async def test_newest_yields_an_equal_value_again() -> None:
    """A change to a value that is equal, but set anew, is a change."""
    newest = Newest([1])
    iterator = aiter(newest)
    await anext(iterator)
    newest.set([1])

    with trio.fail_after(1):
        assert await anext(iterator) == [1]


async def test_newest_cancelled_loses_nothing() -> None:
    """A reader that gives up waiting sees the next value when it comes back."""
    newest = Newest(1)
    iterator = aiter(newest)
    await anext(iterator)
    with trio.move_on_after(0):
        await anext(iterator)
    newest.set(2)

    assert await anext(iterator) == 2


async def test_newest_that_ends_ends_its_readers(nursery: trio.Nursery) -> None:
    """Readers that wait, and those that come later, end when the value changes no more."""
    newest, ended = Newest(1), list[str]()

    async def read() -> None:
        async for _ in newest:
            pass
        ended.append("ended")

    nursery.start_soon(read)
    await wait_all_tasks_blocked()

    newest.end()
    await wait_all_tasks_blocked()
    assert ended == ["ended"]
    with pytest.raises(StopAsyncIteration):
        await anext(aiter(newest))

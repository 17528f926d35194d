"""Simulated processes: they stand still between two steps of their tasks, and die there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from clustercore.testing.simulation import Chance, Scheduler
from clustercore.testing.simulation.scheduler import seeded_scheduler


def run(main: Callable[[Scheduler], Awaitable[None]], seed: int = 1) -> None:
    """Run with a seeded scheduler."""
    with seeded_scheduler(Chance(seed)) as scheduler:
        trio.run(main, scheduler, clock=MockClock(autojump_threshold=0))


async def count(counted: list[float]) -> None:
    """Count once a second."""
    while True:
        counted.append(trio.current_time())
        await trio.sleep(1)


def test_stopped_process_takes_no_step_while_time_goes_on() -> None:
    """Its tasks, and those they start, wait; others go on; what ran out meanwhile shows when it goes on."""

    async def main(scheduler: Scheduler) -> None:
        process, inside, outside, grandchild = scheduler.process("p"), [0.0], [0.0], [0.0]

        async def family() -> None:
            async with trio.open_nursery() as children:
                children.start_soon(count, grandchild)
                await count(inside)

        async with trio.open_nursery() as nursery:
            with process.inside():
                nursery.start_soon(family)
            nursery.start_soon(count, outside)
            await trio.sleep(2.5)
            process.stop()
            before = (len(inside), len(grandchild))
            await trio.sleep(10)
            assert (len(inside), len(grandchild)) == before
            assert len(outside) >= 13
            process.resume()
            await trio.sleep(0.1)
            assert (len(inside), len(grandchild)) == (before[0] + 1, before[1] + 1)
            nursery.cancel_scope.cancel()

    run(main)


def test_stopped_process_can_be_waited_for_and_cancelled() -> None:
    """A cancellation reaches its tasks once they go on."""

    async def main(scheduler: Scheduler) -> None:
        process = scheduler.process("p")
        process.stop()
        has_ended = trio.Event()

        async def sleeper() -> None:
            try:
                with process.inside():
                    await trio.sleep_forever()
            finally:
                has_ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                assert not has_ended.is_set()
                process.resume()
                await process.wait_running()
                await has_ended.wait()

    run(main)


def test_call_comes_after_so_many_steps() -> None:
    """It is made between two steps, and only the process's own count."""

    async def main(scheduler: Scheduler) -> None:
        process, counted, called = scheduler.process("p"), [0.0], list[int]()
        async with trio.open_nursery() as nursery:
            with process.inside():
                nursery.start_soon(count, counted)
            nursery.start_soon(count, [])
            process.call_after(5, lambda: called.append(len(counted)))
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert called == [5]

    run(main)


def test_call_can_be_taken_back() -> None:
    """Nothing happens then."""

    async def main(scheduler: Scheduler) -> None:
        process, called = scheduler.process("p"), list[bool]()
        async with trio.open_nursery() as nursery:
            with process.inside():
                nursery.start_soon(count, [])
            process.call_after(5, lambda: called.append(True))
            process.cancel_call()
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert called == []

    run(main)


def test_order_of_tasks_is_the_seed_s() -> None:
    """The same seed runs tasks in the same order; another in another."""

    def order(seed: int) -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                seen.append(number)

        async def main(scheduler: Scheduler) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(note, number)

        run(main, seed)
        return seen

    assert order(1) == order(1)
    assert order(1) != order(2)

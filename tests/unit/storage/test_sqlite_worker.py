"""The thread beside the event loop: cancellation, order, and the pauses in which it can have the GIL."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Entry
from clustercore_sqlite import SqliteStorage, worker
from clustercore_sqlite.database import Database
from clustercore_sqlite.worker import Worker
from tests.unit.storage.files import commands


async def test_worker_returns_the_result_and_raises_the_error() -> None:
    """What the call returns or raises comes out of ``run``."""
    with Worker() as hands:
        assert await hands.run(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await hands.run(lambda: 1 // 0)


async def test_worker_cancelled_before_it_starts_does_not_call() -> None:
    """In a cancelled scope ``run`` raises Cancelled, and the call is never made."""
    calls: list[int] = []
    with Worker() as hands:
        with trio.CancelScope() as scope:
            scope.cancel()
            await hands.run(lambda: calls.append(1))

        assert scope.cancelled_caught
        await hands.run(lambda: calls.append(2))

    assert calls == [2]
    assert hands._give_way.in_flight == 0


async def test_worker_cancelled_while_it_runs_returns_the_result() -> None:
    """A call that started is finished and its result returned, though the scope was cancelled meanwhile."""
    started, go_on = threading.Event(), threading.Event()
    results: list[str] = []

    def call() -> str:
        started.set()
        go_on.wait()
        return "done"

    async def run_it() -> None:
        results.append(await hands.run(call))

    with Worker() as hands:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_it)
            await trio.to_thread.run_sync(started.wait)
            nursery.cancel_scope.cancel()
            go_on.set()

    assert results == ["done"]
    assert hands._give_way.in_flight == 0


async def test_worker_cancelled_while_it_waits_for_its_turn_does_not_call() -> None:
    """Calls run one at a time, in order; one that waits behind another can still be cancelled."""
    go_on = threading.Event()
    calls: list[str] = []

    def first() -> None:
        go_on.wait()
        calls.append("first")

    async def run_second(scope: trio.CancelScope) -> None:
        with scope:
            await hands.run(lambda: calls.append("second"))

    with Worker() as hands:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hands.run, first)
            await wait_all_tasks_blocked()
            scope = trio.CancelScope()
            nursery.start_soon(run_second, scope)
            nursery.start_soon(hands.run, lambda: calls.append("third"))
            await wait_all_tasks_blocked()
            scope.cancel()
            go_on.set()

    assert calls == ["first", "third"]
    assert hands._give_way.in_flight == 0


def test_worker_pauses_a_busy_loop_only_while_a_call_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call, or a loop that waits anyway: no pause. Else some at once, then at most a tenth of the time."""
    now, pauses, paused_s = 0.0, 0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, pauses, paused_s
        pauses += 1
        paused_s += seconds
        now += seconds

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=sleep, perf_counter=lambda: now))
    give_way = worker._GiveWay()

    give_way.before_io_wait(0)
    assert pauses == 0

    give_way.call_begins()
    for _ in range(100):
        give_way.before_io_wait(0.5)
    assert pauses == 0

    for _ in range(100):
        give_way.before_io_wait(0)
    assert pauses == 8

    # A fifth of a second in turns of 50 us: pauses of 0.1, 0.2, 0.4 and 0.8 ms, then of 1 ms every 10 ms.
    paused_s = 0.0
    end = now + 0.2
    while now < end:
        now += 50e-6
        give_way.before_io_wait(0)
    assert 8 + 15 < pauses < 8 + 30
    assert 0.01 < paused_s <= 0.02


async def test_sqlite_event_loop_goes_on_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an append is stuck in its sync other tasks run, and the append ends when the disk does."""
    stuck, go_on = threading.Event(), threading.Event()
    append = Database.append

    def slow_append(database: Database, entries: list[Entry]) -> None:
        stuck.set()
        go_on.wait()
        append(database, entries)

    monkeypatch.setattr(Database, "append", slow_append)
    async with SqliteStorage(tmp_path / "node.db") as storage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.append, commands([1]))
            await trio.to_thread.run_sync(stuck.wait)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            go_on.set()

        assert (await storage.load()).entries == tuple(commands([1]))


async def test_sqlite_append_cancelled_in_its_sync_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while it is stuck, an append still returns, and its entries are there."""
    stuck, go_on = threading.Event(), threading.Event()
    append = Database.append
    returned: list[bool] = []

    def slow_append(database: Database, entries: list[Entry]) -> None:
        stuck.set()
        go_on.wait()
        append(database, entries)

    async def append_one() -> None:
        await storage.append(commands([1]))
        returned.append(True)

    monkeypatch.setattr(Database, "append", slow_append)
    async with SqliteStorage(tmp_path / "node.db") as storage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_one)
            await trio.to_thread.run_sync(stuck.wait)
            nursery.cancel_scope.cancel()
            go_on.set()

        assert returned == [True]
        assert (await storage.load()).entries == tuple(commands([1]))

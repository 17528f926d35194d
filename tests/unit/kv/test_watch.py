"""Watches of one node's changes: order, starting points, and the bounds of what is held."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import SupportsIndex

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore_kv import (
    Cas,
    Delete,
    EventBatch,
    Get,
    KeyValueMachine,
    KvEvent,
    Put,
    Watcher,
    WatchFellBehind,
)
from tests.unit.kv.fakes import do, snapshot_of


async def next_events(watcher: Watcher) -> list[KvEvent]:
    """Return the next batch's events, which must be there without waiting for another change."""
    with trio.fail_after(1):
        return list((await watcher.receive()).events)


async def assert_waits(watcher: Watcher) -> None:
    """Check that nothing is to be told now."""
    with trio.move_on_after(0.01) as scope:
        await watcher.receive()
    assert scope.cancelled_caught


async def test_watch_tells_changes_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """A watcher is told every put, deletion and swap after it began, in order, and nothing that changed nothing."""
    machine = KeyValueMachine()
    do(machine, Put("before", b""))
    watcher = machine.watch()

    do(machine, Put("a", b"1"))
    do(machine, Cas("a", b"2", b"other"))
    do(machine, Cas("a", b"2", b"1"))
    do(machine, Delete("absent"))
    do(machine, Delete("a"))
    do(machine, Get("a"))

    assert await next_events(watcher) == [KvEvent("a", b"1", 2), KvEvent("a", b"2", 4), KvEvent("a", None, 6)]
    await assert_waits(watcher)


async def test_watch_tells_its_prefix_only(autojump_clock: trio.testing.MockClock) -> None:
    """Changes of other keys are not told, and do not end the wait."""
    machine = KeyValueMachine()
    watcher = machine.watch("a/")

    do(machine, Put("a", b""))
    await assert_waits(watcher)
    do(machine, Put("a/1", b""))
    do(machine, Put("b", b""))

    assert await next_events(watcher) == [KvEvent("a/1", b"", 2)]


async def test_watch_waits_for_changes(nursery: trio.Nursery) -> None:
    """A waiting watcher is woken by the first change that concerns it."""
    machine = KeyValueMachine()
    watcher = machine.watch("a")
    batches: list[EventBatch] = []

    async def receive() -> None:
        batches.append(await watcher.receive())

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    do(machine, Put("b", b""))
    await wait_all_tasks_blocked()
    assert batches == []
    do(machine, Put("a", b""))
    await wait_all_tasks_blocked()

    assert batches == [EventBatch((KvEvent("a", b"", 2),), 2)]


async def test_watch_from_revision_tells_past_changes() -> None:
    """A watcher that begins after a revision is told the changes since, and so misses nothing after a scan."""
    machine = KeyValueMachine()
    for value in (b"1", b"2"):
        do(machine, Put("a", value))
    page = machine.scan()
    do(machine, Put("a", b"3"))

    assert await next_events(machine.watch(after_revision=0)) == [KvEvent("a", b"%d" % n, n) for n in (1, 2, 3)]
    assert await next_events(machine.watch(after_revision=page.applied_index)) == [KvEvent("a", b"3", 3)]


async def test_watch_from_future_revision_skips_changes_before(autojump_clock: trio.testing.MockClock) -> None:
    """On a node that lags behind, a watcher is told only what comes after the revision it has from another node."""
    machine = KeyValueMachine()
    watcher = machine.watch(after_revision=2)

    do(machine, Put("a", b"1"))
    await assert_waits(watcher)
    do(machine, Put("a", b"2"))
    await assert_waits(watcher)
    do(machine, Put("a", b"3"))

    assert await next_events(watcher) == [KvEvent("a", b"3", 3)]


async def test_watch_ahead_of_its_node_never_goes_back(nursery: trio.Nursery) -> None:
    """A watcher that waits on a node that lags behind keeps its place while the node catches up."""
    machine = KeyValueMachine()
    watcher = machine.watch("a", after_revision=2)
    batches: list[EventBatch] = []

    async def receive() -> None:
        batches.append(await watcher.receive())

    nursery.start_soon(receive)
    for key in ("b", "a", "b", "a"):
        await wait_all_tasks_blocked()
        do(machine, Put(key, b""))
    await wait_all_tasks_blocked()

    assert batches == [EventBatch((KvEvent("a", b"", 4),), 4)]


async def test_watch_cancelled_loses_nothing() -> None:
    """A receive that is cancelled while waiting takes no event with it."""
    machine = KeyValueMachine()
    watcher = machine.watch()
    with trio.CancelScope() as scope:
        scope.cancel()
        await watcher.receive()

    do(machine, Put("a", b""))

    assert await next_events(watcher) == [KvEvent("a", b"", 1)]


async def test_slow_watch_is_told_it_fell_behind() -> None:
    """A watcher whose next change is no longer held is told so, with the revisions, each time it asks."""
    machine = KeyValueMachine(history_events=3)
    watcher = machine.watch()
    for _ in range(3):
        do(machine, Put("a", b""))
    assert len(await next_events(watcher)) == 3

    for _ in range(4):
        do(machine, Put("a", b""))

    for _ in range(2):
        with pytest.raises(WatchFellBehind) as raised:
            await watcher.receive()
        assert (raised.value.revision, raised.value.oldest_revision) == (3, 4)


async def test_history_is_bounded_in_bytes() -> None:
    """What is held for watchers is bounded in bytes as well as in number, even for one value larger than the bound."""
    machine = KeyValueMachine(history_bytes=1000)
    do(machine, Put("a", b"x" * 600))
    do(machine, Put("a", b"y" * 600))

    assert await next_events(machine.watch(after_revision=1)) == [KvEvent("a", b"y" * 600, 2)]
    with pytest.raises(WatchFellBehind):
        await machine.watch(after_revision=0).receive()

    watcher = machine.watch()
    do(machine, Put("a", b"z" * 2000))
    with pytest.raises(WatchFellBehind):
        await watcher.receive()


async def test_watch_from_revision_no_longer_held_says_so() -> None:
    """Asking for changes of too long ago is told at once; the oldest revision that works is in the error."""
    machine = KeyValueMachine(history_events=2)
    for _ in range(5):
        do(machine, Put("a", b""))

    with pytest.raises(WatchFellBehind) as raised:
        await machine.watch(after_revision=2).receive()

    assert raised.value.oldest_revision == 3
    assert len(await next_events(machine.watch(after_revision=3))) == 2


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(KeyValueMachine(history_events=10), id="events"),
        # Each of the events below counts 65 bytes.
        pytest.param(KeyValueMachine(history_bytes=650), id="bytes"),
    ],
)
async def test_idle_watch_does_not_fall_behind(machine: KeyValueMachine, nursery: trio.Nursery) -> None:
    """A watcher that waits while other keys change stays up to date, and tells from time to time how far it is."""
    watcher = machine.watch("a")
    batches: list[EventBatch] = []

    async def receive() -> None:
        while True:
            batches.append(await watcher.receive())

    nursery.start_soon(receive)
    for _ in range(100):
        do(machine, Put("b", b""))
        await wait_all_tasks_blocked()
    do(machine, Put("a", b""))
    await wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()

    assert batches[-1] == EventBatch((KvEvent("a", b"", 101),), 101)
    told = [0, *(batch.revision for batch in batches)]
    assert all(0 < after - before <= 11 for before, after in pairwise(told))


async def test_watch_of_rare_prefix_finds_it_in_long_history() -> None:
    """A change far down the history is found, and batches are bounded in number and bytes."""
    machine = KeyValueMachine()
    for _ in range(5000):
        do(machine, Put("b", b""))
    do(machine, Put("a", b""))

    assert await next_events(machine.watch("a", 0)) == [KvEvent("a", b"", 5001)]
    assert len(await next_events(machine.watch("b", 0))) == 256


async def test_watch_batches_are_bounded_in_bytes() -> None:
    """Large values come in batches of at most 1 MiB, one at a time if need be."""
    machine = KeyValueMachine()
    for value in (b"1", b"2", b"3"):
        do(machine, Put("a", value * 600_000))
    watcher = machine.watch(after_revision=0)

    assert [event.revision for event in await next_events(watcher)] == [1]
    assert [event.revision for event in await next_events(watcher)] == [2]
    assert [event.revision for event in await next_events(watcher)] == [3]


async def test_restore_tells_watchers_that_lack_changes(nursery: trio.Nursery) -> None:
    """After a snapshot, a waiting watcher that was not told of everything in it fell behind; one that was goes on."""
    leader, machine = KeyValueMachine(), KeyValueMachine()
    do(leader, Put("a", b"1"))
    do(machine, Put("a", b"1"))
    do(leader, Put("a", b"2"))
    behind: list[WatchFellBehind] = []
    told: list[EventBatch] = []

    async def fall_behind() -> None:
        with pytest.raises(WatchFellBehind) as raised:
            await machine.watch().receive()
        behind.append(raised.value)

    async def go_on() -> None:
        told.append(await machine.watch(after_revision=2).receive())

    nursery.start_soon(fall_behind)
    nursery.start_soon(go_on)
    await wait_all_tasks_blocked()
    machine.restore(snapshot_of(leader))
    await wait_all_tasks_blocked()
    do(machine, Put("a", b"3"))
    await wait_all_tasks_blocked()

    assert [(error.revision, error.oldest_revision) for error in behind] == [(1, 2)]
    assert told == [EventBatch((KvEvent("a", b"3", 3),), 3)]


class _CountedDeque(deque[KvEvent]):
    """Counts the events that are looked at, by position or one after the other."""

    looks = 0

    def __getitem__(self, position: SupportsIndex) -> KvEvent:  # type: ignore[override]  # slices are not used
        self.looks += 1
        return super().__getitem__(position)

    def __iter__(self) -> Iterator[KvEvent]:
        for event in super().__iter__():
            self.looks += 1
            yield event


async def test_watcher_costs_little_for_each_change_however_long_the_history(nursery: trio.Nursery) -> None:
    """A watcher that is up to date looks for its place, by halves, and at the change; not at all that came before."""
    machine = KeyValueMachine()
    for number in range(4000):
        do(machine, Put("key", b"%d" % number))
    events = _CountedDeque(machine._history._events)
    machine._history._events = events
    told = [0] * 20

    async def follow(number: int) -> None:
        watcher = machine.watch("key")
        while True:
            told[number] += len((await watcher.receive()).events)

    for number in range(len(told)):
        nursery.start_soon(follow, number)
    await wait_all_tasks_blocked()
    events.looks = 0

    for _ in range(10):
        do(machine, Put("key", b""))
        await wait_all_tasks_blocked()

    assert told == [10] * 20
    # Twice for each change: with it, and to find that there is no other. Halving 4000 takes 12 looks.
    assert events.looks / (10 * 20) < 2 * 13 + 2

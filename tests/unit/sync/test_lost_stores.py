"""Stores that are lost, or put back to what they once were: nothing that was written since passes for old."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import trio
import trio.testing

from clustercore.interfaces import NodeId
from clustercore.sync import MergeOutcome, StoreEvent, StoreWentBack
from clustercore.sync.schedule import SyncKind
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall, exchange, make_store
from tests.unit.sync.pairs import open_replica

A, B = NodeId("a"), NodeId("b")


async def test_lost_store_comes_back_as_another_writer() -> None:
    """A node that forgot all, with a clock an hour behind, loses no edit: what it writes is concurrent, and logged."""
    wall = Wall()
    async with make_store("b", wall=wall) as b:
        async with make_store("a", wall=wall) as a:
            await a.put(MISSION, "m1", Mission("PLANNED", 0))
            await a.update(MISSION, "m1", progress=5)
            await exchange(a, b)
            epoch = a.epoch

        # The disk is new, and so is the clock's battery.
        async with make_store("a", wall=Wall(wall.now_ms - 3_600_000)) as again:
            assert again.epoch != epoch
            await again.put(MISSION, "m1", Mission("RUNNING", 1))
            report = await b.apply(again.changes().changes, A)

            assert report.count(MergeOutcome.CONCURRENT) == 2
            assert report.conflicts == 2
            (progress,) = (entry for entry in b.conflicts if entry.group == "progress")
            assert progress.winner.node_id == progress.loser.node_id == "a"
            assert progress.loser.value == b'{"progress":1,"state":"RUNNING"}'
            # What the others know comes back.
            wall.now_ms -= 3_600_000
            await again.apply(b.changes().changes, B)
        assert b.canonical_bytes()


async def test_what_was_seen_grows_with_stores_and_not_with_edits_or_starts() -> None:
    """However often three nodes start and edit, a group speaks of three writers; of one more for each lost disk."""
    wall = Wall()
    records = {name: MemoryRecords() for name in "abc"}
    sizes = []
    for start in range(8):
        if start == 5:
            records["a"] = MemoryRecords()
        wall.now_ms += 60_000
        a, b, c = (make_store(name, records=records[name], wall=wall) for name in "abc")
        async with a, b, c:
            await exchange(a, b, c)
            for number in range(5):
                for store in (a, b, c):
                    await store.put(UAV, "u1", Uav(f"{start}-{number}-{store.node_id}"))
                await exchange(a, b, c)
            (status,) = (change for change in a.states_of("uav", "u1") if change.group == "status")
            sizes.append(len(status.state.seen))
            assert a.canonical_bytes() == b.canonical_bytes() == c.canonical_bytes()
    assert sizes == [3] * 5 + [4] * 3


async def test_old_copy_of_a_store_goes_on_as_another_writer() -> None:
    """A backup that was put back hears of its own later writes: it takes a new epoch, and says so."""
    wall, told = Wall(), list[StoreEvent]()
    records = MemoryRecords()
    async with make_store("b", wall=wall) as b:
        async with make_store("a", wall=wall, records=records) as a:
            await a.put(UAV, "u1", Uav("idle"))
        backup = copy.deepcopy(records)
        wall.now_ms += 10
        async with make_store("a", wall=wall, records=records) as a:
            await a.put(UAV, "u1", Uav("busy"))
            await exchange(a, b)

        wall.now_ms += 10
        async with make_store("a", wall=wall, records=backup, on_event=told.append) as a:
            before = a.epoch
            await a.apply(b.changes().changes, B)
            assert a.epoch != before
            assert [type(event) for event in told] == [StoreWentBack]
            assert a.get(UAV, "u1") == Uav("busy")
            await a.put(UAV, "u1", Uav("back"))
            report = await b.apply(a.changes().changes, A)
            assert report.count(MergeOutcome.FAST_FORWARD) == 1
            assert a.canonical_bytes() == b.canonical_bytes()


async def test_edits_under_way_share_a_commit() -> None:
    """Edits that come while one is being written are written together, and each returns when it is on disk."""
    commits = 0

    class Counting(MemoryRecords):
        async def commit(self, changes: object) -> None:
            nonlocal commits
            commits += 1
            await super().commit(changes)  # type: ignore[arg-type]  # as it was given

    async with make_store("a", records=Counting()) as a:
        before = commits
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(a.put, UAV, f"u{number}", Uav("idle"))
        assert commits - before <= 4
        assert a.seq == 150


async def test_cancelled_edit_goes_with_the_next_commit() -> None:
    """An edit that is cancelled before it is written is seen here, is told to nobody, and is durable with the next."""
    records = MemoryRecords()
    async with make_store("a", records=records) as a:
        with trio.CancelScope() as scope:
            scope.cancel()
            await a.put(UAV, "u1", Uav("idle"))
        assert scope.cancelled_caught
        assert a.changes().changes == ()
        await a.put(UAV, "u2", Uav("idle"))
        assert {change.entity_id for change in a.changes().changes} >= {"u2"}


class SlowRecords(MemoryRecords):
    """Records whose commits can be made to wait, as those of a disk that is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.is_free = trio.Event()
        self.is_free.set()

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await self.is_free.wait()
        await super().commit(changes)


@pytest.mark.parametrize("kind", SyncKind)
async def test_power_cut_while_a_change_is_replaced_keeps_no_receiver_from_the_first(kind: SyncKind) -> None:
    """The receiver does not go past what the source holds again after its power was cut."""
    wall, records, disk = Wall(), SlowRecords(), MemoryRecords()
    async with open_replica("b", wall=wall) as b:
        async with open_replica("a", records=records, wall=wall) as a, trio.open_nursery() as nursery:
            # Twice: then there is a session in which nothing is left to be acknowledged.
            await b.fetch_from(a)
            await b.fetch_from(a)
            await a.store.put(UAV, "u1", Uav("idle"))
            async with disk:
                await disk.commit(await records.load())
            records.is_free = trio.Event()
            nursery.start_soon(a.store.put, UAV, "u1", Uav("busy"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.05) as waiting:
                await b.fetch_from(a, kind)
            records.is_free.set()
        # What is on the disk is what was there before the second edit.
        async with open_replica("a", records=disk, wall=wall) as again:
            await b.fetch_from(again)

            assert b.store.get(UAV, "u1") == Uav("idle")
            assert waiting.cancelled_caught
            assert not b.repaired

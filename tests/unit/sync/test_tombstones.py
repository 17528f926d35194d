"""Tombstones: when they are collected, and that the deleted stays away."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import attrs
import pytest
import trio

from clustercore.interfaces import NodeId
from clustercore.sync import (
    LIFE_GROUP,
    Change,
    CollectReport,
    EntityKind,
    EntityStore,
    FieldGroup,
    GroupState,
    HybridLogicalClock,
    MergeOutcome,
    Stamp,
    StoreEvent,
    Write,
    ZombieRefused,
    collecting,
    entities,
    replica,
)
from clustercore.sync.checkpoints import incoming_name
from clustercore.sync.schedule import SyncKind
from clustercore.sync.source import filter_hash
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall, exchange, make_store
from tests.unit.sync.pairs import open_replica, plain_config

DAY_MS = 86_400_000


@attrs.frozen
class Status:
    status: str


@attrs.frozen
class Probe:
    status: str
    beat: int = 0


A, B, C = map(NodeId, "abc")


async def test_tombstone_waits_for_every_peer_and_its_age() -> None:
    """It is collected when all known peers have seen it and it is older than the grace, and not before."""
    wall = Wall()
    async with make_store("a", wall=wall) as a:
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        await a.delete(MISSION, "m1")
        await a.put(MISSION, "m2", Mission("PLANNED", 0))

        wall.now_ms += DAY_MS + 1
        assert (await a.collect_tombstones({B: a.seq, C: 2})).collected == 0
        assert (await a.collect_tombstones({B: a.seq, C: a.seq}, now_ms=wall.now_ms - 10)).collected == 0
        assert a.floor == 0
        assert (await a.collect_tombstones({B: a.seq, C: a.seq})).collected == 1

        assert [change.entity_id for change in a.states()] == ["m2", "m2"]
        # Whoever has not seen the deletion cannot learn of it from the log of changes any more.
        assert a.floor == 3
        assert (await a.collect_tombstones({B: a.seq})).collected == 0


async def test_deleted_entity_does_not_come_back_from_a_peer_that_was_away() -> None:
    """scylladb#8970: a node that slept through the deletion and its collection brings nothing back, and learns."""
    wall, told = Wall(), list[StoreEvent]()
    records = MemoryRecords()
    async with (
        make_store("a", wall=wall, records=records, on_event=told.append) as a,
        make_store("b", wall=wall) as b,
        make_store("c", wall=wall) as c,
    ):
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        await exchange(a, b, c)
        await a.delete(MISSION, "m1")
        await exchange(a, b)
        wall.now_ms += DAY_MS + 1
        # The peer that is away is not known any more.
        await a.collect_tombstones({B: a.seq})
        await b.collect_tombstones({A: b.seq})
        assert list(a.states()) == list(b.states()) == []

        report = await a.apply(c.changes().changes, C)

        assert report.outcomes == (MergeOutcome.ZOMBIE, MergeOutcome.ZOMBIE)
        assert [type(event) for event in told] == [ZombieRefused, ZombieRefused]
        assert list(a.states()) == []
        await c.apply(report.rebuttals, A)
        assert c.get(MISSION, "m1") is None
        # What the other tells of the deletion is nothing new to who collected it.
        assert (await a.apply(c.changes().changes, C)).count(MergeOutcome.STALE) == 1
        assert list(a.states()) == []
        await c.collect_tombstones({A: c.seq, B: c.seq}, grace_s=0)
        assert a.canonical_bytes() == b.canonical_bytes() == c.canonical_bytes() == b""

    # The ledger survives a restart.
    wall.now_ms += 1
    async with make_store("a", wall=wall, records=records) as a, make_store("d", wall=wall) as d:
        await d.put(UAV, "u1", Uav("idle"))
        zombie = Change("mission", "m1", "rest", next(d.states()).state)
        assert (await a.apply([zombie])).outcomes == (MergeOutcome.ZOMBIE,)


async def test_collected_tombstone_still_decides_as_if_it_were_there() -> None:
    """An edit that would have won over the deletion is taken; so is what was created anew in knowledge of it."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b, make_store("c", wall=wall) as c:
        for entity_id in ("won", "anew"):
            await a.put(UAV, entity_id, Uav("idle"))
        await exchange(a, b, c)
        await b.put(UAV, "won", Uav("1"))
        await b.put(UAV, "won", Uav("2"))
        for entity_id in ("won", "anew"):
            await a.delete(UAV, entity_id)
        await c.apply(a.changes().changes, A)
        await c.put(UAV, "anew", Uav("new"))
        await c.update(UAV, "anew", last_heartbeat=5)
        wall.now_ms += DAY_MS + 1
        assert (await a.collect_tombstones({})).collected == 2

        # Heartbeats first: they are in the background, and known to follow the deletion.
        for change in sorted(c.changes().changes, key=lambda change: change.group != "heartbeat"):
            if change.entity_id == "anew" and change.group:
                assert (await a.apply([change], C)).outcomes == (MergeOutcome.NEW,)
        assert (await a.apply([change for change in b.changes().changes if change.group == "status"], B)).outcomes[
            -1:
        ] == (MergeOutcome.NEW,)
        assert a.get(UAV, "anew") == Uav("new", 5)
        assert a.get(UAV, "won") == Uav("2")


@pytest.mark.parametrize("who_deletes", ["a", "b"])
async def test_created_anew_after_the_collection_is_there_where_the_tombstone_still_is(who_deletes: str) -> None:
    """Whoever collected first knows of the deletion by the ledger, and what is written there is above it."""
    wall, told = Wall(), list[StoreEvent]()
    async with (
        make_store("a", wall=wall, on_event=told.append) as a,
        make_store("b", wall=wall, on_event=told.append) as b,
    ):
        await a.put(UAV, "u1", Uav("idle"))
        await a.update(UAV, "u1", status="busy")
        await exchange(a, b)
        await (a if who_deletes == "a" else b).delete(UAV, "u1")
        await exchange(a, b)
        wall.now_ms += 2 * DAY_MS
        assert (await a.collect_tombstones({B: a.seq})).collected == 1

        await a.put(UAV, "u1", Uav("new"))
        await exchange(a, b)
        assert b.get(UAV, "u1") == a.get(UAV, "u1") == Uav("new")
        assert not list(b.conflicts)

        # Also when that one is gone everywhere, or the entity is deleted once more.
        assert (await b.collect_tombstones({A: b.seq})).collected == 1
        await exchange(a, b)
        assert b.get(UAV, "u1") == Uav("new")
        assert a.canonical_bytes() == b.canonical_bytes()
        await a.delete(UAV, "u1")
        await exchange(a, b)
        assert b.get(UAV, "u1") is None
        assert a.canonical_bytes() == b.canonical_bytes()
        assert not told


async def test_tombstone_of_what_was_created_anew_is_collected_alone() -> None:
    """The living entity stays as it is; the next edit is no conflict with the deletion on who has it still."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b:
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        await a.delete(MISSION, "m1")
        await a.put(MISSION, "m1", Mission("PLANNED", 1))
        await exchange(a, b)
        wall.now_ms += DAY_MS + 1
        assert (await a.collect_tombstones({B: a.seq})).collected == 1
        await a.update(MISSION, "m1", progress=2)
        await exchange(a, b)

        held = a.get(MISSION, "m1")
        assert held == b.get(MISSION, "m1")
        assert held is not None
        assert held.progress == 2
        assert len(b.conflicts) == 0
        assert (await b.collect_tombstones({A: b.seq})).collected == 1
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_deletion_that_lost_is_kept_until_somebody_knew_of_it() -> None:
    """A tombstone that lost to an edit stays until an edit was made in knowledge of it."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b:
        await a.put(UAV, "u1", Uav("idle"))
        await exchange(a, b)
        await a.delete(UAV, "u1")
        for status in ("1", "2"):
            await b.update(UAV, "u1", status=status)
        await exchange(a, b)
        wall.now_ms += DAY_MS + 1
        assert (await a.collect_tombstones({B: a.seq})).collected == 0

        await a.put(UAV, "u1", Uav("3", 3, "m1"))
        # Of the groups, all were written now but none is in the background.
        assert (await a.collect_tombstones({B: a.seq})).collected == 1
        assert a.get(UAV, "u1") == Uav("3", 3, "m1")


async def test_ledger_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the oldest only the time is kept, and an unknown entity that is not younger is refused."""
    monkeypatch.setattr(replica, "MAX_COLLECTED", 2)
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b:
        await b.put(UAV, "old", Uav("idle"))
        for number in range(4):
            wall.now_ms += 10
            await a.put(UAV, f"u{number}", Uav("idle"))
            await a.delete(UAV, f"u{number}")
        await b.put(UAV, "young", Uav("idle"))
        await a.collect_tombstones({}, grace_s=-1)

        report = await a.apply(b.changes().changes, B)

        outcomes = dict(zip([change.entity_id for change in b.changes().changes], report.outcomes, strict=True))
        assert outcomes == {"old": MergeOutcome.ZOMBIE, "young": MergeOutcome.NEW}
        assert report.rebuttals == ()
        assert a.get(UAV, "young") == Uav("idle")


async def test_deletion_is_held_again_where_an_edit_comes_back_against_it() -> None:
    """An old copy of a disk has an edit that wins: who collected the deletion ends like who holds it still."""
    wall = Wall()
    async with open_replica("a", wall=wall) as a, open_replica("b", wall=wall) as b, open_replica("c", wall=wall) as c:
        await a.store.put(UAV, "u1", Uav("idle", 7, "m1"))
        for one, other in ((b, a), (c, a)):
            await one.fetch_from(other)
        await a.store.delete(UAV, "u1")
        await b.fetch_from(a)
        wall.now_ms += 2 * DAY_MS
        # a takes c for gone; b has not come to collect yet.
        assert (await a.store.collect_tombstones({B: a.store.seq})).collected == 1
        for number in range(3):
            await c.store.update(UAV, "u1", status=f"busy {number}")

        # What alone would not win comes first, and is refused; then everything is compared once more.
        small = plain_config(max_batch_changes=1)
        a.config = small
        await a.fetch_from(c)

        assert a.store.get(UAV, "u1") == Uav("busy 2", 7, "m1")
        assert a.store.revivals == 1
        for _ in range(2):
            for one, other in permutations((a, b, c), 2):
                await one.fetch_from(other)
        assert a.store.canonical_bytes() == b.store.canonical_bytes() == c.store.canonical_bytes()
        assert b.store.get(UAV, "u1") == Uav("busy 2", 7, "m1")
        assert not a.repaired
        assert not b.repaired
        # The deletion is kept until an edit knew of it.
        assert (await a.store.collect_tombstones({})).collected == 0
        await a.store.put(UAV, "u1", Uav("known", 8, "m2"))
        wall.now_ms += 2 * DAY_MS
        assert (await a.store.collect_tombstones({})).collected == 1


async def test_what_comes_back_is_whole_however_the_collected_lay_in_the_log() -> None:
    """A comparison by what is held no more would find nothing missing, here and at the peer, for ever."""
    wall = Wall()
    async with open_replica("a", wall=wall) as a, open_replica("b", wall=wall) as b, make_store("c", wall=wall) as c:
        # Older than what is deleted next, and told of later.
        await c.put(UAV, "other", Uav("idle"))
        await c.delete(UAV, "other")
        wall.now_ms += DAY_MS
        await a.store.put(UAV, "u1", Uav("idle", 7, "m1"))
        await c.apply(a.store.changes().changes, A)
        await a.store.delete(UAV, "u1")
        await b.fetch_from(a)
        await a.store.apply([each for each in c.states() if each.entity_id == "other"], C)
        for waited_ms in (1, DAY_MS):
            await a.fetch_from(b, SyncKind.FULL)
            wall.now_ms += waited_ms
            assert (await a.store.collect_tombstones({})).collected == 1
        await a.fetch_from(b)
        for number in range(3):
            await c.update(UAV, "u1", status=f"busy {number}")
        edit = [each for each in c.states() if each.group == "status"]
        for one in (a, b):
            await one.store.apply(edit, C)
        assert a.store.revivals == 1

        await a.fetch_from(b)

        assert a.store.get(UAV, "u1") == b.store.get(UAV, "u1") == Uav("busy 2", 7, "m1")


async def test_what_came_back_is_compared_also_after_a_restart() -> None:
    """What says how far the increments had come is dropped in the transaction that takes the entity back."""
    wall, records = Wall(), MemoryRecords()
    async with open_replica("a", wall=wall, records=records) as a, open_replica("c", wall=wall) as c:
        await a.store.put(UAV, "u1", Uav("idle", 7, "m1"))
        await c.fetch_from(a)
        await a.fetch_from(c)
        await a.store.delete(UAV, "u1")
        wall.now_ms += 2 * DAY_MS
        await a.store.collect_tombstones({})
        name = incoming_name(C, filter_hash(()))
        assert name in a.store.checkpoints()
        for number in range(3):
            await c.store.update(UAV, "u1", status=f"busy {number}")

        # By hand, so that only the last edit comes.
        await a.store.apply([change for change in c.store.states() if change.group == "status"])

        assert name not in a.store.checkpoints()
        assert a.store.get(UAV, "u1") is not None
        a.restart()
        assert (await a.fetch_from(c)).kind is SyncKind.FULL
        assert a.store.get(UAV, "u1") == Uav("busy 2", 7, "m1")


async def test_edit_that_lost_to_a_collected_deletion_stays_lost_when_the_entity_is_created_anew() -> None:
    """The deletion did not know of it, but whoever collected the two did, after a restart too."""
    wall, records = Wall(), MemoryRecords()
    async with make_store("b", wall=wall) as b:
        async with make_store("a", wall=wall, records=records) as a:
            await a.put(UAV, "u1", Uav("idle"))
            await exchange(a, b)
            await b.update(UAV, "u1", status="lost")
            for status in ("1", "2"):
                await a.update(UAV, "u1", status=status)
            await a.delete(UAV, "u1")
            await a.apply(b.changes().changes, B)
            assert a.get(UAV, "u1") is None
            wall.now_ms += 2 * DAY_MS
            assert (await a.collect_tombstones({})).collected == 1
            assert (await a.apply(b.changes().changes, B)).count(MergeOutcome.ZOMBIE) == 3

        async with make_store("a", wall=wall, records=records) as a:
            await a.put(UAV, "u1", Uav("new"))
            report = await a.apply(b.changes().changes, B)
            assert report.count(MergeOutcome.STALE) == 3
            await exchange(a, b)
            assert a.canonical_bytes() == b.canonical_bytes()
            assert b.get(UAV, "u1") == Uav("new")
            assert a.revivals == 0
            await a.delete(UAV, "u1")
            await exchange(a, b)
            wall.now_ms += 2 * DAY_MS
            assert (await a.collect_tombstones({})).collected == 1
            await exchange(b, a)
            assert (await b.collect_tombstones({})).collected == 1
            assert a.canonical_bytes() == b.canonical_bytes() == b""


async def test_background_group_of_a_newer_version_stays_gone_when_the_entity_is_created_anew() -> None:
    """An older version that creates it anew does not write that group, so the deletion alone says that it is gone."""
    wall, status = Wall(), {"status": ["status"]}
    beat = FieldGroup(("beat",), is_background=True)
    older = EntityKind("probe", Status, key_fields=("status",), groups=status)
    newer = EntityKind("probe", Probe, key_fields=("status",), groups={**status, "beat": beat})
    a = EntityStore(A, [older], MemoryRecords(), clock=HybridLogicalClock(wall))
    b = EntityStore(B, [newer], MemoryRecords(), clock=HybridLogicalClock(wall))
    async with a, b:
        await b.put(newer, "p1", Probe("idle", 7))
        await b.update(newer, "p1", beat=8)
        await exchange(a, b)
        await a.delete(older, "p1")
        await exchange(a, b)
        wall.now_ms += 2 * DAY_MS
        assert (await a.collect_tombstones({})).collected == 1
        await a.put(older, "p1", Status("new"))
        await exchange(a, b)
        await a.apply(list(b.states()), B)

        assert a.values(older, "p1") == b.values(newer, "p1") == {"status": b'{"status":"new"}'}
        wall.now_ms += 2 * DAY_MS
        assert (await b.collect_tombstones({})).collected == 0
        assert b.get(newer, "p1") == Probe("new")
        # Whoever writes the group knows of the deletion.
        await b.put(newer, "p1", Probe("new", 9))
        assert (await b.collect_tombstones({})).collected == 1
        assert b.get(newer, "p1") == Probe("new", 9)


async def test_edit_that_knew_one_of_two_deletions_must_win_over_the_other() -> None:
    """Created anew after the one, it is deleted by the other, whoever collected them."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b, make_store("c", wall=wall) as c:
        await a.put(UAV, "u1", Uav("idle"))
        await exchange(a, b)
        for status in ("1", "2", "3"):
            await b.update(UAV, "u1", status=status)
        await b.delete(UAV, "u1")
        await a.delete(UAV, "u1")
        await a.put(UAV, "u1", Uav("anew"))
        anew = a.changes().changes
        await exchange(a, b)
        await c.apply(a.changes().changes, A)
        assert a.get(UAV, "u1") is None
        wall.now_ms += 2 * DAY_MS
        assert (await a.collect_tombstones({})).collected == 1

        report = await a.apply([change for change in anew if change.group == "status"])

        assert report.outcomes == (MergeOutcome.ZOMBIE,)
        await c.apply(anew, A)
        assert c.get(UAV, "u1") is None


async def test_two_deletions_that_did_not_know_each_other_are_one_in_the_ledger() -> None:
    """The one that was collected is not forgotten when the other comes and is collected, too."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b, make_store("c", wall=wall) as c:
        await a.put(UAV, "u1", Uav("idle"))
        await exchange(a, b, c)
        for status in ("1", "2"):
            await a.update(UAV, "u1", status=status)
        await a.delete(UAV, "u1")
        first = a.states_of("uav", "u1")
        await b.delete(UAV, "u1")
        wall.now_ms += 2 * DAY_MS
        await a.collect_tombstones({})
        await a.apply(b.changes().changes, B)
        await a.collect_tombstones({})

        # It wins over the deletion by b, and not over the one by a.
        await c.update(UAV, "u1", status="late")
        await c.update(UAV, "u1", status="later")
        report = await a.apply([change for change in c.changes().changes if change.group == "status"], C)

        assert report.outcomes == (MergeOutcome.ZOMBIE,)
        await b.apply(first, A)
        await b.apply(c.changes().changes, C)
        assert b.get(UAV, "u1") is None


async def test_peer_that_only_has_not_collected_yet_raises_no_alarm() -> None:
    """A full comparison brings its tombstone, and what that deleted, in however many batches: nothing to tell."""
    wall, told = Wall(), list[StoreEvent]()
    async with (
        make_store("a", wall=wall, on_event=told.append) as a,
        make_store("b", wall=wall) as b,
        make_store("c", wall=wall) as c,
    ):
        await a.put(UAV, "u1", Uav("idle"))
        await exchange(a, b, c)
        await a.delete(UAV, "u1")
        await b.apply(a.changes().changes, A)
        wall.now_ms += 2 * DAY_MS
        await a.collect_tombstones({})
        everything = sorted(b.states(), key=lambda change: change.group)

        for change in everything:
            report = await a.apply([change], B)
            assert report.outcomes == (MergeOutcome.STALE,)
            assert report.rebuttals == ()
        assert (await a.apply(everything, B)).count(MergeOutcome.STALE) == len(everything)

        assert not told
        assert (await a.apply(c.changes().changes, C)).count(MergeOutcome.ZOMBIE) == 3
        assert {type(event) for event in told} == {ZombieRefused}


async def test_many_are_collected_part_by_part_and_others_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stretch looks at more than a part; what changes meanwhile stays, and is waited for the next time."""
    wall = Wall()
    async with make_store("a", wall=wall) as a:
        for number in range(3 * collecting.TOMBSTONES_PER_PART):
            await a.put(UAV, f"u{number}", Uav("idle"))
            await a.delete(UAV, f"u{number}")
        wall.now_ms += 2 * DAY_MS
        acknowledged, parts = {B: a.seq}, list[int]()
        collect_part = collecting.collect_part

        def count(*args: Any, **options: Any) -> collecting.CollectedPart:
            part = collect_part(*args, **options)
            parts.append(part.collected)
            return part

        monkeypatch.setattr(entities, "collect_part", count)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.put, UAV, "new", Uav("idle"))
            report = await a.collect_tombstones(acknowledged)

        assert report == CollectReport(3 * collecting.TOMBSTONES_PER_PART, {})
        assert len(parts) >= 3
        assert max(parts) <= collecting.TOMBSTONES_PER_PART
        assert {change.entity_id for change in a.states()} == {"new"}


async def test_report_says_who_is_waited_for_and_for_how_much() -> None:
    """Of deletions that are old enough; one that lost to an edit waits for nobody, but for an edit."""
    wall = Wall()
    async with make_store("a", wall=wall) as a:
        for name in ("m1", "m2"):
            await a.put(MISSION, name, Mission("PLANNED", 0))
            await a.delete(MISSION, name)
        middle = 3
        wall.now_ms += DAY_MS
        await a.put(MISSION, "m3", Mission("PLANNED", 0))
        await a.delete(MISSION, "m3")
        wall.now_ms += 1

        assert await a.collect_tombstones({B: middle, C: 0}) == CollectReport(0, {B: 1, C: 2})
        assert await a.collect_tombstones({B: middle, C: middle}) == CollectReport(1, {B: 1, C: 1})
        assert await a.collect_tombstones({B: a.seq, C: a.seq}) == CollectReport(1, {})


@pytest.mark.parametrize(
    "value",
    [
        b'{"status":{"x#1":18446744073709551616}}',
        b'{"status":{"x#1":-1}}',
        b'{"status":{"\\ud800":5}}',
        b'{"status":' + b"[" * 200_000,
    ],
    ids=["too late", "too early", "half a character", "deep"],
)
async def test_deletion_of_a_broken_node_covers_nothing_that_cannot_be_told(value: bytes) -> None:
    """What a later edit could not say that it knew of would make the entity one that nobody can edit any more."""
    async with make_store("a") as a, make_store("b") as b:
        await a.put(UAV, "u1", Uav("idle"))
        time = a.stamps(UAV, "u1")["status"].time
        deletion = Write(Stamp(5, time + 1, "x#1"), None, (), value)
        await a.apply([Change("uav", "u1", LIFE_GROUP, GroupState.of(deletion))])
        assert a.get(UAV, "u1") is None

        await a.put(UAV, "u1", Uav("new"))
        await exchange(a, b)

        assert a.get(UAV, "u1") == b.get(UAV, "u1") == Uav("new")
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_tombstones_of_broken_nodes_without_a_deletion_are_left_alone() -> None:
    """Two that each claim to know the other's leave none: there is no age to tell, and nobody to tell it to."""
    wall = Wall()
    async with make_store("a", wall=wall) as a:
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        await a.apply([Change("mission", "m1", "", GroupState((), {"x#1": 5}))])
        wall.now_ms += 2 * DAY_MS

        assert await a.collect_tombstones({}) == CollectReport(0, {})
        assert a.get(MISSION, "m1") is not None


async def test_what_waits_for_its_time_keeps_the_entity_it_is_of() -> None:
    """It may outlive the deletion when its time comes."""
    wall, far = Wall(), Wall()
    far.now_ms += 10 * DAY_MS
    async with make_store("a", wall=wall) as a, make_store("b", wall=far) as b:
        await a.put(UAV, "u1", Uav("idle"))
        await b.apply(a.changes().changes, A)
        await b.update(UAV, "u1", status="busy")
        await a.delete(UAV, "u1")
        report = await a.apply(b.changes().changes, B)
        assert report.count(MergeOutcome.HELD) == 1
        wall.now_ms += 2 * DAY_MS

        assert (await a.collect_tombstones({B: a.seq})).collected == 0

        wall.now_ms += 10 * DAY_MS
        await a.release_held()
        assert a.get(UAV, "u1") == Uav("busy")


def test_state_without_heads_is_bearable() -> None:
    """Two states that each claim to know the other's write leave nothing, and whoever reads it finds nothing."""
    assert GroupState((), {"a#1": 5}).encoded
    assert Change("uav", "u1", "rest", GroupState((), {})).updated.physical_ms == 0

"""EntityStore: edits, what comes from elsewhere, what is told to others, and what is on disk."""

from __future__ import annotations

import attrs
import pytest

from clustercore.interfaces import ConfigError, InvalidCommand, LogCorrupt, NodeId, NodeStopped
from clustercore.sync import Change, EntityKind, EntityStore, GroupState, HybridLogicalClock, MergeOutcome, entities
from clustercore.sync.writes import MAX_VERSION, Stamp, Write
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall, exchange, make_store


async def test_entity_is_read_as_it_was_put() -> None:
    """What was put is what is read, with the moment of the edit in the derived field."""
    async with make_store("a", wall=Wall(5000)) as store:
        await store.put(MISSION, "m1", Mission("PLANNED", 0, "survey", updated_at=77))

        assert store.get(MISSION, "m1") == Mission("PLANNED", 0, "survey", updated_at=5000)
        assert store.get(MISSION, "m2") is None
        assert list(store.ids(MISSION)) == ["m1"]
        assert list(store.ids(UAV)) == []


async def test_only_groups_that_differ_are_written() -> None:
    """An edit of one group leaves the others at their version; one that changes nothing writes nothing."""
    async with make_store("a") as store:
        await store.put(MISSION, "m1", Mission("PLANNED", 0, "survey"))
        before = store.seq

        await store.put(MISSION, "m1", Mission("RUNNING", 10, "survey"))
        await store.put(MISSION, "m1", Mission("RUNNING", 10, "survey"))

        assert [(change.group, change.seq) for change in store.changes(before).changes] == [("progress", before + 1)]
        assert {group: stamp.version for group, stamp in store.stamps(MISSION, "m1").items()} == {
            "progress": 2,
            "rest": 1,
        }


async def test_update_changes_some_fields() -> None:
    """A field can be changed alone; its group goes with it, and an entity that is not there stays away."""
    async with make_store("a") as store:
        await store.put(MISSION, "m1", Mission("RUNNING", 10, "survey"))

        assert await store.update(MISSION, "m1", progress=20)
        assert not await store.update(MISSION, "m2", progress=20)
        with pytest.raises(InvalidCommand, match="updated_at"):
            await store.update(MISSION, "m1", updated_at=1)

        held = store.get(MISSION, "m1")
        assert held is not None
        assert (held.state, held.progress) == ("RUNNING", 20)
        assert store.get(MISSION, "m2") is None


async def test_log_of_changes_is_compacted_and_paged() -> None:
    """Each group is told of once, with its newest state, and a part at a time leaves nothing out."""
    async with make_store("a") as store:
        for number in range(5):
            await store.put(UAV, f"u{number}", Uav("idle"))
        for beat in range(200):
            await store.update(UAV, "u0", last_heartbeat=beat + 1)

        told = []
        since, has_more = 0, True
        while has_more:
            part = store.changes(since, limit=4)
            told += [(change.entity_id, change.group) for change in part.changes]
            since, has_more = part.next_seq, part.has_more
        assert len(told) == len(set(told)) == 15
        assert told[-1] == ("u0", "heartbeat")
        assert store.changes(since).changes == ()
        assert since == store.seq


async def test_change_is_not_told_to_whom_it_came_from() -> None:
    """What is held exactly as a peer has it is left out for that peer, and told to others."""
    async with make_store("a") as a, make_store("b") as b:
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        report = await b.apply(a.changes().changes, a.node_id)

        assert report.outcomes == (MergeOutcome.NEW, MergeOutcome.NEW)
        assert b.changes(exclude=a.node_id).changes == ()
        assert len(b.changes().changes) == 2


async def test_stores_that_saw_the_same_are_the_same() -> None:
    """After a conflict two stores have the same bytes and read the same, and a third edit settles it everywhere."""
    async with make_store("a") as a, make_store("b") as b:
        await a.put(MISSION, "m1", Mission("PLANNED", 0))
        await exchange(a, b)
        await a.put(MISSION, "m1", Mission("RUNNING", 10))
        await b.put(MISSION, "m1", Mission("ABORTED", 0))
        report = await b.apply(a.changes().changes, a.node_id)
        assert report.conflicts == 1
        assert report.count(MergeOutcome.CONCURRENT) == 1
        await exchange(a, b)

        assert a.canonical_bytes() == b.canonical_bytes()
        # Equal versions and times: the larger node id.
        assert a.get(MISSION, "m1") == b.get(MISSION, "m1") == Mission("ABORTED", 0, "", 1_700_000_000_000)

        await a.put(MISSION, "m1", Mission("COMPLETED", 100))
        report = await b.apply(a.changes().changes, a.node_id)
        assert report.count(MergeOutcome.FAST_FORWARD) == 1
        assert a.canonical_bytes() == b.canonical_bytes()
        await a.apply(b.changes().changes, b.node_id)
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_deletion_is_told_and_undone_by_creating_anew() -> None:
    """A deletion travels as a write; the entity can be created again, and nothing from before shows."""
    async with make_store("a") as a, make_store("b") as b:
        await a.put(MISSION, "m1", Mission("PLANNED", 0, "old"))
        await exchange(a, b)
        assert await a.delete(MISSION, "m1")
        assert not await a.delete(MISSION, "m1")
        await exchange(a, b)
        assert a.get(MISSION, "m1") is b.get(MISSION, "m1") is None

        await b.put(MISSION, "m1", Mission("PLANNED", 5, "new"))
        progress, rest = (change for change in b.changes().changes if change.group)
        assert (progress.group, rest.group) == ("progress", "rest")
        await a.apply([progress], b.node_id)
        # The name from before the deletion is not a part of the entity that was created after it.
        assert a.get(MISSION, "m1") == Mission("PLANNED", 5, "", 1_700_000_000_000)
        await exchange(a, b)
        assert a.get(MISSION, "m1") == b.get(MISSION, "m1") == Mission("PLANNED", 5, "new", 1_700_000_000_000)
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_everything_survives_a_restart() -> None:
    """A store that is opened again has its entities, log, epoch and checkpoints, and its clock does not go back."""
    records, wall = MemoryRecords(), Wall(10_000)
    async with make_store("a", records=records, wall=wall) as store:
        await store.put(MISSION, "m1", Mission("PLANNED", 0))
        await store.delete(MISSION, "m1")
        await store.put(UAV, "u1", Uav("idle"))
        await store.apply((), checkpoints={"b": b"7"})
        before = (store.canonical_bytes(), store.epoch, store.seq, store.changes())
        last = store.clock.last_ms

    wall.now_ms = 9_000
    async with make_store("a", records=records, wall=wall) as store:
        assert (store.canonical_bytes(), store.epoch, store.seq, store.changes()) == before
        assert store.checkpoint("b") == b"7"
        reading = store.clock.read_nowait()
        assert reading is None or reading.physical_ms >= last


async def test_records_belong_to_one_node() -> None:
    """A store refuses records that another node wrote, and ones that do not say whose they are."""
    records = MemoryRecords()
    async with make_store("a", records=records):
        pass

    with pytest.raises(LogCorrupt, match="of node 'a', not of 'b'"):
        async with make_store("b", records=records):
            pass
    foreign = MemoryRecords()
    async with foreign:
        await foreign.commit({b"x": b"y"})
    with pytest.raises(LogCorrupt, match="none that says whose"):
        async with make_store("a", records=foreign):
            pass


async def test_kinds_and_ids_are_checked() -> None:
    """A kind that was not declared, a second one of a name and an impossible id are refused, and nothing is written."""
    with pytest.raises(ConfigError, match="two entity kinds"):
        EntityStore(NodeId("a"), [UAV, UAV], MemoryRecords())
    with pytest.raises(ConfigError, match="node_id"):
        EntityStore(NodeId(""), [UAV], MemoryRecords())
    store = make_store("a")
    with pytest.raises(NodeStopped):
        store.get(UAV, "u1")
    async with store:
        with pytest.raises(ConfigError, match="no kind 'uav' here as declared"):
            store.get(EntityKind("uav", Uav), "u1")
        for entity_id in ("", "x" * 256):
            with pytest.raises(InvalidCommand, match="id of an entity"):
                await store.put(UAV, entity_id, Uav("idle"))
        assert store.seq == 0


@attrs.frozen
class NewerUav:
    status: str
    battery: int = 100
    firmware: str = ""
    last_heartbeat: int = 0
    current_mission_id: str | None = None


NEWER_UAV = EntityKind(
    "uav",
    NewerUav,
    groups={
        "status": ["status", "battery"],
        "heartbeat": ["last_heartbeat"],
        "mission": ["current_mission_id"],
        "firmware": ["firmware"],
    },
)


async def test_field_of_a_newer_version_survives_an_older_node() -> None:
    """On a rolling upgrade an older node edits an entity, and fields and groups that it does not know stay."""
    newer = EntityStore(NodeId("new"), [NEWER_UAV], MemoryRecords(), clock=HybridLogicalClock(Wall()))
    async with newer, make_store("old") as older:
        await newer.put(NEWER_UAV, "u1", NewerUav("idle", battery=50, firmware="7.1"))
        await exchange(newer, older)
        assert older.get(UAV, "u1") == Uav("idle")

        await older.put(UAV, "u1", Uav("busy", current_mission_id="m1"))
        await exchange(newer, older)

        assert newer.get(NEWER_UAV, "u1") == NewerUav("busy", 50, "7.1", current_mission_id="m1")
        assert newer.canonical_bytes() == older.canonical_bytes()


async def test_edit_above_the_highest_version_is_refused_and_the_store_opens_again() -> None:
    """What a damaged peer says is kept; an edit of it would be a record that nobody can read."""
    records = MemoryRecords()
    async with make_store("a", records=records) as store:
        await store.put(UAV, "u1", Uav("idle"))
        (first, *_) = store.changes().changes
        damaged = GroupState.of(Write(Stamp(MAX_VERSION, 1, "b#1"), None, (), b'{"status":"busy"}'))
        await store.apply([Change("uav", "u1", first.group, damaged)])

        with pytest.raises(InvalidCommand, match="damage, never edits"):
            await store.put(UAV, "u1", Uav("new"))
        held = store.canonical_bytes()

    async with make_store("a", records=records) as store:
        assert store.canonical_bytes() == held


async def test_what_is_left_out_is_passed_by_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much came from the peer that asks, no look at it takes long; nothing else is skipped."""
    monkeypatch.setattr(entities, "MOST_LEFT_OUT", 7)
    async with make_store("a") as a, make_store("b") as b:
        for number in range(10):
            await a.put(UAV, f"u{number}", Uav("idle"))
        await b.apply(a.changes().changes, a.node_id)
        await b.put(UAV, "mine", Uav("idle"))

        parts = [b.changes(exclude=a.node_id)]
        while parts[-1].has_more:
            parts.append(b.changes(parts[-1].next_seq, exclude=a.node_id))

        assert [part.next_seq for part in parts] == [7, 14, 21, 28, 33]
        assert [change.entity_id for part in parts for change in part.changes] == ["mine"] * 3

"""Conflicts: which edits are one, what is logged of it, and how the losing value comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import attrs
import pytest

from clustercore.interfaces import (
    ConfigError,
    ConflictDecision,
    ConflictResolver,
    Edit,
    EditStamp,
    HybridTime,
    NodeId,
)
from clustercore.sync import (
    AmbiguousConflict,
    Conflict,
    ConflictLog,
    ConflictSide,
    EntityKind,
    EntityStore,
    FieldGroup,
    HybridLogicalClock,
    ResolverFailed,
    Stamp,
    StoreEvent,
)
from clustercore_lww import FunctionResolver, LatticeResolver, UnionResolver
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall, exchange, make_store

NOW = 1_700_000_000_000


@asynccontextmanager
async def two_stores() -> AsyncIterator[tuple[EntityStore, EntityStore]]:
    """Two stores that both have a mission and a UAV."""
    async with make_store("a") as a, make_store("b") as b:
        await a.put(MISSION, "m1", Mission("PLANNED", 0, "survey"))
        await a.put(UAV, "u1", Uav("idle"))
        await exchange(a, b)
        yield a, b


async def test_conflict_is_logged_with_both_sides() -> None:
    """An entry has both values, both stamps and bases, the rule, the resolver and who noticed; both nodes agree."""
    async with two_stores() as (a, b):
        await a.update(MISSION, "m1", state="RUNNING", progress=10)
        await b.update(MISSION, "m1", state="ABORTED")
        await exchange(a, b)

        (mine,), (theirs,) = a.conflicts, b.conflicts
        assert attrs.evolve(mine, node_id=NodeId("b")) == theirs
        assert (mine.kind, mine.entity_id, mine.group) == ("mission", "m1", "progress")
        assert (mine.rule, mine.resolver, mine.node_id, mine.detected_at_ms) == ("node id", "lww", "a", NOW)
        assert mine.winner.value == mine.result == b'{"progress":0,"state":"ABORTED"}'
        assert mine.loser.value == b'{"progress":10,"state":"RUNNING"}'
        assert (mine.winner.node_id, mine.loser.node_id) == ("b", "a")
        assert mine.winner.base == mine.loser.base
        assert mine.loser.base is not None
        assert (mine.loser.base.version, mine.loser.stamp.version) == (1, 2)


async def test_edit_storm_that_beats_a_fresh_edit_is_a_conflict() -> None:
    """Five stale edits win over one fresh edit, being of a higher version, and it is logged for what it is."""
    async with two_stores() as (a, b):
        for progress in range(1, 6):
            await a.update(MISSION, "m1", progress=progress)
        await b.update(MISSION, "m1", state="ABORTED")

        # Only the last of the five travels: the log of changes is compacted.
        await exchange(a, b)

        (conflict,) = b.conflicts
        assert (conflict.rule, conflict.winner.stamp.version, conflict.loser.stamp.version) == ("version", 6, 2)
        assert conflict.loser.value == b'{"progress":0,"state":"ABORTED"}'
        assert a.canonical_bytes() == b.canonical_bytes()
        assert a.get(MISSION, "m1") == b.get(MISSION, "m1") == Mission("PLANNED", 5, "survey", NOW)


async def test_edits_in_sequence_are_no_conflict() -> None:
    """An edit made in knowledge of another replaces it, also where the ones between were never seen."""
    async with two_stores() as (a, b):
        for progress in (10, 20, 30):
            await a.update(MISSION, "m1", progress=progress)
        await b.apply(a.changes().changes, a.node_id)
        await b.update(MISSION, "m1", progress=40)
        await exchange(a, b)

        assert len(a.conflicts) == len(b.conflicts) == 0
        held = a.get(MISSION, "m1")
        assert held is not None
        assert held.progress == 40


async def test_no_entity_appears_that_nobody_wrote() -> None:
    """State and progress are one group: of COMPLETED at 100 and RUNNING at 40, one holds, and never a mixture."""
    async with two_stores() as (a, b):
        await a.update(MISSION, "m1", state="COMPLETED", progress=100)
        await b.update(MISSION, "m1", progress=40, state="RUNNING")
        await b.update(MISSION, "m1", name="survey 2")
        await exchange(a, b)

        held = a.get(MISSION, "m1")
        assert held == b.get(MISSION, "m1")
        assert held is not None
        assert (held.state, held.progress) in {("COMPLETED", 100), ("RUNNING", 40)}
        # Another group is another matter: nobody else changed the name.
        assert held.name == "survey 2"
        assert [conflict.group for conflict in a.conflicts] == ["progress"]


async def test_losing_value_is_written_back() -> None:
    """``restore`` makes a new edit of the losing value, which is no conflict and reaches all."""
    async with two_stores() as (a, b):
        await a.update(MISSION, "m1", state="RUNNING", progress=10)
        await b.update(MISSION, "m1", state="ABORTED")
        await exchange(a, b)
        (conflict,) = a.conflicts

        assert await a.restore(conflict.conflict_id[:6])
        assert not await a.restore("0000")
        await exchange(a, b)

        assert b.get(MISSION, "m1") == Mission("RUNNING", 10, "survey", NOW)
        assert len(a.conflicts) == len(b.conflicts) == 1
        assert b.stamps(MISSION, "m1")["progress"].version == 3


async def test_edit_that_did_not_know_of_a_deletion_is_a_conflict() -> None:
    """The deletion wins at equal versions; the edit comes back with the whole entity when it is restored."""
    async with two_stores() as (a, b):
        await a.delete(MISSION, "m1")
        await b.update(MISSION, "m1", progress=50)
        await exchange(a, b)

        assert a.get(MISSION, "m1") is b.get(MISSION, "m1") is None
        (conflict,) = a.conflicts
        assert [entry.conflict_id for entry in b.conflicts] == [conflict.conflict_id]
        assert (conflict.rule, conflict.winner.is_deletion, conflict.winner.value) == ("tombstone", True, None)
        assert conflict.loser.value == b'{"progress":50,"state":"PLANNED"}'

        assert await b.restore(conflict.conflict_id)
        await exchange(a, b)
        assert a.get(MISSION, "m1") == Mission("PLANNED", 50, "survey", NOW)
        assert a.canonical_bytes() == b.canonical_bytes()
        assert len(a.conflicts) == len(b.conflicts) == 1


async def test_deletion_can_lose_and_be_restored() -> None:
    """Edits of a higher version bring the whole entity back; restoring the loser deletes it."""
    async with two_stores() as (a, b):
        await a.delete(MISSION, "m1")
        await b.update(MISSION, "m1", progress=50)
        await b.update(MISSION, "m1", progress=60)
        await exchange(a, b)

        assert a.get(MISSION, "m1") == b.get(MISSION, "m1") == Mission("PLANNED", 60, "survey", NOW)
        (conflict,) = a.conflicts
        assert (conflict.rule, conflict.loser.is_deletion) == ("version", True)

        assert await a.restore(conflict.conflict_id)
        await exchange(a, b)
        assert b.get(MISSION, "m1") is None
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_heartbeats_are_no_conflict_and_bring_nothing_back() -> None:
    """Edits in the background are merged without a word, and do not win over a deletion, however many they are."""
    async with two_stores() as (a, b):
        await a.update(UAV, "u1", last_heartbeat=7)
        await b.update(UAV, "u1", last_heartbeat=5)
        await exchange(a, b)
        assert a.get(UAV, "u1") == b.get(UAV, "u1") == Uav("idle", 7)

        await a.delete(UAV, "u1")
        for beat in range(8, 30):
            await b.update(UAV, "u1", last_heartbeat=beat)
        await exchange(a, b)

        assert a.get(UAV, "u1") is b.get(UAV, "u1") is None
        assert len(a.conflicts) == len(b.conflicts) == 0


@attrs.frozen
class Zone:
    phase: str
    tags: list[str] = attrs.field(factory=list)
    note: str = ""


def fail(one: bytes, other: bytes) -> bytes:
    """Merge no two notes."""
    raise LookupError("no dictionary")


class Babbling(ConflictResolver):
    """A resolver that returns something else than a decision."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def resolve(self, one: Edit, other: Edit) -> Any:
        return self._answer


EDIT = Edit(EditStamp(1, HybridTime(1), NodeId("a")), b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        EDIT,
        ConflictDecision(EDIT, 7),  # type: ignore[arg-type]  # what an application may get wrong
        ConflictDecision(attrs.evolve(EDIT, value="{}"), "text"),  # type: ignore[arg-type]  # the same
        ConflictDecision({}, "dict"),  # type: ignore[arg-type]  # the same
    ],
)
async def test_resolver_that_returns_no_decision_stops_nothing(answer: object) -> None:
    """It is told like one that raised; the last write holds, is logged, and the changes are applied."""
    told: list[StoreEvent] = []
    kind = EntityKind("zone", Zone, groups={"note": FieldGroup(("phase", "tags", "note"), Babbling(answer))})
    a, b = (
        EntityStore(NodeId(name), [kind], MemoryRecords(), clock=HybridLogicalClock(Wall()), on_event=told.append)
        for name in "ab"
    )
    async with a, b:
        await a.put(kind, "z", Zone("OPEN", note="1"))
        await b.put(kind, "z", Zone("OPEN", note="2"))
        await exchange(a, b)

        assert a.get(kind, "z") == b.get(kind, "z") == Zone("OPEN", note="2")
        assert [conflict.rule for conflict in (*a.conflicts, *b.conflicts)] == ["fallback", "fallback"]
        assert {type(event.error) for event in told if isinstance(event, ResolverFailed)} == {TypeError}


class Failing(UnionResolver):
    """A resolver that does what its contract forbids."""

    def merge(self, one: bytes, other: bytes) -> bytes:
        raise LookupError("no dictionary")


ZONE = EntityKind(
    "zone",
    Zone,
    groups={
        "phase": FieldGroup(("phase",), LatticeResolver({"OPEN": ["SHUT"], "SHUT": ["GONE"], "GONE": []})),
        "tags": FieldGroup(("tags",), UnionResolver()),
        "note": FieldGroup(("note",), FunctionResolver(fail)),
    },
)
FAILING_ZONE = EntityKind("zone", Zone, groups={"note": FieldGroup(("note",), Failing())})


async def test_groups_have_resolvers_of_their_own() -> None:
    """Each group is decided by its resolver, asked about the field; where a function fails, the last write holds."""
    a, b = (EntityStore(NodeId(name), [ZONE], MemoryRecords(), clock=HybridLogicalClock(Wall())) for name in "ab")
    async with a, b:
        await a.put(ZONE, "z", Zone("OPEN"))
        await exchange(a, b)
        await a.put(ZONE, "z", Zone("GONE", ["x"], "from a"))
        await b.put(ZONE, "z", Zone("SHUT", ["y"], "from b"))
        await exchange(a, b)

        assert a.get(ZONE, "z") == b.get(ZONE, "z") == Zone("GONE", ["x", "y"], "from b")
        logged = {entry.group: (entry.rule, entry.resolver, entry.result) for entry in a.conflicts}
        assert logged == {
            "phase": ("lattice", "LatticeResolver", b'{"phase":"GONE"}'),
            "tags": ("union", "UnionResolver", b'{"tags":["x","y"]}'),
            "note": ("fallback", "FunctionResolver", b'{"note":"from b"}'),
        }
        assert a.canonical_bytes() == b.canonical_bytes()

        # An edit after a merge replaces what was merged: what was taken out of the set stays out.
        await a.update(ZONE, "z", tags=["y"])
        await exchange(a, b)
        assert b.get(ZONE, "z") == Zone("GONE", ["y"], "from b")


async def test_resolver_that_raises_is_told_and_the_last_write_holds() -> None:
    """Whatever a resolver does, replicas agree, and operators hear of it."""
    told: list[StoreEvent] = []
    a, b = (
        EntityStore(
            NodeId(name), [FAILING_ZONE], MemoryRecords(), clock=HybridLogicalClock(Wall()), on_event=told.append
        )
        for name in "ab"
    )
    async with a, b:
        await a.put(FAILING_ZONE, "z", Zone("OPEN", note="1"))
        await b.put(FAILING_ZONE, "z", Zone("OPEN", note="2"))
        await exchange(a, b)

        assert a.get(FAILING_ZONE, "z") == b.get(FAILING_ZONE, "z") == Zone("OPEN", note="2")
        failed = [event for event in told if isinstance(event, ResolverFailed)]
        assert {(event.kind, event.group, type(event.error)) for event in failed} == {("zone", "note", LookupError)}
        (note,) = (entry for entry in a.conflicts if entry.group == "note")
        assert note.rule == "fallback"


async def test_log_survives_a_restart() -> None:
    """What was logged is there when the store is opened again, and the losing value can still be written back."""
    records, wall = MemoryRecords(), Wall(NOW)
    async with make_store("b") as b:
        async with make_store("a", records=records, wall=wall) as a:
            await a.put(MISSION, "m1", Mission("PLANNED", 0))
            await b.put(MISSION, "m1", Mission("RUNNING", 1))
            await exchange(a, b)
            before = list(a.conflicts)
            assert len(before) == 2
        wall.now_ms += 1
        async with make_store("a", records=records, wall=wall) as a:
            assert list(a.conflicts) == before
            await exchange(a, b)
            assert list(a.conflicts) == before
            assert await a.restore(before[0].conflict_id)
            assert a.get(MISSION, "m1") == Mission("PLANNED", 0, "", NOW + 1)


def entry(number: int, rule: str = "version") -> Conflict:
    """Return an entry that no store made."""
    winner = ConflictSide(Stamp(2, 5, "a#1"), None, b"{}")
    loser = ConflictSide(Stamp(1, 5, "b#1"), None, b"\xff")
    return Conflict(f"{number:032x}", "uav", "u1", "rest", rule, "lww", winner, loser, b"{}", NodeId("c"), number)


def test_log_is_bounded_and_counts(tmp_path: Path) -> None:
    """The oldest entries go, one that comes again is not logged again, and all are counted and told."""
    told: list[Conflict] = []
    log = ConflictLog(3, on_conflict=told.append)
    for number in range(5):
        assert log.add(entry(number)) == ([f"{number - 3:032x}"] if number >= 3 else [])
    assert log.add(entry(4)) is None
    log.add(entry(7, "timestamp"))

    assert [conflict.detected_at_ms for conflict in log] == [3, 4, 7]
    assert [(count.rule, count.winner_node, count.loser_node, count.count) for count in log.counts()] == [
        ("version", "a", "b", 5),
        ("timestamp", "a", "b", 1),
    ]
    assert len(told) == 6
    # All begin with zeros.
    with pytest.raises(AmbiguousConflict, match=f"ids of 3 conflicts begin with '0': {3:032x}, ") as raised:
        log.get("0")
    assert (raised.value.given, raised.value.count, len(raised.value.ids)) == ("0", 3, 3)
    assert log.get("1") is log.get("") is None
    assert log.get(f"{4:032x}") == entry(4)
    for wrong in ({"limit": 0}, {"rotate_bytes": 0}, {"keep": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ConflictLog(**wrong)  # type: ignore[arg-type]  # each is an int


def test_file_has_every_entry_and_is_moved_aside(tmp_path: Path) -> None:
    """The file is JSON lines, moved aside when it is long enough; what is in a line is the whole entry."""
    path = tmp_path / "conflicts.jsonl"
    size = len(json.dumps(entry(0).to_json(), separators=(",", ":"))) + 1
    with ConflictLog(1, path=path, rotate_bytes=3 * size, keep=2) as log:
        for number in range(10):
            log.add(entry(number))

    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["conflicts.jsonl", "conflicts.jsonl.1", "conflicts.jsonl.2"]
    lines = [line for name in reversed(names) for line in (tmp_path / name).read_text().splitlines()]
    # The oldest three went with the third file.
    assert [Conflict.from_json(json.loads(line)) for line in lines] == [entry(number) for number in range(3, 10)]
    assert log.file_errors == 0


def test_log_takes_back_no_more_than_it_keeps() -> None:
    """Of what was logged before, in the order in which it was, the oldest go, and are named to be forgotten."""
    log = ConflictLog(2)
    assert log.take_back([entry(9), entry(1), entry(5)]) == [f"{9:032x}"]
    assert [conflict.detected_at_ms for conflict in log] == [1, 5]
    assert log.counts() == ()


async def test_log_keeps_its_order_over_a_restart_and_a_clock_that_was_set_back() -> None:
    """Entries come back in the order in which they were logged; those that a smaller log drops leave the disk, too."""
    records, wall = MemoryRecords(), Wall(NOW)
    async with make_store("b") as b, make_store("a", records=records, wall=wall) as a:
        for number in range(4):
            await a.put(UAV, f"u{number}", Uav("idle"))
            await b.put(UAV, f"u{number}", Uav("busy"))
            await exchange(a, b)
            wall.now_ms -= 100
        before = list(a.conflicts)
        assert len(before) > 3
    async with make_store("a", records=records, wall=wall) as a:
        assert list(a.conflicts) == before
    store = EntityStore(NodeId("a"), [UAV], records, clock=HybridLogicalClock(wall), conflict_log=ConflictLog(2))
    async with store:
        assert list(store.conflicts) == before[-2:]
    async with records:
        kept = [value for key, value in sorted((await records.load()).items()) if key[:1] == b"l"]
    assert kept == [conflict.encode() for conflict in before[-2:]]


@pytest.mark.parametrize("before", [[], [1]])
def test_line_that_was_cut_off_spoils_no_other(before: list[int], tmp_path: Path) -> None:
    """What a crash left of a line goes when the file is opened again, so that the next entry has a line of its own."""
    path = tmp_path / "conflicts.jsonl"
    with ConflictLog(path=path) as log:
        for number in before:
            log.add(entry(number))
    with path.open("ab") as file:
        file.write(b'{"conflict_id":')

    with ConflictLog(path=path) as log:
        log.add(entry(2))

    entries = [Conflict.from_json(json.loads(line)) for line in path.read_bytes().splitlines()]
    assert entries == [entry(number) for number in (*before, 2)]


def test_file_that_cannot_be_moved_aside_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error while files are moved costs no entry and stops nothing; it is counted, and gone when its cause is."""
    path = tmp_path / "conflicts.jsonl"
    # Something that no file can take the place of.
    (tmp_path / "conflicts.jsonl.1").mkdir()
    (tmp_path / "conflicts.jsonl.1" / "x").touch()
    with ConflictLog(path=path, rotate_bytes=1, keep=1) as log:
        log.add(entry(1))
        log.add(entry(2))
        assert log.file_errors == 2
        assert "cannot be written" in caplog.text
        (tmp_path / "conflicts.jsonl.1" / "x").unlink()
        (tmp_path / "conflicts.jsonl.1").rmdir()
        log.add(entry(3))
        assert log.file_errors == 2
    moved = (tmp_path / "conflicts.jsonl.1").read_text().splitlines()
    assert [json.loads(line)["detected_at_ms"] for line in moved] == [1, 2, 3]
    assert path.read_bytes() == b""


def test_line_that_the_disk_took_half_of_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up within a line leaves none of it."""

    class Filling(FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(data[: len(data) // 2])

    path = tmp_path / "conflicts.jsonl"
    with ConflictLog(path=path) as log:
        log.add(entry(1))
        whole = path.read_bytes()
        assert log._file is not None
        log._file.close()
        monkeypatch.setattr(log, "_file", Filling(path, "a"))
        log.add(entry(2))
        assert log.file_errors == 1
    assert path.read_bytes() == whole


def test_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk costs the line, which is counted, and not the sync."""
    with ConflictLog(path="/dev/full") as log:
        assert log.add(entry(1)) == []
        assert log.file_errors == 1
        assert "cannot be written" in caplog.text

"""Kinds that go through the Raft log: one order, older operations refused, conflicts logged alike on all nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import ConfigError, InvalidCommand, LogIndex, MalformedMessage, NodeId, OutcomeUnknown
from clustercore.sync import (
    Authority,
    Change,
    Conflict,
    ConflictLog,
    EntityKind,
    EntityMachine,
    EntityStore,
    FieldGroup,
    GroupState,
    HybridLogicalClock,
    MergeOutcome,
    RaftEntities,
)
from clustercore.sync.raft_entities import encode_operation
from clustercore.sync.replica import EntityKey, Replica
from clustercore.sync.view import EntityView
from clustercore_lww import MaxResolver
from clustercore_memory import MemoryNetwork, MemoryRecords, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall, make_store


@attrs.frozen
class Order:
    state: str
    amount: int = 0
    seen: int = 0


ORDER = EntityKind(
    "order",
    Order,
    groups={"seen": FieldGroup(("seen",), MaxResolver(), is_background=True)},
    authority=Authority.RAFT,
)


class Writer:
    """Plans edits over what a machine held at some moment, as a node does that has not heard of the rest."""

    def __init__(self, name: str, machine: EntityMachine) -> None:
        replica = Replica(NodeId(name))
        replica.name(NodeId(name), "e" * 16)
        for key, slots in machine.replica.entities.items():
            for group, slot in slots.items():
                replica.set_state(key, group, slot.state, None)
        self.view = EntityView(replica, [ORDER], lambda *where: None)

    def put(self, entity_id: str, order: Order, time: int) -> bytes:
        return encode_operation(self.view.plan_put(ORDER, entity_id, order, time))

    def delete(self, entity_id: str, time: int) -> bytes:
        return encode_operation(self.view.plan_delete(ORDER, entity_id, time) or [])


def apply(machine: EntityMachine, *commands: bytes) -> list[bytes]:
    """Apply commands, and return their answers."""
    return [machine.apply(LogIndex(index), command) for index, command in enumerate(commands, 1)]


def held(machine: EntityMachine) -> dict[EntityKey, dict[str, GroupState]]:
    """Return the states of all groups."""
    entities = machine.replica.entities
    return {key: {group: slot.state for group, slot in slots.items()} for key, slots in entities.items()}


def test_older_operation_is_refused_and_both_sides_are_logged() -> None:
    """Of two operations over the same version the later stamp holds, whichever comes first from the log."""
    told: list[Conflict] = []
    one = EntityMachine([ORDER], conflict_log=ConflictLog(on_conflict=told.append))
    other = EntityMachine([ORDER])
    first = Writer("a", one).put("o1", Order("NEW"), 10)
    assert apply(one, first) == [b"\1\1"]
    apply(other, first)
    newer, older = Writer("a", one).put("o1", Order("PAID", 7), 30), Writer("b", one).put("o1", Order("VOID"), 20)

    assert apply(one, newer, older) == [b"\1", b"\0"]
    assert apply(other, older, newer) == [b"\1", b"\1"]

    assert one.view.get(ORDER, "o1") == other.view.get(ORDER, "o1") == Order("PAID", 7)
    assert one.view.stamps(ORDER, "o1")["rest"].version == 2
    assert held(one) == held(other)
    (conflict,) = told
    assert list(other.conflicts) == [conflict]
    assert (conflict.rule, conflict.winner.value, conflict.loser.value) == (
        "timestamp",
        b'{"amount":7,"state":"PAID"}',
        b'{"amount":0,"state":"VOID"}',
    )
    # A repeated operation changes nothing.
    before = b"".join(one.snapshot())
    apply(one, newer, first)
    assert b"".join(one.snapshot()) == before


def test_deletion_and_edit_meet_in_the_log() -> None:
    """The answer says which of the two holds."""
    machine = EntityMachine([ORDER])
    apply(machine, Writer("a", machine).put("o1", Order("NEW"), 10))
    edit, deletion = Writer("b", machine).put("o1", Order("PAID"), 30), Writer("a", machine).delete("o1", 20)
    assert apply(machine, deletion, edit) == [b"\1", b"\1"]
    assert machine.view.get(ORDER, "o1") == Order("PAID")

    edit, deletion = Writer("b", machine).put("o1", Order("SENT"), 40), Writer("a", machine).delete("o1", 50)
    assert apply(machine, edit, deletion, edit) == [b"\1", b"\1", b"\0"]
    assert machine.view.get(ORDER, "o1") is None
    assert [conflict.loser.is_deletion for conflict in machine.conflicts] == [True, False]


def test_what_is_seen_is_bounded() -> None:
    """Every start of a node is a writer of its own; those before the last 64 are forgotten, on all nodes alike."""
    machine, other = EntityMachine([ORDER]), EntityMachine([ORDER])
    for start in range(200):
        machine.replica.name(NodeId("abc"[start % 3]), f"{start:016x}"[::-1])
        changes = machine.view.plan_put(ORDER, "o1", Order("NEW", start), 1000 + start)
        command = encode_operation(changes)
        assert apply(machine, command) == apply(other, command) == [b"\1" * len(changes)]
        if start == 100:
            taken = b"".join(other.snapshot())
            other = EntityMachine([ORDER])
            other.restore(taken)
    (state,) = (slots["rest"].state for slots in machine.replica.entities.values())
    # And the one that the last replaced.
    assert len(state.seen) == 65
    assert len(state.heads[0].past) == 64
    assert state.heads[0].stamp.version == 200
    assert b"".join(machine.snapshot()) == b"".join(other.snapshot())
    assert len(machine.conflicts) == 0


def test_deleted_entities_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the deleted only so many are kept, those that were deleted last, on all nodes alike; the living all stay."""
    monkeypatch.setattr("clustercore.sync.raft_entities._MAX_DELETED", 10)
    machine, other = EntityMachine([ORDER]), EntityMachine([ORDER])
    unaware = Writer("b", machine)
    for number in range(40):
        # A clock that goes backwards: it has no say.
        time = 1000 * (100 - number)
        apply(machine, put := Writer("a", machine).put(f"o{number}", Order("NEW"), time))
        apply(other, put)
        if number == 39:
            unaware = Writer("b", machine)
        if number % 4:
            apply(machine, delete := Writer("a", machine).delete(f"o{number}", time + 1))
            assert apply(other, delete) == [b"\1"]
        if number in (13, 30):
            taken = b"".join(other.snapshot())
            other = EntityMachine([ORDER])
            other.restore(taken)
        assert b"".join(machine.snapshot()) == b"".join(other.snapshot())

    alive = {f"o{number}" for number in range(0, 40, 4)}
    assert set(machine.view.ids(ORDER)) == alive
    kept = {entity_id for _, entity_id in machine.replica.entities} - alive
    assert kept == set([f"o{number}" for number in range(40) if number % 4][-10:])
    # What did not know of a deletion that is kept is refused as ever; made anew, an entity is one of the living.
    assert apply(machine, unaware.put("o39", Order("VOID"), 40_000)) == [b"\0"]
    apply(machine, Writer("a", machine).put("o39", Order("NEW", 2), 200_000))
    assert machine.view.get(ORDER, "o39") == Order("NEW", 2)
    assert ("order", "o39") not in machine._deleted


@pytest.mark.parametrize("ahead_by", [365 * 86_400_000 << 16, -(365 * 86_400_000 << 16)])
def test_a_wrong_clock_makes_nobody_forget(ahead_by: int) -> None:
    """What is remembered goes by the log alone: an operation that comes again is old, whatever a clock said since."""
    now = 1_700_000_000_000 << 16
    machine = EntityMachine([ORDER])
    commands = []
    for number, name in enumerate("abcdefghijkl"):
        command = Writer(name, machine).put("o1", Order("NEW", number), now + number)
        assert apply(machine, command) == [b"\1" * command.count(b"NEW") + b"\1" * (number == 0)]
        commands.append(command)
    for number in range(3):
        (wrong,) = apply(machine, Writer("x", machine).put("o1", Order("PAID", number), now + ahead_by + number))
        assert wrong == b"\1"
    before = b"".join(machine.snapshot())

    assert {answer[:1] for answer in apply(machine, *commands)} == {b"\0"}

    assert b"".join(machine.snapshot()) == before
    assert len(machine.conflicts) == 0
    assert machine.view.get(ORDER, "o1") == Order("PAID", 2)


async def test_edit_of_unknown_outcome_is_not_passed_over(autojump_clock: MockClock) -> None:
    """What is proposed after it was made without it: if it comes from the log yet, the two are a conflict."""
    async with three_nodes() as (a, b, _):
        node, machine = a._node, a._machine
        lost: list[bytes] = []

        async def propose(command: bytes) -> Any:
            if not lost:
                lost.append(command)
                raise OutcomeUnknown("the connection broke")
            return await node.propose(command)

        alone = RaftEntities(node, machine, clock=a._clock, propose=propose)
        assert await b.put(ORDER, "o1", Order("NEW"))
        with pytest.raises(OutcomeUnknown):
            await alone.update(ORDER, "o1", state="PAID")
        assert await alone.update(ORDER, "o1", amount=5)
        assert len(machine.conflicts) == 0

        await node.propose(lost[0])

        assert await b.read(ORDER, "o1") == Order("NEW", 5)
        (conflict,) = machine.conflicts
        assert (conflict.rule, conflict.loser.value) == ("timestamp", b'{"amount":0,"state":"PAID"}')


def test_snapshot_is_the_whole_state() -> None:
    """A machine that is restored goes on as the one that was not; damaged bytes are told from a snapshot."""
    machine, restored = EntityMachine([ORDER]), EntityMachine([ORDER])
    for number in range(700):
        apply(machine, Writer("a", EntityMachine([ORDER])).put(f"o{number}", Order("NEW", number), 10 + number))
    parts = list(machine.snapshot())
    assert len(parts) > 1
    restored.restore(b"".join(parts))
    assert b"".join(restored.snapshot()) == b"".join(parts)
    assert restored.view.get(ORDER, "o5") == Order("NEW", 5)
    for wrong in (b"", b"\2", b"\1\0", b"\2\0\1\0\5a", b"\2\0\1\0\1\xff", b"".join(parts)[:-1]):
        with pytest.raises(MalformedMessage):
            EntityMachine([ORDER]).restore(wrong)
        with pytest.raises(InvalidCommand):
            machine.validate(wrong)
        assert machine.apply(LogIndex(1), wrong) == b""
    with pytest.raises(InvalidCommand):
        machine.query(b"?")


async def test_what_raft_committed_is_never_touched_by_merging() -> None:
    """A store refuses changes of a kind that is the log's, and edits of it; a machine refuses those that are merged."""
    machine = EntityMachine([ORDER])
    apply(machine, Writer("a", machine).put("o1", Order("NEW"), 10))
    committed = b"".join(machine.snapshot())
    store = EntityStore(NodeId("b"), [ORDER, UAV], MemoryRecords(), clock=HybridLogicalClock(Wall()))
    async with store, make_store("c") as other:
        stray = [Change("order", "o1", "rest", change.state) for change in await _some_changes(other)]
        assert set((await store.apply(stray)).outcomes) == {MergeOutcome.REFUSED}
        assert list(store.states()) == []
        with pytest.raises(ConfigError, match="Raft log"):
            await store.put(ORDER, "o1", Order("NEW"))

        # And the other way round, should an operation on a merged kind get into the log.
        with pytest.raises(ConfigError, match="belongs into an EntityStore"):
            EntityMachine([UAV])
        assert b"".join(machine.snapshot()) == committed


async def _some_changes(store: EntityStore) -> tuple[Change, ...]:
    await store.put(UAV, "u1", Uav("idle"))
    return store.changes().changes


@asynccontextmanager
async def three_nodes() -> AsyncIterator[list[RaftEntities]]:
    """Three nodes in one process, each with orders in the log and a store for the rest."""
    network, found = MemoryNetwork(), StaticDiscovery({name: name for name in "abc"})
    start = trio.current_time()
    clocks = [HybridLogicalClock(lambda: 1_700_000_000_000 + int((trio.current_time() - start) * 1000)) for _ in "abc"]
    async with AsyncExitStack() as stack:
        entities = []
        for name, clock in zip("abc", clocks, strict=True):
            machine = EntityMachine([ORDER])
            transport, storage = MemoryTransport(network, name), MemoryStorage()
            node = Node(name, machine=machine, transport=transport, storage=storage, discovery=found)
            await stack.enter_async_context(node)
            store = await stack.enter_async_context(make_store(name))
            entities.append(RaftEntities(node, machine, store=store, clock=clock))
        yield entities


async def test_edits_of_all_nodes_are_in_one_order(autojump_clock: MockClock) -> None:
    """Whoever edits, the next reads it and edits on top; all nodes agree on edits made at once, and log the same."""
    async with three_nodes() as (a, b, c):
        assert await a.put(ORDER, "o1", Order("NEW"))
        assert await b.read(ORDER, "o1") == Order("NEW")
        assert await b.update(ORDER, "o1", amount=5)
        assert await c.update(ORDER, "o1", state="PAID")
        assert await a.read(ORDER, "o1") == Order("PAID", 5)
        assert {group: stamp.version for group, stamp in a.stamps(ORDER, "o1").items()} == {"rest": 3, "seen": 1}
        assert not await c.update(ORDER, "o2", amount=1)
        assert not await c.delete(ORDER, "o2")
        assert await a.put(ORDER, "o1", Order("PAID", 5))

        async with trio.open_nursery() as nursery:
            for number, entities in enumerate((a, b, c, a, b, c)):
                nursery.start_soon(entities.put, ORDER, "o1", Order("RACE", number))
        first = await a.read(ORDER, "o1")
        assert first is not None
        assert await b.read(ORDER, "o1") == await c.read(ORDER, "o1") == first
        logged = [[attrs.evolve(entry, node_id=NodeId("")) for entry in one._machine.conflicts] for one in (a, b, c)]
        assert logged[0] == logged[1] == logged[2]

        if logged[0]:
            assert await b.restore(logged[0][0].conflict_id)
        assert not await b.restore("none")
        assert await c.delete(ORDER, "o1")
        assert await a.read(ORDER, "o1") is None
        assert list(a.ids(ORDER)) == []


async def test_one_object_has_both_ways(autojump_clock: MockClock) -> None:
    """A kind that is merged goes to the store, and one in the log to the log, by the same calls."""
    async with three_nodes() as (a, b, _):
        assert await a.put(UAV, "u1", Uav("idle"))
        assert await a.update(UAV, "u1", status="busy")
        assert a.get(UAV, "u1") == await a.read(UAV, "u1") == Uav("busy")
        assert list(a.ids(UAV)) == ["u1"]
        assert b.get(UAV, "u1") is None
        assert await a.put(MISSION, "m1", Mission("PLANNED", 0))
        assert await a.delete(UAV, "u1")
        assert a.get(UAV, "u1") is None
        alone = RaftEntities(a._node, a._machine)
        with pytest.raises(ConfigError, match="no store"):
            alone.get(UAV, "u1")
        with pytest.raises(InvalidCommand):
            await a.put(ORDER, "", Order("NEW"))

"""The laws of sync: replicas that saw the same edits are the same bytes, whatever the order, grouping and repetition.

Edits are made by a few stores that hear of each other now and then, so that they follow one another, meet, and delete
what others change. Then fresh replicas are told of all that was ever said, each in another way.
"""

from __future__ import annotations

from random import Random

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import NodeId
from clustercore.sync import Change, EntityKind, EntityStore, HybridLogicalClock
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import UAV, Uav

WRITERS = ("a", "b", "\u00e4")
IDS = ("1", "2")


@attrs.frozen
class Step:
    writer: int
    action: str
    entity: int
    value: int
    # How far the writer's wall clock is from the others', in ms.
    skew_ms: int


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, len(WRITERS) - 1),
        st.sampled_from(["put", "update", "beat", "delete", "hear", "hear"]),
        st.integers(0, len(IDS) - 1),
        st.integers(0, 3),
        st.sampled_from([0, 0, 0, 1, 400, -3_600_000]),
    ),
    min_size=1,
    max_size=14,
)


class Walls:
    """Wall clocks that stand still, each with its own error."""

    def __init__(self) -> None:
        self.skew_ms = dict.fromkeys(WRITERS, 0)

    def of(self, name: str) -> HybridLogicalClock:
        return HybridLogicalClock(lambda: 1_700_000_000_000 + self.skew_ms.get(name, 0), max_offset_ms=4_000_000)


def make(name: str, walls: Walls) -> EntityStore:
    """Return a store of UAVs."""
    kinds: list[EntityKind[Uav]] = [UAV]
    return EntityStore(NodeId(name), kinds, MemoryRecords(), clock=walls.of(name))


async def take_step(step: Step, stores: list[EntityStore], told: list[Change], random: Random) -> None:
    """Let one writer do something, and note all that it then has to tell."""
    store, entity_id = stores[step.writer], IDS[step.entity]
    before = store.seq
    if step.action == "put":
        await store.put(UAV, entity_id, Uav(f"s{step.value}", step.value, None))
    elif step.action == "update":
        await store.update(UAV, entity_id, current_mission_id=f"m{step.value}")
    elif step.action == "beat":
        await store.update(UAV, entity_id, last_heartbeat=step.value)
    elif step.action == "delete":
        await store.delete(UAV, entity_id)
    elif told:
        await store.apply(random.sample(told, random.randint(1, len(told))))
    told += store.changes(before, 10**9).changes


async def replica_of(told: list[Change], random: Random, number: int, walls: Walls) -> tuple[bytes, list[Uav | None]]:
    """Tell a fresh replica everything in some order, some of it twice, by way of others, and return what it has."""
    others = [make(f"r{number}.{index}", walls) for index in range(random.randint(1, 3))]
    async with trio.open_nursery():
        for store in others:
            await store.__aenter__()
        order = [*told, *random.choices(told, k=random.randrange(4))] if told else []
        random.shuffle(order)
        for change in order:
            await random.choice(others).apply([change])
        target = others[0]
        for store in random.sample(others, len(others)):
            await target.apply(store.changes(0, 10**9).changes)
        result = target.canonical_bytes(), [target.get(UAV, entity_id) for entity_id in IDS]
        for store in others:
            await store.__aexit__(None, None, None)
    return result


async def check(steps: list[Step], seed: int) -> None:
    """Carry out the steps, and compare the writers with each other and with replicas that were told."""
    random, walls = Random(seed), Walls()
    stores = [make(name, walls) for name in WRITERS]
    for store in stores:
        await store.__aenter__()
    told: list[Change] = []
    for step in steps:
        walls.skew_ms[WRITERS[step.writer]] = step.skew_ms
        await take_step(step, stores, told, random)
    for store in stores:
        await store.apply(told)
    expected = stores[0].canonical_bytes(), [stores[0].get(UAV, entity_id) for entity_id in IDS]
    for store in stores[1:]:
        assert (store.canonical_bytes(), [store.get(UAV, entity_id) for entity_id in IDS]) == expected
    for number in range(2):
        assert await replica_of(told, random, number, walls) == expected
    for store in stores:
        await store.__aexit__(None, None, None)


@given(STEPS, st.integers(0, 2**32))
def test_replicas_that_saw_the_same_edits_are_the_same_bytes(steps: list[Step], seed: int) -> None:
    """Whatever was edited, deleted and heard, in whatever order: all replicas end with the same bytes, and read so."""
    trio.run(check, steps, seed)

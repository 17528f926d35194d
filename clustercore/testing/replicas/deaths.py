"""Entities that die: each is created once, perhaps edited, and deleted once; then nobody touches it any more.

What must be so in the end is known here without asking the merge: an entity stays away for good if its deletion was
acknowledged, and made where every edit of it was known. An edit that the deletion did not know of may bring it back,
and says nothing here. Neither does a deletion whose own disk was lost: perhaps nobody had fetched it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs
import trio

from clustercore.interfaces import ClusterError
from clustercore.sync import EntityKind, EntityStore
from clustercore.testing.simulation import Chance, SimulatedCrash
from clustercore.testing.violation import PropertyViolated

__all__ = ["Deaths"]


@attrs.define(eq=False)
class Deaths:
    """Lets entities live and die, one after another, and knows which must be gone."""

    chance: Chance
    kind: EntityKind[Any]
    # Makes an entity that says something.
    make: Callable[[str], object]
    # Names a field that can be changed.
    field: str
    # The running stores, and what runs a piece of code as a machine's own.
    stores: Mapping[str, EntityStore]
    inside: Callable[[str], AbstractContextManager[None]]
    coverage: Counter[str]
    # Those that must stay away, by id, with the machine that deleted them.
    gone: dict[str, str] = attrs.field(factory=dict)

    async def run(self, count: int, mean_s: float) -> None:
        """Let so many live and die; each takes its time, and they overlap."""
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await trio.sleep(self.chance.exponential(mean_s))
                nursery.start_soon(self._live, f"mortal {number}", self.chance.part(f"mortal {number}"), mean_s)

    async def _live(self, entity_id: str, chance: Chance, mean_s: float) -> None:
        # Where each edit was made: group, writer and time.
        edits: set[tuple[str, str, int]] = set()
        try:
            store = self._pick(chance, lambda store: True)
            if store is None:
                return
            await self._edit(store, entity_id, edits, is_new=True)
            for _ in range(chance.below(3)):
                await trio.sleep(chance.exponential(2 * mean_s))
                store = self._pick(chance, lambda store: store.is_there(self.kind.name, entity_id))
                if store is not None:
                    await self._edit(store, entity_id, edits, is_new=False)
            await trio.sleep(chance.exponential(2 * mean_s))
            store = self._pick(chance, lambda store: store.is_there(self.kind.name, entity_id))
            if store is not None:
                await self._delete(store, entity_id, edits)
        except (ClusterError, SimulatedCrash):
            # The machine went off, and nobody knows what became of the edit: this one proves nothing.
            self.coverage["mortals of unknown fate"] += 1

    def _pick(self, chance: Chance, suits: Callable[[EntityStore], bool]) -> EntityStore | None:
        fitting = [store for store in self.stores.values() if suits(store)]
        return chance.choice(fitting) if fitting else None

    async def _edit(
        self, store: EntityStore, entity_id: str, edits: set[tuple[str, str, int]], *, is_new: bool
    ) -> None:
        with self.inside(store.node_id):
            if is_new:
                await store.put(self.kind, entity_id, self.make(entity_id))
            else:
                await store.update(self.kind, entity_id, **{self.field: f"{len(edits)}"})
        edits |= {
            (change.group, head.stamp.writer, head.stamp.time)
            for change in store.states_of(self.kind.name, entity_id)
            for head in change.state.heads
        }

    async def _delete(self, store: EntityStore, entity_id: str, edits: set[tuple[str, str, int]]) -> None:
        # What the deletion knows: nothing runs between this and its being planned but the reading of the clock, and
        # what comes meanwhile only makes it know more.
        held = {change.group: change.state.seen for change in store.states_of(self.kind.name, entity_id)}
        knows_all = all(held.get(group, {}).get(writer, -1) >= time for group, writer, time in edits)
        with self.inside(store.node_id):
            is_deleted = await store.delete(self.kind, entity_id)
        if is_deleted and knows_all:
            self.gone[entity_id] = store.node_id
            self.coverage["certain deaths"] += 1

    def lose(self, name: str) -> None:
        """Take note that a machine's disk is another one: what it deleted perhaps nobody knows."""
        self.gone = {entity_id: deleter for entity_id, deleter in self.gone.items() if deleter != name}

    def check(self) -> None:
        """Make sure that those are gone that must be, everywhere.

        Raises: PropertyViolated.
        """
        for name, store in self.stores.items():
            for entity_id, deleter in self.gone.items():
                if store.is_there(self.kind.name, entity_id):
                    states = store.states_of(self.kind.name, entity_id)
                    text = f"{name} has {entity_id!r}, which {deleter} deleted in knowledge of all its edits: {states}"
                    raise PropertyViolated("the deleted stay away", text, node=name)

"""Entities as readers and writers see them, over the group states of a replica: what is read, and what an edit writes.

An edit is planned here as the changes that it makes, and carried out by whoever asked: ``entities`` puts them into the
store, ``raft_entities`` through the log. Nothing here waits or changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from clustercore.interfaces import ConfigError, InvalidCommand
from clustercore.sync import life
from clustercore.sync.changes import Change
from clustercore.sync.conflict_log import Conflict
from clustercore.sync.kinds import LIFE_GROUP, MAX_NAME_BYTES, EntityKind
from clustercore.sync.merge import pick
from clustercore.sync.replica import EntityKey, Replica, Slot
from clustercore.sync.writes import MAX_VERSION, GroupState, Stamp, Write, split_time

__all__ = ["EntityView"]

E = TypeVar("E")
Slots = Mapping[str, Slot]
Values = Mapping[str, bytes | None]


class EntityView:
    """Reads entities, and plans edits.

    Args:
        replica: Where the states are.
        kinds: Those that are read and edited.
        on_failure: Is told of a resolver that raised: kind, entity id, group and error.
        remembers: Whether a writer has a place in the past of new writes that do not replace a write of its own. What
            the others wrote must be known not to come again, where it was overruled.

    Raises: ConfigError if two kinds have one name.
    """

    def __init__(
        self,
        replica: Replica,
        kinds: Iterable[EntityKind[Any]],
        on_failure: Callable[[str, str, str, Exception], None],
        *,
        remembers: Callable[[str], bool] = lambda writer: True,
    ) -> None:
        self._replica = replica
        self._remembers = remembers
        self._on_failure = on_failure
        self.kinds: dict[str, EntityKind[Any]] = {}
        for kind in kinds:
            if kind.name in self.kinds:
                raise ConfigError(f"two entity kinds are called {kind.name!r}")
            self.kinds[kind.name] = kind

    # -- Reading --

    def get(self, kind: EntityKind[E], entity_id: str) -> E | None:
        """Return an entity; None if there is none, or a field without a default has not come yet."""
        slots = self._slots(kind, entity_id)
        if not life.is_alive(slots):
            return None
        picked = self._picked(kind, entity_id, slots)
        updated = max((stamp.time for stamp, _ in picked.values()), default=0)
        return kind.structure(entity_id, {group: value for group, (_, value) in picked.items()}, split_time(updated))

    def ids(self, kind: EntityKind[Any]) -> Iterator[str]:
        """Yield the ids of the entities of a kind that are there, in no order."""
        self._check(kind)
        for (name, entity_id), slots in self._replica.entities.items():
            if name == kind.name and life.is_alive(slots):
                yield entity_id

    def is_there(self, kind: EntityKind[Any], entity_id: str) -> bool:
        """Whether an entity was written, and not deleted."""
        return life.is_alive(self._slots(kind, entity_id))

    def values(self, kind: EntityKind[Any], entity_id: str) -> dict[str, bytes]:
        """Return the canonical JSON of each group of an entity, unknown ones too; nothing if it is not there."""
        slots = self._slots(kind, entity_id)
        if not life.is_alive(slots):
            return {}
        picked = self._picked(kind, entity_id, slots)
        return {group: value for group, (_, value) in picked.items() if value is not None}

    def stamps(self, kind: EntityKind[Any], entity_id: str) -> dict[str, Stamp]:
        """Return the stamp of what holds in each group of an entity, also of one that is deleted."""
        slots = self._slots(kind, entity_id)
        return {
            group: pick(slot.state.heads, kind.resolver_of(group))[0]
            for group, slot in slots.items()
            if slot.state.heads
        }

    def _check(self, kind: EntityKind[Any]) -> None:
        if self.kinds.get(kind.name) is not kind:
            raise ConfigError(f"there is no kind {kind.name!r} here as declared; there are {sorted(self.kinds)}")

    def _slots(self, kind: EntityKind[Any], entity_id: str) -> Slots:
        self._check(kind)
        return self._replica.entities.get((kind.name, entity_id), {})

    def _picked(self, kind: EntityKind[Any], entity_id: str, slots: Slots) -> dict[str, tuple[Stamp, bytes | None]]:
        return {
            group: pick(heads, kind.resolver_of(group), self._teller(kind.name, entity_id, group))
            for group, heads in life.visible_heads(slots).items()
        }

    def _teller(self, *where: str) -> Callable[[Exception], None]:
        kind, entity_id, group = where
        return lambda error: self._on_failure(kind, entity_id, group, error)

    # -- Planning edits --

    def check_edit(self, kind: EntityKind[Any], entity_id: str) -> None:
        """Make sure that an edit can be planned.

        Raises: ConfigError if the kind is not one of these; InvalidCommand if the id is empty or too long.
        """
        self._check(kind)
        if not 1 <= len(entity_id.encode()) <= MAX_NAME_BYTES:
            raise InvalidCommand(f"the id of an entity is {entity_id!r}; it must have from 1 to {MAX_NAME_BYTES} bytes")

    def plan_put(self, kind: EntityKind[E], entity_id: str, entity: E, time: int) -> list[Change]:
        """Return the changes that make an entity what it says. There may be none.

        Raises: InvalidCommand if a field has no JSON value.
        """
        return self._plan(kind, entity_id, lambda held: kind.unstructure(entity, held), time)

    def plan_update(
        self, kind: EntityKind[Any], entity_id: str, fields: Mapping[str, Any], time: int
    ) -> list[Change] | None:
        """Return the changes that give some fields new values; None if the entity is not there.

        Raises: InvalidCommand if a field is not there to be changed, or has no JSON value.
        """
        if not self.is_there(kind, entity_id):
            return None
        return self._plan(kind, entity_id, lambda held: kind.change(fields, held), time)

    def plan_delete(self, kind: EntityKind[Any], entity_id: str, time: int) -> list[Change] | None:
        """Return the change that deletes an entity; None if it is not there."""
        slots = self._slots(kind, entity_id)
        if not life.is_alive(slots):
            return None
        collected = self._replica.collected.get((kind.name, entity_id))
        version = life.next_version(slots, LIFE_GROUP, collected, is_weak=False)
        value = life.tombstone_value(slots)
        return [self._change(kind, entity_id, LIFE_GROUP, value, time, version, is_weak=False)]

    def plan_restore(self, conflict: Conflict, time: int) -> list[Change]:
        """Return the changes that write the losing value of a conflict back.

        Raises: ConfigError if the conflict's kind is not one of these.
        """
        kind = self.kinds.get(conflict.kind)
        if kind is None:
            raise ConfigError(f"there is no kind {conflict.kind!r} here; there are {sorted(self.kinds)}")
        entity_id, loser = conflict.entity_id, conflict.loser
        if loser.is_deletion:
            return self.plan_delete(kind, entity_id, time) or []
        slots = self._slots(kind, entity_id)
        is_alive = life.is_alive(slots)
        stored = {group: slot.state.heads for group, slot in slots.items() if group != LIFE_GROUP and slot.state.heads}
        held = {group: pick(heads, kind.resolver_of(group))[1] for group, heads in stored.items()}
        # One that is deleted comes back with all its groups, as they are held still.
        values = ({} if is_alive else held) | {conflict.group: loser.value}
        return self._writes(kind, entity_id, values, held, time, is_alive=is_alive)

    def _plan(
        self, kind: EntityKind[Any], entity_id: str, make: Callable[[Values], Mapping[str, bytes]], time: int
    ) -> list[Change]:
        slots = self._slots(kind, entity_id)
        is_alive = life.is_alive(slots)
        held = {group: value for group, (_, value) in self._picked(kind, entity_id, slots).items()} if is_alive else {}
        values: dict[str, bytes | None] = {**make(held)}
        if not is_alive:
            # Created anew: groups that only a newer version of the kind has are not to come back from before.
            values |= {group: None for group in slots if group not in values and group != LIFE_GROUP}
        return self._writes(kind, entity_id, values, held, time, is_alive=is_alive)

    def _writes(
        self, kind: EntityKind[Any], entity_id: str, values: Values, held: Values, time: int, *, is_alive: bool
    ) -> list[Change]:
        slots = self._slots(kind, entity_id)
        changed = [group for group, value in values.items() if not is_alive or value != held.get(group)]
        weak = {group for group in changed if is_alive and kind.is_weak(group)}
        collected = self._replica.collected.get((kind.name, entity_id))
        return [
            self._change(
                kind,
                entity_id,
                group,
                values[group],
                time,
                life.next_version(slots, group, collected, is_weak=group in weak),
                is_weak=group in weak,
            )
            for group in changed
        ]

    def _change(
        self,
        kind: EntityKind[Any],
        entity_id: str,
        group: str,
        value: bytes | None,
        time: int,
        version: int,
        *,
        is_weak: bool,
    ) -> Change:
        key: EntityKey = (kind.name, entity_id)
        if version > MAX_VERSION:
            # Nobody could read it, and the next start of this store would fail over it.
            raise InvalidCommand(f"{kind.name} {entity_id!r} has a write of version {MAX_VERSION}: damage, never edits")
        slots = self._replica.entities.get(key, {})
        writer = self._replica.writer
        past = life.past_for(slots, group, self._replica.collected.get(key), self._replica.dropped_of(key, group))
        heads = slots[group].state.heads if group in slots else ()
        base = pick(heads, kind.resolver_of(group))[0] if heads else None
        replaced = {head.stamp.writer for head in heads}
        known = tuple(
            sorted(
                (name, last)
                for name, last in past.items()
                if name != writer and (name in replaced or self._remembers(name))
            )
        )
        write = Write(Stamp(version, time, writer), base, known, value, is_weak)
        return Change(*key, group, GroupState.of(write))

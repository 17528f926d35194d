"""What a store does with a change that comes from elsewhere: look at its clock, join it, and say what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from clustercore.interfaces import ConflictResolver, Edit, InvalidCommand, NodeId, last_write
from clustercore.sync import life
from clustercore.sync.changes import (
    ApplyReport,
    Change,
    ClockTooFarAhead,
    Corruption,
    MergeOutcome,
    ResolverFailed,
    StoreEvent,
    StoreWentBack,
    ZombieRefused,
)
from clustercore.sync.clock import HybridLogicalClock
from clustercore.sync.collecting import is_against, is_zombie
from clustercore.sync.conflict_log import Conflict, ConflictLog, ConflictSide, conflict_id
from clustercore.sync.kinds import LIFE_GROUP, MAX_NAME_BYTES, Authority, EntityKind, FieldResolver
from clustercore.sync.merge import Relation, decide, join
from clustercore.sync.replica import EntityKey, Replica, Slot
from clustercore.sync.writes import LOGICAL_BITS, GroupState, Write, split_time

__all__ = ["Receiver"]

_OUTCOMES = {
    Relation.NEW: MergeOutcome.NEW,
    Relation.DUPLICATE: MergeOutcome.DUPLICATE,
    Relation.STALE: MergeOutcome.STALE,
    Relation.FAST_FORWARD: MergeOutcome.FAST_FORWARD,
    Relation.CONCURRENT: MergeOutcome.CONCURRENT,
}


class Receiver:
    """Applies changes to a replica. Nothing here waits.

    Args:
        replica: Where to.
        kinds: Those that are known.
        on_event: Is told of what operators should hear of.
        conflicts: Where conflicts are logged.
        clock: That of the node; None for the Raft log's changes, on which no clock may have a say: then the kinds that
            are applied are those of the log.
    """

    def __init__(
        self,
        replica: Replica,
        kinds: Mapping[str, EntityKind[Any]],
        on_event: Callable[[StoreEvent], None],
        conflicts: ConflictLog,
        clock: HybridLogicalClock | None = None,
    ) -> None:
        self._replica = replica
        self._kinds = kinds
        self._clock = clock
        self._on_event = on_event
        self._conflicts = conflicts
        # Of the batch that is being applied: up to where times are beyond doubt, and the newest of those.
        self._timely = self._newest = 0
        # Entities whose deletion, which was collected here, it tells of; and that at the end of the last from each
        # peer, of which there may be more in the next.
        self._told: set[EntityKey] = set()
        self._last_told: dict[NodeId, EntityKey] = {}
        # What is held, by when its time comes, as far as was known when it was noted; None until the replica is loaded.
        self._due: list[tuple[int, EntityKey, str]] | None = None

    def teller(self, kind: str, entity_id: str, group: str) -> Callable[[Exception], None]:
        """Return what tells that a group's resolver raised."""
        return lambda error: self._on_event(ResolverFailed(kind, entity_id, group, error))

    def apply(self, changes: Sequence[Change], source: NodeId | None) -> ApplyReport:
        """Stage what changes make of what is here; those that waited, too, as far as their time has come.

        Raises: InvalidCommand if a name is too long; nothing is staged then.
        """
        for change in changes:
            for name in (change.kind, change.entity_id, change.group):
                # Of names so short there is no doubt, however they are encoded.
                if len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES:
                    raise InvalidCommand(f"a change names {name[:40]!r}..., which has more than {MAX_NAME_BYTES} bytes")
        if self._clock is not None:
            self._timely = (self._clock.wall() + self._clock.max_offset_ms) << LOGICAL_BITS
            self._release_held(self._clock)
        self._told = self._told_before(changes, source)
        conflicts = 0
        outcomes = []
        rebuttals: dict[EntityKey, Change] = {}
        for change in changes:
            key = change.kind, change.entity_id
            outcome, met = self._receive(key, change.group, change.state, source)
            outcomes.append(outcome)
            conflicts += met
            if outcome is MergeOutcome.ZOMBIE and key in self._replica.collected:
                rebuttals[key] = Change(*key, LIFE_GROUP, self._replica.collected[key])
        if source is not None and changes and (last := (changes[-1].kind, changes[-1].entity_id)) in self._told:
            self._last_told[source] = last
        if self._clock is not None and self._newest:
            self._clock.observe(split_time(self._newest))
        return ApplyReport(tuple(outcomes), conflicts, tuple(rebuttals.values()))

    def _told_before(self, changes: Sequence[Change], source: NodeId | None) -> set[EntityKey]:
        told = None if source is None else self._last_told.pop(source, None)
        return {told} if told is not None and changes and told == (changes[0].kind, changes[0].entity_id) else set()

    def _release_held(self, clock: HybridLogicalClock) -> None:
        """Receive what is held and may be taken by now. What may not is not even looked at: it may be much."""
        held = self._replica.held
        if self._due is None:
            self._due = [(_latest(state), *where) for where, state in held.items()]
            heapify(self._due)
        released: list[tuple[EntityKey, str, GroupState]] = []
        while self._due and clock.takes(split_time(self._due[0][0])):
            _, key, group = heappop(self._due)
            state = held.get((key, group))
            # More may have come to it since it was noted.
            if state is None:
                continue
            if clock.takes(split_time(_latest(state))):
                self._replica.hold(key, group, None)
                released.append((key, group, state))
            else:
                heappush(self._due, (_latest(state), key, group))
        for key, group, state in released:
            self._receive(key, group, state, None)

    def _hold(self, key: EntityKey, group: str, state: GroupState) -> None:
        before = self._replica.held.get((key, group))
        joined = state if before is None else join(before, state).state
        self._replica.hold(key, group, joined)
        if before is None and self._due is not None:
            heappush(self._due, (_latest(joined), key, group))

    def _receive(
        self, key: EntityKey, group: str, state: GroupState, source: NodeId | None
    ) -> tuple[MergeOutcome, int]:
        kind = self._kinds.get(key[0])
        if kind is not None and (kind.authority is Authority.RAFT) is (self._clock is not None):
            return MergeOutcome.REFUSED, 0
        collected = self._replica.collected.get(key)
        if (collected or self._replica.forgotten_ms) and is_zombie(self._replica, key, group, state):
            if key in self._told:
                # Whoever tells of the deletion has not collected it yet.
                return MergeOutcome.STALE, 0
            self._on_event(ZombieRefused(*key, group, tuple(head.stamp for head in state.heads)))
            return MergeOutcome.ZOMBIE, 0
        slot = self._replica.entities.get(key, {}).get(group)
        here = None if slot is None else slot.state
        if group == LIFE_GROUP and collected is not None:
            here = collected if slot is None else here
            if join(state, collected).state == state:
                self._told.add(key)
        elif slot is None and collected is not None:
            here = self._replica.dropped_of(key, group)
        joined = join(here, state)
        if slot is None and collected is not None and (joined.state is here or not joined.state.heads):
            # Nothing that the ledger does not know.
            return MergeOutcome.STALE, 0
        if joined.state is here:
            self._tell_corruptions(key, group, joined.corruptions)
            return _OUTCOMES[joined.relation], 0
        for head in state.heads:
            if head.stamp.time <= self._timely:
                self._newest = max(self._newest, head.stamp.time)
            elif not self._is_timely(key, group, head):
                self._hold(key, group, state)
                return MergeOutcome.HELD, 0
        if self._clock is not None:
            self._look_for_own_writes(key, group, here, state)
        self._tell_corruptions(key, group, joined.corruptions)
        is_theirs = joined.relation is Relation.NEW or joined.state == state
        self._replica.set_state(key, group, joined.state, source if is_theirs else None)
        met = sum(self._log(key, group, one, other) for one, other in joined.conflicts)
        slots = self._replica.entities[key]
        if collected is not None and LIFE_GROUP not in slots and is_against(group, joined.state, collected):
            self._replica.hold_again(key)
        if LIFE_GROUP in slots:
            met += self._look_for_deletions(key, slots, [group] if group != LIFE_GROUP else list(slots))
        return _OUTCOMES[joined.relation], met

    def _look_for_deletions(self, key: EntityKey, slots: Mapping[str, Slot], groups: Sequence[str]) -> int:
        """Log where a deletion and edits of some groups did not know each other. Return how many are new."""
        met = 0
        for tombstone in life.tombstones(slots):
            for group in groups:
                if group != LIFE_GROUP:
                    for head in life.unknown_to(tombstone, group, slots[group].state.heads):
                        met += self._log(key, group, tombstone, head, is_deletion=True)
        return met

    def _log(self, key: EntityKey, group: str, one: Write, other: Write, *, is_deletion: bool = False) -> bool:
        """Log a conflict, if it was not met before, and return whether it was not.

        Args:
            is_deletion: Whether ``one`` deletes the entity that ``other`` changes.
        """
        if (one.is_weak and other.is_weak) or group == LIFE_GROUP:
            # Edits in the background are nobody's decisions, and two deletions agree.
            return False
        name = conflict_id(*key, group, one, other)
        if self._conflicts.has(name):
            return False
        kind = self._kinds.get(key[0])
        ours = ConflictSide(one.stamp, one.base, None if is_deletion else one.value, is_deletion)
        theirs = ConflictSide(other.stamp, other.base, other.value)
        # A deletion is of the whole entity, so no group's resolver has a say in it.
        resolver = None if kind is None or is_deletion else kind.resolver_of(group)
        mine, yours = (Edit(side.stamp.edit_stamp, side.value) for side in (ours, theirs))
        latest = last_write(mine, yours)
        decision = latest if resolver is None else decide(mine, yours, resolver, self.teller(*key, group))
        winner, loser = (ours, theirs) if latest.winner is mine else (theirs, ours)
        conflict = Conflict(
            name,
            *key,
            group,
            decision.rule,
            _name_of(resolver),
            winner,
            loser,
            decision.winner.value,
            self._replica.node_id,
            max(one.stamp, other.stamp).hybrid_time.physical_ms if self._clock is None else self._clock.wall(),
        )
        encoded = conflict.encode()
        self._replica.log_conflict(name, encoded)
        for gone in self._conflicts.add(conflict, encoded) or ():
            self._replica.forget_conflict(gone)
        return True

    def _is_timely(self, key: EntityKey, group: str, head: Write) -> bool:
        if self._clock is None:
            return True
        time = split_time(head.stamp.time)
        if self._clock.is_too_far_ahead(time):
            ahead_ms = time.physical_ms - self._clock.wall()
            self._on_event(ClockTooFarAhead(*key, group, head.stamp, ahead_ms))
        return self._clock.observe(time)

    def _look_for_own_writes(self, key: EntityKey, group: str, here: GroupState | None, state: GroupState) -> None:
        """Find out that this store forgot what it wrote: then it must not go on under the same name."""
        writer = self._replica.writer
        known = -1 if here is None else here.seen.get(writer, -1)
        for head in state.heads:
            if head.stamp.writer == writer and head.stamp.time > known:
                self._replica.renew_epoch()
                self._on_event(StoreWentBack(*key, group, head.stamp))
                return

    def _tell_corruptions(self, key: EntityKey, group: str, pairs: tuple[tuple[Write, Write], ...]) -> None:
        for one, _ in pairs:
            self._on_event(Corruption(*key, group, one.stamp))


def _name_of(resolver: ConflictResolver | None) -> str:
    if resolver is None:
        return "lww"
    return resolver.name if isinstance(resolver, FieldResolver) else type(resolver).__name__


def _latest(state: GroupState) -> int:
    return max((head.stamp.time for head in state.heads), default=0)

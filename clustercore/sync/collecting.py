"""Tombstones that are no longer needed, and what keeps the deleted from coming back when they are gone.

A tombstone may go when every known peer has it, and it is old: then nobody who is known can bring the entity back by
telling of it. A peer that was not known then may (scylladb#8970): one that was away, or restored from a backup. So the
store keeps what it collected in a ledger that is no part of what is replicated. What a peer tells of such an entity is
refused, unless it was made in knowledge of the deletion or would have won over it, exactly as if the tombstone were
still there; and the peer is given the tombstone. If it would have won without knowing of it, the tombstone is held
again, since those that have it still keep it, too, and what was collected or refused of the entity is fetched anew.

"Has it" is not enough. A peer may have made an edit before it heard of the deletion, one that outlives it, and not have
told of it yet: then the entity comes back, and what was collected of it would be missing here alone. So a peer counts
only with what was fetched from it after it had the tombstone; see ``collector``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from clustercore.interfaces import NodeId
from clustercore.sync import life
from clustercore.sync.kinds import LIFE_GROUP
from clustercore.sync.replica import EntityKey, Replica, Slot
from clustercore.sync.writes import GroupState, split_time

__all__ = ["CollectReport", "CollectedPart", "collect_part", "is_against", "is_zombie"]

# What is looked at without letting other tasks run: changes, and tombstones among them, some ten us each. A few ms.
CHANGES_PER_PART = 2000
TOMBSTONES_PER_PART = 200


@attrs.frozen
class CollectReport:
    """What a collection did; durable when it is returned."""

    # Deletions that are gone.
    collected: int
    # Of those that are old enough and are not gone, for how many each peer is waited for.
    waiting_for: Mapping[NodeId, int]


@attrs.frozen
class CollectedPart:
    """What became of a part of the log of changes."""

    # The part ends here; the next one begins after it.
    next_seq: int
    has_more: bool
    collected: int
    waiting_for: Counter[NodeId]


def collect_part(
    replica: Replica, since: int, acknowledged: Mapping[NodeId, int], *, older_than_ms: int
) -> CollectedPart:
    """Stage the removal of tombstones that every peer has seen and that are old enough, in a part of the log.

    Args:
        replica: Whose.
        since: Where the part before ended; 0 for the first.
        acknowledged: For every known peer, up to which seq of this store, in this epoch, it has applied all changes.
        older_than_ms: A moment in ms since 1970 UTC; younger tombstones stay.
    """
    seen_by_all = min(acknowledged.values(), default=replica.seq)
    # Who knows what these do to the entity, once their time has come.
    held = {key for key, _ in replica.held}
    next_seq, due = replica.seq, list[EntityKey]()
    waiting_for = Counter[NodeId]()
    has_more = False
    for looked_at, (key, group, slot) in enumerate(replica.changed_since(since, replica.seq), 1):
        if group == LIFE_GROUP and _is_older(slot, older_than_ms):
            newest = max(each.seq for each in replica.entities[key].values())
            if newest > seen_by_all:
                waiting_for.update(peer for peer, seq in acknowledged.items() if seq < newest)
            elif key not in held:
                due.append(key)
        if looked_at == CHANGES_PER_PART or len(due) + waiting_for.total() >= TOMBSTONES_PER_PART:
            next_seq, has_more = slot.seq, True
            break
    gone = sum(_collect(replica, key) for key in due)
    return CollectedPart(next_seq, has_more, gone, waiting_for)


def _is_older(slot: Slot, than_ms: int) -> bool:
    """Whether a group of tombstones is older than a moment. Broken nodes make groups of none, and those stay."""
    newest = max((head.stamp.time for head in slot.state.heads), default=None)
    return newest is not None and split_time(newest).physical_ms < than_ms


def _collect(replica: Replica, key: EntityKey) -> bool:
    slots = replica.entities[key]
    if not life.is_alive(slots):
        seen = {group: life.dropped_past(slots, group) for group in slots if group != LIFE_GROUP}
        replica.collect(key, list(slots), seen)
        return True
    if _is_settled(slots):
        replica.collect(key, [LIFE_GROUP], {})
        return True
    return False


def _is_settled(slots: Mapping[str, Slot]) -> bool:
    """Whether a living entity is without its deletions what it is with them."""
    deletions = slots[LIFE_GROUP].state
    return not any(is_against(group, slot.state, deletions) for group, slot in slots.items() if group != LIFE_GROUP)


def is_zombie(replica: Replica, key: EntityKey, group: str, state: GroupState) -> bool:
    """Whether a state that came is of an entity whose deletion, which was collected, would have won over it."""
    collected = replica.collected.get(key)
    if collected is None:
        is_old = all(split_time(head.stamp.time).physical_ms <= replica.forgotten_ms for head in state.heads)
        return is_old and key not in replica.entities
    if group == LIFE_GROUP or key in replica.entities:
        return False
    return not any(life.outlives(head, collected.heads) for head in state.heads)


def is_against(group: str, state: GroupState, deletions: GroupState) -> bool:
    """Whether a group has writes that the deletions of a living entity matter to, since they do not know of them.

    Those that keep it alive; and of the others those that a deletion covers, for it alone says that they are gone.
    """
    return any(
        not head.knows(deletion.stamp) and (not head.is_weak or life.covers(deletion, group, head.stamp))
        for deletion in deletions.heads
        for head in state.heads
    )

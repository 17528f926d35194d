"""Tombstones that are no longer needed, and what keeps the deleted from coming back when they are gone.

A tombstone may go when every known peer has it, and it is old: then nobody who is known can bring the entity back by
telling of it. A peer that was not known then may (scylladb#8970): one that was away, or restored from a backup. So the
store keeps what it collected in a ledger that is no part of what is replicated. What a peer tells of such an entity is
refused, unless it was made in knowledge of the deletion or would have won over it, exactly as if the tombstone were
still there; and the peer is given the tombstone.
"""

from __future__ import annotations

from collections.abc import Mapping

from clustercore.interfaces import NodeId
from clustercore.sync import life
from clustercore.sync.kinds import LIFE_GROUP
from clustercore.sync.replica import EntityKey, Replica, Slot
from clustercore.sync.writes import GroupState, split_time

__all__ = ["collect", "is_zombie"]


def collect(replica: Replica, acknowledged: Mapping[NodeId, int], *, older_than_ms: int) -> int:
    """Stage the removal of tombstones that every peer has seen and that are old enough; return how many.

    Args:
        replica: Whose.
        acknowledged: For every known peer, up to which seq of this store, in this epoch, it has applied all changes.
        older_than_ms: A moment in ms since 1970 UTC; younger tombstones stay.
    """
    seen_by_all = min(acknowledged.values(), default=replica.seq)
    gone = 0
    for key, slots in list(replica.entities.items()):
        if LIFE_GROUP not in slots or not _is_due(slots, seen_by_all, older_than_ms):
            continue
        if not life.is_alive(slots):
            replica.collect(key, list(slots))
            gone += 1
        elif _is_settled(slots):
            replica.collect(key, [LIFE_GROUP])
            gone += 1
    return gone


def _is_due(slots: Mapping[str, Slot], seen_by_all: int, older_than_ms: int) -> bool:
    newest = max(head.stamp.time for head in slots[LIFE_GROUP].state.heads)
    return split_time(newest).physical_ms < older_than_ms and all(slot.seq <= seen_by_all for slot in slots.values())


def _is_settled(slots: Mapping[str, Slot]) -> bool:
    """Whether all that keeps a living entity alive was written in knowledge of its deletions."""
    return all(
        head.is_weak or head.knows(tombstone.stamp)
        for tombstone in life.tombstones(slots)
        for group, slot in slots.items()
        if group != LIFE_GROUP
        for head in slot.state.heads
    )


def is_zombie(replica: Replica, key: EntityKey, group: str, state: GroupState) -> bool:
    """Whether a state that came is of an entity whose deletion, which was collected, would have won over it."""
    collected = replica.collected.get(key)
    if collected is None:
        is_old = all(split_time(head.stamp.time).physical_ms <= replica.forgotten_ms for head in state.heads)
        return is_old and key not in replica.entities
    if group == LIFE_GROUP:
        # The tombstone itself, or one that it was made in knowledge of.
        return all(head.stamp.time <= collected.seen.get(head.stamp.writer, -1) for head in state.heads)
    if key in replica.entities:
        return False
    return not any(life.outlives(head, collected.heads) for head in state.heads)

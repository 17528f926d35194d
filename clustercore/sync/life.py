"""Whether an entity is there, and which of its writes readers see: functions of its slots alone.

A deletion is a write in a group of its own, ``LIFE_GROUP``, whose value says what its maker had seen in each other
group. Of a deletion and the edits that did not know of it, the one that the last-write rules prefer holds, and for the
entity as a whole: an entity comes back with all its groups or stays away with all. That is why deleted groups are kept
until the tombstone is collected.

An edit that was made in knowledge of the deletion creates the entity anew. What the deletion covers is in its past, so
that nothing from before the deletion shines through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clustercore.sync.kinds import LIFE_GROUP, decode_fields, encode_fields
from clustercore.sync.merge import precedence
from clustercore.sync.replica import Slot
from clustercore.sync.writes import GroupState, Past, Stamp, Write

__all__ = [
    "covered_by",
    "covers",
    "dropped_past",
    "is_alive",
    "next_version",
    "outlives",
    "past_for",
    "tombstone_value",
    "unknown_to",
    "visible_heads",
]

Slots = Mapping[str, Slot]


def tombstone_value(slots: Slots) -> bytes:
    """Return the value of a deletion of what is here: what was seen of each group."""
    return encode_fields({group: dict(slot.state.seen) for group, slot in slots.items() if group != LIFE_GROUP})


def covered_by(tombstone: Write) -> dict[str, Past]:
    """Return what the maker of a deletion had seen of each group. What cannot be read covers nothing."""
    try:
        covered = decode_fields(tombstone.value or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {
        group: {writer: time for writer, time in past.items() if _is_readable(writer, time)}
        for group, past in covered.items()
        if isinstance(past, dict)
    }


def _is_readable(writer: str, time: object) -> bool:
    """Whether a write that is made in knowledge of it could say so: it would have a place in its past."""
    # JSON can name half of a character.
    return isinstance(time, int) and 0 <= time < 1 << 64 and writer.encode(errors="ignore").decode() == writer


def covers(tombstone: Write, group: str, stamp: Stamp) -> bool:
    """Whether the maker of a deletion had seen a write of a group."""
    return stamp.time <= covered_by(tombstone).get(group, {}).get(stamp.writer, -1)


def tombstones(slots: Slots) -> tuple[Write, ...]:
    """Return the deletions that no later one knew."""
    life = slots.get(LIFE_GROUP)
    return () if life is None else life.state.heads


def _living(slots: Slots) -> Iterator[Write]:
    """Yield the heads that keep an entity alive."""
    for group, slot in slots.items():
        if group != LIFE_GROUP:
            yield from (head for head in slot.state.heads if not head.is_weak)


def is_alive(slots: Slots) -> bool:
    """Whether the entity is there: something was written, and no deletion wins."""
    deleted = tombstones(slots)
    if not deleted:
        return any(head.value is not None for slot in slots.values() for head in slot.state.heads)
    latest = max(map(precedence, _living(slots)), default=None)
    # A deletion's value is what it covers; in the rules it is a tombstone.
    return latest is not None and latest > max(_as_tombstone(head) for head in deleted)


def outlives(head: Write, deletions: tuple[Write, ...]) -> bool:
    """Whether a write keeps its entity alive in the face of deletions: each it knew of, or wins over."""
    return all(
        head.knows(deletion.stamp) or (not head.is_weak and precedence(head) > _as_tombstone(deletion))
        for deletion in deletions
    )


def _as_tombstone(write: Write) -> tuple[int, int, bool, bytes, bytes, str]:
    stamp = write.stamp
    return stamp.version, stamp.time, True, stamp.node_id.encode(), b"", stamp.writer


def next_version(slots: Slots, group: str, collected: GroupState | None, *, is_weak: bool) -> int:
    """Return the version of the next write of a group: above all that matter to it.

    A weak write counts on its own, so that heartbeats do not outvote edits.

    Args:
        slots: What is held of the entity.
        group: Which.
        collected: The tombstone of the entity that was collected here, if one was: others may hold it still.
        is_weak: Whether the write is.
    """
    versions = [head.stamp.version for head in slots[group].state.heads] if group in slots else []
    if not is_weak:
        gone = () if collected is None else collected.heads
        versions += [head.stamp.version for head in (*_living(slots), *tombstones(slots), *gone)]
    return 1 + max(versions, default=0)


def past_for(
    slots: Slots, group: str, collected: GroupState | None, dropped: GroupState | None = None
) -> dict[str, int]:
    """Return what a write of a group that is made here knows of: the group, and deletions with what they cover.

    Args:
        slots: What is held of the entity.
        group: Which.
        collected: The tombstone of the entity that was collected here, if one was.
        dropped: What went with it of this group, if that was more than the tombstone covers.
    """
    past = dict(slots[group].state.seen) if group in slots else {}
    lives = [slots[LIFE_GROUP].state] if LIFE_GROUP in slots else []
    if collected is not None:
        lives.append(collected)
    known = [seen for life in lives for seen in (life.seen, *(covered_by(head).get(group, {}) for head in life.heads))]
    for seen in (*known, {} if dropped is None else dropped.seen):
        for writer, time in seen.items():
            if past.get(writer, -1) < time:
                past[writer] = time
    return past


def dropped_past(slots: Slots, group: str) -> dict[str, int]:
    """Return what was seen of a group beyond what the deletions cover: what goes without a trace when they go."""
    covers = [covered_by(tombstone).get(group, {}) for tombstone in tombstones(slots)]
    return {
        writer: time
        for writer, time in slots[group].state.seen.items()
        if all(time > covered.get(writer, -1) for covered in covers)
    }


def unknown_to(tombstone: Write, group: str, heads: tuple[Write, ...]) -> list[Write]:
    """Return the heads of a group that a deletion did not know of, nor they of it: the conflicts between the two."""
    covered = covered_by(tombstone).get(group, {})
    return [
        head
        for head in heads
        if not head.is_weak and head.stamp.time > covered.get(head.stamp.writer, -1) and not head.knows(tombstone.stamp)
    ]


def visible_heads(slots: Slots) -> dict[str, tuple[Write, ...]]:
    """Return the heads of each group of a living entity, without those from before it was created anew."""
    heads = {group: slot.state.heads for group, slot in slots.items() if group != LIFE_GROUP and slot.state.heads}
    for tombstone in tombstones(slots):
        if any(head.knows(tombstone.stamp) for head in _living(slots)):
            covered = covered_by(tombstone)
            for group, past in covered.items():
                left = tuple(head for head in heads.get(group, ()) if head.stamp.time > past.get(head.stamp.writer, -1))
                if left:
                    heads[group] = left
                else:
                    heads.pop(group, None)
    return heads

"""What is replicated: the writes of one field group of one entity, and what is known to be before them.

A *write* is one writer's value of one group. It names the write it was based on, and carries its *past*: for each
writer, the time of the latest write that its maker had seen. One writer's times only go up, so a time stands for all
before it, and a write is told from any other by writer and time alone: its *dot* (Almeida et al., "Scalable and
Accurate Causality Tracking for Eventually Consistent Stores", DAIS 2014).

A *group state* is what a replica holds of a group: the *heads*, writes that nothing seen here was made in knowledge of,
and *seen*, the times up to which writes of each writer are heads or were overruled. There is more than one head only
while edits that did not know each other await the next edit. What readers see is computed from the heads; it is not
replicated.

A *writer* is a node id and the epoch of its store, because a node whose store was lost has forgotten what it wrote and
would otherwise go on in its own name. This file knows the values and their bytes; ``merge`` knows what becomes of two
states that meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise

import attrs

from clustercore.interfaces import ConfigError, Edit, EditStamp, HybridTime, MalformedMessage, NodeId, encode_varint
from clustercore.raft.types import show_length

__all__ = ["LOGICAL_BITS", "MAX_VERSION", "GroupState", "Past", "Stamp", "Write", "decode_group_state", "join_time"]
__all__ += ["known_by", "split_time", "writer_of"]

# For each writer, a time; see ``Stamp.time``.
Past = Mapping[str, int]

LOGICAL_BITS = 16
_LOGICAL_MASK = (1 << LOGICAL_BITS) - 1
_TIME_BYTES = 8
# How much of the store's epoch tells a writer from the same node's earlier ones.
_WRITER_EPOCH_DIGITS = 8
# The first byte of an encoded group state. A reader that does not know it refuses the state.
_FORMAT = 1
# No count of edits gets there; what is above is damage, and would leave no number for the next edit.
MAX_VERSION = 2**62

_IS_TOMBSTONE, _HAS_BASE, _IS_WEAK = 1, 2, 4


def join_time(time: HybridTime) -> int:
    """Return a hybrid time as one integer of 64 bits, in the same order."""
    return time.physical_ms << LOGICAL_BITS | time.logical


def split_time(time: int) -> HybridTime:
    """Return the hybrid time that an integer stands for."""
    return HybridTime(time >> LOGICAL_BITS, time & _LOGICAL_MASK)


def writer_of(node_id: NodeId, epoch: str) -> str:
    """Return the name under which a node writes as long as its store has this epoch."""
    return f"{node_id}#{epoch[:_WRITER_EPOCH_DIGITS]}"


@attrs.frozen(order=True)
class Stamp:
    """When and where a write was made, as it is replicated. Ordered by version, then time, then writer."""

    # One more than any that its maker had seen of the entity; 1 for the first.
    version: int
    # A hybrid time as one integer: milliseconds since 1970-01-01 UTC, times 2**16, plus the logical part.
    time: int
    # The node and its store's epoch; see ``writer_of``.
    writer: str

    @property
    def node_id(self) -> NodeId:
        """The node that made the write."""
        return NodeId(self.writer.rpartition("#")[0])

    @property
    def hybrid_time(self) -> HybridTime:
        """The time in its two parts."""
        return split_time(self.time)

    def is_like(self, other: Stamp) -> bool:
        """Whether conflict resolvers cannot tell the two apart: whether their ``edit_stamp`` is equal."""
        # Most differ in their times; node ids are cut out of the writers' names only if nothing else tells.
        return self.time == other.time and self.version == other.version and self.node_id == other.node_id

    @property
    def edit_stamp(self) -> EditStamp:
        """The stamp as conflict resolvers see it."""
        return EditStamp(self.version, self.hybrid_time, self.node_id)


@attrs.frozen
class Write:
    """One writer's value of one group of fields, or a tombstone. Never changed once it was made."""

    stamp: Stamp
    # What its maker saw in this group; None if nothing. Its version is lower.
    base: Stamp | None
    # What its maker had seen in this group, of other writers: pairs of writer and time, by writer. Its own writes
    # before this one need no word.
    past: tuple[tuple[str, int], ...]
    # The canonical encoding of the group's fields; see ``kinds``. None is a tombstone.
    value: bytes | None = attrs.field(repr=lambda value: "None" if value is None else show_length(value))
    # Whether it says nothing of the entity's being there: a heartbeat does not bring back what was deleted.
    is_weak: bool = False

    @property
    def edit(self) -> Edit:
        """The write as conflict resolvers see it."""
        return Edit(self.stamp.edit_stamp, self.value)

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes: equal writes have equal ones, and different writes different ones."""
        return _encode_write(self)

    def knows(self, other: Stamp) -> bool:
        """Whether it was made in knowledge of another write, or is that write."""
        if other.writer == self.stamp.writer:
            return other.time <= self.stamp.time
        return any(writer == other.writer and other.time <= time for writer, time in self.past)


@attrs.frozen
class GroupState:
    """What is held of one group of one entity."""

    # Ordered by writer; at most one of each. There is none only where broken nodes each claim to know the other's.
    heads: tuple[Write, ...]
    # At least what the heads know. Not to be changed.
    seen: Past

    @classmethod
    def of(cls, write: Write) -> GroupState:
        """Return the state of whoever has seen this write, and what its maker knew."""
        return cls((write,), {**dict(write.past), write.stamp.writer: write.stamp.time})

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes: two replicas' states are equal exactly if these are."""
        return _encode_state(self)


# --- To bytes --------------------------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    data = text.encode()
    return encode_varint(len(data)) + data


def _encode_write(write: Write) -> bytes:
    stamp, base = write.stamp, write.base
    flags = (_IS_TOMBSTONE * (write.value is None)) | (_HAS_BASE * (base is not None)) | (_IS_WEAK * write.is_weak)
    parts = [
        bytes((flags,)),
        encode_varint(stamp.version),
        stamp.time.to_bytes(_TIME_BYTES, "big"),
        _text(stamp.writer),
    ]
    if base is not None:
        # Most bases are the writer's own.
        writer = b"\0" if base.writer == stamp.writer else _text(base.writer)
        parts += (encode_varint(base.version), base.time.to_bytes(_TIME_BYTES, "big"), writer)
    parts.append(_encode_past(write.past))
    if write.value is not None:
        parts += (encode_varint(len(write.value)), write.value)
    return b"".join(parts)


def _encode_past(past: Iterable[tuple[str, int]]) -> bytes:
    entries = [_text(writer) + time.to_bytes(_TIME_BYTES, "big") for writer, time in past]
    return encode_varint(len(entries)) + b"".join(entries)


def _encode_state(state: GroupState) -> bytes:
    # What the heads know goes without saying.
    said = known_by(state.heads)
    more = sorted((writer, time) for writer, time in state.seen.items() if said.get(writer, -1) != time)
    heads = [head.encoded for head in state.heads]
    return b"".join((bytes((_FORMAT,)), encode_varint(len(heads)), *heads, _encode_past(more)))


def known_by(heads: Iterable[Write]) -> dict[str, int]:
    """Return what these writes and their makers knew, together."""
    known: dict[str, int] = {}
    for head in heads:
        for writer, time in (*head.past, (head.stamp.writer, head.stamp.time)):
            if known.get(writer, -1) < time:
                known[writer] = time
    return known


# --- From bytes ------------------------------------------------------------------------------------------------------


def decode_group_state(data: bytes) -> GroupState:
    """Read what ``GroupState.encoded`` wrote.

    Raises: MalformedMessage if it is anything else, also if it is the same state in other than its canonical bytes.
    """
    try:
        state = _Reader(data).state()
    except (IndexError, UnicodeDecodeError, ConfigError) as error:
        raise MalformedMessage(f"a group state of {len(data)} bytes cannot be read: {error}") from error
    # There is one encoding of each state, and this is it.
    object.__setattr__(state, "encoded", data)
    return state


class _Reader:
    """Goes through the bytes once. Raises IndexError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def state(self) -> GroupState:
        if (form := self._byte()) != _FORMAT:
            raise MalformedMessage(f"a group state has format {form}; this version reads {_FORMAT}")
        count = self._count()
        heads = tuple(self._write() for _ in range(count))
        seen = known_by(heads)
        for writer, time in self._past():
            if time <= seen.get(writer, -1):
                raise MalformedMessage(f"a group state says twice up to which time it has seen {writer!r}")
            seen[writer] = time
        if self._position != len(self._data):
            raise MalformedMessage(f"{len(self._data) - self._position} bytes follow a group state")
        writers = [head.stamp.writer for head in heads]
        if any(seen[head.stamp.writer] != head.stamp.time for head in heads):
            raise MalformedMessage(f"a group state has heads by {writers}, and one of them is overruled in it")
        if any(one >= other for one, other in pairwise(writers)):
            raise MalformedMessage(f"a group state has heads by {writers}; expected each by another writer, in order")
        return GroupState(heads, seen)

    def _write(self) -> Write:
        flags = self._byte()
        if flags > _IS_TOMBSTONE | _HAS_BASE | _IS_WEAK:
            raise MalformedMessage(f"a write has flags {flags}, which this version does not know")
        version, time, writer = self._varint(), self._time(), self._text()
        base = None
        if flags & _HAS_BASE:
            base = Stamp(self._varint(), self._time(), self._base_writer(writer))
        past = self._past()
        value = None if flags & _IS_TOMBSTONE else self._bytes()
        stamp = Stamp(version, time, writer)
        _check_write(stamp, base, past)
        return Write(stamp, base, past, value, bool(flags & _IS_WEAK))

    def _base_writer(self, writer: str) -> str:
        named = self._text()
        if named == writer:
            raise MalformedMessage(f"a write of {writer!r} names the writer of its base, which is the same")
        return named or writer

    def _past(self) -> tuple[tuple[str, int], ...]:
        past = tuple([(self._text(), self._time()) for _ in range(self._count())])
        if any(one[0] >= other[0] for one, other in pairwise(past)):
            raise MalformedMessage(f"a past is not in the order of its writers: {past}")
        return past

    def _count(self) -> int:
        count = self._varint()
        # No fixed number: what was joined must always be readable again, or a store could not be opened any more.
        if count > len(self._data) - self._position:
            raise MalformedMessage(f"a group state speaks of {count} writers, in fewer bytes")
        return count

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _varint(self) -> int:
        byte = self._byte()
        value, shift = byte & 0x7F, 7
        while byte >= 0x80:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
        if shift > 70 or (byte == 0 and shift > 7):
            raise MalformedMessage("a number in a group state is longer than it has to be")
        return value

    def _time(self) -> int:
        return int.from_bytes(self._take(_TIME_BYTES), "big")

    def _text(self) -> str:
        return self._take(self._varint()).decode()

    def _bytes(self) -> bytes:
        return self._take(self._varint())

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise IndexError(f"{size} bytes are wanted, {len(self._data) - self._position} are left")
        data = self._data[self._position : end]
        self._position = end
        return data


def _check_write(stamp: Stamp, base: Stamp | None, past: tuple[tuple[str, int], ...]) -> None:
    if not 1 <= stamp.version <= MAX_VERSION or not stamp.writer.rpartition("#")[0]:
        raise MalformedMessage(
            f"a write has the stamp {stamp}; versions are from 1 to {MAX_VERSION}, and it names its node"
        )
    if base is not None and base.version >= stamp.version:
        raise MalformedMessage(f"a write of version {stamp.version} says that it is based on version {base.version}")
    if base is not None and base.writer == stamp.writer and base.time >= stamp.time:
        raise MalformedMessage(f"a write of {stamp.writer!r} says that it is based on a later one")
    if any(writer == stamp.writer for writer, _ in past):
        raise MalformedMessage(f"the past of a write by {stamp.writer!r} speaks of that writer")

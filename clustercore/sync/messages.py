"""What replicas ask each other, and the bytes of it: protobuf messages, whose field numbers are here and nowhere else.

A number keeps its meaning for ever. Fields that are not known are passed over. Changes travel in a *block*, which is
compressed where that makes it smaller: heartbeats of a fleet look much alike.

Long because each message stands beside its writer and its reader, and all of them beside the numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TypeVar

import attrs

from clustercore.interfaces import MalformedMessage, NodeId
from clustercore.raft.protobuf import (
    MalformedBytes,
    bytes_field,
    pack_varints,
    read_fields,
    unpack_varints,
    varint_field,
)
from clustercore.sync.changes import Change
from clustercore.sync.checkpoints import Cursor, decode_cursor, encode_cursor
from clustercore.sync.digests import BUCKETS, LEAVES, ROOT_BYTES, SHORT_BYTES, SPLIT, STAMP_BYTES
from clustercore.sync.writes import decode_group_state

__all__ = [
    "MAX_BLOCK_BYTES",
    "BucketsRequest",
    "BucketsResponse",
    "CompareRequest",
    "CompareResponse",
    "Delta",
    "FetchRequest",
    "Fetched",
    "LeafStamps",
    "OpenRequest",
    "Opened",
    "PullRequest",
    "PushRequest",
    "PushResponse",
    "Resync",
    "ResyncReason",
    "SyncMessage",
    "decode_block",
    "encode_block",
    "sealed",
]

# What a block may hold once it is no longer compressed: far above a batch, for one record that is larger than that.
MAX_BLOCK_BYTES = 64 * 1024 * 1024
# Below this many bytes there is nothing to be gained.
_COMPRESS_FROM_BYTES = 128
_COMPRESSION_LEVEL = 6

M = TypeVar("M", bound="SyncMessage")


class ResyncReason(IntEnum):
    """Why a receiver cannot go on from where it was."""

    NONE = 0
    # It was never here, or has forgotten that it was.
    FIRST = 1
    # The source answers this session no more: it was started anew, or has another one with this receiver.
    UNKNOWN_SESSION = 2
    # The source's store is not the one that the receiver's checkpoint is of.
    EPOCH = 3
    # The source has gone back behind what the receiver fetched: its disk was taken back to an earlier day.
    WENT_BACK = 4
    # The log is not kept back to where the receiver was.
    BEHIND_FLOOR = 5
    # The receiver's store is not the one that acknowledged what it says it holds.
    RECEIVER_EPOCH = 6
    # The receiver holds less than it acknowledged: its disk was taken back to an earlier day.
    RECEIVER_WENT_BACK = 7
    # The receiver has not compared everything yet, and was told that it has to.
    NOT_COMPARED = 8
    # A delta began after what the receiver holds.
    GAP = 9


class SyncMessage:
    """A message of the protocol."""

    def encode(self) -> bytes:
        """Return its bytes."""
        raise NotImplementedError

    @classmethod
    def decode(cls: type[M], data: bytes) -> M:
        """Read one.

        Raises: MalformedMessage.
        """
        try:
            return cls.read(_Fields(data))
        except (MalformedBytes, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, MalformedMessage):
                raise
            raise MalformedMessage(f"{cls.__name__} of {len(data)} bytes cannot be read: {error}") from error

    @classmethod
    def read(cls: type[M], fields: _Fields) -> M:
        """Read one from its fields."""
        raise NotImplementedError


class _Fields:
    """The fields of a message, by number, and what stands for those that are missing."""

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, list[int | bytes]] = {}
        for number, _, value in read_fields(data):
            self._values.setdefault(number, []).append(value)

    def number(self, number: int) -> int:
        value = self._values.get(number, (0,))[-1]
        if not isinstance(value, int):
            raise MalformedMessage(f"field {number} is no number")
        return value

    def blob(self, number: int) -> bytes:
        value = self._values.get(number, (b"",))[-1]
        if not isinstance(value, bytes):
            raise MalformedMessage(f"field {number} holds no bytes")
        return value

    def text(self, number: int) -> str:
        return self.blob(number).decode()

    def blobs(self, number: int) -> list[bytes]:
        values = self._values.get(number, [])
        return [value for value in values if isinstance(value, bytes)]

    def pieces(self, number: int, size: int) -> tuple[bytes, ...]:
        """Return a field that is so many bytes again and again, cut."""
        return _cut(self.blob(number), size)


def _cut(data: bytes, size: int) -> tuple[bytes, ...]:
    if len(data) % size:
        raise MalformedMessage(f"{len(data)} bytes are no row of pieces of {size}")
    return tuple(data[start : start + size] for start in range(0, len(data), size))


def _optional(number: int, value: bytes) -> bytes:
    return bytes_field(number, value) if value else b""


# --- Blocks of changes -----------------------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """Return a block's bytes for the wire: a byte 1 and it compressed, or a byte 0 and it as it is."""
    if len(data) >= _COMPRESS_FROM_BYTES:
        compressed = zlib.compress(data, _COMPRESSION_LEVEL)
        if len(compressed) < len(data):
            return b"\1" + compressed
    return b"\0" + data


def _unsealed(block: bytes) -> bytes:
    if block[:1] == b"\0":
        return block[1:]
    if block[:1] != b"\1":
        raise MalformedMessage(f"a block begins with {block[:1]!r}, which this version does not know")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(block[1:], MAX_BLOCK_BYTES)
    except zlib.error as error:
        raise MalformedMessage(f"a block cannot be decompressed: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise MalformedMessage(f"a block is cut off, or larger than {MAX_BLOCK_BYTES} bytes")
    return data


def encode_block(changes: Iterable[Change]) -> bytes:
    """Return the bytes of some changes. A kind or group that is that of the one before is not said again."""
    parts: list[bytes] = []
    kind = group = None
    seq = 0
    for change in changes:
        fields = b"" if change.kind == kind else bytes_field(1, change.kind.encode())
        fields += bytes_field(2, change.entity_id.encode())
        is_same_group = change.kind == kind and change.group == group
        fields += b"" if is_same_group else bytes_field(3, change.group.encode())
        # Mostly they are in order, and close.
        fields += varint_field(5, _zigzag(change.seq - seq))
        parts.append(bytes_field(1, fields + bytes_field(4, change.state.encoded)))
        kind, group, seq = change.kind, change.group, change.seq
    return sealed(b"".join(parts)) if parts else b""


def decode_block(block: bytes) -> tuple[Change, ...]:
    """Read what ``encode_block`` wrote.

    Raises: MalformedMessage.
    """
    if not block:
        return ()
    changes: list[Change] = []
    kind = group = ""
    seq = 0
    try:
        for encoded in _Fields(_unsealed(block)).blobs(1):
            entity_id, state, step = None, None, 0
            for number, _, value in read_fields(encoded):
                if number == 1 and isinstance(value, bytes):
                    kind = value.decode()
                elif number == 2 and isinstance(value, bytes):
                    entity_id = value.decode()
                elif number == 3 and isinstance(value, bytes):
                    group = value.decode()
                elif number == 4 and isinstance(value, bytes):
                    state = value
                elif number == 5 and isinstance(value, int):
                    step = value >> 1 ^ -(value & 1)
            if entity_id is None or state is None:
                raise MalformedMessage("a change names no entity, or has no state")
            seq += step
            changes.append(Change(kind, entity_id, group, decode_group_state(state), seq))
    except (MalformedBytes, UnicodeDecodeError) as error:
        raise MalformedMessage(f"a block of {len(block)} bytes cannot be read: {error}") from error
    return tuple(changes)


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


# --- Sessions and changes --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class OpenRequest(SyncMessage):
    """A receiver's wish for a session."""

    node_id: NodeId
    # The epoch of the receiver's store.
    epoch: str
    # What it wants; empty for all kinds.
    kinds: tuple[str, ...] = ()
    # Its checkpoint: of which epoch of the source, where, and of which session; "" and b"" if it has none.
    source_epoch: str = ""
    cursor: Cursor = attrs.field(factory=Cursor)
    session_id: bytes = b""

    def encode(self) -> bytes:  # noqa: D102 - as the base class
        return b"".join(
            (
                bytes_field(1, self.node_id.encode()),
                bytes_field(2, self.epoch.encode()),
                *(bytes_field(3, kind.encode()) for kind in self.kinds),
                _optional(4, self.source_epoch.encode()),
                _optional(5, encode_cursor(self.cursor)),
                _optional(6, self.session_id),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> OpenRequest:  # noqa: D102
        return cls(
            node_id=NodeId(fields.text(1)),
            epoch=fields.text(2),
            kinds=tuple(kind.decode() for kind in fields.blobs(3)),
            source_epoch=fields.text(4),
            cursor=decode_cursor(fields.blob(5)),
            session_id=fields.blob(6),
        )


@attrs.frozen(kw_only=True)
class Opened(SyncMessage):
    """A session, and whether the receiver may go on from its checkpoint."""

    session_id: bytes
    # The epoch of the source's store.
    epoch: str
    # NONE: it may. Otherwise everything has to be compared first.
    reason: ResyncReason = ResyncReason.NONE
    # What the source has fetched from the receiver, by its own checkpoint: of which epoch, in which session, and up to
    # which change. A receiver that knows less of itself was taken back to an earlier day.
    known_epoch: str = ""
    known_session_id: bytes = b""
    known_seq: int = 0

    def encode(self) -> bytes:  # noqa: D102
        return b"".join(
            (
                bytes_field(1, self.session_id),
                bytes_field(2, self.epoch.encode()),
                varint_field(3, self.reason),
                _optional(4, self.known_epoch.encode()),
                _optional(5, self.known_session_id),
                varint_field(6, self.known_seq),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> Opened:  # noqa: D102
        return cls(
            session_id=fields.blob(1),
            epoch=fields.text(2),
            reason=ResyncReason(fields.number(3)),
            known_epoch=fields.text(4),
            known_session_id=fields.blob(5),
            known_seq=fields.number(6),
        )


@attrs.frozen(kw_only=True)
class PullRequest(SyncMessage):
    """A question for the changes after a cursor, which the receiver holds durably: so it is an acknowledgement too."""

    session_id: bytes
    cursor: Cursor
    # What the receiver takes at most in one answer; one record of any size is taken.
    max_changes: int
    max_bytes: int

    def encode(self) -> bytes:  # noqa: D102
        return b"".join(
            (
                bytes_field(1, self.session_id),
                _optional(2, encode_cursor(self.cursor)),
                varint_field(3, self.max_changes),
                varint_field(4, self.max_bytes),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> PullRequest:  # noqa: D102
        return cls(
            session_id=fields.blob(1),
            cursor=decode_cursor(fields.blob(2)),
            max_changes=max(1, fields.number(3)),
            max_bytes=max(1, fields.number(4)),
        )


@attrs.frozen(kw_only=True)
class Delta(SyncMessage):
    """What leads from one cursor to another."""

    # Whoever holds less than this must not apply it.
    start: Cursor
    end: Cursor
    changes: tuple[Change, ...] = ()
    # How many changes the source has after ``end``, those included that it keeps back.
    behind: int = 0
    # Whether it would send more at once.
    has_more: bool = False

    def encode(self) -> bytes:  # noqa: D102
        end = b"" if self.end == self.start else bytes_field(2, encode_cursor(self.end))
        return b"".join(
            (
                bytes_field(1, encode_cursor(self.start)),
                end,
                _optional(3, encode_block(self.changes)),
                varint_field(4, self.behind),
                varint_field(5, self.has_more),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> Delta:  # noqa: D102
        start = decode_cursor(fields.blob(1))
        return cls(
            start=start,
            end=decode_cursor(encoded) if (encoded := fields.blob(2)) else start,
            changes=decode_block(fields.blob(3)),
            behind=fields.number(4),
            has_more=bool(fields.number(5)),
        )


@attrs.frozen
class Resync(SyncMessage):
    """Instead of an answer: the receiver has to open a session anew, and perhaps to compare everything."""

    reason: ResyncReason

    def encode(self) -> bytes:  # noqa: D102
        # A number that no answer has, so that the two cannot be taken for each other.
        return varint_field(15, self.reason)

    @classmethod
    def read(cls, fields: _Fields) -> Resync:  # noqa: D102
        return cls(ResyncReason(fields.number(15)))


# --- Comparing everything --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CompareRequest(SyncMessage):
    """The digest of each kind that the receiver holds."""

    session_id: bytes
    salt: bytes
    # Each kind's, by name.
    roots: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:  # noqa: D102
        roots = [bytes_field(3, root + kind.encode()) for kind, root in self.roots]
        return b"".join((bytes_field(1, self.session_id), bytes_field(2, self.salt), *roots))

    @classmethod
    def read(cls, fields: _Fields) -> CompareRequest:  # noqa: D102
        roots = tuple((each[ROOT_BYTES:].decode(), each[:ROOT_BYTES]) for each in fields.blobs(3))
        return cls(session_id=fields.blob(1), salt=_salt(fields.blob(2)), roots=roots)


@attrs.frozen(kw_only=True)
class CompareResponse(SyncMessage):
    """The digests of the buckets of each kind that differs."""

    # Where the source was when it compared: whoever has fetched all that differs holds all up to here.
    seq: int
    buckets: tuple[tuple[str, tuple[bytes, ...]], ...] = ()

    def encode(self) -> bytes:  # noqa: D102
        return varint_field(1, self.seq) + b"".join(
            [bytes_field(2, b"".join(shorts) + kind.encode()) for kind, shorts in self.buckets]
        )

    @classmethod
    def read(cls, fields: _Fields) -> CompareResponse:  # noqa: D102
        size = BUCKETS * SHORT_BYTES
        buckets = [(each[size:].decode(), _cut(each[:size], SHORT_BYTES)) for each in fields.blobs(2)]
        if any(len(shorts) != BUCKETS for _, shorts in buckets):
            raise MalformedMessage(f"the digests of a kind are not {BUCKETS}")
        return cls(seq=fields.number(1), buckets=tuple(buckets))


@attrs.frozen(kw_only=True)
class BucketsRequest(SyncMessage):
    """A question for the digests of the leaves of some buckets of one kind."""

    session_id: bytes
    salt: bytes
    kind: str
    buckets: tuple[int, ...]

    def encode(self) -> bytes:  # noqa: D102
        return b"".join(
            (
                bytes_field(1, self.session_id),
                bytes_field(2, self.salt),
                bytes_field(3, self.kind.encode()),
                bytes_field(4, pack_varints(self.buckets)),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> BucketsRequest:  # noqa: D102
        buckets = unpack_varints(fields.blob(4))
        if any(bucket >= BUCKETS for bucket in buckets):
            raise MalformedMessage(f"a bucket is {max(buckets)}; there are {BUCKETS}")
        return cls(session_id=fields.blob(1), salt=_salt(fields.blob(2)), kind=fields.text(3), buckets=buckets)


@attrs.frozen
class BucketsResponse(SyncMessage):
    """For each bucket that was asked for, in that order, the digests of its leaves."""

    leaves: tuple[tuple[bytes, ...], ...]

    def encode(self) -> bytes:  # noqa: D102
        return _optional(1, b"".join([b"".join(shorts) for shorts in self.leaves]))

    @classmethod
    def read(cls, fields: _Fields) -> BucketsResponse:  # noqa: D102
        shorts = fields.pieces(1, SHORT_BYTES)
        if len(shorts) % SPLIT:
            raise MalformedMessage(f"{len(shorts)} digests of leaves are no whole buckets")
        return cls(tuple(shorts[start : start + SPLIT] for start in range(0, len(shorts), SPLIT)))


@attrs.frozen
class LeafStamps:
    """A leaf, and the stamps of what the receiver holds in it."""

    leaf: int
    stamps: tuple[bytes, ...]


@attrs.frozen(kw_only=True)
class FetchRequest(SyncMessage):
    """A question for the records of some leaves of one kind that the receiver does not hold like this."""

    session_id: bytes
    salt: bytes
    kind: str
    leaves: tuple[LeafStamps, ...]
    # Go on in the first leaf after this record: entity id and group.
    after: tuple[str, str] | None = None
    max_changes: int
    max_bytes: int

    def encode(self) -> bytes:  # noqa: D102
        leaves = [varint_field(1, each.leaf) + _optional(2, b"".join(each.stamps)) for each in self.leaves]
        place = b"".join([bytes_field(1, part.encode()) for part in self.after or ()])
        return b"".join(
            (
                bytes_field(1, self.session_id),
                bytes_field(2, self.salt),
                bytes_field(3, self.kind.encode()),
                *(bytes_field(4, leaf) for leaf in leaves),
                _optional(5, place),
                varint_field(6, self.max_changes),
                varint_field(7, self.max_bytes),
            )
        )

    @classmethod
    def read(cls, fields: _Fields) -> FetchRequest:  # noqa: D102
        leaves = []
        for encoded in fields.blobs(4):
            leaf = _Fields(encoded)
            leaves.append(LeafStamps(leaf.number(1), leaf.pieces(2, STAMP_BYTES)))
        if any(each.leaf >= LEAVES for each in leaves):
            raise MalformedMessage(f"a leaf is beyond the {LEAVES} that there are")
        after = _Fields(fields.blob(5)).blobs(1)
        if after and len(after) != 2:
            raise MalformedMessage("a place in a leaf is an entity id and a group")
        return cls(
            session_id=fields.blob(1),
            salt=_salt(fields.blob(2)),
            kind=fields.text(3),
            leaves=tuple(leaves),
            after=(after[0].decode(), after[1].decode()) if after else None,
            max_changes=max(1, fields.number(6)),
            max_bytes=max(1, fields.number(7)),
        )


@attrs.frozen(kw_only=True)
class Fetched(SyncMessage):
    """Changes that the receiver does not hold like this."""

    changes: tuple[Change, ...] = ()
    # How many of the leaves are done with.
    done: int = 0
    # Where the source is now.
    seq: int = 0

    def encode(self) -> bytes:  # noqa: D102
        return _optional(1, encode_block(self.changes)) + varint_field(2, self.done) + varint_field(3, self.seq)

    @classmethod
    def read(cls, fields: _Fields) -> Fetched:  # noqa: D102
        return cls(changes=decode_block(fields.blob(1)), done=fields.number(2), seq=fields.number(3))


def _salt(salt: bytes) -> bytes:
    if not 1 <= len(salt) <= 64:
        raise MalformedMessage(f"a salt has {len(salt)} bytes; it must be 1 to 64")
    return salt


# --- By hand ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class PushRequest(SyncMessage):
    """Changes that a node sends of itself; and whether the peer is to fetch the rest."""

    node_id: NodeId
    changes: tuple[Change, ...] = ()
    # Whether the peer is to begin a session of its own with the sender, and which: 0 none, 1 incremental, 2 full.
    session: int = 0

    def encode(self) -> bytes:  # noqa: D102
        block = _optional(2, encode_block(self.changes))
        return bytes_field(1, self.node_id.encode()) + block + varint_field(3, self.session)

    @classmethod
    def read(cls, fields: _Fields) -> PushRequest:  # noqa: D102
        return cls(node_id=NodeId(fields.text(1)), changes=decode_block(fields.blob(2)), session=fields.number(3))


@attrs.frozen(kw_only=True)
class PushResponse(SyncMessage):
    """What became of them at the peer."""

    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    # Deletions that the sender has forgotten of, or never heard of; see ``ApplyReport.rebuttals``.
    rebuttals: tuple[Change, ...] = ()

    def encode(self) -> bytes:  # noqa: D102
        values: Sequence[int] = (self.applied, self.duplicate, self.stale)
        numbers = [varint_field(number, value) for number, value in enumerate(values, 1)]
        return b"".join(numbers) + _optional(4, encode_block(self.rebuttals))

    @classmethod
    def read(cls, fields: _Fields) -> PushResponse:  # noqa: D102
        return cls(
            applied=fields.number(1),
            duplicate=fields.number(2),
            stale=fields.number(3),
            rebuttals=decode_block(fields.blob(4)),
        )

"""How far one replica has come with another's changes, and how that is remembered on both sides.

A *cursor* says which changes of a source its receiver holds: all up to a sequence number, but for a few that the window
kept back. The receiver's checkpoint names the source's epoch and its own: what a cursor says is true only as long as
neither store was replaced. The source's checkpoint says what a receiver has acknowledged; by it the log's floor and the
collection of tombstones know what nobody waits for any more (CouchDB keeps both sides for the same reasons, see its
replication protocol, section "Retrieve Replication Logs").
"""

from __future__ import annotations

import logging
from itertools import accumulate

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

__all__ = [
    "MAX_KEPT_BACK",
    "NO_PEER",
    "START",
    "Checkpoint",
    "Cursor",
    "decode_cursor",
    "encode_cursor",
    "incoming_name",
    "is_incoming",
    "outgoing_name",
    "peer_of",
    "read_checkpoint",
]

logger = logging.getLogger("clustercore")

# How many changes the window may keep back from one receiver; more are sent without waiting. They are named, two bytes
# each or so, in every question until they have followed.
MAX_KEPT_BACK = 1024

NO_PEER = NodeId("")


@attrs.frozen
class Cursor:
    """Which changes of a source a receiver holds."""

    # All up to this one, inclusive, but for those kept back. 0: none.
    seq: int = 0
    # Ascending, each at most ``seq``.
    kept_back: tuple[int, ...] = ()

    @property
    def floor(self) -> int:
        """The number up to which, inclusive, it holds all without exception."""
        return self.kept_back[0] - 1 if self.kept_back else self.seq

    def covers(self, seq: int) -> bool:
        """Whether it holds the change of this number."""
        return seq <= self.seq and seq not in self.kept_back

    def is_within(self, other: Cursor) -> bool:
        """Whether ``other`` holds all that this one does."""
        return self.seq <= other.seq and all(seq > self.seq or seq in self.kept_back for seq in other.kept_back)


START = Cursor()


def encode_cursor(cursor: Cursor) -> bytes:
    """Return a cursor's bytes; b"" for the start."""
    steps = [seq - before for before, seq in zip((0, *cursor.kept_back), cursor.kept_back, strict=False)]
    return varint_field(1, cursor.seq) + (bytes_field(2, pack_varints(steps)) if steps else b"")


def decode_cursor(data: bytes) -> Cursor:
    """Read a cursor.

    Raises: MalformedMessage if it is none.
    """
    seq, steps = 0, list[int]()
    try:
        for number, _, value in read_fields(data):
            if number == 1 and isinstance(value, int):
                seq = value
            elif number == 2:
                # Protobuf's readers take a repeated number packed, and one by one.
                steps += (value,) if isinstance(value, int) else unpack_varints(value)
    except MalformedBytes as error:
        raise MalformedMessage(f"a cursor of {len(data)} bytes cannot be read: {error}") from error
    kept_back = list(accumulate(steps))
    if kept_back != sorted(set(kept_back)) or len(kept_back) > MAX_KEPT_BACK or (kept_back and kept_back[-1] > seq):
        raise MalformedMessage(f"a cursor at {seq} keeps back {len(kept_back)} changes that are no such list")
    return Cursor(seq, tuple(kept_back))


@attrs.frozen
class Checkpoint:
    """A cursor as it is stored, and of what it is true."""

    cursor: Cursor
    # The epoch of the other's store, and of this one's, when it was written. In a copy of the one without the other,
    # the checkpoint is void.
    peer_epoch: str
    own_epoch: str
    # The session in which it was reached.
    session_id: bytes
    # At a source: the receiver was told, perhaps in vain, that it has to compare everything first.
    must_compare: bool = False

    def encode(self) -> bytes:
        """Return its bytes."""
        return b"".join(
            (
                bytes_field(1, encode_cursor(self.cursor)),
                bytes_field(2, self.peer_epoch.encode()),
                bytes_field(3, self.own_epoch.encode()),
                bytes_field(4, self.session_id),
                varint_field(5, self.must_compare),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint:
        """Read a checkpoint.

        Raises: MalformedMessage if it is none.
        """
        try:
            fields: dict[int, bytes] = {}
            must_compare = False
            for number, _, value in read_fields(data):
                if isinstance(value, bytes):
                    fields[number] = value
                elif number == 5:
                    must_compare = bool(value)
            return cls(decode_cursor(fields[1]), fields[2].decode(), fields[3].decode(), fields[4], must_compare)
        except (KeyError, UnicodeDecodeError, MalformedBytes) as error:
            raise MalformedMessage(f"a checkpoint of {len(data)} bytes cannot be read: {error}") from error


def incoming_name(peer: NodeId, filter_hash: str) -> str:
    """Return the name of the checkpoint of what was fetched from a peer."""
    return f"in/{filter_hash}/{peer}"


def outgoing_name(peer: NodeId, filter_hash: str) -> str:
    """Return the name of the checkpoint of what a peer has fetched from here."""
    return f"out/{filter_hash}/{peer}"


def is_incoming(name: str) -> bool:
    """Whether a checkpoint of this name is of what was fetched."""
    return name.startswith("in/")


def peer_of(name: str) -> NodeId:
    """Return whose checkpoint it is, by its name; NO_PEER if it is no checkpoint of the sync."""
    direction, _, rest = name.partition("/")
    return NodeId(rest.partition("/")[2]) if direction in ("in", "out") else NO_PEER


def read_checkpoint(encoded: bytes | None, own_epoch: str) -> Checkpoint | None:
    """Return a checkpoint that a store of this epoch gave; None if there is none that counts."""
    if encoded is None:
        return None
    try:
        checkpoint = Checkpoint.decode(encoded)
    except MalformedMessage as error:
        # Another version's. Without it everything is compared, which is never wrong.
        logger.warning("a checkpoint of the sync cannot be read, and counts for nothing: %s", error)
        return None
    return checkpoint if checkpoint.own_epoch == own_epoch else None

"""Log entries, and the one encoding they have on disk and on the wire.

An entry is encoded once, when it is proposed, and those bytes go to the disk and to every peer. The
bytes are the protobuf message ``clustercore.v1.Entry`` (``protos/clustercore/v1/raft.proto``), written in
field order with every field present::

    0x09 index:fixed64  0x11 term:fixed64  0x18 kind:varint  0x22 length:varint command

so any protobuf reader understands them, and reading our own takes one ``struct`` call. An entry from a
foreign writer may order or omit fields as protobuf allows; ``decode_entry`` accepts that too, and keeps
the canonical form. This file may import nothing but the types and the encoding beside it.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

from clustercore.raft.protobuf import BYTES, FIXED64, MalformedBytes, decode_varint, encode_varint, read_fields
from clustercore.raft.types import LogIndex, Term

__all__ = ["Entry", "EntryKind", "MalformedEntry", "decode_entry"]

_HEADER = struct.Struct("<BQBQBBB")
_INDEX_TAG, _TERM_TAG, _KIND_TAG, _COMMAND_TAG = 0x09, 0x11, 0x18, 0x22


class MalformedEntry(ValueError):
    """The bytes are not an encoded entry."""


class EntryKind(IntEnum):
    """What an entry means to Raft. The numbers are on disk and on the wire: never reuse one."""

    # Opens a leader's term, so that entries of earlier terms can commit (Raft §8, thesis §6.4).
    NO_OP = 1
    # A command for the state machine.
    COMMAND = 2
    # The cluster's members (thesis §4.1): an encoded ``Configuration``. It counts from when it is in the log.
    CONFIGURATION = 3
    # Clients' sessions (thesis §6.3), and versions of the application's commands. To the core they are commands.
    SESSION = 4
    VERSION = 5


_KINDS = {int(kind): kind for kind in EntryKind}


@attrs.frozen
class Entry:
    """One slot of the replicated log (Raft §5.3).

    Equality is by content; ``encoded`` follows from the other fields.
    """

    index: LogIndex
    term: Term
    kind: EntryKind
    command: bytes = attrs.field(repr=False)
    encoded: bytes = attrs.field(eq=False, repr=False)

    @classmethod
    def create(cls, index: LogIndex, term: Term, kind: EntryKind, command: bytes = b"") -> Entry:
        """Make an entry and its encoding."""
        return cls(index, term, kind, command, _encode(index, term, kind, command))


def _encode(index: int, term: int, kind: int, command: bytes) -> bytes:
    length = len(command)
    if length < 0x80:
        header = _HEADER.pack(_INDEX_TAG, index, _TERM_TAG, term, _KIND_TAG, kind, _COMMAND_TAG)
        return header + length.to_bytes(1, "little") + command
    header = _HEADER.pack(_INDEX_TAG, index, _TERM_TAG, term, _KIND_TAG, kind, _COMMAND_TAG)
    return header + encode_varint(length) + command


def decode_entry(encoded: bytes) -> Entry:
    """Read one encoded entry.

    Raises:
        MalformedEntry: the bytes are no ``clustercore.v1.Entry``, its index or term is 0, or its kind is unknown.
    """
    try:
        fast = _decode_canonical(encoded)
        if fast is not None:
            return fast
        index, term, kind, command = _decode_any(encoded)
    except MalformedBytes as error:
        raise MalformedEntry(str(error)) from error
    known_kind = _KINDS.get(kind)
    if known_kind is None:
        raise MalformedEntry(f"entry kind {kind} is unknown; this version knows {sorted(_KINDS)}")
    if index < 1 or term < 1:
        raise MalformedEntry(f"entry has index {index} and term {term}; both start at 1")
    return Entry.create(LogIndex(index), Term(term), known_kind, command)


def _decode_canonical(encoded: bytes) -> Entry | None:
    """Read what ``_encode`` wrote; None when the bytes are anything else."""
    start = _HEADER.size
    if len(encoded) <= start:
        return None
    index_tag, index, term_tag, term, kind_tag, kind_number, command_tag = _HEADER.unpack_from(encoded)
    if (index_tag, term_tag, kind_tag, command_tag) != (_INDEX_TAG, _TERM_TAG, _KIND_TAG, _COMMAND_TAG):
        return None
    kind = _KINDS.get(kind_number)
    if kind is None or index < 1 or term < 1:
        return None
    length = encoded[start]
    start += 1
    if length >= 0x80:
        length, start = decode_varint(encoded, start - 1)
        if encoded[start - 1] == 0:
            # Padded: the same number has a shorter form, which is the one that is kept.
            return None
    if start + length != len(encoded):
        return None
    return Entry(LogIndex(index), Term(term), kind, encoded[start:], encoded)


def _decode_any(encoded: bytes) -> tuple[int, int, int, bytes]:
    """Read an entry the way any protobuf reader would: any field order, absent fields 0, unknown fields passed over."""
    index = term = kind = 0
    command = b""
    for number, wire_type, value in read_fields(encoded):
        if isinstance(value, int):
            if number == 3:
                kind = value
        elif (number, wire_type) == (1, FIXED64):
            index = int.from_bytes(value, "little")
        elif (number, wire_type) == (2, FIXED64):
            term = int.from_bytes(value, "little")
        elif (number, wire_type) == (4, BYTES):
            command = value
    return index, term, kind, command

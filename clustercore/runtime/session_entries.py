"""What entries of the kinds SESSION and VERSION hold, and the answers to them, as values and as bytes.

The bytes are the protobuf messages ``SessionEntry``, ``VersionEntry`` and ``CommandAnswer`` of
``protos/clustercore/v1/raft.proto``; a test compares that file with the tables here. They are in logs and snapshots, so
a field number keeps its meaning for ever. This module knows bytes and ranges; what an entry does is for the table.

A proposer encodes an operation. The leader that appends it adds its ``Stamp`` behind, which works because a protobuf
message is the concatenation of its fields. Of fields that come twice the last counts, so nobody can stamp for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import TypeVar

import attrs

from clustercore.raft.entry import EntryKind
from clustercore.raft.protobuf import (
    BYTES,
    VARINT,
    MalformedBytes,
    bytes_field,
    pack_varints,
    read_fields,
    unpack_varints,
    varint_field,
)
from clustercore.raft.types import show_length

__all__ = [
    "MAX_NUMBER",
    "MAX_UNSETTLED",
    "Answer",
    "CloseSession",
    "EnableVersion",
    "KeepAlive",
    "MalformedOperation",
    "OpenSession",
    "Operation",
    "Outcome",
    "ResolveCommand",
    "SessionCommand",
    "SessionLimits",
    "Stamp",
    "VersionedCommand",
    "command_in",
    "decode_answer",
    "decode_session_entry",
    "decode_version_entry",
    "encode_answer",
    "encode_operation",
    "encode_stamp",
    "encode_version_entry",
]

# Numbers stay below this, so that sums of two never leave 64 bits.
MAX_NUMBER = 2**62
# Numbers that one operation may name, so that it is at most 37 KiB larger than the command in it.
MAX_UNSETTLED = 4096


class MalformedOperation(ValueError):
    """The bytes are no entry that this version knows."""


@attrs.frozen
class OpenSession:
    """Open a session; its id is the index of this entry, so that no two sessions ever have one id (thesis §6.3)."""

    # It may be silent for so long.
    ttl_ms: int


@attrs.frozen
class SessionCommand:
    """Apply a command unless its sequence number has an outcome already."""

    session_id: int
    # From 1, in the order in which the client began them; they may arrive in any order.
    sequence: int
    # What the client is done with: all numbers below this one, except those after it.
    settled_below: int
    # Ascending, and below ``settled_below``.
    unsettled: tuple[int, ...]
    # The version of the application's commands that it was made for.
    version: int
    command: bytes = attrs.field(repr=show_length)


@attrs.frozen
class KeepAlive:
    """Let a session live on, and tell what its client is done with."""

    session_id: int
    settled_below: int
    unsettled: tuple[int, ...]


@attrs.frozen
class ResolveCommand:
    """Answer what became of a command; if nothing did, see to it that nothing ever will."""

    session_id: int
    sequence: int


@attrs.frozen
class CloseSession:
    """Forget a session."""

    session_id: int


Operation = OpenSession | SessionCommand | KeepAlive | ResolveCommand | CloseSession


@attrs.frozen
class Stamp:
    """What a leader adds: its time, and the limits that all nodes are to apply, whatever their own configuration is."""

    # How long it has led its term, in milliseconds (``LeaderClock``).
    led_ms: int
    max_sessions: int
    # Outcomes that are kept for one session.
    max_outstanding: int
    # Bytes of the results that are kept for all sessions.
    max_result_bytes: int


@attrs.frozen
class SessionLimits:
    """The limits of a leader's configuration."""

    max_sessions: int
    max_outstanding: int
    max_result_bytes: int

    def stamp(self, led_ms: int) -> Stamp:
        """Return the stamp for an entry appended now."""
        return Stamp(led_ms, self.max_sessions, self.max_outstanding, self.max_result_bytes)


@attrs.frozen
class EnableVersion:
    """Switch on the application's commands up to a version."""

    enabled: int


@attrs.frozen
class VersionedCommand:
    """A command outside of any session, made for a version above 1."""

    version: int
    command: bytes = attrs.field(repr=show_length)


class Outcome(IntEnum):
    """What became of an operation. The numbers are on the wire and in snapshots: never reuse one."""

    # The command was applied: at this index and term, with this result.
    APPLIED = 1
    # It was not applied, and never will be: it was asked for before it came.
    NEVER = 2
    # The same: there was no room for its result.
    NO_ROOM = 3
    # The same: its version is not switched on.
    NOT_ENABLED = 4
    # The client was done with this number: what became of it is not kept.
    SETTLED = 5
    # There is no such session any more. Nothing was done, nor will be; what was done before is not known any more.
    NO_SESSION = 6
    # Nothing was done: too many sessions, or too many outcomes of this session are kept.
    LIMIT = 7
    # A session was opened, kept alive or closed. Its id is the index.
    DONE = 8


@attrs.frozen
class Answer:
    """What became of an operation."""

    outcome: Outcome
    # Where the command was applied, which may be long before it was asked for again; otherwise 0 and 0.
    index: int = 0
    term: int = 0
    result: bytes = attrs.field(default=b"", repr=show_length)


# --- Layouts ----------------------------------------------------------------------------------------------------------


class _Shape(Enum):
    """How a field is written. All are optional: an absent one is 0 or empty."""

    NUMBER = "uint64"
    # Packed, as proto3 packs repeated numbers.
    NUMBERS = "repeated uint64"
    BYTES = "bytes"


_Layout = tuple[tuple[int, str, _Shape], ...]
_NUMBER, _NUMBERS, _BYTES = _Shape

# The fields of each message: number, name, shape.
LAYOUTS: Mapping[type, _Layout] = {
    OpenSession: ((1, "ttl_ms", _NUMBER),),
    SessionCommand: (
        (1, "session_id", _NUMBER),
        (2, "sequence", _NUMBER),
        (3, "settled_below", _NUMBER),
        (4, "unsettled", _NUMBERS),
        (5, "version", _NUMBER),
        (6, "command", _BYTES),
    ),
    KeepAlive: ((1, "session_id", _NUMBER), (2, "settled_below", _NUMBER), (3, "unsettled", _NUMBERS)),
    ResolveCommand: ((1, "session_id", _NUMBER), (2, "sequence", _NUMBER)),
    CloseSession: ((1, "session_id", _NUMBER),),
    Stamp: (
        (1, "led_ms", _NUMBER),
        (2, "max_sessions", _NUMBER),
        (3, "max_outstanding", _NUMBER),
        (4, "max_result_bytes", _NUMBER),
    ),
    VersionedCommand: ((1, "version", _NUMBER), (2, "command", _BYTES)),
    EnableVersion: ((1, "enabled", _NUMBER),),
    Answer: ((1, "outcome", _NUMBER), (2, "index", _NUMBER), (3, "term", _NUMBER), (4, "result", _BYTES)),
}
# The fields of SessionEntry and of VersionEntry.
OPERATIONS: Mapping[int, type[Operation]] = {
    1: OpenSession,
    2: SessionCommand,
    3: KeepAlive,
    4: ResolveCommand,
    5: CloseSession,
}
STAMP_FIELD = 6
VERSIONS: Mapping[int, type[EnableVersion | VersionedCommand]] = {1: EnableVersion, 2: VersionedCommand}
_FIELD_OF = {message_type: number for number, message_type in (*OPERATIONS.items(), *VERSIONS.items())}

# Numbers that may be 0. All others are at least 1.
_MAY_BE_ZERO = frozenset({"led_ms", "index", "term"})


def encode_operation(operation: Operation) -> bytes:
    """Return the bytes of a ``SessionEntry`` without a stamp."""
    return bytes_field(_FIELD_OF[type(operation)], _encode(operation))


def encode_stamp(stamp: Stamp) -> bytes:
    """Return what a leader adds to an operation."""
    return bytes_field(STAMP_FIELD, _encode(stamp))


def decode_session_entry(encoded: bytes) -> tuple[Operation, Stamp | None]:
    """Read a ``SessionEntry``; the stamp is None before a leader appended it.

    Raises: MalformedOperation if it is none, if it holds no operation or several, or a number is out of range.
    """
    operations: list[Operation] = []
    stamp: Stamp | None = None
    for number, message in _messages_in(encoded):
        if number in OPERATIONS:
            operations.append(_decode(OPERATIONS[number], message))
        elif number == STAMP_FIELD:
            stamp = _decode(Stamp, message)
    if len(operations) != 1:
        raise MalformedOperation(f"a session entry holds {len(operations)} operations; it must hold one")
    return _checked(operations[0]), stamp


def encode_version_entry(content: EnableVersion | VersionedCommand) -> bytes:
    """Return the bytes of a ``VersionEntry``."""
    return bytes_field(_FIELD_OF[type(content)], _encode(content))


def decode_version_entry(encoded: bytes) -> EnableVersion | VersionedCommand:
    """Read a ``VersionEntry``.

    Raises: MalformedOperation if it is none, or a number is out of range.
    """
    contents = [_decode(VERSIONS[number], message) for number, message in _messages_in(encoded) if number in VERSIONS]
    if len(contents) != 1:
        raise MalformedOperation(f"a version entry holds {len(contents)} messages; it must hold one")
    return contents[0]


def encode_answer(answer: Answer) -> bytes:
    """Return the bytes of a ``CommandAnswer``."""
    return _encode(answer)


def decode_answer(encoded: bytes) -> Answer:
    """Read a ``CommandAnswer``.

    Raises: MalformedOperation if it is none, or the outcome is unknown.
    """
    answer = _decode(Answer, encoded)
    try:
        return attrs.evolve(answer, outcome=Outcome(answer.outcome))
    except ValueError as error:
        raise MalformedOperation(f"outcome {answer.outcome} is unknown; this version knows {list(Outcome)}") from error


def command_in(kind: EntryKind, payload: bytes) -> bytes:
    """Check what somebody else wants to have appended, and return the application's command in it; b"" if it has none.

    Raises: MalformedOperation if the payload is malformed, or no entry of this kind may be proposed from outside.
    """
    if kind is EntryKind.COMMAND:
        return payload
    content: object = None
    if kind is EntryKind.SESSION:
        content, _ = decode_session_entry(payload)
    elif kind is EntryKind.VERSION:
        content = decode_version_entry(payload)
    if content is None or isinstance(content, EnableVersion):
        raise MalformedOperation(f"an entry of kind {kind.name} is for the leader to append")
    return content.command if isinstance(content, SessionCommand | VersionedCommand) else b""


# --- Bytes ------------------------------------------------------------------------------------------------------------

M = TypeVar("M")


def _encode(message: object) -> bytes:
    parts = []
    for number, name, shape in LAYOUTS[type(message)]:
        value = getattr(message, name)
        if shape is _NUMBER:
            parts.append(varint_field(number, value))
        elif value:
            packed = value if shape is _BYTES else pack_varints(value)
            parts.append(bytes_field(number, packed))
    return b"".join(parts)


def _messages_in(encoded: bytes) -> list[tuple[int, bytes]]:
    try:
        return [(number, value) for number, _, value in read_fields(encoded) if isinstance(value, bytes)]
    except MalformedBytes as error:
        raise MalformedOperation(str(error)) from error


def _decode(message_type: type[M], encoded: bytes) -> M:
    layout = {number: (name, shape) for number, name, shape in LAYOUTS[message_type]}
    values: dict[str, int | bytes | tuple[int, ...]] = {
        name: 0 if shape is _NUMBER else b"" if shape is _BYTES else () for name, shape in layout.values()
    }
    try:
        for number, wire_type, value in read_fields(encoded):
            name, shape = layout.get(number, ("", None))
            if (shape, wire_type) in ((_NUMBER, VARINT), (_BYTES, BYTES)):
                values[name] = value
            elif shape is _NUMBERS and isinstance(value, bytes):
                values[name] = unpack_varints(value)
    except MalformedBytes as error:
        raise MalformedOperation(f"this is no {message_type.__name__}: {error}") from error
    _check_numbers(message_type, values)
    return message_type(**values)


def _check_numbers(message_type: type, values: Mapping[str, int | bytes | tuple[int, ...]]) -> None:
    for name, value in values.items():
        least = 0 if name in _MAY_BE_ZERO else 1
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not least <= number <= MAX_NUMBER:
                raise MalformedOperation(
                    f"{message_type.__name__}.{name} is {number}; it must be from {least} to {MAX_NUMBER}"
                )


def _checked(operation: Operation) -> Operation:
    """Return an operation whose numbers fit together."""
    if isinstance(operation, SessionCommand | KeepAlive):
        numbers = operation.unsettled
        if len(numbers) > MAX_UNSETTLED:
            raise MalformedOperation(f"unsettled has {len(numbers)} numbers; at most {MAX_UNSETTLED} are allowed")
        if list(numbers) != sorted(set(numbers)) or (numbers and numbers[-1] >= operation.settled_below):
            raise MalformedOperation(
                f"unsettled is {numbers}; it must ascend and stay below settled_below, {operation.settled_below}"
            )
    return operation

"""How the messages of the sync become protobuf, and back: a table for each says which fields it has.

Reading is strict: bytes that are cut off, a field of another type than the schema's, or a value that no message may
have make a ``MalformedMessage``. Fields that the table does not have are passed over, so that a newer node may add one.
``tests/properties/test_sync_codec.py`` holds the tables against the schema, and the bytes against Google's protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, TypeVar

import attrs

from clustercore.interfaces import MalformedMessage
from clustercore.raft.protobuf import (
    BYTES,
    VARINT,
    bytes_field,
    pack_varints,
    read_fields,
    unpack_varints,
    varint_field,
)
from clustercore.sync.blocks import decode_block, encode_block
from clustercore.sync.checkpoints import START, decode_cursor, encode_cursor

__all__ = ["CHANGES", "CURSOR", "DATA", "FLAG", "LIMIT", "MAYBE_CURSOR", "NUMBER", "NUMBERS", "TEXT", "TEXTS"]
__all__ += [
    "WALL_MS",
    "Field",
    "Kind",
    "SyncMessage",
    "TimedMessage",
    "choice",
    "cut",
    "data_by_name",
    "maybe_message",
    "messages",
    "pieces",
]

M = TypeVar("M", bound="SyncMessage")


@attrs.frozen
class Kind:
    """How values of one kind are written, and read."""

    # As what the schema names it.
    name: str
    # Returns the whole field, b"" for what an absent one means.
    write: Callable[[int, Any], bytes]
    # Gets what the field has, in the order in which it came; there is something.
    read: Callable[[Sequence[Any]], Any]
    # Of an absent field.
    default: Any
    wire_types: tuple[int, ...] = (BYTES,)


class Field(NamedTuple):
    """A field of a message: its number in the schema, its name there and here, and what it is."""

    number: int
    name: str
    kind: Kind


class SyncMessage:
    """A message of the protocol. Its class is an attrs class with one attribute for each field of ``SCHEMA``."""

    SCHEMA: ClassVar[tuple[Field, ...]]

    def encode(self) -> bytes:
        """Return its bytes."""
        return b"".join([kind.write(number, getattr(self, name)) for number, name, kind in self.SCHEMA])

    @classmethod
    def decode(cls: type[M], data: bytes) -> M:
        """Read one.

        Raises: MalformedMessage.
        """
        try:
            return cls(**_read(cls.SCHEMA, data))
        except MalformedMessage:
            raise
        except ValueError as error:
            # MalformedBytes and UnicodeDecodeError among them.
            raise MalformedMessage(f"{cls.__name__} of {len(data)} bytes cannot be read: {error}") from error


@attrs.frozen(kw_only=True)
class TimedMessage(SyncMessage):
    """An answer that says what the wall clock of who answers was."""

    # Milliseconds since 1970-01-01 UTC, after the question came and before the answer left; 0 from an older version.
    wall_ms: int = 0


def _read(schema: Iterable[Field], data: bytes) -> dict[str, Any]:
    kinds = {number: kind for number, _, kind in schema}
    found: dict[int, list[int | bytes]] = {}
    for number, wire_type, value in read_fields(data):
        kind = kinds.get(number)
        if kind is None:
            continue
        if wire_type not in kind.wire_types:
            raise MalformedMessage(f"field {number} has wire type {wire_type}, and is {kind.name}")
        found.setdefault(number, []).append(value)
    return {name: kind.read(found[number]) if number in found else kind.default for number, name, kind in schema}


# --- Kinds -----------------------------------------------------------------------------------------------------------


def _bytes_or_nothing(number: int, value: bytes) -> bytes:
    return bytes_field(number, value) if value else b""


def _last(values: Sequence[Any]) -> Any:
    return values[-1]


def _read_numbers(values: Sequence[int | bytes]) -> tuple[int, ...]:
    """Read a repeated number: protobuf's writers may pack it, and its readers take both."""
    numbers: list[int] = []
    for value in values:
        numbers += (value,) if isinstance(value, int) else unpack_varints(value)
    return tuple(numbers)


NUMBER = Kind("uint64", varint_field, _last, 0, (VARINT,))
# How much is taken; whoever does not say takes one.
LIMIT = Kind("uint64", varint_field, lambda values: max(1, values[-1]), 1, (VARINT,))
FLAG = Kind("bool", varint_field, lambda values: bool(values[-1]), False, (VARINT,))
NUMBERS = Kind(
    "repeated uint64",
    lambda number, values: _bytes_or_nothing(number, pack_varints(values)),
    _read_numbers,
    (),
    (BYTES, VARINT),
)
DATA = Kind("bytes", _bytes_or_nothing, _last, b"")
TEXT = Kind(
    "string", lambda number, text: _bytes_or_nothing(number, text.encode()), lambda values: values[-1].decode(), ""
)
TEXTS = Kind(
    "repeated string",
    lambda number, texts: b"".join([bytes_field(number, text.encode()) for text in texts]),
    lambda values: tuple([value.decode() for value in values]),
    (),
)
CURSOR = Kind(
    "Cursor",
    lambda number, cursor: _bytes_or_nothing(number, encode_cursor(cursor)),
    lambda values: decode_cursor(values[-1]),
    START,
)
MAYBE_CURSOR = Kind(
    "Cursor",
    lambda number, cursor: b"" if cursor is None else bytes_field(number, encode_cursor(cursor)),
    lambda values: decode_cursor(values[-1]),
    None,
)
# Those of a block.
CHANGES = Kind(
    "bytes",
    lambda number, changes: _bytes_or_nothing(number, encode_block(changes)),
    lambda values: decode_block(values[-1]),
    (),
)


def choice(unknown: IntEnum) -> Kind:
    """Return the kind of a number that names a member of an enum.

    Args:
        unknown: What a number stands for that this version does not know. An absent one stands for member 0.
    """
    enum = type(unknown)
    members = {member.value: member for member in enum}
    return Kind(enum.__name__, varint_field, lambda values: members.get(values[-1], unknown), members[0], (VARINT,))


def pieces(size: int) -> Kind:
    """Return the kind of bytes that are pieces of so many bytes, one after another."""
    return Kind(
        "bytes",
        lambda number, values: _bytes_or_nothing(number, b"".join(values)),
        lambda values: cut(values[-1], size),
        (),
    )


def cut(data: bytes, size: int) -> tuple[bytes, ...]:
    """Return the pieces of so many bytes that some bytes are made of.

    Raises: MalformedMessage if they are not.
    """
    if len(data) % size:
        raise MalformedMessage(f"{len(data)} bytes are no row of pieces of {size}")
    return tuple(data[start : start + size] for start in range(0, len(data), size))


def maybe_message(message: type[SyncMessage]) -> Kind:
    """Return the kind of a message inside another, None if it is absent."""
    return Kind(
        message.__name__,
        lambda number, value: b"" if value is None else bytes_field(number, value.encode()),
        lambda values: message.decode(values[-1]),
        None,
    )


def messages(message: type[SyncMessage]) -> Kind:
    """Return the kind of any number of messages inside another."""
    return Kind(
        f"repeated {message.__name__}",
        lambda number, values: b"".join([bytes_field(number, value.encode()) for value in values]),
        lambda values: tuple(map(message.decode, values)),
        (),
    )


_NAME, _DATA = 1, 2


def data_by_name() -> Kind:
    """Return the kind of a map from text to bytes, as pairs; a name that comes again stands for its last data."""
    entry = (Field(_NAME, "name", TEXT), Field(_DATA, "data", DATA))

    def write(number: int, pairs: Iterable[tuple[str, bytes]]) -> bytes:
        entries = [bytes_field(_NAME, name.encode()) + bytes_field(_DATA, data) for name, data in pairs]
        return b"".join([bytes_field(number, each) for each in entries])

    def read(values: Sequence[bytes]) -> tuple[tuple[str, bytes], ...]:
        entries = [_read(entry, value) for value in values]
        return tuple({each["name"]: each["data"] for each in entries}.items())

    return Kind("map<string, bytes>", write, read, ())


# Of a timed message; the same field in all of them.
WALL_MS = Field(14, "wall_ms", NUMBER)

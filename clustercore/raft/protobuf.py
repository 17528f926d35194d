"""The little of protobuf's encoding that what is in the log needs (Protocol Buffers documentation, "Encoding").

This file knows bytes and numbers, and nothing of Raft. What is written here is canonical: fields in order, lengths in
their shortest form. What is read may be in any form that a protobuf writer may choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = [
    "BYTES",
    "FIXED64",
    "VARINT",
    "MalformedBytes",
    "bytes_field",
    "decode_varint",
    "encode_varint",
    "pack_varints",
    "read_fields",
    "unpack_varints",
    "varint_field",
]

# Wire types.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class MalformedBytes(ValueError):
    """The bytes are no protobuf message."""


def encode_varint(value: int) -> bytes:
    """Encode a number that is not negative."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(encoded: bytes, position: int) -> tuple[int, int]:
    """Read a number; return it and the position after it.

    Raises: MalformedBytes if it is cut off, or longer than protobuf allows.
    """
    value = shift = 0
    for offset in range(_MAX_VARINT_BYTES):
        if position + offset >= len(encoded):
            raise MalformedBytes(f"varint at byte {position} is cut off")
        byte = encoded[position + offset]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + offset + 1
        shift += 7
    raise MalformedBytes(f"varint at byte {position} is longer than {_MAX_VARINT_BYTES} bytes")


def pack_varints(values: Iterable[int]) -> bytes:
    """Encode numbers as proto3 packs those of a repeated field."""
    return b"".join(map(encode_varint, values))


def unpack_varints(packed: bytes) -> tuple[int, ...]:
    """Read what ``pack_varints`` wrote.

    Raises: MalformedBytes.
    """
    values: list[int] = []
    position = 0
    while position < len(packed):
        value, position = decode_varint(packed, position)
        values.append(value)
    return tuple(values)


def varint_field(number: int, value: int) -> bytes:
    """Encode a number as a field; nothing for 0, which is what an absent one means."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode bytes, or an embedded message, as a field. An empty one is written too: it may be one of several."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value


def read_fields(encoded: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield each field's number, wire type and value: a number for VARINT, bytes for the others.

    Raises: MalformedBytes.
    """
    position = 0
    while position < len(encoded):
        tag, position = decode_varint(encoded, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = decode_varint(encoded, position)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            length, position = decode_varint(encoded, position)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise MalformedBytes(f"wire type {wire_type} at byte {position} is not part of protobuf 3")
        chunk = encoded[position : position + length]
        if len(chunk) != length:
            raise MalformedBytes(f"field {number} wants {length} bytes at byte {position}, {len(chunk)} are left")
        position += length
        yield number, wire_type, chunk

"""The little of protobuf's encoding that the log and the messages need (Protocol Buffers documentation, "Encoding").

This file knows bytes and numbers, and nothing of Raft. What is written here is canonical: fields in order, lengths in
their shortest form. What is read may be in any form that a protobuf writer may choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "MalformedBytes",
    "bytes_field",
    "content_length",
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
_UINT64_MASK = (1 << 64) - 1
_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


class MalformedBytes(ValueError):
    """The bytes are no protobuf message."""


def encode_varint(value: int) -> bytes:
    """Encode an unsigned number of up to 64 bits.

    Raises: OverflowError if it is negative or larger.
    """
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if value < 0 or value > _UINT64_MASK:
        raise OverflowError(f"{value} is not an unsigned 64-bit number")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(encoded: bytes, position: int) -> tuple[int, int]:
    """Read a number; return it and the position after it. What is beyond 64 bits is cut off, as protobuf does.

    Raises: MalformedBytes if it is cut off, or longer than protobuf allows.
    """
    try:
        byte = encoded[position]
        if byte < 0x80:
            return byte, position + 1
        value = byte & 0x7F
        for offset in range(1, _MAX_VARINT_BYTES):
            byte = encoded[position + offset]
            value |= (byte & 0x7F) << (7 * offset)
            if byte < 0x80:
                return value & _UINT64_MASK, position + offset + 1
    except IndexError:
        raise MalformedBytes(f"varint at byte {position} is cut off") from None
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


def content_length(encoded: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return how long a field's content is that is no varint, and where it begins; ``position`` is behind the tag.

    Raises: MalformedBytes.
    """
    if wire_type == BYTES:
        return decode_varint(encoded, position)
    if wire_type == FIXED64:
        return 8, position
    if wire_type == FIXED32:
        return 4, position
    raise MalformedBytes(f"wire type {wire_type} at byte {position} is not part of protobuf 3")


def read_fields(encoded: bytes, position: int = 0) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield each field's number, wire type and value: a number for VARINT, bytes for the others.

    Raises: MalformedBytes, when the iterator comes to something that is no field.
    """
    while position < len(encoded):
        start = position
        tag, position = decode_varint(encoded, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise MalformedBytes(f"field number 0 at byte {start}")
        if wire_type == VARINT:
            value, position = decode_varint(encoded, position)
            yield number, wire_type, value
            continue
        length, position = content_length(encoded, position, wire_type)
        chunk = encoded[position : position + length]
        if len(chunk) != length:
            raise MalformedBytes(f"field {number} wants {length} bytes at byte {position}, {len(chunk)} are left")
        position += length
        yield number, wire_type, chunk

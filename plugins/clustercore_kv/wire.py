"""Protobuf's wire format, by hand, for what is read and written once a command.

A command is encoded by its proposer, checked where it is proposed, decoded by every node, and its result encoded by
every node and decoded by the proposer. Generated code takes 8 to 11 us for each of these steps, which at 10,000
commands a second would be most of what a core can do; these few lines take a fraction of that, and refuse what the
generated reader lets pass. ``tests/properties/test_kv_codec.py`` holds the two to the same bytes.

Only what kv.proto needs is here: field numbers up to 15, unsigned varints, and length-delimited fields. A tag is one
byte, the field's number and type together.
"""

from __future__ import annotations

from typing import Any

from clustercore.interfaces import MalformedMessage, encode_varint

__all__ = ["bytes_field", "bytes_tag", "read_fields", "read_varint", "varint_field", "varint_tag"]

_VARINT, _LENGTH_DELIMITED = 0, 2
_ONE_BYTE = tuple(bytes([number]) for number in range(0x80))
# The most that a protobuf varint holds, and the shift of its tenth and last byte.
_VARINT_BITS = 64
_LAST_SHIFT = 63


def varint_tag(number: int) -> int:
    """Return the tag of a field that holds a number or a bool. ``number`` is 1 to 15."""
    return number << 3 | _VARINT


def bytes_tag(number: int) -> int:
    """Return the tag of a field that holds bytes, text or a message. ``number`` is 1 to 15."""
    return number << 3 | _LENGTH_DELIMITED


def varint_field(tag: int, number: int) -> bytes:
    """Encode a field that is left out when it is 0, as proto3 does."""
    return _ONE_BYTE[tag] + encode_varint(number) if number else b""


def bytes_field(tag: int, content: bytes) -> bytes:
    """Encode a field, even when it is empty: the caller knows whether emptiness is to be told."""
    return b"%c%b%b" % (tag, encode_varint(len(content)), content)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at ``position``, and the position after it. Raises: IndexError, MalformedMessage."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    number = byte & 0x7F
    shift = 7
    while True:
        position += 1
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > _LAST_SHIFT:
            raise MalformedMessage("a varint has more than 10 bytes")
    if number >> _VARINT_BITS:
        raise MalformedMessage("a varint has more than 64 bits")
    return number, position + 1


def read_fields(data: bytes, position: int = 0) -> list[tuple[int, Any]]:
    """Return a message's fields, from ``position`` to the end, in the order in which they come.

    Returns: for each its tag and content: ``int`` after a varint_tag, ``bytes`` after a bytes_tag. ``dict()`` of it has
        the last of each tag, which is what protobuf wants where a field may come once.

    Raises: MalformedMessage if the bytes end early or hold another type of field.
    """
    fields: list[tuple[int, Any]] = []
    end = len(data)
    try:
        while position < end:
            tag = data[position]
            content, position = read_varint(data, position + 1)
            if tag >= 0x80 or not tag >> 3:
                raise MalformedMessage(f"byte {tag:#x} is no tag of a field from 1 to 15")
            if tag & 7 == _VARINT:
                fields.append((tag, content))
            elif tag & 7 == _LENGTH_DELIMITED:
                if position + content > end:
                    raise MalformedMessage(f"a field of {content} bytes goes beyond the end")
                fields.append((tag, data[position : position + content]))
                position += content
            else:
                raise MalformedMessage(f"tag {tag:#x} is of a type that no field has")
    except IndexError:
        raise MalformedMessage("the message ends inside a field") from None
    return fields

"""Protobuf's wire format, read and written by hand."""

from __future__ import annotations

import pytest

from clustercore.interfaces import MalformedMessage, encode_varint
from clustercore_kv.wire import bytes_field, bytes_tag, read_fields, read_varint, varint_field, varint_tag


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (2**32, "8080808010"),
        (2**64 - 1, "ffffffffffffffffff01"),
    ],
)
def test_varint_is_protobufs(number: int, encoded: str) -> None:
    """A varint is seven bits a byte, the lowest first, and reads back with the position after it."""
    assert encode_varint(number).hex() == encoded
    assert read_varint(b"?" + bytes.fromhex(encoded) + b"?", 1) == (number, 1 + len(encoded) // 2)


def test_fields_come_back_in_order() -> None:
    """Fields are read in the order in which they come, each with its tag."""
    data = bytes_field(bytes_tag(2), b"abc") + varint_field(varint_tag(15), 300) + bytes_field(bytes_tag(1), b"")

    assert read_fields(data) == [(bytes_tag(2), b"abc"), (varint_tag(15), 300), (bytes_tag(1), b"")]


def test_zero_is_left_out() -> None:
    """A number that is 0 takes no bytes, as proto3 has it."""
    assert varint_field(varint_tag(1), 0) == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("08", "ends inside"),
        ("0880", "ends inside"),
        ("0a", "ends inside"),
        ("0a026b", "goes beyond the end"),
        ("0d00000000", "type that no field has"),
        ("0901", "type that no field has"),
        ("0001", "no tag"),
        ("820100", "no tag"),
        ("08" + "80" * 10 + "01", "more than 10 bytes"),
        ("08" + "ff" * 9 + "02", "more than 64 bits"),
    ],
)
def test_malformed_bytes_are_refused(data: str, message: str) -> None:
    """Bytes that are no message are refused with the reason, never read as something else."""
    with pytest.raises(MalformedMessage, match=message):
        read_fields(bytes.fromhex(data))

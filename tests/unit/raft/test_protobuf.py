"""Packed numbers, and what is no number or field; the rest is tested with the entries and configurations made of it."""

from __future__ import annotations

import pytest

from clustercore.raft.protobuf import MalformedBytes, encode_varint, pack_varints, read_fields, unpack_varints


@pytest.mark.parametrize(
    ("numbers", "packed"),
    [((), ""), ((0, 1, 127), "00 01 7f"), ((128, 300, 2**62), "80 01 ac 02 80 80 80 80 80 80 80 80 40")],
)
def test_packed_numbers_are_varints_end_to_end(numbers: tuple[int, ...], packed: str) -> None:
    """Reading what was packed gives the same numbers (Protocol Buffers documentation, "Encoding", Packed)."""
    assert pack_varints(numbers).hex(" ") == packed
    assert unpack_varints(bytes.fromhex(packed)) == numbers


def test_packed_numbers_that_are_cut_off_are_refused() -> None:
    """The last number ends within the bytes, or all of them are none."""
    with pytest.raises(MalformedBytes, match="varint at byte 1 is cut off"):
        unpack_varints(b"\x01\x80")


@pytest.mark.parametrize("number", [-1, 2**64])
def test_number_that_is_no_uint64_is_not_encoded(number: int) -> None:
    """It is an error, not other bytes."""
    with pytest.raises(OverflowError, match=f"{number} is not an unsigned 64-bit number"):
        encode_varint(number)


def test_number_beyond_64_bits_is_cut_off() -> None:
    """As every reader of protobuf does ("Encoding", Base 128 Varints)."""
    assert unpack_varints(b"\xff" * 9 + b"\x7f") == (2**64 - 1,)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"\x00\x01", "field number 0 at byte 0"),
        (b"\x08\x01\x0b", "wire type 3 at byte 3"),
        (b"\x0d\x01", "field 1 wants 4 bytes at byte 1, 1 are left"),
    ],
)
def test_what_is_no_field_is_named(encoded: bytes, said: str) -> None:
    """With the byte at which it stands."""
    with pytest.raises(MalformedBytes, match=said):
        list(read_fields(encoded))

"""Packed numbers; fields and varints are tested with the entries and configurations made of them."""

from __future__ import annotations

import pytest

from clustercore.raft.protobuf import MalformedBytes, pack_varints, unpack_varints


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

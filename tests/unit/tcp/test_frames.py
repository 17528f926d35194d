"""Frames as bytes come: whole, split anywhere, damaged, or none at all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import LinkClosed
from clustercore_tcp.frames import HEADER_BYTES, MAGIC, MAX_OPEN_BYTES, FrameReader, Kind, encode_frame

frames = st.tuples(st.sampled_from(Kind), st.binary(max_size=100))


def test_frame_is_laid_out_as_documented() -> None:
    """Length, checksum, kind, payload, as in docs/reference/wire-and-disk.md."""
    assert encode_frame(Kind.MESSAGE, b"hi") == bytes.fromhex("00000003 6102499d 04") + b"hi"


@given(wanted=st.lists(frames, max_size=5), cuts=st.lists(st.integers(0, 700), max_size=20))
def test_frames_split_anywhere_come_out_whole(wanted: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    """Whatever pieces the bytes come in, the frames are those that were sent, in order, and nothing is left."""
    data = b"".join(encode_frame(kind, payload) for kind, payload in wanted)
    reader = FrameReader(100)
    got = []
    edges = [0, *sorted(cuts), len(data)]

    for start, end in pairwise(edges):
        reader.feed(data[start:end])
        while (frame := reader.take()) is not None:
            got.append(frame)

    assert got == wanted
    assert reader.is_empty


@given(payload=st.binary(max_size=50), at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_damaged_frame_is_refused_or_waits_for_more(payload: bytes, at: int, flip: int) -> None:
    """No flipped byte passes: a frame is refused, or its length has become one of which not all is there."""
    data = bytearray(encode_frame(Kind.MESSAGE, payload))
    data[at % len(data)] ^= flip
    reader = FrameReader(200)
    reader.feed(data)

    try:
        assert reader.take() is None
    except LinkClosed:
        return


def test_too_long_frame_is_refused_by_its_length_alone() -> None:
    """Nothing of it needs to have come, and none is kept."""
    reader = FrameReader(100)
    reader.feed((102).to_bytes(4, "big") + bytes(HEADER_BYTES - 4))

    with pytest.raises(LinkClosed, match=r"102 bytes; max_message_bytes allows 100"):
        reader.take()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(9), "a frame of 0 bytes"),
        (encode_frame(Kind.PING)[:8] + b"\xee", "unknown kind 238"),
        (encode_frame(Kind.PING)[:4] + b"\0\0\0\0" + bytes([Kind.PING]), "PING whose checksum is wrong"),
    ],
)
def test_nonsense_is_named(data: bytes, said: str) -> None:
    """The error says what is wrong."""
    reader = FrameReader(100)
    reader.feed(data)

    with pytest.raises(LinkClosed, match=said):
        reader.take()


def test_magic_is_told_from_another_protocol_at_its_first_wrong_byte() -> None:
    """A connection begins with it; what begins otherwise is refused as soon as that shows."""
    reader = FrameReader(100)
    reader.feed(MAGIC[:3])
    assert not reader.take_magic()
    reader.feed(MAGIC[3:] + b"rest")
    assert reader.take_magic()

    reader = FrameReader(100)
    reader.feed(b"GET ")
    with pytest.raises(LinkClosed, match="does not speak"):
        reader.take_magic()


def test_first_frame_of_a_stranger_is_short() -> None:
    """Whatever messages may have: nothing of a longer one is kept before its sender has shown a token (issue 5)."""
    reader = FrameReader(1 << 30)
    reader.expect_first()
    reader.feed(encode_frame(Kind.OPEN, bytes(MAX_OPEN_BYTES)))
    assert reader.take() is not None

    reader.feed(encode_frame(Kind.OPEN, bytes(MAX_OPEN_BYTES + 1))[:9])
    with pytest.raises(LinkClosed, match=r"a frame of 65538 bytes; the first one may have 65536"):
        reader.take()
    reader.expect_any()
    assert reader.take() is None

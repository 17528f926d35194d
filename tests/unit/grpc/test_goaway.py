"""GOAWAY frames taken out of a byte stream, wherever that is cut."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from clustercore_grpc.goaway import Goaway, GoawayFilter


def frame(kind: int, payload: bytes, stream_id: int = 0) -> bytes:
    """Write one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, stream_id) + payload


DATA = frame(0, b"x" * 40, 1)
GOAWAY = frame(7, struct.pack(">II", (1 << 31) | 5, 0) + b"max_age")
TOLD = Goaway(5, 0, "max_age")


def test_goaway_is_taken_out_at_every_byte_boundary() -> None:
    """Cut in two anywhere, the stream gives the same frames to h2, and the GOAWAY once, when it is whole."""
    whole = DATA + GOAWAY + DATA
    for cut in range(len(whole) + 1):
        goaway_filter = GoawayFilter()
        first, early = goaway_filter.feed(whole[:cut])
        second, late = goaway_filter.feed(whole[cut:])

        assert first + second == DATA + DATA
        assert early + late == [TOLD]
        assert bool(early) == (cut >= len(DATA) + len(GOAWAY))


frames = st.one_of(
    st.builds(frame, st.sampled_from([0, 1, 3, 4, 6, 8, 200]), st.binary(max_size=50), st.integers(0, 100)),
    st.builds(lambda last, code: frame(7, struct.pack(">II", last, code)), st.integers(0, 100), st.integers(0, 13)),
)


@given(sent=st.lists(frames, max_size=8), size=st.integers(1, 60))
def test_all_other_frames_pass_unaltered(sent: list[bytes], size: int) -> None:
    """In pieces of any size, what is no GOAWAY comes out as it went in."""
    data, goaway_filter = b"".join(sent), GoawayFilter()
    passed, found = b"", []
    for start in range(0, len(data), size):
        part, goaways = goaway_filter.feed(data[start : start + size])
        passed += part
        found += goaways

    assert passed == b"".join(one for one in sent if one[3] != 7)
    assert len(found) == sum(one[3] == 7 for one in sent)

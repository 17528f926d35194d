"""The frames of a byte stream, wherever that is cut: GOAWAY taken out, and DATA that h2 need not see."""

from __future__ import annotations

import struct

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, WindowUpdated
from hypothesis import given
from hypothesis import strategies as st

from clustercore_grpc.frames import FrameFilter, Goaway, encode_data, encode_window_update, plain_data_at


def frame(kind: int, payload: bytes, stream_id: int = 0, flags: int = 0) -> bytes:
    """Write one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


DATA = frame(0, b"x" * 40, 1)
GOAWAY = frame(7, struct.pack(">II", (1 << 31) | 5, 0) + b"max_age")
TOLD = Goaway(5, 0, "max_age")


def test_goaway_is_taken_out_at_every_byte_boundary() -> None:
    """Cut in two anywhere, the stream gives the same frames to h2, and the GOAWAY once, when it is whole."""
    whole = DATA + GOAWAY + DATA
    for cut in range(len(whole) + 1):
        frame_filter = FrameFilter(client_side=True)
        first, early = frame_filter.feed(whole[:cut])
        second, late = frame_filter.feed(whole[cut:])

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
    data, frame_filter = b"".join(sent), FrameFilter(client_side=True)
    passed, found = b"", []
    for start in range(0, len(data), size):
        part, goaways = frame_filter.feed(data[start : start + size])
        passed += part
        found += goaways

    assert passed == b"".join(one for one in sent if one[3] != 7)
    assert len(found) == sum(one[3] == 7 for one in sent)


def test_frame_may_begin_between_whole_frames_only() -> None:
    """Not inside one, not after a part of its header, and not where headers are to be continued."""
    frame_filter = FrameFilter(client_side=True)
    seen = [frame_filter.is_at_frame]
    begun, continued, ended = frame(1, b"head", 1), frame(9, b"ers", 1), frame(9, b"!", 1, flags=4)
    parts = [part for cut in range(1, len(DATA)) for part in (DATA[:cut], DATA[cut:])]
    for part in (*parts, begun, continued, ended, frame(1, b"", 1, flags=4)):
        frame_filter.feed(part)
        seen.append(frame_filter.is_at_frame)

    assert seen == [True, *[False, True] * (len(DATA) - 1), False, False, True, True]


def test_server_passes_on_what_a_client_begins_with_and_its_goaway() -> None:
    """The preface is no frame; what comes behind it is, at every byte boundary."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    whole = preface + DATA + GOAWAY
    for cut in range(len(whole) + 1):
        frame_filter = FrameFilter(client_side=False)
        first, early = frame_filter.feed(whole[:cut])
        assert frame_filter.is_at_frame is (cut in (len(preface), len(preface + DATA), len(whole)))
        second, late = frame_filter.feed(whole[cut:])

        assert first + second == whole
        assert early + late == []
        assert frame_filter.is_at_frame


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DATA, (1, b"x" * 40)),
        (frame(0, b"", 3), (3, b"")),
        (DATA + GOAWAY, (1, b"x" * 40)),
        (frame(0, b"reserved bit", 1 | 1 << 31), (1, b"reserved bit")),
        (DATA[:-1], None),
        (DATA[:8], None),
        (b"", None),
        (frame(0, b"the last", 1, flags=1), None),
        (frame(0, b"\x01padded ", 1, flags=8), None),
        (frame(1, b"headers", 1), None),
    ],
)
def test_plain_data_is_whole_data_without_flags(data: bytes, expected: tuple[int, bytes] | None) -> None:
    """Everything else is for h2."""
    assert plain_data_at(data, 0) == expected
    assert plain_data_at(GOAWAY + data, len(GOAWAY)) == expected


@given(st.binary(max_size=100), st.integers(1, 1 << 20))
def test_h2_reads_the_frames_that_are_written_past_it(payload: bytes, size: int) -> None:
    """DATA and WINDOW_UPDATE are those of HTTP/2."""
    client, server = (H2Connection(H2Configuration(client_side=side)) for side in (True, False))
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
    server.receive_data(client.data_to_send())

    events = server.receive_data(
        encode_data(1, payload) + encode_window_update(1, size) + encode_window_update(0, size)
    )

    data, *updates = events
    assert isinstance(data, DataReceived)
    assert (data.stream_id, data.data, data.flow_controlled_length) == (1, payload, len(payload))
    told = [(update.stream_id, update.delta) for update in updates if isinstance(update, WindowUpdated)]
    assert told == [(1, size), (0, size)]

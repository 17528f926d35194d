"""What replicas ask each other, as bytes: each message comes back as it was, and damage is told from it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import MalformedMessage, NodeId
from clustercore.sync import Change, GroupState, Stamp, Write
from clustercore.sync.blocks import decode_block, encode_block
from clustercore.sync.checkpoints import (
    MAX_KEPT_BACK,
    Checkpoint,
    Cursor,
    decode_cursor,
    encode_cursor,
    read_checkpoint,
)
from clustercore.sync.comparison import (
    BucketsRequest,
    BucketsResponse,
    CompareRequest,
    CompareResponse,
    FetchRequest,
    FetchResponse,
    LeafStamps,
    Place,
)
from clustercore.sync.digests import BUCKETS, LEAVES, SHORT_BYTES, SPLIT
from clustercore.sync.messages import (
    OpenRequest,
    OpenResponse,
    PullRequest,
    PullResponse,
    PushRequest,
    PushResponse,
    Resync,
    ResyncReason,
    SyncSession,
)
from clustercore.sync.wire import SyncMessage


def change(number: int, *, kind: str = "uav", group: str = "status", value: bytes = b'{"status":"idle"}') -> Change:
    """A change by node a."""
    state = GroupState.of(Write(Stamp(1, number + 1, "a#1"), None, (), value))
    return Change(kind, f"u{number}", group, state, number)


CHANGES = (change(3), change(9), change(4, kind="mission"), change(5, kind="mission", group=""))
SHORTS = tuple(number.to_bytes(4, "big") for number in range(BUCKETS))

MESSAGES: list[SyncMessage] = [
    OpenRequest(node_id=NodeId("a"), epoch="e"),
    OpenRequest(
        node_id=NodeId("ä"),
        epoch="e",
        kinds=("uav", "mission"),
        source_epoch="f",
        cursor=Cursor(90, (3, 80)),
        session_id=b"12345678",
    ),
    OpenResponse(session_id=b"1", epoch="e", reason=ResyncReason.WENT_BACK),
    OpenResponse(session_id=b"1", epoch="e", known_epoch="f", known_session_id=b"2", known_seq=1 << 40),
    PullRequest(session_id=b"1", cursor=Cursor(), max_changes=500, max_bytes=1 << 20),
    PullRequest(session_id=b"1", cursor=Cursor(5, (5,)), max_changes=1, max_bytes=1),
    PullResponse(start=Cursor()),
    PullResponse(start=Cursor(1), end=Cursor(9, (2,)), changes=CHANGES, behind=7, has_more=True),
    Resync(ResyncReason.UNKNOWN_SESSION),
    CompareRequest(session_id=b"1", salt=b"salt", roots=(("uav", bytes(16)), ("mission", bytes(range(16))))),
    CompareResponse(seq=7),
    CompareResponse(seq=7, buckets=(("uav", b"".join(SHORTS)),)),
    BucketsRequest(session_id=b"1", salt=b"salt", kind="uav", buckets=(0, 7, BUCKETS - 1)),
    BucketsResponse((b"leaf" * SPLIT, bytes(SPLIT * SHORT_BYTES))),
    FetchRequest(
        session_id=b"1",
        salt=b"salt",
        kind="uav",
        leaves=(LeafStamps(0, ()), LeafStamps(LEAVES - 1, (b"123456", b"abcdef"))),
        after=Place("u1", ""),
        max_changes=2,
        max_bytes=3,
    ),
    FetchResponse(),
    FetchResponse(changes=CHANGES, done=2, seq=99),
    PushRequest(node_id=NodeId("a"), changes=CHANGES, session=SyncSession.FULL),
    PushResponse(applied=1, duplicate=2, stale=3, rebuttals=CHANGES[3:]),
]


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_message_comes_back_as_it_was(number: int) -> None:
    """Every field, also where it is empty."""
    message = MESSAGES[number]
    assert type(message).decode(message.encode()) == message


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_field_of_a_newer_version_is_passed_over(number: int) -> None:
    """It has a number that this version does not know."""
    message = MESSAGES[number]
    assert type(message).decode(message.encode() + b"\xfa\x3f\x03new") == message


KINDS = sorted({type(message) for message in MESSAGES}, key=str)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.binary(max_size=80))
def test_other_bytes_are_malformed_or_a_message(kind: type[SyncMessage], data: bytes) -> None:
    """Nothing else is raised, whatever comes."""
    try:
        kind.decode(data)
    except MalformedMessage:
        return


@given(data=st.data())
def test_message_that_is_cut_off_or_changed_raises_nothing_else(data: st.DataObject) -> None:
    """Also in the middle of a block that is compressed."""
    message = PullResponse(start=Cursor(), end=Cursor(200), changes=tuple(map(change, range(200))))
    encoded = bytearray(message.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    try:
        PullResponse.decode(bytes(encoded[:cut]))
    except MalformedMessage:
        return


def test_no_answer_is_taken_for_a_resync() -> None:
    """The receiver looks for one in every answer."""
    for message in MESSAGES:
        reason = Resync.decode(message.encode()).reason
        assert bool(reason) == isinstance(message, Resync)


def test_block_of_heartbeats_is_small() -> None:
    """They look alike: what is said of each is a few bytes, not the hundred that it has by itself."""
    changes = [change(number, value=b'{"last_heartbeat":%d}' % (1_700_000_000 + number)) for number in range(1000)]

    assert len(encode_block(changes)) < 20 * len(changes)
    assert decode_block(encode_block(changes)) == tuple(changes)


def test_block_that_would_grow_without_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that decompress to more than a block may have."""
    monkeypatch.setattr("clustercore.sync.blocks.MAX_BLOCK_BYTES", 10_000)
    block = encode_block([change(1, value=b"x" * 1_000_000)])

    with pytest.raises(MalformedMessage, match="larger than"):
        decode_block(block)


@pytest.mark.parametrize("name", ["kind", "entity_id", "group"])
def test_block_with_a_name_that_no_store_takes_is_malformed(name: str) -> None:
    """Applied, it would end the node that fetched it: it is found where damage is told from what is sound."""
    longest: dict[str, Any] = {name: "ä" * 127}
    too_long: dict[str, Any] = {name: "ä" * 128}
    whole = attrs.evolve(change(1), **longest)
    assert decode_block(encode_block([whole])) == (whole,)

    with pytest.raises(MalformedMessage, match="has 256 bytes; at most 255"):
        decode_block(encode_block([attrs.evolve(change(1), **too_long)]))


@given(seq=st.integers(0, 1 << 62), data=st.data())
def test_cursor_comes_back_as_it_was(seq: int, data: st.DataObject) -> None:
    """With what is kept back, in ascending order."""
    kept = data.draw(st.sets(st.integers(1, max(seq, 1)), max_size=20)) if seq else set()
    cursor = Cursor(seq, tuple(sorted(kept)))

    assert decode_cursor(encode_cursor(cursor)) == cursor


def test_cursor_that_keeps_back_what_it_may_not_is_malformed() -> None:
    """More than the window keeps, or what is behind the cursor."""
    for cursor in (Cursor(5000, tuple(range(1, MAX_KEPT_BACK + 2))), Cursor(5, (6,))):
        with pytest.raises(MalformedMessage):
            decode_cursor(encode_cursor(cursor))


@pytest.mark.parametrize(
    ("one", "other", "is_within"),
    [
        (Cursor(5), Cursor(5), True),
        (Cursor(5), Cursor(9), True),
        (Cursor(9), Cursor(5), False),
        (Cursor(5), Cursor(9, (7,)), True),
        (Cursor(5), Cursor(9, (4,)), False),
        (Cursor(5, (4,)), Cursor(9, (4,)), True),
        (Cursor(5, (4,)), Cursor(5), True),
        (Cursor(5), Cursor(5, (4,)), False),
    ],
)
def test_cursor_is_within_another_that_holds_all_that_it_does(one: Cursor, other: Cursor, is_within: bool) -> None:
    """So a delta from the one may be applied by who is at the other."""
    assert one.is_within(other) is is_within


def test_checkpoint_counts_only_for_the_store_that_gave_it() -> None:
    """One that cannot be read counts for nothing, and is no error: everything is compared then."""
    checkpoint = Checkpoint(Cursor(5, (2,)), "theirs", "ours", b"session")

    assert read_checkpoint(checkpoint.encode(), "ours") == checkpoint
    assert read_checkpoint(checkpoint.encode(), "another") is None
    assert read_checkpoint(b"\xff", "ours") is None
    assert read_checkpoint(None, "ours") is None

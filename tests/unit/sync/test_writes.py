"""The bytes of writes and states: one encoding each, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import HybridTime, MalformedMessage, NodeId
from clustercore.sync import GroupState, Stamp, Write, decode_group_state
from clustercore.sync.merge import join
from clustercore.sync.writes import join_time, split_time, writer_of

BASE = Stamp(1, 5 << 16, "a#00000001")
WRITE = Write(Stamp(2, 6 << 16 | 3, "a#00000001"), BASE, (("b#00000002", 4 << 16),), b'{"x":1}')
OTHER = Write(Stamp(9, 7 << 16, "\u00e4#00000003"), BASE, (("a#00000001", 5 << 16),), None, is_weak=True)
STATES = [
    GroupState.of(WRITE),
    GroupState.of(OTHER),
    GroupState.of(Write(Stamp(2**62, 2**64 - 1, "n#1"), None, (), b"")),
    GroupState((WRITE, OTHER), {"a#00000001": 6 << 16 | 3, "b#00000002": 2**40, "\u00e4#00000003": 7 << 16, "z#1": 1}),
    GroupState((), {"a#1": 3}),
]


@pytest.mark.parametrize("state", STATES)
def test_state_is_read_as_it_was_written(state: GroupState) -> None:
    """Heads, what they know and what was seen beyond that come back; equal states have equal bytes."""
    read = decode_group_state(state.encoded)
    assert read == state
    assert GroupState(read.heads, dict(reversed(list(read.seen.items())))).encoded == state.encoded


def test_whatever_was_joined_is_read_again() -> None:
    """There is no number of writers that a state can have, and its reader refuses."""
    states = [
        GroupState.of(Write(Stamp(9, 2, f"{name}#1"), None, tuple((f"{name}{n:05}#1", 1) for n in range(6_000)), b"1"))
        for name in "ab"
    ]
    joined = join(*states).state
    assert len(joined.seen) == 12_002
    again = join(
        joined, GroupState.of(Write(Stamp(10, 3, "c#1"), None, tuple(sorted(joined.seen.items())), b"2"))
    ).state
    for state in (joined, again):
        assert decode_group_state(state.encoded) == state


@given(st.sampled_from(STATES), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3), st.data())
def test_there_is_one_encoding_of_each_state(
    state: GroupState, damage: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever bytes come: they are refused, or are the very bytes that the state they say would be written as."""
    mutated = bytearray(state.encoded)
    for place, value in damage:
        mutated[place % len(mutated)] = value
    cut = data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))
    given_bytes = bytes(mutated[:cut]) + data.draw(st.sampled_from([b"", b"\0"]))
    try:
        read = decode_group_state(given_bytes)
    except MalformedMessage:
        return
    assert GroupState(read.heads, read.seen).encoded == given_bytes


def test_what_no_writer_makes_is_refused() -> None:
    """A write above nothing, a base that is not below it, a past of its own, heads that are overruled."""

    def state(*heads: Write, seen: dict[str, int] | None = None) -> GroupState:
        known = dict(pair for head in heads for pair in (*head.past, (head.stamp.writer, head.stamp.time)))
        return GroupState(heads, known if seen is None else seen)

    wrong = {
        "versions are from 1": state(Write(Stamp(0, 5, "a#1"), None, (), b"")),
        "versions are from 1 to": state(Write(Stamp(2**62 + 1, 5, "a#1"), None, (), b"")),
        "names its node": state(Write(Stamp(1, 5, "#1"), None, (), b"")),
        "based on version 2": state(Write(Stamp(2, 5, "a#1"), Stamp(2, 4, "b#1"), (), b"")),
        "based on a later one": state(Write(Stamp(2, 5, "a#1"), Stamp(1, 6, "a#1"), (), b"")),
        "speaks of that writer": state(Write(Stamp(2, 5, "a#1"), None, (("a#1", 4),), b"")),
        "not in the order": state(Write(Stamp(2, 5, "a#1"), None, (("c#1", 4), ("b#1", 4)), b"")),
        "is overruled": state(Write(Stamp(2, 5, "a#1"), None, (), b""), seen={"a#1": 6}),
        "each by another writer": state(
            Write(Stamp(1, 5, "b#1"), None, (), b""), Write(Stamp(1, 5, "a#1"), None, (), b"")
        ),
    }
    for message, bad in wrong.items():
        with pytest.raises(MalformedMessage, match=message):
            decode_group_state(bad.encoded)
    for data in (b"", b"\2\0\0", b"\1", STATES[0].encoded + b"\0", b"\1\xff\xff\xff\x7f", b"\1\1\xff"):
        with pytest.raises(MalformedMessage):
            decode_group_state(data)
    # A number in more bytes than it needs.
    with pytest.raises(MalformedMessage, match="longer than it has to be"):
        decode_group_state(b"\1\x80\0\0")


def test_stamp_has_its_parts() -> None:
    """The integer is the hybrid time in its order; the node is what is before the last sign."""
    stamp = Stamp(3, join_time(HybridTime(1_700_000_000_000, 9)), writer_of(NodeId("rack#7"), "0123456789abcdef"))
    assert stamp.hybrid_time == split_time(stamp.time) == HybridTime(1_700_000_000_000, 9)
    assert stamp.node_id == "rack#7"
    assert stamp.writer == "rack#7#01234567"
    assert (stamp.edit_stamp.version, stamp.edit_stamp.node_id) == (3, "rack#7")


def test_write_knows_its_past() -> None:
    """It knows what its past names, its writer's earlier ones, and itself."""
    assert WRITE.knows(WRITE.stamp)
    assert WRITE.knows(BASE)
    assert WRITE.knows(Stamp(1, 4 << 16, "b#00000002"))
    assert not WRITE.knows(Stamp(1, 4 << 16 | 1, "b#00000002"))
    assert not WRITE.knows(OTHER.stamp)

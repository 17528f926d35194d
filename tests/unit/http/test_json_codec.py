"""Messages as JSON: what is written, what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from clustercore.interfaces import (
    AppendEntriesRequest,
    Entry,
    EntryKind,
    LogIndex,
    MalformedMessage,
    Message,
    NodeId,
    RequestVoteRequest,
    Term,
)
from clustercore_http.json_codec import decode_line, encode_line
from tests.unit.interfaces.test_codec import messages

ENTRY = Entry.create(LogIndex(6), Term(2), EntryKind.COMMAND, b"\x00hi")


@given(message=messages)
def test_line_round_trip(message: Message) -> None:
    """Every message comes back from its line as it was, and the line holds no line end but its own."""
    line = encode_line(message)

    assert line.index(b"\n") == len(line) - 1
    assert decode_line(line) == message


def test_line_can_be_read_by_a_person() -> None:
    """Fields have their names, an entry its parts, and the entry's encoding is the same when it arrives."""
    message = AppendEntriesRequest(Term(3), NodeId("a"), LogIndex(5), Term(2), LogIndex(4), (ENTRY,))

    line = encode_line(message)

    assert json.loads(line) == {
        "type": "AppendEntriesRequest",
        "term": 3,
        "leader_id": "a",
        "prev_log_index": 5,
        "prev_log_term": 2,
        "leader_commit": 4,
        "entries": [{"index": 6, "term": 2, "kind": "command", "command": "AGhp"}],
        "round": 0,
        "answered_round": 0,
    }
    read = decode_line(line)
    assert isinstance(read, AppendEntriesRequest)
    assert read.entries[0].encoded == ENTRY.encoded


def test_unknown_field_is_passed_over() -> None:
    """A newer node may add one."""
    line = b'{"type":"RequestVoteResponse","term":3,"vote_granted":true,"mood":"good"}'

    assert decode_line(line) == decode_line(line.replace(b',"mood":"good"', b""))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "no message"),
        (b"[", "no message"),
        (b"[]", "no message of type"),
        (b"{}", "no message of type None"),
        (b'{"type":"Gossip"}', "no message of type 'Gossip'"),
        (b'{"type":[]}', "no message"),
        (b"[" * 100_000, "no message"),
        (b'{"type":"TimeoutNowResponse","term":"3"}', "'3' is no whole number"),
        (b'{"type":"TimeoutNowResponse","term":-1}', "-1 is no whole number"),
        (b'{"type":"TimeoutNowResponse","term":1.5}', "1.5 is no whole number"),
        (b'{"type":"TimeoutNowResponse","term":true}', "True is no whole number"),
        (b'{"type":"TimeoutNowResponse","term":18446744073709551616}', "no whole number"),
        (b'{"type":"TimeoutNowResponse"}', "term"),
        (b'{"type":"RequestVoteResponse","term":1,"vote_granted":"no"}', "neither true nor false"),
        (b'{"type":"TimeoutNowRequest","term":1,"leader_id":7}', "7 is no text"),
        (b'{"type":"ForwardProposals","request_id":1,"commands":["%%"]}', "commands|base64|Only"),
    ],
)
def test_malformed_line_is_named(line: bytes, said: str) -> None:
    """What is no message is refused with what is wrong with it; nothing is turned into what it is not."""
    with pytest.raises(MalformedMessage, match=said):
        decode_line(line)


@pytest.mark.parametrize("change", [{"index": 0}, {"term": 0}, {"kind": "gossip"}, {"command": "%"}, {"index": None}])
def test_malformed_entry_is_refused(change: dict[str, object]) -> None:
    """An entry without an index, a term or a known kind is none."""
    entry = {"index": 6, "term": 2, "kind": "command", "command": ""} | change
    whole = {"type": "AppendEntriesRequest", "term": 3, "leader_id": "a", "prev_log_index": 5, "prev_log_term": 2}

    with pytest.raises(MalformedMessage):
        decode_line(json.dumps(whole | {"leader_commit": 4, "entries": [entry]}).encode())


def test_vote_is_small() -> None:
    """A number in the text is a number."""
    message = RequestVoteRequest(Term(3), NodeId("a"), LogIndex(5), Term(2))

    assert json.loads(encode_line(message))["term"] == 3

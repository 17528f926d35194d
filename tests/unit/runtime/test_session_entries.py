"""Entries of the kinds SESSION and VERSION, and their answers, as bytes: what is written is what is read."""

from __future__ import annotations

import re

import pytest

from clustercore.raft.entry import EntryKind
from clustercore.raft.protobuf import bytes_field, varint_field
from clustercore.runtime.session_entries import (
    LAYOUTS,
    MAX_NUMBER,
    MAX_UNSETTLED,
    OPERATIONS,
    STAMP_FIELD,
    VERSIONS,
    Answer,
    CloseSession,
    EnableVersion,
    KeepAlive,
    MalformedOperation,
    OpenSession,
    Operation,
    Outcome,
    ResolveCommand,
    SessionCommand,
    SessionLimits,
    Stamp,
    VersionedCommand,
    command_in,
    decode_answer,
    decode_session_entry,
    decode_version_entry,
    encode_answer,
    encode_operation,
    encode_stamp,
    encode_version_entry,
)
from clustercore_grpc._proto.clustercore import v1
from tests.unit.docs_pages import page

COMMAND = SessionCommand(300, 7, 201, (1, 200), 2, b"hi")
STAMP = Stamp(0, 10, 20, 30)
OPERATIONS_TO_WRITE: list[Operation] = [
    OpenSession(1),
    COMMAND,
    SessionCommand(1, 1, 1, (), 1, b""),
    KeepAlive(1, 1, ()),
    KeepAlive(2, 300, (3, 299)),
    ResolveCommand(1, MAX_NUMBER),
    CloseSession(5),
]


@pytest.mark.parametrize("operation", OPERATIONS_TO_WRITE, ids=repr)
def test_operation_is_read_as_it_was_written(operation: Operation) -> None:
    """Without a stamp, and with one behind it; of two stamps the leader's, which is the last, counts."""
    encoded = encode_operation(operation)

    assert decode_session_entry(encoded) == (operation, None)
    assert decode_session_entry(encoded + encode_stamp(STAMP)) == (operation, STAMP)
    forged = encode_stamp(Stamp(999, 1, 1, 1))
    assert decode_session_entry(encoded + forged + encode_stamp(STAMP)) == (operation, STAMP)


@pytest.mark.parametrize("content", [EnableVersion(3), VersionedCommand(2, b"hi")], ids=repr)
def test_version_entry_is_read_as_it_was_written(content: EnableVersion | VersionedCommand) -> None:
    """Both kinds."""
    assert decode_version_entry(encode_version_entry(content)) == content


@pytest.mark.parametrize("outcome", Outcome)
def test_answer_is_read_as_it_was_written(outcome: Outcome) -> None:
    """Every outcome, with and without a result."""
    for answer in (Answer(outcome), Answer(outcome, 300, 2, b"result")):
        assert decode_answer(encode_answer(answer)) == answer


def test_a_protobuf_library_reads_what_is_written() -> None:
    """The bytes are the messages of raft.proto."""
    entry = v1.SessionEntry.parse(encode_operation(COMMAND) + encode_stamp(STAMP))
    answer = v1.CommandAnswer.parse(encode_answer(Answer(Outcome.APPLIED, 5, 2, b"r")))
    version = v1.VersionEntry.parse(encode_version_entry(VersionedCommand(2, b"hi")))

    assert entry.command == v1.SessionCommand(
        session_id=300, sequence=7, settled_below=201, unsettled=[1, 200], version=2, command=b"hi"
    )
    assert entry.stamp == v1.Stamp(max_sessions=10, max_outstanding=20, max_result_bytes=30)
    assert (int(answer.outcome), answer.index, answer.term, answer.result) == (1, 5, 2, b"r")
    assert version.command == v1.VersionedCommand(version=2, command=b"hi")
    assert decode_session_entry(bytes(entry)) == (COMMAND, STAMP)


def test_layouts_are_those_of_the_proto() -> None:
    """Each message has the fields of raft.proto, with their numbers and types; so have the entries and the outcomes."""
    proto = re.sub(r"//.*", "", page("protos/clustercore/v1/raft.proto"))
    bodies = dict(re.findall(r"^message (\w+) {(.*?)^}", proto, re.MULTILINE | re.DOTALL))
    for message_type, layout in LAYOUTS.items():
        name = "CommandAnswer" if message_type is Answer else message_type.__name__
        found = re.findall(r"^ *(.+) (\w+) = (\d+);", bodies[name], re.MULTILINE)
        fields = [(int(number), field, kind) for kind, field, number in found]
        assert fields == [
            (number, field, "CommandOutcome" if field == "outcome" else shape.value) for number, field, shape in layout
        ]
    for name, types in (("SessionEntry", {**OPERATIONS, STAMP_FIELD: Stamp}), ("VersionEntry", VERSIONS)):
        parts = {int(number): kind for kind, number in re.findall(r"(\w+) \w+ = (\d+);", bodies[name])}
        assert parts == {number: message_type.__name__ for number, message_type in types.items()}
    (outcomes,) = re.findall(r"enum CommandOutcome {(.*?)}", proto, re.DOTALL)
    assert re.findall(r"COMMAND_OUTCOME_(\w+) = (\d+)", outcomes)[1:] == [
        (outcome.name, str(outcome.value)) for outcome in Outcome
    ]


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (b"", "holds 0 operations"),
        (b"\xff", "cut off"),
        (encode_stamp(STAMP), "holds 0 operations"),
        (encode_operation(OpenSession(1)) * 2, "holds 2 operations"),
        (bytes_field(1, b""), r"ttl_ms is 0; it must be from 1"),
        (bytes_field(1, varint_field(1, MAX_NUMBER + 1)), "ttl_ms is 4611686018427387905"),
        (bytes_field(2, b"\x08"), "this is no SessionCommand"),
        (bytes_field(3, bytes_field(3, b"\xff")), "this is no KeepAlive"),
        (encode_operation(KeepAlive(1, 5, (3, 2))), "must ascend"),
        (encode_operation(KeepAlive(1, 5, (2, 2))), "must ascend"),
        (encode_operation(KeepAlive(1, 5, (5,))), "stay below settled_below, 5"),
        (encode_operation(KeepAlive(1, 5, (0,))), "unsettled is 0"),
        (encode_operation(KeepAlive(1, MAX_NUMBER, tuple(range(1, MAX_UNSETTLED + 2)))), "has 4097 numbers"),
        (encode_operation(CloseSession(1)) + bytes_field(STAMP_FIELD, b""), "max_sessions is 0"),
    ],
)
def test_malformed_session_entry_is_refused(encoded: bytes, told: str) -> None:
    """The text says what is wrong and what is allowed."""
    with pytest.raises(MalformedOperation, match=told):
        decode_session_entry(encoded)


@pytest.mark.parametrize("encoded", [b"", b"\xff", bytes_field(1, b""), bytes_field(2, b""), bytes_field(3, b"")])
def test_malformed_version_entry_is_refused(encoded: bytes) -> None:
    """Empty, cut off, version 0, unknown."""
    with pytest.raises(MalformedOperation):
        decode_version_entry(encoded)


def test_malformed_answer_is_refused() -> None:
    """An outcome of a later version may mean anything."""
    with pytest.raises(MalformedOperation, match="outcome 99 is unknown"):
        decode_answer(varint_field(1, 99))
    with pytest.raises(MalformedOperation, match="it must be from 1"):
        decode_answer(b"")


def test_fields_of_a_later_version_are_passed_over() -> None:
    """Also those that have another wire type than they had."""
    later = bytes_field(1, varint_field(1, 5) + varint_field(9, 9) + bytes_field(1, b"")) + bytes_field(99, b"")

    assert decode_session_entry(later + varint_field(98, 1)) == (OpenSession(5), None)


def test_what_may_be_proposed_from_outside_is_told_from_what_may_not() -> None:
    """The command that is in it is returned, for its size; the leader's own kinds are refused."""
    assert command_in(EntryKind.COMMAND, b"any") == b"any"
    assert command_in(EntryKind.SESSION, encode_operation(COMMAND)) == b"hi"
    assert command_in(EntryKind.SESSION, encode_operation(OpenSession(1))) == b""
    assert command_in(EntryKind.VERSION, encode_version_entry(VersionedCommand(2, b"hi"))) == b"hi"
    for kind, payload in (
        (EntryKind.NO_OP, b""),
        (EntryKind.CONFIGURATION, b""),
        (EntryKind.VERSION, encode_version_entry(EnableVersion(2))),
        (EntryKind.SESSION, b""),
    ):
        with pytest.raises(MalformedOperation):
            command_in(kind, payload)


def test_limits_are_stamped() -> None:
    """A leader's limits, and its time."""
    assert SessionLimits(1, 2, 3).stamp(4) == Stamp(4, 1, 2, 3)

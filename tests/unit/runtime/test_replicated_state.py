"""What the log determines: the machine, the sessions, the version of commands; in snapshots too, new ones and old."""

from __future__ import annotations

import pytest

from clustercore.interfaces import LogIndex, Term
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.protobuf import bytes_field, varint_field
from clustercore.runtime.replicated_state import ReplicatedState, VersionNotUnderstood
from clustercore.runtime.session_entries import (
    Answer,
    EnableVersion,
    MalformedOperation,
    OpenSession,
    Outcome,
    SessionCommand,
    Stamp,
    VersionedCommand,
    decode_answer,
    encode_operation,
    encode_stamp,
    encode_version_entry,
)
from tests.simulation.cluster import Journal


class Versioned(Journal):
    """Understands two versions, and remembers which it was given."""

    version = 2

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[int] = []

    def apply_version(self, index: LogIndex, command: bytes, version: int) -> bytes:
        self.versions.append(version)
        return self.apply(index, command)


def entry(index: int, kind: EntryKind, command: bytes = b"") -> Entry:
    """An entry of term 1."""
    return Entry.create(LogIndex(index), Term(1), kind, command)


STAMP = encode_stamp(Stamp(1, 10, 10, 1000))


def test_each_kind_does_its_own() -> None:
    """A plain command has the first version; what the core's own entries say is not the machine's."""
    state = ReplicatedState(Versioned())

    assert state.apply(entry(1, EntryKind.NO_OP)) == b""
    assert state.apply(entry(2, EntryKind.CONFIGURATION, b"x")) == b""
    assert state.apply(entry(3, EntryKind.COMMAND, b"x")) == b"3:x"
    assert decode_answer(state.apply(entry(4, EntryKind.SESSION, encode_operation(OpenSession(9)) + STAMP))) == Answer(
        Outcome.DONE, 4
    )
    assert isinstance(state.machine, Versioned)
    assert state.machine.versions == [1]


def test_command_of_a_version_is_applied_once_that_is_on() -> None:
    """In a session and outside of one; before, it is not applied, and its proposer is told."""
    state = ReplicatedState(Versioned())
    command = encode_version_entry(VersionedCommand(2, b"v"))
    state.apply(entry(1, EntryKind.SESSION, encode_operation(OpenSession(9)) + STAMP))

    assert decode_answer(state.apply(entry(2, EntryKind.VERSION, command))) == Answer(Outcome.NOT_ENABLED)
    assert state.apply(entry(3, EntryKind.VERSION, encode_version_entry(EnableVersion(2)))) == b""
    assert state.command_version == 2
    assert decode_answer(state.apply(entry(4, EntryKind.VERSION, command))) == Answer(Outcome.APPLIED, 4, 1, b"4:v")
    in_session = encode_operation(SessionCommand(1, 1, 1, (), 2, b"s")) + STAMP
    assert decode_answer(state.apply(entry(5, EntryKind.SESSION, in_session))).result == b"5:s"
    # What was on stays on.
    state.apply(entry(6, EntryKind.VERSION, encode_version_entry(EnableVersion(1))))
    assert state.command_version == 2
    assert isinstance(state.machine, Versioned)
    assert state.machine.versions == [2, 2]


def test_entries_that_cannot_be_left_out_are_not() -> None:
    """A version the machine does not know, a session entry without a stamp, one that is malformed."""
    state = ReplicatedState(Journal())

    with pytest.raises(VersionNotUnderstood, match="understands up to 1"):
        state.apply(entry(1, EntryKind.VERSION, encode_version_entry(EnableVersion(2))))
    with pytest.raises(MalformedOperation, match="no leader's stamp"):
        state.apply(entry(1, EntryKind.SESSION, encode_operation(OpenSession(9))))
    with pytest.raises(MalformedOperation):
        state.apply(entry(1, EntryKind.SESSION, b"later"))


def test_preamble_brings_back_all_but_the_machine() -> None:
    """Sessions and version; and the one of a snapshot that has none takes them away."""
    state = ReplicatedState(Versioned())
    assert state.preamble() == b""
    state.apply(entry(1, EntryKind.SESSION, encode_operation(OpenSession(9)) + STAMP))
    state.apply(entry(2, EntryKind.VERSION, encode_version_entry(EnableVersion(2))))

    other = ReplicatedState(Versioned())
    other.restore_preamble(state.preamble() + varint_field(9, 9) + bytes_field(9, b"later"))

    assert (other.sessions.session_ids, other.command_version) == ((1,), 2)
    assert other.preamble() == state.preamble()
    other.restore_preamble(b"")
    assert (other.sessions.session_ids, other.command_version) == ((), 1)
    with pytest.raises(VersionNotUnderstood):
        ReplicatedState(Journal()).restore_preamble(state.preamble())

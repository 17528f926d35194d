"""All that the log determines on a node: the state machine, the sessions of its clients, the version of its commands.

Only the applier touches it, in log order. What is not the state machine's own goes into snapshots as their *preamble*.
"""

from __future__ import annotations

from typing import assert_never

from clustercore.interfaces.state_machine import StateMachine
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.protobuf import BYTES, bytes_field, read_fields, varint_field
from clustercore.runtime.session_entries import (
    Answer,
    EnableVersion,
    MalformedOperation,
    Outcome,
    SessionCommand,
    VersionedCommand,
    decode_session_entry,
    decode_version_entry,
    encode_answer,
)
from clustercore.runtime.session_table import SessionTable

__all__ = ["FIRST_VERSION", "ReplicatedState", "VersionNotUnderstood"]

# The version of commands that is switched on from the start.
FIRST_VERSION = 1


class VersionNotUnderstood(Exception):
    """The cluster has switched on commands of a version that this node's state machine does not know."""


class ReplicatedState:
    """A state machine, and what clustercore itself keeps beside it."""

    def __init__(self, machine: StateMachine) -> None:
        """Begin with no session, at the first version of commands."""
        self.machine = machine
        self.sessions = SessionTable()
        # The highest version of the application's commands that is switched on. Never falls.
        self.command_version = FIRST_VERSION

    def apply(self, entry: Entry) -> bytes:
        """Apply a committed entry and return what its proposer gets: a command's result, or an encoded ``Answer``.

        Raises: whatever the machine raises; VersionNotUnderstood; MalformedOperation for an entry that a later version
            of clustercore has written. The node must halt: the others have gone on.
        """
        match entry.kind:
            case EntryKind.COMMAND:
                return self.machine.apply_version(entry.index, entry.command, FIRST_VERSION)
            case EntryKind.SESSION:
                return encode_answer(self._apply_session_entry(entry))
            case EntryKind.VERSION:
                return self._apply_version_entry(entry)
            case EntryKind.NO_OP | EntryKind.CONFIGURATION:
                return b""
            case _:
                assert_never(entry.kind)

    def _apply_session_entry(self, entry: Entry) -> Answer:
        operation, stamp = decode_session_entry(entry.command)
        if stamp is None:
            raise MalformedOperation("a session entry in the log has no leader's stamp")

        def run(command: SessionCommand) -> bytes | None:
            return self._run_in_session(entry, command)

        return self.sessions.apply(entry.index, entry.term, operation, stamp, run)

    def _run_in_session(self, entry: Entry, command: SessionCommand) -> bytes | None:
        """Apply a command that the table has no outcome of yet."""
        return self._run(entry, command.version, command.command)

    def _apply_version_entry(self, entry: Entry) -> bytes:
        content = decode_version_entry(entry.command)
        match content:
            case EnableVersion(enabled=version):
                self._enable(version)
                return b""
            case VersionedCommand(version=version, command=command):
                result = self._run(entry, version, command)
                if result is None:
                    return encode_answer(Answer(Outcome.NOT_ENABLED))
                return encode_answer(Answer(Outcome.APPLIED, entry.index, entry.term, result))
            case _:
                assert_never(content)

    def _run(self, entry: Entry, version: int, command: bytes) -> bytes | None:
        """Apply a command; None if its version is not switched on, which is the same on every node."""
        if version > self.command_version:
            return None
        return self.machine.apply_version(entry.index, command, version)

    def _enable(self, version: int) -> None:
        if version > self.machine.version:
            raise VersionNotUnderstood(
                f"version {version} of the commands is switched on, and this node's machine understands up to "
                f"{self.machine.version}; start the node with the newer machine"
            )
        self.command_version = max(self.command_version, version)

    # --- In snapshots ---

    def preamble(self) -> bytes:
        """Return what a snapshot must hold beside the machine's own bytes; b"" if nothing."""
        version = varint_field(1, self.command_version) if self.command_version != FIRST_VERSION else b""
        sessions = self.sessions.encode()
        return version + (bytes_field(2, sessions) if sessions else b"")

    def restore_preamble(self, preamble: bytes) -> None:
        """Replace all but the machine by what ``preamble`` returned; b"" is that of a snapshot that has none.

        Raises: MalformedBytes or MalformedTable if the bytes are none; VersionNotUnderstood.
        """
        version, sessions = FIRST_VERSION, b""
        for number, wire_type, value in read_fields(preamble):
            if number == 1 and isinstance(value, int):
                version = value
            elif (number, wire_type) == (2, BYTES) and isinstance(value, bytes):
                sessions = value
        self.sessions = SessionTable.decode(sessions)
        self.command_version = FIRST_VERSION
        self._enable(version)

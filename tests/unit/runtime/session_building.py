"""A table of sessions under test, entry by entry."""

from __future__ import annotations

import attrs

from clustercore.runtime.session_entries import (
    Answer,
    CloseSession,
    KeepAlive,
    OpenSession,
    Operation,
    ResolveCommand,
    SessionCommand,
    Stamp,
)
from clustercore.runtime.session_table import SessionTable

__all__ = ["TableBench"]


@attrs.define
class TableBench:
    """A table, the machine behind it, and a log that grows by one entry a call."""

    table: SessionTable = attrs.field(factory=SessionTable)
    index: int = 0
    term: int = 1
    # How long the leader has led when the next entry is appended.
    led_ms: int = 0
    max_sessions: int = 3
    max_outstanding: int = 4
    max_result_bytes: int = 100
    # What was applied, in order.
    applied: list[bytes] = attrs.field(factory=list)
    # The highest version that is switched on.
    version: int = 1

    def apply(self, operation: Operation) -> Answer:
        """Apply the next entry."""
        self.index += 1
        stamp = Stamp(self.led_ms, self.max_sessions, self.max_outstanding, self.max_result_bytes)
        return self.table.apply(self.index, self.term, operation, stamp, self._run)

    def _run(self, command: SessionCommand) -> bytes | None:
        if command.version > self.version:
            return None
        self.applied.append(command.command)
        return b"<%s>" % command.command

    def open(self, ttl_ms: int = 1000) -> Answer:
        """Open a session."""
        return self.apply(OpenSession(ttl_ms))

    def command(
        self,
        session_id: int,
        sequence: int,
        command: bytes = b"x",
        *,
        below: int = 1,
        unsettled: tuple[int, ...] = (),
        version: int = 1,
    ) -> Answer:
        """Propose a command."""
        return self.apply(SessionCommand(session_id, sequence, below, unsettled, version, command))

    def keep_alive(self, session_id: int, *, below: int = 1, unsettled: tuple[int, ...] = ()) -> Answer:
        """Keep a session alive."""
        return self.apply(KeepAlive(session_id, below, unsettled))

    def resolve(self, session_id: int, sequence: int) -> Answer:
        """Resolve a token."""
        return self.apply(ResolveCommand(session_id, sequence))

    def close(self, session_id: int) -> Answer:
        """Close a session."""
        return self.apply(CloseSession(session_id))

"""A disk and a state machine as plain data.

The disk checks what the storage contract promises a plugin: no gap in the log, no cut into the snapshot, no snapshot
older than the one it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NoReturn

import attrs

from clustercore.raft.configuration import configurations_in, decode_configuration
from clustercore.raft.effects import PersistEntries, PersistHardState, PersistSnapshot, PersistSnapshotChunk
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import (
    BEFORE_LOG,
    NO_TERM,
    Configuration,
    HardState,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    Term,
)
from clustercore.runtime.session_entries import SessionCommand, decode_session_entry
from clustercore.runtime.session_table import SessionTable
from clustercore.testing.violation import PropertyViolated

__all__ = ["Disk", "Machine", "OwnSnapshot", "Snapshot", "Write"]

# Of a machine's digest.
_DIGEST_BYTES = 8


@attrs.frozen
class Snapshot:
    """A snapshot with its bytes."""

    metadata: SnapshotMetadata
    data: bytes

    @property
    def last_included_index(self) -> LogIndex:
        """The last entry it covers."""
        return self.metadata.last_included_index


@attrs.frozen
class OwnSnapshot:
    """A snapshot that a node took of its own machine, on its way to the disk."""

    snapshot: Snapshot
    keep_from: LogIndex


Write = PersistHardState | PersistEntries | PersistSnapshotChunk | PersistSnapshot | OwnSnapshot


@attrs.define
class Disk:
    """What survives a crash."""

    hard_state: HardState = attrs.field(factory=HardState)
    snapshot: Snapshot | None = None
    entries: list[Entry] = attrs.field(factory=list)
    # A leader's snapshot that is arriving. A restart forgets it.
    arriving: Snapshot | None = None
    # Derived: the configurations among the entries, by index.
    _members: list[tuple[LogIndex, Configuration]] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Find the configurations in what is there at first."""
        self._members = configurations_in(self.entries)

    @property
    def configuration(self) -> Configuration | None:
        """The newest members that the disk names; None if it names none."""
        if self._members:
            return self._members[-1][1]
        return self.snapshot.metadata.configuration if self.snapshot is not None else None

    @property
    def configuration_index(self) -> LogIndex:
        """The entry that named them; what the snapshot covers if it did, and BEFORE_LOG if nothing has."""
        return self._members[-1][0] if self._members else self.snapshot_index

    @property
    def named_members(self) -> list[tuple[LogIndex, Configuration]]:
        """The members that the disk names, ascending by index: the snapshot's first, if there is one."""
        if self.snapshot is None:
            return list(self._members)
        since = self.snapshot_index
        return [(since, self.snapshot.metadata.configuration), *(item for item in self._members if item[0] > since)]

    @property
    def snapshot_index(self) -> LogIndex:
        """The last index that the snapshot covers."""
        return self.snapshot.last_included_index if self.snapshot is not None else BEFORE_LOG

    @property
    def last_index(self) -> LogIndex:
        """The last index stored, in the log or the snapshot."""
        return self.entries[-1].index if self.entries else self.snapshot_index

    @property
    def end(self) -> tuple[Term, LogIndex]:
        """What the stored log is compared by in an election (Raft §5.4.1)."""
        if self.entries:
            last = self.entries[-1]
            return last.term, last.index
        if self.snapshot is not None:
            return self.snapshot.metadata.last_included_term, self.snapshot.last_included_index
        return NO_TERM, BEFORE_LOG

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of a stored entry, or None if only a snapshot covers it, or nothing does."""
        entries = self.entries
        if entries:
            place = index - entries[0].index
            if 0 <= place < len(entries):
                return entries[place].term
        if self.snapshot is not None and index == self.snapshot_index:
            return self.snapshot.metadata.last_included_term
        return None

    def holds(self, index: LogIndex, term: Term) -> bool:
        """Say whether the entry ``index`` of ``term`` is stored, itself or within the snapshot."""
        snapshot = self.snapshot
        return (snapshot is not None and index <= snapshot.metadata.last_included_index) or self.term_at(index) == term

    def write(self, write: Write) -> None:
        """Make one write durable."""
        match write:
            case PersistEntries(entries=entries):
                first = entries[0].index
                if not self.snapshot_index < first <= self.last_index + 1:
                    _break(
                        f"an append at {first} leaves a gap or cuts into the snapshot: the disk holds "
                        f"{self.snapshot_index} to {self.last_index}"
                    )
                self._append(entries)
            case PersistHardState(hard_state=hard_state):
                self.hard_state = hard_state
            case PersistSnapshotChunk(metadata=metadata, offset=offset, data=data):
                before = b"" if offset == 0 else self._arrived(metadata)
                if offset != len(before):
                    _break(f"a chunk begins at {offset}, those before it end at {len(before)}")
                self.arriving = Snapshot(metadata, before + data)
            case PersistSnapshot(metadata=metadata, keep_from=keep_from):
                if metadata.last_included_index <= self.snapshot_index:
                    _break(
                        f"a leader's snapshot at {metadata.last_included_index} is not newer than the stored one at "
                        f"{self.snapshot_index}"
                    )
                self._replace(Snapshot(metadata, self._arrived(metadata)), keep_from)
                self.arriving = None
            case OwnSnapshot(snapshot=snapshot, keep_from=keep_from):
                # A leader's snapshot may have come in between.
                if snapshot.last_included_index > self.snapshot_index:
                    self._replace(snapshot, keep_from)

    def _arrived(self, metadata: SnapshotMetadata) -> bytes:
        if self.arriving is None or self.arriving.metadata != metadata:
            _break(f"no chunk of snapshot {metadata.snapshot_id} was stored before")
        return self.arriving.data

    def write_in_part(self, write: Write, entries: int) -> None:
        """Leave an ``append`` cut off by a crash: the old suffix is gone, some of the new entries are there."""
        if isinstance(write, PersistEntries):
            self._append(write.entries[:entries], cut_from=write.entries[0].index)

    def _append(self, entries: Sequence[Entry], cut_from: LogIndex | None = None) -> None:
        held, members = self.entries, self._members
        first = cut_from if cut_from is not None else entries[0].index
        if held:
            del held[max(0, first - held[0].index) :]
        held.extend(entries)
        while members and members[-1][0] >= first:
            members.pop()
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                members.append((entry.index, decode_configuration(entry.command)))

    def _replace(self, snapshot: Snapshot, keep_from: LogIndex | None) -> None:
        if keep_from is not None and keep_from > snapshot.last_included_index + 1:
            _break(f"the log is kept from {keep_from} on, behind a snapshot at {snapshot.last_included_index}: a gap")
        self.entries = [] if keep_from is None else [entry for entry in self.entries if entry.index >= keep_from]
        # Of what the snapshot covers its own word counts.
        self._members = configurations_in(entry for entry in self.entries if entry.index > snapshot.last_included_index)
        self.snapshot = snapshot


@attrs.define
class Machine:
    """The smallest state machine that tells two histories apart: a digest of all it was given, and the sessions."""

    index: LogIndex = BEFORE_LOG
    term: Term = NO_TERM
    digest: bytes = b""
    sessions: SessionTable = attrs.field(factory=SessionTable, eq=False)

    def apply(self, entry: Entry) -> SessionCommand | None:
        """Take one committed entry; return the command of a session that was applied with it, if one was."""
        if entry.index != self.index + 1:
            raise PropertyViolated(
                "state machine safety", f"entry {entry.index} is applied after {self.index}", "Raft Figure 3, §5.4.3"
            )
        content = b"%d %d " % (entry.term, entry.kind) + entry.command
        self.index, self.term = entry.index, entry.term
        ran = self._apply_in_session(entry) if entry.kind is EntryKind.SESSION else None
        content += b" applied" if ran is not None else b""
        self.digest = hashlib.sha256(self.digest + content).digest()[:_DIGEST_BYTES]
        return ran

    def _apply_in_session(self, entry: Entry) -> SessionCommand | None:
        """As a node does: the table says whether a command was applied before."""
        operation, stamp = decode_session_entry(entry.command)
        assert stamp is not None
        ran: list[SessionCommand] = []

        def run(command: SessionCommand) -> bytes:
            ran.append(command)
            return b""

        self.sessions.apply(entry.index, entry.term, operation, stamp, run)
        return ran[0] if ran else None

    def snapshot(self, configuration: Configuration, snapshot_id: SnapshotId) -> Snapshot:
        """Return the whole state, with the members that counted as of it."""
        return Snapshot(SnapshotMetadata(self.index, self.term, configuration, snapshot_id), self._encoded())

    def _encoded(self) -> bytes:
        return self.digest + self.sessions.encode()

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot says."""
        self.index, self.term = snapshot.last_included_index, snapshot.metadata.last_included_term
        self.digest, encoded = snapshot.data[:_DIGEST_BYTES], snapshot.data[_DIGEST_BYTES:]
        self.sessions = SessionTable.decode(encoded)


def _break(text: str) -> NoReturn:
    """Say that a core asked of its storage what no storage promises."""
    raise PropertyViolated("storage contract", text, "clustercore.interfaces.Storage")

"""What is in the tables: rows and the checksums that guard them.

SQLite checks its log but not the pages of its database file, so every row has a CRC-32 of its own. This file knows the
rows and no SQL; ``database`` moves them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from clustercore.interfaces import (
    Entry,
    HardState,
    LogCorrupt,
    LogIndex,
    MalformedConfiguration,
    MalformedEntry,
    NodeId,
    Snapshot,
    StorageIdentity,
    StoredState,
    Term,
    decode_configuration,
    decode_entry,
    encode_configuration,
)
from clustercore_sqlite.errors import ADVICE

__all__ = ["SCHEMA", "UPGRADES", "check_consistent", "entry_row", "founder_checksum", "hard_state_row", "identity_row"]
__all__ += ["read_entries", "read_hard_state", "read_identity", "read_snapshot", "snapshot_row"]

# What is written. A row that is read can hold anything: SQLite's columns take any type, and damage does not ask.
EntryRow = tuple[int, bytes, int]
IdentityRow = tuple[str, str, str, int, int]
HardStateRow = tuple[int, str | None, bool, int]
SnapshotRow = tuple[int, int, bytes, int, bytes]


def _hard_state_checksum(current_term: int, voted_for: str | None, is_founder: bool) -> int:
    # "no vote" and a vote for "" must differ. What is no founder's has the checksum that version 1 gave it.
    founder = b"\x02" if is_founder else b""
    vote = b"" if voted_for is None else b"\x01" + voted_for.encode()
    return zlib.crc32(struct.pack("<q", current_term) + founder + vote)


_IDENTITY_TABLE = """
CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT NOT NULL, incarnation TEXT NOT NULL,
    cluster_id TEXT NOT NULL, starts INTEGER NOT NULL, checksum INTEGER NOT NULL);
"""

# Whoever has seen an election of version 1 took part in founding its cluster.
_ADD_FOUNDER = """
ALTER TABLE hard_state ADD COLUMN is_founder INTEGER NOT NULL DEFAULT 0;
UPDATE hard_state SET is_founder = 1, checksum = founder_checksum(current_term, voted_for, checksum)
    WHERE current_term > 0;
"""

# One row an entry, under its own index: the suffix from an index on is one range of the tree. The table of the hard
# state always has its row, so that a lost vote cannot pass for a new node.
SCHEMA = f"""
CREATE TABLE entries (entry_index INTEGER PRIMARY KEY, encoded BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), current_term INTEGER NOT NULL, voted_for TEXT,
    checksum INTEGER NOT NULL, is_founder INTEGER NOT NULL DEFAULT 0);
CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), last_included_index INTEGER NOT NULL,
    last_included_term INTEGER NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL,
    configuration BLOB NOT NULL DEFAULT x'');
{_IDENTITY_TABLE}
INSERT INTO hard_state VALUES (1, 0, NULL, {_hard_state_checksum(0, None, False)}, 0);
"""
# The members as of a snapshot. One that an older version took names nobody, and has the checksum that it gave it.
_ADD_CONFIGURATION = "ALTER TABLE snapshot ADD COLUMN configuration BLOB NOT NULL DEFAULT x'';"
# What makes of the tables of a version those of the next one.
UPGRADES: dict[int, str] = {1: _IDENTITY_TABLE + _ADD_FOUNDER, 2: _ADD_CONFIGURATION}


def founder_checksum(current_term: int, voted_for: str | None, checksum: int) -> int:
    """Return the checksum for what was stored as no founder's and becomes one's; a wrong one stays wrong."""
    if checksum != _hard_state_checksum(current_term, voted_for, False):
        return checksum
    return _hard_state_checksum(current_term, voted_for, True)


def entry_row(entry: Entry) -> EntryRow:
    """Return the row that keeps an entry."""
    return entry.index, entry.encoded, zlib.crc32(entry.encoded)


def hard_state_row(hard_state: HardState) -> HardStateRow:
    """Return the row that keeps term and vote."""
    term, vote, is_founder = hard_state.current_term, hard_state.voted_for, hard_state.is_founder
    return term, vote, is_founder, _hard_state_checksum(term, vote, is_founder)


def identity_row(identity: StorageIdentity) -> IdentityRow:
    """Return the row that says whose storage it is."""
    values = identity.node_id, identity.incarnation, identity.cluster_id, identity.starts
    return *values, _identity_checksum(*values)


def snapshot_row(snapshot: Snapshot) -> SnapshotRow:
    """Return the row that keeps a snapshot."""
    index, term, data = snapshot.last_included_index, snapshot.last_included_term, snapshot.data
    configuration = encode_configuration(snapshot.configuration)
    return index, term, data, _snapshot_checksum(index, term, data, configuration), configuration


def read_entries(rows: Iterable[tuple[int, object, object]]) -> tuple[Entry, ...]:
    """Return the entries of rows in the order of their index.

    Raises:
        LogCorrupt: a row fails its checksum, holds no entry or another's, entries are missing between others, or
            terms go down, which no leader's log ever does.
    """
    entries: list[Entry] = []
    for index, encoded, checksum in rows:
        entry = _read_entry(index, encoded, checksum)
        if entries:
            _check_follows(entry, entries[-1])
        entries.append(entry)
    return tuple(entries)


def _read_entry(index: int, encoded: object, checksum: object) -> Entry:
    if not isinstance(encoded, bytes) or zlib.crc32(encoded) != checksum:
        raise LogCorrupt(f"log entry {index} fails its checksum; {ADVICE}")
    try:
        entry = decode_entry(encoded)
    except MalformedEntry as error:
        raise LogCorrupt(f"log entry {index} cannot be read ({error}); {ADVICE}") from error
    if entry.index != index:
        raise LogCorrupt(f"log entry {index} is stored as the one at {entry.index}; {ADVICE}")
    return entry


def _check_follows(entry: Entry, before: Entry) -> None:
    if entry.index != before.index + 1:
        raise LogCorrupt(f"log entries {before.index + 1} to {entry.index - 1} are missing; {ADVICE}")
    if entry.term < before.term:
        raise LogCorrupt(f"log entry {entry.index} has term {entry.term}, the one before {before.term}; {ADVICE}")


def read_hard_state(rows: Sequence[tuple[Any, ...]]) -> HardState:
    """Return term and vote.

    Raises:
        LogCorrupt: there is not exactly one row, or it fails its checksum.
    """
    if len(rows) != 1:
        raise LogCorrupt(f"term and vote are stored {len(rows)} times instead of once; {ADVICE}")
    term, vote, founder, checksum = rows[0]
    typed = isinstance(term, int) and (vote is None or isinstance(vote, str)) and founder in (0, 1)
    if not typed or _hard_state_checksum(term, vote, bool(founder)) != checksum:
        raise LogCorrupt(f"term and vote fail their checksum; {ADVICE}")
    return HardState(Term(term), None if vote is None else NodeId(vote), bool(founder))


def read_identity(rows: Sequence[tuple[Any, ...]]) -> StorageIdentity | None:
    """Return whose storage it is, or None if no node was started on it yet.

    Raises:
        LogCorrupt: it fails its checksum.
    """
    if not rows:
        return None
    node_id, incarnation, cluster_id, starts, checksum = rows[0]
    typed = all(isinstance(text, str) for text in (node_id, incarnation, cluster_id)) and isinstance(starts, int)
    if not typed or _identity_checksum(node_id, incarnation, cluster_id, starts) != checksum:
        raise LogCorrupt(f"what says whose storage it is fails its checksum; {ADVICE}")
    return StorageIdentity(NodeId(node_id), incarnation, starts, cluster_id)


def read_snapshot(rows: Sequence[tuple[Any, ...]]) -> Snapshot | None:
    """Return the snapshot, or None if there is none.

    Raises:
        LogCorrupt: it fails its checksum.
    """
    if not rows:
        return None
    index, term, data, checksum, configuration = rows[0]
    typed = isinstance(index, int) and isinstance(term, int)
    typed = typed and isinstance(data, bytes) and isinstance(configuration, bytes)
    if not typed or _snapshot_checksum(index, term, data, configuration) != checksum:
        raise LogCorrupt(f"the snapshot fails its checksum; {ADVICE}")
    try:
        return Snapshot(LogIndex(index), Term(term), data, decode_configuration(configuration))
    except MalformedConfiguration as error:
        raise LogCorrupt(f"the members in the snapshot cannot be read ({error}); {ADVICE}") from error


def check_consistent(state: StoredState) -> None:
    """Make sure that log and snapshot meet.

    Raises:
        LogCorrupt: entries between the two are missing, or the log ends before the snapshot does.
    """
    covered = state.snapshot.last_included_index if state.snapshot else 0
    if not state.entries:
        return
    first, last = state.entries[0].index, state.entries[-1].index
    if first > covered + 1:
        raise LogCorrupt(f"log entries {covered + 1} to {first - 1} are missing; {ADVICE}")
    if last < covered:
        raise LogCorrupt(f"the log ends at {last}, the snapshot at {covered}; {ADVICE}")


def _snapshot_checksum(index: int, term: int, data: bytes, configuration: bytes) -> int:
    return zlib.crc32(configuration, zlib.crc32(data, zlib.crc32(struct.pack("<qq", index, term))))


def _identity_checksum(node_id: str, incarnation: str, cluster_id: str, starts: int) -> int:
    texts = [text.encode() for text in (node_id, incarnation, cluster_id)]
    return zlib.crc32(b"".join(struct.pack("<q", len(text)) + text for text in texts) + struct.pack("<q", starts))

"""What is in the tables: rows and the checksums that guard them.

SQLite checks its log but not the pages of its database file, so every row has a CRC-32 of its own. This file knows the
rows and no SQL; ``database`` moves them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from clustercore.interfaces import (
    Configuration,
    Entry,
    HardState,
    LogCorrupt,
    LogIndex,
    MalformedConfiguration,
    MalformedEntry,
    NodeId,
    SnapshotId,
    SnapshotMetadata,
    StorageIdentity,
    StoredState,
    Term,
    decode_configuration,
    decode_entry,
    encode_configuration,
)
from clustercore_sqlite.errors import ADVICE

__all__ = ["IDENTITY_TABLE", "SCHEMA", "SNAPSHOT_TABLES", "StoredSnapshot", "check_consistent", "chunk_row"]
__all__ += ["entry_row", "founder_checksum", "hard_state_row", "identity_row", "read_chunk", "read_entries"]
__all__ += ["read_hard_state", "read_identity", "read_snapshot", "read_snapshot_3", "snapshot_row"]

# What is written. A row that is read can hold anything: SQLite's columns take any type, and damage does not ask.
EntryRow = tuple[int, bytes, int]
IdentityRow = tuple[str, str, str, int, int, float]
HardStateRow = tuple[int, str | None, bool, int]
SnapshotRow = tuple[int, int, bytes, str, int, int, int, int, int]
ChunkRow = tuple[int, int, bytes, int]


def _hard_state_checksum(current_term: int, voted_for: str | None, is_founder: bool) -> int:
    # "no vote" and a vote for "" must differ. What is no founder's has the checksum that version 1 gave it.
    founder = b"\x02" if is_founder else b""
    vote = b"" if voted_for is None else b"\x01" + voted_for.encode()
    return zlib.crc32(struct.pack("<q", current_term) + founder + vote)


IDENTITY_TABLE = """CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT NOT NULL,
    incarnation TEXT NOT NULL, cluster_id TEXT NOT NULL, starts INTEGER NOT NULL, checksum INTEGER NOT NULL,
    election_timeout_s REAL NOT NULL DEFAULT 0)"""


@attrs.frozen
class StoredSnapshot:
    """The row of a snapshot."""

    metadata: SnapshotMetadata
    # What its chunks are filed under.
    chunks_of: int
    # Of all its bytes: how many, and their CRC-32.
    size: int
    checksum: int
    # Where the log begins: entries below are left over. At most one past the last entry covered; 0 if all count.
    log_from: int = 0


# Chunks have numbers of their own, as rows of a mebibyte belong into a tree with small keys.
SNAPSHOT_TABLES = (
    """CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), last_included_index INTEGER NOT NULL,
    last_included_term INTEGER NOT NULL, configuration BLOB NOT NULL, snapshot_id TEXT NOT NULL,
    chunks_of INTEGER NOT NULL, size INTEGER NOT NULL, data_checksum INTEGER NOT NULL, checksum INTEGER NOT NULL,
    log_from INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE snapshot_chunks (number INTEGER PRIMARY KEY, chunks_of INTEGER NOT NULL, start INTEGER NOT NULL,
    data BLOB NOT NULL, checksum INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX snapshot_chunks_in_order ON snapshot_chunks (chunks_of, start)",
)

# One row an entry, under its own index: the suffix from an index on is one range of the tree. The table of the hard
# state always has its row, so that a lost vote cannot pass for a new node.
SCHEMA = f"""
CREATE TABLE entries (entry_index INTEGER PRIMARY KEY, encoded BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), current_term INTEGER NOT NULL, voted_for TEXT,
    checksum INTEGER NOT NULL, is_founder INTEGER NOT NULL DEFAULT 0);
{";".join(SNAPSHOT_TABLES)};
{IDENTITY_TABLE};
INSERT INTO hard_state VALUES (1, 0, NULL, {_hard_state_checksum(0, None, False)}, 0);
"""


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
    timeout_s = float(identity.election_timeout_s)
    return *values, _identity_checksum(*values, timeout_s), timeout_s


def snapshot_row(stored: StoredSnapshot) -> SnapshotRow:
    """Return the row that keeps a snapshot."""
    metadata = stored.metadata
    numbers = metadata.last_included_index, metadata.last_included_term
    configuration = encode_configuration(metadata.configuration)
    rest = stored.chunks_of, stored.size, stored.checksum
    checksum = _snapshot_checksum(*numbers, configuration, metadata.snapshot_id, *rest, log_from=stored.log_from)
    return *numbers, configuration, metadata.snapshot_id, *rest, checksum, stored.log_from


def chunk_row(chunks_of: int, start: int, data: bytes) -> ChunkRow:
    """Return the row that keeps a part of a snapshot."""
    return chunks_of, start, data, _chunk_checksum(chunks_of, start, data)


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
    node_id, incarnation, cluster_id, starts, checksum, timeout_s = rows[0]
    typed = all(isinstance(text, str) for text in (node_id, incarnation, cluster_id)) and isinstance(starts, int)
    typed = typed and isinstance(timeout_s, float)
    if not typed or _identity_checksum(node_id, incarnation, cluster_id, starts, timeout_s) != checksum:
        raise LogCorrupt(f"what says whose storage it is fails its checksum; {ADVICE}")
    return StorageIdentity(NodeId(node_id), incarnation, starts, cluster_id, timeout_s)


def read_snapshot(rows: Sequence[tuple[Any, ...]]) -> StoredSnapshot | None:
    """Return what is known of the snapshot, or None if there is none.

    Raises:
        LogCorrupt: it fails its checksum.
    """
    if not rows:
        return None
    *values, checksum, log_from = rows[0]
    index, term, configuration, snapshot_id, chunks_of, size, data_checksum = values
    typed = isinstance(configuration, bytes) and isinstance(snapshot_id, str)
    typed = typed and all(isinstance(number, int) for number in (index, term, chunks_of, size, data_checksum, log_from))
    if not typed or _snapshot_checksum(*values, log_from=log_from) != checksum:
        raise LogCorrupt(f"the snapshot fails its checksum; {ADVICE}")
    members = _read_members(configuration)
    metadata = SnapshotMetadata(LogIndex(index), Term(term), members, SnapshotId(snapshot_id))
    return StoredSnapshot(metadata, chunks_of, size, data_checksum, log_from)


def read_chunk(stored: StoredSnapshot, row: tuple[Any, ...] | None) -> tuple[int, bytes]:
    """Return where a part of a snapshot begins, and the part.

    Raises:
        LogCorrupt: it is missing or fails its checksum.
    """
    start, data, checksum = row if row is not None else (None, None, None)
    typed = isinstance(start, int) and isinstance(data, bytes)
    if not typed or _chunk_checksum(stored.chunks_of, start, data) != checksum:
        raise LogCorrupt(f"the snapshot's part at {start} fails its checksum; {ADVICE}")
    return start, data


def read_snapshot_3(rows: Sequence[tuple[Any, ...]]) -> tuple[int, int, bytes, Configuration] | None:
    """Return index, term, bytes and members of the snapshot as version 3 kept it, or None if there is none.

    One that was taken by version 1 or 2 names nobody, and has the checksum that it got then.

    Raises:
        LogCorrupt: it fails its checksum.
    """
    if not rows:
        return None
    index, term, data, checksum, configuration = rows[0]
    typed = isinstance(index, int) and isinstance(term, int)
    typed = typed and isinstance(data, bytes) and isinstance(configuration, bytes)
    if (
        not typed
        or zlib.crc32(configuration, zlib.crc32(data, zlib.crc32(struct.pack("<qq", index, term)))) != checksum
    ):
        raise LogCorrupt(f"the snapshot fails its checksum; {ADVICE}")
    return index, term, data, _read_members(configuration)


def _read_members(configuration: bytes) -> Configuration:
    try:
        return decode_configuration(configuration)
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


def _identity_checksum(node_id: str, incarnation: str, cluster_id: str, starts: int, timeout_s: float) -> int:
    texts = [text.encode() for text in (node_id, incarnation, cluster_id)]
    # Without a timeout it is what version 2 gave it.
    timeout = struct.pack("<d", timeout_s) if timeout_s else b""
    named = b"".join(struct.pack("<q", len(text)) + text for text in texts)
    return zlib.crc32(named + struct.pack("<q", starts) + timeout)


def _snapshot_checksum(
    index: int,
    term: int,
    configuration: bytes,
    snapshot_id: str,
    chunks_of: int,
    size: int,
    data_checksum: int,
    *,
    log_from: int,
) -> int:
    name = snapshot_id.encode()
    numbers = struct.pack("<7q", index, term, chunks_of, size, data_checksum, len(configuration), len(name))
    # Without a beginning of the log it is what version 4 gave it.
    begins = struct.pack("<q", log_from) if log_from else b""
    return zlib.crc32(numbers + configuration + name + begins)


def _chunk_checksum(chunks_of: int, start: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<qq", chunks_of, start)))

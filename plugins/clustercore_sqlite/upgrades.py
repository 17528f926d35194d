"""What makes of the tables of an older version those of this one.

Each step runs in one transaction with the ones after it, so a crash leaves the old tables or the new ones.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable

from clustercore.interfaces import LogIndex, SnapshotId, SnapshotMetadata, Term
from clustercore_sqlite import records
from clustercore_sqlite.records import StoredSnapshot
from clustercore_sqlite.snapshots import insert_chunk

__all__ = ["UPGRADES"]

_CHUNK_BYTES = 1 << 20

# As version 4 had them.
_SNAPSHOT_TABLES_4 = (
    """CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), last_included_index INTEGER NOT NULL,
    last_included_term INTEGER NOT NULL, configuration BLOB NOT NULL, snapshot_id TEXT NOT NULL,
    chunks_of INTEGER NOT NULL, size INTEGER NOT NULL, data_checksum INTEGER NOT NULL, checksum INTEGER NOT NULL)""",
    """CREATE TABLE snapshot_chunks (number INTEGER PRIMARY KEY, chunks_of INTEGER NOT NULL, start INTEGER NOT NULL,
    data BLOB NOT NULL, checksum INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX snapshot_chunks_in_order ON snapshot_chunks (chunks_of, start)",
)


def _identity_and_founder(connection: sqlite3.Connection) -> None:
    """Make room for whose storage it is; the node that is started on it says so.

    Whoever has seen an election of version 1 took part in founding its cluster.
    """
    connection.execute(
        "CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT NOT NULL, "
        "incarnation TEXT NOT NULL, cluster_id TEXT NOT NULL, starts INTEGER NOT NULL, checksum INTEGER NOT NULL)"
    )
    connection.execute("ALTER TABLE hard_state ADD COLUMN is_founder INTEGER NOT NULL DEFAULT 0")
    connection.create_function("founder_checksum", 3, records.founder_checksum, deterministic=True)
    connection.execute(
        "UPDATE hard_state SET is_founder = 1, checksum = founder_checksum(current_term, voted_for, checksum) "
        "WHERE current_term > 0"
    )


def _members_of_snapshot(connection: sqlite3.Connection) -> None:
    """Make room for the members as of a snapshot. One that is there names nobody, and keeps its checksum."""
    connection.execute("ALTER TABLE snapshot ADD COLUMN configuration BLOB NOT NULL DEFAULT x''")


def _snapshot_in_chunks(connection: sqlite3.Connection) -> None:
    """Split a snapshot that was one value. It has no name yet, and others with the same bytes may have the same."""
    rows = connection.execute(
        "SELECT last_included_index, last_included_term, data, checksum, configuration FROM snapshot"
    ).fetchall()
    found = records.read_snapshot_3(rows)
    connection.execute("DROP TABLE snapshot")
    for statement in _SNAPSHOT_TABLES_4:
        connection.execute(statement)
    if found is None:
        return
    index, term, data, members = found
    name = SnapshotId(f"upgraded-{index}-{term}-{hashlib.sha256(data).hexdigest()}")
    for start in range(0, len(data), _CHUNK_BYTES):
        insert_chunk(connection, 1, start, data[start : start + _CHUNK_BYTES])
    metadata = SnapshotMetadata(LogIndex(index), Term(term), members, name)
    *row, _ = records.snapshot_row(StoredSnapshot(metadata, 1, len(data), zlib.crc32(data)))
    connection.execute("INSERT INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _election_timeout(connection: sqlite3.Connection) -> None:
    """Make room for the election timeout. None is known, and the identity that is there keeps its checksum."""
    connection.execute("ALTER TABLE identity ADD COLUMN election_timeout_s REAL NOT NULL DEFAULT 0")


def _beginning_of_log(connection: sqlite3.Connection) -> None:
    """Make room for where the log begins. All of it counts, and the snapshot that is there keeps its checksum."""
    connection.execute("ALTER TABLE snapshot ADD COLUMN log_from INTEGER NOT NULL DEFAULT 0")


# By the version they start from.
UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _identity_and_founder,
    2: _members_of_snapshot,
    3: _snapshot_in_chunks,
    4: _election_timeout,
    5: _beginning_of_log,
}

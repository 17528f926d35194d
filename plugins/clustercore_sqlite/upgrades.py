"""What makes of the tables of an older version those of this one.

Each step runs in one transaction with the ones after it, so a crash leaves the old tables or the new ones.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable

from clustercore.interfaces import Configuration, LogIndex, SnapshotId, SnapshotMetadata, Term
from clustercore_sqlite import records
from clustercore_sqlite.records import StoredSnapshot
from clustercore_sqlite.snapshots import insert_chunk, insert_snapshot

__all__ = ["UPGRADES"]

_CHUNK_BYTES = 1 << 20


def _identity(connection: sqlite3.Connection) -> None:
    """Make room for whose storage it is; the node that is started on it says so."""
    connection.execute(records.IDENTITY_TABLE)


def _snapshot_in_chunks(connection: sqlite3.Connection) -> None:
    """Split a snapshot that was one value. It knew no members, and has no name; any that is this file's own will do."""
    rows = connection.execute("SELECT last_included_index, last_included_term, data, checksum FROM snapshot").fetchall()
    found = records.read_snapshot_1(rows)
    connection.execute("DROP TABLE snapshot")
    for statement in records.SNAPSHOT_TABLES:
        connection.execute(statement)
    if found is None:
        return
    index, term, data = found
    checksum = zlib.crc32(data)
    metadata = SnapshotMetadata(
        LogIndex(index), Term(term), Configuration(), SnapshotId(f"upgraded-{index}-{term}-{checksum:08x}")
    )
    for start in range(0, len(data), _CHUNK_BYTES):
        insert_chunk(connection, 1, start, data[start : start + _CHUNK_BYTES])
    insert_snapshot(connection, StoredSnapshot(metadata, 1, len(data), checksum))


# By the version they start from.
UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {1: _identity, 2: _snapshot_in_chunks}

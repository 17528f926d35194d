"""The tables of snapshots, and every SQL statement on them.

A snapshot is one row in ``snapshot``, of which there is at most one, and its bytes are rows in ``snapshot_chunks``, as
they were written. One that is being stored has only chunks: the row that makes them a snapshot is written by the
transaction that installs it. So chunks that no row names are left over, be it from a snapshot that was replaced, given
up, or cut off by a crash. They are deleted a few at a time, with each chunk that is written: to delete gigabytes in one
transaction would hold up the node's log for seconds, and their space serves the next snapshot. When the file is opened
nobody waits for a log yet, and all of them go.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter

import attrs

from clustercore.interfaces import InvariantError, LogCorrupt, SnapshotId, SnapshotMetadata
from clustercore_sqlite import records
from clustercore_sqlite.errors import ADVICE
from clustercore_sqlite.records import StoredSnapshot

__all__ = ["SnapshotTables"]

# Chunks without a snapshot that are deleted with each one written. More than one, so that they get fewer.
_DELETED_PER_CHUNK = 2
# The same in one transaction while the file is opened.
_DELETED_PER_STEP = 64


@attrs.define
class _Draft:
    """A snapshot that is being stored."""

    metadata: SnapshotMetadata
    # What its chunks are filed under.
    chunks_of: int
    size: int = 0
    checksum: int = 0


class SnapshotTables:
    """The snapshots of one database. The caller sees to transactions that span more than one call."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # By snapshot_id.
        self._drafts: dict[SnapshotId, _Draft] = {}
        # How many readers are open on which chunks.
        self._readers: Counter[int] = Counter()
        # What the stored snapshot's chunks are filed under; 0 without one.
        (self._installed,) = connection.execute("SELECT coalesce(max(chunks_of), 0) FROM snapshot").fetchone()
        (last,) = connection.execute("SELECT max(chunks_of) FROM snapshot_chunks").fetchone()
        # What the next draft's chunks are filed under: never used before, or chunks left over would pass for its own.
        self._next = max(last or 0, self._installed) + 1

    def load(self) -> StoredSnapshot | None:
        """Read and check what is known of the stored snapshot, and that its chunks are there."""
        rows = self._connection.execute(
            "SELECT last_included_index, last_included_term, configuration, snapshot_id, chunks_of, size, "
            "data_checksum, checksum, log_from FROM snapshot"
        ).fetchall()
        stored = records.read_snapshot(rows)
        if stored is not None:
            (size,) = self._connection.execute(
                "SELECT coalesce(sum(length(data)), 0) FROM snapshot_chunks WHERE chunks_of = ?", (stored.chunks_of,)
            ).fetchone()
            if size != stored.size:
                raise LogCorrupt(f"the snapshot has {size} bytes, it must have {stored.size}; {ADVICE}")
        return stored

    # -- Writing --

    def check_chunk(self, metadata: SnapshotMetadata, offset: int) -> None:
        """Make sure that a chunk follows those of its draft; at offset 0 the draft begins anew."""
        draft = self._drafts.get(metadata.snapshot_id)
        if offset == 0:
            draft = self._drafts[metadata.snapshot_id] = _Draft(metadata, self._next)
            self._next += 1
        if draft is None or draft.metadata != metadata or draft.size != offset:
            raise InvariantError(
                f"a part of snapshot {metadata.snapshot_id} at {offset} does not follow those before, to "
                f"{draft.size if draft else 0}; this is a bug in clustercore"
            )

    def write_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        """Add a chunk that was checked."""
        draft = self._drafts[metadata.snapshot_id]
        self._delete_left_over(_DELETED_PER_CHUNK)
        insert_chunk(self._connection, draft.chunks_of, offset, data)
        draft.size += len(data)
        draft.checksum = zlib.crc32(data, draft.checksum)

    def draft_of(self, metadata: SnapshotMetadata) -> StoredSnapshot:
        """Return the draft as it is to be installed."""
        draft = self._drafts.get(metadata.snapshot_id)
        if draft is None or draft.metadata != metadata:
            raise InvariantError(
                f"snapshot {metadata.snapshot_id} cannot be installed, as no part of it was written; this is a bug in "
                "clustercore"
            )
        return StoredSnapshot(metadata, draft.chunks_of, draft.size, draft.checksum)

    def install(self, stored: StoredSnapshot) -> None:
        """Name the draft's chunks in the row that makes them the snapshot."""
        insert_snapshot(self._connection, stored)

    def installed(self, stored: StoredSnapshot) -> None:
        """Note that ``install`` is committed."""
        covered = stored.metadata.last_included_index
        self._installed = stored.chunks_of
        self._drafts = {
            snapshot_id: draft
            for snapshot_id, draft in self._drafts.items()
            if draft.metadata.last_included_index > covered
        }

    def discard(self, snapshot_id: SnapshotId) -> None:
        """Forget a draft; its chunks are left over."""
        self._drafts.pop(snapshot_id, None)

    def delete_left_over(self) -> bool:
        """Delete some chunks that nothing uses, as a part of opening; return False when there was none."""
        return self._delete_left_over(_DELETED_PER_STEP) > 0

    def _delete_left_over(self, count: int) -> int:
        in_use = {self._installed, *self._readers, *(draft.chunks_of for draft in self._drafts.values())}
        marks = ", ".join("?" * len(in_use))
        unused = f"SELECT number FROM snapshot_chunks WHERE chunks_of NOT IN ({marks}) LIMIT {count}"
        deletion = self._connection.execute(f"DELETE FROM snapshot_chunks WHERE number IN ({unused})", tuple(in_use))
        return deletion.rowcount

    # -- Reading --

    def pin(self, stored: StoredSnapshot) -> None:
        """Keep a snapshot's chunks, whatever is installed."""
        self._readers[stored.chunks_of] += 1

    def unpin(self, stored: StoredSnapshot) -> None:
        """End what ``pin`` began."""
        self._readers[stored.chunks_of] -= 1
        self._readers += Counter()

    def read(self, stored: StoredSnapshot, offset: int) -> bytes:
        """Read and check the chunk that holds the byte at ``offset``, which is below the size; return it from there."""
        row = self._connection.execute(
            "SELECT start, data, checksum FROM snapshot_chunks WHERE chunks_of = ? AND start <= ? "
            "ORDER BY start DESC LIMIT 1",
            (stored.chunks_of, offset),
        ).fetchone()
        start, data = records.read_chunk(stored, row)
        if offset >= start + len(data):
            raise LogCorrupt(f"bytes {start + len(data)} to {offset} of the snapshot are missing; {ADVICE}")
        return data[offset - start :]


def insert_chunk(connection: sqlite3.Connection, chunks_of: int, start: int, data: bytes) -> None:
    """Write one chunk."""
    connection.execute(
        "INSERT INTO snapshot_chunks (chunks_of, start, data, checksum) VALUES (?, ?, ?, ?)",
        records.chunk_row(chunks_of, start, data),
    )


def insert_snapshot(connection: sqlite3.Connection, stored: StoredSnapshot) -> None:
    """Write the row of the stored snapshot in place of the one before."""
    connection.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", records.snapshot_row(stored)
    )

"""The tables of a storage, and every SQL statement on them but those on snapshots.

Everything here blocks, and is called from one thread at a time; ``guarded`` sees to both. It raises sqlite3.Error and
OSError as they come. What is so with every file of ours is in ``database_file``.

*One statement a batch.* Rows go in by one INSERT with many rows, not by ``executemany``: each step of a statement gives
up the GIL and has to win it back, once a row; and a single INSERT is its own transaction, without BEGIN and COMMIT.
Medians of 1 / 64 / 512 rows of 64 B: 294 / 375 / 803 us, and 289 / 400 / 1,035 us with ``executemany``
(``benchmarks/storage_writes.py``); beside a busy event loop, 247 / 356 / 703 us and 287 / 409 / 1,034 us.

*The log is dropped little by little.* To delete a row of more than a page SQLite reads all of its pages. To drop a log
of a gibibyte in the transaction that installs a snapshot would take a second, and 2.7 s where the file is not in
memory: so long the node would write nothing, and a leader take its disk for stalled and hand over. So the row of the
snapshot says where the log begins, and entries below are left over: they are deleted with those that are appended,
about twice as much, and when the file is opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs

from clustercore.interfaces import (
    Entry,
    HardState,
    InvariantError,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    StorageIdentity,
    StoredState,
)
from clustercore_sqlite import files, records
from clustercore_sqlite.database_file import DatabaseFile
from clustercore_sqlite.records import StoredSnapshot
from clustercore_sqlite.snapshots import SnapshotTables
from clustercore_sqlite.upgrades import UPGRADES

__all__ = ["Database"]

# What a commit adds to the log beyond the rows themselves: the last page of the table is written again each time.
_COMMIT_OVERHEAD_BYTES = 4096 + 24
# What a row takes in a page beside the encoded entry: its header, index and checksum.
_ROW_OVERHEAD_BYTES = 16
# Rows of one INSERT; larger batches take several. SQLite before 3.32 allowed 999 parameters a statement, three a row.
_MAX_ROWS = 256

# Entries below the beginning of the log that are deleted with each append: of so many bytes, and twice what is
# appended, so that they get fewer. And in one transaction while the file is opened.
_DELETED_PER_APPEND_BYTES = 128 << 10
_DELETED_PER_STEP_BYTES = 16 << 20
# Of so many rows at most: a thousand are deleted in a millisecond.
_MAX_DELETED_ROWS = 1024


class Database(DatabaseFile):
    """The tables of one storage."""

    form = files.STORAGE_FORMAT

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: ExitStack) -> None:
        super().__init__(path, connection, resources)
        # The end of the log, or of the snapshot if no entry follows it. An entry can be appended at most one past it.
        self._last_index = 0
        # The last entry the snapshot covers; 0 without one. Entries up to it are never written again.
        self._covered_index = 0
        # Where the log begins. Entries below are left over, and there may be some.
        self._log_from = 0
        self._may_have_left_over = False
        # Set when the file is open and its tables are those of this version.
        self._snapshots: SnapshotTables

    def _prepare(self) -> None:
        self._upgrade()
        self._read_bounds()

    def _upgrade(self) -> None:
        """Bring the tables of an older version up to date, in one step: a crash leaves the old ones or the new."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == files.FORMAT_VERSION:
            return
        with self._transaction(needed=True):
            for older in range(version, files.FORMAT_VERSION):
                UPGRADES[older](self._connection)
            self._connection.execute(f"PRAGMA user_version={files.FORMAT_VERSION}")
        # The header is read from the database file itself, by whoever opens it next.
        self._checkpoint()

    def _read_bounds(self) -> None:
        self._snapshots = SnapshotTables(self._connection)
        # Before anything is deleted by what its row says, the row is checked.
        stored = self._snapshots.load()
        while self._snapshots.delete_left_over():
            self._checkpoint()
        if stored is not None:
            self._covered_index = stored.metadata.last_included_index
            self._begin_log_at(stored.log_from)
        while self._delete_left_over(_DELETED_PER_STEP_BYTES):
            self._checkpoint()
        (last,) = self._connection.execute("SELECT max(entry_index) FROM entries").fetchone()
        self._last_index = max(last or 0, self._covered_index)

    def _begin_log_at(self, index: int) -> None:
        self._log_from = index
        self._may_have_left_over = True

    def _delete_left_over(self, max_bytes: int) -> bool:
        """Delete entries below where the log begins, the oldest first, and one at least; return whether there was any.

        A crash in between leaves fewer of them. They are never read, and never written again.
        """
        if not self._may_have_left_over:
            return False
        rows = self._connection.execute(
            "SELECT entry_index, length(encoded) FROM entries WHERE entry_index < ? ORDER BY entry_index LIMIT ?",
            (self._log_from, _MAX_DELETED_ROWS),
        ).fetchall()
        last, size = 0, 0
        for last, row_bytes in rows:  # noqa: B007 - the one it stops at is used
            size += row_bytes
            if size >= max_bytes:
                break
        self._connection.execute("DELETE FROM entries WHERE entry_index <= ?", (last,))
        self._may_have_left_over = bool(rows)
        return self._may_have_left_over

    # -- Reading --

    def load(self) -> StoredState:
        """Read and check every row."""
        snapshot = self._snapshots.load()
        state = StoredState(
            self._load_hard_state(),
            None if snapshot is None else snapshot.metadata,
            records.read_entries(
                self._connection.execute(
                    "SELECT entry_index, encoded, checksum FROM entries WHERE entry_index >= ? ORDER BY entry_index",
                    (self._log_from,),
                )
            ),
            records.read_identity(
                self._connection.execute(
                    "SELECT node_id, incarnation, cluster_id, starts, checksum, election_timeout_s FROM identity"
                ).fetchall()
            ),
        )
        records.check_consistent(state)
        return state

    def _load_hard_state(self) -> HardState:
        return records.read_hard_state(
            self._connection.execute("SELECT current_term, voted_for, is_founder, checksum FROM hard_state").fetchall()
        )

    def open_snapshot(self) -> StoredSnapshot | None:
        """Find the stored snapshot, and keep it until ``close_snapshot``."""
        stored = self._snapshots.load()
        if stored is not None:
            self._snapshots.pin(stored)
        return stored

    def read_snapshot(self, stored: StoredSnapshot, offset: int) -> bytes:
        """Read a part of an open snapshot."""
        return self._snapshots.read(stored, offset)

    def close_snapshot(self, stored: StoredSnapshot) -> None:
        """End what ``open_snapshot`` began."""
        self._snapshots.unpin(stored)

    # -- Writing --

    def save_identity(self, identity: StorageIdentity) -> None:
        """Say whose storage it is."""
        self._connection.execute(
            "INSERT OR REPLACE INTO identity VALUES (1, ?, ?, ?, ?, ?, ?)", records.identity_row(identity)
        )
        self._wrote(_COMMIT_OVERHEAD_BYTES)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace term and vote."""
        self._connection.execute(
            "UPDATE hard_state SET current_term = ?, voted_for = ?, is_founder = ?, checksum = ?",
            records.hard_state_row(hard_state),
        )
        self._wrote(_COMMIT_OVERHEAD_BYTES)

    def append(self, entries: Sequence[Entry]) -> None:
        """Replace the log from the first entry's index on."""
        self._check_appendable(entries)
        first = entries[0].index
        replaces = first <= self._last_index
        row_bytes = sum(len(entry.encoded) + _ROW_OVERHEAD_BYTES for entry in entries)
        is_one_statement = not (replaces or self._may_have_left_over) and _fits_one_statement(len(entries))
        with self._transaction(needed=not is_one_statement):
            if replaces:
                self._connection.execute("DELETE FROM entries WHERE entry_index >= ?", (first,))
            self._delete_left_over(_DELETED_PER_APPEND_BYTES + 2 * row_bytes)
            self._insert(entries)
        self._last_index = entries[-1].index
        self._wrote(row_bytes + _COMMIT_OVERHEAD_BYTES)

    def _insert(self, entries: Sequence[Entry]) -> None:
        position = 0
        while position < len(entries):
            size = _statement_rows(len(entries) - position)
            values: list[int | bytes] = []
            for entry in entries[position : position + size]:
                values += records.entry_row(entry)
            self._connection.execute(_INSERTS[size], values)
            position += size

    def _check_appendable(self, entries: Sequence[Entry]) -> None:
        if not entries:
            raise InvariantError("append was called without entries; this is a bug in clustercore")
        first = entries[0].index
        if not self._covered_index < first <= self._last_index + 1:
            raise InvariantError(
                f"entry {first} cannot be appended to {self._path}: the snapshot ends at {self._covered_index}, the "
                f"log at {self._last_index}; this is a bug in clustercore"
            )
        for offset, entry in enumerate(entries):
            if entry.index != first + offset:
                raise InvariantError(
                    f"entry {entry.index} follows {first + offset - 1} in one append; this is a bug in clustercore"
                )

    def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        """Add a part to a snapshot that is being stored."""
        self._snapshots.check_chunk(metadata, offset)
        with self._transaction(needed=True):
            self._snapshots.write_chunk(metadata, offset, data)
        self._wrote(len(data) + _COMMIT_OVERHEAD_BYTES)

    def install_snapshot(self, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
        """Put a snapshot in place of the stored one, and drop the log below ``keep_from``, or all of it."""
        self._check_snapshot(metadata, keep_from)
        covered = metadata.last_included_index
        # What is left over from before is dropped already, and may be of another leader, or end before the log begins.
        log_from = covered + 1 if keep_from is None else max(keep_from, self._log_from)
        stored = attrs.evolve(self._snapshots.draft_of(metadata), log_from=log_from)
        with self._transaction(needed=True):
            self._snapshots.install(stored)
            if keep_from is None:
                # What contradicts the snapshot's leader. None of it was ever committed, so there is little of it.
                self._connection.execute("DELETE FROM entries WHERE entry_index > ?", (covered,))
        self._snapshots.installed(stored)
        self._begin_log_at(log_from)
        self._covered_index = covered
        self._last_index = self._covered_index if keep_from is None else max(self._last_index, self._covered_index)
        self._wrote(_COMMIT_OVERHEAD_BYTES)

    def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Forget a snapshot that is being stored."""
        self._snapshots.discard(snapshot_id)

    def _check_snapshot(self, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
        covered = metadata.last_included_index
        if covered <= self._covered_index:
            raise InvariantError(
                f"a snapshot up to {covered} cannot replace the one up to {self._covered_index} in {self._path}; "
                "this is a bug in clustercore"
            )
        if keep_from is None:
            return
        if keep_from > covered + 1 or keep_from <= self._last_index < covered:
            raise InvariantError(
                f"keeping the log from {keep_from} beside a snapshot up to {covered} would leave a gap: the log in "
                f"{self._path} ends at {self._last_index}; this is a bug in clustercore"
            )


def _statement_rows(count: int) -> int:
    """Return how many of ``count`` rows the next INSERT takes: a power of two, so that a few statements do for all."""
    return min(_MAX_ROWS, 1 << (count.bit_length() - 1))


def _fits_one_statement(count: int) -> bool:
    return _statement_rows(count) == count


def _insert_statement(rows: int) -> str:
    return "INSERT INTO entries VALUES " + ", ".join(["(?, ?, ?)"] * rows)


_INSERTS: dict[int, str] = {1 << bit: _insert_statement(1 << bit) for bit in range(_MAX_ROWS.bit_length())}

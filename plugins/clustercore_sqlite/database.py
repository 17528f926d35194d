"""One open database file, and every SQL statement of the plugin but those on snapshots.

Everything here blocks, and is called from one thread at a time; ``storage`` sees to both. It raises sqlite3.Error and
OSError as they come.

*Durability.* WAL with synchronous=FULL syncs the log at every commit, and before the log is used again from its start
(sqlite.org/pragma.html#pragma_synchronous, sqlite.org/wal.html). NORMAL would sync at checkpoints only and lose commits
in a power cut. Settings are read back, since SQLite answers one that it cannot make with the old value, not an error.

*One statement a batch.* Rows go in by one INSERT with many rows, not by ``executemany``: each step of a statement gives
up the GIL and has to win it back, once a row; and a single INSERT is its own transaction, without BEGIN and COMMIT.
Medians of 1 / 64 / 512 rows of 64 B: 294 / 375 / 803 us, and 289 / 400 / 1,035 us with ``executemany``
(``benchmarks/storage_writes.py``); beside a busy event loop, 247 / 356 / 703 us and 287 / 409 / 1,034 us.

*Checkpoints are ours.* SQLite's own (wal_autocheckpoint) ignores every error, a failed fsync of the database file too.
Here they run after the commit that brings the log to about 4 MiB, in the same call, and their error is the call's. That
call takes 6-7 ms longer (1,000 pages and two syncs, on a disk that syncs in 0.2 ms); 1 MiB would take 2 ms four times
as often. The log is then used again from its start. It keeps its length, because overwriting a file is cheaper to
sync than growing one; journal_size_limit only takes back what a large snapshot made of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clustercore.interfaces import (
    Entry,
    HardState,
    InvariantError,
    LogCorrupt,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    StorageError,
    StorageIdentity,
    StoredState,
)
from clustercore_sqlite import files, records, wal
from clustercore_sqlite.errors import ADVICE
from clustercore_sqlite.records import StoredSnapshot
from clustercore_sqlite.snapshots import SnapshotTables
from clustercore_sqlite.upgrades import UPGRADES

__all__ = ["Database"]

# Checkpoint when the log has grown by about this much since the last one.
CHECKPOINT_BYTES = 4 << 20
# Twice that: the log's usual length is never cut off.
_LOG_LIMIT_BYTES = 8 << 20
# What a commit adds to the log beyond the rows themselves: the last page of the table is written again each time.
_COMMIT_OVERHEAD_BYTES = 4096 + 24
# What a row takes in a page beside the encoded entry: its header, index and checksum.
_ROW_OVERHEAD_BYTES = 16
# Rows of one INSERT; larger batches take several. SQLite before 3.32 allowed 999 parameters a statement, three a row.
_MAX_ROWS = 256


class Database:
    """The tables of one storage."""

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: ExitStack) -> None:
        self._path = path
        self._connection = connection
        self._resources = resources
        self._log_bytes = 0
        # The end of the log, or of the snapshot if no entry follows it. An entry can be appended at most one past it.
        self._last_index = 0
        # The last entry the snapshot covers; 0 without one. Entries up to it are never written again.
        self._covered_index = 0
        # Set when the file is open and its tables are those of this version.
        self._snapshots: SnapshotTables

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the file for this object alone, making it if there is none, and check its integrity.

        The check reads the whole file: 50 ms for each 100 MB that the system has cached, else as fast as the disk is.

        Raises:
            StorageError: another storage has it, or it is of a newer version.
            LogCorrupt: it is damaged or no storage of ours.
            sqlite3.Error, OSError: as they come.
        """
        with ExitStack() as resources:
            resources.enter_context(files.own(path))
            if not path.exists():
                files.create(path, records.SCHEMA)
            files.check_header(path)
            files.sync_directory(path)
            # Threads of Trio's cache take turns, so the connection may not insist on one.
            connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            resources.callback(connection.close)
            database = cls(path, connection, resources)
            database._configure()
            database._check_integrity()
            database._upgrade()
            database._read_bounds()
            database._resources = resources.pop_all()
            return database

    def close(self) -> None:
        """Give the file back. SQLite takes the chance of a checkpoint, which copies only what was committed."""
        self._resources.close()

    def _configure(self) -> None:
        # EXCLUSIVE, set before the first read, keeps the index of the log in memory instead of a shared file and
        # asks for no lock at each commit. It also keeps out those who do not know our lock file: the sqlite3 shell.
        self._set("locking_mode", "exclusive")
        self._set("journal_mode", "wal")
        self._set("synchronous", 2, to="FULL")
        # On macOS an ordinary fsync leaves the data in the drive's cache. Elsewhere these two do nothing.
        self._set("fullfsync", 1)
        self._set("checkpoint_fullfsync", 1)
        self._set("wal_autocheckpoint", 0)
        self._set("journal_size_limit", _LOG_LIMIT_BYTES)
        # Some builds overwrite deleted rows with zeros, which makes dropping the log cost as much as writing it.
        self._set("secure_delete", 0)

    def _set(self, pragma: str, expected: str | int, *, to: str | None = None) -> None:
        self._connection.execute(f"PRAGMA {pragma}={to or expected}")
        (actual,) = self._connection.execute(f"PRAGMA {pragma}").fetchone()
        if actual != expected:
            raise StorageError(
                f"{self._path}: SQLite {sqlite3.sqlite_version} has {pragma}={actual}, expected {expected}; "
                "the file's promises depend on it. Is it on a network file system?"
            )

    def _check_integrity(self) -> None:
        recovered_frames = self._checkpoint()
        (page_size,) = self._connection.execute("PRAGMA page_size").fetchone()
        log_path = files.log_path(self._path)
        if wal.find_damage(log_path, page_size=page_size, recovered_frames=recovered_frames):
            raise LogCorrupt(
                f"{log_path} is damaged after frame {recovered_frames}, and commits behind that are lost; {ADVICE}"
            )
        faults = [fault for (fault,) in self._connection.execute("PRAGMA quick_check(3)")]
        if faults != ["ok"]:
            raise LogCorrupt(f"{self._path} is damaged: {'; '.join(faults)}; {ADVICE}")

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
        while self._snapshots.delete_left_over():
            self._checkpoint()
        (covered,) = self._connection.execute("SELECT max(last_included_index) FROM snapshot").fetchone()
        (last,) = self._connection.execute("SELECT max(entry_index) FROM entries").fetchone()
        self._covered_index = covered or 0
        self._last_index = max(last or 0, self._covered_index)

    # -- Reading --

    def load(self) -> StoredState:
        """Read and check every row."""
        snapshot = self._snapshots.load()
        state = StoredState(
            self._load_hard_state(),
            None if snapshot is None else snapshot.metadata,
            records.read_entries(
                self._connection.execute("SELECT entry_index, encoded, checksum FROM entries ORDER BY entry_index")
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
        with self._transaction(needed=replaces or not _fits_one_statement(len(entries))):
            if replaces:
                self._connection.execute("DELETE FROM entries WHERE entry_index >= ?", (first,))
            self._insert(entries)
        self._last_index = entries[-1].index
        row_bytes = sum(len(entry.encoded) + _ROW_OVERHEAD_BYTES for entry in entries)
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
        stored = self._snapshots.draft_of(metadata)
        with self._transaction(needed=True):
            self._snapshots.install(stored)
            if keep_from is None:
                self._connection.execute("DELETE FROM entries")
            else:
                self._connection.execute("DELETE FROM entries WHERE entry_index < ?", (keep_from,))
        self._snapshots.installed(stored)
        self._covered_index = metadata.last_included_index
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

    @contextmanager
    def _transaction(self, *, needed: bool) -> Iterator[None]:
        """Make the block one transaction; a single statement is one by itself."""
        if not needed:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        # After an error nothing is rolled back here: the storage is used no more, and closing it does.
        yield
        self._connection.execute("COMMIT")

    def _wrote(self, count: int) -> None:
        self._log_bytes += count
        if self._log_bytes >= CHECKPOINT_BYTES:
            self._checkpoint()

    def _checkpoint(self) -> int:
        """Copy the committed pages of the log into the database file; return how many frames the log has."""
        row: tuple[int, int, int] = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        busy, frames, moved = row
        if busy or moved != frames:
            raise StorageError(f"{self._path}: a checkpoint stopped at frame {moved} of {frames}; who else reads it?")
        self._log_bytes = 0
        return max(frames, 0)


def _statement_rows(count: int) -> int:
    """Return how many of ``count`` rows the next INSERT takes: a power of two, so that a few statements do for all."""
    return min(_MAX_ROWS, 1 << (count.bit_length() - 1))


def _fits_one_statement(count: int) -> bool:
    return _statement_rows(count) == count


def _insert_statement(rows: int) -> str:
    return "INSERT INTO entries VALUES " + ", ".join(["(?, ?, ?)"] * rows)


_INSERTS: dict[int, str] = {1 << bit: _insert_statement(1 << bit) for bit in range(_MAX_ROWS.bit_length())}

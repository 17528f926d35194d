"""One open database file: its settings, its integrity, transactions and checkpoints; it knows no table.

Everything here blocks, and is called from one thread at a time; ``guarded`` sees to both. It raises sqlite3.Error and
OSError as they come.

*Durability.* WAL with synchronous=FULL syncs the log at every commit, and before the log is used again from its start
(sqlite.org/pragma.html#pragma_synchronous, sqlite.org/wal.html). NORMAL would sync at checkpoints only and lose commits
in a power cut. Settings are read back, since SQLite answers one that it cannot make with the old value, not an error.

*Checkpoints are ours.* SQLite's own (wal_autocheckpoint) ignores every error, a failed fsync of the database file too.
Here they run after the commit that brings the log to about 4 MiB, in the same call, and their error is the call's. That
call takes 6-7 ms longer (1,000 pages and two syncs, on a disk that syncs in 0.2 ms); 1 MiB would take 2 ms four times
as often. The log is then used again from its start. It keeps its length, because overwriting a file is cheaper to
sync than growing one; journal_size_limit only takes back what a large snapshot made of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Self

from clustercore.interfaces import LogCorrupt, StorageError
from clustercore_sqlite import files, wal
from clustercore_sqlite.files import FileFormat

__all__ = ["DatabaseFile"]

# Checkpoint when the log has grown by about this much since the last one.
CHECKPOINT_BYTES = 4 << 20
# Twice that: the log's usual length is never cut off.
_LOG_LIMIT_BYTES = 8 << 20


class DatabaseFile:
    """A file of ours, open for this object alone."""

    form: ClassVar[FileFormat]

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: ExitStack) -> None:
        self._path = path
        self._connection = connection
        self._resources = resources
        self._log_bytes = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file for this object alone, making it if there is none, and check its integrity.

        The check reads the whole file: 50 ms for each 100 MB that the system has cached, else as fast as the disk is.

        Raises:
            StorageError: another storage has it, or it is of a newer version.
            LogCorrupt: it is damaged or not of this kind.
            sqlite3.Error, OSError: as they come.
        """
        with ExitStack() as resources:
            resources.enter_context(files.own(path))
            if not path.exists():
                files.create(path, cls.form)
            files.check_header(path, cls.form)
            files.sync_directory(path)
            # Threads of Trio's cache take turns, so the connection may not insist on one.
            connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            resources.callback(connection.close)
            database = cls(path, connection, resources)
            database._configure()
            database._check_integrity()
            database._prepare()
            database._resources = resources.pop_all()
            return database

    def close(self) -> None:
        """Give the file back. SQLite takes the chance of a checkpoint, which copies only what was committed."""
        self._resources.close()

    def _prepare(self) -> None:
        """Get the tables ready. Called when the file is known to be sound."""

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
                f"{log_path} is damaged after frame {recovered_frames}, and commits behind that are lost; "
                f"{self.form.advice}"
            )
        faults = [fault for (fault,) in self._connection.execute("PRAGMA quick_check(3)")]
        if faults != ["ok"]:
            raise LogCorrupt(f"{self._path} is damaged: {'; '.join(faults)}; {self.form.advice}")

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

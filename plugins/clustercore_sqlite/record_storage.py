"""The record contract over one SQLite file: a table of keys and values, each row with a checksum of its own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from clustercore.interfaces import InvariantError, LogCorrupt, RecordStorage
from clustercore_sqlite.database_file import DatabaseFile
from clustercore_sqlite.files import FileFormat
from clustercore_sqlite.guarded import GuardedFile

__all__ = ["SqliteRecords"]

_MAX_KEY_BYTES = 1024
# What a row and a commit add to the log beyond the bytes of the record, about.
_ROW_OVERHEAD_BYTES = 24
_COMMIT_OVERHEAD_BYTES = 4096 + 24
_ADVICE = (
    "remove the file and start again: the node then gets everything from the others, but for what it had not told "
    "any of them"
)


class _RecordTable(DatabaseFile):
    # "ClRe".
    form = FileFormat(
        0x436C5265,
        1,
        "CREATE TABLE records (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;",
        _ADVICE,
    )

    def load(self) -> dict[bytes, bytes]:
        """Read and check every row."""
        records = {}
        for key, value, checksum in self._connection.execute("SELECT key, value, checksum FROM records"):
            if not isinstance(key, bytes) or not isinstance(value, bytes) or _checksum(key, value) != checksum:
                raise LogCorrupt(f"a record in {self._path} fails its checksum; {_ADVICE}")
            records[key] = value
        return records

    def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Write and remove rows, in one transaction."""
        put = [(key, value, _checksum(key, value)) for key, value in changes.items() if value is not None]
        gone = [(key,) for key, value in changes.items() if value is None]
        with self._transaction(needed=True):
            if put:
                self._connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", put)
            if gone:
                self._connection.executemany("DELETE FROM records WHERE key = ?", gone)
        row_bytes = sum(len(key) + len(value or b"") + _ROW_OVERHEAD_BYTES for key, value in changes.items())
        self._wrote(row_bytes + _COMMIT_OVERHEAD_BYTES)


class SqliteRecords(GuardedFile[_RecordTable], RecordStorage):
    """Keeps records in one SQLite file.

    Args:
        path: The database file. It is made if it does not exist; its directory must. Beside it appear ``<path>-wal``,
            which belongs to the data and must be copied with it, and ``<path>-lock``. It is not the file of the node's
            storage: that one holds the vote and the log, and a damaged one is another matter.

    Durability: as the contract says, on a disk that does what fsync asks.
    Errors: every one that a file or SQLite raises is a StorageError. After the first, each later call raises
    StorageError without touching the disk.
    """

    database_class = _RecordTable

    async def load(self) -> dict[bytes, bytes]:
        return await self._run(_RecordTable.load)

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        if not changes or not all(1 <= len(key) <= _MAX_KEY_BYTES for key in changes):
            raise InvariantError(f"a commit has one record or more, under keys of 1 to {_MAX_KEY_BYTES} bytes")
        # The caller may go on with its own when this is cancelled.
        copied = dict(changes)
        await self._run(lambda table: table.commit(copied))


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))

"""Storages in SQLite files, durable by a WAL that is synced at every commit: the embedded default."""

from clustercore_sqlite.record_storage import SqliteRecords
from clustercore_sqlite.storage import SqliteStorage

__all__ = ["SqliteRecords", "SqliteStorage"]

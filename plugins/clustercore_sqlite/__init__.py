"""The embedded default storage: one SQLite file, durable by a WAL that is synced at every commit."""

from clustercore_sqlite.storage import SqliteStorage

__all__ = ["SqliteStorage"]

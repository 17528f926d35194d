"""What the tests of the SQLite storage do to its files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from clustercore.interfaces import Entry, EntryKind, LogIndex, StoredState, Term
from clustercore_sqlite import SqliteStorage

__all__ = ["FRAME_BYTES", "HEADER_BYTES", "commands", "copy_storage", "flip_bit", "load", "log_of", "page_limit"]

# The write-ahead log: a header, then frames of a header and a page (sqlite.org/fileformat2.html#walformat).
HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096


def commands(indexes: Iterable[int], term: int = 1, size: int = 40) -> list[Entry]:
    """Return a command entry for each index, with a command that is found nowhere else in the files."""
    return [
        Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, f"<{index}@{term}>".encode().ljust(size, b"."))
        for index in indexes
    ]


def log_of(path: Path) -> Path:
    """Return the write-ahead log of a database."""
    return path.with_name(path.name + "-wal")


def copy_storage(path: Path, directory: Path) -> Path:
    """Copy a database and its log as they are now, as a power cut would leave them; returns the copy's path."""
    directory.mkdir(parents=True, exist_ok=True)
    copy = directory / path.name
    shutil.copyfile(path, copy)
    log_of(copy).unlink(missing_ok=True)
    if log_of(path).exists():
        shutil.copyfile(log_of(path), log_of(copy))
    return copy


async def load(path: Path) -> StoredState:
    """Open a storage, load it and close it."""
    async with SqliteStorage(path) as storage:
        return await storage.load()


def flip_bit(path: Path, content: bytes, *, last: bool = False) -> None:
    """Flip one bit of the first or last place in a file where some content is."""
    data = bytearray(path.read_bytes())
    position = data.rfind(content) if last else data.find(content)
    assert position >= 0, "the content to damage is not in the file"
    data[position] ^= 1
    path.write_bytes(data)


def page_limit(storage: SqliteStorage, pages: int) -> None:
    """Let the database grow to so many pages and no further: SQLite then says that the disk is full.

    A disk that is really full needs a file system of its own; to SQLite's callers the two look the same.
    """
    database = storage._database
    assert database is not None
    database._connection.execute(f"PRAGMA max_page_count={pages}")

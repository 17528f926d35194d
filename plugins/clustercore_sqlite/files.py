"""The files of a storage: who owns them, how they begin, and whether they are ours.

This file may touch paths and the header of the database file; what is in the tables is ``database``'s. Beside
``node.db`` lie ``node.db-wal``, which is SQLite's and belongs to the data, and ``node.db-lock``, which is empty.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

from clustercore.interfaces import LogCorrupt, StorageError
from clustercore_sqlite.errors import ADVICE
from clustercore_sqlite.records import SCHEMA

__all__ = [
    "FORMAT_VERSION",
    "STORAGE_FORMAT",
    "FileFormat",
    "check_header",
    "create",
    "log_path",
    "own",
    "sync_directory",
]

# Grows when an older clustercore could not read the tables.
FORMAT_VERSION = 6


@attrs.frozen
class FileFormat:
    """What tells a file of one kind from others, and how it begins."""

    # At byte 68 of the file's header; `file node.db` shows it.
    application_id: int
    # Files of version 1 up to this one can be read.
    version: int
    schema: str
    # What to do about a damaged file; it ends the text of every LogCorrupt.
    advice: str


# "ClCr".
STORAGE_FORMAT = FileFormat(0x436C4372, FORMAT_VERSION, SCHEMA, ADVICE)

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_VERSION_OFFSET, _APPLICATION_OFFSET = 60, 68


def log_path(path: Path) -> Path:
    """Return where SQLite keeps the write-ahead log of a database."""
    return path.with_name(path.name + "-wal")


@contextmanager
def own(path: Path) -> Iterator[None]:
    """Hold the storage for this object alone.

    A lock on a file beside the database, taken before anything else is touched, because SQLite's own locks are not
    enough: they belong to the process, not to the object, and are gone as soon as the process closes *any* descriptor
    of the database file (sqlite.org/howtocorrupt.html, section 2.2), be it only to copy it. The kernel drops this one
    when its owner dies, however it dies. The file stays: to delete it could take the lock from under a third party.

    Raises:
        StorageError: another process or another storage object has it.
        OSError: the lock file cannot be made.
    """
    lock_path = path.with_name(path.name + "-lock")
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"{path} is open already, in another process or another storage (it holds {lock_path}); "
                "each node needs a file of its own"
            ) from error
        yield
    finally:
        os.close(descriptor)


def create(path: Path, form: FileFormat) -> None:
    """Make an empty database in one step: either the whole file is there afterwards, or none.

    It is built under another name and renamed when it is on disk, so that no crash leaves a half-made file which the
    next start would have to tell from a damaged one.

    Raises:
        LogCorrupt: there is a write-ahead log but no database: the database was lost, and with it perhaps a vote.
        sqlite3.Error, OSError: the file cannot be made.
    """
    if log_path(path).exists():
        raise LogCorrupt(
            f"{path} is missing but {log_path(path)} is there: the database was removed or lost; "
            f"put it back, or else {form.advice}"
        )
    draft = path.with_name(path.name + "-new")
    for leftover in (draft, log_path(draft)):
        leftover.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        # Nothing is synced before the end, and no journal can be left behind: a draft that is cut off is thrown away.
        connection.executescript(
            "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;"
            f"PRAGMA application_id={form.application_id}; PRAGMA user_version={form.version};"
            f"BEGIN; {form.schema} COMMIT; PRAGMA journal_mode=WAL;"
        )
    _sync(draft, os.O_RDWR)
    draft.rename(path)


def check_header(path: Path, form: FileFormat) -> None:
    """Make sure that the file is ours before SQLite sees it: SQLite would roll back a foreign journal, for one.

    The header is constant from the moment the file has its name, so it can be read beside a write-ahead log that is
    newer.

    Raises:
        LogCorrupt: not a database of this plugin, or one with a damaged header.
        StorageError: written by a newer clustercore.
        OSError: the file cannot be read.
    """
    if_ours = f"If the path is right, the file is damaged: {form.advice}"
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise LogCorrupt(f"{path} is no SQLite database ({_describe(header)}); it was left as it is. {if_ours}")
    application_id = int.from_bytes(header[_APPLICATION_OFFSET : _APPLICATION_OFFSET + 4], "big")
    if application_id != form.application_id:
        raise LogCorrupt(
            f"{path} is a SQLite database of another program (application id {application_id:#x}, expected "
            f"{form.application_id:#x}); it was left as it is. {if_ours}"
        )
    version = int.from_bytes(header[_VERSION_OFFSET : _VERSION_OFFSET + 4], "big")
    if not 1 <= version <= form.version:
        raise StorageError(
            f"{path} has format {version}, this clustercore reads 1 to {form.version}; it was left as it is. "
            "Start the version that wrote it, or a newer one"
        )


def _describe(header: bytes) -> str:
    return f"it begins with {header[:16]!r}" if header else "it is empty"


def sync_directory(path: Path) -> None:
    """Make the name of the database durable.

    A file survives a power cut only if the directory that names it does, and SQLite syncs the directory for its
    write-ahead log but not for the database. This is done at every opening, since the process that made the file may
    have died between the two.
    """
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What SQLite and the operating system call an error, in the words of the storage contract.

This file knows no file and no statement. Every other module of the plugin raises sqlite3.Error and OSError as they
come; the storage translates them here, once, on their way out.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from clustercore.interfaces import LogCorrupt, StorageError, StorageFull

__all__ = ["ADVICE", "translate"]

# Ends the text of every LogCorrupt. What may be done is too long for an error: an empty disk has forgotten its vote and
# what it acknowledged, and takes the place of these files only in a cluster whose majority has its own.
ADVICE = 'do not start from these files; "When a log is corrupt" in docs/reference/errors.md says what is left to do'

# The low byte of an extended result code is its primary code (sqlite.org/rescode.html).
_PRIMARY_CODE = 0xFF
_CORRUPT_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translate(path: Path, error: sqlite3.Error | OSError, advice: str = ADVICE) -> StorageError:
    """Return the storage error that says what ``error`` means to the node. The caller chains it."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _full(path, error) if full else StorageError(f"{path}: {error}")
    # Errors of the module itself, such as a value that cannot be bound, carry no code.
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code == sqlite3.SQLITE_FULL:
        return _full(path, error)
    if code in _CORRUPT_CODES:
        return LogCorrupt(f"{path} is damaged ({error}); {advice}")
    if code in _LOCKED_CODES:
        return StorageError(f"{path} is open in another program ({error}); close that first")
    return StorageError(f"{path}: SQLite says {error} ({getattr(error, 'sqlite_errorname', 'no code')})")


def _full(path: Path, error: Exception) -> StorageFull:
    return StorageFull(f"no space is left for {path} ({error}); make room, then start the node again")

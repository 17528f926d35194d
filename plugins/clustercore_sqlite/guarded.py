"""A database file behind an event loop: threads, cancellation and what an error means.

*Why a thread.* A commit of 1 / 64 / 512 rows of 64 B takes 294 / 375 / 803 us in the event loop and 358 / 454 / 904
us through the worker thread (medians; ``benchmarks/storage_writes.py``): 1.1 to 1.2 times as long. But an fsync can
take far longer than its median: behind a checkpoint, another program's writes, or a cloud disk that has used up its
burst, where whole seconds are no rarity; with two other programs writing, the same disk took 3.8 ms a commit. A node
that cannot send heartbeats meanwhile loses its leadership for a slow disk, and one that cannot answer votes delays
everyone's election. Under load the difference is lost in the batch: while one commit is under way, the next batch
gathers. ``worker`` says what else a thread needs beside a busy loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

import trio

from clustercore.interfaces import ConfigError, InvariantError, StorageError
from clustercore_sqlite.database_file import DatabaseFile
from clustercore_sqlite.errors import translate
from clustercore_sqlite.worker import Worker

__all__ = ["GuardedFile"]

T = TypeVar("T")
D = TypeVar("D", bound=DatabaseFile)


class GuardedFile(Generic[D]):
    """Runs operations on one file in a thread, one at a time, and none after one has failed.

    Args:
        path: The database file. It is made if it does not exist; its directory must.
    """

    database_class: ClassVar[type[DatabaseFile]]

    def __init__(self, path: Path | str) -> None:
        # Options come from a configuration file, so the type is no more certain than the value.
        given: object = path
        if not isinstance(given, (str, Path)) or str(given) in ("", ".", ":memory:"):
            raise ConfigError(f"path = {path!r}: expected the path of a file, which need not exist yet")
        # Resolved, so that two paths to one file meet at one lock.
        self._path = Path(path).resolve()
        self._database: D | None = None
        self._failure: BaseException | None = None
        self._worker = Worker()

    async def __aenter__(self) -> Self:
        if self._database is not None:
            raise StorageError(f"{self._path} is open already, in this storage")
        self._failure = None
        self._worker.__enter__()
        try:
            self._database = await self._worker.run(self._open)
        except BaseException:
            self._worker.__exit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            # Bounded by one checkpoint. A cancelled node must give its file back too.
            with trio.CancelScope(shield=True):
                await self._worker.run(database.close)
        except (sqlite3.Error, OSError) as error:
            raise self._translate(error) from error
        finally:
            self._worker.__exit__(None, None, None)

    async def _run(self, operation: Callable[[D], T]) -> T:
        return await self._worker.run(lambda: self._guard(operation))

    # -- In the thread --

    def _open(self) -> D:
        try:
            opened: D = self.database_class.open(self._path)  # type: ignore[assignment]  # said by the subclass
        except (sqlite3.Error, OSError) as error:
            raise self._translate(error) from error
        return opened

    def _translate(self, error: sqlite3.Error | OSError) -> StorageError:
        return translate(self._path, error, self.database_class.form.advice)

    def _guard(self, operation: Callable[[D], T]) -> T:
        """Carry out an operation, unless one before it failed."""
        if self._database is None:
            raise StorageError(f"{self._path} is not open; use it inside `async with storage`")
        if self._failure is not None:
            raise StorageError(
                f"{self._path} failed before ({self._failure}); nobody knows what is on disk until it is opened again"
            ) from self._failure
        try:
            return operation(self._database)
        except InvariantError:
            # Found before anything was written.
            raise
        except (sqlite3.Error, OSError) as error:
            self._failure = error
            raise self._translate(error) from error
        except BaseException as error:
            self._failure = error
            raise

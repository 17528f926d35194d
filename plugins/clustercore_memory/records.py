"""Records that last as long as their object: to open it again shows what was committed before."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import trio

from clustercore.interfaces import InvariantError, RecordStorage, StorageError

__all__ = ["MemoryRecords"]

_MAX_KEY_BYTES = 1024


class MemoryRecords(RecordStorage):
    """Keeps records in memory. For tests and examples: nothing of it survives the process."""

    def __init__(self) -> None:
        self._is_open = False
        self._records: dict[bytes, bytes] = {}

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        if self._is_open:
            raise StorageError("these records are open already; each store needs its own")
        self._is_open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False

    async def load(self) -> dict[bytes, bytes]:
        await self._begin()
        return dict(self._records)

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await self._begin()
        if not changes or not all(1 <= len(key) <= _MAX_KEY_BYTES for key in changes):
            raise InvariantError(f"a commit has one record or more, under keys of 1 to {_MAX_KEY_BYTES} bytes")
        for key, value in changes.items():
            if value is None:
                self._records.pop(key, None)
            else:
                self._records[key] = value

    async def _begin(self) -> None:
        """Be the checkpoint of every method, before anything is changed: what follows cannot be cancelled."""
        await trio.lowlevel.checkpoint()
        if not self._is_open:
            raise StorageError("these records are not open; use them inside `async with records`")

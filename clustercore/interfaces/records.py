"""RecordStorage: a durable map, for what a node keeps beside its log: entities, checkpoints, clocks.

Whoever uses it holds the whole of it in memory, reads it once and from then on only writes. So the contract is two
methods, and the one that matters is that a commit is a transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Self

__all__ = ["RecordStorage"]


class RecordStorage(ABC):
    """Keeps records, each some bytes under a key of bytes, across restarts and power cuts.

    Life: ``async with storage:`` opens it, and everything else is called inside. At most one process has it open. Its
    constructor's parameters are its options in a configuration file.

    Called by: one task at a time. After a StorageError only ``__aexit__`` is called: a failed fsync must not be
    retried, because the kernel may have dropped the pages and report success the next time.
    """

    async def __aenter__(self) -> Self:
        """Open.

        Raises:
            StorageError: it cannot be opened, or another process has it open.
            LogCorrupt: what is stored fails its checks.
        """
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. Nothing that was durable depends on it."""
        return None

    @abstractmethod
    async def load(self) -> dict[bytes, bytes]:
        """Read all records. Called once, after opening.

        Raises: LogCorrupt if a record is damaged; StorageError if the disk refuses.
        """

    @abstractmethod
    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Write records, replacing those of the same keys; None removes one, if it is there.

        Args:
            changes: One or more. Keys are 1 to 1024 bytes.

        Durability: on return all of it survives a power cut. On an error, or a crash meanwhile, all of it is there or
            nothing of it, and records that it does not name are as they were.
        Cancellation: may raise Cancelled before the write starts, never after.
        Raises: StorageFull, StorageError.
        """

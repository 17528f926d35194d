"""Commits of a store: what is staged while one is under way goes into the next, together."""

from __future__ import annotations

import trio

from clustercore.interfaces import RecordStorage, StorageError
from clustercore.sync.replica import Replica

__all__ = ["Journal"]


class Journal:
    """Brings what a replica has staged to disk."""

    def __init__(self, replica: Replica, records: RecordStorage) -> None:
        self._replica = replica
        self._records = records
        # The seq up to which changes are on disk.
        self.durable_seq = replica.seq
        # Of the records that the replica ever staged, how many are on disk, or were replaced.
        self._written_count = replica.staged_count
        self._committing: trio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a commit has failed."""
        return self._failure is not None

    def check(self) -> None:
        """Raise StorageError if a commit has failed: nobody knows what is on disk until the store is opened again."""
        if self._failure is not None:
            raise StorageError(f"the entity store failed before ({self._failure}); open it again") from self._failure

    async def commit(self) -> None:
        """Return when all that was staged before the call is on disk.

        Cancellation: what is staged stays so, and goes with the next commit.
        Raises: StorageFull, StorageError.
        """
        wanted = self._replica.staged_count
        self.check()
        if self._written_count >= wanted:
            await trio.lowlevel.checkpoint()
        while self._written_count < wanted:
            if self._committing is None:
                await self._commit_all()
            else:
                # It may lack what was staged last, or be cut off: then another round.
                await self._committing.wait()
            self.check()

    async def _commit_all(self) -> None:
        staged, seq, count = self._replica.take_staged(), self._replica.seq, self._replica.staged_count
        self._committing = trio.Event()
        written = False
        try:
            await self._records.commit(staged)
            written = True
        except trio.Cancelled:
            # By contract before the write: nothing of it is on disk.
            self._replica.put_back(staged)
            raise
        except BaseException as error:
            self._failure = error
            raise
        finally:
            if written:
                self.durable_seq, self._written_count = seq, count
            self._committing.set()
            self._committing = None

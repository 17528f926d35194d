"""Records on a simulated machine: a commit that its power cut meets is there wholly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import trio

from clustercore.interfaces import RecordStorage, StorageError
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.disk import SimulatedCrash

__all__ = ["SimulatedRecords"]


class SimulatedRecords(RecordStorage):
    """Keeps records as long as the object lasts, which is longer than the node that uses them.

    Args:
        chance: Decides what becomes of a commit that is under way when the power goes.
        is_off: Whether the machine has lost its power. From then on nothing is read or written.
        write_s: How long a commit takes, in virtual seconds.
    """

    def __init__(self, chance: Chance, is_off: Callable[[], bool], write_s: float = 0.0) -> None:
        self._chance = chance
        self._is_off = is_off
        self._write_s = write_s
        self._records: dict[bytes, bytes] = {}
        # How many commits were made.
        self.commits = 0
        # In how many commits from now the power goes, and what cuts it.
        self._commits_left = 0
        self._counts: Callable[[Mapping[bytes, bytes | None]], bool] = lambda changes: True
        self._cut_power: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def load(self) -> dict[bytes, bytes]:
        await self._begin()
        return dict(self._records)

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await self._begin()
        with trio.CancelScope(shield=True):
            # Others run while it is under way, and the power may go.
            await trio.sleep(self._write_s)
        if self._commits_left and self._counts(changes):
            self._commits_left -= 1
            if not self._commits_left:
                self._cut_power()
        if self._is_off() and self._chance.happens(0.5):
            raise SimulatedCrash
        self.commits += 1
        for key, value in changes.items():
            if value is None:
                self._records.pop(key, None)
            else:
                self._records[key] = value
        if self._is_off():
            raise SimulatedCrash

    def plan_crash(
        self,
        commits: int,
        cut_power: Callable[[], None],
        counts: Callable[[Mapping[bytes, bytes | None]], bool] = lambda changes: True,
    ) -> None:
        """Let the machine lose its power in the midst of a commit, so many from now; 1 is the next, 0 none.

        Args:
            commits: How many.
            cut_power: Cuts it.
            counts: Which commits count.
        """
        self._commits_left, self._cut_power, self._counts = commits, cut_power, counts

    def wipe(self) -> None:
        """Put an empty disk in its place."""
        self._records.clear()

    def copy(self) -> dict[bytes, bytes]:
        """Return what is on it, as a backup does."""
        return dict(self._records)

    def put_back(self, records: Mapping[bytes, bytes]) -> None:
        """Put a backup on it."""
        self._records = dict(records)

    async def _begin(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_off():
            raise StorageError("the machine is off")

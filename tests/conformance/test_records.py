"""Every record storage that ships keeps the RecordStorage contract; so does the one that faults are planted in."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from clustercore.interfaces import RecordStorage
from clustercore.testing.conformance import RecordStorageConformance
from clustercore.testing.conformance.records import Changes, Open
from clustercore_memory import MemoryRecords
from clustercore_sqlite import SqliteRecords
from tests.conformance.planted.records import RecordKit


class TestMemory(RecordStorageConformance):
    is_in_folder = False

    @pytest.fixture(autouse=True)
    def _storages(self) -> None:
        """One for each folder, as long as the test lasts."""
        self.storages: dict[Path, MemoryRecords] = {}

    def make(self, folder: Path) -> RecordStorage:
        return self.storages.setdefault(folder, MemoryRecords())

    async def crashes_during(self, folder: Path, storage: RecordStorage, changes: Changes) -> Iterable[Open]:
        """It has no moment between before and after."""
        before = copy.deepcopy(storage)
        await storage.commit(changes)
        after = copy.deepcopy(storage)
        for image in (before, after):
            # As a new process finds it.
            await image.__aexit__(None, None, None)
        return [partial(copy.deepcopy, image) for image in (before, after)]


class TestSqlite(RecordStorageConformance):
    def make(self, folder: Path) -> RecordStorage:
        return SqliteRecords(folder / "entities.db")


class TestWholeFile(RecordKit):
    """What the faulty ones are made of is sound, so that a rule which fails fails for the fault."""

"""Every storage that ships keeps the Storage contract; so do the simulated one and the one faults are planted in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from clustercore.interfaces import Storage
from clustercore.testing.conformance import StorageConformance
from clustercore.testing.conformance.storage_bench import Open, Write
from clustercore.testing.simulation.disk import SimulatedCrash, SimulatedDisk, SimulatedStorage, Unsynced
from clustercore_memory import MemoryStorage
from clustercore_sqlite import SqliteStorage
from tests.conformance.planted.storages import StorageKit
from tests.unit.storage.files import page_limit


class TestMemory(StorageConformance):
    is_in_folder = False

    @pytest.fixture(autouse=True)
    def _storages(self) -> None:
        """One for each folder, as long as the test lasts."""
        self.storages: dict[Path, MemoryStorage] = {}

    def make(self, folder: Path) -> Storage:
        return self.storages.setdefault(folder, MemoryStorage())

    async def crashes_during(self, folder: Path, storage: Storage, write: Write) -> Iterable[Open]:
        """It has no moment between before and after."""
        before = copy.deepcopy(storage)
        await write(storage)
        after = copy.deepcopy(storage)
        for image in (before, after):
            # As a new process finds it.
            await image.__aexit__(None, None, None)
        return [partial(copy.deepcopy, image) for image in (before, after)]


class TestSimulated(StorageConformance):
    is_in_folder = False

    @pytest.fixture(autouse=True)
    def _disks(self) -> None:
        """One for each folder, as long as the test lasts."""
        self.disks: dict[Path, SimulatedDisk] = {}

    def make(self, folder: Path) -> Storage:
        return SimulatedStorage(self.disks.setdefault(folder, SimulatedDisk()))

    @contextmanager
    def full_disk(self, folder: Path, storage: Storage) -> Iterator[None]:
        """Of its next writes the third finds no room."""
        disk = self.disks[folder]
        disk.fill_at(disk.writes_seen + 3)
        yield
        disk.make_room()

    async def crashes_during(self, folder: Path, storage: Storage, write: Write) -> Iterable[Open]:
        """Its power is cut at each boundary, and what was not synced is lost, is kept, or is there in part."""
        disk = self.disks[folder]
        copies = []
        for number in range(1, 5):
            for unsynced in Unsynced:
                copied = SimulatedDisk(disk.content)
                copied.open()
                copied.crash_at(number, unsynced=unsynced)
                copies.append((copied, copy.deepcopy(storage, {id(disk): copied})))
        await write(storage)
        for copied, other in copies:
            try:
                await write(other)
                # A write that only fills memory passes no boundary.
                copied.crash_now()
            except SimulatedCrash:
                pass
            assert copied.crashed
        return [partial(SimulatedStorage, copied.after_crash()) for copied, _ in copies]


class TestSqlite(StorageConformance):
    # It is the library that does it; tests/unit/storage/test_sqlite_power_cut.py cuts its log where no sync was.
    syncs_in_python = False

    def make(self, folder: Path) -> Storage:
        return SqliteStorage(folder / "node.db")

    @contextmanager
    def full_disk(self, folder: Path, storage: Storage) -> Iterator[None]:
        """SQLite says that the disk is full once the file has so many pages."""
        assert isinstance(storage, SqliteStorage)
        page_limit(storage, 40)
        yield

    @pytest.mark.slow
    async def test_snapshot_comes_back_from_parts_of_any_size(self) -> None:
        """As the kit says; many parts, and a sync for each."""
        await super().test_snapshot_comes_back_from_parts_of_any_size()

    @pytest.mark.slow
    async def test_crash_in_a_write_leaves_all_of_it_or_nothing(self) -> None:
        """As the kit says; it opens hundreds of files."""
        await super().test_crash_in_a_write_leaves_all_of_it_or_nothing()

    @pytest.mark.slow
    async def test_damage_is_found(self) -> None:
        """As the kit says; it opens a file for each damaged bit."""
        await super().test_damage_is_found()

    @pytest.mark.slow
    async def test_what_returned_survives_a_power_cut(self) -> None:
        """As the kit says."""
        await super().test_what_returned_survives_a_power_cut()


class TestWholeFile(StorageKit):
    """The sound storage that the planted ones differ from."""

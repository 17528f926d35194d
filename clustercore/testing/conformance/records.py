"""The RecordStorage contract, rule by rule: see ``clustercore.interfaces.records``."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
import trio

from clustercore.interfaces import InvariantError, LogCorrupt, RecordStorage, StorageError
from clustercore.testing.conformance.base import Conformance
from clustercore.testing.conformance.disk_images import mixtures, read_image, recorded, write_image
from clustercore.testing.conformance.links import cancel_after_turns
from clustercore.testing.conformance.storage_bench import case

__all__ = ["RecordStorageConformance"]

Open = Callable[[], RecordStorage]
Changes = Mapping[bytes, bytes | None]

OLD: dict[bytes, bytes] = {b"a": b"1", b"\0": b"", b"\xff" * 1024: bytes(range(256)) * 40, b"gone": b"soon"}
CHANGES: Changes = {b"a": b"2" * 3000, b"gone": None, b"never": None, b"new": b"x", b"\0": b"\0"}
NEW = {key: value for key, value in {**OLD, **CHANGES}.items() if value is not None}


class RecordStorageConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` how the storage is made.

    For a storage that keeps its content elsewhere than in a folder, ``is_in_folder`` is False, and ``crashes_during``
    can say what a crash leaves.
    """

    # Whether it keeps its content in files of the folder that ``make`` is given, and nowhere else.
    is_in_folder: ClassVar[bool] = True

    @abstractmethod
    def make(self, folder: Path) -> RecordStorage:
        """Make a storage over the content of a folder, which is empty at first. For one folder it is the same content.

        It is not opened twice at a time, but for the rule that says what happens then.
        """

    async def crashes_during(self, folder: Path, storage: RecordStorage, changes: Changes) -> Iterable[Open]:
        """Commit; return, for whatever a crash meanwhile may leave, a function that opens a storage over that.

        The default copies the files of the folder.
        """
        with recorded(folder) as recording:
            await storage.commit(changes)
        random = Random(len(recording.moments))
        steps = zip(recording.moments, recording.moments[1:], strict=False)
        images = [image for before, after in steps for image in mixtures(before, after, random)]
        return [self._over(image) for image in images or [recording.moments[-1].image]]

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this storage, by the name of the test, each with the reason."""
        reasons = super().left_out()
        if not self.is_in_folder:
            reasons["test_damage_is_found"] = "is_in_folder is False"
            if type(self).crashes_during is RecordStorageConformance.crashes_during:
                reasons["test_crash_in_a_commit_leaves_all_of_it_or_nothing"] = "crashes_during is not overridden"
        return reasons

    @pytest.fixture(autouse=True)
    def _take_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def test_starts_empty(self) -> None:
        """A storage that was never written has no records."""
        async with self.make(self._new_folder()) as storage:
            assert await storage.load() == {}

    async def test_committed_records_come_back(self) -> None:
        """Records are what they were committed as, whatever the bytes; one is replaced, and one removed is gone."""
        async with self.make(self._new_folder()) as storage:
            await storage.load()
            await storage.commit(OLD)
            assert await storage.load() == OLD
            await storage.commit(CHANGES)
            assert await storage.load() == NEW

    async def test_records_are_there_when_it_is_opened_again(self) -> None:
        """What was committed is there after closing and opening, and what was removed is not."""
        folder = self._new_folder()
        for changes, expected in ((OLD, OLD), (CHANGES, NEW)):
            async with self.make(folder) as storage:
                await storage.load()
                await storage.commit(changes)
            async with self.make(folder) as storage:
                assert await storage.load() == expected

    async def test_many_records_are_one_commit(self) -> None:
        """A commit may have thousands of records, and a record a megabyte."""
        many = {b"%d" % number: b"v" * (number % 100) for number in range(5000)} | {b"large": bytes(1 << 20)}
        folder = self._new_folder()
        async with self.make(folder) as storage:
            await storage.load()
            await storage.commit(many)
        async with self.make(folder) as storage:
            assert await storage.load() == many

    async def test_commit_that_makes_no_sense_changes_nothing(self) -> None:
        """A commit without records, and a key that is empty or too long, are InvariantError, and nothing is written."""
        async with self.make(self._new_folder()) as storage:
            await storage.load()
            await storage.commit(OLD)
            for wrong in ({}, {b"a": b"other", b"": b"empty"}, {b"a": None, b"k" * 1025: b"long"}):
                with case(changes=wrong), pytest.raises(InvariantError):
                    await storage.commit(wrong)
                assert await storage.load() == OLD

    async def test_cancelled_commit_is_whole_or_not_there(self) -> None:
        """However soon a commit is cancelled, all of it is there or nothing, and one that returned is there."""
        for turns in range(6):
            folder = self._new_folder()
            with case(cancelled_after_turns=turns):
                has_returned = False
                async with self.make(folder) as storage:
                    await storage.load()
                    await storage.commit(OLD)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(cancel_after_turns, nursery.cancel_scope, turns)
                        await storage.commit(CHANGES)
                        has_returned = True
                async with self.make(folder) as storage:
                    assert await storage.load() in ([NEW] if has_returned else [OLD, NEW])

    async def test_crash_in_a_commit_leaves_all_of_it_or_nothing(self) -> None:
        """After a crash at any moment of a commit the old records are there or the new, and it can be written again."""
        folder = self._new_folder()
        async with self.make(folder) as storage:
            await storage.load()
            await storage.commit(OLD)
            crashes = await self.crashes_during(folder, storage, CHANGES)
        for number, crashed in enumerate(crashes):
            with case(crash=number):
                async with crashed() as storage:
                    assert await storage.load() in (OLD, NEW)
                    await storage.commit({b"after": b"the crash"})
                    assert (await storage.load())[b"after"] == b"the crash"

    async def test_damage_is_found(self) -> None:
        """A bit that is not what was written is LogCorrupt, or does no harm: other records are never returned."""
        folder = self._new_folder()
        async with self.make(folder) as storage:
            await storage.load()
            await storage.commit(OLD)
            await storage.commit(CHANGES)
        intact, random = read_image(folder), Random(1)
        for name, content in intact.items():
            for place in sorted(random.sample(range(len(content)), min(len(content), 60))):
                damaged = bytearray(content)
                damaged[place] ^= 1 << random.randrange(8)
                with case(file=name, byte=place):
                    try:
                        async with self._over(intact | {name: bytes(damaged)})() as storage:
                            assert await storage.load() == NEW
                    except LogCorrupt:
                        continue

    async def test_second_one_is_refused(self) -> None:
        """While one is open, opening another over the same content is StorageError; after that it works."""
        folder = self._new_folder()
        async with self.make(folder) as storage:
            await storage.load()
            with pytest.raises(StorageError):
                async with self.make(folder):
                    pass
        async with self.make(folder) as storage:
            assert await storage.load() == {}

    async def test_outside_of_the_block_it_is_closed(self) -> None:
        """Before it is opened and after it is closed every call is StorageError."""
        storage = self.make(self._new_folder())
        for _ in range(2):
            with pytest.raises(StorageError):
                await storage.load()
            with pytest.raises(StorageError):
                await storage.commit(OLD)
            async with storage:
                assert await storage.load() == {}

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _over(self, image: dict[str, bytes]) -> Open:
        def open_copy() -> RecordStorage:
            folder = self._new_folder()
            write_image(image, folder)
            return self.make(folder)

        return open_copy

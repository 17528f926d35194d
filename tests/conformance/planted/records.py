"""One faulty record storage, at least, for each rule of their kit."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import trio

from clustercore.interfaces import InvariantError, LogCorrupt, RecordStorage, StorageError
from clustercore.testing.conformance import RecordStorageConformance
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "RecordKit", "WholeFileRecords"]

FAULTS: list[Fault] = []
_OPEN: set[Path] = set()


class WholeFileRecords(RecordStorage):
    """A sound storage, and a slow one: each commit makes a new file of everything, and puts it in place of the old."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "records"
        self.records: dict[bytes, bytes] | None = None

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        if self.path in _OPEN:
            raise StorageError(f"{self.path} is open already")
        self.records = self.read()
        _OPEN.add(self.path)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.records = None
        _OPEN.discard(self.path)

    def read(self) -> dict[bytes, bytes]:
        """Read the file."""
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        if zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            raise LogCorrupt(f"{self.path} is damaged")
        records: dict[bytes, bytes] = pickle.loads(data[4:])
        return records

    async def load(self) -> dict[bytes, bytes]:
        await trio.lowlevel.checkpoint()
        if self.records is None:
            raise StorageError("not open")
        return dict(self.records)

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await trio.lowlevel.checkpoint()
        if self.records is None:
            raise StorageError("not open")
        self.check(changes)
        for key, value in changes.items():
            self.change(self.records, key, value)
        self.write(self.records)

    def check(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Refuse what makes no sense."""
        if not changes or not all(1 <= len(key) <= 1024 for key in changes):
            raise InvariantError("no commit")

    def change(self, records: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
        """Carry out one change."""
        if value is None:
            records.pop(key, None)
        else:
            records[key] = value

    def write(self, records: dict[bytes, bytes]) -> None:
        """Write all of it."""
        data = pickle.dumps(records)
        draft = self.path.with_name("draft")
        with draft.open("wb") as file:
            file.write(zlib.crc32(data).to_bytes(4, "big") + data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


class RecordKit(RecordStorageConformance):
    """The kit as the author of such a storage derives it."""

    storage: ClassVar[type[RecordStorage]] = WholeFileRecords

    def make(self, folder: Path) -> RecordStorage:
        return self.storage(folder)  # type: ignore[call-arg]  # every one here takes a folder


def plant(rule: str, what: str, storage: type[RecordStorage], expects: type[Exception] = AssertionError) -> None:
    """Add a fault to the table."""
    FAULTS.append(Fault(rule, what, type("TestPlanted", (RecordKit,), {"storage": storage}), expects))


class HasSomething(WholeFileRecords):
    def read(self) -> dict[bytes, bytes]:
        return super().read() or {b"format": b"1"}


class KeepsWhatIsRemoved(WholeFileRecords):
    def change(self, records: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
        records[key] = value or b""


class WritesNothing(WholeFileRecords):
    def write(self, records: dict[bytes, bytes]) -> None:
        """Leave it in memory."""


class TakesAFew(WholeFileRecords):
    def write(self, records: dict[bytes, bytes]) -> None:
        super().write(dict(list(records.items())[:999]))


class ChecksLate(WholeFileRecords):
    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await super().commit({key: value for key, value in changes.items() if 1 <= len(key) <= 1024} or {b"x": None})
        self.check(changes)

    def check(self, changes: Mapping[bytes, bytes | None]) -> None:
        if not changes or any(not key for key in changes):
            raise InvariantError("no commit")


class OneByOne(WholeFileRecords):
    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        self.check(changes)
        for key, value in changes.items():
            await super().commit({key: value})


class WritesInPlace(WholeFileRecords):
    def write(self, records: dict[bytes, bytes]) -> None:
        for size in range(1, len(records) + 1):
            # Each of these is a file that reads well, and was never committed.
            super().write(dict(list(records.items())[:size]))


class TrustsTheDisk(WholeFileRecords):
    def read(self) -> dict[bytes, bytes]:
        if not self.path.exists():
            return {}
        try:
            records: dict[bytes, bytes] = pickle.loads(self.path.read_bytes()[4:])
        except Exception as error:
            raise LogCorrupt(str(error)) from error
        return records


class LetsAnyoneIn(WholeFileRecords):
    async def __aenter__(self) -> Self:
        _OPEN.discard(self.path)
        return await super().__aenter__()


class NeverCloses(WholeFileRecords):
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _OPEN.discard(self.path)


plant("test_starts_empty", "has a record of its own", HasSomething)
plant("test_committed_records_come_back", "keeps what is removed", KeepsWhatIsRemoved)
plant("test_records_are_there_when_it_is_opened_again", "writes nothing", WritesNothing)
plant("test_many_records_are_one_commit", "takes 999 at most", TakesAFew)
plant("test_commit_that_makes_no_sense_changes_nothing", "checks when it has written", ChecksLate)
plant("test_cancelled_commit_is_whole_or_not_there", "commits one by one", OneByOne)
plant("test_crash_in_a_commit_leaves_all_of_it_or_nothing", "writes a part at a time", WritesInPlace)
plant("test_damage_is_found", "trusts the disk", TrustsTheDisk)
plant("test_second_one_is_refused", "lets anyone in", LetsAnyoneIn)
plant("test_outside_of_the_block_it_is_closed", "never closes", NeverCloses)

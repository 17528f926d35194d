"""One faulty storage, at least, for each rule of their kit."""

from __future__ import annotations

import errno
import os
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import attrs
import trio

from clustercore.interfaces import (
    Configuration,
    Entry,
    HardState,
    InvariantError,
    LogCorrupt,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    SnapshotReader,
    Storage,
    StorageError,
    StorageFull,
    StorageIdentity,
    StoredState,
    Term,
)
from clustercore.testing.conformance import StorageConformance
from clustercore_memory import MemoryStorage
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "StorageKit", "WholeFileStorage"]

FAULTS: list[Fault] = []
_OPEN: set[Path] = set()
# What a memory storage holds, but for parts that need not survive.
_FIELDS = ("_identity", "_hard_state", "_snapshot", "_snapshot_data", "_entries")


class WholeFileStorage(MemoryStorage):
    """A sound storage, and a slow one: each write makes a new file of everything, and puts it in place of the old."""

    is_exclusive: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "state"
        self.failure: StorageError | None = None
        self.is_full = False

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self.is_exclusive and self.path in _OPEN:
            raise StorageError(f"{self.path} is open already")
        _OPEN.add(self.path)
        try:
            if self.path.exists():
                self.take(self.path.read_bytes())
        except BaseException:
            _OPEN.discard(self.path)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _OPEN.discard(self.path)
        await super().__aexit__(exc_type, exc, traceback)

    async def _begin(self) -> None:
        await super()._begin()
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise StorageError("a write failed before") from self.failure

    async def save_identity(self, identity: StorageIdentity) -> None:
        await super().save_identity(identity)
        self.persist()

    async def save_hard_state(self, hard_state: HardState) -> None:
        await super().save_hard_state(hard_state)
        self.persist()

    async def append(self, entries: Sequence[Entry]) -> None:
        await super().append(entries)
        self.persist()

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        await super().install_snapshot(metadata, keep_from=keep_from)
        self.persist()

    # --- The file ---

    def content(self) -> bytes:
        # It reads only what it wrote itself.
        body = pickle.dumps([getattr(self, name) for name in _FIELDS])
        return zlib.crc32(body).to_bytes(4, "big") + body

    def take(self, content: bytes) -> None:
        if zlib.crc32(content[4:]).to_bytes(4, "big") != content[:4]:
            raise LogCorrupt(f"{self.path} is damaged")
        self.restore_fields(pickle.loads(content[4:]))

    def restore_fields(self, values: Iterable[Any]) -> None:
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(self, name, value)

    def persist(self) -> None:
        try:
            self.write(self.content())
        except OSError as error:
            self.failure = self.error_of(error)
            raise self.failure from error

    def error_of(self, error: OSError) -> StorageError:
        return StorageFull(str(error)) if error.errno == errno.ENOSPC else StorageError(str(error))

    def write(self, content: bytes) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        beside = self.path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            self.sync(file.fileno())
        os.replace(beside, self.path)
        self.sync_folder()

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def sync_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)


class StorageKit(StorageConformance):
    """The kit as the author of such a storage derives it."""

    storage: ClassVar[type[WholeFileStorage]] = WholeFileStorage

    def make(self, folder: Path) -> Storage:
        return self.storage(folder)

    @contextmanager
    def full_disk(self, folder: Path, storage: Storage) -> Iterator[None]:
        assert isinstance(storage, WholeFileStorage)
        storage.is_full = True
        try:
            yield
        finally:
            storage.is_full = False


def plant(
    rule: str, what: str, expects: type[Exception] = AssertionError
) -> Callable[[type[WholeFileStorage]], type[WholeFileStorage]]:
    """Add a fault to the table."""

    def add(storage: type[WholeFileStorage]) -> type[WholeFileStorage]:
        FAULTS.append(Fault(f"test_{rule}", what, type("TestPlanted", (StorageKit,), {"storage": storage}), expects))
        return storage

    return add


# --- Opening ---------------------------------------------------------------------------------------------------------


@plant("starts_empty", "begins in term 1")
class BeginsInTermOne(WholeFileStorage):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._hard_state = HardState(Term(1))


@plant("open_is_exclusive", "lets two have it open")
class LetsTwoIn(WholeFileStorage):
    is_exclusive = False


@plant("refuses_use_outside_its_block", "can be used before it is opened")
class IsAlwaysOpen(WholeFileStorage):
    async def _begin(self) -> None:
        await trio.lowlevel.checkpoint()


@plant("closes_when_cancelled", "closes after a checkpoint")
class ClosesAfterACheckpoint(WholeFileStorage):
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await trio.lowlevel.checkpoint()
        await super().__aexit__(exc_type, exc, traceback)


# --- Hard state, identity and log ------------------------------------------------------------------------------------


@plant("hard_state_replaces_the_one_before", "keeps the first vote")
class KeepsTheFirstVote(WholeFileStorage):
    async def save_hard_state(self, hard_state: HardState) -> None:
        vote = hard_state.voted_for or self._hard_state.voted_for
        await super().save_hard_state(attrs.evolve(hard_state, voted_for=vote))


@plant("vote_comes_back_exactly", "takes an empty id for none")
class TakesEmptyForNone(WholeFileStorage):
    async def save_hard_state(self, hard_state: HardState) -> None:
        await super().save_hard_state(attrs.evolve(hard_state, voted_for=hard_state.voted_for or None))


@plant("identity_replaces_the_one_before", "forgets the cluster")
class ForgetsTheCluster(WholeFileStorage):
    async def save_identity(self, identity: StorageIdentity) -> None:
        await super().save_identity(attrs.evolve(identity, cluster_id=""))


@plant("entry_comes_back_exactly", "strips zeros")
class StripsZeros(WholeFileStorage):
    async def append(self, entries: Sequence[Entry]) -> None:
        await super().append(
            [Entry.create(each.index, each.term, each.kind, each.command.rstrip(b"\0")) for each in entries]
        )


@plant("append_takes_any_number", "stores 256 entries at most")
class StoresSome(WholeFileStorage):
    async def append(self, entries: Sequence[Entry]) -> None:
        await super().append(entries[:256])


@plant("append_replaces_the_suffix", "leaves what is behind the new entries", InvariantError)
class LeavesWhatIsBehind(WholeFileStorage):
    async def append(self, entries: Sequence[Entry]) -> None:
        behind = [each for each in self._entries if entries and each.index > entries[-1].index]
        await super().append([*entries, *behind])


@plant("append_sees_the_log_of_an_earlier_opening", "knows only what it appended itself", InvariantError)
class KnowsOnlyItsOwn(WholeFileStorage):
    async def load(self) -> StoredState:
        state = await super().load()
        if not hasattr(self, "appended"):
            self._entries = []
        return state

    async def append(self, entries: Sequence[Entry]) -> None:
        self.appended = True
        await super().append(entries)


@plant("append_refuses_what_leaves_a_gap", "takes what it is given")
@plant("append_refuses_what_the_snapshot_covers", "takes what it is given")
class TakesAnything(WholeFileStorage):
    def _check_appendable(self, entries: Sequence[Entry]) -> None:
        if not entries:
            raise InvariantError("nothing to append")


# --- Writes and cancellation -----------------------------------------------------------------------------------------


@plant("write_cancelled_before_it_starts_changes_nothing", "writes before it looks")
class WritesFirst(WholeFileStorage):
    async def save_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state
        await super().save_hard_state(hard_state)


@plant("write_that_is_cancelled_is_done_or_not_as_it_says", "can be cancelled when it has written")
class CanBeCancelledLate(WholeFileStorage):
    async def save_identity(self, identity: StorageIdentity) -> None:
        await super().save_identity(identity)
        for _ in range(4):
            await trio.lowlevel.checkpoint()


# --- The snapshot's place in the log ---------------------------------------------------------------------------------


@plant("snapshot_keeps_the_log_from_where_it_is_told", "drops all that the snapshot covers")
class DropsAllCovered(WholeFileStorage):
    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        kept = LogIndex(metadata.last_included_index + 1) if keep_from is not None else None
        await super().install_snapshot(metadata, keep_from=kept)


@plant("snapshot_can_drop_the_whole_log", "keeps the log")
@plant("snapshot_of_an_empty_log_lets_it_begin_behind", "keeps the log")
class KeepsTheLog(WholeFileStorage):
    @property
    def _last_index(self) -> int:
        return self._entries[-1].index if self._entries else 0

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        entries = list(self._entries)
        await super().install_snapshot(metadata, keep_from=keep_from)
        self._entries = entries
        self.persist()


@plant("snapshot_keeps_the_members", "forgets who is leaving")
class ForgetsMembers(WholeFileStorage):
    def restore_fields(self, values: Iterable[Any]) -> None:
        super().restore_fields(values)
        if self._snapshot is not None:
            self._snapshot = attrs.evolve(self._snapshot, configuration=Configuration.of("a", cluster_id="cluster"))


@plant("snapshot_replaces_the_one_before", "keeps the first one's bytes")
class KeepsTheFirstBytes(WholeFileStorage):
    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        first = self._snapshot_data
        await super().install_snapshot(metadata, keep_from=keep_from)
        self._snapshot_data = first or self._snapshot_data
        self.persist()


@plant("snapshot_refuses_what_is_old_or_leaves_a_gap", "takes any snapshot")
class TakesAnySnapshot(WholeFileStorage):
    def _check_snapshot(self, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
        return


# --- Parts -----------------------------------------------------------------------------------------------------------


@plant("snapshot_comes_back_from_parts_of_any_size", "cuts parts at 4096 bytes")
class CutsParts(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await super().write_snapshot_chunk(metadata, offset, data[:4096].ljust(len(data), b"\0"))


@plant("snapshot_without_bytes", "has no snapshot without bytes")
class HasNoEmptySnapshot(WholeFileStorage):
    async def open_snapshot(self) -> SnapshotReader | None:
        reader = await super().open_snapshot()
        return reader if self._snapshot_data else None


@plant("parts_are_no_snapshot_yet", "shows a snapshot when its first part is there")
class ShowsTooEarly(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await super().write_snapshot_chunk(metadata, offset, data)
        if self._snapshot is not None:
            self._snapshot_data = data


@plant("snapshot_begins_anew_at_offset_0", "goes on where it was", InvariantError)
class GoesOnWhereItWas(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        if offset == 0 and metadata.snapshot_id in self._drafts:
            raise InvariantError("this snapshot is under way")
        await super().write_snapshot_chunk(metadata, offset, data)


@plant("part_that_does_not_follow_is_refused", "adds any part")
class AddsAnyPart(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        has = len(self._drafts[metadata.snapshot_id][1]) if offset and metadata.snapshot_id in self._drafts else offset
        await super().write_snapshot_chunk(metadata, has, data)


@plant("part_of_a_snapshot_that_was_not_begun_is_refused", "adds a part to nothing")
class AddsToNothing(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        self._drafts.setdefault(metadata.snapshot_id, (metadata, bytearray(offset)))
        await super().write_snapshot_chunk(metadata, offset, data)


@plant("installs_only_what_was_written", "goes by the name alone")
class GoesByTheName(WholeFileStorage):
    def _draft_of(self, metadata: SnapshotMetadata) -> bytearray:
        draft = self._drafts.get(metadata.snapshot_id)
        if draft is None:
            raise InvariantError("no part was written")
        return draft[1]


@plant("two_snapshots_are_written_side_by_side", "has room for one", InvariantError)
class HasRoomForOne(WholeFileStorage):
    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        self._drafts = {name: draft for name, draft in self._drafts.items() if name == metadata.snapshot_id}
        await super().write_snapshot_chunk(metadata, offset, data)


@plant("install_drops_what_covers_no_more", "keeps older ones under way")
class KeepsOlderOnes(WholeFileStorage):
    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        drafts = dict(self._drafts)
        await super().install_snapshot(metadata, keep_from=keep_from)
        self._drafts = drafts


@plant("discard_drops_the_parts", "discards nothing")
class DiscardsNothing(WholeFileStorage):
    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._begin()


@plant("discard_of_what_is_not_under_way_changes_nothing", "discards what is installed")
class DiscardsTheStored(WholeFileStorage):
    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await super().discard_snapshot(snapshot_id)
        if self._snapshot is not None and self._snapshot.snapshot_id == snapshot_id:
            self._snapshot = None


@plant("forgets_parts_when_it_is_opened_again", "keeps parts across a restart")
class KeepsParts(WholeFileStorage):
    kept: ClassVar[dict[Path, Any]] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._drafts.update(self.kept.get(self.path, {}))
        return self

    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await super().write_snapshot_chunk(metadata, offset, data)
        self.kept[self.path] = self._drafts


# --- Reading ---------------------------------------------------------------------------------------------------------


class ProxyReader(SnapshotReader):
    """Hands on what it is asked."""

    def __init__(self, inner: SnapshotReader, storage: WholeFileStorage) -> None:
        self.inner = inner
        self.storage = storage
        self.metadata = inner.metadata
        self.size = inner.size

    async def read(self, offset: int, max_bytes: int) -> bytes:
        return await self.inner.read(offset, max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class WithReaders(WholeFileStorage):
    reader: ClassVar[type[ProxyReader]] = ProxyReader

    async def open_snapshot(self) -> SnapshotReader | None:
        reader = await super().open_snapshot()
        return None if reader is None else self.reader(reader, self)


class ReadsBlocks(ProxyReader):
    async def read(self, offset: int, max_bytes: int) -> bytes:
        return await self.inner.read(offset // 500 * 500, max_bytes)


class ReadsTheNewest(ProxyReader):
    async def read(self, offset: int, max_bytes: int) -> bytes:
        return self.storage._snapshot_data[offset : offset + max_bytes]


class ReadsWhenClosed(ProxyReader):
    async def aclose(self) -> None:
        return


class ClosesAll(ProxyReader):
    closed: ClassVar[set[WholeFileStorage]] = set()

    async def read(self, offset: int, max_bytes: int) -> bytes:
        if self.storage in self.closed:
            raise StorageError("this snapshot is closed")
        return await self.inner.read(offset, max_bytes)

    async def aclose(self) -> None:
        self.closed.add(self.storage)


for _rule, _what, _reader in (
    ("reader_reads_from_anywhere", "reads from the beginning of a block", ReadsBlocks),
    ("reader_stays_readable_whatever_is_stored", "reads what is stored now", ReadsTheNewest),
    ("readers_of_one_snapshot_are_each_their_own", "closes all readers", ClosesAll),
    ("reader_is_of_no_use_when_it_is_closed", "reads when it is closed", ReadsWhenClosed),
):
    plant(_rule, _what)(type("Planted", (WithReaders,), {"reader": _reader}))


# --- Crashes ---------------------------------------------------------------------------------------------------------


@plant("crash_in_a_write_leaves_all_of_it_or_nothing", "writes in place")
class WritesInPlace(WholeFileStorage):
    def write(self, content: bytes) -> None:
        with self.path.open("wb") as file:
            file.write(content)
            file.flush()
            self.sync(file.fileno())
        self.sync_folder()


@plant("crash_in_a_write_leaves_all_of_it_or_nothing", "renames before it syncs")
class RenamesFirst(WholeFileStorage):
    def write(self, content: bytes) -> None:
        beside = self.path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.replace(beside, self.path)
            self.sync(file.fileno())
        self.sync_folder()


@plant("crash_in_a_write_leaves_all_of_it_or_nothing", "stores a snapshot in two steps")
class InstallsInTwoSteps(WholeFileStorage):
    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        entries = list(self._entries)
        self._entries = [each for each in entries if keep_from is not None and each.index >= keep_from]
        self.persist()
        self._entries = entries
        await super().install_snapshot(metadata, keep_from=keep_from)


@plant("what_returned_survives_a_power_cut", "does not sync")
class DoesNotSync(WholeFileStorage):
    def sync(self, descriptor: int) -> None:
        return


@plant("what_returned_survives_a_power_cut", "does not sync the name of its file")
class DoesNotSyncTheFolder(WholeFileStorage):
    def sync_folder(self) -> None:
        return


@plant("failed_sync_stops_it_for_good", "tries a failed sync again")
class TriesAgain(WholeFileStorage):
    def sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            os.fsync(descriptor)


@plant("failed_sync_stops_it_for_good", "goes on after a failed sync")
class GoesOn(WholeFileStorage):
    def check(self) -> None:
        return


@plant("failed_sync_stops_it_for_good", "does not mind a failed sync")
class MindsNoFailure(WholeFileStorage):
    def sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            return


# An object with a damaged field may raise anything, to whoever uses it.
@plant("damage_is_found", "has no checksum", Exception)
class HasNoChecksum(WholeFileStorage):
    def take(self, content: bytes) -> None:
        try:
            self.restore_fields(pickle.loads(content[4:]))
        except Exception as error:
            raise LogCorrupt(f"{self.path} cannot be read") from error


# --- A full disk -----------------------------------------------------------------------------------------------------


@plant("full_disk_refuses_what_does_not_fit", "has no word of its own for a full disk")
class SaysOnlyThatItFailed(WholeFileStorage):
    def error_of(self, error: OSError) -> StorageError:
        return StorageError(str(error))


@plant("full_disk_refuses_what_does_not_fit", "keeps in memory what does not fit")
class KeepsItInMemory(WholeFileStorage):
    def write(self, content: bytes) -> None:
        if not self.is_full:
            super().write(content)


@plant("full_disk_refuses_what_does_not_fit", "goes on after a write that did not fit")
class GoesOnOnceThereIsRoom(WholeFileStorage):
    def check(self) -> None:
        self.is_full = False


@plant("full_disk_refuses_what_does_not_fit", "makes room by cutting its file")
class CutsItsFile(WholeFileStorage):
    def write(self, content: bytes) -> None:
        if self.is_full and self.path.exists():
            self.path.write_bytes(b"")
        super().write(content)

    def take(self, content: bytes) -> None:
        if content:
            super().take(content)

"""The task that uses the storage: order, joining, and who hears when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import given
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    Entry,
    EntryKind,
    HardState,
    SnapshotMetadata,
    Storage,
    StorageError,
    StoredState,
)
from clustercore.raft.effects import PersistEntries, PersistHardState, PersistSnapshot, PersistSnapshotChunk
from clustercore.raft.types import LogIndex, NodeId, SnapshotId, Term, WriteId
from clustercore.runtime.writer import StorageJob, Writer
from clustercore.testing.simulation.disk import SimulatedDisk, SimulatedStorage
from clustercore_memory import MemoryStorage
from tests.snapshots import read_snapshot, snapshot


def entries(first: int, last: int, term: int) -> tuple[Entry, ...]:
    """Entries of one term, both ends inclusive."""
    return tuple(
        Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, b"%d" % index) for index in range(first, last + 1)
    )


def persist(write_id: int, first: int, last: int, term: int) -> PersistEntries:
    """A write of entries."""
    return PersistEntries(WriteId(write_id), entries(first, last, term))


def vote(write_id: int, term: int, voted_for: str | None = None) -> PersistHardState:
    """A write of term and vote."""
    return PersistHardState(WriteId(write_id), HardState(Term(term), None if voted_for is None else NodeId(voted_for)))


def chunk(write_id: int, index: int, term: int = 1) -> PersistSnapshotChunk:
    """All the bytes of a leader's snapshot."""
    return PersistSnapshotChunk(WriteId(write_id), snapshot(index, term).metadata, 0, snapshot(index, term).data)


def in_place(write_id: int, index: int, term: int = 1) -> PersistSnapshot:
    """The write that installs it."""
    return PersistSnapshot(WriteId(write_id), snapshot(index, term).metadata, None)


class LoggingStorage(MemoryStorage):
    """Notes its calls, and lets one at a time through when the test holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.gate: trio.Semaphore | None = None

    async def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.acquire()

    async def save_hard_state(self, hard_state: HardState) -> None:
        await self._enter(f"hard state {hard_state.current_term}")
        await super().save_hard_state(hard_state)

    async def append(self, entries: Sequence[Entry]) -> None:
        await self._enter(f"append {entries[0].index}..{entries[-1].index}")
        await super().append(entries)

    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        await self._enter(f"chunk of {metadata.last_included_index} at {offset}")
        await super().write_snapshot_chunk(metadata, offset, data)

    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._enter(f"discard {snapshot_id}")
        await super().discard_snapshot(snapshot_id)

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        await self._enter(f"snapshot {metadata.last_included_index} keep from {keep_from}")
        await super().install_snapshot(metadata, keep_from=keep_from)


@attrs.define
class Bench:
    """A writer on a storage, and what it told."""

    storage: LoggingStorage
    told: list[str]
    writer: Writer

    async def post(self, *jobs: StorageJob) -> None:
        """Queue jobs together and let everything run that can."""
        for job in jobs:
            self.writer.post(job)
        await wait_all_tasks_blocked()


@asynccontextmanager
async def writing(storage: LoggingStorage | None = None, *, snapshot_index: int = 0) -> AsyncIterator[Bench]:
    """Run a writer while the block lasts."""
    storage = storage or LoggingStorage()
    told: list[str] = []
    writer = Writer(
        storage,
        snapshot_index=LogIndex(snapshot_index),
        on_durable=lambda write_id: told.append(f"durable {write_id}"),
    )
    async with storage, trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        yield Bench(storage, told, writer)
        nursery.cancel_scope.cancel()


async def test_writes_that_gather_are_done_as_one() -> None:
    """While one write is under way the next ones gather; then they are one, and all are told at once."""
    async with writing() as bench:
        bench.storage.gate = trio.Semaphore(0)
        await bench.post(persist(1, 1, 2, 1))
        await bench.post(persist(2, 3, 4, 1), persist(3, 5, 5, 1))
        assert bench.storage.calls == ["append 1..2"]
        assert bench.told == []

        bench.storage.gate.release()
        await wait_all_tasks_blocked()
        assert bench.storage.calls == ["append 1..2", "append 3..5"]
        assert bench.told == ["durable 1"]

        bench.storage.gate.release()
        await wait_all_tasks_blocked()
        assert bench.told == ["durable 1", "durable 3"]


async def test_hard_state_goes_before_entries_and_nobody_hears_between() -> None:
    """Of joined writes the newest hard state is first on disk, and nothing is told until the entries are too."""
    async with writing() as bench:
        bench.storage.gate = trio.Semaphore(0)
        await bench.post(persist(1, 1, 1, 1), vote(2, 2, "a"), persist(3, 2, 2, 2), vote(4, 3))
        assert bench.storage.calls == ["hard state 3"]

        bench.storage.gate.release()
        await wait_all_tasks_blocked()
        assert bench.storage.calls == ["hard state 3", "append 1..2"]
        assert bench.told == []

        bench.storage.gate.release()
        await wait_all_tasks_blocked()
        assert bench.told == ["durable 4"]


async def test_snapshots_are_not_joined_over() -> None:
    """Writes before a leader's snapshot are done before it, and those behind after it."""
    async with writing() as bench:
        await bench.post(persist(1, 1, 3, 1), chunk(2, 9, 2), in_place(3, 9, 2), persist(4, 10, 10, 2))

        assert bench.storage.calls == ["append 1..3", "chunk of 9 at 0", "snapshot 9 keep from None", "append 10..10"]
        assert bench.told == ["durable 1", "durable 2", "durable 3", "durable 4"]


async def test_leaders_snapshot_that_was_given_up_for_another_is_dropped() -> None:
    """A second one that begins to arrive takes the place of the first; one that goes on does not."""
    async with writing() as bench:
        await bench.post(chunk(1, 9), chunk(2, 9), chunk(3, 12))

        first = snapshot(9).metadata.snapshot_id
        assert bench.storage.calls == ["chunk of 9 at 0", "chunk of 9 at 0", f"discard {first}", "chunk of 12 at 0"]


async def test_own_snapshot_is_stored_in_turn() -> None:
    """Its parts and its installing wait for the writes before them, and say that they were done."""
    own = snapshot(4)
    async with writing() as bench:
        await bench.post(persist(1, 1, 5, 1))

        assert await bench.writer.write_own_chunk(own.metadata, 0, own.data)
        assert await bench.writer.install_own(own.metadata, LogIndex(3))

        assert bench.storage.calls == ["append 1..5", "chunk of 4 at 0", "snapshot 4 keep from 3"]
        assert await bench.storage.load() == StoredState(HardState(), own.metadata, entries(3, 5, 1))


@pytest.mark.parametrize("index", [4, 9])
async def test_own_snapshot_that_is_no_news_is_dropped(index: int) -> None:
    """A leader's snapshot that was stored meanwhile, or the one the node started from, is not replaced by an older."""
    own = snapshot(index, data=b"own")
    async with writing() as bench:
        await bench.post(chunk(1, 9, 2), in_place(2, 9, 2))

        assert not await bench.writer.write_own_chunk(own.metadata, 0, own.data)
        assert not await bench.writer.install_own(own.metadata, LogIndex(1))

        assert bench.told == ["durable 1", "durable 2"]
        assert await read_snapshot(bench.storage) == snapshot(9, 2)


async def test_leaders_snapshot_that_is_no_news_is_not_stored() -> None:
    """A node that caught up and took a newer one of its own has no use for the chunks that were under way."""
    own = snapshot(12)
    async with writing() as bench:
        await bench.post(persist(1, 1, 12, 1), chunk(2, 9))
        await bench.writer.write_own_chunk(own.metadata, 0, own.data)
        await bench.writer.install_own(own.metadata, LogIndex(13))

        late = snapshot(9).metadata
        await bench.post(PersistSnapshotChunk(WriteId(3), late, len(snapshot(9).data), b"more"))

        assert bench.told == ["durable 1", "durable 2", "durable 3"]
        assert await read_snapshot(bench.storage) == own


async def test_other_use_of_the_storage_takes_its_turn() -> None:
    """It comes after the writes before it, and its result is returned."""

    async def look(storage: Storage) -> int:
        return len((await storage.load()).entries)

    async with writing() as bench:
        bench.writer.post(persist(1, 1, 3, 1))

        assert await bench.writer.use(look) == 3


@pytest.mark.parametrize("write", [1, 2])
async def test_failed_write_ends_the_writer_and_nobody_hears_of_it(write: int) -> None:
    """After an error of the storage nothing that was joined is told, and nothing more is written."""
    disk, told = SimulatedDisk(), list[WriteId]()
    disk.fail_fsync_at(write)
    storage = SimulatedStorage(disk)
    writer = Writer(storage, snapshot_index=LogIndex(0), on_durable=told.append)
    for job in (vote(1, 1, "a"), persist(2, 1, 1, 1), persist(3, 2, 2, 1)):
        writer.post(job)

    async with storage:
        with pytest.raises(StorageError, match="fsync"):
            await writer.run()

    assert told == []
    assert disk.writes_seen == write


# --- Joining ---

JOBS = st.lists(
    st.one_of(
        st.just("vote"),
        # Cut back by so many entries, then add so many.
        st.tuples(st.integers(0, 4), st.integers(1, 4)),
    ),
    max_size=12,
)


def _jobs(plan: list[str | tuple[int, int]]) -> list[PersistHardState | PersistEntries]:
    """Writes as a core asks for them: each starts within the log that those before it leave, or right after it."""
    jobs: list[PersistHardState | PersistEntries] = []
    last_index = 3
    for number, step in enumerate(plan, 1):
        if isinstance(step, tuple):
            cut, added = step
            first = max(1, last_index + 1 - cut)
            last_index = first + added - 1
            jobs.append(persist(number, first, last_index, number + 1))
        else:
            jobs.append(vote(number, number + 1, "b"))
    return jobs


@given(plan=JOBS)
def test_joined_writes_have_the_effect_of_each_in_turn(plan: list[str | tuple[int, int]]) -> None:
    """Whatever gathers, truncations included, what is stored is what it would be one write after the other."""
    jobs = _jobs(plan)

    async def stored(*, together: bool) -> tuple[StoredState, str]:
        async with writing() as bench:
            await bench.post(persist(0, 1, 3, 1))
            for batch in [jobs] if together else [[job] for job in jobs]:
                await bench.post(*batch)
            return await bench.storage.load(), bench.told[-1]

    async def compare() -> None:
        assert await stored(together=True) == await stored(together=False)

    trio.run(compare)

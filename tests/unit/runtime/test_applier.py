"""The task that touches the state machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Entry, EntryKind, SnapshotMetadata, StateMachineError
from clustercore.raft.configuration import encode_configuration
from clustercore.raft.effects import Apply, RestoreSnapshot
from clustercore.raft.types import Configuration, LogIndex, Term
from clustercore.runtime.applier import ENTRIES_PER_CHECKPOINT, Applier
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.snapshot_stream import restore_stored
from clustercore.runtime.snapshots import Snapshots
from clustercore.runtime.writer import Writer
from clustercore_memory import MemoryStorage
from tests.simulation.cluster import Journal
from tests.snapshots import NODE_BYTES, Whole, machine_bytes, read_snapshot, save_snapshot, snapshot


def command(index: int, text: bytes = b"x") -> Entry:
    """A command in the log."""
    return Entry.create(LogIndex(index), Term(1), EntryKind.COMMAND, text)


def commands(first: int, last: int) -> Apply:
    """Commands to apply, both ends inclusive."""
    return Apply(tuple(command(index, b"%d" % index) for index in range(first, last + 1)))


class Fussy(Journal):
    """Can break wherever a machine can."""

    breaks_at_snapshot = False

    def snapshot(self) -> bytes:
        if self.breaks_at_snapshot:
            raise RuntimeError("cannot save")
        return super().snapshot()


@attrs.define
class Bench:
    """An applier, its machine and what it told; its snapshots are really stored."""

    machine: Journal
    storage: MemoryStorage = attrs.field(factory=MemoryStorage)
    results: list[tuple[int, bytes]] = attrs.field(factory=list)
    members: list[Configuration] = attrs.field(factory=list)
    # What was stored, the newest last.
    saved: list[SnapshotMetadata] = attrs.field(factory=list)
    writer: Writer = attrs.field(init=False)
    snapshots: Snapshots = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.writer = Writer(self.storage, snapshot_index=LogIndex(0), on_durable=lambda write_id: None)
        self.snapshots = Snapshots(
            self.writer,
            chunk_bytes=100,
            label=lambda index, term: snapshot(index, term).metadata,
            first_index_to_keep=lambda index: LogIndex(index + 1),
            on_saved=lambda metadata, keep_from: self.saved.append(metadata),
        )

    def applier(self, *, last_applied: int = 0, snapshot_entries: int = 1000, snapshot_bytes: int = 1 << 30) -> Applier:
        """The applier, not running."""
        return Applier(
            ReplicatedState(self.machine),
            last_applied=LogIndex(last_applied),
            snapshot_entries=snapshot_entries,
            snapshot_bytes=snapshot_bytes,
            on_applied=lambda entry, result: self.results.append((entry.index, result)),
            snapshots=self.snapshots,
            on_members=self.members.append,
        )

    @asynccontextmanager
    async def running(self, applier: Applier) -> AsyncIterator[None]:
        """Run an applier while the block lasts."""
        async with self.storage, trio.open_nursery() as nursery:
            for run in (applier.run, self.writer.run, self.snapshots.run):
                nursery.start_soon(run)
            yield
            nursery.cancel_scope.cancel()

    async def stored(self) -> bytes:
        """The state machine's part of the stored snapshot."""
        whole = await read_snapshot(self.storage)
        assert whole is not None
        return machine_bytes(whole.data)

    async def give(self, applier: Applier, whole: Whole) -> None:
        """Do what happens when a leader's snapshot has arrived."""
        await save_snapshot(self.storage, Whole(whole.metadata, NODE_BYTES + whole.data), keep_from=None)
        applier.post(RestoreSnapshot(whole.metadata))


async def test_commands_are_applied_in_order_and_told_with_their_results() -> None:
    """Each command's result is told with its entry; a no-op only moves the index."""
    bench = Bench(Fussy())
    applier = bench.applier()
    no_op = Entry.create(LogIndex(1), Term(1), EntryKind.NO_OP)
    async with bench.running(applier):
        applier.post(Apply((no_op, command(2, b"two"))))
        applier.post(commands(3, 3))
        await wait_all_tasks_blocked()

    assert bench.results == [(1, b""), (2, b"2:two"), (3, b"3:3")]
    assert bench.machine.lines == [(2, b"two"), (3, b"3")]
    assert applier.last_applied == 3


async def test_snapshot_comes_every_so_many_entries() -> None:
    """The count starts at the last snapshot, be it the node's own, a leader's or the one it started from."""
    bench = Bench(Fussy())
    applier = bench.applier(last_applied=10, snapshot_entries=3)
    async with bench.running(applier):
        for index in range(11, 18):
            applier.post(commands(index, index))
            await wait_all_tasks_blocked()
        assert [metadata.last_included_index for metadata in bench.saved] == [13, 16]

        await bench.give(applier, snapshot(30, 2, b"[]"))
        applier.post(commands(31, 33))
        await wait_all_tasks_blocked()

    assert [metadata.last_included_index for metadata in bench.saved] == [13, 16, 33]


async def test_snapshot_comes_after_so_many_bytes() -> None:
    """Few large entries fill a log as well as many small ones."""
    bench = Bench(Fussy())
    applier = bench.applier(snapshot_bytes=1000)
    async with bench.running(applier):
        for index in range(1, 7):
            applier.post(Apply((command(index, b"x" * 490),)))
            await wait_all_tasks_blocked()

    assert [metadata.last_included_index for metadata in bench.saved] == [2, 4, 6]


async def test_snapshot_holds_the_state_of_its_very_index() -> None:
    """A snapshot in the middle of a batch is of the state after that entry, with its term."""
    bench = Bench(Fussy())
    applier = bench.applier(snapshot_entries=2)
    async with bench.running(applier):
        applier.post(commands(1, 3))
        await wait_all_tasks_blocked()

        [metadata] = bench.saved
        assert (metadata.last_included_index, metadata.last_included_term) == (2, 1)
        other = Journal()
        other.restore(await bench.stored())
    assert other.commands == [b"1", b"2"]


async def test_restore_replaces_the_state_and_moves_the_index() -> None:
    """A leader's snapshot takes the place of all that was applied before it."""
    bench = Bench(Fussy())
    applier = bench.applier()
    donor = Journal()
    donor.apply(LogIndex(9), b"nine")
    async with bench.running(applier):
        applier.post(commands(1, 2))
        await bench.give(applier, snapshot(9, 2, donor.snapshot()))
        await wait_all_tasks_blocked()

    assert applier.last_applied == 9
    assert bench.machine.lines == donor.lines


async def test_members_are_told_when_they_are_committed() -> None:
    """Those of an applied entry, and those of a leader's snapshot."""
    bench = Bench(Fussy())
    applier = bench.applier()
    formed, later = Configuration.of("abc", cluster_id="k"), Configuration.of("ab", cluster_id="k")
    entry = Entry.create(LogIndex(1), Term(1), EntryKind.CONFIGURATION, encode_configuration(formed))
    async with bench.running(applier):
        applier.post(Apply((entry,)))
        await bench.give(applier, snapshot(30, 2, b"[]", members=later))
        await wait_all_tasks_blocked()

    assert bench.members == [formed, later]


async def test_restore_of_a_newer_snapshot_than_was_meant_applies_nothing_twice() -> None:
    """By the time a snapshot is read another may be in its place; what that one covers is passed over."""
    bench = Bench(Fussy())
    applier = bench.applier()
    donor = Journal()
    for index in (9, 12):
        donor.apply(LogIndex(index), b"%d" % index)
    async with bench.running(applier):
        await bench.give(applier, snapshot(9, 2, b"[]"))
        applier.post(commands(10, 11))
        await bench.give(applier, snapshot(12, 2, donor.snapshot()))
        applier.post(commands(13, 13))
        await wait_all_tasks_blocked()

    assert applier.last_applied == 13
    assert bench.machine.lines == [*donor.lines, (13, b"13")]
    assert bench.machine.restored == 1


async def test_machine_that_raises_from_apply_ends_the_applier() -> None:
    """The error has the index and the cause; nothing after the command is applied, and its result is not told."""
    bench = Bench(Fussy())
    applier = bench.applier()
    applier.post(Apply((command(1), command(2, b"raise"), command(3))))

    with pytest.raises(StateMachineError) as caught:
        await applier.run()

    assert caught.value.index == 2
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [index for index, _ in bench.results] == [1]
    assert applier.last_applied == 1


async def test_machine_that_raises_from_snapshot_ends_the_applier() -> None:
    """A state that cannot be saved is as bad as one that cannot be changed."""
    machine = Fussy()
    machine.breaks_at_snapshot = True
    applier = Bench(machine).applier(snapshot_entries=1)
    applier.post(commands(1, 1))

    with pytest.raises(StateMachineError, match="snapshot at 1"):
        await applier.run()


async def test_machine_that_raises_from_restore_is_a_state_machine_error() -> None:
    """Bytes that the machine cannot read are named by the index they stand for."""
    async with MemoryStorage() as storage:
        await save_snapshot(storage, snapshot(7, data=NODE_BYTES + b"not json"), keep_from=None)
        with pytest.raises(StateMachineError, match="up to index 7") as caught:
            await restore_stored(ReplicatedState(Journal()), storage)

    assert caught.value.index == 7
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("entries_a_job", [1, 3 * ENTRIES_PER_CHECKPOINT], ids=["many jobs", "one job"])
async def test_a_long_backlog_lets_others_run(nursery: trio.Nursery, entries_a_job: int) -> None:
    """Thousands of entries, at once or one by one, do not keep heartbeats waiting until all are applied."""
    bench = Bench(Fussy())
    applier = bench.applier()
    seen: list[int] = []

    async def look() -> None:
        while applier.last_applied < 3 * ENTRIES_PER_CHECKPOINT:
            seen.append(applier.last_applied)
            await trio.lowlevel.checkpoint()

    async with bench.running(applier):
        nursery.start_soon(look)
        for first in range(1, 3 * ENTRIES_PER_CHECKPOINT + 1, entries_a_job):
            applier.post(commands(first, first + entries_a_job - 1))
        await wait_all_tasks_blocked()

    # Trio runs tasks in any order, so that two turns of the applier may lie between two looks.
    assert all(later - earlier <= 2 * ENTRIES_PER_CHECKPOINT for earlier, later in pairwise(seen))
    assert len(set(seen)) > 1

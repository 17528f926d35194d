"""A disk that forgets what was not synced, and a storage on it: for crash tests of a whole node.

A write passes four *boundaries*, and a crash at each leaves something else::

    1  BEFORE    nothing of it was handed to the disk     the old state
    2  WRITTEN   handed over, not synced                  the old state, the new one, or something between
    3  SYNCED    synced, the caller not told              the new state
    4  RETURNED  the caller is about to be told           the new state

The boundaries of all writes are numbered from 1 in the order in which they are passed, so that a test can meet each::

    disk = SimulatedDisk()
    await run_node(SimulatedStorage(disk))                       # no crash: how many boundaries are there?
    for boundary in range(1, disk.boundaries_seen + 1):
        disk = SimulatedDisk(seed=seed)
        with trio.CancelScope() as machine:
            disk.crash_at(boundary, cut_power=machine.cancel)    # and perhaps network.isolate(address)
            try:
                await run_node(SimulatedStorage(disk))
            except* SimulatedCrash:
                pass
        assert disk.crashed
        await run_node(SimulatedStorage(disk.after_crash()))     # must have all that was acknowledged

At a boundary before RETURNED the write never returns: it raises SimulatedCrash, a BaseException, so that no handler of
errors takes it for one. At RETURNED it returns, ``cut_power`` has been called, and the node does what it can until its
next checkpoint. From the crash on every call on the disk raises SimulatedCrash: the machine is off.

What WRITTEN leaves is any of the write's sectors, and any not: chosen by a generator seeded with the disk's seed and
the boundary's number, and so the same in each run. What is found again is what ``journal`` makes of the sectors, which
is what the contract of Storage allows. For ``append`` it is the old log; or the replaced suffix gone and any number of
the new entries, from none to all. Other writes are there wholly or not at all.

Long because each call of the storage is a write of the disk: its checks and its boundaries are read together.

Faults that are no crash: ``fail_fsync_at``, ``fill_at``, ``stall``, ``flip_bit``, ``misdirect``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import TracebackType
from typing import Self

import attrs
import trio

from clustercore.interfaces import (
    BytesSnapshotReader,
    Entry,
    HardState,
    InvariantError,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    SnapshotReader,
    Storage,
    StorageError,
    StorageFull,
    StorageIdentity,
    StoredState,
)
from clustercore.testing.simulation import journal
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.journal import Content, Journal, Record

__all__ = ["Boundary", "Content", "SimulatedCrash", "SimulatedDisk", "SimulatedStorage", "Unsynced"]


class SimulatedCrash(BaseException):
    """The machine lost its power in a storage call, or before it."""


class Boundary(Enum):
    """The points of a write between which it can be cut off, in order."""

    BEFORE = 1
    WRITTEN = 2
    SYNCED = 3
    RETURNED = 4


class Unsynced(Enum):
    """What becomes of a write that was handed to the disk but not synced."""

    # One of the possible outcomes, by seed: a power cut may come after the kernel wrote some of it by itself.
    BY_SEED = "by_seed"
    # The kernel wrote none of it yet.
    LOST = "lost"
    # It is all there. So ends every kill of the process alone: the kernel lives on and has what was written.
    KEPT = "kept"


@attrs.frozen
class _Change:
    """A write: its records, and what is on the disk once it is synced."""

    records: Sequence[Record]
    content: Content


@attrs.define
class _PlannedCrash:
    boundary: int
    unsynced: Unsynced
    cut_power: Callable[[], None] | None


class SimulatedDisk:
    """What a machine's disk holds, and what will happen to it.

    Args:
        content: What is on it; nothing, if left out.
        seed: Decides what becomes of unsynced writes.
        write_s: How long each write takes between WRITTEN and SYNCED, in seconds of the run's clock. Even at 0 other
            tasks get a turn there, as they do beside a thread that waits for a real disk.
        jitter_s: The mean of what comes on top of that, which is exponentially distributed.
    """

    def __init__(
        self, content: Content | None = None, *, seed: int | str = 0, write_s: float = 0.0, jitter_s: float = 0.0
    ) -> None:
        # What survives a power cut at this moment; and the sectors that it is made of.
        self._synced = content or Content()
        self._journal = _journal_of(self._synced)
        self._seed = seed
        self._write_s = write_s
        self._slower_s = 0.0
        self._jitter_s = jitter_s
        self._chance = Chance(f"{seed}/latency")
        self._boundaries_seen = 0
        self._writes_seen = 0
        self._planned_crash: _PlannedCrash | None = None
        self._crashed = False
        # Numbers of the writes whose fsync fails.
        self._failing_fsyncs: set[int] = set()
        # The first write that finds the disk full; None while there is room.
        self._full_from: int | None = None
        # Set: writes go on. Replaced by a new event to hold them.
        self._moving = trio.Event()
        self._moving.set()
        # The write that was handed over and is not synced; None between writes.
        self._in_flight: _Change | None = None
        self._is_open = False

    # -- What the test plans --

    def crash_at(
        self, boundary: int, *, unsynced: Unsynced = Unsynced.BY_SEED, cut_power: Callable[[], None] | None = None
    ) -> None:
        """Crash at a boundary, counted from 1 over the disk's life. One crash can be planned at a time.

        Args:
            boundary: Its number; if it is never reached, nothing happens.
            unsynced: What becomes of the write if it is at WRITTEN.
            cut_power: Called at that moment, without a checkpoint between: cancel the node's scope, cut its network.
        """
        self._planned_crash = _PlannedCrash(boundary, unsynced, cut_power)

    def crash_now(self, *, unsynced: Unsynced = Unsynced.BY_SEED) -> None:
        """Crash at once, with a write under way or not. A stalled write raises SimulatedCrash."""
        if self._crashed:
            return
        if self._in_flight is not None:
            self._settle(self._in_flight, unsynced)
        self._crashed = True
        self._moving.set()

    def fail_fsync_at(self, write: int) -> None:
        """Make the fsync of a write fail, counted from 1 over the disk's life: it raises StorageError.

        What it wrote is there or not, as at a crash at WRITTEN by seed: after a failed fsync nobody knows.
        """
        self._failing_fsyncs.add(write)

    def fill_at(self, write: int) -> None:
        """Leave no room from a write on, counted from 1 over the disk's life.

        It raises StorageFull and changes nothing.
        """
        self._full_from = write

    def slow_down(self, by_s: float) -> None:
        """Let each write take so much longer from now on, in seconds; 0 ends it."""
        self._slower_s = by_s

    def make_room(self) -> None:
        """End what ``fill_at`` began."""
        self._full_from = None

    def cancel_plans(self) -> None:
        """Take back what ``crash_at``, ``fail_fsync_at`` and ``fill_at`` planned."""
        self._planned_crash = self._full_from = None
        self._failing_fsyncs.clear()

    def flip_bit(self) -> bool:
        """Flip a bit of what is stored. Say whether so much was stored that it could be told from a torn write.

        Whoever reads it from the disk gets LogCorrupt. What was read before is in memory, and stays as it is.
        """
        return self._journal.flip(self._chance)

    def misdirect(self) -> bool:
        """Let a sector of the last write have gone elsewhere, over what is stored there. Else as ``flip_bit``."""
        return self._journal.misdirect(self._chance)

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Hold every write between WRITTEN and SYNCED while the block lasts, as a disk does that is stuck in an fsync.

        A held write cannot be cancelled. A crash ends it.
        """
        self.hold()
        try:
            yield
        finally:
            self.let_go()

    def hold(self) -> None:
        """Begin what ``stall`` does."""
        if self._moving.is_set():
            self._moving = trio.Event()

    def let_go(self) -> None:
        """End what ``hold`` began."""
        self._moving.set()

    # -- What the test sees --

    @property
    def boundaries_seen(self) -> int:
        """How many boundaries have been passed, the one of the crash included."""
        return self._boundaries_seen

    @property
    def writes_seen(self) -> int:
        """How many writes have begun."""
        return self._writes_seen

    @property
    def crashed(self) -> bool:
        """Whether the machine is off."""
        return self._crashed

    @property
    def synced(self) -> StoredState:
        """What a power cut at this moment would leave for certain; after a crash, what it left."""
        return self._synced.state

    @property
    def content(self) -> Content:
        """The same, with the bytes of the snapshot."""
        return self._synced

    def after_crash(self) -> SimulatedDisk:
        """Return the disk as the machine finds it when it is switched on again: same content, no plans, counts from 0.

        It can be asked for repeatedly; the disks do not share changes.
        """
        if not self._crashed:
            raise RuntimeError("this disk has not crashed")
        disk = self.empty()
        disk._synced, disk._journal = self._synced, self._journal.copy()
        return disk

    def empty(self) -> SimulatedDisk:
        """Return a new disk of this kind, with nothing on it."""
        return SimulatedDisk(seed=self._seed, write_s=self._write_s, jitter_s=self._jitter_s)

    # -- What the storage does --

    def open(self) -> None:
        """Take the disk for one storage."""
        self.check_power()
        if self._is_open:
            raise StorageError("another storage has this simulated disk open")
        self._recover()
        self._is_open = True

    def close(self) -> None:
        """Give the disk back."""
        self._is_open = False

    def check_power(self) -> None:
        """Raise SimulatedCrash if the machine is off."""
        if self._crashed:
            raise SimulatedCrash("the machine is off")

    def check_sound(self) -> None:
        """Raise LogCorrupt if what is stored is damaged."""
        if self._journal.is_damaged:
            self._journal.copy().recover()

    def _recover(self) -> None:
        """Read every sector."""
        found = self._journal.recover()
        if found != self._synced:
            raise InvariantError(f"the simulated disk has {found}, not what was synced: {self._synced}")

    async def write(self, change: _Change) -> None:
        """Carry out one write, past its four boundaries and through whatever is planned for it.

        Cancellation: may raise Cancelled before BEFORE, never after.
        """
        await trio.lowlevel.checkpoint()
        self.check_power()
        self._writes_seen += 1
        write = self._writes_seen
        self._pass(Boundary.BEFORE)
        if self._full_from is not None and write >= self._full_from:
            raise StorageFull(f"the simulated disk is full at write {write}")
        self._in_flight = change
        self._pass(Boundary.WRITTEN)
        await self._wait_for_disk()
        if write in self._failing_fsyncs:
            self._settle(change, Unsynced.BY_SEED)
            raise StorageError(f"the simulated fsync of write {write} failed")
        self._settle(change, Unsynced.KEPT)
        self._pass(Boundary.SYNCED)
        self._pass(Boundary.RETURNED)

    async def _wait_for_disk(self) -> None:
        delay_s = self._write_s + self._slower_s + (self._chance.exponential(self._jitter_s) if self._jitter_s else 0)
        if delay_s or not self._moving.is_set():
            with trio.CancelScope(shield=True, deadline=trio.current_time() + delay_s):
                await trio.sleep_forever()
            with trio.CancelScope(shield=True):
                await self._moving.wait()
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        # The power may have gone meanwhile.
        self.check_power()

    def _pass(self, boundary: Boundary) -> None:
        self._boundaries_seen += 1
        plan = self._planned_crash
        if plan is None or self._boundaries_seen != plan.boundary:
            return
        self.crash_now(unsynced=plan.unsynced)
        if plan.cut_power is not None:
            plan.cut_power()
        if boundary is not Boundary.RETURNED:
            raise SimulatedCrash(f"crashed at boundary {plan.boundary}, {boundary.name} of write {self._writes_seen}")

    def _settle(self, change: _Change, unsynced: Unsynced) -> None:
        """Let a write that was handed over be there, or not, or in part."""
        self._in_flight = None
        if unsynced is Unsynced.KEPT:
            self._journal.append(change.records)
            self._synced = change.content
        elif unsynced is Unsynced.BY_SEED:
            # A generator for each decision: what one write becomes does not depend on how many came before it.
            self._journal.tear(change.records, Chance(f"{self._seed}/{self._writes_seen}"))
            if self._journal.is_damaged:
                # Nobody will find anything here any more.
                return
            self._synced = self._journal.recover()


def _journal_of(content: Content) -> Journal:
    """Return a disk that holds this, each part written by itself."""
    made, state = Journal(), content.state
    if state.identity is not None:
        made.append([journal.identity(state.identity)])
    made.append([journal.term(state.hard_state)])
    if state.snapshot is not None:
        made.append([journal.install(state.snapshot, None, content.snapshot_data)])
    if state.entries:
        made.append([journal.entry(entry) for entry in state.entries])
    return made


class SimulatedStorage(Storage):
    """A Storage on a simulated disk. Several can follow one another on a disk, one at a time.

    After a StorageError each later call raises StorageError, as a real storage's would.

    Raises:
        SimulatedCrash: from every method, when the machine is off.
        InvariantError: if a caller breaks the contract: a gap in the log, or a write below the snapshot.
    """

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        # What the node sees: all that returned, before any outcome is chosen.
        self._content = Content()
        # Snapshots that are being stored, with what there is of each.
        self._drafts: dict[SnapshotId, tuple[SnapshotMetadata, bytes]] = {}
        self._failure: StorageError | None = None
        self._is_open = False

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._disk.open()
        self._is_open = True
        self._content = self._disk.content
        self._drafts.clear()
        self._failure = None
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        self._disk.close()

    @property
    def _state(self) -> StoredState:
        return self._content.state

    async def load(self) -> StoredState:
        await self._read_from_disk()
        return self._state

    async def save_identity(self, identity: StorageIdentity) -> None:
        await self._write([journal.identity(identity)], attrs.evolve(self._state, identity=identity))

    async def save_hard_state(self, hard_state: HardState) -> None:
        await self._write([journal.term(hard_state)], attrs.evolve(self._state, hard_state=hard_state))

    async def append(self, entries: Sequence[Entry]) -> None:
        _check_appendable(self._state, entries)
        stored, added = self._state.entries, tuple(entries)
        kept = stored[: added[0].index - stored[0].index] if stored else ()
        records = [journal.entry(entry) for entry in added]
        if len(kept) < len(stored):
            records.insert(0, journal.cut(added[0].index))
        await self._write(records, attrs.evolve(self._state, entries=kept + added))

    async def write_snapshot_chunk(self, metadata: SnapshotMetadata, offset: int, data: bytes) -> None:
        before = b"" if offset == 0 else self._draft_of(metadata)
        if len(before) != offset:
            raise InvariantError(f"a part of a snapshot at {offset} does not follow the {len(before)} bytes there are")
        await self._write([journal.part(data)], self._state)
        self._drafts[metadata.snapshot_id] = (metadata, before + data)

    async def install_snapshot(self, metadata: SnapshotMetadata, *, keep_from: LogIndex | None) -> None:
        _check_snapshot(self._state, metadata, keep_from)
        data = self._draft_of(metadata)
        kept = tuple(entry for entry in self._state.entries if keep_from is not None and entry.index >= keep_from)
        state = attrs.evolve(self._state, snapshot=metadata, entries=kept)
        await self._write([journal.install(metadata, keep_from, data)], state, data)
        covered = metadata.last_included_index
        self._drafts = {name: draft for name, draft in self._drafts.items() if draft[0].last_included_index > covered}

    async def discard_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._read()
        self._drafts.pop(snapshot_id, None)

    async def open_snapshot(self) -> SnapshotReader | None:
        await self._read()
        metadata = self._state.snapshot
        return (
            None
            if metadata is None
            else BytesSnapshotReader(metadata, self._content.snapshot_data, self._read_from_disk)
        )

    def _draft_of(self, metadata: SnapshotMetadata) -> bytes:
        draft = self._drafts.get(metadata.snapshot_id)
        if draft is None or draft[0] != metadata:
            raise InvariantError(f"no part of snapshot {metadata.snapshot_id!r} was written")
        return draft[1]

    async def _read_from_disk(self) -> None:
        await self._read()
        self._disk.check_sound()

    async def _read(self) -> None:
        await trio.lowlevel.checkpoint()
        self._disk.check_power()
        self._check_usable()

    async def _write(self, records: Sequence[Record], state: StoredState, snapshot_data: bytes | None = None) -> None:
        """Write; the records of one write are there up to some of them after an interruption."""
        self._check_usable()
        content = Content(state, self._content.snapshot_data if snapshot_data is None else snapshot_data)
        try:
            await self._disk.write(_Change(records, content))
        except StorageError as error:
            self._failure = error
            raise
        self._content = content

    def _check_usable(self) -> None:
        if not self._is_open:
            raise StorageError("the simulated storage is not open")
        if self._failure is not None:
            raise StorageError(f"the simulated storage failed before: {self._failure}") from self._failure


def _covered_index(state: StoredState) -> int:
    return state.snapshot.last_included_index if state.snapshot else 0


def _last_index(state: StoredState) -> int:
    return state.entries[-1].index if state.entries else _covered_index(state)


def _check_appendable(state: StoredState, entries: Sequence[Entry]) -> None:
    indexes = [entry.index for entry in entries]
    if not indexes or indexes != list(range(indexes[0], indexes[0] + len(indexes))):
        raise InvariantError(f"append needs entries that are consecutive by index, not {indexes}")
    if not _covered_index(state) < indexes[0] <= _last_index(state) + 1:
        raise InvariantError(
            f"append at {indexes[0]}, after a log to {_last_index(state)}, {_covered_index(state)} covered"
        )


def _check_snapshot(state: StoredState, metadata: SnapshotMetadata, keep_from: LogIndex | None) -> None:
    covered = metadata.last_included_index
    if covered <= _covered_index(state):
        raise InvariantError(f"a snapshot to {covered} cannot replace the one to {_covered_index(state)}")
    if keep_from is not None and (keep_from > covered + 1 or keep_from <= _last_index(state) < covered):
        raise InvariantError(f"keeping the log from {keep_from} with a snapshot to {covered} leaves a gap")

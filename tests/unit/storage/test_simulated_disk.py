"""The simulated disk of the crash tests: what each boundary leaves, and that a run can be repeated."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing

from clustercore.interfaces import (
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    NodeId,
    StorageError,
    StorageFull,
    StoredState,
    Term,
)
from clustercore.testing.simulation.disk import SimulatedCrash, SimulatedDisk, SimulatedStorage, Unsynced
from tests.snapshots import snapshot

BOUNDARIES_A_WRITE = 4


def commands(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    """Return the command entries from first to last, both inclusive."""
    return tuple(Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, b"x") for index in range(first, last + 1))


VOTE = HardState(Term(2), NodeId("a"))
AFTER = [
    StoredState(),
    StoredState(HardState(), None, commands(1, 3)),
    StoredState(VOTE, None, commands(1, 3)),
    StoredState(VOTE, None, commands(1, 1) + commands(2, 4, term=2)),
    StoredState(VOTE, None, commands(1, 1) + commands(2, 4, term=2)),
    StoredState(VOTE, snapshot(2, 2).metadata, commands(3, 4, term=2)),
]


async def write_all(disk: SimulatedDisk, returned: list[int]) -> None:
    """Carry out a write of each kind, noting each that returned."""
    async with SimulatedStorage(disk) as storage:
        await storage.append(commands(1, 3))
        returned.append(1)
        await storage.save_hard_state(VOTE)
        returned.append(2)
        await storage.append(commands(2, 4, term=2))
        returned.append(3)
        await storage.write_snapshot_chunk(snapshot(2, 2).metadata, 0, snapshot(2, 2).data)
        returned.append(4)
        await storage.install_snapshot(snapshot(2, 2).metadata, keep_from=LogIndex(3))
        returned.append(5)


async def crash_in(disk: SimulatedDisk) -> tuple[int, StoredState]:
    """Write until the crash; returns how many writes returned, and what is there when the machine is on again."""
    returned: list[int] = []
    with suppress(SimulatedCrash):
        await write_all(disk, returned)
    assert disk.crashed
    async with SimulatedStorage(disk.after_crash()) as storage:
        return len(returned), await storage.load()


async def test_simulated_disk_counts_four_boundaries_a_write() -> None:
    """Without a crash every write passes four boundaries, and all is there."""
    disk = SimulatedDisk()

    await write_all(disk, [])

    assert disk.boundaries_seen == 5 * BOUNDARIES_A_WRITE
    assert disk.synced == AFTER[5]


@pytest.mark.parametrize("boundary", range(1, 5 * BOUNDARIES_A_WRITE + 1))
@pytest.mark.parametrize("unsynced", [Unsynced.LOST, Unsynced.KEPT])
async def test_simulated_disk_crash_leaves_what_was_synced(boundary: int, unsynced: Unsynced) -> None:
    """Before the sync the write is forgotten (or kept, if the kernel had it); from the sync on it is there."""
    disk = SimulatedDisk()
    disk.crash_at(boundary, unsynced=unsynced)

    returned, state = await crash_in(disk)

    write, step = divmod(boundary - 1, BOUNDARIES_A_WRITE)
    survives = step >= 2 or (step == 1 and unsynced is Unsynced.KEPT)
    assert state == AFTER[write + survives]
    # The last write returns before the crash is felt: the next call is the one that raises.
    assert returned == write + (step == 3)
    assert disk.boundaries_seen == boundary


async def test_simulated_disk_unsynced_append_may_leave_any_prefix() -> None:
    """Over many seeds an append that was cut off leaves the old log or any prefix of the new one, and no more."""
    seen = set()
    for seed in range(100):
        disk = SimulatedDisk(seed=seed)
        disk.crash_at(2 * BOUNDARIES_A_WRITE + 2)
        _, state = await crash_in(disk)
        assert state.hard_state == VOTE
        seen.add(state.entries)

    new = commands(2, 4, term=2)
    assert seen == {commands(1, 3), *(commands(1, 1) + new[:count] for count in range(4))}


async def test_simulated_disk_same_seed_leaves_the_same() -> None:
    """What a crash leaves depends on the seed and the write alone."""
    for seed in range(5):
        states = []
        for _ in range(2):
            disk = SimulatedDisk(seed=seed)
            disk.crash_at(2 * BOUNDARIES_A_WRITE + 2)
            states.append((await crash_in(disk))[1])
        assert states[0] == states[1]


async def test_simulated_disk_calls_cut_power_at_the_crash() -> None:
    """``cut_power`` is called before anything else runs, also at the last boundary, where the write returns."""
    for boundary in (1, 4):
        disk = SimulatedDisk()
        returned: list[int] = []
        with trio.CancelScope() as machine:
            disk.crash_at(boundary, cut_power=machine.cancel)
            with suppress(SimulatedCrash):
                await write_all(disk, returned)

        assert machine.cancel_called
        assert len(returned) == (boundary == 4)


async def test_simulated_disk_is_off_after_the_crash() -> None:
    """Every call after the crash raises SimulatedCrash, on this storage and on a new one."""
    disk = SimulatedDisk()
    async with SimulatedStorage(disk) as storage:
        disk.crash_now()
        with pytest.raises(SimulatedCrash):
            await storage.append(commands(1, 1))
        with pytest.raises(SimulatedCrash):
            await storage.load()
    with pytest.raises(SimulatedCrash):
        async with SimulatedStorage(disk):
            pass


async def test_simulated_disk_after_crash_shares_nothing() -> None:
    """A disk can be switched on again repeatedly, each time as the crash left it; one that did not crash cannot."""
    disk = SimulatedDisk()
    with pytest.raises(RuntimeError):
        disk.after_crash()
    disk.crash_now()

    async with SimulatedStorage(disk.after_crash()) as storage:
        await storage.append(commands(1, 1))

    assert disk.after_crash().synced == StoredState()


async def test_simulated_disk_failed_fsync_ends_the_storage() -> None:
    """The write raises StorageError and so does every later call; a new storage finds one of the possible outcomes."""
    seen = set()
    for seed in range(50):
        disk = SimulatedDisk(seed=seed)
        disk.fail_fsync_at(2)
        async with SimulatedStorage(disk) as storage:
            await storage.append(commands(1, 1))
            with pytest.raises(StorageError):
                await storage.append(commands(2, 3))
            with pytest.raises(StorageError):
                await storage.load()
        async with SimulatedStorage(disk) as storage:
            seen.add((await storage.load()).entries)

    assert seen == {commands(1, 1), commands(1, 2), commands(1, 3)}


async def test_simulated_disk_full_changes_nothing() -> None:
    """The write raises StorageFull and leaves everything; with room again a new storage goes on."""
    disk = SimulatedDisk()
    disk.fill_at(2)
    async with SimulatedStorage(disk) as storage:
        await storage.append(commands(1, 1))
        with pytest.raises(StorageFull):
            await storage.append(commands(2, 2))

    disk.make_room()
    async with SimulatedStorage(disk) as storage:
        assert (await storage.load()).entries == commands(1, 1)
        await storage.append(commands(2, 2))
    assert disk.synced.entries == commands(1, 2)


async def test_simulated_disk_stall_holds_writes_and_cannot_be_cancelled() -> None:
    """A write waits while the disk stalls, other tasks go on, and a cancelled one is finished and returns."""
    disk = SimulatedDisk()
    returned: list[int] = []

    async def write() -> None:
        await storage.append(commands(1, 1))
        returned.append(1)

    async with SimulatedStorage(disk) as storage, trio.open_nursery() as nursery:
        with disk.stall():
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope(shield=True):
                nursery.cancel_scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            assert returned == []
            assert disk.synced == StoredState()

    assert returned == [1]
    assert disk.synced.entries == commands(1, 1)


async def test_simulated_disk_crash_ends_a_stalled_write() -> None:
    """A crash reaches a write that is held, and leaves what the seed says."""
    disk = SimulatedDisk()
    async with SimulatedStorage(disk) as storage:
        with pytest.RaisesGroup(SimulatedCrash):
            async with trio.open_nursery() as nursery:
                with disk.stall():
                    nursery.start_soon(storage.append, commands(1, 1))
                    await trio.testing.wait_all_tasks_blocked()
                    disk.crash_now(unsynced=Unsynced.LOST)

    assert disk.synced == StoredState()


async def test_simulated_disk_write_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """With ``write_s`` each write takes so long on the run's clock."""
    disk = SimulatedDisk(write_s=0.5)

    await write_all(disk, [])

    assert trio.current_time() == 2.5

"""The rules of storages about crashes, failed syncs and damage.

What a crash may leave is gathered while a write runs: see ``disk_images``. Each image is opened as the next start of
the node would, and what is found there must be what the contract allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

import attrs
import pytest

from clustercore.interfaces import (
    HardState,
    LogCorrupt,
    LogIndex,
    NodeId,
    Storage,
    StorageError,
    StorageFull,
    StorageIdentity,
    StoredState,
    Term,
)
from clustercore.testing.conformance.disk_images import failing_syncs, mixtures, read_image, recorded, write_image
from clustercore.testing.conformance.storage_bench import Open, StorageBench, Write, append, case, save_hard_state
from clustercore.testing.conformance.storage_values import (
    Whole,
    command,
    commands,
    read_snapshot,
    save_snapshot,
    snapshot,
)

__all__ = ["CrashRules"]

OLD = snapshot(2, data=b"the old state" * 50)
NEW = snapshot(4, data=bytes(range(256)) * 20)
# Writes of which one does not fit on a disk that is full, and how large each is.
FULL_WRITES = 200
FULL_BYTES = 16 * 1024
IDENTITY = StorageIdentity(NodeId("a"), "one", 1)


async def _install(storage: Storage) -> None:
    await storage.install_snapshot(NEW.metadata, keep_from=LogIndex(4))


WRITES: tuple[tuple[str, Write], ...] = (
    ("save_identity", lambda storage: storage.save_identity(attrs.evolve(IDENTITY, starts=2))),
    ("save_hard_state", save_hard_state(HardState(Term(9), NodeId("b")))),
    ("append one", append([command(6, 2, b"x" * 300)])),
    ("append many", append(commands(range(6, 40), 2))),
    ("append in place of others", append(commands(range(4, 12), 2))),
    ("write_snapshot_chunk", lambda storage: storage.write_snapshot_chunk(snapshot(5).metadata, 0, b"part" * 500)),
    ("install_snapshot", _install),
)


class CrashRules(StorageBench):
    """Whatever happens to a write, what was durable is there, and the write is there wholly or not at all."""

    async def crashes_during(self, folder: Path, storage: Storage, write: Write) -> Iterable[Open]:
        """Carry out a write; return, for whatever a crash in it may leave, a function that opens a storage over that.

        The default copies the files of the folder. Override it for a storage that keeps its content elsewhere.
        """
        with recorded(folder) as recording:
            await write(storage)
        random = Random(len(recording.moments))
        steps = zip(recording.moments, recording.moments[1:], strict=False)
        images = [image for before, after in steps for image in mixtures(before, after, random)]
        return [self._over(image) for image in images or [recording.moments[-1].image]]

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this storage, by the name of the test, each with the reason."""
        reasons = super().left_out()
        if not self.is_in_folder:
            reasons |= dict.fromkeys(
                ("test_what_returned_survives_a_power_cut", "test_damage_is_found"), "is_in_folder is False"
            )
            if type(self).crashes_during is CrashRules.crashes_during:
                reasons["test_crash_in_a_write_leaves_all_of_it_or_nothing"] = "crashes_during is not overridden"
        if not (self.is_in_folder and self.syncs_in_python):
            reasons["test_failed_sync_stops_it_for_good"] = "syncs_in_python is False"
        if type(self).full_disk is StorageBench.full_disk:
            reasons["test_full_disk_refuses_what_does_not_fit"] = "full_disk is not overridden"
        return reasons

    async def test_crash_in_a_write_leaves_all_of_it_or_nothing(self) -> None:
        """After a crash at any moment of a write the old content is there or the new; of entries, perhaps the first."""
        for name, write in WRITES:
            with case(write=name):
                folder, open_storage = self._fresh_folder()
                async with open_storage() as storage:
                    before = await self._begin(storage)
                    crashes = await self.crashes_during(folder, storage, write)
                    after = await storage.load()
                for number, crashed in enumerate(crashes):
                    with case(crash=number):
                        await self._check_crashed(crashed, before, after)

    async def _check_crashed(self, crashed: Open, before: StoredState, after: StoredState) -> None:
        allowed = [before, after, *_partly_appended(before, after)]
        async with crashed() as storage:
            found = await storage.load()
            assert found in allowed, f"neither what was there nor what was written: {found}"
            assert await read_snapshot(storage) == (OLD if found.snapshot == OLD.metadata else NEW)
            next_index = LogIndex(found.entries[-1].index + 1)
            await storage.append([command(next_index, 99)])
            assert (await storage.load()).entries == (*found.entries, command(next_index, 99))

    async def test_what_returned_survives_a_power_cut(self) -> None:
        """When a write has returned, it is there even if all is lost that was not synced, names of files included."""
        for name, write in WRITES:
            with case(write=name):
                folder, open_storage = self._fresh_folder()
                with recorded(folder) as recording:
                    async with open_storage() as storage:
                        await self._begin(storage)
                        await write(storage)
                        after = await storage.load()
                        left = recording.synced if self.syncs_in_python else read_image(folder)
                async with self._over(left)() as storage:
                    assert await storage.load() == after

    async def test_failed_sync_stops_it_for_good(self) -> None:
        """A sync that fails is StorageError, is never tried again, and every later call is StorageError too."""
        for name, write in WRITES:
            if name == "write_snapshot_chunk":
                # It promises nothing, so it need not sync.
                continue
            with case(write=name):
                _, open_storage = self._fresh_folder()
                async with open_storage() as storage:
                    before = await self._begin(storage)
                    with failing_syncs() as tried:
                        with pytest.raises(StorageError):
                            await write(storage)
                        assert len(tried) == 1
                    with recorded(self.folder) as recording:
                        for again in (write, save_hard_state(HardState(Term(10))), append([command(6)])):
                            with pytest.raises(StorageError):
                                await again(storage)
                        with pytest.raises(StorageError):
                            await storage.load()
                    assert len(recording.moments) == 1, "it has written after a failed sync"
                async with open_storage() as storage:
                    # What the failed write was to leave is there or not; what was durable is.
                    found = await storage.load()
                    assert found.entries[:1] == before.entries[:1]
                    assert found.identity is not None

    async def test_full_disk_refuses_what_does_not_fit(self) -> None:
        """On a full disk a write is StorageFull, and so is no earlier one undone; with room again it all goes on."""
        folder, open_storage = self._fresh_folder()
        async with open_storage() as storage:
            await self._begin(storage)
            refused = None
            with self.full_disk(folder, storage):
                for index in range(6, 6 + FULL_WRITES):
                    before = await storage.load()
                    refused = command(index, 2, bytes(FULL_BYTES))
                    try:
                        await storage.append([refused])
                    except StorageFull:
                        break
                else:
                    pytest.fail(f"{FULL_WRITES} writes of {FULL_BYTES} bytes fitted on a full disk")
            with pytest.raises(StorageError):
                await storage.append([refused])
        async with open_storage() as storage:
            # As after a crash: what does not fit is there wholly or not at all, and it was acknowledged to nobody.
            found = await storage.load()
            assert found in (before, attrs.evolve(before, entries=(*before.entries, refused)))
            assert await read_snapshot(storage) == OLD
            last = command(LogIndex(found.entries[-1].index + 1), 2)
            await storage.append([last])
            assert (await storage.load()).entries == (*found.entries, last)

    async def test_damage_is_found(self) -> None:
        """A bit that is not what was written is LogCorrupt, or does no harm: other content is never returned."""
        folder, open_storage = self._fresh_folder()
        async with open_storage() as storage:
            await self._begin(storage)
            await _install(storage)
            await storage.append(commands(range(6, 60)))
            state, stored = await storage.load(), await read_snapshot(storage)
        intact, random = read_image(folder), Random(1)
        for name, content in intact.items():
            # A damaged end cannot be told from a write that a crash has cut off, and none was promised beyond it.
            for place in sorted(random.sample(range(len(content)), min(len(content), 60))):
                if place >= len(content) - 4096:
                    continue
                damaged = bytearray(content)
                damaged[place] ^= 1 << random.randrange(8)
                with case(file=name, byte=place):
                    await self._check_damaged(self._over(intact | {name: bytes(damaged)}), state, stored)

    async def _check_damaged(self, damaged: Open, state: StoredState, stored: Whole | None) -> None:
        try:
            async with damaged() as storage:
                assert await storage.load() == state
                assert await read_snapshot(storage) == stored
        except LogCorrupt:
            return

    # --- Helpers ---

    def _fresh_folder(self) -> tuple[Path, Open]:
        folder = self.new_folder()
        return folder, lambda: self.make(folder)

    def _over(self, image: dict[str, bytes]) -> Open:
        """Return a function that opens a storage over a copy of files."""

        def open_copy() -> Storage:
            folder = self.new_folder()
            write_image(image, folder)
            return self.make(folder)

        return open_copy

    async def _begin(self, storage: Storage) -> StoredState:
        """Store something of everything, and the parts of a snapshot that is not installed yet."""
        await storage.load()
        await storage.save_identity(IDENTITY)
        await storage.save_hard_state(HardState(Term(3), NodeId("a")))
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, OLD, keep_from=2)
        for offset in range(0, len(NEW.data), 1000):
            await storage.write_snapshot_chunk(NEW.metadata, offset, NEW.data[offset : offset + 1000])
        return await storage.load()


def _partly_appended(before: StoredState, after: StoredState) -> list[StoredState]:
    """Return what an append may have left: the log up to its first new entry, and some of those."""
    if attrs.evolve(before, entries=()) != attrs.evolve(after, entries=()):
        return []
    kept = sum(old == new for old, new in zip(before.entries, after.entries, strict=False))
    return [attrs.evolve(after, entries=after.entries[:count]) for count in range(kept, len(after.entries))]

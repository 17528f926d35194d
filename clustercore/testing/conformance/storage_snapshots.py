"""The rules of storages about snapshots that come in parts."""

from __future__ import annotations

import attrs
import pytest

from clustercore.interfaces import (
    InvariantError,
    LogIndex,
    SnapshotId,
    SnapshotReader,
    Storage,
    StorageError,
    Term,
)
from clustercore.testing.conformance.storage_bench import StorageBench, case
from clustercore.testing.conformance.storage_values import (
    Whole,
    command,
    commands,
    read_snapshot,
    save_snapshot,
    snapshot,
)

__all__ = ["SnapshotRules"]

OLD = snapshot(2, data=b"the old state")
NEW = snapshot(4, data=bytes(range(256)) * 40)


class SnapshotRules(StorageBench):
    """A snapshot is written beside the stored one, takes its place in one step, and stays readable while it is read."""

    async def test_snapshot_comes_back_from_parts_of_any_size(self) -> None:
        """However it was cut when it was written, and is read again, now and after the next opening."""
        for chunk_bytes in [1, 7, 1000, 10_239, 10_240, 100_000]:
            with case(chunk_bytes=chunk_bytes):
                open_storage = self.fresh()
                whole = snapshot(4, data=NEW.data[:64]) if chunk_bytes == 1 else NEW
                async with open_storage() as storage:
                    await begin(storage)
                    await save_snapshot(storage, whole, keep_from=5, chunk_bytes=chunk_bytes)
                    assert await read_snapshot(storage, max_bytes=333) == whole

                async with open_storage() as storage:
                    assert (await storage.load()).snapshot == whole.metadata
                    assert await read_snapshot(storage, max_bytes=4096) == whole

    async def test_snapshot_without_bytes(self) -> None:
        """A state machine may have no state: one empty part is a snapshot."""
        open_storage = self.fresh()
        empty = snapshot(3, data=b"")
        async with open_storage() as storage:
            await begin(storage)
            await save_snapshot(storage, empty, keep_from=4)
            assert await read_snapshot(storage) == empty

        async with open_storage() as storage:
            reader = await open_reader(storage)
            assert (reader.size, await reader.read(0, 10)) == (0, b"")

    async def test_parts_are_no_snapshot_yet(self) -> None:
        """What ``load`` and ``open_snapshot`` return stays as it is until the install, and the log goes on beside."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            before = await storage.load()

            await write(storage, NEW, upto=5000)
            assert await storage.load() == before
            assert await read_snapshot(storage) == OLD

            await storage.append([command(6)])
            await storage.write_snapshot_chunk(NEW.metadata, 5000, NEW.data[5000:])
            await storage.install_snapshot(NEW.metadata, keep_from=LogIndex(5))

            assert await read_snapshot(storage) == NEW
            state = await storage.load()
            assert (state.snapshot, state.entries) == (NEW.metadata, (command(5), command(6)))

    async def test_snapshot_begins_anew_at_offset_0(self) -> None:
        """A transfer that lost its place sends the whole again; what was written before is no part of it."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            await write(storage, NEW, upto=5000)

            await save_snapshot(storage, NEW, keep_from=5, chunk_bytes=3000)

            assert await read_snapshot(storage) == NEW

    async def test_part_that_does_not_follow_is_refused(self) -> None:
        """A gap, a part twice, or one that overlaps: a bug of the caller. What is there stays, and can go on."""
        for offset in [1, 999, 1001, 2000]:
            with case(offset=offset):
                open_storage = self.fresh()
                async with open_storage() as storage:
                    await begin(storage)
                    await write(storage, NEW, upto=1000)

                    with pytest.raises(InvariantError):
                        await storage.write_snapshot_chunk(NEW.metadata, offset, b"x")

                    await storage.write_snapshot_chunk(NEW.metadata, 1000, NEW.data[1000:])
                    await storage.install_snapshot(NEW.metadata, keep_from=LogIndex(5))
                    assert await read_snapshot(storage) == NEW

    async def test_part_of_a_snapshot_that_was_not_begun_is_refused(self) -> None:
        """Whatever else is under way."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            await write(storage, NEW, upto=1000)

            with pytest.raises(InvariantError):
                await storage.write_snapshot_chunk(snapshot(4, name="other").metadata, 1000, b"x")

    async def test_installs_only_what_was_written(self) -> None:
        """What the parts were written as is what is installed, or nothing is."""
        for metadata in [
            snapshot(5).metadata,
            attrs.evolve(NEW.metadata, snapshot_id=SnapshotId("other")),
            attrs.evolve(NEW.metadata, last_included_index=LogIndex(5)),
            attrs.evolve(NEW.metadata, last_included_term=Term(2)),
        ]:
            with case(metadata=metadata):
                open_storage = self.fresh()
                async with open_storage() as storage:
                    await begin(storage)
                    await write(storage, NEW)
                    before = await storage.load()

                    with pytest.raises(InvariantError):
                        await storage.install_snapshot(metadata, keep_from=None)

                    assert await storage.load() == before
                    assert await read_snapshot(storage) == OLD

    async def test_two_snapshots_are_written_side_by_side(self) -> None:
        """The parts of two snapshots do not mix, and the newer goes on when the older is installed."""
        open_storage = self.fresh()
        own, leaders = NEW, snapshot(9, 2, data=b"leader" * 700)
        async with open_storage() as storage:
            await begin(storage)
            await write(storage, own, upto=4000)
            await write(storage, leaders, upto=2000)
            await storage.write_snapshot_chunk(own.metadata, 4000, own.data[4000:])
            await storage.install_snapshot(own.metadata, keep_from=LogIndex(5))
            assert await read_snapshot(storage) == own

            await storage.write_snapshot_chunk(leaders.metadata, 2000, leaders.data[2000:])
            await storage.install_snapshot(leaders.metadata, keep_from=None)

            assert await read_snapshot(storage) == leaders
            assert (await storage.load()).entries == ()

    async def test_install_drops_what_covers_no_more(self) -> None:
        """The leader's snapshot has come first: the own one can neither go on nor be installed."""
        for index in [3, 4]:
            with case(index=index):
                open_storage = self.fresh()
                own = snapshot(index, name="own")
                async with open_storage() as storage:
                    await begin(storage)
                    await write(storage, own)
                    await save_snapshot(storage, NEW, keep_from=5)

                    with pytest.raises(InvariantError):
                        await storage.install_snapshot(own.metadata, keep_from=None)
                    with pytest.raises(InvariantError):
                        await storage.write_snapshot_chunk(own.metadata, len(own.data), b"more")

                    assert await read_snapshot(storage) == NEW

    async def test_discard_drops_the_parts(self) -> None:
        """Those of that name, and of no other."""
        open_storage = self.fresh()
        other = snapshot(5, data=b"stays")
        async with open_storage() as storage:
            await begin(storage)
            await write(storage, NEW)
            await write(storage, other)

            await storage.discard_snapshot(NEW.metadata.snapshot_id)

            with pytest.raises(InvariantError):
                await storage.install_snapshot(NEW.metadata, keep_from=None)
            await storage.install_snapshot(other.metadata, keep_from=LogIndex(6))
            assert await read_snapshot(storage) == other

    async def test_discard_of_what_is_not_under_way_changes_nothing(self) -> None:
        """One that is installed is none that is being stored."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            before = await storage.load()

            await storage.discard_snapshot(OLD.metadata.snapshot_id)
            await storage.discard_snapshot(SnapshotId("never seen"))

            assert await storage.load() == before
            assert await read_snapshot(storage) == OLD

    async def test_forgets_parts_when_it_is_opened_again(self) -> None:
        """A node that starts asks for all of a snapshot, and must not find it mixed with what came before."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            await write(storage, NEW)

        async with open_storage() as storage:
            assert (await storage.load()).snapshot == OLD.metadata
            with pytest.raises(InvariantError):
                await storage.install_snapshot(NEW.metadata, keep_from=None)
            with pytest.raises(InvariantError):
                await storage.write_snapshot_chunk(NEW.metadata, len(NEW.data), b"more")
            assert await read_snapshot(storage) == OLD

            await save_snapshot(storage, NEW, keep_from=5)
            assert await read_snapshot(storage) == NEW

    async def test_reader_reads_from_anywhere(self) -> None:
        """At least a byte and at most as many as asked for, from any offset; nothing only at the end and behind it."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            await save_snapshot(storage, NEW, keep_from=5, chunk_bytes=1000)
            reader = await open_reader(storage)

            assert (reader.metadata, reader.size) == (NEW.metadata, len(NEW.data))
            for offset in (0, 1, 999, 1000, 1001, 5500, len(NEW.data) - 1):
                for max_bytes in (1, 999, 1000, 1 << 20):
                    data = await reader.read(offset, max_bytes)
                    assert 1 <= len(data) <= max_bytes
                    assert data == NEW.data[offset : offset + len(data)]
            assert await reader.read(len(NEW.data), 10) == b""
            assert await reader.read(len(NEW.data) + 1, 10) == b""
            await reader.aclose()

    async def test_reader_stays_readable_whatever_is_stored(self) -> None:
        """A snapshot that is being sent has to be the same to its end, though newer ones take its place meanwhile."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            await save_snapshot(storage, NEW, keep_from=5, chunk_bytes=1000)
            reader = await open_reader(storage)
            data = await reader.read(0, 1000)

            for index in (5, 6, 7):
                newer = snapshot(index, data=b"%d" % index * 3000)
                await save_snapshot(storage, newer, keep_from=None, chunk_bytes=500)
                data += await reader.read(len(data), 1000)
                assert await read_snapshot(storage) == newer

            while part := await reader.read(len(data), 1000):
                data += part
            assert data == NEW.data
            await reader.aclose()

    async def test_readers_of_one_snapshot_are_each_their_own(self) -> None:
        """One to each follower; that one is closed leaves the other as it is, also when it is closed twice."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            first, second = await open_reader(storage), await open_reader(storage)
            await save_snapshot(storage, NEW, keep_from=5)

            assert await first.read(0, 3) == OLD.data[:3]
            await first.aclose()
            await first.aclose()
            await save_snapshot(storage, snapshot(6), keep_from=None)
            await save_snapshot(storage, snapshot(7), keep_from=None)

            assert await second.read(0, 100) == OLD.data
            await second.aclose()

    async def test_reader_is_of_no_use_when_it_is_closed(self) -> None:
        """A caller that reads on has a bug, and hears of it."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await begin(storage)
            reader = await open_reader(storage)
            await reader.aclose()

            with pytest.raises(StorageError):
                await reader.read(0, 10)


async def begin(storage: Storage) -> None:
    """Store entries 1 to 5, and the old snapshot in place of the first two."""
    await storage.load()
    await storage.append(commands(range(1, 6)))
    await save_snapshot(storage, OLD, keep_from=3)


async def write(storage: Storage, whole: Whole, *, upto: int | None = None, chunk_bytes: int = 1000) -> None:
    """Write the parts of a snapshot up to a byte."""
    data = whole.data[:upto]
    for offset in range(0, len(data) or 1, chunk_bytes):
        await storage.write_snapshot_chunk(whole.metadata, offset, data[offset : offset + chunk_bytes])


async def open_reader(storage: Storage) -> SnapshotReader:
    """Open the snapshot that is stored."""
    reader = await storage.open_snapshot()
    assert reader is not None
    return reader

"""Snapshots in a SQLite file: what a kill leaves at any statement, and what becomes of the space."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import pytest

from clustercore.interfaces import (
    Entry,
    EntryKind,
    HardState,
    LogCorrupt,
    LogIndex,
    NodeId,
    StorageFull,
    StoredState,
    Term,
)
from clustercore_sqlite import SqliteStorage, database, database_file
from tests.snapshots import Whole, read_snapshot, save_snapshot, snapshot
from tests.unit.storage.files import commands, copy_storage, flip_bit, load

OLD = snapshot(3, data=b"old" * 20_000)
NEW = snapshot(7, 2, data=b"new" * 30_000)
CHUNK_BYTES = 20_000


@contextmanager
def copied_at_each_statement(storage: SqliteStorage, path: Path, folder: Path) -> Iterator[list[Path]]:
    """Copy the files before each SQL statement of the block, and at its end, as a kill would leave them there."""
    copies: list[Path] = []
    database = storage._database
    assert database is not None

    def copy(statement: str) -> None:
        copies.append(copy_storage(path, folder / f"{len(copies)}"))

    database._connection.set_trace_callback(copy)
    yield copies
    database._connection.set_trace_callback(None)
    copy("")


@attrs.frozen
class Held:
    """All that a file holds."""

    state: StoredState
    snapshot: Whole | None


async def held_by(path: Path) -> Held:
    """Open a storage and read everything, to the last byte of its snapshot."""
    async with SqliteStorage(path) as storage:
        return Held(await storage.load(), await read_snapshot(storage))


async def test_sqlite_snapshot_killed_at_any_statement_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one with the old log until the install, the new with the new from then on; and it goes on from there."""
    # Checkpoints come in between too.
    monkeypatch.setattr(database_file, "CHECKPOINT_BYTES", 50_000)
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2), NodeId("a")))
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, OLD, keep_from=2, chunk_bytes=CHUNK_BYTES)
        before = Held(await storage.load(), OLD)
        with copied_at_each_statement(storage, path, tmp_path / "writing") as writing:
            for offset in range(0, len(NEW.data), CHUNK_BYTES):
                await storage.write_snapshot_chunk(NEW.metadata, offset, NEW.data[offset : offset + CHUNK_BYTES])
        with copied_at_each_statement(storage, path, tmp_path / "installing") as installing:
            await storage.install_snapshot(NEW.metadata, keep_from=None)
        after = Held(await storage.load(), NEW)
    assert after.state == StoredState(HardState(Term(2), NodeId("a")), NEW.metadata, ())
    assert len(writing) > 20
    assert len(installing) >= 5

    assert [await held_by(copy) for copy in writing] == [before] * len(writing)
    found = [await held_by(copy) for copy in installing]
    first_new = found.index(after)
    assert 0 < first_new < len(found)
    assert found == [before] * first_new + [after] * (len(found) - first_new)

    for copy in (writing[10], installing[0], installing[-1]):
        async with SqliteStorage(copy) as storage:
            whole = snapshot(9, 2, data=b"again" * 9000)
            await save_snapshot(storage, whole, keep_from=None, chunk_bytes=CHUNK_BYTES)
        assert (await held_by(copy)).snapshot == whole


async def chunks_in(path: Path) -> int:
    """Return how many chunks there are in a file that nobody has open."""
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute("SELECT count(*) FROM snapshot_chunks").fetchone()
    finally:
        connection.close()
    return int(count)


async def test_sqlite_parts_of_a_snapshot_that_was_cut_off_are_removed_at_the_next_start(tmp_path: Path) -> None:
    """They are of no use then. What is stored stays."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, OLD, keep_from=2, chunk_bytes=CHUNK_BYTES)
        for offset in range(0, 400_000, 1000):
            await storage.write_snapshot_chunk(NEW.metadata, offset, bytes(1000))
    assert await chunks_in(path) == 403

    held = await held_by(path)

    assert held.snapshot == OLD
    assert await chunks_in(path) == 3


async def test_sqlite_start_that_is_killed_while_it_removes_parts_goes_on_at_the_next(tmp_path: Path) -> None:
    """However far it got, nothing that counts is gone."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, OLD, keep_from=2, chunk_bytes=CHUNK_BYTES)
        for offset in range(0, 400_000, 1000):
            await storage.write_snapshot_chunk(NEW.metadata, offset, bytes(1000))
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM snapshot_chunks WHERE start > 100000")
    connection.commit()
    connection.close()

    assert (await held_by(path)).snapshot == OLD
    assert await chunks_in(path) == 3


async def test_sqlite_space_of_old_snapshots_serves_new_ones(tmp_path: Path) -> None:
    """A file does not grow with the number of snapshots, also if each transfer is cut off and begun anew."""
    path = tmp_path / "node.db"
    sizes = []
    async with SqliteStorage(path) as storage:
        await storage.append(commands([1]))
        for index in range(2, 40):
            whole = snapshot(index, data=bytes([index]) * 200_000)
            await storage.write_snapshot_chunk(whole.metadata, 0, whole.data[:CHUNK_BYTES])
            await save_snapshot(storage, whole, keep_from=None, chunk_bytes=CHUNK_BYTES)
            sizes.append(path.stat().st_size)

    assert max(sizes) < 3.5 * 200_000
    assert max(sizes[20:]) == max(sizes)  # it has stopped growing long before


@pytest.mark.parametrize("damaged", [b"first part", b"the last part"])
async def test_sqlite_damage_in_any_part_is_found_when_it_is_read(tmp_path: Path, damaged: bytes) -> None:
    """By that part's checksum, so nothing of it gets to a follower or a state machine; what is before it is read."""
    path = tmp_path / "node.db"
    whole = snapshot(4, data=b"first part".ljust(5000, b".") + b"in between".ljust(5000, b".") + b"the last part")
    async with SqliteStorage(path) as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, whole, keep_from=5, chunk_bytes=5000)
    flip_bit(path, damaged)

    async with SqliteStorage(path) as storage:
        reader = await storage.open_snapshot()
        assert reader is not None
        good = [0, 5000, 10_000]
        bad = good.pop(whole.data.index(damaged) // 5000)
        for offset in good:
            assert await reader.read(offset, 5000) == whole.data[offset : offset + 5000]
        with pytest.raises(LogCorrupt, match=f"part at {bad} fails its checksum"):
            await reader.read(bad, 5000)


async def test_sqlite_part_that_is_missing_is_found_at_the_start(tmp_path: Path) -> None:
    """Before anything of the rest is used."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await save_snapshot(storage, NEW, keep_from=None, chunk_bytes=CHUNK_BYTES)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM snapshot_chunks WHERE start = ?", (CHUNK_BYTES,))
    connection.commit()
    connection.close()

    with pytest.raises(LogCorrupt, match="the snapshot has 70000 bytes, it must have 90000"):
        await load(path)


async def test_sqlite_disk_that_is_full_in_a_snapshot_keeps_the_log(tmp_path: Path) -> None:
    """What was acknowledged before is there, with the old snapshot; with room again, the node goes on."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, OLD, keep_from=2, chunk_bytes=CHUNK_BYTES)
        before = Held(await storage.load(), OLD)
        database = storage._database
        assert database is not None
        (pages,) = database._connection.execute("PRAGMA page_count").fetchone()
        database._connection.execute(f"PRAGMA max_page_count={pages + 10}")
        with pytest.raises(StorageFull):
            await save_snapshot(storage, NEW, keep_from=None, chunk_bytes=CHUNK_BYTES)

    assert await held_by(path) == before
    async with SqliteStorage(path) as storage:
        await storage.append(commands([6]))
        await save_snapshot(storage, NEW, keep_from=None, chunk_bytes=CHUNK_BYTES)
    assert (await held_by(path)).snapshot == NEW
    assert (await load(path)).entries == ()
    async with SqliteStorage(path) as storage:
        await storage.append(commands([8]))
    assert [entry.index for entry in (await load(path)).entries] == [LogIndex(8)]


# --- The log that a snapshot covers ---


def large(indexes: range) -> list[Entry]:
    """Entries of 100,000 bytes each: SQLite reads every page of a row that it deletes."""
    return [Entry.create(LogIndex(index), Term(1), EntryKind.COMMAND, bytes(100_000)) for index in indexes]


def entries_in(path: Path, copy: Path) -> list[int]:
    """Return the indexes of all rows of the log, those that are left over too, in files that are open."""
    with closing(sqlite3.connect(copy_storage(path, copy))) as connection:
        return [index for (index,) in connection.execute("SELECT entry_index FROM entries ORDER BY entry_index")]


@pytest.mark.parametrize("keep_from", [38, None])
async def test_sqlite_log_is_not_dropped_in_one_go(tmp_path: Path, keep_from: int | None) -> None:
    """Its size does not hold up the install (issue 3: a leader handed over, as its disk seemed to stall).

    With each append about twice as much goes as comes, or a little if little comes. None of it is ever read again.
    """
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2)))
        await storage.append(large(range(1, 41)))

        await save_snapshot(storage, snapshot(40), keep_from=keep_from, chunk_bytes=CHUNK_BYTES)

        kept = [] if keep_from is None else [38, 39, 40]
        assert entries_in(path, tmp_path / "copy") == [*range(1, 41)]
        assert [entry.index for entry in (await storage.load()).entries] == kept

        await storage.append(commands([41]))
        assert entries_in(path, tmp_path / "copy") == [*range(3, 42)]
        await storage.append(large(range(42, 44)))
        assert entries_in(path, tmp_path / "copy") == [*range(9, 44)]
        for index in range(44, 64):
            await storage.append(commands([index]))
        assert entries_in(path, tmp_path / "copy") == [*(kept or []), *range(41, 64)]
        assert [entry.index for entry in (await storage.load()).entries] == [*kept, *range(41, 64)]


async def test_sqlite_log_that_was_dropped_does_not_come_back_with_a_longer_tail(tmp_path: Path) -> None:
    """What is left over does not count again where the next snapshot keeps the log from further back."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2)))
        await storage.append(large(range(1, 11)))
        await save_snapshot(storage, snapshot(20, 2), keep_from=None, chunk_bytes=CHUNK_BYTES)
        await storage.append(commands(range(21, 31)))
        assert 10 in entries_in(path, tmp_path / "copy")

        await save_snapshot(storage, snapshot(25, 2), keep_from=1, chunk_bytes=CHUNK_BYTES)

        assert [entry.index for entry in (await storage.load()).entries] == [*range(21, 31)]
    assert [entry.index for entry in (await load(path)).entries] == [*range(21, 31)]


async def test_sqlite_log_that_contradicts_a_snapshot_goes_with_it(tmp_path: Path) -> None:
    """What lies behind the snapshot is not left over: entries of another leader take its indexes."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2)))
        await storage.append(commands(range(1, 10)))

        await save_snapshot(storage, snapshot(5, 2), keep_from=None, chunk_bytes=CHUNK_BYTES)

        assert entries_in(path, tmp_path / "copy") == [1, 2, 3, 4, 5]
        assert (await storage.load()).entries == ()
    assert (await load(path)).entries == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (0,)


async def test_sqlite_kill_while_a_log_is_dropped_leaves_what_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any statement: the log begins where the snapshot says, and what an append returned for is there."""
    monkeypatch.setattr(database_file, "CHECKPOINT_BYTES", 50_000)
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2)))
        await storage.append(large(range(1, 13)))
        await save_snapshot(storage, snapshot(12), keep_from=11, chunk_bytes=CHUNK_BYTES)
        with copied_at_each_statement(storage, path, tmp_path / "dropping") as dropping:
            for index in range(13, 20):
                await storage.append(commands([index]))
    assert len(dropping) > 30

    found = [[entry.index for entry in (await load(copy)).entries] for copy in dropping]

    assert all(indexes == [*range(11, 11 + len(indexes))] for indexes in found)
    assert [len(indexes) for indexes in found] == sorted(map(len, found))
    assert (found[0], found[-1]) == ([11, 12], [*range(11, 20)])


async def test_sqlite_log_that_is_left_over_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps, so that a start that is killed need not begin again."""
    monkeypatch.setattr(database, "_DELETED_PER_STEP_BYTES", 300_000)
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_hard_state(HardState(Term(2)))
        await storage.append(large(range(1, 21)))
        await save_snapshot(storage, snapshot(20), keep_from=None, chunk_bytes=CHUNK_BYTES)
    removed: list[int] = []
    checkpoint = database.Database._checkpoint

    def count(self: database.Database) -> int:
        (rows,) = self._connection.execute("SELECT count(*) FROM entries").fetchone()
        removed.append(rows)
        return checkpoint(self)

    monkeypatch.setattr(database.Database, "_checkpoint", count)

    stored = await load(path)

    assert (stored.entries, stored.snapshot) == ((), snapshot(20).metadata)
    assert removed == [20, 17, 14, 11, 8, 5, 2, 0]

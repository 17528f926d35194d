"""What a SQLite storage does when a write fails, or its process is killed."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clustercore.interfaces import HardState, StorageError, StorageFull, Term
from clustercore_sqlite import SqliteStorage
from clustercore_sqlite.database import Database
from tests.snapshots import save_snapshot, snapshot
from tests.unit.storage.files import commands, load, log_of, page_limit


async def fill(storage: SqliteStorage) -> int:
    """Append until the disk is full; returns the last index that was acknowledged."""
    acknowledged = 0
    page_limit(storage, 20)
    while True:
        try:
            await storage.append(commands(range(acknowledged + 1, acknowledged + 11), size=500))
        except StorageFull:
            return acknowledged
        acknowledged += 10


async def test_sqlite_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A full disk raises StorageFull; after making room everything acknowledged is there, and nothing more."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        acknowledged = await fill(storage)

    assert acknowledged >= 10
    async with SqliteStorage(path) as storage:
        assert (await storage.load()).entries == tuple(commands(range(1, acknowledged + 1), size=500))
        await storage.append(commands([acknowledged + 1]))


async def test_sqlite_full_disk_keeps_the_suffix_and_the_snapshot_that_were_to_be_replaced(tmp_path: Path) -> None:
    """A replacement that found no room changed nothing: neither the log nor the snapshot."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands(range(1, 6)))
        before = await storage.load()
        page_limit(storage, 6)
        with pytest.raises(StorageFull):
            await storage.append(commands(range(3, 100), term=2, size=1000))
    assert await load(path) == before

    async with SqliteStorage(path) as storage:
        page_limit(storage, 6)
        with pytest.raises(StorageFull):
            await save_snapshot(storage, snapshot(3, data=b"x" * 100_000), keep_from=None, chunk_bytes=5000)
    assert await load(path) == before


async def test_sqlite_storage_that_failed_touches_the_disk_no_more(tmp_path: Path) -> None:
    """After the first error each call raises StorageError, chained to that error, and the files stay as they are."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await fill(storage)
        # There is room again, but the storage must not find out.
        page_limit(storage, 10_000)
        before = path.read_bytes(), log_of(path).read_bytes()

        for call in (
            lambda: storage.append(commands([1])),
            lambda: storage.save_hard_state(HardState(Term(1))),
            lambda: storage.write_snapshot_chunk(snapshot(1).metadata, 0, b""),
            lambda: storage.install_snapshot(snapshot(1).metadata, keep_from=None),
            storage.load,
            storage.open_snapshot,
        ):
            with pytest.raises(StorageError, match="failed before") as caught:
                await call()
            assert isinstance(caught.value.__cause__, sqlite3.Error)

        assert (path.read_bytes(), log_of(path).read_bytes()) == before


class FailingConnection:
    """A connection whose checkpoint fails, as it does when the fsync of the database file fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if "wal_checkpoint" in statement:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *parameters)


async def test_sqlite_failed_checkpoint_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a checkpoint is reported and ends the storage, though the commit before it is durable."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        database = storage._database
        assert database is not None
        monkeypatch.setattr(database, "_log_bytes", 1 << 30)
        monkeypatch.setattr(database, "_connection", FailingConnection(database._connection))

        with pytest.raises(StorageError, match="disk I/O error"):
            await storage.append(commands([1]))
        with pytest.raises(StorageError, match="failed before"):
            await storage.append(commands([2]))

    assert (await load(path)).entries == tuple(commands([1]))


async def test_sqlite_bug_in_a_write_ends_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exception goes through as it is, and ends the storage too: a transaction may be open."""

    def broken(database: Database, hard_state: HardState) -> None:
        raise ZeroDivisionError

    async with SqliteStorage(tmp_path / "node.db") as storage:
        monkeypatch.setattr(Database, "save_hard_state", broken)
        with pytest.raises(ZeroDivisionError):
            await storage.save_hard_state(HardState(Term(1)))

        with pytest.raises(StorageError, match="failed before"):
            await storage.load()


APPEND_FOREVER = """
import sys, trio
from clustercore_sqlite import SqliteStorage, database_file
from tests.snapshots import save_snapshot, snapshot
from tests.unit.storage.files import commands

async def main():
    # Checkpoints come often, so that the signal meets some.
    database_file.CHECKPOINT_BYTES = 50_000
    async with SqliteStorage(sys.argv[1]) as storage:
        entries = (await storage.load()).entries
        index = entries[-1].index if entries else 0
        while True:
            last = index + 1 + index % 7
            await storage.append(commands(range(index + 1, last + 1)))
            index = last
            print(index, flush=True)

trio.run(main)
"""


def append_and_kill(path: Path, lifetime_s: float) -> int:
    """Append from a process that is killed some time after its first write; returns what it acknowledged last."""
    with subprocess.Popen(
        [sys.executable, "-c", APPEND_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        timer = threading.Timer(lifetime_s, writer.kill)
        timer.start()
        for line in writer.stdout:
            # The signal can cut a line short; then what it was to say was not said.
            if line.endswith("\n"):
                acknowledged = int(line)
        timer.join()
    return acknowledged


@pytest.mark.slow
@pytest.mark.integration
async def test_sqlite_killed_process_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """SIGKILL at random moments, six times over one file: all that was acknowledged is there, and no gap."""
    path = tmp_path / "node.db"
    rng = random.Random(6)
    for _ in range(6):
        acknowledged = append_and_kill(path, rng.uniform(0.01, 0.15))

        entries = (await load(path)).entries

        assert len(entries) >= acknowledged
        assert entries == tuple(commands(range(1, len(entries) + 1)))

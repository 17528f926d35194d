"""Opening a SQLite storage: one owner, our own files only, and the settings that its promises depend on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from clustercore.interfaces import (
    ConfigError,
    HardState,
    LogCorrupt,
    NodeId,
    StorageError,
    StorageFull,
    StoredState,
    Term,
)
from clustercore_sqlite import SqliteStorage, files
from tests.unit.storage.files import commands, copy_storage, load, log_of

HOLD = """
import sys, trio
from clustercore_sqlite import SqliteStorage

async def main():
    async with SqliteStorage(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.read()

trio.run(main)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that opens a storage, says so, and closes it when its input ends."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


async def test_sqlite_second_process_is_refused(tmp_path: Path) -> None:
    """While another process has it open, opening raises StorageError with the file's name; afterwards it works."""
    path = tmp_path / "node.db"
    with hold(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"

        with pytest.raises(StorageError, match=r"node\.db is open already"):
            await load(path)

        other.communicate()
    await load(path)


async def test_sqlite_lock_outlives_a_copy_of_the_file(tmp_path: Path) -> None:
    """Opening and closing the database file in this process, as to copy it, does not give the storage away."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands([1]))
        copy_storage(path, tmp_path / "copy")

        with hold(path) as other:
            output, errors = other.communicate()

        assert output == ""
        assert "is open already" in errors


async def test_sqlite_one_file_by_two_paths_has_one_owner(tmp_path: Path) -> None:
    """A symbolic link to the file leads to the same lock."""
    path = tmp_path / "node.db"
    await load(path)
    (tmp_path / "other.db").symlink_to(path)

    async with SqliteStorage(path):
        with pytest.raises(StorageError):
            await load(tmp_path / "other.db")


async def test_sqlite_shell_is_kept_out(tmp_path: Path) -> None:
    """A program that knows nothing of our lock file cannot read or write while the storage is open."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands([1]))

        shell = sqlite3.connect(path, timeout=0)
        with closing(shell), pytest.raises(sqlite3.OperationalError, match="locked"):
            shell.execute("SELECT * FROM entries")


async def test_sqlite_program_that_came_first_is_named(tmp_path: Path) -> None:
    """If another program reads the database, opening raises StorageError rather than wait for it."""
    path = tmp_path / "node.db"
    await load(path)

    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(StorageError, match="another program"):
            await load(path)


async def test_sqlite_settings_are_those_that_durability_needs(tmp_path: Path) -> None:
    """The open database is in WAL mode and syncs at every commit; SQLite runs no checkpoint of its own."""
    async with SqliteStorage(tmp_path / "node.db") as storage:
        database = storage._database
        assert database is not None
        settings = {
            name: database._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "locking_mode")
        }

    assert settings == {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0, "locking_mode": "exclusive"}


async def test_sqlite_proper_close_leaves_no_log(tmp_path: Path) -> None:
    """After a close everything is in the database file, which can be copied alone."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands([1, 2]))

    assert not log_of(path).exists()
    assert sorted(os.listdir(tmp_path)) == ["node.db", "node.db-lock"]


def foreign_files() -> dict[str, bytes]:
    """Return files that are not ours."""
    return {"text": b"name,value\n" * 100, "short": b"SQLite format 3\0", "empty": b""}


@pytest.mark.parametrize("content", foreign_files().values(), ids=foreign_files())
async def test_sqlite_file_of_another_kind_is_left_untouched(tmp_path: Path, content: bytes) -> None:
    """A file that is no database raises LogCorrupt with its name, and keeps its content."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)

    with pytest.raises(LogCorrupt, match=r"notes\.txt is no SQLite database"):
        await load(path)

    assert path.read_bytes() == content


async def test_sqlite_database_of_another_program_is_left_untouched(tmp_path: Path) -> None:
    """A database with another application id raises LogCorrupt, and keeps its content."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE entries (name TEXT)")
    content = path.read_bytes()

    with pytest.raises(LogCorrupt, match="another program"):
        await load(path)

    assert path.read_bytes() == content
    assert not log_of(path).exists()


async def test_sqlite_database_of_a_newer_version_is_left_untouched(tmp_path: Path) -> None:
    """A newer format raises StorageError, not LogCorrupt: nothing is wrong with it."""
    path = tmp_path / "node.db"
    await load(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={files.FORMAT_VERSION + 1}")
    content = path.read_bytes()

    with pytest.raises(StorageError, match=f"format {files.FORMAT_VERSION + 1}") as caught:
        await load(path)

    assert not isinstance(caught.value, LogCorrupt)
    assert path.read_bytes() == content


FIRST_VERSION = """
PRAGMA application_id=0x436C4372; PRAGMA user_version=1; PRAGMA journal_mode=WAL;
CREATE TABLE entries (entry_index INTEGER PRIMARY KEY, encoded BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), current_term INTEGER NOT NULL, voted_for TEXT,
    checksum INTEGER NOT NULL);
CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), last_included_index INTEGER NOT NULL,
    last_included_term INTEGER NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL);
"""


@pytest.mark.parametrize(
    ("row", "hard_state"),
    [
        ((0, None, zlib.crc32(bytes(8))), HardState()),
        ((3, None, zlib.crc32(b"\3" + bytes(7))), HardState(Term(3), None, is_founder=True)),
        ((3, "n1", zlib.crc32(b"\3" + bytes(7) + b"\1n1")), HardState(Term(3), NodeId("n1"), is_founder=True)),
    ],
)
async def test_sqlite_database_of_the_first_version_opens(
    tmp_path: Path, row: tuple[int, str | None, int], hard_state: HardState
) -> None:
    """Its term and vote are kept; whoever has seen an election in it took part in founding its cluster."""
    path = tmp_path / "node.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(FIRST_VERSION)
        connection.execute("INSERT INTO hard_state VALUES (1, ?, ?, ?)", row)

    states = [await load(path), await load(path)]

    assert states == [StoredState(hard_state, None, ())] * 2


async def test_sqlite_damage_in_a_database_of_the_first_version_is_found(tmp_path: Path) -> None:
    """A vote that fails its checksum does so after the file was brought up to date, too."""
    path = tmp_path / "node.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(FIRST_VERSION)
        connection.execute("INSERT INTO hard_state VALUES (1, 3, NULL, 0)")

    with pytest.raises(LogCorrupt, match="term and vote fail"):
        await load(path)


async def test_sqlite_draft_of_a_creation_that_was_cut_off_is_replaced(tmp_path: Path) -> None:
    """What a crash left of a file that was being made is no hindrance."""
    path = tmp_path / "node.db"
    (tmp_path / "node.db-new").write_bytes(b"SQLite form")
    (tmp_path / "node.db-new-wal").write_bytes(b"?")

    async with SqliteStorage(path) as storage:
        await storage.append(commands([1]))

    assert (await load(path)).entries == tuple(commands([1]))
    assert sorted(os.listdir(tmp_path)) == ["node.db", "node.db-lock"]


async def test_sqlite_missing_directory_is_an_error(tmp_path: Path) -> None:
    """The directory is not made: where a disk is not mounted, a node would begin without its vote."""
    path = tmp_path / "not-mounted" / "node.db"

    with pytest.raises(StorageError, match="not-mounted"):
        await load(path)

    assert not path.parent.exists()


@pytest.mark.parametrize("path", ["", ":memory:", 5, None])
def test_sqlite_path_must_be_a_file(path: object) -> None:
    """A path that names no file is a ConfigError with the key and the value."""
    with pytest.raises(ConfigError, match="path = "):
        SqliteStorage(path)  # type: ignore[arg-type]  # What a configuration file may hold.


async def test_sqlite_error_of_the_system_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the file is made is StorageFull, and opening again can succeed."""
    path = tmp_path / "node.db"

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", full)
        with pytest.raises(StorageFull):
            await load(path)

    assert (await load(path)).entries == ()

"""What a SQLite storage does about damage: it refuses to start from it, and says where it is."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clustercore.interfaces import HardState, LogCorrupt, NodeId, StorageIdentity, Term
from clustercore_sqlite import SqliteStorage, wal
from clustercore_sqlite.errors import ADVICE
from tests.snapshots import read_snapshot, save_snapshot, snapshot
from tests.unit.storage.files import FRAME_BYTES, HEADER_BYTES, commands, copy_storage, flip_bit, load, log_of

# In the middle of a part, where SQLite does not move it: what it leaves behind would be damaged instead.
STATE = b"." * 6000 + b"<state>" + b"." * 14993


def refused(what: str = "") -> pytest.RaisesExc[LogCorrupt]:
    """Expect a LogCorrupt that says what is wrong, and ends with what may be done."""
    return pytest.raises(LogCorrupt, match=f"(?s){what}.*{re.escape(ADVICE)}$")


@pytest.fixture
async def written(tmp_path: Path) -> Path:
    """A storage with a vote, a snapshot and a log, properly closed."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.save_identity(StorageIdentity(NodeId("owner"), "once", 3, election_timeout_s=2.5))
        await storage.save_hard_state(HardState(Term(7), NodeId("candidate")))
        await storage.append(commands(range(1, 199)))
        await save_snapshot(storage, snapshot(50, data=STATE), keep_from=40, chunk_bytes=8000)
        # With it the entries below 40 go.
        await storage.append(commands([199]))
    return path


def damage_every_page(path: Path) -> None:
    """Overwrite the first byte of each page but the first, which says what kind of page it is."""
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096] = 0x77
    path.write_bytes(data)


async def crashed(tmp_path: Path, writes: int = 12) -> Path:
    """A storage whose process died after so many appends, all of them still in the write-ahead log."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        for entry in commands(range(1, writes + 1)):
            await storage.append([entry])
        return copy_storage(path, tmp_path / "crashed")


@pytest.mark.parametrize(
    "content", [b"<120@1>", b"<state>", b"candidate", b"owner"], ids=["entry", "snapshot", "vote", "identity"]
)
async def test_sqlite_flipped_bit_is_found(written: Path, content: bytes) -> None:
    """One bit of an entry, of the snapshot or of the vote raises LogCorrupt before a node goes on from it."""
    flip_bit(written, content)

    with refused(r"fails? (its|their) checksum"):
        async with SqliteStorage(written) as storage:
            await storage.load()
            await read_snapshot(storage)


async def test_sqlite_flipped_bit_in_the_snapshot_is_found_when_it_is_sent(written: Path) -> None:
    """Reading checks each time: a damaged part of a snapshot is never sent to a peer."""
    async with SqliteStorage(written) as storage:
        await storage.load()
        database = storage._database
        assert database is not None
        database._connection.execute("UPDATE snapshot_chunks SET data = zeroblob(8000) WHERE start = 8000")

        reader = await storage.open_snapshot()
        assert reader is not None
        assert await reader.read(0, 100_000) == STATE[:8000]
        with refused("the snapshot's part at 8000"):
            await reader.read(8000, 100_000)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM entries WHERE entry_index BETWEEN 100 AND 102", "log entries 100 to 102 are missing"),
        ("DELETE FROM entries WHERE entry_index < 60", "log entries 51 to 59 are missing"),
        ("DELETE FROM entries WHERE entry_index > 45", "the log ends at 45, the snapshot at 50"),
        ("DELETE FROM snapshot", "log entries 1 to 39 are missing"),
        ("DELETE FROM hard_state", "term and vote are stored 0 times"),
        ("UPDATE hard_state SET current_term = 6", "term and vote fail"),
        ("UPDATE hard_state SET current_term = 'x'", "term and vote fail"),
        ("UPDATE hard_state SET voted_for = NULL", "term and vote fail"),
        ("UPDATE identity SET starts = 2", "whose storage it is fails"),
        ("UPDATE identity SET node_id = 5", "whose storage it is fails"),
        ("UPDATE snapshot SET configuration = x'00'", "the snapshot fails"),
        ("UPDATE snapshot SET configuration = 5", "the snapshot fails"),
        ("UPDATE snapshot SET last_included_index = 49", "the snapshot fails"),
        ("UPDATE snapshot SET snapshot_id = 'other'", "the snapshot fails"),
        ("UPDATE snapshot SET configuration = 'text'", "the snapshot fails"),
        ("UPDATE snapshot SET log_from = 41", "the snapshot fails"),
        ("UPDATE snapshot SET log_from = 'x'", "the snapshot fails"),
        ("DELETE FROM snapshot_chunks WHERE start = 8000", "the snapshot has 13000 bytes, it must have 21000"),
        ("UPDATE entries SET encoded = 5 WHERE entry_index = 99", "log entry 99 fails"),
        ("DELETE FROM entries WHERE entry_index = 198", "log entries 198 to 198 are missing"),
    ],
)
async def test_sqlite_inconsistent_rows_are_found(written: Path, statement: str, message: str) -> None:
    """Rows that are well-formed for SQLite but not a state of ours raise LogCorrupt, with what is wrong."""
    with closing(sqlite3.connect(written)) as connection, connection:
        connection.execute(statement)

    with refused(message):
        await load(written)


async def test_sqlite_entry_stored_under_another_index_is_found(written: Path) -> None:
    """An entry that passes its checksum in the wrong row raises LogCorrupt."""
    with closing(sqlite3.connect(written)) as connection, connection:
        connection.execute(
            "UPDATE entries SET (encoded, checksum) = (SELECT encoded, checksum FROM entries WHERE entry_index = 80) "
            "WHERE entry_index = 81"
        )

    with refused("log entry 81 is stored as the one at 80"):
        await load(written)


async def test_sqlite_terms_that_go_down_are_found(tmp_path: Path) -> None:
    """A log whose terms go down was never any leader's: LogCorrupt."""
    path = tmp_path / "node.db"
    async with SqliteStorage(path) as storage:
        await storage.append(commands([1], term=5))
        await storage.append(commands([2], term=4))

    with refused("log entry 2 has term 4, the one before 5"):
        await load(path)


async def test_sqlite_damaged_page_is_found_on_opening(written: Path) -> None:
    """A page that SQLite cannot read raises LogCorrupt from opening already."""
    damage_every_page(written)

    with refused():
        async with SqliteStorage(written):
            pass


async def test_sqlite_damage_inside_the_log_is_no_torn_end(tmp_path: Path) -> None:
    """A flipped bit in a commit that others follow raises LogCorrupt, where SQLite alone would forget the rest."""
    path = await crashed(tmp_path)
    flip_bit(log_of(path), b"<3@1>")

    with refused("commits behind that are lost"):
        await load(path)


async def test_sqlite_damaged_log_header_is_found(tmp_path: Path) -> None:
    """A log whose header is damaged raises LogCorrupt, where SQLite alone would forget all of it."""
    path = await crashed(tmp_path)
    log = bytearray(log_of(path).read_bytes())
    log[17] ^= 1
    log_of(path).write_bytes(log)

    with refused("commits behind that are lost"):
        await load(path)


async def test_sqlite_damage_in_the_last_commit_is_taken_for_a_torn_end(tmp_path: Path) -> None:
    """The last commit cannot be told from one that was cut off: without it, the storage opens."""
    path = await crashed(tmp_path, writes=12)
    flip_bit(log_of(path), b"<12@1>", last=True)

    state = await load(path)

    assert state.entries == tuple(commands(range(1, 12)))


async def test_sqlite_log_of_an_undamaged_storage_shows_no_damage(tmp_path: Path) -> None:
    """Whatever number of frames was recovered, a log that ends there, or does not exist, shows no damage."""
    path = await crashed(tmp_path)
    log = log_of(path).read_bytes()
    frames = (len(log) - HEADER_BYTES) // FRAME_BYTES

    assert not wal.find_damage(log_of(path), page_size=4096, recovered_frames=frames)
    assert not wal.find_damage(tmp_path / "no-wal", page_size=4096, recovered_frames=0)
    log_of(path).write_bytes(b"")
    assert not wal.find_damage(log_of(path), page_size=4096, recovered_frames=0)


async def test_sqlite_lost_database_beside_its_log_is_found(tmp_path: Path) -> None:
    """A log without its database means that the database was lost: LogCorrupt, and not a new, empty node."""
    path = await crashed(tmp_path)
    path.unlink()

    with refused("is missing"):
        await load(path)

    assert not path.exists()

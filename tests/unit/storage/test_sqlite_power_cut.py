"""What a power cut leaves of a SQLite storage: the write-ahead log cut anywhere, and a checkpoint cut anywhere."""

from __future__ import annotations

import random
from pathlib import Path

import attrs
import pytest

from clustercore.interfaces import Entry, HardState, LogIndex, NodeId, StoredState, Term
from clustercore_sqlite import SqliteStorage
from clustercore_sqlite import database_file as database_module
from tests.snapshots import read_snapshot, snapshot
from tests.unit.storage.files import FRAME_BYTES, HEADER_BYTES, commands, copy_storage, load, log_of

SECTOR_BYTES = 512


@attrs.frozen
class Recording:
    """A run of writes: the files after the last, and what was promised at each length of the log."""

    path: Path
    # The state after each write, the first of them before any.
    states: list[StoredState]
    # How long the log was when each write returned: all of that had been synced.
    synced_bytes: list[int]
    # What was in the log's place before the run: an earlier run of the log, or nothing.
    earlier_log: bytes

    @property
    def log(self) -> bytes:
        return log_of(self.path).read_bytes()


async def record(directory: Path, *, earlier_writes: int = 0) -> Recording:
    """Carry out every kind of write, and keep the files as they are without a proper close."""
    original = directory / "original" / "node.db"
    original.parent.mkdir()
    earlier_log = b""
    async with SqliteStorage(original) as storage:
        if earlier_writes:
            # A log that is used again from its start still has the frames of its earlier run behind the new ones.
            for entry in commands(range(1, earlier_writes + 1), size=3000):
                await storage.append([entry])
            database = storage._database
            assert database is not None
            database._checkpoint()
            earlier_log = log_of(original).read_bytes()
        states, synced_bytes = [await storage.load()], [0]

        async def note() -> None:
            states.append(await storage.load())
            synced_bytes.append(_newest_run_bytes(log_of(original).read_bytes()))

        first = earlier_writes + 1
        await storage.save_hard_state(HardState(Term(1), NodeId("a")))
        await note()
        for batch in ([first], range(first + 1, first + 90), [first + 90]):
            await storage.append(commands(batch))
            await note()
        await storage.append(commands(range(first + 50, first + 60), term=2))
        await note()
        await storage.save_hard_state(HardState(Term(2), None))
        await note()
        # The first, and one that takes its place, in two parts each.
        for covered in (first + 20, first + 40):
            taken = snapshot(covered, data=b"state" * 1500)
            for offset in (0, 4000):
                await storage.write_snapshot_chunk(taken.metadata, offset, taken.data[offset : offset + 4000])
                await note()
            await storage.install_snapshot(taken.metadata, keep_from=LogIndex(covered - 10))
            await note()
        await storage.append(commands(range(first + 60, first + 63), term=2))
        await note()
        return Recording(copy_storage(original, directory / "recorded"), states, synced_bytes, earlier_log)


def _newest_run_bytes(log: bytes) -> int:
    """Return how far the frames of the log's newest run reach: those with the salts of its header."""
    salts = log[16:24]
    end = HEADER_BYTES
    while end + FRAME_BYTES <= len(log) and log[end + 8 : end + 16] == salts:
        end += FRAME_BYTES
    return end


async def check_cut(recording: Recording, log: bytes, kept_bytes: int) -> None:
    """Reopen with this log, of which so many bytes are as they were written, and compare with what was promised."""
    path = copy_storage(recording.path, recording.path.parent.parent / "cut")
    log_of(path).write_bytes(log)

    async with SqliteStorage(path) as storage:
        state = await storage.load()
        whole = await read_snapshot(storage)

    promised = sum(synced <= kept_bytes for synced in recording.synced_bytes) - 1
    assert state == recording.states[promised], f"with {kept_bytes} bytes kept, {promised} writes had returned"
    # To its last byte, with its checksums.
    assert (None if whole is None else whole.metadata) == state.snapshot


def tails(recording: Recording, kept_bytes: int, rng: random.Random) -> list[bytes]:
    """Return what may be behind the bytes that were kept."""
    lost_bytes = len(recording.log) - kept_bytes
    return [b"", bytes(lost_bytes), rng.randbytes(lost_bytes), recording.earlier_log[kept_bytes:]]


@pytest.mark.slow
@pytest.mark.parametrize("earlier_writes", [0, 40], ids=["new log", "log used again"])
async def test_sqlite_log_cut_at_every_frame_keeps_what_returned(tmp_path: Path, earlier_writes: int) -> None:
    """Cut between frames, with nothing, zeros, garbage or old frames behind: exactly what was synced is there."""
    recording = await record(tmp_path, earlier_writes=earlier_writes)
    rng = random.Random(1)
    end = recording.synced_bytes[-1]
    assert (end - HEADER_BYTES) // FRAME_BYTES >= 15

    for kept_bytes in range(HEADER_BYTES, end + 1, FRAME_BYTES):
        for tail in tails(recording, kept_bytes, rng):
            await check_cut(recording, recording.log[:kept_bytes] + tail, kept_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("earlier_writes", [0, 40], ids=["new log", "log used again"])
async def test_sqlite_log_torn_at_every_sector_keeps_what_returned(tmp_path: Path, earlier_writes: int) -> None:
    """Torn at any sector, with nothing, zeros, garbage or old frames behind: exactly what was synced is there."""
    recording = await record(tmp_path, earlier_writes=earlier_writes)
    rng = random.Random(2)

    for number, kept_bytes in enumerate(range(SECTOR_BYTES, recording.synced_bytes[-1], SECTOR_BYTES)):
        possible = tails(recording, kept_bytes, rng)
        await check_cut(recording, recording.log[:kept_bytes] + possible[number % len(possible)], kept_bytes)


@pytest.mark.slow
async def test_sqlite_unsynced_sectors_in_any_order_keep_what_returned(tmp_path: Path) -> None:
    """Of the write under way any sectors may be there and others not: it counts wholly or not at all."""
    recording = await record(tmp_path, earlier_writes=40)
    rng = random.Random(3)

    for write in range(1, len(recording.states)):
        before, after = max(recording.synced_bytes[write - 1], HEADER_BYTES), recording.synced_bytes[write]
        for _ in range(8):
            log = bytearray(recording.log[:after])
            log[before:] = recording.earlier_log[before:after].ljust(after - before, b"\0")
            # Sectors are those of the file; one that began in an earlier write keeps that part.
            for sector in range(before // SECTOR_BYTES, after // SECTOR_BYTES + 1):
                start, end = max(sector * SECTOR_BYTES, before), min((sector + 1) * SECTOR_BYTES, after)
                if rng.random() < 0.7:
                    log[start:end] = recording.log[start:end]
            complete = bytes(log) == recording.log[:after]
            await check_cut(recording, bytes(log), after if complete else before)


async def test_sqlite_log_cut_in_its_header_is_an_empty_log(tmp_path: Path) -> None:
    """A log whose first bytes alone were written holds nothing, and is no damage."""
    recording = await record(tmp_path)

    for kept_bytes in (0, 1, 16, 31):
        await check_cut(recording, recording.log[:kept_bytes], kept_bytes)


@pytest.mark.slow
async def test_sqlite_checkpoint_cut_anywhere_loses_nothing(tmp_path: Path) -> None:
    """With the log still there, any mixture of old and new sectors in the database file is mended by it."""
    recording = await record(tmp_path)
    before = recording.path.read_bytes()
    finished = copy_storage(recording.path, tmp_path / "finished")
    # Opening runs a checkpoint; closing then removes the log.
    assert await load(finished) == recording.states[-1]
    after = finished.read_bytes()
    before = before.ljust(len(after), b"\0")
    rng = random.Random(4)

    for length in [len(after), len(after), len(after), len(recording.path.read_bytes())]:
        mixed = b"".join(
            (after if rng.random() < 0.5 else before)[start : start + SECTOR_BYTES]
            for start in range(0, length, SECTOR_BYTES)
        )
        path = copy_storage(recording.path, tmp_path / "mixed")
        path.write_bytes(mixed)

        assert await load(path) == recording.states[-1]


@pytest.mark.slow
async def test_sqlite_crash_after_any_write_across_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a checkpoint every few writes, the files after each write hold exactly what was written until then."""
    monkeypatch.setattr(database_module, "CHECKPOINT_BYTES", 40_000)
    path = tmp_path / "node.db"
    rng = random.Random(5)
    written: list[Entry] = []
    lengths = set()

    async with SqliteStorage(path) as storage:
        for term in range(1, 61):
            first = rng.randint(max(len(written) - 3, 1), len(written) + 1)
            entries = commands(range(first, first + rng.randint(1, 9)), term=term, size=rng.randint(1, 900))
            await storage.append(entries)
            written[first - 1 :] = entries
            lengths.add(log_of(path).stat().st_size)

            state = await load(copy_storage(path, tmp_path / "copy"))

            assert state.entries == tuple(written)

    # The log was used again from its start: it did not grow with the number of writes.
    assert max(lengths) < 60 * FRAME_BYTES

"""How long a durable append takes with the SQLite storage, and whether it belongs in a thread.

    python benchmarks/storage_writes.py [--rounds 100] [--json FILE] [--directory DIR]

Each row is one way to write a batch of entries with commands of 64 bytes: in the event loop's own thread; in a worker
thread by plain ``trio.to_thread.run_sync``; and as SqliteStorage does it, in a worker thread for which the loop makes
way. "executemany" is what the storage would do with a step of the statement for each row. In the second half another
task computes for 50 us at every turn of the event loop.

The ways take turns, one append each, so that a slow moment of the machine meets all of them. Times depend on the disk
and the machine's neighbours: compare the ratios, which are to the first row of the same size and load.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs
import trio

from clustercore.interfaces import Entry, EntryKind, LogIndex, Term
from clustercore_sqlite import SqliteStorage, records
from clustercore_sqlite.database import Database

T = TypeVar("T")

SIZES = (1, 64, 512)
COMMAND = b"x" * 64
BUSY_S = 50e-6
# Beside a busy loop a plain thread can wait for seconds: a few rounds show it.
BUSY_ROUNDS = 15


class _NoContext:
    """Stands in for the storage's worker; there is nothing to prepare."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class InLoop(_NoContext):
    """Blocks the event loop for each call."""

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call here."""
        await trio.lowlevel.checkpoint()
        return call()


class PlainThread(_NoContext):
    """Leaves each call to a thread, and does nothing about the GIL."""

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call there."""
        return await trio.to_thread.run_sync(call)


class ManyStatements(SqliteStorage):
    """Appends by ``executemany``."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Append without the checks, which take no time worth measuring."""
        await self._run(lambda database: append_by_executemany(database, entries))


def append_by_executemany(database: Database, entries: Sequence[Entry]) -> None:
    """Append in one transaction, with a step of the statement for each row."""
    connection = database._connection
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", map(records.entry_row, entries))
    connection.execute("COMMIT")


@attrs.define
class Way:
    """One way to write, and how long each of its appends took."""

    name: str
    storage: SqliteStorage
    seconds: dict[tuple[int, bool], list[float]] = attrs.field(factory=dict)
    next_index: int = 1

    async def write(self, rows: int, *, busy: bool) -> None:
        """Append one batch and note the time."""
        entries = [
            Entry.create(LogIndex(index), Term(1), EntryKind.COMMAND, COMMAND)
            for index in range(self.next_index, self.next_index + rows)
        ]
        self.next_index += rows
        start = time.perf_counter()
        await self.storage.append(entries)
        self.seconds.setdefault((rows, busy), []).append(time.perf_counter() - start)


def make_ways(directory: Path) -> list[Way]:
    """Return all ways, each with a file of its own."""
    ways = [
        Way("in the event loop", SqliteStorage(directory / "loop.db")),
        Way("in the event loop, executemany", ManyStatements(directory / "many.db")),
        Way("plain worker thread", SqliteStorage(directory / "plain.db")),
        Way("SqliteStorage", SqliteStorage(directory / "storage.db")),
    ]
    workers: list[Any] = [InLoop(), InLoop(), PlainThread()]
    for way, worker in zip(ways, workers, strict=False):
        way.storage._worker = worker
    return ways


async def measure(directory: Path, rounds: int) -> list[Way]:
    """Measure all ways in turns, beside an idle event loop and beside a busy one."""
    ways = make_ways(directory)
    async with AsyncExitStack() as resources:
        for way in ways:
            await resources.enter_async_context(way.storage)
        await run_rounds(ways, rounds, busy=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute_for_ever)
            await run_rounds(ways, min(rounds, BUSY_ROUNDS), busy=True)
            nursery.cancel_scope.cancel()
    return ways


async def run_rounds(ways: list[Way], rounds: int, *, busy: bool) -> None:
    """Let each way write each size once a round."""
    for _ in range(rounds):
        for rows in SIZES:
            for way in ways:
                await way.write(rows, busy=busy)


async def compute_for_ever() -> None:
    """Keep the event loop busy."""
    while True:
        await trio.lowlevel.checkpoint()
        end = time.perf_counter() + BUSY_S
        while time.perf_counter() < end:
            pass


def summarise(ways: list[Way]) -> list[dict[str, Any]]:
    """Return one record for each row of the table."""
    rows = []
    for busy in (False, True):
        for size in SIZES:
            base = statistics.median(ways[0].seconds[size, busy])
            for way in ways:
                seconds = way.seconds[size, busy]
                median = statistics.median(seconds)
                rows.append(
                    {
                        "event_loop": "busy" if busy else "idle",
                        "rows": size,
                        "way": way.name,
                        "median_us": round(median * 1e6),
                        "slowest_us": round(max(seconds) * 1e6),
                        "ratio": round(median / base, 2),
                    }
                )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'loop':6}{'rows':>5}  {'way':32}{'median us':>12}{'slowest us':>12}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['event_loop']:6}{row['rows']:>5}  {row['way']:32}"
            f"{row['median_us']:>12,}{row['slowest_us']:>12,}{row['ratio']:>8.2f}"
        )


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="appends of each way and size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--directory", type=Path, help="measure the disk of this directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        rows = summarise(trio.run(measure, Path(directory), options.rounds))
    show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What it costs to merge another node's changes.

    python benchmarks/merge.py [--entities 10000] [--json FILE]

Each row is one way in which changes meet what is held: entities that are new, that follow what is here, that are here
already, that are older, and that conflict. Each entity has one group that changed. The columns, in microseconds an
entity, medians of five runs:

* merge: what is decided, and the state that comes of it (``clustercore.sync.merge.join``);
* apply: a whole batch in a store, in memory: names, clock, ledger, merge, log of changes, the bytes for the disk, and
  for conflicts the entries of the conflict log;
* SQLite: the same with ``SqliteRecords``, in batches of 500, each durable;
* decode: reading the changes' states from bytes before that.

SQLite is measured by the clock on the wall, the rest by the time that the process had a processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from clustercore.interfaces import NodeId, RecordStorage
from clustercore.sync import Change, EntityKind, EntityStore, GroupState, Stamp, Write, decode_group_state
from clustercore.sync.merge import join
from clustercore_memory import MemoryRecords
from clustercore_sqlite import SqliteRecords

RUNS = 5
BATCH = 500
NOW = 1_700_000_000_000 << 16


@attrs.frozen
class Uav:
    """What is merged."""

    status: str
    battery: int = 100


UAV = EntityKind("uav", Uav)


def state(version: int, writer: str, base: Write | None = None) -> GroupState:
    """Return the state of one write, perhaps made in knowledge of another."""
    stamp = Stamp(version, NOW + version, f"{writer}#00000000")
    past = () if base is None or base.stamp.writer == stamp.writer else ((base.stamp.writer, base.stamp.time),)
    value = b'{"battery":%d,"status":"flying"}' % (50 + version)
    return GroupState.of(Write(stamp, None if base is None else base.stamp, past, value))


HELD = state(2, "a", state(1, "a").heads[0])
# What is here, if anything, and what comes.
CASES: dict[str, tuple[GroupState | None, GroupState]] = {
    "new": (None, HELD),
    "follows": (HELD, state(3, "b", HELD.heads[0])),
    "the same": (HELD, HELD),
    "older": (HELD, state(1, "a")),
    "conflict": (HELD, state(2, "b")),
}


def changes(given: GroupState, entities: int) -> list[Change]:
    """Return a change for each entity, with a state of its own, as if it had been read from the wire."""
    return [Change("uav", f"uav-{number}", "rest", decode_group_state(given.encoded)) for number in range(entities)]


def measure(work: Callable[[], object], entities: int) -> float:
    """Return the median time of some runs, in us an entity."""
    times = []
    for _ in range(RUNS):
        begin = time.process_time()
        work()
        times.append((time.process_time() - begin) / entities * 1e6)
    return statistics.median(times)


def measure_merge(here: GroupState | None, came: GroupState, entities: int) -> float:
    """Return what the decision costs."""
    pairs = [
        (None if here is None else decode_group_state(here.encoded), decode_group_state(came.encoded))
        for _ in range(entities)
    ]
    return measure(lambda: [join(one, other) for one, other in pairs], entities)


def measure_decode(came: GroupState, entities: int) -> float:
    """Return what reading costs."""
    encoded = [came.encoded for _ in range(entities)]
    return measure(lambda: [decode_group_state(data) for data in encoded], entities)


async def apply_once(here: GroupState | None, came: GroupState, entities: int, records: RecordStorage) -> float:
    """Return what applying costs, in us an entity."""
    async with EntityStore(NodeId("here"), [UAV], records) as store:
        if here is not None:
            await store.apply(changes(here, entities))
        coming = changes(came, entities)
        clock = time.perf_counter if isinstance(records, SqliteRecords) else time.process_time
        begin = clock()
        for start in range(0, entities, BATCH):
            await store.apply(coming[start : start + BATCH])
        return (clock() - begin) / entities * 1e6


def measure_apply(here: GroupState | None, came: GroupState, entities: int, *, on_disk: bool) -> float:
    """Return the median of some runs, each with a store of its own."""
    times = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            records = SqliteRecords(Path(folder) / "entities.db") if on_disk else MemoryRecords()
            times.append(trio.run(apply_once, here, came, entities, records))
    return statistics.median(times)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    entities: int = arguments.entities

    rows = []
    print(f"{'us an entity':14}{'merge':>8}{'apply':>8}{'SQLite':>8}{'decode':>8}")
    for name, (here, came) in CASES.items():
        row = {
            "case": name,
            "merge_us": measure_merge(here, came, entities),
            "apply_us": measure_apply(here, came, entities, on_disk=False),
            "sqlite_us": measure_apply(here, came, entities, on_disk=True),
            "decode_us": measure_decode(came, entities),
        }
        rows.append(row)
        figures = [f"{value:8.1f}" for value in row.values() if isinstance(value, float)]
        print(f"{name:14}{''.join(figures)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"entities": entities, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

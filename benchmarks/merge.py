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

Then, for groups that so many different writers have written, one after the other: the bytes of the state, which travel
with each change and are kept, and what it costs to merge the next write, one that conflicts, and to read it.

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
WRITERS = (3, 10, 30, 100, 300)
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

    def work() -> None:
        # Nothing is kept: Python's garbage collector, which goes through all there is now and then, counts in "apply".
        for one, other in pairs:
            join(one, other)

    return measure(work, entities)


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


def written_by(writers: int, last: str) -> GroupState:
    """Return the state of a write whose maker has seen those of many writers, the latest by ``last``."""
    past = tuple((f"node-{number:04}#00000000", NOW + number) for number in range(writers))
    version = writers + 1
    return GroupState.of(
        Write(Stamp(version, NOW + version, f"{last}#00000000"), None, past, b'{"battery":50,"status":"flying"}')
    )


def measure_writers(writers: int, states: int) -> dict[str, float | int]:
    """Return what a group costs that so many have written."""
    here, conflicting = written_by(writers - 1, "x"), written_by(writers - 1, "y")
    (head,) = here.heads
    past = tuple(sorted((*head.past, (head.stamp.writer, head.stamp.time))))
    following = GroupState.of(
        Write(Stamp(head.stamp.version + 1, head.stamp.time + 1, "z#00000000"), head.stamp, past, head.value)
    )
    return {
        "writers": writers,
        "state_bytes": len(here.encoded),
        "follows_us": measure_merge(here, following, states),
        "conflict_us": measure_merge(here, conflicting, states),
        "decode_us": measure_decode(here, states),
    }


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
    print(f"\n{'writers':>14}{'bytes':>8}{'follows':>8}{'conflict':>9}{'decode':>8}")
    by_writers = [measure_writers(writers, max(1, entities // writers)) for writers in WRITERS]
    for several in by_writers:
        print(
            f"{several['writers']:14}{several['state_bytes']:8}{several['follows_us']:8.1f}"
            f"{several['conflict_us']:9.1f}{several['decode_us']:8.1f}"
        )
    if arguments.json:
        table = {"entities": entities, "rows": rows, "by_writers": by_writers}
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The sync level, as campaigns run it: whole nodes, whose entities are edited everywhere at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from clustercore.testing.campaign import Level, SeedResult
from clustercore.testing.replicas.run import ReplicaRun
from clustercore.testing.replicas.worlds import SyncWorld, draw_sync_world
from clustercore.testing.shrink import shrink_list
from clustercore.testing.trace import Event, Recorder, TraceHeader, write_trace
from clustercore.testing.trace.failures import with_violation
from clustercore.testing.violation import PropertyViolated, RunUseless, what_broke

__all__ = ["SyncLevel"]

# Runs of one seed while it is made shorter: a minute or so.
MAX_SHRINK_RUNS = 60


class SyncLevel(Level):
    """Unchanged nodes with a sync service each, in virtual time, on a network that loses and repeats calls.

    Seeds that are even have no full syncs but those that begin a session anew; with those that are odd a full sync
    must find nothing that was missed.
    """

    name = "sync"
    expected = (
        "acknowledged edits",
        "applied",
        "duplicate",
        "stale",
        "held",
        "conflicts",
        "sessions incremental",
        "sessions full",
        "failed sessions",
        "calls lost",
        "calls repeated",
        "kept back",
        "deletions collected",
        "certain deaths",
        "zombie refused",
        "crash",
        "crash_anywhere",
        "crash_in_commit",
        "stop",
        "pause",
        "cut",
        "clock_step",
        "wipe",
        "put_back",
        "resync unknown_session",
        "resync epoch",
        "resync went_back",
        "resync receiver_went_back",
    )

    def run(self, seed: int) -> SeedResult:
        """Run the world that a seed draws."""
        return _run(seed, _world_of(seed), None)

    def trace(self, seed: int, path: Path) -> SeedResult:
        """The same, and write the trace."""
        return _trace(seed, _world_of(seed), path)

    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Find the fewest kinds of faults, and the fewest edits, with which a seed still breaks the same property."""
        world = _world_of(seed)
        violated = _run(seed, world, None).violated

        def breaks(changed: SyncWorld) -> bool:
            say(f"trying {len(changed.faults)} kinds of faults and {changed.edits} edits")
            return _run(seed, changed, None).violated == violated

        def with_faults(faults: Sequence[str]) -> SyncWorld:
            return attrs.evolve(world, faults=tuple(faults))

        kept = shrink_list(world.faults, lambda faults: breaks(with_faults(faults)), max_runs=MAX_SHRINK_RUNS)
        world = with_faults(kept)
        while world.edits > 1 and breaks(fewer := attrs.evolve(world, edits=world.edits // 2)):
            world = fewer
        result = _trace(seed, world, path)
        return [result.world, f"broken: {result.violated}", result.text]


def _world_of(seed: int) -> SyncWorld:
    return draw_sync_world(seed, full=bool(seed % 2))


def _run(seed: int, world: SyncWorld, recorder: Recorder | None) -> SeedResult:
    run = ReplicaRun(seed, world, recorder)
    began_at = time.process_time()
    violated, text = None, ""
    try:
        run.go()
        if not run.coverage["acknowledged edits"] or not run.coverage["applied"]:
            raise RunUseless("a run is of use", f"{dict(run.coverage)}")
    except Exception as group:  # noqa: BLE001 - whatever breaks a run is its result
        violated, text = what_broke(group)
    coverage = dict(run.coverage) | {"simulated seconds": int(run.simulated_s)}
    seconds = time.process_time() - began_at
    return SeedResult(seed, world.describe(), run.steps, seconds, coverage, violated, text)


def _trace(seed: int, world: SyncWorld, path: Path) -> SeedResult:
    recorder = Recorder(trio.current_time)
    result = _run(seed, world, recorder)
    events: Sequence[Event] = recorder.events
    if result.violated is not None:
        events = with_violation(events, PropertyViolated(result.violated, result.text))
    path.parent.mkdir(parents=True, exist_ok=True)
    replay = f"clustercore fuzz --level sync --seed {seed} --trace {path}"
    names = tuple("abcdefg"[: world.nodes])
    write_trace(path, TraceHeader("sync", names, f"seed {seed}", seed, {"world": world.describe()}, replay), events)
    return result

"""The node level, as campaigns run it: whole nodes, the map machine, and clients that do everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from clustercore.testing.campaign import Level, SeedResult
from clustercore.testing.shrink import shrink_list
from clustercore.testing.simulation.clients import MapClients
from clustercore.testing.simulation.map_machine import MapMachine
from clustercore.testing.simulation.simulating import SimulationRun
from clustercore.testing.simulation.worlds import SimulatedWorld, draw_world
from clustercore.testing.trace import Event, Recorder, TraceHeader, write_trace
from clustercore.testing.trace.failures import with_violation
from clustercore.testing.violation import PropertyViolated, RunUseless, what_broke

__all__ = ["NodeLevel"]

# Runs of one seed while it is made shorter: a few minutes.
MAX_SHRINK_RUNS = 60


class NodeLevel(Level):
    """Unchanged nodes, under Trio's mock clock and a seeded scheduler, on a simulated network and simulated disks."""

    name = "node"
    expected = (
        "elections",
        "commits",
        "restores",
        "crashes",
        "leadings",
        "operations",
        "operations of unknown outcome",
        "lost",
        "repeated",
        "resets",
        "one_way",
        "bridge",
        "clog",
        "pause",
        "crash_anywhere",
        "crash_after_promise",
        "crash_at_a_write",
        "power_cut",
        "stall",
        "transfer",
        "fail_fsync",
        "slow_disk",
        "flip_bit",
        "misdirect",
        "replace_disk",
        "lose_disk",
        "come_back",
        "member changes done",
        "member changes refused",
        "member changes unknown",
        "members: add",
        "members: add_learner",
        "members: promote",
        "members: demote",
        "members: remove",
        "members: replace",
        "members: apply",
        "members: move",
        "move_out",
        "members back with their disks",
    )

    def run(self, seed: int) -> SeedResult:
        """Run the world that a seed draws: first with faults, then for liveness."""
        return _run(seed, draw_world(seed), None)

    def trace(self, seed: int, path: Path) -> SeedResult:
        """The same, and write the trace."""
        replay = f"clustercore fuzz --level node --seed {seed} --trace {path}"
        return _trace(seed, draw_world(seed), path, title=f"seed {seed}", replay=replay)

    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Find the fewest kinds of faults, and the shortest time, with which a seed still breaks the same property."""
        world = draw_world(seed)
        violated = _run(seed, world, None).violated

        def breaks(changed: SimulatedWorld) -> bool:
            say(f"trying {len(changed.faults)} kinds of faults for {changed.faults_s:.0f} s")
            return _run(seed, changed, None).violated == violated

        def with_faults(names: Sequence[str]) -> SimulatedWorld:
            return attrs.evolve(world, faults={name: world.faults[name] for name in names})

        if world.changes and breaks(quiet := attrs.evolve(world, changes={})):
            world = quiet
        kept = shrink_list(sorted(world.faults), lambda names: breaks(with_faults(names)), max_runs=MAX_SHRINK_RUNS)
        world = with_faults(kept)
        while world.faults_s > 1 and breaks(shorter := attrs.evolve(world, faults_s=world.faults_s / 2)):
            world = shorter
        result = _trace(seed, world, path, title=f"seed {seed}, made short", replay="")
        return [result.world, f"broken: {result.violated}", result.text]


def _run(seed: int, world: SimulatedWorld, recorder: Recorder | None) -> SeedResult:
    clients = MapClients()
    run = SimulationRun(seed, world, MapMachine, clients.scenario, clients.check)
    began_at = time.process_time()
    violated, text = None, ""
    try:
        run.go(recorder)
        _check_useful(run, clients)
    except Exception as group:  # noqa: BLE001 - whatever breaks a run is its result
        violated, text = what_broke(group)
    coverage = run.coverage
    coverage["operations"] = clients.done
    coverage["operations of unknown outcome"] = clients.unknown
    coverage["histories undecided"] = clients.undecided
    coverage["simulated seconds"] = int(run.simulated_s)
    seconds = time.process_time() - began_at
    return SeedResult(seed, world.describe(), run.inputs, seconds, coverage, violated, text)


def _check_useful(run: SimulationRun[MapMachine], clients: MapClients) -> None:
    """A run in which nothing happened says nothing."""
    if not run.coverage["elections"] or not run.coverage["commits"] or not clients.done:
        raise RunUseless("a run is of use", f"{clients.done} operations, {dict(run.coverage)}")


def _trace(seed: int, world: SimulatedWorld, path: Path, *, title: str, replay: str) -> SeedResult:
    recorder = Recorder(trio.current_time)
    result = _run(seed, world, recorder)
    events: Sequence[Event] = recorder.events
    if result.violated is not None:
        events = with_violation(events, PropertyViolated(result.violated, result.text))
    path.parent.mkdir(parents=True, exist_ok=True)
    header = TraceHeader("node", tuple(world.all_names), title, seed, {"world": world.describe()}, replay)
    write_trace(path, header, events)
    return result

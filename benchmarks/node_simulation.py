"""How many virtual seconds a second the simulator of whole nodes runs, with five nodes, faults and clients.

    python benchmarks/node_simulation.py [--seeds 5] [--faults-s 60] [--json FILE]

Each row is one kind of world. Clients offer 20 operations a virtual second; "done" is what they got through, the time
without a leader included. "speed" is virtual seconds a second of processor time, all checks included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from clustercore.testing.simulation import NetworkOptions, SimulatedWorld, draw_world
from clustercore.testing.simulation.clients import MapClients
from clustercore.testing.simulation.map_machine import MapMachine
from clustercore.testing.simulation.simulating import SimulationRun

NODES = 5


def quiet(seed: int, faults_s: float) -> SimulatedWorld:
    """No faults: nearly all that is offered is done."""
    network = NetworkOptions(latency_s=0.0005, jitter_s=0.0005)
    return SimulatedWorld(nodes=NODES, network=network, write_s=0.001, faults_s=faults_s, faults={"heal": 1})


def faulty(seed: int, faults_s: float) -> SimulatedWorld:
    """A fault every three seconds or so, mended as often."""
    drawn = draw_world(seed, nodes=NODES, faults_s=faults_s)
    return attrs.evolve(quiet(seed, faults_s), faults=drawn.faults, pause_s=3.0, snapshot_entries=50)


def drawn(seed: int, faults_s: float) -> SimulatedWorld:
    """What a campaign draws, but for the number of nodes."""
    return draw_world(seed, nodes=NODES, faults_s=faults_s)


WORLDS: dict[str, Callable[[int, float], SimulatedWorld]] = {"quiet": quiet, "faults": faulty, "as drawn": drawn}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--faults-s", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, str | float]] = []
    print(f"{NODES} nodes, {options.seeds} seeds of {options.faults_s:.0f} virtual seconds and what comes after")
    print(f"{'world':12}{'speed':>8}{'done/s':>8}{'events/s':>10}{'faults':>8}")
    for name, make in WORLDS.items():
        seconds = simulated_s = 0.0
        done = inputs = faults = 0
        for seed in range(options.seeds):
            clients = MapClients()
            world = make(seed, options.faults_s)
            run = SimulationRun(seed, world, MapMachine, clients.scenario, clients.check)
            began_at = time.process_time()
            run.go(None)
            seconds += time.process_time() - began_at
            simulated_s += run.simulated_s
            done += clients.done
            inputs += run.inputs
            faults += sum(run.coverage[fault] for fault in world.faults)
        row = {"speed": simulated_s / seconds, "done": done / simulated_s, "events": inputs / seconds}
        print(f"{name:12}{row['speed']:8.1f}{row['done']:8.1f}{row['events']:10.0f}{faults:8}", flush=True)
        rows.append({"world": name, **row, "faults": float(faults)})
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

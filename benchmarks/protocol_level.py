"""How many events a second the protocol level of simulation checks, on one core.

    python benchmarks/protocol_level.py [--seeds 200] [--json FILE]

Each row is a number of voters, over worlds that the seeds draw for it: faults of all kinds, and every property checked
after every event. An event is one input of a core, one write that becomes durable, one message lost, or one node that
crashes or starts. "unchecked" is the same without the properties: what the cores and their world take.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import attrs

from clustercore.testing.protocol import World, WorldPlan, draw_plan, draw_schedule
from clustercore.testing.protocol.moves import carry_out
from clustercore.testing.protocol.runs import run_schedule

LENGTH = 300


def plans(voters: int, seeds: int) -> list[WorldPlan]:
    """Return the worlds of the seeds, each with so many voters."""
    drawn = [draw_plan(seed) for seed in range(seeds)]
    return [attrs.evolve(plan, voters=voters, loses_disks=plan.loses_disks and voters >= 3) for plan in drawn]


def checked(plan: WorldPlan) -> tuple[int, float]:
    """Run a world with every check, and return its events and seconds."""
    run = run_schedule(plan, draw_schedule(plan, LENGTH), heals=False)
    assert run.error is None, f"{plan.describe()}: {run.violated}: {run.error}"
    return run.events, run.seconds


def unchecked(plan: WorldPlan) -> tuple[int, float]:
    """The same without any."""
    choices = draw_schedule(plan, LENGTH)
    started = time.process_time()
    world = World.of(plan)
    for number, choice in enumerate(choices):
        carry_out(world, plan, choice, number)
    return world.events, time.process_time() - started


def main() -> None:
    """Measure each number of voters, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="worlds for each row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    rows = []
    print(f"{'voters':>6} {'events':>10} {'events/s':>10} {'unchecked':>10}")
    for voters in (1, 3, 5, 7):
        worlds = plans(voters, arguments.seeds)
        totals = [[sum(column) for column in zip(*map(run, worlds), strict=True)] for run in (checked, unchecked)]
        (events, seconds), (bare_events, bare_seconds) = totals
        row = {"voters": voters, "events": events, "per_second": round(events / seconds)}
        rows.append({**row, "unchecked_per_second": round(bare_events / bare_seconds)})
        print(f"{voters:>6} {events:>10,} {rows[-1]['per_second']:>10,} {rows[-1]['unchecked_per_second']:>10,}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

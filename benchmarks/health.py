"""How fast a day of health checks is simulated: 50 nodes, checked every 10 seconds for 24 hours, on a mock clock.

It is what a test of an application's own health logic costs; and since nothing but the checker runs in it, it bounds
what the checker itself costs a real process: the seconds of CPU for a day.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from random import Random

import trio
from trio.testing import MockClock

from clustercore import HealthChecker, HealthConfig
from clustercore.interfaces import CheckOutcome, CheckResult, Probe

WELL = CheckResult(CheckOutcome.OK)


class Answers(Probe):
    """Answers at once, and counts."""

    count = 0

    async def check(self) -> CheckResult:
        """Answer that it is well."""
        Answers.count += 1
        return WELL


async def simulate(nodes: int, hours: float) -> None:
    """Check so many nodes for so long."""
    async with HealthChecker(HealthConfig(), rng=Random(7)) as checker:
        for number in range(nodes):
            checker.start_monitoring(f"n{number}", Answers())
        await trio.sleep(hours * 3600)


def main() -> None:
    """Measure once, print it, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    began, cpu_began = time.perf_counter(), time.process_time()
    trio.run(simulate, options.nodes, options.hours, clock=MockClock(autojump_threshold=0))
    report = {
        "nodes": options.nodes,
        "hours": options.hours,
        "checks": Answers.count,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu_began, 2),
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    print(
        f"{options.hours:g} hours of {options.nodes} nodes: {report['checks']} checks in {report['seconds']} s "
        f"({report['cpu_seconds']} s of CPU; load {report['load_average']:.1f} on {report['cores']} cores)"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

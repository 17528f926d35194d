"""The protocol level, as campaigns run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clustercore.testing.campaign import Level, SeedResult
from clustercore.testing.protocol.coverage import EXPECTED
from clustercore.testing.protocol.runs import ProtocolRun, draw_run, run_schedule, run_seed
from clustercore.testing.protocol.tracing import shrink_run, trace_run
from clustercore.testing.trace import write_trace

__all__ = ["ProtocolLevel"]


class ProtocolLevel(Level):
    """Cores alone, under an adversary that chooses what happens next."""

    name = "protocol"
    expected = EXPECTED

    def run(self, seed: int) -> SeedResult:
        """Run the world and the schedule of a seed, and heal."""
        return _result_of(seed, run_seed(seed))

    def trace(self, seed: int, path: Path) -> SeedResult:
        """The same, and write the trace."""
        plan, choices = draw_run(seed)
        replay = f"clustercore fuzz --level protocol --seed {seed} --trace {path}"
        traced = trace_run(plan, choices, title=f"seed {seed}", must_be_useful=True, replay=replay)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_trace(path, traced.header, traced.events)
        return _result_of(seed, traced.run)

    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Leave out of a seed's schedule what does not matter, and write the trace of what remains."""
        run = run_seed(seed)
        heals = run_schedule(run.plan, run.choices, heals=False).violated != run.violated
        choices = shrink_run(run, heals=heals, on_run=lambda length: say(f"trying {length} choices"))
        replay = f"clustercore fuzz --replay {path}"
        traced = trace_run(run.plan, choices, title=f"seed {seed}, made short", heals=heals, replay=replay)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_trace(path, traced.header, traced.events)
        lines = [f"{number}. {told}" for number, told in enumerate(traced.told, start=1)]
        return [*lines, *(["then all faults end"] if heals else []), *_broken(traced.run)]


def _result_of(seed: int, run: ProtocolRun) -> SeedResult:
    return SeedResult(
        seed,
        run.plan.describe(),
        run.events,
        run.seconds,
        run.coverage,
        run.violated,
        str(run.error) if run.error is not None else "",
    )


def _broken(run: ProtocolRun) -> list[str]:
    if run.error is None:
        return []
    source = getattr(run.error, "source", "")
    return [f"broken: {run.violated}" + (f" ({source})" if source else ""), str(run.error)]

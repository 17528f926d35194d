"""The protocol level, as campaigns run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clustercore.interfaces import ConfigError
from clustercore.testing.campaign import Level, SeedResult
from clustercore.testing.protocol.coverage import EXPECTED
from clustercore.testing.protocol.runs import ProtocolRun, draw_run, run_seed
from clustercore.testing.protocol.shrinking import shrink_run
from clustercore.testing.protocol.tracing import schedule_of, trace_run
from clustercore.testing.trace import Trace, write_trace

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

    def replay(self, trace: Trace) -> tuple[SeedResult, str]:
        """Carry out the schedule in a trace's header."""
        try:
            plan, choices, heals = schedule_of(trace.header.options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        traced = trace_run(plan, choices, title=trace.header.title, heals=heals)
        return _result_of(plan.seed, traced.run), traced.hash

    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Leave out of a seed's schedule what does not matter, and write the trace of what remains."""
        shrunk = shrink_run(run_seed(seed), on_run=lambda length: say(f"trying {length} choices"))
        replay = f"clustercore fuzz --replay {path}"
        title = f"seed {seed}, made short"
        traced = trace_run(shrunk.plan, shrunk.choices, title=title, heals=shrunk.heals, replay=replay)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_trace(path, traced.header, traced.events)
        lines = [f"{number}. {told}" for number, told in enumerate(traced.told, start=1)]
        return [*lines, *(["then all faults end"] if shrunk.heals else []), *_broken(traced.run)]


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

"""``clustercore fuzz``: run simulated clusters under faults, many seeds after each other, and show what breaks."""

from __future__ import annotations

import itertools
import re
import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clustercore.cli.exits import Exit, leave
from clustercore.cli.options import json_option
from clustercore.cli.output import print_json, print_line
from clustercore.interfaces import ClusterError, ConfigError
from clustercore.testing.campaign import CampaignResult, Level, SeedResult, level_of, run_campaign
from clustercore.testing.trace import TraceError, read_trace, trace_folder

__all__ = ["fuzz"]

DEFAULT_SEEDS = 200
# A campaign shorter than this need not have reached all that there is.
TELLING_SEEDS = 200
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read a number of seconds, minutes or hours."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration; 30s, 10m and 2h are", context, parameter)
    return float(found[1]) * _UNITS_S[found[2]]


@attrs.frozen
class _Failure:
    """A seed that failed, and what is left of it."""

    result: SeedResult
    # The schedule made short, in lines for people; none if that was not wanted.
    lines: Sequence[str]
    trace: Path | None
    replay: str


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help=f"How many seeds.  [default: {DEFAULT_SEEDS}]")
@click.option("--for", "for_s", callback=_seconds, metavar="10m", help="Run for so long, instead of a number of seeds.")
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=0),
    metavar="S",
    help="The first seed.  [default: 0; with --for, one drawn by chance]",
)
@click.option("--level", default="protocol", show_default=True, metavar="NAME", help="protocol, node or sync.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="So many processes.")
@click.option("--seed", type=click.IntRange(min=0), metavar="S", help="Run this one seed.")
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --seed: where to write the trace, for `clustercore trace view`.",
)
@click.option(
    "--replay",
    "replayed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Run again what a trace is of, and say whether it goes as it did.",
)
@click.option("--no-shrink", is_flag=True, help="Do not make the schedule of the first failure short.")
@json_option
def fuzz(
    seeds: int | None,
    for_s: float | None,
    first: int | None,
    level: str,
    jobs: int,
    seed: int | None,
    trace_path: Path | None,
    replayed: Path | None,
    no_shrink: bool,
    as_json: bool,
) -> None:
    """Run simulated clusters under faults, and check every property after every event.

    Each seed draws a world and a schedule of messages, crashes, disk writes and changes of members; the same seed gives
    the same run, always. The first seed that breaks a property ends the campaign: its schedule is made short and
    printed, with the commands that show and repeat it. Exit code 0: nothing broke; 1: something did.
    """
    try:
        if replayed is not None:
            _refuse_others("--replay", seeds, for_s, first, seed, trace_path)
            _replay(replayed, as_json=as_json)
        elif seed is not None:
            _refuse_others("--seed", seeds, for_s, first)
            _run_one(level_of(level), seed, trace_path, as_json=as_json)
        elif trace_path is not None:
            raise ConfigError("--trace needs --seed: it is the trace of one run")
        elif seeds is not None and for_s is not None:
            raise ConfigError("--seeds and --for are two answers to one question; give one of them")
        else:
            _run_many(level_of(level), seeds, for_s, first, jobs, shrinks=not no_shrink, as_json=as_json)
    except ClusterError as error:
        leave(error)
    except OSError as error:
        leave(TraceError(f"{error.filename or 'the trace'} cannot be written: {error.strerror or error}"))


def _refuse_others(name: str, *others: object) -> None:
    if any(other is not None for other in others):
        raise ConfigError(f"{name} stands alone: it says by itself what is run")


# --- One run ----------------------------------------------------------------------------------------------------------


def _run_one(level: Level, seed: int, path: Path | None, *, as_json: bool) -> None:
    result = level.run(seed) if path is None else level.trace(seed, path)
    _tell_one(result, as_json=as_json, trace=path)


def _replay(path: Path, *, as_json: bool) -> None:
    trace = read_trace(path)
    result, found = level_of(trace.header.level).replay(trace)
    _tell_one(result, as_json=as_json, is_same=found == trace.hash)


def _tell_one(result: SeedResult, *, as_json: bool, trace: Path | None = None, is_same: bool | None = None) -> None:
    if as_json:
        told = _as_json(result)
        extra = {"trace": str(trace)} if trace is not None else {}
        print_json({**told, **extra, **({"same_trace": is_same} if is_same is not None else {})})
    else:
        print_line(f"seed {result.seed}: {result.events} events in {result.seconds:.2f} s")
        print_line(f"  world: {result.world}")
        if result.violated is None:
            print_line("  nothing broken")
        else:
            print_line(f"  broken: {result.violated}\n  {result.text}")
        if trace is not None:
            print_line(f"  trace:  {trace}\n  look:   clustercore trace view {trace}")
        if is_same is not None:
            print_line("  the same trace as before" if is_same else "  another trace than before")
    if result.violated is not None:
        sys.exit(Exit.FAILED)


# --- A campaign -------------------------------------------------------------------------------------------------------


def _run_many(
    level: Level,
    seeds: int | None,
    for_s: float | None,
    first: int | None,
    jobs: int,
    *,
    shrinks: bool,
    as_json: bool,
) -> None:
    if for_s is None:
        count = seeds if seeds is not None else DEFAULT_SEEDS
        wanted: Iterable[int] = range(first or 0, (first or 0) + count)
    else:
        # Every night the same seeds would find the same.
        count = None
        wanted = itertools.count(first if first is not None else secrets.randbelow(2**32))
    # No thread of its own: processes are forked beside it.
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        bar = progress.add_task(f"{level.name} level", total=count, rate="")
        events = 0

        def advance(result: SeedResult) -> None:
            nonlocal events
            events += result.events
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f"{events / elapsed:,.0f} events/s" if elapsed else ""
            progress.update(bar, advance=1, rate=rate)
            progress.refresh()

        result = run_campaign(level, wanted, jobs=jobs, for_s=for_s, on_result=advance)
        failure = None
        if result.failures:
            failure = _keep(level, result.failures[0], progress, shrinks=shrinks)
    _tell_campaign(level, result, failure, as_json=as_json)
    if result.failures:
        sys.exit(Exit.FAILED)


def _keep(level: Level, result: SeedResult, progress: Progress, *, shrinks: bool) -> _Failure:
    """Leave the trace of a seed that failed, made short if that is wanted."""
    path = trace_folder() / f"{level.name}-{result.seed}.jsonl"
    replay = f"clustercore fuzz --level {level.name} --seed {result.seed} --trace FILE"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not shrinks:
        level.trace(result.seed, path)
        return _Failure(result, (), path, replay)
    task = progress.add_task("making it short", total=None, rate="")

    def say(text: str) -> None:
        progress.update(task, rate=text)
        progress.refresh()

    return _Failure(result, level.shrink(result.seed, path, say), path, replay)


def _tell_campaign(level: Level, result: CampaignResult, failure: _Failure | None, *, as_json: bool) -> None:
    never = [name for name in level.expected if not result.coverage.get(name)]
    if as_json:
        print_json(
            {
                "level": result.level,
                "seeds": result.seeds,
                "events": result.events,
                "seconds": round(result.seconds, 3),
                "elapsed_s": round(result.elapsed_s, 3),
                "events_per_second": round(result.events_per_second),
                "coverage": dict(result.coverage),
                "never_reached": never,
                "failure": None if failure is None else {**_as_json(failure.result), **_left(failure)},
            }
        )
        return
    print_line(
        f"{result.level} level: {result.seeds} seeds, {result.events:,} events, {result.events_per_second:,.0f} events "
        f"a second of one core, {result.elapsed_s:.1f} s"
    )
    print_line("reached: " + ", ".join(f"{count:,} {name}" for name, count in result.coverage.items()))
    if never and result.seeds >= TELLING_SEEDS:
        print_line("never reached: " + ", ".join(never))
    if failure is None:
        print_line("nothing broken")
        return
    broken = failure.result
    print_line(f"seed {broken.seed} broke: {broken.violated}\n  {broken.text}\n  world: {broken.world}")
    if failure.lines:
        print_line("made short:\n" + "\n".join(f"  {line}" for line in failure.lines))
    print_line(f"trace:   {failure.trace}\nlook:    clustercore trace view {failure.trace}\nrepeat:  {failure.replay}")


def _as_json(result: SeedResult) -> dict[str, object]:
    return {**attrs.asdict(result), "coverage": dict(result.coverage)}


def _left(failure: _Failure) -> dict[str, object]:
    return {"schedule": list(failure.lines), "trace": str(failure.trace), "replay": failure.replay}

"""The command itself: its options, its folder, its end."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from clustercore.cli.demo.consul import DemoConsul
from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.story import DemoPlan, DemoResult, Story
from clustercore.cli.demo.view import View
from clustercore.cli.demo.writes import made_up_writes, read_writes
from clustercore.cli.exits import Exit, Failure, Interrupted, attempt, leave
from clustercore.cli.options import json_option, transport_option
from clustercore.cli.output import print_json, print_line
from clustercore.interfaces import ClusterError, ConfigError

__all__ = ["demo"]


@click.command()
@click.option("--writes", default=5000, show_default=True, type=click.IntRange(min=1), help="How many to make up.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(1, 1024), help="How many write at once.")
@click.option(
    "--input",
    "input_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Write these instead: JSON lines of {"key": ..., "value": ...}, each key once.',
)
@transport_option
@click.option(
    "--discovery",
    default="static",
    show_default=True,
    type=click.Choice(["static", "consul"]),
    help="How the nodes find each other: each file names them all, or none does and Consul, which has to be installed, "
    "runs beside them.",
)
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="An empty folder to use, and keep.")
@click.option("--keep", is_flag=True, help="Keep the temporary folder.")
@json_option
def demo(
    writes: int,
    clients: int,
    input_path: Path | None,
    transport: str,
    discovery: str,
    directory: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Show that what is acknowledged survives.

    Starts three nodes, writes from concurrent clients, kills the leader with SIGKILL half-way, starts it again, waits
    until all nodes agree, and reads every acknowledged write back from each. Exits with 0 only if nothing was lost and
    all nodes agree. With --json the last line on standard output is one object, and progress goes to standard error.
    """
    try:
        what = made_up_writes(writes) if input_path is None else read_writes(input_path)
        with _folder(directory, keep) as folder:
            consul = DemoConsul(folder) if discovery == "consul" else None
            plan = DemoPlan(what, clients, transport, folder, consul)
            story = Story(plan, View(Console(stderr=as_json, highlight=False)))
            outcome = attempt(story.play)
    except ClusterError as error:
        leave(error)
    if isinstance(outcome, Failure):
        _tell_failure(outcome.error, story, as_json)
        leave(outcome.error)
    _tell(outcome, as_json)
    if directory is not None or keep:
        sys.stderr.write(f"the nodes' files are in {folder}\n")
    raise SystemExit(Exit.DONE if outcome.is_good else Exit.FAILED)


@contextmanager
def _folder(directory: Path | None, keep: bool) -> Iterator[Path]:
    """Lend a folder. Raises: ConfigError if the one asked for cannot be used."""
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            is_empty = not any(directory.iterdir())
        except OSError as error:
            raise ConfigError(f"--dir {directory}: cannot be used: {error.strerror}") from error
        if not is_empty:
            raise ConfigError(f"--dir {directory}: is not empty; name an empty folder, or a new one")
        yield directory.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="clustercore-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def _tell_failure(error: ClusterError | Interrupted, story: Story, as_json: bool) -> None:
    if isinstance(error, DemoFailed) and error.evidence:
        sys.stderr.write(f"{error.evidence}\n")
    if as_json:
        acknowledged = 0 if story.load is None else len(story.load.acknowledged)
        # The same names as in a result; what is not known is null.
        unknown: dict[str, Any] = dict.fromkeys(("lost", "writes_per_s", "failover_ms", "terms"))
        print_json({"acknowledged": acknowledged, **unknown, "nodes_agree": False, "error": str(error)})


def _tell(result: DemoResult, as_json: bool) -> None:
    told = result.as_json()
    if as_json:
        print_json(told)
        return
    for line in (
        f"acknowledged   {told['acknowledged']} writes by {told['clients']} clients; {told['unknown']} made again",
        f"lost           {told['lost']}",
        f"nodes agree    {'yes' if told['nodes_agree'] else 'NO'}, up to log index {told['applied_index']}",
        f"failover       {told['failover_ms']:.0f} ms after {told['killed']} was killed",
        f"terms          {', '.join(map(str, told['terms']))}",
        f"writes/s       {told['writes_per_s']:.0f}; {told['steady_writes_per_s']:.0f} without the failover",
        *(f"LOST on {node_id}: {', '.join(keys)}" for node_id, keys in told["lost_keys"].items()),
    ):
        print_line(line)

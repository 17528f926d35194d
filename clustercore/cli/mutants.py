"""``clustercore mutants``: break the source on purpose, in one place at a time, and see whether the tests find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from clustercore.cli.exits import Exit, leave, run
from clustercore.cli.options import json_option
from clustercore.cli.output import console, print_json, print_line
from clustercore.interfaces import ClusterError
from clustercore.testing.mutants.catalogue import Mutant, chosen, default_folder, read_catalogue
from clustercore.testing.mutants.matrix import HEADINGS, page, plain, row, summary
from clustercore.testing.mutants.runner import PROFILES, Fate, Outcome, run_mutants

__all__ = ["mutants"]

PAGE = Path("docs/reference/mutants.md")


@click.command()
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="default",
    show_default=True,
    help="How hard to look: default takes some minutes, ci may try ten times as many worlds.",
)
@click.option("--only", "ids", multiple=True, metavar="ID", help="Run this mutant alone; may be repeated.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one for each processor",
    help="Processes at a time.",
)
@click.option("--list", "is_listing", is_flag=True, help="Show the catalogue, and run nothing.")
@click.option("--write-docs", is_flag=True, help=f"Write the matrix to {PAGE}.")
@json_option
def mutants(profile: str, ids: tuple[str, ...], jobs: int, is_listing: bool, write_docs: bool, as_json: bool) -> None:
    """Break the source in one place at a time, and see whether the tests find it.

    It needs a checkout of the repository, with what `make venv` installs: the catalogue stands beside the tests. Each
    mutant is run in a process of its own, and no file is changed. The exit code is 0 if all are killed by the property
    that they claim to break, otherwise 3.
    """
    try:
        folder = default_folder()
        selected = chosen(read_catalogue(folder), ids)
    except ClusterError as error:
        leave(error)
    if is_listing:
        _list(selected, as_json)
        return
    root = folder.parents[2]
    outcomes = _run(selected, root, profile, jobs, is_shown=not as_json)
    if write_docs:
        (root / PAGE).write_text(page(outcomes, profile), encoding="utf-8")
    if as_json:
        print_json({"profile": profile, **plain(outcomes)})
    else:
        console().print(_matrix(outcomes))
        for outcome in outcomes:
            if outcome.fate is not Fate.KILLED:
                print_line(f"{outcome.mutant.id}: {outcome.fate.value}. {outcome.text}")
        print_line(summary(outcomes))
    if any(outcome.fate is not Fate.KILLED for outcome in outcomes):
        sys.exit(Exit.NO)


def _run(selected: list[Mutant], root: Path, profile: str, jobs: int, *, is_shown: bool) -> list[Outcome]:
    """Run mutants under a progress bar, which goes to standard error so that the matrix can be piped."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
        console=Console(stderr=True),
        transient=True,
        disable=not is_shown,
    )
    with bar:
        task = bar.add_task("mutants", total=len(selected), last="")

        def on_done(outcome: Outcome) -> None:
            bar.update(task, advance=1, last=f"{outcome.mutant.id}: {outcome.fate.value}")

        async def main() -> list[Outcome]:
            return await run_mutants(selected, root=root, profile=PROFILES[profile], jobs=jobs, on_done=on_done)

        return run(main)


def _list(selected: list[Mutant], as_json: bool) -> None:
    if as_json:
        print_json([{"id": mutant.id, "property": mutant.property, "why": mutant.why} for mutant in selected])
        return
    shown = Table("mutant", "module", "property", "what goes wrong")
    for mutant in selected:
        shown.add_row(mutant.id, mutant.module, mutant.property, mutant.why)
    console().print(shown)


def _matrix(outcomes: list[Outcome]) -> Table:
    shown = Table(*HEADINGS)
    for outcome in outcomes:
        shown.add_row(*row(outcome))
    return shown

"""``clustercore trace``: look at what a simulated cluster did, and compare two runs."""

from __future__ import annotations

from pathlib import Path

import click

from clustercore.cli.exits import leave
from clustercore.cli.options import json_option
from clustercore.cli.output import print_json, print_line
from clustercore.interfaces import ClusterError
from clustercore.testing.trace import Trace, TraceError, read_trace, render_page
from clustercore.testing.trace.events import Violated

__all__ = ["trace"]

# Whether the file is there is for the command to say, in one line as everything else.
_FILE = click.Path(path_type=Path)


@click.group()
def trace() -> None:
    """Look at the trace that a failing run left, and compare runs."""


@trace.command()
@click.argument("file", type=_FILE)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    metavar="OUT.html",
    help="Where to write the page; beside the trace, with the ending .html, if not given.",
)
@json_option
def view(file: Path, output: Path | None, as_json: bool) -> None:
    """Draw a trace as one page of HTML, to be opened in a browser.

    The page needs no network and no other file. It begins where a property broke; #step=N behind its address shows the
    moment after the first N events.
    """
    page = output if output is not None else file.with_suffix(".html")
    found = _read(file)
    try:
        page.write_text(render_page(found), encoding="utf-8")
    except OSError as error:
        leave(TraceError(f"{page} cannot be written: {error.strerror or error}"))
    broken = _broken(found)
    if as_json:
        summary = {"page": str(page), "events": len(found.events), "nodes": found.header.nodes, "hash": found.hash}
        print_json({**summary, "broken": broken})
    else:
        print_line(
            f"{page}: {len(found.events)} events of {len(found.header.nodes)} nodes; {broken or 'nothing broken'}"
        )


@trace.command("hash")
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@json_option
def hash_(files: tuple[Path, ...], as_json: bool) -> None:
    """Print the hash of each trace: two runs that went alike have one hash, however they were started."""
    hashes = {str(file): _read(file).hash for file in files}
    if as_json:
        print_json(hashes)
    else:
        for name, found in hashes.items():
            print_line(f"{found}  {name}")


def _read(file: Path) -> Trace:
    try:
        return read_trace(file)
    except ClusterError as error:
        leave(error)


def _broken(found: Trace) -> str | None:
    """Return the first property that broke, and at which step; None if none did."""
    for step, event in enumerate(found.events, start=1):
        if isinstance(event, Violated):
            return f"broken at step {step}: {event.name}"
    return None

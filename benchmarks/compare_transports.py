"""Compare the transports that are installed: what a request costs, what a stream carries, what a cluster commits.

    python benchmarks/compare_transports.py [--rounds 3] [--seconds 0.2] [--json FILE] [--plot FILE.png]

Every transport is found by its entry point, so one of your own is among them once it is installed. Each talks to an
echo in another process of this machine, in the clear and, where it can, over TLS: calls ("request") and messages on one
link ("stream"), with 1 and 64 outstanding, of 64 B, 4 KiB and 1 MiB, answered with as much. Then each carries a cluster
of three processes with SQLite and full synchronisation, and proposals of 64 B are committed. Two baselines run along: a
bare echo of frames over Trio's sockets, and grpcio. ``memory`` stays in one process: it shows what is not the wire.

A round measures every case once, all transports after one another, so that what else the machine does meets all of
them. The tables give the median round, half the distance between the lowest and the highest, and the ratio to TCP.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

# Run as a file, this module finds what lies beside it only by the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.transport_clusters import commit, open_leader
from benchmarks.transport_peers import GRPCIO, RAW, Latencies, Peer, installed, open_peer, takes_tls

PAYLOADS = (64, 4096, 1 << 20)
OUTSTANDING = (1, 64)
MODES = ("request", "stream")
REFERENCE = "tcp"


@attrs.frozen
class Case:
    """One cell of the comparison."""

    transport: str
    tls: bool
    # "request", "stream" or "commit".
    mode: str
    payload_bytes: int
    outstanding: int


@attrs.define
class Figures:
    """What the rounds of one case measured."""

    per_s: list[float] = attrs.field(factory=list)
    p50_ms: list[float] = attrs.field(factory=list)
    p99_ms: list[float] = attrs.field(factory=list)

    def as_row(self, case: Case, reference: Figures | None) -> dict[str, Any]:
        """Return the medians, the spread and the ratio to TCP."""
        per_s = statistics.median(self.per_s)
        ratio = per_s / statistics.median(reference.per_s) if reference and reference.per_s else None
        return attrs.asdict(case) | {
            "per_s": per_s,
            "least_per_s": min(self.per_s),
            "most_per_s": max(self.per_s),
            "p50_ms": statistics.median(self.p50_ms),
            "p99_ms": statistics.median(self.p99_ms),
            "ratio_to_tcp": ratio,
        }


# --- Measuring -------------------------------------------------------------------------------------------------------


async def measure_peer(peer: Peer, case: Case, seconds: float) -> dict[str, float] | None:
    """Measure one case once; None if the peer has no requests."""
    ask = peer.request if case.mode == "request" else peer.stream
    found = await ask(bytes(case.payload_bytes), case.outstanding, seconds)
    return None if found is None else figures_of(found)


def figures_of(found: Latencies) -> dict[str, float]:
    """Return the rate, and the median and 99th percentile of the latencies."""
    quantiles = statistics.quantiles(found.each_s, n=100) if len(found.each_s) > 1 else found.each_s * 99
    return {
        "per_s": len(found.each_s) / found.elapsed_s,
        "p50_ms": 1000 * quantiles[49],
        "p99_ms": 1000 * quantiles[98],
    }


def exchanges(names: list[str], tls_names: list[str], payloads: list[int]) -> Iterator[Case]:
    """List the cases of two processes in the order of a round: the transports of each cell after one another."""
    for tls, these in ((False, names), (True, tls_names)):
        for mode in MODES:
            for payload_bytes in payloads:
                for outstanding in OUTSTANDING:
                    for name in these:
                        if not (name == RAW and mode == "request"):
                            yield Case(name, tls, mode, payload_bytes, outstanding)


async def compare(options: argparse.Namespace, certificates: dict[str, str], progress: Progress) -> dict[Case, Figures]:
    """Run all rounds; return what was measured of each case."""
    transports = [name for name in installed() if name in (options.transports or installed())]
    tls_names = [name for name in transports if certificates and takes_tls(name)]
    cases = list(exchanges([*transports, RAW, GRPCIO], tls_names, options.payloads))
    # In one process, and without a place to listen at, there is no cluster of three processes.
    commits = [
        Case(name, False, "commit", 64, outstanding)
        for outstanding in OUTSTANDING
        for name in transports
        if name != "memory"
    ]
    bar = progress.add_task("starting", total=options.rounds * (len(cases) + len(commits)))
    results: dict[Case, Figures] = {}
    async with AsyncExitStack() as stack:
        peers = {
            (name, tls): await stack.enter_async_context(open_peer(name, certificates if tls else {}))
            for name, tls in dict.fromkeys((case.transport, case.tls) for case in cases)
        }

        async def run_exchange(case: Case) -> dict[str, float] | None:
            return await measure_peer(peers[case.transport, case.tls], case, options.seconds)

        await run_rounds(cases, run_exchange, results, options.rounds, progress, bar)
    async with AsyncExitStack() as stack:
        progress.update(bar, description="starting clusters")
        leaders = {
            name: await stack.enter_async_context(open_leader(name))
            for name in dict.fromkeys(case.transport for case in commits)
        }

        async def run_commits(case: Case) -> dict[str, float]:
            return figures_of(await commit(leaders[case.transport], case.outstanding, options.seconds * 3))

        await run_rounds(commits, run_commits, results, options.rounds, progress, bar)
    return results


async def run_rounds(
    cases: list[Case],
    run: Callable[[Case], Awaitable[dict[str, float] | None]],
    results: dict[Case, Figures],
    rounds: int,
    progress: Progress,
    bar: TaskID,
) -> None:
    """Measure every case once a round. What a first round warms up is not kept apart: medians bear it."""
    for number in range(rounds):
        for case in cases:
            what = f"round {number + 1}: {case.transport}{' TLS' if case.tls else ''}, {case.mode}"
            progress.update(bar, description=what)
            found = await run(case)
            if found is not None:
                figures = results.setdefault(case, Figures())
                for name, value in found.items():
                    getattr(figures, name).append(value)
            progress.advance(bar)


def make_certificates(folder: Path) -> dict[str, str]:
    """Make the options for TLS; none if trustme is not installed."""
    try:
        import trustme
    except ImportError:
        return {}
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "n1")
    paths = {name: folder / f"{name}.pem" for name in ("tls_certificate", "tls_key", "tls_authority")}
    issued.cert_chain_pems[0].write_to_path(paths["tls_certificate"])
    issued.private_key_pem.write_to_path(paths["tls_key"])
    authority.cert_pem.write_to_path(paths["tls_authority"])
    return {name: str(path) for name, path in paths.items()}


# --- Showing ---------------------------------------------------------------------------------------------------------


def rows_of(results: dict[Case, Figures]) -> list[dict[str, Any]]:
    """Return a row for each case."""
    return [
        figures.as_row(case, results.get(attrs.evolve(case, transport=REFERENCE))) for case, figures in results.items()
    ]


def show_size(size: int) -> str:
    """Write a size as people do."""
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def tables_of(rows: list[dict[str, Any]]) -> Iterator[Table]:
    """Yield a table for the clear, one for TLS and one for commits, with a column for each transport."""
    for title, these in (
        ("In the clear", [row for row in rows if row["mode"] != "commit" and not row["tls"]]),
        ("Over TLS", [row for row in rows if row["tls"]]),
        ("Durable commits, three processes", [row for row in rows if row["mode"] == "commit"]),
    ):
        names = list(dict.fromkeys(row["transport"] for row in these))
        table = Table(
            title=f"{title}: answers per second ± spread (ratio to TCP); p50 / p99 in ms", title_justify="left"
        )
        for heading in ("what", "size", "open", *names):
            table.add_column(heading, no_wrap=True, justify="left" if heading == "what" else "right")
        cells: dict[tuple[str, int, int], dict[str, str]] = {}
        for row in these:
            key = (row["mode"], row["payload_bytes"], row["outstanding"])
            cells.setdefault(key, {})[row["transport"]] = show_cell(row)
        for (mode, size, outstanding), found in cells.items():
            table.add_row(mode, show_size(size), str(outstanding), *(found.get(name, "") for name in names))
        if these:
            yield table


def show_cell(row: dict[str, Any]) -> str:
    """Write the figures of one case in two lines."""
    spread = (row["most_per_s"] - row["least_per_s"]) / 2 / row["per_s"]
    ratio = "" if row["ratio_to_tcp"] is None else f" ({row['ratio_to_tcp']:.2f})"
    return f"{row['per_s']:,.0f} ±{spread:.0%}{ratio}\n{row['p50_ms']:.2f} / {row['p99_ms']:.2f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw six pictures of bars, one bar for each transport, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    figure.suptitle(
        "Transports on one machine: an echo in another process, and durable commits of three processes. "
        "The median round, with the lowest and the highest"
    )
    pictures = [
        ("Small requests, one at a time\n64 B, answers per second", "request", 64, 1),
        ("Small messages on one stream, 64 open\n64 B, answers per second", "stream", 64, 64),
        ("Large messages on one stream, 64 open\n1 MiB each way, MiB per second", "stream", 1 << 20, 64),
        ("Small messages on one stream, one at a time\n64 B, answers per second", "stream", 64, 1),
        ("Commits, one proposer\n64 B on three disks, commits per second", "commit", 64, 1),
        ("Commits, 64 proposers\n64 B on three disks, commits per second", "commit", 64, 64),
    ]
    for axes, (title, mode, size, outstanding) in zip(figure.subplots(2, 3).flat, pictures, strict=True):
        these = [
            row
            for row in rows
            if (row["mode"], row["payload_bytes"], row["outstanding"]) == (mode, size, outstanding)
            # Which hands large messages over as they are, and would dwarf the others.
            and not (row["transport"] == "memory" and size >= 1 << 20)
        ]
        these.sort(key=lambda row: (row["transport"], row["tls"]), reverse=True)
        names = [row["transport"] + (" + TLS" if row["tls"] else "") for row in these]
        values = [row["per_s"] for row in these]
        errors = (
            [(row["per_s"] - row["least_per_s"]) for row in these],
            [(row["most_per_s"] - row["per_s"]) for row in these],
        )
        colours = [COLOURS.get(row["transport"], "tab:purple") for row in these]
        bars = axes.barh(names, values, xerr=errors, capsize=3, color=colours)
        for bar, row in zip(bars, these, strict=True):
            bar.set_alpha(0.55 if row["tls"] else 1.0)
        axes.bar_label(bars, fmt="{:,.0f}", padding=6)
        axes.set_title(title, fontsize=11)
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=100)


COLOURS = {"tcp": "tab:blue", "grpc": "tab:orange", "http": "tab:green", "memory": "tab:gray"}
COLOURS |= {RAW: "lightgray", GRPCIO: "lightgray"}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="how long each case of a round runs")
    parser.add_argument("--transports", nargs="+", metavar="NAME", help="only these, and the baselines")
    parser.add_argument("--payloads", type=int, nargs="+", default=PAYLOADS, metavar="BYTES")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG")
    options = parser.parse_args()
    progress = Progress(
        TextColumn("{task.description:34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with tempfile.TemporaryDirectory() as folder, progress:
        results = trio.run(compare, options, make_certificates(Path(folder)), progress)
    rows = rows_of(results)
    console = Console(width=160)
    for table in tables_of(rows):
        console.print(table)
    if options.json:
        about = {"cpus": os.cpu_count(), "python": platform.python_version(), "rounds": options.rounds}
        options.json.write_text(json.dumps(about | {"seconds": options.seconds, "rows": rows}, indent=2) + "\n")
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()

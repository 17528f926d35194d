"""Durable commits of a three-process cluster, as seen by proposers inside the leader's process.

Three processes on this machine, gRPC between them, SQLite with full synchronisation under each. This process holds one
of the nodes, which is given the shortest election timeout, and to which the others hand over if they lead all the same;
they are subprocesses.

    python benchmarks/first_slice.py [--rounds 5] [--seconds 3] [--json FILE] [--plot FILE.png] [--profile FILE]

Absolute figures depend on the machine and its neighbours. Each round measures all cases in turn, so ratios between them
hold better than the figures themselves; the table gives the median round, and the lowest and highest.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import trio

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import LogIndex, Role, StateMachine, TransferFailed
from clustercore_grpc import GrpcTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery

COMMAND = b"x" * 64
OUTSTANDING = (1, 64, 512)
LEADER = "n1"


class LastCommand(StateMachine):
    """The least a state machine can do, so that the figures are those of replication."""

    def __init__(self) -> None:
        self.last = b""

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Keep the command."""
        self.last = command
        return b""

    def snapshot(self) -> bytes:
        """Return the last command."""
        return self.last

    def restore(self, snapshot: bytes) -> None:
        """Take the last command."""
        self.last = snapshot


def make_node(node_id: str, folder: Path, members: dict[str, str]) -> Node:
    """Make a node whose election timeout says whether it is to lead."""
    election_timeout_s = 0.5 if node_id == LEADER else 5.0
    return Node(
        node_id,
        machine=LastCommand(),
        transport=GrpcTransport(members[node_id]),
        storage=SqliteStorage(folder / f"{node_id}.db"),
        discovery=StaticDiscovery(members),
        config=NodeConfig(raft=RaftConfig(election_timeout_s=election_timeout_s)),
    )


async def follow(node_id: str, folder: Path, members: dict[str, str]) -> None:
    """Run one node until the parent goes away."""
    async with make_node(node_id, folder, members) as node, trio.open_nursery() as nursery:
        nursery.start_soon(leave_the_lead, node)
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def leave_the_lead(node: Node) -> None:
    """Hand over whenever this node leads: a longer election timeout only makes that rare."""
    async for change in node.role_changes():
        while change.role is Role.LEADER and node.status().role is Role.LEADER:
            try:
                await node.transfer_leadership(LEADER)
            except TransferFailed:
                # Not connected yet, or too busy; the pause lets this node find out.
                await trio.sleep(0.1)


@contextmanager
def follower_processes(folder: Path, members: dict[str, str]) -> Iterator[None]:
    """Start the other nodes, and end them with the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--follow", node_id, "--folder", str(folder), "--members", json.dumps(members)],
            stdin=subprocess.PIPE,
        )
        for node_id in members
        if node_id != LEADER
    ]
    try:
        yield
    finally:
        for process in processes:
            process.communicate()


async def measure(node: Node, outstanding: int, seconds: float) -> dict[str, float]:
    """Let ``outstanding`` tasks propose one after another for ``seconds``."""
    latencies_s: list[float] = []
    end = time.perf_counter() + seconds

    async def propose_repeatedly() -> None:
        while (start := time.perf_counter()) < end:
            await node.propose(COMMAND)
            latencies_s.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(outstanding):
            nursery.start_soon(propose_repeatedly)
    elapsed_s = time.perf_counter() - start
    quantiles = statistics.quantiles(latencies_s, n=100)
    return {
        "commits_per_s": len(latencies_s) / elapsed_s,
        "p50_ms": 1000 * quantiles[49],
        "p99_ms": 1000 * quantiles[98],
    }


async def lead(folder: Path, members: dict[str, str], rounds: int, seconds: float) -> dict[int, list[dict[str, float]]]:
    """Run the leading node and all measurements on it."""
    results: dict[int, list[dict[str, float]]] = {outstanding: [] for outstanding in OUTSTANDING}
    async with make_node(LEADER, folder, members) as node:
        async for change in node.role_changes():
            if change.role is Role.LEADER:
                break
        await measure(node, 64, min(seconds, 1.0))  # warm up
        for number in range(rounds):
            for outstanding in OUTSTANDING:
                results[outstanding].append(await measure(node, outstanding, seconds))
                print(f"round {number + 1}, {outstanding} outstanding: {results[outstanding][-1]}", file=sys.stderr)
    return results


def summary(results: dict[int, list[dict[str, float]]]) -> list[dict[str, float]]:
    """Take the median round of each case."""
    rows = []
    for outstanding, rounds in results.items():
        row: dict[str, float] = {"outstanding": outstanding}
        for figure in ("commits_per_s", "p50_ms", "p99_ms"):
            row[figure] = statistics.median(one[figure] for one in rounds)
        row["least_commits_per_s"] = min(one["commits_per_s"] for one in rounds)
        row["most_commits_per_s"] = max(one["commits_per_s"] for one in rounds)
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, float]]) -> None:
    """Print a line for each case."""
    print(f"{'outstanding':>11} {'commits/s':>10} {'(least - most)':>18} {'p50 ms':>8} {'p99 ms':>8}")
    for row in rows:
        spread = f"({row['least_commits_per_s']:.0f} - {row['most_commits_per_s']:.0f})"
        print(
            f"{row['outstanding']:>11.0f} {row['commits_per_s']:>10.0f} {spread:>18} "
            f"{row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f}"
        )


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Draw commits per second and median latency, a bar for each case, as a PNG."""
    # Imported when all is measured: what it brings into the leader's process would be measured too.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    figure.suptitle(
        "Durable commits of 64 B: three processes on one machine, gRPC, SQLite with full sync\n"
        "The median round, with the lowest and the highest"
    )
    rate, latency = figure.subplots(1, 2)
    names = [f"{row['outstanding']:.0f}" for row in rows]
    rates = [row["commits_per_s"] for row in rows]
    below = [row["commits_per_s"] - row["least_commits_per_s"] for row in rows]
    above = [row["most_commits_per_s"] - row["commits_per_s"] for row in rows]
    rate.bar_label(rate.bar(names, rates, yerr=(below, above), capsize=6), fmt="{:,.0f}", padding=3)
    rate.set_ylabel("commits per second")
    latency.bar_label(latency.bar(names, [row["p50_ms"] for row in rows], color="tab:orange"), fmt="{:.2f}", padding=3)
    latency.set_ylabel("median latency of a commit (ms)")
    for axes in (rate, latency):
        axes.set_xlabel("proposals outstanding")
        axes.margins(y=0.12)
    figure.savefig(path, format="png", dpi=120)


def measure_all(options: argparse.Namespace) -> list[dict[str, float]]:
    """Start the cluster, measure every case, and return a row for each."""
    names = (LEADER, "n2", "n3")
    reserved = PortReservation(len(names))
    members = {name: f"127.0.0.1:{port}" for name, port in zip(names, reserved.ports, strict=True)}
    with (
        closing(reserved),
        tempfile.TemporaryDirectory() as folder,
        follower_processes(Path(folder), members),
        cProfile.Profile() if options.profile else nullcontext() as profile,
    ):
        results = trio.run(lead, Path(folder), members, options.rounds, options.seconds)
    if profile is not None:
        profile.dump_stats(options.profile)
    return summary(results)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each case of a round runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw commits/s and p50 into this PNG")
    parser.add_argument("--profile", type=Path, help="profile the leader's process, and write what pstats reads here")
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--members", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        trio.run(follow, options.follow, options.folder, options.members)
        return
    rows = measure_all(options)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=2) + "\n")
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()

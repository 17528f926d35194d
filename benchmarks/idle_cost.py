"""What a cluster costs that has nothing to do: processor time and turns of the scheduler, with the shipped timing.

Two cases. Three processes on this machine, gRPC between them and SQLite under each, which exchange nothing but
heartbeats: processor time (user and system) of each process as a share of one core, and how often its scheduler ran.
And many groups in this process, in memory, of each of which only a follower is here: what they cost while no heartbeat
arrives, and what one heartbeat costs each of them.

    python benchmarks/idle_cost.py [--seconds 20] [--groups 200] [--json FILE] [--profile FOLDER]

Processor time is that of the process and no clock's, so that neighbours on the machine count less than in other
figures; caches that they empty still do. Turns are counted apart, after the time was taken: counting costs time itself.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import trio

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import (
    AppendEntriesRequest,
    Hello,
    HelloResponse,
    Lane,
    Link,
    LogIndex,
    NodeId,
    Role,
    Round,
    StateMachine,
    Term,
)
from clustercore_grpc import GrpcTransport
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery

# What the nodes do at first, connecting and electing, is no idling.
SETTLE_S = 3.0
# In the second case heartbeats come when the benchmark sends them, and never so late that a follower would stand.
LONG_S = 3600.0


class Nothing(StateMachine):
    """The least a state machine can do."""

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Do nothing."""
        return b""

    def snapshot(self) -> bytes:
        """Return nothing."""
        return b""

    def restore(self, snapshot: bytes) -> None:
        """Take nothing."""


@attrs.define(eq=False)
class Turns(trio.abc.Instrument):
    """Counts what Trio's scheduler does."""

    # Steps of tasks, and how often it looked whether there is anything to do.
    steps: int = 0
    waits: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        self.steps += 1

    def after_io_wait(self, timeout: float) -> None:
        """Count a wake-up."""
        self.waits += 1


def cpu_s() -> float:
    """Return the processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def watch(seconds: float) -> dict[str, float]:
    """Measure this process while it idles: first its time, then its turns for a fifth as long."""
    before = cpu_s()
    await trio.sleep(seconds)
    row = {"cpu_percent": 100 * (cpu_s() - before) / seconds}
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    await trio.sleep(seconds / 5)
    trio.lowlevel.remove_instrument(turns)
    return row | {"steps_per_s": turns.steps / seconds * 5, "wakeups_per_s": turns.waits / seconds * 5}


# --- Three processes ---


async def idle(node_id: str, options: argparse.Namespace) -> None:
    """Run one node of the cluster, and report when it has idled."""
    node = Node(
        node_id,
        machine=Nothing(),
        transport=GrpcTransport(options.members[node_id]),
        storage=SqliteStorage(options.folder / f"{node_id}.db"),
        discovery=StaticDiscovery(options.members),
    )
    async with node:
        await node.wait_leader()
        await trio.sleep(SETTLE_S)
        with cProfile.Profile() if options.profile else nullcontext() as profile:
            row: dict[str, Any] = await watch(options.seconds)
        if profile is not None:
            profile.dump_stats(options.profile / f"{node_id}-{node.status().role.value}.pstats")
        print(json.dumps(row | {"node": node_id, "role": node.status().role.value}), flush=True)
        # All stay until all have measured.
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)


@contextmanager
def processes(members: dict[str, str], folder: Path, options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Start the nodes, yield what each reports, and end them with the block."""
    profile = ["--profile", str(options.profile)] if options.profile else []
    shared = ["--seconds", str(options.seconds), "--folder", str(folder), "--members", json.dumps(members), *profile]
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--idle", node_id, *shared],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for node_id in members
    ]
    try:
        yield [json.loads(process.stdout.readline()) for process in running if process.stdout is not None]
    finally:
        for process in running:
            process.communicate()


def measure_processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each node of a cluster that idles, the leader's first."""
    names = ("n1", "n2", "n3")
    reserved = PortReservation(len(names))
    members = {name: f"127.0.0.1:{port}" for name, port in zip(names, reserved.ports, strict=True)}
    with (
        closing(reserved),
        tempfile.TemporaryDirectory() as folder,
        processes(members, Path(folder), options) as rows,
    ):
        return sorted(rows, key=lambda row: row["role"] != Role.LEADER.value)


# --- Many groups in one process ---


def heartbeat(number: int) -> AppendEntriesRequest:
    """What a leader of an empty log says."""
    return AppendEntriesRequest(Term(1), NodeId("leader"), LogIndex(0), Term(0), LogIndex(0), round=Round(number))


async def lead(network: MemoryNetwork, group: int) -> Link:
    """Speak to one group's follower as its leader would."""
    link = await MemoryTransport(network, f"leader-{group}").connect(f"here-{group}", Lane.CONTROL)
    await link.send(Hello(NodeId("leader"), NodeId("here")))
    answer = await link.receive()
    assert isinstance(answer, HelloResponse)
    assert not answer.refusal
    return link


async def beat(links: list[Link], number: int) -> None:
    """Send each group a heartbeat, and wait for the answers."""
    for link in links:
        await link.send(heartbeat(number))
    for link in links:
        await link.receive()


async def measure_groups(options: argparse.Namespace) -> dict[str, float]:
    """Measure many followers in this process: while nothing comes, and what a heartbeat costs."""
    network = MemoryNetwork()
    config = NodeConfig(raft=RaftConfig(election_timeout_s=LONG_S, snapshot_timeout_s=LONG_S))
    async with AsyncExitStack() as stack:
        for group in range(options.groups):
            node = Node(
                "here",
                machine=Nothing(),
                transport=MemoryTransport(network, f"here-{group}"),
                storage=MemoryStorage(),
                discovery=StaticDiscovery({"here": f"here-{group}", "leader": f"leader-{group}", "third": "nowhere"}),
                config=config,
            )
            await stack.enter_async_context(node)
        links = [await lead(network, group) for group in range(options.groups)]
        await beat(links, 1)
        quiet = await watch(options.seconds)
        rounds = 10
        before = cpu_s()
        for number in range(rounds):
            await beat(links, number + 2)
        beat_us = 1e6 * (cpu_s() - before) / rounds / options.groups
        for link in links:
            await link.aclose()
    return {"groups": options.groups, **quiet, "heartbeat_us": beat_us}


# --- What is told ---


def print_table(nodes: list[dict[str, Any]], groups: dict[str, float]) -> None:
    """Print a line for each process, and one for the groups."""
    print(f"{'':>22} {'% of a core':>12} {'steps/s':>9} {'wake-ups/s':>11}")
    for row in nodes:
        name = f"{row['node']}, {row['role']}"
        print(f"{name:>22} {row['cpu_percent']:>12.2f} {row['steps_per_s']:>9.1f} {row['wakeups_per_s']:>11.1f}")
    name = f"{groups['groups']} groups, quiet"
    print(f"{name:>22} {groups['cpu_percent']:>12.2f} {groups['steps_per_s']:>9.1f} {groups['wakeups_per_s']:>11.1f}")
    print(f"a heartbeat, and its answer, costs a follower in memory {groups['heartbeat_us']:.0f} us")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each case is watched")
    parser.add_argument("--groups", type=int, default=200, help="how many groups the second case has")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", type=Path, help="profile each process, and write what pstats reads here")
    parser.add_argument("--idle", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--members", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.idle:
        trio.run(idle, options.idle, options)
        return
    nodes = measure_processes(options)
    groups = trio.run(measure_groups, options)
    print_table(nodes, groups)
    if options.json:
        report = {"cpus": os.cpu_count(), "nodes": nodes, "groups": groups}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

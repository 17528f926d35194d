"""Durable commits over each transport, for ``compare_transports``: a cluster of three processes for each.

The leader's node is in the measuring process, as in ``first_slice``; the followers are subprocesses. Run as a program,
this module is a follower.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import trio

from benchmarks.first_slice import COMMAND, LEADER, LastCommand, leave_the_lead
from benchmarks.transport_peers import ROOT, Latencies, installed
from clustercore import Node, NodeConfig, RaftConfig
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import Role, Transport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery

__all__ = ["commit", "open_leader"]

NAMES = (LEADER, "n2", "n3")
# A busy machine is no reason for another election.
ELECTION_TIMEOUT_S = 3.0


def make_node(transport_name: str, node_id: str, folder: Path, members: dict[str, str]) -> Node:
    """Make a node; the others hand over to the one that is to lead."""
    factory: type[Transport] = installed()[transport_name]
    return Node(
        node_id,
        machine=LastCommand(),
        transport=factory(listen=members[node_id]),  # type: ignore[call-arg]  # every transport over sockets has it
        storage=SqliteStorage(folder / f"{node_id}.db"),
        discovery=StaticDiscovery(members),
        config=NodeConfig(raft=RaftConfig(election_timeout_s=ELECTION_TIMEOUT_S)),
    )


async def follow(transport_name: str, node_id: str, folder: Path, members: dict[str, str]) -> None:
    """Run one node until the parent goes away."""
    async with make_node(transport_name, node_id, folder, members) as node, trio.open_nursery() as nursery:
        nursery.start_soon(leave_the_lead, node)
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def commit(node: Node, outstanding: int, seconds: float) -> Latencies:
    """Let ``outstanding`` tasks propose one after another until ``seconds`` have passed, and once at least."""
    each_s: list[float] = []
    started = time.perf_counter()

    async def propose_repeatedly() -> None:
        sent = started
        while not each_s or sent < started + seconds:
            sent = time.perf_counter()
            await node.propose(COMMAND)
            each_s.append(time.perf_counter() - sent)

    async with trio.open_nursery() as nursery:
        for _ in range(outstanding):
            nursery.start_soon(propose_repeatedly)
    return Latencies(each_s, time.perf_counter() - started)


@asynccontextmanager
async def open_leader(transport_name: str) -> AsyncIterator[Node]:
    """Start a cluster over a transport, and yield its node that leads."""
    reserved = PortReservation(len(NAMES))
    members = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, reserved.ports, strict=True)}
    with closing(reserved), tempfile.TemporaryDirectory() as folder:
        arguments = [transport_name, folder, json.dumps(members)]
        followers = [
            subprocess.Popen(  # noqa: ASYNC220  # nothing else happens meanwhile
                [sys.executable, "-m", __spec__.name, name, *arguments], stdin=subprocess.PIPE, cwd=ROOT
            )
            for name in NAMES
            if name != LEADER
        ]
        try:
            async with make_node(transport_name, LEADER, Path(folder), members) as node:
                async for change in node.role_changes():
                    if change.role is Role.LEADER:
                        break
                yield node
        finally:
            for follower in followers:
                follower.kill()
                follower.communicate()


if __name__ == "__main__":
    trio.run(follow, sys.argv[2], sys.argv[1], Path(sys.argv[3]), json.loads(sys.argv[4]))

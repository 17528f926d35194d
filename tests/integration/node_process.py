"""One node in a process of its own, over gRPC and SQLite, driven by lines of JSON.

``python -m tests.integration.node_process NAME DATABASE`` listens on a free port and says where; the other nodes'
addresses come over standard input as they start, so that no port is chosen beforehand. Requests, each with an id that
its answer repeats::

    {"id": 1, "propose": "text"}    {"id": 1, "index": 7, "term": 2}  or  {"id": 1, "error": "OutcomeUnknown"}
    {"id": 2, "status": true}       {"id": 2, "name": "a", "role": "leader", "term": 2, ...}
    {"id": 3, "journal": true}      {"id": 3, "lines": [[7, "text"], ...]}
    {"member": "b", "address": "127.0.0.1:4711"}

The end of standard input stops the node.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import trio

from clustercore import Node
from clustercore.interfaces import ClusterError, Member, NodeId
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore_grpc import GrpcTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal

VOTERS = ("a", "b", "c")
CONFIG = NodeConfig(
    raft=RaftConfig(election_timeout_s=0.5, heartbeat_interval_s=0.05),
    snapshot_entries=200,
    snapshot_tail_entries=20,
    snapshot_chunk_bytes=4096,
)


def tell(answer: dict[str, Any]) -> None:
    """Write one line at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def lines_of_stdin() -> AsyncIterator[dict[str, Any]]:
    """Read requests until the other side closes the pipe."""
    received = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for chunk in stream:
            *lines, received = (received + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)


async def answer(node: Node, journal: Journal, request: dict[str, Any]) -> None:
    """Carry out one request."""
    result: dict[str, Any] = {"id": request["id"]}
    if "propose" in request:
        try:
            applied = await node.propose(request["propose"].encode())
        except ClusterError as error:
            result["error"] = type(error).__name__
        else:
            result |= {"index": applied.index, "term": applied.term}
    elif "journal" in request:
        result["lines"] = [[index, command.decode()] for index, command in journal.lines]
    else:
        status = node.status()
        result |= {
            "name": status.node_id,
            "role": status.role.value,
            "term": status.term,
            "leader_id": status.leader_id,
            "first_log_index": status.first_log_index,
            "last_log_index": status.last_log_index,
            "last_applied": status.last_applied,
            "pending_proposals": status.pending_proposals,
        }
    tell(result)


async def main(name: str, database: str) -> None:
    """Run the node until standard input ends."""
    journal, members = Journal(), StaticDiscovery({})
    node = Node(
        name,
        machine=journal,
        transport=GrpcTransport(),
        storage=SqliteStorage(database),
        discovery=members,
        voters=VOTERS,
        config=CONFIG,
    )
    async with node, trio.open_nursery() as nursery:
        tell({"address": node.address})
        async for request in lines_of_stdin():
            if "member" in request:
                await members.register(Member(NodeId(request["member"]), request["address"]))
            else:
                nursery.start_soon(answer, node, journal, request)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])

"""Three nodes, each on a machine with a Consul server of its own: what Consul does to a cluster, and what it cannot."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import DiscoverySnapshot, NodeId
from clustercore_consul import ConsulDiscovery
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueClient
from tests.consul_agent import TOKEN, ConsulAgent, ConsulServers, needs_consul, three_servers
from tests.waiting import until_known

pytestmark = [pytest.mark.integration, pytest.mark.slow, needs_consul]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli"]
# Generous: it only ends a test that hangs.
LIMIT_S = 120
# How long Consul answers nothing, in seconds: longer than the time to live, so that every node's check runs out.
# `CONSUL_SILENCE_S=60` is a whole minute.
SILENCE_S = float(os.environ.get("CONSUL_SILENCE_S", "12"))
NAMES = ("n1", "n2", "n3")


@attrs.define(eq=False)
class Node:
    """A node's process, and what it has told."""

    config: Path
    process: trio.Process | None = None
    events: list[dict[str, Any]] = attrs.field(factory=list)
    told: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        """Run it, with everything that it logs in a file, until it ends."""
        command = [*COMMAND, "serve", "--json", "--log-level", "debug", "--expect", "3", "--config", str(self.config)]
        with self.config.with_suffix(".log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        received = b""
        async for chunk in self.process.stdout:
            *lines, received = (received + chunk).split(b"\n")
            self.events += map(json.loads, lines)
            self.told.set()
            self.told = trio.Event()

    async def kill(self) -> None:
        """End it without a farewell."""
        assert self.process is not None, "it runs"
        self.process.kill()
        await self.process.wait()

    async def wait_for(self, **wanted: object) -> dict[str, Any]:
        """Wait until it has told an event with these values."""
        while True:
            for event in self.events:
                if all(event.get(key) == value for key, value in wanted.items()):
                    return event
            await self.told.wait()


@attrs.define
class World:
    """What a test has at hand."""

    servers: ConsulServers
    nodes: dict[str, Node]
    addresses: list[str]
    # As a node sees it: it asks the server of the first machine.
    discovery: ConsulDiscovery
    client: KeyValueClient
    nursery: trio.Nursery
    written: int = 0

    def start(self, name: str) -> None:
        """Start a node."""
        self.nodes[name].events.clear()
        self.nursery.start_soon(self.nodes[name].run)

    async def write(self, count: int) -> None:
        """Commit so many writes."""
        for _ in range(count):
            # A key that is written once may be written twice.
            await self.client.put(f"key {self.written}", b"x", retry_unknown=True)
            self.written += 1

    async def until(self, holds: Callable[[DiscoverySnapshot], bool]) -> DiscoverySnapshot:
        """Wait for what discovery says; whatever it says meanwhile, no member is forgotten."""
        return await until_known(self.discovery, holds)

    async def voters(self) -> list[str]:
        """Return who votes, as the cluster itself says."""
        command = [*COMMAND, "members", "list", "--json", *(f"--node={address}" for address in self.addresses)]
        done = await trio.run_process(command, capture_stdout=True)
        told = json.loads(done.stdout.splitlines()[-1])
        return sorted(one["node_id"] for one in told["members"]["servers"] if one["standing"] == "voter")


def write_config(folder: Path, name: str, address: str, agent: ConsulAgent) -> Path:
    """Write a node's file, with its token in a file of its own."""
    token = folder / f"{name}.token"
    token.write_text(TOKEN)
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
        node_id = "{name}"
        transport = {{ plugin = "grpc", listen = "{address}" }}
        storage = {{ plugin = "sqlite", path = "{name}.db" }}
        machine = {{ plugin = "kv" }}
        raft = {{ election_timeout_s = 1.0 }}
        health = {{ check_interval = 1.0, timeout = 0.5, deregister_after_s = 3.0 }}
        [discovery]
        plugin = "consul"
        url = "{agent.url}"
        token_file = "{token.name}"
        ttl_s = 10
        wait_s = 1
        timeout_s = 1
        """
    )
    return path


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[ConsulServers]:
    """Three servers of Consul, of a test's own."""
    with three_servers(tmp_path) as servers:
        yield servers


@asynccontextmanager
async def formed(folder: Path, servers: ConsulServers) -> AsyncIterator[World]:
    """Start three nodes that know nothing but their own Consul, and wait until they are a cluster."""
    with closing(PortReservation(3)) as reserved:
        addresses = [f"127.0.0.1:{port}" for port in reserved.ports]
        machines = zip(NAMES, addresses, servers.agents, strict=True)
        nodes = {name: Node(write_config(folder, name, address, agent)) for name, address, agent in machines}
        transport = GrpcTransport()
        async with (
            transport,
            ConsulDiscovery(servers.agents[0].url, token=TOKEN, ttl_s=10, wait_s=1, timeout_s=1) as discovery,
            trio.open_nursery() as nursery,
        ):
            world = World(servers, nodes, addresses, discovery, KeyValueClient(transport, addresses), nursery)
            try:
                # Whoever comes first waits for the others.
                for name in ("n3", "n2", "n1"):
                    world.start(name)
                await world.write(1)
                await world.until(lambda snapshot: len(snapshot.in_service) == 3)
                yield world
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    for node in nodes.values():
                        await node.kill()


def all_roles_known(snapshot: DiscoverySnapshot) -> bool:
    """Whether every node has told that it is a voter of the one cluster."""
    told = {(member.metadata.cluster_id, member.metadata.role) for member in snapshot.members}
    return len(snapshot.in_service) == 3 and len(told) == 1 and told.pop()[1] == "voter"


async def test_node_that_dies_is_taken_out_and_comes_back(tmp_path: Path, servers: ConsulServers) -> None:
    """It turns critical, leaves the view, is taken out after the hold, and comes back under its id."""
    with trio.fail_after(LIMIT_S):
        async with formed(tmp_path, servers) as world:
            before = await world.until(all_roles_known)
            assert await world.voters() == list(NAMES)
            leader = next(name for name, node in world.nodes.items() if is_leader(node))
            victim = next(name for name in NAMES if name != leader)

            await world.nodes[victim].kill()
            critical = await world.until(lambda snapshot: len(snapshot.in_service) == 2)
            await world.nodes[leader].wait_for(event="health action", peer=victim, kind="deregistered")
            gone = await world.until(lambda snapshot: len(snapshot.members) == 2)
            await world.write(20)
            assert await world.voters() == list(NAMES)

            world.start(victim)
            back = await world.until(lambda snapshot: len(snapshot.in_service) == 3)
            await world.nodes[leader].wait_for(event="health", peer=victim, new="healthy")
            await world.write(20)

    assert victim not in {member.node_id for member in critical.in_service}
    assert gone.get(NodeId(victim)) is None
    assert back.address_of(NodeId(victim)) == before.address_of(NodeId(victim))
    check_no_token(tmp_path)


def is_leader(node: Node) -> bool:
    """Whether it has said last that it leads."""
    roles = [event["role"] for event in node.events if event["event"] == "role"]
    return bool(roles) and roles[-1] == "leader"


async def test_consul_that_fails_takes_nobody_away(
    tmp_path: Path, servers: ConsulServers, caplog: pytest.LogCaptureFixture
) -> None:
    """It is restarted, loses its leader, answers nothing: the cluster commits all the while, and forgets no member."""
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(3 * LIMIT_S + SILENCE_S):
        async with formed(tmp_path, servers) as world:
            await world.until(all_roles_known)
            seen: list[DiscoverySnapshot] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, world.discovery, seen)

                # Restarted, all at once.
                servers.end()
                await world.write(50)
                await trio.to_thread.run_sync(servers.start)
                await world.until(all_roles_known)

                # Without a leader: one server of three remains, and it is the one that is asked.
                for agent in servers.agents[1:]:
                    agent.end()
                await world.until(lambda snapshot: snapshot.is_stale)
                await world.write(50)
                await trio.to_thread.run_sync(servers.start)
                await world.until(all_roles_known)

                # Connections are taken, and nothing is answered.
                for agent in servers.agents:
                    agent.freeze()
                await world.until(lambda snapshot: snapshot.is_stale)
                with trio.move_on_after(SILENCE_S):
                    while True:
                        await world.write(1)
                await world.write(50)
                for agent in servers.agents:
                    agent.thaw()
                await world.until(lambda snapshot: not snapshot.is_stale and all_roles_known(snapshot))
                assert await world.voters() == list(NAMES)
                nursery.cancel_scope.cancel()

    assert any(snapshot.is_stale for snapshot in seen)
    assert {tuple(member.node_id for member in snapshot.members) for snapshot in seen} == {NAMES}
    assert TOKEN not in caplog.text
    check_no_token(tmp_path)


async def follow(discovery: ConsulDiscovery, seen: list[DiscoverySnapshot]) -> None:
    """Note everything that a node would be told."""
    async for snapshot in discovery.watch():
        seen.append(snapshot)


def check_no_token(folder: Path) -> None:
    """Look through everything that the nodes have logged, at the level that logs the most."""
    logs = [path.read_text() for path in folder.glob("n?.log")]
    assert len(logs) == 3
    assert all(" DEBUG httpcore2" in log for log in logs)
    assert [line for log in logs for line in log.splitlines() if TOKEN in line] == []

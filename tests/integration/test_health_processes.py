"""Health of real processes: one that is frozen takes connections and answers nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from clustercore import GrpcHealthProbe, HealthChecker, HealthConfig, NodeProbe, TcpProbe
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import HealthStatus, StatusChange
from clustercore_grpc import GrpcTransport

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli"]
# Generous: it only ends a test that hangs.
LIMIT_S = 90
CONFIG = HealthConfig(check_interval=1.0, timeout=0.5, max_check_interval_s=1.0)


@attrs.define(eq=False)
class Served:
    """A node's process, and what it has told."""

    process: trio.Process
    events: list[dict[str, Any]] = attrs.field(factory=list)
    told: trio.Event = attrs.field(factory=trio.Event)

    async def read(self) -> None:
        assert self.process.stdout is not None
        received = b""
        async for chunk in self.process.stdout:
            *lines, received = (received + chunk).split(b"\n")
            self.events += map(json.loads, lines)
            self.told.set()
            self.told = trio.Event()

    async def wait_for(self, **wanted: object) -> dict[str, Any]:
        """Wait until the node has told an event with these values."""
        with trio.fail_after(LIMIT_S):
            while True:
                for event in self.events:
                    if all(event.get(key) == value for key, value in wanted.items()):
                        return event
                await self.told.wait()


@asynccontextmanager
async def serving(*configs: Path) -> AsyncIterator[list[Served]]:
    """Run ``clustercore serve`` for each file inside the block."""
    nodes: list[Served] = []
    async with trio.open_nursery() as nursery:
        try:
            for config in configs:
                process = await trio.lowlevel.open_process(
                    [*COMMAND, "serve", "--json", "--log-level", "error", "--config", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                )
                nodes.append(Served(process))
                nursery.start_soon(nodes[-1].read)
            for node in nodes:
                await node.wait_for(event="serving")
            yield nodes
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for node in nodes:
                    # Also one that is frozen.
                    node.process.kill()
                    await node.process.wait()


def write_cluster(folder: Path, ports: tuple[int, ...], health: str = "") -> list[Path]:
    """Write the files of a cluster with a node at each port."""
    members = ", ".join(f'n{number} = "127.0.0.1:{port}"' for number, port in enumerate(ports, 1))
    files = []
    for number, port in enumerate(ports, 1):
        path = folder / f"n{number}.toml"
        path.write_text(
            f"""
            node_id = "n{number}"
            transport = {{ plugin = "grpc", listen = "127.0.0.1:{port}" }}
            storage = {{ plugin = "sqlite", path = "n{number}.db" }}
            discovery = {{ plugin = "static", members = {{ {members} }} }}
            machine = {{ plugin = "kv" }}
            {health}
            """
        )
        files.append(path)
    return files


class Lateness:
    """How late this process's own event loop is, at the worst: what a busy machine adds to every time measured here."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def measure(self) -> None:
        while True:
            due = trio.current_time() + 0.02
            await trio.sleep_until(due)
            self.worst_s = max(self.worst_s, trio.current_time() - due)


async def wait_status(checker: HealthChecker, wanted: dict[str, HealthStatus]) -> None:
    """Wait until the nodes are taken for what is wanted."""
    changed = trio.Event()

    def note(change: StatusChange) -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    checker.first_hooks.append(note)
    with trio.fail_after(LIMIT_S):
        while any(checker.status(name) is not status for name, status in wanted.items()):
            await changed.wait()
    checker.first_hooks.remove(note)


async def test_frozen_process_is_unhealthy_within_the_formula(tmp_path: Path) -> None:
    """SIGSTOP turns a node unhealthy within the worst case for whoever asks it, though it takes connections still.

    A callback that hangs, and one that raises, delay neither this nor the callback beside them.
    """
    with closing(PortReservation(1)) as reserved:
        configs = write_cluster(tmp_path, reserved.ports)
        await _freeze(configs)


async def _freeze(configs: list[Path]) -> None:
    async with serving(*configs) as (node,), GrpcTransport(timeout=60) as transport, trio.open_nursery() as nursery:
        serving_at = (await node.wait_for(event="serving"))["address"]
        lateness = Lateness()
        nursery.start_soon(lateness.measure)
        async with HealthChecker(CONFIG) as checker:
            heard: list[tuple[float, StatusChange]] = []

            async def hang(change: StatusChange) -> None:
                await trio.sleep_forever()

            def fail(change: StatusChange) -> None:
                raise RuntimeError("not today")

            checker.subscribe(hang)
            checker.subscribe(fail)
            checker.subscribe(lambda change: heard.append((trio.current_time(), change)))
            checker.start_monitoring("asked", NodeProbe(transport, serving_at, "n1"))
            checker.start_monitoring("watched", GrpcHealthProbe(transport, serving_at))
            checker.start_monitoring("accepts", TcpProbe(serving_at))
            all_well = dict.fromkeys(("asked", "watched", "accepts"), HealthStatus.HEALTHY)
            await wait_status(checker, all_well)

            frozen_at = trio.current_time()
            node.process.send_signal(signal.SIGSTOP)
            ill = {"asked": HealthStatus.UNHEALTHY, "watched": HealthStatus.UNHEALTHY}
            await wait_status(checker, ill)

            # The kernel goes on accepting connections for it.
            assert checker.status("accepts") is HealthStatus.HEALTHY
            for name in ill:
                change = checker.history(name).changes[-1]
                # Each beginning and the last timeout may be late by what the machine makes them.
                late_s = (CONFIG.failure_threshold + 1) * lateness.worst_s
                assert change.at - frozen_at <= CONFIG.worst_case_detection_s + late_s
                assert change.reason.startswith(f"{CONFIG.failure_threshold} failed checks in a row")
            await trio.testing.wait_all_tasks_blocked()
            for name in all_well:
                told = tuple(change for _, change in heard if change.node_id == name)
                assert told == checker.history(name).changes
            assert max(at - change.at for at, change in heard) <= lateness.worst_s + 0.01

            node.process.send_signal(signal.SIGCONT)
            await wait_status(checker, all_well)
        nursery.cancel_scope.cancel()


async def test_served_cluster_takes_a_frozen_node_out_and_back(tmp_path: Path) -> None:
    """Nodes with a table ``[health]`` notice that one is frozen; the leader alone withdraws it, and has it back."""
    health = """
            [health]
            check_interval = 1.0
            timeout = 0.5
            max_check_interval_s = 2.0
            deregister_after_s = 2.0
    """
    with closing(PortReservation(3)) as reserved:
        await _take_out(write_cluster(tmp_path, reserved.ports, health))


async def _take_out(configs: list[Path]) -> None:
    async with serving(*configs) as nodes:
        by_name = {f"n{number}": node for number, node in enumerate(nodes, 1)}
        for name, node in by_name.items():
            for peer in by_name.keys() - {name}:
                await node.wait_for(event="health", peer=peer, new="healthy")
        leader = next(event["leader_id"] for event in reversed(nodes[0].events) if event.get("leader_id"))
        victim = next(name for name in by_name if name != leader)
        other = next(name for name in by_name if name not in (leader, victim))

        by_name[victim].process.send_signal(signal.SIGSTOP)
        for name in (leader, other):
            await by_name[name].wait_for(event="health", peer=victim, new="unhealthy")
        taken_out = await by_name[leader].wait_for(event="health action", peer=victim, kind="deregistered")
        assert taken_out["term"] >= 1
        left = await by_name[other].wait_for(event="health action", peer=victim, guard="not leader")
        assert left["kind"] == "deregistration blocked"
        # The two others go on.
        address = (await by_name[leader].wait_for(event="serving"))["address"]
        done = await trio.run_process([*COMMAND, "kv", "put", "greeting", "hello", "--node", address], check=False)
        assert done.returncode == 0

        by_name[victim].process.send_signal(signal.SIGCONT)
        await by_name[leader].wait_for(event="health action", peer=victim, kind="registered again")
        assert not any(event["event"] == "removed" for node in nodes for event in node.events)

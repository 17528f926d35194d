"""The demo's cluster: three node processes in one folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from clustercore.cli.demo.consul import DemoConsul
from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.ports import PortReservation
from clustercore.cli.demo.process import NodeProcess
from clustercore.cli.exits import Exit
from clustercore.cli.remote import StatusProbe
from clustercore.interfaces import NodeStatus, Role, Transport, TransportError

__all__ = ["NODE_IDS", "DemoCluster"]

NODE_IDS = ("n1", "n2", "n3")

# How often a cluster, or the killed node, is started before the demo gives up: a port may have been taken.
_STARTS = 3
# Generous: three interpreters start at once, perhaps on one busy core.
_SERVING_LIMIT_S = 60.0
_LEADER_LIMIT_S = 60.0
_AGREE_LIMIT_S = 120.0
_ASK_LIMIT_S = 2.0
_POLL_S = 0.05

Report = Callable[[str], None]


class DemoCluster:
    """Three nodes, where they serve, and what they last said of themselves."""

    def __init__(
        self,
        folder: Path,
        transport: Transport,
        transport_name: str,
        report: Report,
        consul: DemoConsul | None = None,
    ) -> None:
        self.nodes: tuple[NodeProcess, ...] = ()
        # By node id; None for a node that did not answer when last asked.
        self.statuses: dict[str, NodeStatus | None] = dict.fromkeys(NODE_IDS)
        # Of the terms, those in which a node said it led.
        self.terms: set[int] = set()
        self._folder = folder
        self._transport = transport
        self._transport_name = transport_name
        self._report = report
        # Where the nodes find each other; None if their files say where they are.
        self.consul = consul
        self._probes: dict[str, StatusProbe] = {}
        self._ports: PortReservation | None = None

    # --- Starting and stopping ---

    async def start(self) -> None:
        """Start all nodes, and wait until each of them serves.

        Raises: DemoFailed if one of them ends, with the end of its log.
        """
        if self.consul is not None:
            await self.consul.start()
        for attempt in range(1, _STARTS + 1):
            self._lay_out(hold_ports=attempt == 1)
            for node in self.nodes:
                await node.start()
            codes = [await self._wait_serving(node) for node in self.nodes]
            ended = [(node, code) for node, code in zip(self.nodes, codes, strict=True) if code is not None]
            if not ended:
                return
            await self.stop()
            node, code = ended[0]
            if code != Exit.FAILED or attempt == _STARTS:
                raise node.failure(code)
            self._report(f"node {node.node_id} could not start; trying other ports")

    async def restart(self, node: NodeProcess) -> None:
        """Start a node that was killed, where it was, and wait until it serves. Raises: DemoFailed."""
        for attempt in range(1, _STARTS + 1):
            await node.start()
            code = await self._wait_serving(node)
            if code is None:
                return
            if code != Exit.FAILED or attempt == _STARTS:
                raise node.failure(code)
            self._report(f"node {node.node_id} could not start again; trying once more")
            await trio.sleep(1)

    async def stop(self) -> None:
        """End all nodes, at the same time, and let their ports go. Cannot be cancelled."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for node in self.nodes:
                    nursery.start_soon(node.stop)
            for probe in self._probes.values():
                await probe.aclose()
        if self._ports is not None:
            self._ports.close()

    async def aclose(self) -> None:
        """End everything. Cannot be cancelled."""
        await self.stop()
        if self.consul is not None:
            await self.consul.stop()

    def _lay_out(self, *, hold_ports: bool) -> None:
        """Choose ports and write the nodes' files."""
        self._ports = PortReservation(len(NODE_IDS), hold=hold_ports)
        addresses = {node_id: f"127.0.0.1:{port}" for node_id, port in zip(NODE_IDS, self._ports.ports, strict=True)}
        self.nodes = tuple(
            self._make_node(node_id, address, self._write_config(node_id, addresses))
            for node_id, address in addresses.items()
        )
        self._probes = {
            node.node_id: StatusProbe(self._transport, node.address, timeout_s=_ASK_LIMIT_S) for node in self.nodes
        }

    def _make_node(self, node_id: str, address: str, config: Path) -> NodeProcess:
        serve = [sys.executable, "-P", "-m", "clustercore.cli", "serve", "--exit-with-stdin", "--config", str(config)]
        return NodeProcess(node_id, address, serve, config.with_suffix(".log"))

    def _write_config(self, node_id: str, addresses: dict[str, str]) -> Path:
        # A JSON string is a TOML string.
        members = ", ".join(f"{name} = {json.dumps(address)}" for name, address in addresses.items())
        discovery = f'[discovery]\nplugin = "static"\nmembers = {{ {members} }}\n'
        if self.consul is not None:
            discovery = self.consul.discovery
        path = self._folder / f"{node_id}.toml"
        path.write_text(
            f"node_id = {json.dumps(node_id)}\n\n"
            f"[transport]\nplugin = {json.dumps(self._transport_name)}\nlisten = {json.dumps(addresses[node_id])}\n\n"
            f'[storage]\nplugin = "sqlite"\npath = {json.dumps(f"{node_id}.db")}\n\n'
            f"{discovery}\n"
            '[machine]\nplugin = "kv"\n',
            encoding="utf-8",
        )
        return path

    async def _wait_serving(self, node: NodeProcess) -> int | None:
        """Return None once the node answers, or its exit code if it ends before. Raises: DemoFailed after a time."""
        with trio.move_on_after(_SERVING_LIMIT_S):
            while True:
                if not node.is_running:
                    return await node.wait()
                status = await self.ask(node)
                # Another process may answer at a port that was taken.
                if status is not None and status.node_id == node.node_id:
                    return None
                await trio.sleep(_POLL_S)
        raise DemoFailed(f"node {node.node_id} does not serve after {_SERVING_LIMIT_S:g} s", node.log_tail())

    # --- Asking ---

    @property
    def addresses(self) -> Sequence[str]:
        """Where the nodes serve."""
        return [node.address for node in self.nodes]

    def node(self, node_id: str) -> NodeProcess:
        """Return a node by its id."""
        return next(node for node in self.nodes if node.node_id == node_id)

    async def ask(self, node: NodeProcess) -> NodeStatus | None:
        """Ask a node for its status, and keep it. None if it does not answer."""
        try:
            status = await self._probes[node.node_id].ask()
        except TransportError:
            self.statuses[node.node_id] = None
            return None
        self.statuses[node.node_id] = status
        if status.role is Role.LEADER:
            self.terms.add(status.term)
        return status

    async def ask_running(self) -> list[NodeStatus]:
        """Ask all nodes that run, one after the other; return the answers of those that answer."""
        answers = []
        for node in self.nodes:
            if node.is_running:
                answers.append(await self.ask(node))
            else:
                self.statuses[node.node_id] = None
        return [answer for answer in answers if answer is not None]

    async def wait_leader(self) -> NodeStatus:
        """Wait until a node says that it leads, in the newest term any node knows. Raises: DemoFailed after a time."""
        with trio.move_on_after(_LEADER_LIMIT_S):
            while True:
                statuses = await self.ask_running()
                newest = max((status.term for status in statuses), default=0)
                for status in statuses:
                    if status.role is Role.LEADER and status.term == newest:
                        return status
                await trio.sleep(_POLL_S)
        raise self.failed(f"no node leads after {_LEADER_LIMIT_S:g} s")

    async def wait_agreement(self) -> int:
        """Wait until all nodes have applied the same, whole log, and return its last index.

        Raises: DemoFailed after a time.
        """
        with trio.move_on_after(_AGREE_LIMIT_S):
            while True:
                statuses = await self.ask_running()
                if len(statuses) == len(self.nodes) and _agree(statuses):
                    return statuses[0].last_applied
                await trio.sleep(_POLL_S)
        raise self.failed(f"the nodes do not agree after {_AGREE_LIMIT_S:g} s")

    def failed(self, message: str) -> DemoFailed:
        """Return an error with what the nodes last told, and the ends of their logs."""
        told = [f"{node_id}: {status or 'no answer'}" for node_id, status in self.statuses.items()]
        return DemoFailed(message, "\n".join(told + [node.log_tail() for node in self.nodes]))


def _agree(statuses: Sequence[NodeStatus]) -> bool:
    """Return whether every node has applied all of its log, in the same term, up to the same entry."""
    reached = {(status.term, status.last_applied) for status in statuses}
    return len(reached) == 1 and all(
        status.last_applied == status.commit_index == status.last_log_index for status in statuses
    )

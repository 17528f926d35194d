"""The demo, scene by scene: start, write, kill the leader, bring it back, agree, read everything back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from clustercore.cli.demo.check import Comparison, compare, read_back
from clustercore.cli.demo.cluster import NODE_IDS, DemoCluster
from clustercore.cli.demo.consul import DemoConsul
from clustercore.cli.demo.failover import Failover
from clustercore.cli.demo.load import Load
from clustercore.cli.demo.view import View
from clustercore.cli.demo.writes import Write
from clustercore.cli.kv_client import KvClient, as_service_transport, load_kv_client
from clustercore.cli.remote import open_transport
from clustercore.interfaces import ServiceTransport

__all__ = ["DemoPlan", "DemoResult", "Story"]

_FAILOVER_LIMIT_S = 60.0
# How often the nodes are asked: seldom enough to leave them the processor; and often while the leader is dead, because
# what they tell then bounds the old term.
_POLL_S = 0.25
_FAILOVER_POLL_S = 0.05


@attrs.frozen
class DemoPlan:
    """What the user asked for."""

    writes: Sequence[Write]
    clients: int
    transport: str
    folder: Path
    # Where the nodes find each other; None if their files say where they are.
    consul: DemoConsul | None = None


@attrs.frozen
class DemoResult:
    """What came of it."""

    plan: DemoPlan
    load: Load
    comparison: Comparison
    killed: str
    failover_s: float
    terms: tuple[int, ...]
    # The last index of the log on which all nodes agree.
    applied_index: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and all nodes agree."""
        everything = len(self.load.acknowledged) == len(self.plan.writes)
        return everything and not self.comparison.lost and self.comparison.is_same_everywhere

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        load = self.load
        return {
            "acknowledged": len(load.acknowledged),
            "lost": self.comparison.lost,
            "writes_per_s": round(len(load.acknowledged) / load.elapsed_s, 1),
            # Without the time in which there was no leader.
            "steady_writes_per_s": round(len(load.acknowledged) / (load.elapsed_s - self.failover_s), 1),
            "failover_ms": round(self.failover_s * 1000, 1),
            "terms": list(self.terms),
            "nodes_agree": self.comparison.is_same_everywhere,
            "unknown": load.unknown,
            "elapsed_s": round(load.elapsed_s, 3),
            "applied_index": self.applied_index,
            "killed": self.killed,
            "clients": self.plan.clients,
            "lost_keys": {node_id: list(keys)[:10] for node_id, keys in self.comparison.lost_by_node.items() if keys},
        }


class Story:
    """One run of the demo. It is there before the run begins, so that a failed one can tell how far it came."""

    def __init__(self, plan: DemoPlan, view: View) -> None:
        self.load: Load | None = None
        self._plan = plan
        self._view = view

    async def play(self) -> DemoResult:
        """Run the demo.

        Cancellation: ends all nodes; so does a signal.
        Raises: DemoFailed, ConfigError, PluginError, Interrupted, all also in groups.
        """
        async with open_transport(self._plan.transport) as transport:
            services = as_service_transport(transport, self._plan.transport)
            plan = self._plan
            cluster = DemoCluster(plan.folder, transport, plan.transport, self._view.say, plan.consul)
            try:
                with self._view:
                    return await self._play(cluster, services)
            finally:
                await cluster.aclose()

    async def _play(self, cluster: DemoCluster, services: ServiceTransport) -> DemoResult:
        where = "" if cluster.consul is None else ", which find each other in a Consul of their own,"
        self._view.say(f"starting {', '.join(NODE_IDS)}{where} in {self._plan.folder}")
        await cluster.start()
        leader = await cluster.wait_leader()
        self._view.say(f"{leader.node_id} leads in term {leader.term}; writing")
        load = self.load = Load(self._plan.writes, self._clients(services, cluster.addresses))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._observe, cluster, load)
            for node in cluster.nodes:
                nursery.start_soon(node.watch)
            if cluster.consul is not None:
                nursery.start_soon(cluster.consul.watch)
            async with trio.open_nursery() as work:
                work.start_soon(load.run)
                killed, failover_s = await self._lose_the_leader(cluster, load, nursery)
            self._view.say(f"{len(load.acknowledged)} writes acknowledged; waiting until all nodes agree")
            applied_index = await cluster.wait_agreement()
            self._view.say(f"all nodes have applied the log up to {applied_index}; reading everything back from each")
            comparison = await self._compare(cluster, services, load)
            nursery.cancel_scope.cancel()
        terms = tuple(sorted(cluster.terms))
        return DemoResult(self._plan, load, comparison, killed, failover_s, terms, applied_index)

    def _clients(self, services: ServiceTransport, addresses: Sequence[str]) -> list[KvClient]:
        """Return the clients; each begins at another node."""
        make = load_kv_client()
        shifts = [number % len(addresses) for number in range(self._plan.clients)]
        return [make(services, [*addresses[shift:], *addresses[:shift]]) for shift in shifts]

    async def _observe(self, cluster: DemoCluster, load: Load) -> None:
        while True:
            statuses = await cluster.ask_running()
            failover = load.failover
            if failover is not None:
                for status in statuses:
                    failover.observe(status)
            self._view.draw(cluster, load, trio.current_time())
            is_urgent = failover is not None and not failover.over.is_set()
            await trio.sleep(_FAILOVER_POLL_S if is_urgent else _POLL_S)

    async def _lose_the_leader(self, cluster: DemoCluster, load: Load, nursery: trio.Nursery) -> tuple[str, float]:
        """Kill the leader half-way, and start it again once the others go on. Return it and the failover's seconds."""
        await load.half_done.wait()
        leader = await cluster.wait_leader()
        node = cluster.node(leader.node_id)
        killed_at = trio.current_time()
        await node.kill()
        failover = Failover(killed_at, leader.term)
        load.begin_failover(failover)
        self._view.say(
            f"killed the leader {leader.node_id} with SIGKILL in term {leader.term}, "
            f"after {len(load.acknowledged)} acknowledged writes"
        )
        with trio.move_on_after(_FAILOVER_LIMIT_S):
            await failover.over.wait()
        if failover.duration_s is None:
            raise cluster.failed(f"no write is acknowledged by a new leader within {_FAILOVER_LIMIT_S:g} s")
        self._view.say(f"writing again {failover.duration_s * 1000:.0f} ms later; starting {leader.node_id} again")
        await cluster.restart(node)
        nursery.start_soon(node.watch)
        return leader.node_id, failover.duration_s

    async def _compare(self, cluster: DemoCluster, services: ServiceTransport, load: Load) -> Comparison:
        make = load_kv_client()
        contents = {
            node.node_id: await read_back(node.node_id, make(services, [node.address])) for node in cluster.nodes
        }
        return compare(load.acknowledged, contents)

"""Health beside whole nodes, in memory and on a mock clock: what they say of themselves, and who is taken out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import ClusterHealth, HealthConfig, Node, NodeConfig, NodeProbe
from clustercore.interfaces import (
    CheckOutcome,
    Entry,
    HealthStatus,
    Member,
    NodeHealth,
    NodeId,
    PeerUnreachable,
    Role,
    ServiceError,
)
from clustercore_memory import (
    LinkQuality,
    MemoryDiscovery,
    MemoryNetwork,
    MemoryRegistry,
    MemoryStorage,
    MemoryTransport,
)
from tests.simulation.cluster import Journal

CONFIG = HealthConfig(jitter=0.0)
GONE_S = CONFIG.worst_case_detection_s + CONFIG.deregister_after_s


class HaltingStorage(MemoryStorage):
    """A disk that keeps every write waiting while ``halts`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.halts = False
        self.resumes = trio.Event()

    async def append(self, entries: Sequence[Entry]) -> None:
        if self.halts:
            await self.resumes.wait()
        await super().append(entries)


@attrs.define
class Cluster:
    """Three nodes that find each other in one registry, each with its health beside it."""

    network: MemoryNetwork
    registry: MemoryRegistry
    nodes: dict[str, Node]
    storages: dict[str, HaltingStorage]
    health: dict[str, ClusterHealth]
    transport: MemoryTransport

    @property
    def registered(self) -> str:
        return "".join(member.node_id for member in self.registry.members)

    @property
    def leader(self) -> str:
        return next(name for name, node in self.nodes.items() if node.status().role is Role.LEADER)

    async def health_of(self, name: str) -> NodeHealth:
        return self.nodes[name].status().health


@asynccontextmanager
async def cluster(config: HealthConfig = CONFIG) -> AsyncIterator[Cluster]:
    """Run it inside the block, with a leader, and every node known to be well."""
    network, registry = MemoryNetwork(), MemoryRegistry()
    asks = MemoryTransport(network, "outside")
    made = Cluster(network, registry, {}, {}, {}, asks)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asks)
        for number, name in enumerate("abc"):
            discovery = MemoryDiscovery(registry)
            made.storages[name] = HaltingStorage()
            made.health[name] = ClusterHealth(discovery, config, rng=Random(number))
            made.nodes[name] = await stack.enter_async_context(
                Node(
                    name,
                    machine=Journal(),
                    transport=MemoryTransport(network, name),
                    storage=made.storages[name],
                    discovery=discovery,
                    voters="abc",
                    companions=[made.health[name]],
                    rng=Random(10 + number),
                )
            )
        await made.nodes["a"].wait_leader()
        await trio.sleep(20.37)
        yield made


async def test_node_that_answers_nobody_is_taken_out_and_comes_back(autojump_clock: MockClock) -> None:
    """The leader alone takes a node out that was cut off; healed, it is registered as before; members never change."""
    async with cluster() as on:
        assert on.registered == "abc"
        assert [member.node_id for member in on.health["a"].view] == list("abc")
        victim = next(name for name in "abc" if name != on.leader)
        others = [name for name in "abc" if name != victim]
        registration = on.registry.members
        on.network.isolate(victim)

        await trio.sleep(CONFIG.worst_case_detection_s)
        for name in others:
            assert victim not in [member.node_id for member in on.health[name].view]
        assert on.registered == "abc"
        await trio.sleep(CONFIG.deregister_after_s + 1)
        assert on.registered == "".join(others)
        assert [event.kind.value for event in on.health[on.leader].events] == ["deregistered"]
        term = on.nodes[on.leader].status().term
        assert on.health[on.leader].events[0].term == term
        for name in others:
            await on.nodes[name].propose(b"goes on")
            assert on.nodes[name].status().configuration.voters == frozenset("abc")

        on.network.heal()
        await trio.sleep(CONFIG.max_check_interval_s + 30)
        assert on.registry.members == registration
        for name in others:
            assert [member.node_id for member in on.health[name].view] == list("abc")


async def test_checker_that_is_cut_off_takes_nobody_out(autojump_clock: MockClock) -> None:
    """A node that reaches nobody sees all others ill, doubts itself, and takes nobody out: it does not lead, either."""
    async with cluster() as on:
        alone = on.leader
        on.network.isolate(alone)
        await trio.sleep(CONFIG.worst_case_detection_s)
        assert on.health[alone].checker.own_score.score > 0
        await trio.sleep(CONFIG.deregister_after_s + 30)

        assert {event.kind.value for event in on.health[alone].events} == {"deregistration blocked"}
        others = [name for name in "abc" if name != alone]
        assert on.registered == "".join(others)
        assert [member.node_id for member in on.health[alone].view] == others or len(on.health[alone].view) == 3


@pytest.mark.parametrize("helpers", [0, 2])
async def test_node_that_only_the_leader_does_not_reach(helpers: int, autojump_clock: MockClock) -> None:
    """Asked directly alone, it is taken out; by way of another it is found to be up, and stays, with a warning."""
    async with cluster(attrs.evolve(CONFIG, indirect_probes=helpers)) as on:
        leader = on.leader
        victim = next(name for name in "abc" if name != leader)
        on.network.set_quality(LinkQuality(loss=1.0), (leader, victim))
        await trio.sleep(GONE_S + 5)

        assert on.leader == leader
        assert (victim in on.registered) == (helpers > 0)
        status = on.health[leader].checker.status(victim)
        assert status is (HealthStatus.DEGRADED if helpers else HealthStatus.UNHEALTHY)
        if helpers:
            last = on.health[leader].checker.history(victim).checks[-1]
            assert (
                f"reached by way of {next(n for n in 'abc' if n not in (leader, victim))} alone" in last.result.detail
            )
            assert last.latency_s <= CONFIG.timeout


async def test_dead_node_is_found_as_soon_with_indirect_probes(autojump_clock: MockClock) -> None:
    """A node that nobody reaches is unhealthy within the same worst case, however many are asked."""
    async with cluster(attrs.evolve(CONFIG, indirect_probes=2)) as on:
        victim = next(name for name in "abc" if name != on.leader)
        on.network.isolate(victim)
        await trio.sleep(CONFIG.worst_case_detection_s)

        assert on.health[on.leader].checker.status(victim) is HealthStatus.UNHEALTHY


async def test_others_are_looked_at_only_if_they_are_known(autojump_clock: MockClock) -> None:
    """Whoever asks about a node that is not known here learns just that; nonsense is refused."""
    async with cluster() as on:
        method = "clustercore.v1.PeerHealth/Probe"
        other = "b" if on.leader == "a" else "a"
        assert (await on.transport.call("c", method, b"\n\x01" + other.encode()))[:2] == b"\x08\x01"
        assert (await on.transport.call("c", method, b"\n\x01z"))[:2] == b"\x08\x04"
        for nonsense in (b"", b"\n\x01\xff", b"\n"):
            with pytest.raises(ServiceError, match="names no node"):
                await on.transport.call("c", method, nonsense)


async def test_node_says_what_it_measures(autojump_clock: MockClock) -> None:
    """A node that does nothing wrong is well; the leader it hears, what it applied and its last write are told."""
    async with cluster() as on:
        await on.nodes["a"].propose(b"x")
        await trio.sleep(1)
        for node in on.nodes.values():
            health = node.status().health
            assert (health.not_serving, health.degraded) == ("", "")
            assert (health.apply_lag, health.write_wait_s) == (0, 0.0)
            assert 0 <= health.lag_s < 1
            assert 0.9 < health.write_age_s < 2


class Asking(MemoryDiscovery):
    """One that notes how the node is when it registers itself, and may ask later."""

    async def register(self, member: Member) -> None:
        self.at_registration = self.ask()
        await super().register(member)

    def use_health(self, ask: Callable[[], NodeHealth]) -> None:
        self.ask = ask


async def test_discovery_may_ask_how_its_node_is(autojump_clock: MockClock) -> None:
    """From before the node registers itself until after it has stopped it gets an answer at once."""
    discovery = Asking()
    node = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        storage=MemoryStorage(),
        discovery=discovery,
        voters="a",
    )
    async with node:
        await node.wait_leader()
        assert discovery.at_registration.degraded == "it has heard no leader yet"
        await node.propose(b"x")
        assert discovery.ask() == node.status().health
        assert not discovery.ask().degraded
    assert discovery.ask().not_serving == "it is about to stop"


async def test_stalled_disk_degrades_and_then_stops_service(autojump_clock: MockClock) -> None:
    """A disk that keeps a write waiting makes a node degraded, and after five times as long it is to get no work."""
    async with cluster() as on:
        victim = next(name for name in "abc" if name != on.leader)
        probe = NodeProbe(on.transport, victim, victim)
        on.storages[victim].halts = True
        await on.nodes[on.leader].propose(b"x")
        await trio.sleep(3)
        assert (await probe.check()).outcome is CheckOutcome.WARN
        assert on.nodes[victim].status().health.write_wait_s > 2

        await trio.sleep(10)
        result = await probe.check()
        assert (result.outcome, result.is_decisive) == (CheckOutcome.FAIL, True)
        assert "the disk has kept a write waiting" in result.detail
        await trio.sleep(CONFIG.check_interval)
        assert on.health[on.leader].checker.status(victim) is HealthStatus.UNHEALTHY

        on.storages[victim].halts = False
        on.storages[victim].resumes.set()
        await trio.sleep(1)
        assert (await probe.check()).outcome is CheckOutcome.OK


async def test_node_without_a_leader_is_degraded(autojump_clock: MockClock) -> None:
    """A node that hears no leader serves what it can, and says that it is behind."""
    async with cluster() as on:
        victim = next(name for name in "abc" if name != on.leader)
        on.network.isolate(victim)
        await trio.sleep(10)

        health = on.nodes[victim].status().health
        assert health.not_serving == ""
        assert "behind its leader, or has none" in health.degraded
        assert health.lag_s > 9


async def test_another_node_at_the_address_is_no_health(autojump_clock: MockClock) -> None:
    """What answers under another name is not the node that is looked for; where nobody listens there is none."""
    async with cluster() as on:
        result = await NodeProbe(on.transport, "a", "z").check()
        assert (result.outcome, result.detail) == (CheckOutcome.FAIL, "node 'a' answers at a")
        with pytest.raises(PeerUnreachable, match="nowhere"):
            await NodeProbe(on.transport, "nowhere", "z").check()


async def test_draining_node_says_so_and_serves_meanwhile(autojump_clock: MockClock) -> None:
    """A node whose block ends says that it does not serve, and for ``drain_s`` it serves all the same."""
    network, registry = MemoryNetwork(), MemoryRegistry()
    asks = MemoryTransport(network, "outside")
    node = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(network, "a"),
        storage=MemoryStorage(),
        discovery=MemoryDiscovery(registry),
        voters="a",
        config=NodeConfig(drain_s=5.0),
    )
    leave = trio.Event()

    async def live() -> None:
        async with node:
            await node.wait_leader()
            await leave.wait()

    async with asks, trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await trio.sleep(5)
        probe = NodeProbe(asks, "a", "a")
        assert (await probe.check()).outcome is CheckOutcome.OK

        leave.set()
        await trio.sleep(2)
        result = await probe.check()
        assert (result.outcome, result.is_decisive, result.detail) == (CheckOutcome.FAIL, True, "it is about to stop")
        await node.propose(b"served")
        before = trio.current_time()
        await wait_all_tasks_blocked()
    assert 2.9 < trio.current_time() - before < 4
    assert node.node_id == NodeId("a")

"""What a node tells a discovery of itself, and what it does while that does not answer."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random

import trio
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import Discovery, DiscoverySnapshot, MemberMetadata
from clustercore_memory import (
    MemoryDiscovery,
    MemoryNetwork,
    MemoryRegistry,
    MemoryStorage,
    MemoryTransport,
    SourceFault,
)
from tests.simulation.cluster import Journal, eventually

VOTERS = "abc"


def node(
    network: MemoryNetwork, name: str, discovery: Discovery, storage: MemoryStorage | None = None, *, join: bool = False
) -> Node:
    """A node that is found by a discovery alone."""
    return Node(
        name,
        machine=Journal(),
        transport=MemoryTransport(network, f"{name}.example"),
        storage=storage if storage is not None else MemoryStorage(),
        discovery=discovery,
        voters=None if join else VOTERS,
        join=join,
        rng=Random(name),
    )


async def test_node_tells_what_it_is(autojump_clock: MockClock) -> None:
    """Nothing of a cluster before there is one; then which, and whether it votes; and nothing once it was removed."""
    network, registry = MemoryNetwork(), MemoryRegistry()

    def told(name: str) -> MemberMetadata | None:
        return next((member.metadata for member in registry.members if member.node_id == name), None)

    with trio.fail_after(120):
        async with AsyncExitStack() as running:
            nodes = [
                await running.enter_async_context(node(network, name, MemoryDiscovery(registry))) for name in VOTERS
            ]
            assert told("a") == MemberMetadata("", "", 4, 2)
            await nodes[0].propose(b"x")
            cluster_id = nodes[0].status().configuration.cluster_id
            await eventually(lambda: {told(name) for name in VOTERS} == {MemberMetadata(cluster_id, "voter", 4, 2)})

            fourth = await running.enter_async_context(node(network, "d", MemoryDiscovery(registry), join=True))
            await eventually(lambda: told("d") == MemberMetadata(cluster_id, "voter", 4, 2))
            await nodes[0].members.demote("d")
            await eventually(lambda: told("d") == MemberMetadata(cluster_id, "learner", 4, 2))

            await nodes[0].members.remove("d")
            await fourth.wait_removed()
            await eventually(lambda: told("d") is None)
            await nodes[0].members.add("d", "d.example")
            await eventually(lambda: told("d") == MemberMetadata(cluster_id, "voter", 4, 2))


class Silent(MemoryDiscovery):
    """Answers nothing, ever, and says how often it was asked for the members before the node served."""

    def __init__(self, registry: MemoryRegistry) -> None:
        super().__init__(registry)
        self.fault = SourceFault.OUTAGE
        self.asked = 0

    async def members(self) -> DiscoverySnapshot:
        self.asked += 1
        return await super().members()


async def test_members_need_no_discovery_to_start_again(autojump_clock: MockClock) -> None:
    """Nodes that are started again while it is down find each other where their log says, and serve."""
    network, registry = MemoryNetwork(), MemoryRegistry()
    storages = {name: MemoryStorage() for name in VOTERS}
    async with AsyncExitStack() as running:
        nodes = [
            await running.enter_async_context(node(network, name, MemoryDiscovery(registry), storages[name]))
            for name in VOTERS
        ]
        with trio.fail_after(60):
            await nodes[0].propose(b"x")
            # A change of the members writes down where each of them is.
            await nodes[0].members.add_learner("z", "nowhere")
            await eventually(lambda: len({one.status().commit_index for one in nodes}) == 1)

    silent = {name: Silent(registry) for name in VOTERS}
    with trio.fail_after(60):
        async with AsyncExitStack() as running:
            nodes = [
                await running.enter_async_context(node(network, name, silent[name], storages[name])) for name in VOTERS
            ]
            await nodes[0].propose(b"y")
        assert [one.asked for one in silent.values()] == [0, 0, 0]


async def test_outage_removes_nobody_and_stops_nothing(autojump_clock: MockClock) -> None:
    """A minute without an answer, an empty one and a wrong one: all stay members, and commits go on."""
    network, registry = MemoryNetwork(), MemoryRegistry()
    discoveries = {name: MemoryDiscovery(registry) for name in VOTERS}
    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(node(network, name, discoveries[name])) for name in VOTERS]
        with trio.fail_after(600):
            await nodes[0].propose(b"first")
            for fault in (SourceFault.OUTAGE, SourceFault.EMPTY, SourceFault.NONSENSE):
                for discovery in discoveries.values():
                    discovery.fault = fault
                for _ in range(6):
                    await trio.sleep(10)
                    await nodes[0].propose(fault.value.encode())
            for discovery in discoveries.values():
                discovery.lie({"a": "c.example", "b": "nowhere", "x": "a.example"})
            await trio.sleep(60)
            await nodes[0].propose(b"last")
            members = await nodes[0].members.get()

        assert members.configuration.voters == set(VOTERS)

"""What runs beside a node: it is served on the node's listener, knows the others, and lives and ends with the node."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import (
    AcceptLink,
    ConfigError,
    Lane,
    Link,
    NodeCompanion,
    NodeHandle,
    NodeId,
    NodeSite,
    Service,
    ServiceTransport,
    StorageError,
    Transport,
)
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal

METHOD = "test.Greeter/Greet"


class Greeter(NodeCompanion):
    """Greets whoever calls it and, unless it is shy, each peer once."""

    def __init__(self, *, is_shy: bool = False, error: Exception | None = None) -> None:
        self.is_shy = is_shy
        self.error = error
        self.greetings: dict[str, bytes] = {}
        self.has_ended = False
        self.site: NodeSite | None = None

    def services(self, node: NodeHandle) -> Sequence[Service]:
        async def greet(request: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return request + b" from " + node.node_id.encode()

        return [Service("test.Greeter", unary={"Greet": greet})]

    async def run(self, site: NodeSite) -> None:
        assert isinstance(site.transport, ServiceTransport)
        self.site = site
        if self.error is not None:
            raise self.error
        try:
            for peer, address in () if self.is_shy else site.peers().items():
                self.greetings[peer] = await site.transport.call(address, METHOD, b"hello")
            await trio.sleep_forever()
        finally:
            self.has_ended = True


def make_node(name: str, network: MemoryNetwork, companion: NodeCompanion) -> Node:
    """A node of two, beside which a companion runs."""
    return Node(
        name,
        machine=Journal(),
        transport=MemoryTransport(network, name),
        storage=MemoryStorage(),
        discovery=StaticDiscovery({"a": "a", "b": "b"}),
        companions=[companion],
    )


def names(letters: str) -> frozenset[NodeId]:
    """The ids of some nodes."""
    return frozenset(map(NodeId, letters))


async def test_companion_serves_on_the_nodes_listener_and_knows_its_peers(autojump_clock: MockClock) -> None:
    """It is called at the node's address, finds the other members there, and is cancelled when the node stops."""
    network, first, second = MemoryNetwork(), Greeter(is_shy=True), Greeter()

    async with make_node("a", network, first):
        async with make_node("b", network, second) as node:
            await node.wait_leader()
            await trio.sleep(1)
        assert second.greetings == {"a": b"hello from a"}
        assert second.has_ended
        assert not first.has_ended


async def test_companion_knows_all_other_members_once_there_is_a_cluster(autojump_clock: MockClock) -> None:
    """Also learners, and those that nobody knows where to find; a node that is no member knows of none."""
    network, first, second = MemoryNetwork(), Greeter(is_shy=True), Greeter(is_shy=True)

    async with make_node("a", network, first) as a:
        await trio.sleep(1)
        here = first.site
        assert here is not None
        assert here.members() is None
        assert set(here.peers()) == {"b"}
        async with make_node("b", network, second):
            await a.wait_leader()
            await trio.sleep(1)
            there = second.site
            assert there is not None
            assert here.members() == names("b")
            assert there.members() == names("a")

            await a.members.add_learner("d")
            await trio.sleep(1)
            assert here.members() == names("bd")
            assert there.members() == names("ad")
            assert set(here.peers()) == {"b"}

            await a.members.remove("b")
            await trio.sleep(1)
            assert here.members() == names("d")


async def test_error_of_a_companion_ends_the_node_with_it(autojump_clock: MockClock) -> None:
    """What a companion raises leaves the node's block, unwrapped, and nothing of the node is left."""
    with pytest.raises(StorageError, match="is full"):
        async with make_node("a", MemoryNetwork(), Greeter(error=StorageError("the companion's disk is full"))):
            await trio.sleep_forever()


class _LinksOnly(Transport):
    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("a")
        await trio.sleep_forever()

    async def connect(self, address: str, lane: Lane) -> Link:
        raise NotImplementedError


def test_transport_without_services_is_refused_for_a_companion() -> None:
    """A companion that could never be called is an error of the configuration, at once."""
    with pytest.raises(ConfigError, match="carries no services"):
        Node(
            "a",
            machine=Journal(),
            transport=_LinksOnly(),
            storage=MemoryStorage(),
            discovery=StaticDiscovery({"a": "a"}),
            companions=[Greeter()],
        )

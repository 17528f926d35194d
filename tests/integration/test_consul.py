"""Discovery by a real Consul: its kit, and what the fake cannot know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from clustercore.interfaces import Discovery, Member, NodeHealth, NodeId
from clustercore.testing.conformance import DiscoveryConformance, DiscoverySource
from clustercore_consul import ConsulDiscovery
from tests.consul_agent import TOKEN, ConsulAgent, dev_agent, needs_consul
from tests.fake_consul import instance

pytestmark = [pytest.mark.integration, pytest.mark.slow, needs_consul]

A = Member(NodeId("a"), "host:1")
LIMIT_S = 60
_numbers = count(1)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent for all tests of this module; each uses a service name of its own."""
    with dev_agent(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


class RealConsul(DiscoverySource):
    """What an agent knows of one service."""

    def __init__(self, agent: ConsulAgent, service: str) -> None:
        self.agent = agent
        self.service = service

    def register(self, registration: Mapping[str, Any]) -> None:
        self.agent.ask("PUT", "/v1/agent/service/register", dict(registration))

    def know(self, members: Mapping[str, str]) -> None:
        """Register these, and none beside them, and wait until the catalog has it."""
        for service_id, service in self.agent.ask("GET", "/v1/agent/services").items():
            if service["Service"] == self.service and service["Meta"].get("clustercore-node-id") not in members:
                self.agent.ask("PUT", f"/v1/agent/service/deregister/{service_id}")
        for node_id, address in members.items():
            self.register(instance(node_id, address, ID=f"{self.service}-{node_id}", Name=self.service))

        def has_it(agent: ConsulAgent) -> bool:
            entries = agent.ask("GET", f"/v1/catalog/service/{self.service}?consistent")
            meta = [entry["ServiceMeta"] for entry in entries]
            return {each["clustercore-node-id"]: each["clustercore-address"] for each in meta} == dict(members)

        self.agent.wait_until(has_it)

    async def tell(self, members: Mapping[str, str]) -> None:
        self.agent.thaw()
        self.know(members)

    async def fail(self) -> None:
        self.agent.freeze()

    async def talk_nonsense(self) -> None:
        self.register({"ID": f"{self.service}-x", "Name": self.service, "Meta": {"clustercore-node-id": "x"}})


class OnRealConsul(ConsulDiscovery):
    """One whose source the kit may change."""

    def __init__(self, source: RealConsul) -> None:
        super().__init__(source.agent.url, source.service, token=TOKEN, wait_s=1, timeout_s=1)
        self.source = source


class TestRealConsul(DiscoveryConformance):
    limit_s = LIMIT_S

    @pytest.fixture(autouse=True)
    def _use(self, agent: ConsulAgent) -> Iterator[None]:
        self.agent = agent
        yield
        agent.thaw()

    def make(self, members: Mapping[str, str]) -> Discovery:
        source = RealConsul(self.agent, f"kit-{next(_numbers)}")
        source.know(members)
        return OnRealConsul(source)

    def source(self, discovery: Discovery) -> DiscoverySource:
        assert isinstance(discovery, OnRealConsul)
        return discovery.source


def warns(agent: ConsulAgent) -> bool:
    """Whether the odd node has said how it is."""
    return any(check["Status"] == "warning" for check in agent.ask("GET", "/v1/health/checks/odd"))


async def test_names_that_consul_does_not_like_survive(agent: ConsulAgent) -> None:
    """An id with a slash, a space and more is registered, kept, found and taken out by a real agent as any other."""
    odd = Member(NodeId("a/b ü?#%"), "[::1]:7001")
    async with opened(agent, "odd") as discovery:
        discovery.use_health(lambda: NodeHealth(degraded="so so"))
        await discovery.register(odd)
        await trio.to_thread.run_sync(agent.wait_until, warns)
        (found,) = agent.ask("GET", "/v1/health/service/odd")
        assert found["Service"]["Address"] == "::1"
        await discovery.deregister(odd.node_id)
        assert agent.ask("GET", "/v1/health/service/odd?consistent") == []


def opened(agent: ConsulAgent, service: str, *, token: str = TOKEN, token_file: Path | str = "") -> ConsulDiscovery:
    """Return a discovery that is as quick as it may be."""
    return ConsulDiscovery(agent.url, service, token=token, token_file=token_file, ttl_s=10, wait_s=1, timeout_s=1)


async def test_anonymous_learns_nothing_and_loses_nothing(agent: ConsulAgent, tmp_path: Path) -> None:
    """With a token that may see nothing Consul 1.8 names nobody, and says nothing of ACLs: the last members hold."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with opened(agent, "secret") as other, opened(agent, "secret", token="", token_file=token) as discovery:
        await other.register(A)
        with trio.fail_after(LIMIT_S):
            snapshot = await discovery.members()
            while not snapshot.members:
                snapshot = await discovery.changed(snapshot.version)
            discovery._options.secret._token = ""
            while not snapshot.is_stale:
                snapshot = await discovery.changed(snapshot.version)
            assert snapshot.members == (A,)


def knows_both(agent: ConsulAgent) -> bool:
    """Whether two nodes of the fleet are well."""
    return len(agent.ask("GET", "/v1/health/service/fleet?passing")) == 2


async def test_agent_that_lost_everything_gets_it_back(tmp_path: Path) -> None:
    """A dev agent that is restarted knows nothing: nobody is forgotten meanwhile, and each registers itself again."""
    with dev_agent(tmp_path) as agent:
        async with opened(agent, "fleet") as one, opened(agent, "fleet") as two:
            members = [Member(NodeId(name), f"127.0.0.1:{port}") for name, port in (("n1", 7001), ("n2", 7002))]
            await one.register(members[0])
            await two.register(members[1])
            with trio.fail_after(LIMIT_S):
                for discovery in (one, two):
                    snapshot = await discovery.members()
                    while len(snapshot.members) < 2:
                        snapshot = await discovery.changed(snapshot.version)
                seen = []
                async with trio.open_nursery() as nursery:

                    async def follow(discovery: ConsulDiscovery) -> None:
                        async for snapshot in discovery.watch():
                            seen.append(snapshot)

                    nursery.start_soon(follow, one)
                    nursery.start_soon(follow, two)
                    await trio.to_thread.run_sync(agent.end)
                    agent.start()
                    await trio.to_thread.run_sync(agent.wait_led)
                    await trio.to_thread.run_sync(agent.wait_until, knows_both)
                    for discovery in (one, two):
                        while (await discovery.members()).is_stale:
                            await discovery.changed((await discovery.members()).version)
                    nursery.cancel_scope.cancel()

    assert any(snapshot.is_stale for snapshot in seen)
    assert {snapshot.members for snapshot in seen} == {tuple(members)}

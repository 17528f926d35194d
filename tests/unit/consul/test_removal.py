"""Deregistering, through the agent that owns the registration; and registering on behalf of another node."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import Member
from clustercore_consul import ConsulDiscovery
from tests.fake_consul import HERE, FakeConsul, Reply, instance
from tests.unit.consul.opened import HEALTH, A, B, Opened, opened

REGISTER = "/v1/agent/service/register"
DEREGISTER = "/v1/agent/service/deregister/clustercore-"


async def deregister(world: Opened, member: Member) -> None:
    """Deregister a member, while time passes as it is needed."""
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def work() -> None:
            await world.discovery.deregister(member.node_id)
            done.set()

        nursery.start_soon(work)
        await world.settle()
        while not done.is_set():
            await world.jump(0.5)


async def test_own_registration_ends_with_its_beats(clock: MockClock) -> None:
    """The agent is told, nobody says that it lives any more, and what is under way does not bring it back."""
    async with opened(clock, "b") as world:
        await world.discovery.register(A)
        await deregister(world, A)
        assert (await world.discovery.members()).members == (Member(B.node_id, "host:1"),)
        asked = len(world.fake.asked("/v1/agent"))
        for _ in range(4):
            await world.jump(30)

        assert len(world.fake.asked(DEREGISTER + "a")) == 1
        assert len(world.fake.asked("/v1/agent")) == asked
        assert [service.body["ID"] for service in world.fake.services.values()] == ["clustercore-b"]


async def test_registration_of_the_own_agent_is_taken_out_there(clock: MockClock) -> None:
    """Whoever made it, the agent that has it is told, and it is read from the leader that it is gone."""
    async with opened(clock, "a", "b") as world:
        await world.discovery.members()
        await deregister(world, B)

        assert (await world.discovery.members()).members == (A,)
        assert len(world.fake.asked(DEREGISTER + "b", "PUT")) == 1
        assert {"consistent": ""} in world.queries()
        assert world.fake.asked("/v1/catalog") == []


async def test_node_of_a_lost_machine_is_taken_out_of_the_catalog(clock: MockClock) -> None:
    """Where Consul itself has lost the agent, nobody can be told, and nothing comes back."""
    async with opened(clock, "a", datacenter="north") as world:
        world.fake.nodes["other"] = ("10.9.9.9", True)
        world.fake.put(instance("b", "host:2"), node="other")
        await world.discovery.members()
        await deregister(world, B)

        (told,) = world.fake.asked("/v1/catalog/deregister")
        assert told.body == {"Node": "other", "ServiceID": "clustercore-b", "Datacenter": "north"}
        assert (await world.discovery.members()).members == (A,)


class Elsewhere(FakeConsul):
    """The agent of another machine, at the same port of another loopback address; its catalog is that of the first."""

    def __init__(self, first: FakeConsul) -> None:
        super().__init__(host="127.0.0.2", port=first.port)
        self.first = first

    def drop(self, service_id: str, node: str = HERE) -> bool:
        self.first.drop(service_id, "other")
        return super().drop(service_id, node)


async def test_other_agent_is_told_at_its_own_machine(clock: MockClock) -> None:
    """What a living agent has would come back if it was taken out of the catalog alone (hashicorp/consul#3169)."""
    async with opened(clock, "a") as world, Elsewhere(world.fake).running() as other:
        world.fake.nodes["other"] = ("127.0.0.2", False)
        world.fake.put(instance("b", "host:2"), node="other")
        other.put(instance("b", "host:2"))
        await world.discovery.members()
        await deregister(world, B)

        assert len(other.asked(DEREGISTER + "b")) == 1
        assert world.fake.asked("/v1/catalog") == []
        assert (await world.discovery.members()).members == (A,)


async def test_node_that_moved_is_taken_out_at_both_machines(clock: MockClock) -> None:
    """Registered by two agents under one id, it is taken out of each of them."""
    async with opened(clock, "a") as world, Elsewhere(world.fake).running() as other:
        world.fake.nodes["other"] = ("127.0.0.2", False)
        world.fake.put(instance("b", "host:2"), node="other")
        world.fake.put(instance("b", "host:3"))
        other.put(instance("b", "host:2"))
        await world.discovery.members()
        await deregister(world, B)

        assert (await world.discovery.members()).members == (A,)
        assert list(world.fake.services) == [(HERE, "clustercore-a")]


@pytest.mark.parametrize(
    ("address", "options", "why"),
    [
        ("127.0.0.3", {}, "ConnectError"),
        ("127.0.0.3", {"token": "secret"}, "ConnectError"),
        ("10.9.9.9", {"token": "secret"}, "the token would cross the network in the clear"),
        ("other.example", {"token": "secret"}, "the token would cross the network in the clear"),
    ],
)
async def test_agent_that_cannot_be_told_leaves_the_node_withdrawn(
    clock: MockClock, address: str, options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in Consul until its agent takes it out, and is not in service here; the log says why."""
    async with opened(clock, "a", **options) as world:
        world.fake.nodes["other"] = (address, False)
        world.fake.put(instance("b", "host:2"), node="other")
        await world.discovery.register(A)
        await deregister(world, B)
        snapshot = await world.discovery.members()

        assert (snapshot.members, snapshot.in_service) == ((A, B), (A,))
        assert why in caplog.text
        assert "secret" not in caplog.text

        # It is well again: nothing was taken away, so nothing is to be given back.
        await world.discovery.register(B)
        assert (await world.discovery.members()).in_service == (A, B)
        assert len(world.fake.asked(REGISTER)) == 1


async def test_refused_deregistration_leaves_the_node_withdrawn(clock: MockClock) -> None:
    """A token that does not allow it does not become another by waiting."""
    async with opened(clock, "a", "b") as world:
        await world.discovery.members()
        world.fake.script(Reply(403, raw=b"Permission denied"), DEREGISTER)
        await deregister(world, B)

        assert (await world.discovery.members()).in_service == (A,)


async def test_deregistering_waits_for_a_consul_that_does_not_answer(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a leader nobody can be taken out; it is done once there is one, and the log says so once."""
    async with opened(clock, "a", "b") as world:
        await world.discovery.members()
        world.fake.is_led = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.discovery.deregister, B.node_id)
            await world.jump(5)
            assert world.fake.asked(DEREGISTER) == []
            world.fake.is_led = True
            await world.jump(5)
        assert (await world.until(is_stale=False)).members == (A,)

    assert caplog.text.count("is not deregistered yet") == 1


async def test_catalog_that_goes_on_telling_is_told_of(clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that says that it was done, and a catalog that has it still: the node is withdrawn, not forgotten."""
    async with opened(clock, "a", "b") as world:
        await world.discovery.members()
        world.fake.script(Reply(), DEREGISTER)
        world.fake.script(Reply(), DEREGISTER)
        await deregister(world, B)

        assert (await world.discovery.members()).in_service == (A,)
    assert "Consul" in caplog.text


# --- On behalf of others ---


async def test_node_that_registers_itself_is_not_registered_by_others(clock: MockClock) -> None:
    """Whoever finds that it is well again finds that it is there already, by its own beats."""
    async with opened(clock, "b") as world:
        await world.discovery.register(A)
        await world.discovery.register(Member(B.node_id, "host:1"))

        assert len(world.fake.asked(REGISTER)) == 1


async def test_node_registered_on_behalf_takes_it_over(clock: MockClock) -> None:
    """Until a node registers itself, what another says of it holds; then that is taken back, and nothing is lost."""
    async with opened(clock) as world:
        await world.discovery.register(A)
        await world.discovery.register(B)
        assert [heard.body["Meta"]["clustercore-registrar"] for heard in world.fake.asked(REGISTER)] == ["a", "a"]
        world.fake.nodes["other"] = ("10.9.9.9", False)
        world.fake.put(instance("b", "host:22"), node="other")
        await world.settle()
        snapshot = await world.discovery.members()

        assert snapshot.address_of(B.node_id) == "host:22"
        assert list(world.fake.services) == [(HERE, "clustercore-a"), ("other", "clustercore-b")]
        for _ in range(3):
            await world.jump(10)
        assert {heard.path.rpartition("/")[2] for heard in world.fake.asked("/check/update/")} == {"clustercore-a:ttl"}


async def test_node_registered_on_behalf_at_the_same_agent_keeps_its_registration(clock: MockClock) -> None:
    """Where both use one agent, the node's own registration has replaced the other, and must not be taken out."""
    async with opened(clock) as world:
        await world.discovery.register(A)
        await world.discovery.register(B)
        world.fake.put(instance("b", "host:22"))
        await world.settle()

        assert world.fake.asked(DEREGISTER) == []
        assert (await world.discovery.members()).address_of(B.node_id) == "host:22"


async def test_others_find_each_other(clock: MockClock) -> None:
    """Two nodes on one Consul know each other, and a third that is deregistered by one is gone for the other."""
    async with opened(clock) as world, ConsulDiscovery(world.fake.url) as other:
        await world.discovery.register(A)
        await other.register(B)
        await world.settle()
        assert (await world.discovery.members()).members == (await other.members()).members == (A, B)

        await deregister(world, B)
        await world.settle()
        assert (await other.members()).members == (A,)
        # B lives, and finds out with its next beat.
        await world.jump(10)
        await world.fake.wait_asked(HEALTH, 1)
        assert (await world.discovery.members()).members == (A, B)

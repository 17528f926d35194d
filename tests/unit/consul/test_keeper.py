"""A registration that is kept: beats, lost registrations, agents that do not answer."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import Member, MemberMetadata, NodeHealth
from clustercore_consul import ConsulDiscovery
from tests.fake_consul import Reply
from tests.unit.consul.opened import A, B, Opened, opened

REGISTER = "/v1/agent/service/register"
UPDATE = "/v1/agent/check/update/"


def beats(world: Opened) -> list[str]:
    """Return what the beats so far said."""
    return [heard.body["Status"] for heard in world.fake.asked(UPDATE)]


async def test_beats_every_third_of_the_ttl(clock: MockClock) -> None:
    """A node registers, with its checks in place of older ones, and says that it lives, over one connection."""
    async with opened(clock, ttl_s=30) as world:
        await world.discovery.register(A)
        await world.settle()
        assert beats(world) == []
        for count in (1, 2, 3):
            await world.jump(9.99)
            assert len(beats(world)) == count - 1
            await world.jump(0.01)
            assert len(beats(world)) == count

        (registered,) = world.fake.asked(REGISTER)
        assert registered.method == "PUT"
        assert registered.query == {"replace-existing-checks": "true"}
        assert {heard.connection for heard in world.fake.asked("/v1/agent")} == {registered.connection}
        assert {heard.path for heard in world.fake.asked(UPDATE)} == {f"{UPDATE}clustercore-a:ttl"}
        assert beats(world) == ["passing"] * 3


async def test_registering_anew_tells_only_what_is_new(clock: MockClock) -> None:
    """The same again asks nobody; other metadata are registered at once."""
    async with opened(clock) as world:
        await world.discovery.register(A)
        await world.discovery.register(A)
        changed = Member(A.node_id, A.address, MemberMetadata("c", "voter"))
        await world.discovery.register(changed)
        snapshot = await world.discovery.members()

    assert [heard.body["Meta"].get("clustercore-told-role") for heard in world.fake.asked(REGISTER)] == [None, "voter"]
    assert snapshot.members == (changed,)


async def test_slow_beat_is_given_up_and_made_again(clock: MockClock) -> None:
    """A beat that takes 12 s (hashicorp/consul#3852) ends within a sixth of the TTL, so there is time for more."""
    async with opened(clock, ttl_s=30) as world:
        await world.discovery.register(A)
        for _ in range(3):
            world.fake.script(Reply(after_s=12), UPDATE)
        await world.jump(10)
        started = world.fake.asked(UPDATE)[0].at
        while len(beats(world)) < 4:
            await world.jump(0.25)
        times = [heard.at - started for heard in world.fake.asked(UPDATE)]

        assert times[-1] < 20
        assert all(4.5 <= later - earlier <= 4.5 + 2.65 for earlier, later in pairwise(times))
        # A connection on which an answer is owed is not used again.
        assert len({heard.connection for heard in world.fake.asked(UPDATE)}) == 4
        assert len(world.fake.asked(REGISTER)) == 1


@pytest.mark.parametrize(
    "forgotten", [None, Reply(404, raw=b'Unknown check ID "x"'), Reply(500, raw=b'Unknown check "x"')]
)
async def test_node_that_was_forgotten_registers_again_at_once(clock: MockClock, forgotten: Reply | None) -> None:
    """By an agent that lost its data, or that was told to deregister it: the next beat finds out."""
    async with opened(clock, ttl_s=30) as world:
        await world.discovery.register(A)
        if forgotten is None:
            world.fake.drop("clustercore-a")
        else:
            world.fake.script(forgotten, UPDATE)
        await world.jump(10)

        assert len(world.fake.asked(REGISTER)) == 2
        assert (await world.discovery.members()).members == (A,)
        await world.jump(10)
        assert len(beats(world)) == 2


async def test_agent_that_forgets_each_time_is_not_asked_without_limit(clock: MockClock) -> None:
    """Registered and unknown with every beat, it is tried again with pauses that grow."""
    async with opened(clock, ttl_s=30) as world:
        await world.discovery.register(A)
        for _ in range(200):
            world.fake.script(Reply(404), UPDATE)
        await world.jump(10)
        for _ in range(60):
            await world.jump(1)

        assert len(world.fake.asked(REGISTER)) < 20


async def test_registering_waits_for_an_agent_that_does_not_answer(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it answers instead, it is no error for the node: it is told once, and tried until it works."""
    async with opened(clock) as world:
        await world.discovery.members()
        for _ in range(4):
            world.fake.script(Reply(500, raw=b"no"), REGISTER)
        world.fake.script(Reply(body={}, cut_after=0), REGISTER)
        world.fake.script(Reply(429, headers={"Retry-After": "3"}), REGISTER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.discovery.register, A)
            while not world.fake.services:
                await world.jump(1)
        assert (await world.discovery.members()).members == (A,)

    told = [record.getMessage() for record in caplog.records if "cannot tell" in record.getMessage()]
    assert len(told) == 3
    assert "500: no" in told[0]


async def test_cancelled_registration_is_known_or_not(clock: MockClock) -> None:
    """Cancelled while the agent does not answer, it may be registered later, and can be registered again."""
    async with opened(clock) as world:
        await world.discovery.members()
        world.fake.freeze()
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.discovery.register, A)
                await world.jump(2)
        assert scope.cancelled_caught

        world.fake.thaw()
        await world.discovery.register(A)
        assert (await world.discovery.members()).members == (A,)


async def test_node_says_how_it_is(clock: MockClock) -> None:
    """What it knows of itself is said with each beat, and at once where it registers itself and is not well."""
    health = NodeHealth(degraded="early")
    async with opened(clock, ttl_s=30) as world:
        world.discovery.use_health(lambda: health)
        await world.discovery.register(A)
        await world.settle()
        assert beats(world) == ["warning"]
        assert (await world.discovery.members()).in_service == (A,)

        health = NodeHealth(not_serving="the disk is slow", degraded="it is late")
        await world.jump(10)
        assert beats(world) == ["warning", "critical"]
        assert world.fake.asked(UPDATE)[-1].body["Output"] == "the disk is slow"
        snapshot = await world.discovery.members()
        assert (snapshot.members, snapshot.in_service) == ((A,), ())

        world.fake.drop("clustercore-a")
        await world.jump(10)
        assert beats(world) == ["warning", "critical", "critical", "critical"]
        health = NodeHealth()
        await world.jump(10)
        assert beats(world)[-1] == "passing"
        snapshot = await world.until(is_stale=False)
        assert snapshot.in_service == (A,)


async def test_node_is_not_asked_how_another_is(clock: MockClock) -> None:
    """Whoever is registered on behalf was found well: what this node knows of itself is nothing to it."""
    async with opened(clock, ttl_s=30) as world:
        world.discovery.use_health(lambda: NodeHealth(not_serving="the disk is slow"))
        await world.discovery.register(A)
        await world.discovery.register(B)
        await world.jump(10)
        said = {heard.path.rpartition("/")[2]: heard.body["Status"] for heard in world.fake.asked(UPDATE)}

    assert said == {"clustercore-a:ttl": "critical", "clustercore-b:ttl": "passing"}


async def test_node_that_stops_says_so_and_stays_registered(clock: MockClock) -> None:
    """It is critical at once rather than after its TTL, and its registration waits for it."""
    async with opened(clock) as world:
        await world.discovery.register(A)
        await world.settle()
    assert beats(world) == ["critical"]
    assert world.fake.asked("deregister") == []


async def test_farewell_waits_for_nobody(clock: MockClock) -> None:
    """An agent that answers nothing holds a node that stops for a second, and no longer."""
    stop, ended_at = trio.Event(), []

    async def live(world: Opened, task_status: trio.TaskStatus[None]) -> None:
        async with ConsulDiscovery(world.fake.url) as discovery:
            await discovery.register(A)
            task_status.started()
            await stop.wait()
        ended_at.append(trio.current_time())

    async with opened(clock) as world, trio.open_nursery() as nursery:
        await nursery.start(partial(live, world))
        world.fake.freeze()
        began = trio.current_time()
        stop.set()
        await world.jump(0.99)
        assert ended_at == []
        await world.jump(0.01)
        assert ended_at == [pytest.approx(began + 1.0)]
        world.fake.thaw()


@pytest.mark.parametrize("error", [KeyError("own"), ExceptionGroup("own", [KeyError("own"), ValueError("own")])])
async def test_error_of_the_block_leaves_as_it_is(clock: MockClock, error: Exception) -> None:
    """It is wrapped into nothing by the tasks that end with the block, and has no context but its own."""

    async def fail(url: str) -> None:
        async with ConsulDiscovery(url) as discovery:
            await discovery.register(A)
            raise error

    async with opened(clock) as world:
        with pytest.raises(type(error)) as caught:
            await fail(world.fake.url)

    assert caught.value is error
    assert caught.value.__context__ is None

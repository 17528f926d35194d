"""The simulated network's faults: what arrives, when, and what each end of a link learns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    Lane,
    Link,
    LinkClosed,
    Message,
    PeerUnreachable,
    StatusRequest,
)
from clustercore.testing.simulation import Chance, NetworkOptions, SimulatedNetwork, SimulatedTransport
from clustercore.testing.simulation.network import KEEPALIVE_S

# Any message will do; each is an object of its own.
MESSAGES: list[Message] = [StatusRequest() for _ in range(40)]


@attrs.define
class Pair:
    """A link from "a" to "b", both ends."""

    network: SimulatedNetwork
    a: Link
    b: Link


@asynccontextmanager
async def pair(options: NetworkOptions | None = None, *, seed: int = 1) -> AsyncIterator[Pair]:
    """Connect "a" with "b"."""
    network = SimulatedNetwork(Chance(seed), options)
    accepted: list[Link] = []

    async def accept(link: Link) -> None:
        accepted.append(link)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)
        await nursery.start(SimulatedTransport(network, "b").serve, accept)
        link = await SimulatedTransport(network, "a").connect("b", Lane.BULK)
        await trio.testing.wait_all_tasks_blocked()
        yield Pair(network, link, accepted[0])
        nursery.cancel_scope.cancel()


async def arrivals(link: Link, within_s: float = 1000) -> list[Message]:
    """Return all that arrives within a time."""
    found: list[Message] = []
    with trio.move_on_after(within_s):
        while True:
            try:
                found.append(await link.receive())
            except LinkClosed:
                break
    return found


def numbers(found: list[Message]) -> list[int]:
    """Say which of the messages these are."""
    return [next(number for number, each in enumerate(MESSAGES) if each is message) for message in found]


async def send(link: Link, count: int) -> None:
    """Send the first of the messages."""
    for message in MESSAGES[:count]:
        await link.send(message)


async def test_messages_take_their_time_and_keep_their_order(autojump_clock: MockClock) -> None:
    """Each takes the latency and something by chance; none overtakes another."""
    async with pair(NetworkOptions(latency_s=0.5, jitter_s=1.0)) as link:
        began_at = trio.current_time()
        await send(link.a, 10)
        await link.b.receive()
        assert trio.current_time() >= began_at + 0.5
        assert numbers(await arrivals(link.b)) == list(range(1, 10))


async def test_messages_without_order_overtake_and_repeat(autojump_clock: MockClock) -> None:
    """Every message arrives once or twice, in another order."""
    async with pair(NetworkOptions(jitter_s=1.0, is_ordered=False, repeated=0.5)) as link:
        await send(link.a, 8)
        found = numbers(await arrivals(link.b))

    assert sorted(set(found)) == list(range(8))
    assert len(found) > 8
    assert found != sorted(found)


async def test_lost_messages_are_lost_without_a_sign(autojump_clock: MockClock) -> None:
    """The link lives on, and what arrives is in order."""
    async with pair(NetworkOptions(lost=0.5)) as link:
        for _ in range(3):
            await send(link.a, 8)
            found = numbers(await arrivals(link.b, 1))
            assert 0 < len(found) < 8
            assert found == sorted(found)


async def test_reset_closes_both_ends_and_loses_its_message(autojump_clock: MockClock) -> None:
    """A connection that breaks in the middle of a message delivers those before it, and no more."""
    async with pair(NetworkOptions(reset=0.3, jitter_s=0.1)) as link:
        with pytest.raises(LinkClosed):  # noqa: PT012 - which of the sends meets it is for chance to say
            for message in MESSAGES:
                await link.a.send(message)
                await trio.sleep(1)
        found = numbers(await arrivals(link.b))

    assert found == list(range(len(found)))


async def test_cut_works_one_way(autojump_clock: MockClock) -> None:
    """What goes the other way arrives, and nobody can dial across."""
    async with pair() as link:
        link.network.cut("a", "b")
        await link.a.send(MESSAGES[0])
        await link.b.send(MESSAGES[1])

        assert numbers(await arrivals(link.a, 1)) == [1]
        assert await arrivals(link.b, 1) == []
        with pytest.raises(PeerUnreachable):
            await SimulatedTransport(link.network, "a").connect("b", Lane.BULK)


async def test_message_under_way_is_lost_in_a_cut(autojump_clock: MockClock) -> None:
    """The cable is pulled while it is on it."""
    async with pair(NetworkOptions(latency_s=1)) as link:
        await send(link.a, 1)
        link.network.isolate("a")
        await trio.sleep(2)
        link.network.heal()
        assert await arrivals(link.b, 5) == []


async def test_clogged_messages_wait_and_arrive_in_order(autojump_clock: MockClock) -> None:
    """Nothing of them is lost, and back-pressure holds the sender once the buffers are full."""
    async with pair() as link:
        link.network.clog("a", "b")
        with trio.move_on_after(1) as scope:
            await send(link.a, 40)
        assert scope.cancelled_caught
        assert await arrivals(link.b, 1) == []
        link.network.heal()
        found = numbers(await arrivals(link.b, 1))

    assert found == list(range(len(found)))
    assert 8 <= len(found) < 40


async def test_bridge_reaches_both_sides() -> None:
    """The one in the middle sees everybody; left and right do not see each other."""
    network = SimulatedNetwork()
    network.bridge(["a", "b"], "c", ["d", "e"])

    assert network.can_reach("a", "b")
    assert not network.can_reach("a", "d")
    assert not network.can_reach("e", "b")
    assert all(network.can_reach("c", other) and network.can_reach(other, "c") for other in "abde")


async def test_slow_machine_delays_both_ways(autojump_clock: MockClock) -> None:
    """Until it is mended."""
    async with pair(NetworkOptions(latency_s=0.01)) as link:
        link.network.slow_down("b", 100)
        began_at = trio.current_time()
        await link.a.send(MESSAGES[0])
        await link.b.receive()
        assert trio.current_time() == pytest.approx(began_at + 1)
        await link.b.send(MESSAGES[0])
        await link.a.receive()
        assert trio.current_time() == pytest.approx(began_at + 2)


async def test_close_is_told_across_a_cut_once_it_is_mended(autojump_clock: MockClock) -> None:
    """Until then whoever waits learns nothing."""
    async with pair() as link:
        link.network.isolate("a")
        await link.a.aclose()
        with trio.move_on_after(100) as scope:
            await link.b.receive()
        assert scope.cancelled_caught
        link.network.heal()
        with pytest.raises(LinkClosed):
            await link.b.receive()


async def test_machine_without_power_says_nothing(autojump_clock: MockClock) -> None:
    """Its links look open until a keepalive has waited in vain; nobody can dial it."""
    async with pair() as link:
        began_at = trio.current_time()
        link.network.power_off("b")
        await link.a.send(MESSAGES[0])
        with pytest.raises(PeerUnreachable):
            await SimulatedTransport(link.network, "a").connect("b", Lane.BULK)
        with pytest.raises(LinkClosed):
            await link.a.receive()
        assert trio.current_time() == pytest.approx(began_at + KEEPALIVE_S)


async def test_machine_that_is_back_refuses_old_links(autojump_clock: MockClock) -> None:
    """The first message to it shows that the connection is none any more."""
    async with pair() as link:
        link.network.power_off("b")
        link.network.power_on("b")
        began_at = trio.current_time()
        await link.a.send(MESSAGES[0])
        with pytest.raises(LinkClosed):
            await link.a.receive()
        assert trio.current_time() == began_at


async def test_dialling_a_silent_network_waits_for_the_cut_to_be_mended(autojump_clock: MockClock) -> None:
    """Nobody refuses; the caller's patience decides."""
    async with pair(NetworkOptions(is_silent=True)) as link:
        link.network.isolate("b")
        transport = SimulatedTransport(link.network, "a")
        with trio.move_on_after(100) as scope:
            await transport.connect("b", Lane.BULK)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.connect, "b", Lane.BULK)
            await trio.sleep(1)
            link.network.heal()

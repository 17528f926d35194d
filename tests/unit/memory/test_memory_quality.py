"""Wires that are slow, lossy or unruly: the memory network makes them as they are asked for, the same from one seed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from clustercore.interfaces import (
    ConfigError,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    RequestVoteRequest,
    Term,
    encode_message,
)
from clustercore_memory import LinkQuality, MemoryNetwork, MemoryTransport


def numbered(number: int) -> RequestVoteRequest:
    """Return a message; the number tells them apart."""
    return RequestVoteRequest(Term(number), NodeId("a"), LogIndex(0), Term(0))


@asynccontextmanager
async def linked(network: MemoryNetwork) -> AsyncIterator[tuple[Link, Link]]:
    """Yield the dialling and the accepting end of a link between a and b."""
    accepted: list[Link] = []
    is_accepted = trio.Event()

    async def accept(link: Link) -> None:
        accepted.append(link)
        is_accepted.set()
        await trio.sleep_forever()

    async with MemoryTransport(network, "a") as a, MemoryTransport(network, "b") as b, trio.open_nursery() as nursery:
        await nursery.start(b.serve, accept)
        async with await a.connect("b", Lane.BULK) as link:
            await is_accepted.wait()
            yield link, accepted[0]
        nursery.cancel_scope.cancel()


async def received(link: Link, seconds: float = 100.0) -> list[int]:
    """Return the numbers that arrive within a time."""
    numbers: list[int] = []
    with trio.move_on_after(seconds):
        while True:
            message = await link.receive()
            assert isinstance(message, RequestVoteRequest)
            numbers.append(message.term)
    return numbers


async def test_latency_is_what_a_message_takes(autojump_clock: object) -> None:
    """Messages arrive so much later, in order, and nobody else waits for them."""
    network = MemoryNetwork()
    network.set_quality(LinkQuality(latency_s=0.3))
    async with linked(network) as (a, b):
        started = trio.current_time()
        await a.send(numbered(1))
        await trio.sleep(0.1)
        await a.send(numbered(2))
        assert trio.current_time() - started == pytest.approx(0.1)
        assert await b.receive() == numbered(1)
        assert trio.current_time() - started == pytest.approx(0.3)
        assert await b.receive() == numbered(2)
        assert trio.current_time() - started == pytest.approx(0.4)


async def test_receive_cancelled_before_the_arrival_loses_nothing(autojump_clock: object) -> None:
    """A message on its way is received by the next one who waits."""
    network = MemoryNetwork()
    network.set_quality(LinkQuality(latency_s=1.0))
    async with linked(network) as (a, b):
        await a.send(numbered(1))
        with trio.move_on_after(0.5) as scope:
            await b.receive()
        assert scope.cancelled_caught
        assert await b.receive() == numbered(1)
        assert trio.current_time() == pytest.approx(1.0)


async def test_slow_link_takes_time_by_size(autojump_clock: object) -> None:
    """Messages go over the wire one after the other, and whoever is far ahead waits."""
    size = len(encode_message(numbered(1)))
    network = MemoryNetwork()
    network.set_quality(LinkQuality(bytes_per_s=size))
    async with linked(network) as (a, b):
        for number in range(1, 4):
            await a.send(numbered(number))
        times = []
        for _ in range(3):
            await b.receive()
            times.append(trio.current_time())
    assert times == [pytest.approx(1.0), pytest.approx(2.0), pytest.approx(3.0)]


async def test_jitter_reorders_loss_loses_and_repetition_repeats(autojump_clock: object) -> None:
    """Each as often as it is asked for; and one seed decides all of it."""

    async def arrivals(seed: int, **quality: Any) -> list[int]:
        network = MemoryNetwork(seed)
        network.set_quality(LinkQuality(**quality))
        async with linked(network) as (a, b), trio.open_nursery() as nursery:
            numbers: list[int] = []

            async def collect() -> None:
                numbers.extend(await received(b))

            nursery.start_soon(collect)
            for number in range(1, 401):
                await a.send(numbered(number))
        return numbers

    everything = list(range(1, 401))
    reordered = await arrivals(1, jitter_s=1.0)
    assert sorted(reordered) == everything != reordered
    kept = await arrivals(1, loss=0.25)
    assert kept == sorted(set(kept))
    assert 250 < len(kept) < 350
    repeated = await arrivals(1, repetition=0.25)
    assert sorted(set(repeated)) == everything
    assert 450 < len(repeated) < 550
    unruly = {"jitter_s": 0.5, "loss": 0.1, "repetition": 0.1}
    assert await arrivals(2, **unruly) == await arrivals(2, **unruly) != await arrivals(3, **unruly)


async def test_quality_can_be_set_between_two_nodes(autojump_clock: object) -> None:
    """Others keep what is set for all, and open links change too."""
    network = MemoryNetwork()
    async with linked(network) as (a, b):
        network.set_quality(LinkQuality(loss=1.0), between=("b", "c"))
        await a.send(numbered(1))
        network.set_quality(LinkQuality(loss=1.0), between=("b", "a"))
        await a.send(numbered(2))
        network.set_quality(LinkQuality(), between=("a", "b"))
        await a.send(numbered(3))
        assert await received(b) == [1, 3]


async def test_dropped_links_are_closed_for_both_sides(autojump_clock: object) -> None:
    """As by a reset; of another node's links nothing is heard, and a new one can be made."""
    network = MemoryNetwork()
    async with linked(network) as (a, b):
        network.drop_links("c")
        await a.send(numbered(1))
        assert await b.receive() == numbered(1)
        network.drop_links("a")
        for link in (a, b):
            with pytest.raises(LinkClosed):
                await link.receive()


async def test_what_was_sent_before_the_close_still_arrives(autojump_clock: object) -> None:
    """A link that its sender closes gives what is on its way, and then LinkClosed."""
    network = MemoryNetwork()
    network.set_quality(LinkQuality(latency_s=1.0))
    async with linked(network) as (a, b):
        await a.send(numbered(1))
        await a.aclose()
        assert await b.receive() == numbered(1)
        with pytest.raises(LinkClosed):
            await b.receive()


@pytest.mark.parametrize(
    ("field", "value"),
    [("latency_s", -1), ("jitter_s", math.inf), ("loss", 1.1), ("repetition", -0.1), ("bytes_per_s", 0)],
)
def test_quality_out_of_range_names_the_field(field: str, value: float) -> None:
    """Nothing is clamped in silence."""
    with pytest.raises(ConfigError, match=f"{field} = "):
        LinkQuality(**{field: value})

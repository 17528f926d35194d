"""What only the memory transport can do: cuts in the network, and messages passed as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from clustercore.interfaces import (
    ConfigError,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    PeerTimeout,
    PeerUnreachable,
    RequestVoteRequest,
    Service,
    Term,
    TransportError,
)
from clustercore_memory import MemoryNetwork, MemoryTransport


def vote_request(term: int) -> RequestVoteRequest:
    """Return a message; the term tells them apart."""
    return RequestVoteRequest(Term(term), NodeId("a"), LogIndex(0), Term(0))


async def echo(link: Link) -> None:
    """Send every message back, until the link closes."""
    try:
        while True:
            await link.send(await link.receive())
    except LinkClosed:
        return


@asynccontextmanager
async def nodes(network: MemoryNetwork, *addresses: str) -> AsyncIterator[list[MemoryTransport]]:
    """Serve an echo at each address."""
    transports = [MemoryTransport(network, address) for address in addresses]
    async with trio.open_nursery() as nursery:
        for transport in transports:
            await nursery.start(transport.serve, echo)
        yield transports
        nursery.cancel_scope.cancel()


async def can_talk(source: MemoryTransport, address: str) -> bool:
    """Say whether a new link carries a message there and back."""
    try:
        async with await source.connect(address, Lane.CONTROL) as link:
            await link.send(vote_request(1))
            return await link.receive() == vote_request(1)
    except PeerUnreachable:
        return False


async def reachable(transports: list[MemoryTransport], addresses: list[str]) -> list[str]:
    """Return all pairs that can talk, as "ab"."""
    pairs = zip(transports, addresses, strict=True)
    return [
        source + target
        for transport, source in pairs
        for target in addresses
        if source != target and await can_talk(transport, target)
    ]


async def test_network_partition_separates_the_groups() -> None:
    """Within a group all reach each other, across groups nobody; addresses in no group are one more."""
    network = MemoryNetwork()
    addresses = ["a", "b", "c", "d", "e"]
    async with nodes(network, *addresses) as transports:
        network.partition(["a", "b"], ["c"])
        assert await reachable(transports, addresses) == ["ab", "ba", "de", "ed"]

        network.partition(["a", "e"])
        assert await reachable(transports, addresses) == ["ae", "bc", "bd", "cb", "cd", "db", "dc", "ea"]


async def test_network_isolate_adds_to_other_cuts() -> None:
    """An isolated address is alone, and the others are as they were."""
    network = MemoryNetwork()
    addresses = ["a", "b", "c", "d"]
    async with nodes(network, *addresses) as transports:
        network.partition(["a", "b"], ["c", "d"])
        network.isolate("a")
        assert await reachable(transports, addresses) == ["cd", "dc"]

        network.isolate("c")
        assert await reachable(transports, addresses) == []


async def test_network_heal_ends_every_cut() -> None:
    """Afterwards everyone reaches everyone, also over links from before the cut."""
    network = MemoryNetwork()
    async with nodes(network, "a", "b") as (a, b), await a.connect("b", Lane.CONTROL) as link:
        network.partition(["a"], ["b"])
        network.isolate("b")

        network.heal()

        await link.send(vote_request(5))
        assert await link.receive() == vote_request(5)
        assert await can_talk(b, "a")


async def test_link_loses_messages_across_a_cut_silently() -> None:
    """What is sent into a cut is lost and the link stays open; what had arrived before is still received."""
    network = MemoryNetwork()
    async with nodes(network, "b"):
        a = MemoryTransport(network, "a")
        async with a, await a.connect("b", Lane.CONTROL) as link:
            await link.send(vote_request(1))
            await trio.testing.wait_all_tasks_blocked()
            network.isolate("b")
            await link.send(vote_request(2))
            await trio.testing.wait_all_tasks_blocked()
            network.heal()
            await link.send(vote_request(3))

            assert await link.receive() == vote_request(1)
            assert await link.receive() == vote_request(3)


async def test_link_closed_is_noticed_across_a_cut() -> None:
    """Sending over a closed link raises LinkClosed, whichever side closed it, even where the message would be lost."""
    network = MemoryNetwork()
    async with nodes(network, "b"):
        a = MemoryTransport(network, "a")
        link = await a.connect("b", Lane.CONTROL)
        await link.aclose()
        network.isolate("b")
        with pytest.raises(LinkClosed):
            await link.send(vote_request(1))
        network.heal()

        link = await a.connect("b", Lane.CONTROL)
        network.isolate("b")
    with pytest.raises(LinkClosed):
        await link.send(vote_request(1))


async def test_link_passes_the_message_itself() -> None:
    """Messages are frozen, so the receiver gets the very object that was sent."""
    network = MemoryNetwork()
    async with nodes(network, "b"):
        a = MemoryTransport(network, "a")
        async with a, await a.connect("b", Lane.CONTROL) as link:
            message = vote_request(1)
            await link.send(message)
            assert await link.receive() is message


async def test_transport_address_can_be_served_once_at_a_time() -> None:
    """A second server at an address is refused; after the first stopped, a new transport can take its place."""
    network = MemoryNetwork()
    async with nodes(network, "a"):
        with pytest.raises(TransportError, match="served already"):
            await MemoryTransport(network, "a").serve(echo, task_status=trio.TASK_STATUS_IGNORED)

    async with nodes(network, "a"):
        assert await can_talk(MemoryTransport(network, "b"), "a")


async def test_transport_networks_are_apart() -> None:
    """An address of another network is unknown here."""
    async with nodes(MemoryNetwork(), "a"):
        assert not await can_talk(MemoryTransport(MemoryNetwork(), "b"), "a")


@pytest.mark.parametrize("address", ["", None, 7])
def test_transport_address_must_be_text(address: object) -> None:
    """Anything but a text that is not empty is a ConfigError with the key and the value."""
    with pytest.raises(ConfigError, match="address = "):
        MemoryTransport(MemoryNetwork(), address)  # type: ignore[arg-type]  # What a configuration file may hold.


class Slow:
    """A service that answers when it is told."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.go_on = trio.Event()
        self.service = Service("test.v1.Slow", unary={"Ask": self.ask}, streams={"Tell": self.tell})

    async def ask(self, request: bytes) -> bytes:
        self.asked.set()
        await self.go_on.wait()
        return request

    async def tell(self, request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(await self.ask(request))


async def serve_slowly(network: MemoryNetwork, nursery: trio.Nursery) -> Slow:
    """Serve a slow service at "b"."""
    slow, server = Slow(), MemoryTransport(network, "b")
    server.offer([slow.service])
    await nursery.start(server.serve, echo)
    return slow


async def cut_when_asked(network: MemoryNetwork, slow: Slow) -> None:
    """Cut the caller off before it has its answer."""
    await slow.asked.wait()
    network.isolate("a")
    slow.go_on.set()


async def test_call_whose_response_meets_a_cut_is_closed() -> None:
    """The caller gets LinkClosed, since it may have been carried out; the next call is refused."""
    network = MemoryNetwork()
    a = MemoryTransport(network, "a")
    async with trio.open_nursery() as nursery:
        slow = await serve_slowly(network, nursery)
        nursery.start_soon(cut_when_asked, network, slow)
        with pytest.raises(LinkClosed):
            await a.call("b", "test.v1.Slow/Ask", b"x")
        with pytest.raises(PeerUnreachable):
            await a.call("b", "test.v1.Slow/Ask", b"x")
        nursery.cancel_scope.cancel()


async def test_stream_whose_response_meets_a_cut_is_closed() -> None:
    """The caller gets LinkClosed rather than a stream that leaves out a response."""
    network = MemoryNetwork()
    a = MemoryTransport(network, "a")
    async with trio.open_nursery() as nursery:
        slow = await serve_slowly(network, nursery)
        nursery.start_soon(cut_when_asked, network, slow)
        async with a.open_stream("b", "test.v1.Slow/Tell", b"x") as responses:
            with pytest.raises(LinkClosed):
                await responses.receive()
        nursery.cancel_scope.cancel()


async def test_call_without_an_answer_times_out(autojump_clock: trio.testing.MockClock) -> None:
    """After the transport's limit a call that is not answered raises PeerTimeout."""
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        await serve_slowly(network, nursery)
        with pytest.raises(PeerTimeout, match=r"test\.v1\.Slow/Ask"):
            await MemoryTransport(network, "a").call("b", "test.v1.Slow/Ask", b"x")
        nursery.cancel_scope.cancel()

    assert trio.current_time() == 10


async def test_serve_ends_with_the_error_of_a_handler() -> None:
    """A bug in ``accept`` is not hidden: it comes out of ``serve``, and the links are closed."""

    async def broken(link: Link) -> None:
        await link.receive()
        raise ZeroDivisionError

    network = MemoryNetwork()
    a = MemoryTransport(network, "a")
    link: Link | None = None
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            await nursery.start(MemoryTransport(network, "b").serve, broken)
            link = await a.connect("b", Lane.CONTROL)
            await link.send(vote_request(1))
            await trio.sleep_forever()

    assert link is not None
    with pytest.raises(LinkClosed):
        await link.receive()

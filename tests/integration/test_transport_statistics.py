"""What each transport over sockets counts of the addresses that it dials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from clustercore.interfaces import Lane, Link, LinkClosed, PeerTimeout, PeerUnreachable, Service, ServiceError
from tests.integration.test_transport_hazards import KINDS, VOTE, Kind, serving
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """One transport after the other."""
    chosen: Kind = request.param
    return chosen


async def shout(request: bytes) -> bytes:
    """Answer at once."""
    return request.upper()


async def wait(request: bytes) -> bytes:
    """Never answer."""
    await trio.sleep_forever()
    raise AssertionError


async def refuse(request: bytes) -> bytes:
    """Never will."""
    raise ServiceError("no")


async def count(request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Answer with numbers."""
    for number in range(int(request)):
        await send(str(number).encode())


def served(kind: Kind) -> Any:
    """Return a transport that answers all of these."""
    transport = kind.make()
    transport.offer([Service("test.App", {"Shout": shout, "Wait": wait, "Refuse": refuse}, {"Count": count})])
    return transport


async def test_calls_and_streams_are_counted_by_how_they_end(kind: Kind) -> None:
    """Answered, refused, timed out, given up; a stream is a request of its own sort."""
    async with serving(served(kind)) as (address, _), kind.make(timeout=0.2) as client:
        for _ in range(3):
            assert await client.call(address, "test.App/Shout", b"on") == b"ON"
        with pytest.raises(ServiceError):
            await client.call(address, "test.App/Refuse", b"")
        with pytest.raises(PeerTimeout):
            await client.call(address, "test.App/Wait", b"")
        with trio.move_on_after(0.05):
            await client.call(address, "test.App/Wait", b"")
        async with client.open_stream(address, "test.App/Count", b"3") as responses:
            assert client.statistics()[address].in_flight == 1
            assert [response async for response in responses] == [b"0", b"1", b"2"]

        told = client.statistics()[address]

    assert told.requests == 7
    assert (told.streams, told.ok, told.cancelled, told.in_flight) == (1, 4, 1, 0)
    assert told.failed == {"ServiceError": 1, "PeerTimeout": 1}
    assert told.latency_p50_s is not None
    assert 0 < told.latency_p50_s < 0.2
    assert (told.success_rate, told.timeout_rate) == (4 / 6, 1 / 6)


async def test_bytes_and_connects_of_links_are_counted(kind: Kind) -> None:
    """Each link is a connect; what goes over it is at least the message, and not a multiple of it."""
    async with serving(kind.make()) as (address, _), kind.make() as client:
        async with await client.connect(address, Lane.CONTROL) as link:
            await link.send(VOTE)
            assert await link.receive() == VOTE
            before = client.statistics()[address]
            for _ in range(100):
                await link.send(VOTE)
                assert await link.receive() == VOTE
        await (await client.connect(address, Lane.BULK)).aclose()

        told = client.statistics()[address]

    assert (told.connects, told.connects_failed) == (2, 0)
    assert 1_000 < told.bytes_sent - before.bytes_sent < 20_000
    assert 1_000 < told.bytes_received - before.bytes_received < 20_000


async def test_failed_connects_are_counted(kind: Kind) -> None:
    """Of an address where nobody listens."""
    async with serving(kind.make()) as (address, _):
        pass
    async with kind.make() as client:
        with pytest.raises(PeerUnreachable):
            await client.connect(address, Lane.CONTROL)
        with pytest.raises(PeerUnreachable):
            await client.call(address, "test.App/Shout", b"")

        told = client.statistics()[address]

    assert told.connects == 0
    assert told.connects_failed == 2
    assert told.failed == {"PeerUnreachable": 1}


async def test_pings_are_counted(kind: Kind) -> None:
    """On a link where nothing is said for a while."""
    async with (
        serving(kind.make()) as (address, _),
        kind.make(keepalive_time_ms=20) as client,
        await client.connect(address, Lane.CONTROL) as link,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_expect_nothing, link)
        with trio.fail_after(30):
            await until(lambda: client.statistics()[address].pings >= 2)
        nursery.cancel_scope.cancel()


async def _expect_nothing(link: Link) -> None:
    with pytest.raises(LinkClosed):
        await link.receive()


async def test_transport_that_dialled_nobody_has_no_statistics(kind: Kind) -> None:
    """A server has no targets."""
    async with serving(server := served(kind)) as (address, _), kind.make() as client:
        await client.call(address, "test.App/Shout", b"")

        assert server.statistics() == {}
        assert list(client.statistics()) == [address]

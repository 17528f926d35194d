"""Calls over gRPC on real sockets: several connections, back-off, and a peer that finds pings too many."""

from __future__ import annotations

import logging
import struct
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, LinkClosed, PeerUnreachable, QueueFull
from clustercore_grpc import ChannelState, GrpcTransport
from tests.integration.grpc_peers import SETTINGS, connect_raw, frame
from tests.integration.test_grpc_services import Application, ignore, in_flight, serving

pytestmark = pytest.mark.integration

GOAWAY = 7


async def test_second_connection_is_opened_where_the_first_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams each, as the server allows, on two connections; the fifth call is one too many to wait."""
    monkeypatch.setattr("clustercore_grpc.http2.MAX_STREAMS", 2)
    app = Application()
    async with (
        serving(app) as (address, _),
        GrpcTransport(max_connections=2, max_pending=1) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(4):
            nursery.start_soon(client.call, address, "test.App/Hang", b"")
            await wait_all_tasks_blocked(0.02)
        nursery.start_soon(client.call, address, "test.App/Hang", b"")
        await wait_all_tasks_blocked(0.02)

        assert (client.connection_count, in_flight(client)) == (2, 4)
        with pytest.raises(QueueFull, match="max_pending"):
            await client.call(address, "test.App/Hang", b"")
        assert client.statistics()[address].failed == {"QueueFull": 1}
        nursery.cancel_scope.cancel()


async def test_places_are_given_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits longest is next, also where new calls keep coming."""
    monkeypatch.setattr("clustercore_grpc.http2.MAX_STREAMS", 1)
    app = Application()
    done: list[int] = []
    async with serving(app) as (address, _), GrpcTransport(max_connections=1) as client:

        async def call(number: int) -> None:
            await client.call(address, "test.App/Echo", b"")
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number)
                for _ in range(3):
                    await trio.lowlevel.checkpoint()

    assert done == sorted(done)


async def test_call_between_two_attempts_to_connect_fails_at_once_until_the_peer_calls() -> None:
    """Once the peer has connected here, it is called at once."""
    app = Application()
    async with GrpcTransport() as client, trio.open_nursery() as nursery:
        own_address = await nursery.start(client.serve, ignore)
        async with serving(app) as (address, _):
            pass
        for _ in range(2):
            with pytest.raises(PeerUnreachable):
                await client.call(address, "test.App/Echo", b"")
        assert client.channel_states == {address: ChannelState.TRANSIENT_FAILURE}
        # As after a long time.
        client._client._channels[address]._may_dial_at += 1000
        with pytest.raises(PeerUnreachable, match="the next attempt is due"):
            await client.call(address, "test.App/Echo", b"")

        async with GrpcTransport(address) as peer, trio.open_nursery() as peer_nursery:
            peer.offer([app.service])
            await peer_nursery.start(peer.serve, ignore)
            await (await peer.connect(own_address, Lane.CONTROL)).aclose()

            assert await client.call(address, "test.App/Echo", b"back") == b"back"
            assert client.channel_states == {address: ChannelState.READY}
            peer_nursery.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_link_that_is_opened_ends_the_wait_of_calls_to_the_same_address() -> None:
    """A link shows as well as a call that the peer is back."""
    app = Application()
    async with GrpcTransport() as client:
        async with serving(app) as (address, _):
            pass
        with pytest.raises(PeerUnreachable):
            await client.call(address, "test.App/Echo", b"")
        client._client._channels[address]._may_dial_at += 1000
        async with serving(app, listen=address), await client.connect(address, Lane.BULK):
            assert await client.call(address, "test.App/Echo", b"back") == b"back"


async def test_request_that_was_not_looked_at_is_made_once_more_unseen() -> None:
    """A GOAWAY that leaves it out is no failure of the call; it is counted as no retry (gRFC A6)."""
    app = Application()
    accepted = 0

    async def relay(stream: trio.SocketStream) -> None:
        nonlocal accepted
        accepted += 1
        async with stream:
            if accepted == 1:
                await stream.receive_some()
                await stream.send_all(frame(SETTINGS, b""))
                # The acknowledgement and the request, or both in turn.
                await stream.receive_some()
                await wait_all_tasks_blocked(0.05)
                await stream.send_all(frame(GOAWAY, bytes(8)))
                await trio.sleep_forever()
            async with await connect_raw(address) as server, trio.open_nursery() as both:
                both.start_soon(pass_on, server, stream)
                await pass_on(stream, server)
                both.cancel_scope.cancel()

    with trio.fail_after(30):
        async with serving(app) as (address, _), GrpcTransport(timeout=20.0) as client, trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, relay, 0)
            between = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"

            assert await client.call(between, "test.App/Echo", b"seen once") == b"seen once"

            told = client.statistics()[between]
            assert (told.requests, told.ok, told.failed, told.retries) == (1, 1, {}, 0)
            assert (told.transparent_retries, told.goaways, told.connects) == (1, 1, 2)
            nursery.cancel_scope.cancel()


async def pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """Hand on what comes, until it ends."""
    with suppress(trio.BrokenResourceError):
        async for data in source:
            await sink.send_all(data)


async def test_too_many_pings_doubles_keepalive_time_for_connections_to_come(caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, with the address; the connection ends; other addresses are pinged as before (gRFC A8)."""

    async def scold(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            payload = struct.pack(">II", 0, 0xB) + b"too_many_pings"
            await stream.send_all(frame(SETTINGS, b"") + frame(GOAWAY, payload))
            await trio.sleep_forever()

    with trio.fail_after(30):
        async with GrpcTransport(keepalive_time_ms=1500) as client, trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, scold, 0)
            address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            for times in (2, 4):
                with pytest.raises((LinkClosed, PeerUnreachable), match="too_many_pings"):
                    async with await client.connect(address, Lane.CONTROL) as link:
                        await link.receive()
                assert client._client._slowed == {address: times}
            nursery.cancel_scope.cancel()

    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [address in text and f"after {silence} s" in text for text, silence in zip(warnings, (3, 6), strict=True)]

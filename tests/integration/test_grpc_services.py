"""Application services on the node's listener, and calls to them over shared connections."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from h2.connection import H2Connection
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    Link,
    LinkClosed,
    NodeStopped,
    PeerTimeout,
    PeerUnreachable,
    Service,
    ServiceError,
)
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import connect_raw

Send = Callable[[bytes], Awaitable[None]]


class Application:
    """A service for the tests, and what became of its handlers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.noted = trio.Event()
        self.service = Service(
            "test.App",
            unary={
                "Echo": self.echo,
                "Refuse": self.refuse,
                "Stop": self.stop,
                "Fail": self.fail,
                "Hang": self.hang,
                "Large": self.large,
            },
            streams={"Count": self.count, "Flood": self.flood, "RefuseAll": self.refuse_all, "Watch": self.watch},
        )

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.noted.set()

    async def echo(self, request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return request

    async def refuse(self, request: bytes) -> bytes:
        raise ServiceError("no such key: é")

    async def stop(self, request: bytes) -> bytes:
        raise NodeStopped("going down")

    async def fail(self, request: bytes) -> bytes:
        raise KeyError("a bug")

    async def large(self, request: bytes) -> bytes:
        return bytes(5000)

    async def hang(self, request: bytes) -> bytes:
        self.note("started")
        try:
            await trio.sleep_forever()
        finally:
            self.note("cancelled")

    async def count(self, request: bytes, send: Send) -> None:
        for number in range(int(request)):
            await send(str(number).encode())

    async def flood(self, request: bytes, send: Send) -> None:
        while True:
            await send(bytes(100_000))
            self.notes.append("sent")

    async def refuse_all(self, request: bytes, send: Send) -> None:
        await send(b"first")
        raise ServiceError("not this one")

    async def watch(self, request: bytes, send: Send) -> None:
        await send(b"first")
        await self.hang(request)


async def ignore(link: Link) -> None:
    """Services need no links."""
    await trio.sleep_forever()


@asynccontextmanager
async def serving(app: Application, **options: Any) -> AsyncIterator[tuple[str, trio.Nursery]]:
    """Serve the application; yields the address and the nursery whose cancellation stops the server."""
    with trio.fail_after(30):
        async with GrpcTransport(**options) as transport, trio.open_nursery() as nursery:
            transport.offer([app.service])
            yield await nursery.start(transport.serve, ignore), nursery
            nursery.cancel_scope.cancel()


def in_flight(client: GrpcTransport) -> int:
    """Count streams in use, over all connections."""
    return sum(connection.stream_count for connection in client._client._connections)


async def test_unary_call_carries_bytes_both_ways() -> None:
    """Request and response are passed through, whatever they hold; all calls share one connection."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            request = bytes([number]) * number * 1000
            assert await client.call(address, "test.App/Echo", request) == request

        for number in range(50):
            nursery.start_soon(call, number)
        await trio.lowlevel.checkpoint()

    assert client._client._channels[address].users == 0


async def test_calls_share_one_connection_and_leave_nothing_behind() -> None:
    """Concurrent first calls open one connection, not one each; afterwards no stream is in use."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.call, address, "test.App/Echo", b"x")

        assert client._client.connection_count == 1
        assert in_flight(client) == 0


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        ("test.App/Refuse", ServiceError, "INVALID_ARGUMENT: no such key: é"),
        ("test.App/Nothing", ServiceError, "UNIMPLEMENTED: there is no method '/test.App/Nothing'"),
        ("test.Other/Echo", ServiceError, "UNIMPLEMENTED"),
        ("test.App/Stop", LinkClosed, "UNAVAILABLE: going down"),
        ("test.App/Fail", LinkClosed, "INTERNAL: the handler of test.App/Fail failed"),
    ],
)
async def test_error_of_a_handler_reaches_the_caller_by_kind(
    method: str, error: type[Exception], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is final is ServiceError, all else LinkClosed; a bug is logged and the server goes on."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client:
        with pytest.raises(error, match=said) as caught:
            await client.call(address, method, b"")

        assert type(caught.value) is error
        assert await client.call(address, "test.App/Echo", b"on") == b"on"
    assert ("a bug" in caplog.text) == (method == "test.App/Fail")
    assert all(record.levelno <= logging.ERROR for record in caplog.records)


async def test_call_without_an_answer_times_out_and_cancels_the_handler() -> None:
    """The transport's limit makes PeerTimeout; the handler on the other side is cancelled."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport(timeout=0.1) as client:
        with pytest.raises(PeerTimeout, match="Hang at"):
            await client.call(address, "test.App/Hang", b"")
        while app.notes != ["started", "cancelled"]:
            app.noted = trio.Event()
            await app.noted.wait()

        assert in_flight(client) == 0


async def test_callers_deadline_is_told_to_the_server() -> None:
    """A shorter deadline of the caller's own cancels the call as Trio does, and the handler too."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client:
        await client.call(address, "test.App/Echo", b"")
        with trio.move_on_after(0.05) as scope:
            await client.call(address, "test.App/Hang", b"")
        while "cancelled" not in app.notes:
            app.noted = trio.Event()
            await app.noted.wait()

        assert scope.cancelled_caught
        assert in_flight(client) == 0


async def test_response_above_the_limit_is_refused() -> None:
    """A response too large for the server, or for the client, is an error that names the limit."""
    app = Application()
    async with serving(app, max_message_bytes=4096) as (address, _), GrpcTransport() as client:
        with pytest.raises(ServiceError, match="at most 4096 are allowed"):
            await client.call(address, "test.App/Large", b"")
    async with serving(app) as (address, _), GrpcTransport(max_message_bytes=4096) as client:
        with pytest.raises(LinkClosed, match="at most 4096 are taken"):
            await client.call(address, "test.App/Large", b"")


async def test_request_above_the_limit_is_refused() -> None:
    """A request too large for the client is not sent, and one too large for the server is refused; both are final."""
    app = Application()
    async with serving(app, max_message_bytes=4096) as (address, _):
        async with GrpcTransport(max_message_bytes=4096) as client:
            with pytest.raises(ServiceError, match="max_message_bytes allows 4096"):
                await client.call(address, "test.App/Echo", bytes(5000))
        async with GrpcTransport() as client:
            for size in (5000, 10_000_000):
                with pytest.raises(ServiceError, match="at most 4096 are taken"):
                    await client.call(address, "test.App/Echo", bytes(size))
            assert await client.call(address, "test.App/Echo", bytes(4096)) == bytes(4096)


async def test_stream_ends_after_its_last_response() -> None:
    """All responses come in order; then the channel ends, which is no error."""
    app = Application()
    async with (
        serving(app) as (address, _),
        GrpcTransport() as client,
        client.open_stream(address, "test.App/Count", b"500") as responses,
    ):
        received = [response async for response in responses]

    assert received == [str(number).encode() for number in range(500)]


async def test_stream_that_is_refused_says_so() -> None:
    """A refusal comes after the responses that were sent before it."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client:
        async with client.open_stream(address, "test.App/RefuseAll", b"") as responses:
            assert await responses.receive() == b"first"
            with pytest.raises(ServiceError, match="not this one"):
                await responses.receive()
        async with client.open_stream(address, "test.App/Nothing", b"") as responses:
            with pytest.raises(ServiceError, match="no method"):
                await responses.receive()

        assert in_flight(client) == 0


async def test_leaving_a_stream_cancels_its_handler() -> None:
    """The handler is cancelled when the client leaves the block; the connection stays for others."""
    app = Application()
    async with serving(app) as (address, _), GrpcTransport() as client:
        async with client.open_stream(address, "test.App/Watch", b"") as responses:
            assert await responses.receive() == b"first"
            await responses.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await responses.receive()
        while "cancelled" not in app.notes:
            app.noted = trio.Event()
            await app.noted.wait()

        assert await client.call(address, "test.App/Echo", b"on") == b"on"
        assert client._client.connection_count == 1


async def test_client_that_left_before_the_handler_began_lets_it_not_run_on() -> None:
    """The end of a stream that arrives together with its request comes before there is a handler to be cancelled."""
    app = Application()
    async with serving(app) as (address, _):
        client = H2Connection()
        client.initiate_connection()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/test.App/Hang"), (":authority", address)]
        client.send_headers(1, [*headers, ("te", "trailers"), ("content-type", "application/grpc")])
        client.send_data(1, bytes(5), end_stream=True)
        client.reset_stream(1)
        async with await connect_raw(address) as stream:
            await stream.send_all(client.data_to_send())
            await wait_all_tasks_blocked(0.05)

            assert app.notes in ([], ["started", "cancelled"])


async def test_client_that_vanishes_cancels_the_handler() -> None:
    """The end of the connection is the end of its handlers."""
    app = Application()
    async with serving(app) as (address, _):
        async with GrpcTransport() as client, client.open_stream(address, "test.App/Watch", b"") as responses:
            await responses.receive()
        while "cancelled" not in app.notes:
            app.noted = trio.Event()
            await app.noted.wait()


async def test_stream_that_nobody_reads_stalls_neither_server_nor_connection() -> None:
    """An unread stream fills a bounded buffer, and calls on the same connection go on."""
    app = Application()
    async with (
        serving(app) as (address, _),
        GrpcTransport() as client,
        client.open_stream(address, "test.App/Flood", b"") as responses,
    ):
        await responses.receive()
        await wait_all_tasks_blocked(0.05)
        sent = len(app.notes)

        assert await client.call(address, "test.App/Echo", b"on") == b"on"
        assert sent < 40
        assert len(app.notes) == sent


async def test_stopping_server_ends_calls_and_streams_at_once() -> None:
    """Callers in flight get LinkClosed instead of waiting; the next call finds nobody."""
    app = Application()
    ends: list[str] = []

    async def call() -> None:
        with pytest.raises(LinkClosed):
            await client.call(address, "test.App/Hang", b"")
        ends.append("call")

    async def watch() -> None:
        async with client.open_stream(address, "test.App/Watch", b"") as responses:
            await responses.receive()
            with pytest.raises(LinkClosed):
                await responses.receive()
        ends.append("stream")

    async with GrpcTransport(timeout=20) as client, trio.open_nursery() as nursery:
        async with serving(app) as (address, server):
            nursery.start_soon(call)
            nursery.start_soon(watch)
            while app.notes.count("started") < 2:
                app.noted = trio.Event()
                await app.noted.wait()
            server.cancel_scope.cancel()
        with pytest.raises(PeerUnreachable):
            await client.call(address, "test.App/Echo", b"")

    assert sorted(ends) == ["call", "stream"]


async def test_call_after_the_server_came_back_uses_a_new_connection() -> None:
    """A shared connection that ended is replaced by the next call."""
    app = Application()
    async with GrpcTransport() as client:
        async with serving(app) as (address, _):
            await client.call(address, "test.App/Echo", b"")
        with trio.fail_after(30):
            async with GrpcTransport(address) as transport, trio.open_nursery() as nursery:
                transport.offer([app.service])
                await nursery.start(transport.serve, ignore)

                assert await client.call(address, "test.App/Echo", b"again") == b"again"
                nursery.cancel_scope.cancel()


async def test_channels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many addresses only the last used keep a connection; one in use is never taken away."""
    monkeypatch.setattr("clustercore_grpc.client.MAX_CHANNELS", 2)
    app = Application()
    async with (
        serving(app) as (first, _),
        serving(app) as (second, _),
        serving(app) as (third, _),
        GrpcTransport() as client,
        client.open_stream(first, "test.App/Watch", b"") as responses,
    ):
        for address in (second, third, second, third):
            await client.call(address, "test.App/Echo", b"")

        assert await responses.receive() == b"first"
        assert list(client._client._channels) == [first, third]
        assert client._client.connection_count == 2


async def test_more_streams_than_the_peer_allows_wait_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the peer's limit of streams a call waits, and gets the place of one that ends."""
    monkeypatch.setattr("clustercore_grpc.http2.MAX_STREAMS", 2)
    app = Application()
    async with serving(app) as (address, _), GrpcTransport(max_connections=1) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.call, address, "test.App/Echo", b"x")
        async with (
            client.open_stream(address, "test.App/Watch", b""),
            client.open_stream(address, "test.App/Watch", b"") as second,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.call, address, "test.App/Echo", b"waits")
            await wait_all_tasks_blocked(0.02)
            assert in_flight(client) == 2
            await second.receive()
            nursery.cancel_scope.cancel()

        assert await client.call(address, "test.App/Echo", b"free") == b"free"

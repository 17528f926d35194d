"""What grpclib, h2 and trio-asyncio do wrong by themselves, and what a hostile or dead peer may do: each is met here.

A peer that misbehaves on purpose is a plain TCP stream with HTTP/2 frames written by hand.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamReset, TrailersReceived
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AppendEntriesRequest,
    Entry,
    EntryKind,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    PeerUnreachable,
    RequestVoteRequest,
    RequestVoteResponse,
    Term,
    TransportError,
)
from clustercore_grpc import GrpcTransport, codec

VOTE = RequestVoteRequest(Term(2), NodeId("n2"), LogIndex(1), Term(1))
GRANTED = RequestVoteResponse(Term(2), True)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, WINDOW_UPDATE, UNKNOWN = 4, 6, 8, 0xBE


def frame(kind: int, payload: bytes, stream_id: int = 0, flags: int = 0) -> bytes:
    """Write one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


async def vote(link: Link) -> None:
    """Grant every vote until the link ends."""
    try:
        while True:
            await link.receive()
            await link.send(GRANTED)
    except LinkClosed:
        return


@asynccontextmanager
async def serving(transport: GrpcTransport) -> AsyncIterator[tuple[str, trio.Nursery]]:
    """Serve until the block ends, or the nursery is cancelled."""
    with trio.fail_after(30):
        async with transport, trio.open_nursery() as nursery:
            yield await nursery.start(transport.serve, vote), nursery
            nursery.cancel_scope.cancel()


async def assert_serves(dialler: GrpcTransport, address: str) -> None:
    """Check that a new link works."""
    async with await dialler.connect(address, Lane.CONTROL) as link:
        await link.send(VOTE)
        assert await link.receive() == GRANTED


async def connect_raw(address: str) -> trio.SocketStream:
    """Connect without speaking HTTP/2 yet."""
    host, port = address.rsplit(":", 1)
    return await trio.open_tcp_stream(host, int(port))


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Read until the other side ends the connection, by FIN or RST."""
    received = b""
    while True:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError:
            return received
        if not data:
            return received
        received += data


# --- A stopped server (grpclib: E4, E5) ------------------------------------------------------------------------------


async def test_stopped_server_answers_nothing_on_existing_connections() -> None:
    """After serve was cancelled an old connection gets no vote and no status, and a new one is refused."""
    async with GrpcTransport() as dialler, GrpcTransport() as transport, trio.open_nursery() as outer:
        with trio.fail_after(30):
            async with trio.open_nursery() as server:
                address = await server.start(transport.serve, vote)
                link = await dialler.connect(address, Lane.CONTROL)
                await link.send(VOTE)
                assert await link.receive() == GRANTED
                assert await dialler.call(address, "clustercore.v1.Raft/RequestVote", codec.encode_body(VOTE))
                server.cancel_scope.cancel()

            # The transport is still open: its loop runs, and could answer.
            with pytest.raises(LinkClosed):
                await link.receive()
            with pytest.raises(LinkClosed):
                await link.send(VOTE)
            with pytest.raises((PeerUnreachable, LinkClosed)):
                await dialler.call(address, "clustercore.v1.Raft/RequestVote", codec.encode_body(VOTE))
            with pytest.raises(PeerUnreachable):
                await dialler.connect(address, Lane.CONTROL)
        outer.cancel_scope.cancel()


async def test_request_already_read_is_not_answered_after_stop() -> None:
    """An accept that answers while being cancelled reaches nobody."""
    arrived = trio.Event()
    refused: list[str] = []

    async def accept(link: Link) -> None:
        await link.receive()
        arrived.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                try:
                    await link.send(GRANTED)
                except LinkClosed as exc:
                    refused.append(str(exc))

    with trio.fail_after(30):
        async with GrpcTransport() as dialler, GrpcTransport() as transport, trio.open_nursery() as server:
            address = await server.start(transport.serve, accept)
            async with await dialler.connect(address, Lane.CONTROL) as link:
                await link.send(VOTE)
                await arrived.wait()
                server.cancel_scope.cancel()
                with trio.CancelScope(shield=True), pytest.raises(LinkClosed):
                    await link.receive()

    assert len(refused) == 1
    assert "the server stopped" in refused[0]


async def test_stop_does_not_wait_for_idle_clients() -> None:
    """Serve and transport end although clients stay connected and say nothing."""
    async with GrpcTransport() as dialler:
        async with serving(GrpcTransport()) as (address, _):
            links = [await dialler.connect(address, Lane.CONTROL) for _ in range(3)]
            raw = await connect_raw(address)
        for link in links:
            with pytest.raises(LinkClosed):
                await link.receive()
        await read_to_end(raw)
        await raw.aclose()

        assert dialler._client.connection_count == 0


async def test_stop_does_not_wait_for_busy_clients() -> None:
    """Serve and transport end in the middle of the traffic of clients that keep it busy."""
    answered = 0

    async def keep_busy(link: Link) -> None:
        nonlocal answered
        try:
            while True:
                await link.send(VOTE)
                await link.receive()
                answered += 1
        except LinkClosed:
            return

    async with GrpcTransport() as dialler, trio.open_nursery() as clients, serving(GrpcTransport()) as (address, _):
        for _ in range(4):
            clients.start_soon(keep_busy, await dialler.connect(address, Lane.CONTROL))
        while answered < 100:
            await trio.lowlevel.checkpoint()


# --- A peer that has gone silent (grpclib: E1) -----------------------------------------------------------------------


@asynccontextmanager
async def silent_peer() -> AsyncIterator[str]:
    """Accept connections, open every HTTP/2 window wide, and then never read or write again."""

    async def accept(stream: trio.SocketStream) -> None:
        settings = frame(SETTINGS, struct.pack(">HI", 4, 2**31 - 1))
        await stream.send_all(settings + frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1 - 65535)))
        await trio.sleep_forever()

    with trio.fail_after(30):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, accept, listeners)
            yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()


async def test_silent_peer_with_full_send_buffer_is_aborted_by_keepalive() -> None:
    """Everything on the link fails, the socket is gone although it could not be flushed, and the next connect works."""
    ends: list[str] = []
    snapshot = AppendEntriesRequest(
        Term(1),
        NodeId("n1"),
        LogIndex(0),
        Term(0),
        LogIndex(0),
        (Entry.create(LogIndex(1), Term(1), EntryKind.COMMAND, bytes(1_000_000)),),
    )

    async def send(link: Link) -> None:
        with pytest.raises(LinkClosed, match="keepalive"):  # noqa: PT012  # which of the sends fails is the buffer's choice
            while True:
                await link.send(snapshot)
        ends.append("send")

    async def receive(link: Link) -> None:
        with pytest.raises(LinkClosed, match="keepalive"):
            await link.receive()
        ends.append("receive")

    async with (
        silent_peer() as silent,
        serving(GrpcTransport()) as (address, _),
        GrpcTransport(keepalive_time_ms=100, keepalive_timeout_ms=100) as dialler,
    ):
        link = await dialler.connect(silent, Lane.BULK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, link)
            nursery.start_soon(receive, link)
        with pytest.raises(LinkClosed, match="keepalive"):
            await link.send(VOTE)

        assert sorted(ends) == ["receive", "send"]
        assert dialler._client.connection_count == 0
        again = await dialler.connect(silent, Lane.BULK)
        await again.aclose()
        await assert_serves(dialler, address)


async def test_silent_peer_ends_a_stream_of_responses() -> None:
    """A watch has no deadline; keepalive ends it when the peer is dead."""
    async with silent_peer() as silent, GrpcTransport(keepalive_time_ms=50, keepalive_timeout_ms=50) as client:
        async with client.open_stream(silent, "test.App/Watch", b"") as responses:
            with pytest.raises(LinkClosed, match="keepalive"):
                await responses.receive()
        async with client.open_stream(silent, "test.App/Watch", b""):
            assert client._client.connection_count == 1


async def test_silent_client_is_aborted_by_the_server() -> None:
    """A client that opens a connection and says nothing does not hold it for ever."""
    async with (
        serving(GrpcTransport(keepalive_time_ms=50, keepalive_timeout_ms=50)) as (address, _),
        await connect_raw(address) as raw,
    ):
        await read_to_end(raw)


async def test_live_idle_link_outlives_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that answers pings keeps its link, however long nothing is said."""
    pinged, pings = trio.open_memory_channel[None](10)
    quick = GrpcTransport(keepalive_time_ms=20, keepalive_timeout_ms=200)
    async with (
        serving(GrpcTransport()) as (address, _),
        quick as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        h2_connection = next(iter(dialler._client._connections)).connection.h2
        ping = h2_connection.ping

        def count(payload: bytes) -> None:
            ping(payload)
            pinged.send_nowait(None)

        monkeypatch.setattr(h2_connection, "ping", count)
        for _ in range(3):
            await pings.receive()
        await link.send(VOTE)

        assert await link.receive() == GRANTED


@pytest.mark.slow
async def test_peer_that_makes_us_answer_and_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of pings whose answers nobody reads fills no unbounded buffer."""
    monkeypatch.setattr("clustercore_grpc.http2.WRITE_LIMIT_BYTES", 10_000)
    async with serving(GrpcTransport()) as (address, _), GrpcTransport() as dialler:
        raw = await connect_raw(address)
        await raw.send_all(PREFACE + frame(SETTINGS, b""))
        pings = frame(PING, bytes(8)) * 1000
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  # how many fit is the kernel's choice
            while True:
                await raw.send_all(pings)
        await raw.aclose()
        await assert_serves(dialler, address)


# --- Errors astray in the loop (trio-asyncio: E6) --------------------------------------------------------------------


async def test_stray_asyncio_errors_do_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A failing callback and a forgotten task that failed are logged; links go on, and no group escapes."""

    async def fail() -> None:
        raise KeyError("forgotten task")

    def fail_now() -> None:
        raise KeyError("callback")

    transport = GrpcTransport()
    async with (
        serving(transport) as (address, _),
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        for owner in (transport, dialler):
            loop = owner._loop.asyncio_loop
            loop.call_soon(fail_now)
            loop.call_soon(lambda loop=loop: loop.create_task(fail()) and None)  # type: ignore[misc]  # a default as its closure
        await wait_all_tasks_blocked()
        gc.collect()
        await wait_all_tasks_blocked()
        await link.send(VOTE)

        assert await link.receive() == GRANTED
    assert caplog.text.count("stray error in the socket loop") == 4


async def test_error_in_the_protocol_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of a library, met by one peer's bytes, aborts that peer's connection and is logged."""

    def explode(data: bytes) -> None:
        raise RuntimeError("a fault inside h2")

    async with (
        serving(GrpcTransport()) as (address, _),
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as good,
        await dialler.connect(address, Lane.CONTROL) as bad,
    ):
        monkeypatch.setattr(bad._stream.connection, "feed", explode)  # type: ignore[attr-defined]  # inside
        await bad.send(VOTE)
        with pytest.raises(LinkClosed, match="a fault inside h2"):
            await bad.receive()
        await good.send(VOTE)

        assert await good.receive() == GRANTED
    assert "unexpected error on received data" in caplog.text


# --- Cancellation at every point -------------------------------------------------------------------------------------


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_connect_cancelled_at_any_point_leaves_nothing() -> None:
    """Wherever in a connect the cancellation strikes, no connection is left on either side."""
    transport = GrpcTransport()
    connected = 0
    async with serving(transport) as (address, _), GrpcTransport() as dialler:
        for checkpoints in range(40):
            link: Link | None = None
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, checkpoints, scope)
                    link = await dialler.connect(address, Lane.BULK)
                    nursery.cancel_scope.cancel()
            if link is not None:
                connected += 1
                await link.aclose()
            assert dialler._client.connection_count == 0
        await wait_all_tasks_blocked(0.05)

        assert connected > 0
        await assert_serves(dialler, address)


async def test_call_cancelled_at_any_point_leaves_nothing() -> None:
    """Wherever in a call the cancellation strikes, no stream and no user is left, and the next call works."""
    request = codec.encode_body(VOTE)
    method = "clustercore.v1.Raft/RequestVote"
    async with serving(GrpcTransport()) as (address, _), GrpcTransport() as dialler:
        for fresh in (True, False):
            for checkpoints in range(40):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_after, checkpoints, scope)
                        await dialler.call(address, method, request)
                        nursery.cancel_scope.cancel()
                channel = dialler._client._channels[address]
                assert channel.users == 0
                assert not channel.lock.locked()
                if channel.connection is not None:
                    assert channel.connection.stream_count == 0
                    if fresh:
                        channel.connection.abort("each from the start")

        assert await dialler.call(address, method, request) == codec.encode_body(GRANTED)
        assert dialler._client.connection_count == 1


@asynccontextmanager
async def black_hole(*, accepts: bool) -> AsyncIterator[str]:
    """Yield an address where a connect hangs: unanswered by TCP, or by HTTP/2 only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16 if accepts else 0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(0 if accepts else 3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            yield "{}:{}".format(*address)
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("accepts", [True, False], ids=["silent after TCP", "silent"])
async def test_connect_to_a_black_hole_is_cancellable(accepts: bool) -> None:
    """The caller's scope ends the wait at once, and nothing is left."""
    async with black_hole(accepts=accepts) as address, GrpcTransport(timeout=60) as dialler:
        with trio.move_on_after(0.1) as scope:
            await dialler.connect(address, Lane.CONTROL)

        assert scope.cancelled_caught
        assert dialler._client.connection_count == 0


@pytest.mark.parametrize("accepts", [True, False], ids=["silent after TCP", "silent"])
async def test_black_hole_is_unreachable_after_the_timeout(accepts: bool) -> None:
    """Without a scope of the caller's, connect, call and open_stream end by the transport's own limit."""
    async with black_hole(accepts=accepts) as address, GrpcTransport(timeout=0.1) as dialler:
        with pytest.raises(PeerUnreachable, match=r"0\.1 s"):
            await dialler.connect(address, Lane.CONTROL)
        with pytest.raises(PeerUnreachable, match=r"0\.1 s"):
            await dialler.call(address, "test.App/Echo", b"")
        with pytest.raises(PeerUnreachable, match=r"0\.1 s"):
            async with dialler.open_stream(address, "test.App/Watch", b""):
                pass

        assert dialler._client.connection_count == 0


async def test_closing_the_transport_ends_what_is_under_way() -> None:
    """Links, calls and connects of a transport that closes end with typed errors, in bounded time."""
    ends: list[str] = []

    async def expect(name: str, wait: Callable[[], object]) -> None:
        try:
            await wait()  # type: ignore[misc]  # any coroutine function
        except TransportError as exc:
            ends.append(f"{name}: {type(exc).__name__}")

    with trio.fail_after(30):
        async with (
            silent_peer() as silent,
            black_hole(accepts=False) as hole,
            trio.open_nursery() as nursery,
            GrpcTransport() as dialler,
        ):
            link = await dialler.connect(silent, Lane.CONTROL)
            nursery.start_soon(expect, "receive", link.receive)
            nursery.start_soon(expect, "call", lambda: dialler.call(silent, "test.App/Echo", b""))
            nursery.start_soon(expect, "connect", lambda: dialler.connect(hole, Lane.CONTROL))
            await wait_all_tasks_blocked(0.05)

    assert sorted(ends) == ["call: LinkClosed", "connect: PeerUnreachable", "receive: LinkClosed"]


async def test_scope_around_a_transport_with_open_connections_can_be_cancelled() -> None:
    """Cancelling the scope that a transport lives in closes its connections, and raises nothing but Cancelled."""
    with trio.fail_after(30):
        async with GrpcTransport() as server, trio.open_nursery() as nursery:
            address = await nursery.start(server.serve, vote)
            with trio.CancelScope() as scope:
                async with GrpcTransport() as dialler:
                    link = await dialler.connect(address, Lane.CONTROL)
                    nursery.start_soon(cancel_when_blocked, scope)
                    await link.receive()
            nursery.cancel_scope.cancel()

    assert scope.cancelled_caught


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    """Cancel once nothing else can happen."""
    await wait_all_tasks_blocked(0.05)
    scope.cancel()


@pytest.mark.parametrize("steps", range(6))
async def test_transport_cancelled_while_it_opens_leaves_nothing(steps: int) -> None:
    """Cancelling at any of the first steps of opening ends in Cancelled, in bounded time."""
    with trio.fail_after(30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def open_it() -> None:
                    async with GrpcTransport():
                        await trio.sleep_forever()

                nursery.start_soon(open_it)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    assert scope.cancelled_caught


# --- Bytes from hell -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(range(256)) * 40,
        PREFACE + bytes(range(256)) * 40,
        PREFACE + frame(SETTINGS, b"") + frame(1, b"\xff" * 100, 1, 4),
        PREFACE + frame(SETTINGS, b"") + frame(0, b"data on no stream", 7),
        PREFACE + frame(SETTINGS, b"") + frame(WINDOW_UPDATE, bytes(4)),
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x00",
    ],
    ids=["HTTP/1.1", "bytes", "preface and bytes", "headers", "data", "window", "16 MiB frame"],
)
async def test_bytes_that_are_no_http2_end_their_connection_only(data: bytes) -> None:
    """The sender is cut off; the server goes on."""
    async with serving(GrpcTransport()) as (address, _), GrpcTransport() as dialler:
        async with await dialler.connect(address, Lane.CONTROL) as link:
            raw = await connect_raw(address)
            await raw.send_all(data)
            await read_to_end(raw)
            await raw.aclose()
            await link.send(VOTE)

            assert await link.receive() == GRANTED
        await assert_serves(dialler, address)


def request_headers(path: str) -> list[tuple[str, str]]:
    """Headers of a gRPC request."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


async def trailers_or_reset(raw: trio.SocketStream, client: H2Connection) -> dict[str, str]:
    """Read until the first stream ends; its trailers, or nothing if it was reset."""
    while True:
        for event in client.receive_data(await raw.receive_some()):
            # An answer of trailers alone counts as a response to h2.
            if isinstance(event, (ResponseReceived, TrailersReceived)):
                headers = {str(name): str(value) for name, value in event.headers}
                if "grpc-status" in headers:
                    return headers
            if isinstance(event, StreamReset):
                return {}
            assert not isinstance(event, DataReceived)
        await raw.send_all(client.data_to_send())


@pytest.mark.parametrize("method", ["Exchange", "Status"])
async def test_gigabyte_length_prefix_is_refused_before_the_body(method: str) -> None:
    """The prefix alone is answered with RESOURCE_EXHAUSTED; not a byte of the body is kept."""
    transport = GrpcTransport()
    async with serving(transport) as (address, _), GrpcTransport() as dialler:
        raw = await connect_raw(address)
        client = H2Connection(config=H2Configuration(header_encoding="utf-8"))
        client.initiate_connection()
        client.send_headers(1, request_headers(f"/clustercore.v1.Raft/{method}"))
        await raw.send_all(client.data_to_send())
        await wait_all_tasks_blocked(0.02)
        client.send_data(1, b"\x00" + struct.pack(">I", 1 << 30) + bytes(1000))
        await raw.send_all(client.data_to_send())
        trailers = await trailers_or_reset(raw, client)
        await raw.aclose()

        assert trailers["grpc-status"] == "8"
        assert "1073741824" in trailers["grpc-message"]
        await assert_serves(dialler, address)


async def test_http2_extension_frames_are_passed_over() -> None:
    """A frame of a kind that grpclib does not know is no reason to end anything."""
    async with serving(GrpcTransport()) as (address, _):
        raw = await connect_raw(address)
        client = H2Connection(config=H2Configuration(header_encoding="utf-8"))
        client.initiate_connection()
        await raw.send_all(client.data_to_send() + frame(UNKNOWN, b"grease"))
        client.send_headers(1, request_headers("/clustercore.v1.Raft/Nothing"), end_stream=True)
        await raw.send_all(client.data_to_send())
        headers: dict[str, str] = {}
        while "grpc-status" not in headers:
            for event in client.receive_data(await raw.receive_some()):
                headers.update(dict(getattr(event, "headers", None) or ()))
        await raw.aclose()

        assert headers["grpc-status"] == "12"


async def test_compressed_message_is_refused() -> None:
    """A message with the compressed flag, on which nobody agreed, is UNIMPLEMENTED."""
    async with serving(GrpcTransport()) as (address, _):
        raw = await connect_raw(address)
        client = H2Connection(config=H2Configuration(header_encoding="utf-8"))
        client.initiate_connection()
        client.send_headers(1, request_headers("/clustercore.v1.Raft/Exchange"))
        await raw.send_all(client.data_to_send())
        await wait_all_tasks_blocked(0.02)
        client.send_data(1, b"\x01\x00\x00\x00\x01x")
        await raw.send_all(client.data_to_send())
        trailers = await trailers_or_reset(raw, client)
        await raw.aclose()

        assert trailers["grpc-status"] == "12"


async def test_too_many_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a new connection is ended at once; those before go on."""
    monkeypatch.setattr("clustercore_grpc.server.MAX_CONNECTIONS", 1)
    async with (
        serving(GrpcTransport()) as (address, _),
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        with pytest.raises(PeerUnreachable):
            await dialler.connect(address, Lane.CONTROL)
        await link.send(VOTE)

        assert await link.receive() == GRANTED

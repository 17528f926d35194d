"""Bytes that are no gRPC, or more than is allowed: whoever sends them loses the connection, and nobody else does."""

from __future__ import annotations

import resource
import struct
from contextlib import suppress

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamReset, TrailersReceived
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, Link, LinkClosed, Message, PeerUnreachable
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import (
    GRANTED,
    PREFACE,
    SETTINGS,
    UNKNOWN,
    VOTE,
    WINDOW_UPDATE,
    assert_serves,
    connect_raw,
    frame,
    read_to_end,
    serving,
)
from tests.waiting import until


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
    """The prefix alone is answered with RESOURCE_EXHAUSTED; not a byte of the body is kept, and memory stays flat."""
    transport = GrpcTransport()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000
        await assert_serves(dialler, address)


@pytest.mark.slow
async def test_connection_that_is_cut_anywhere_gives_no_half_of_a_message() -> None:
    """The link that it carried ends, if there was one by then; the server takes the next."""
    sent, received, ended = await _record_of_a_link(), list[Message](), list[str]()
    begun = 0

    async def accept(link: Link) -> None:
        nonlocal begun
        begun += 1
        try:
            while True:
                received.append(await link.receive())
        except LinkClosed as exc:
            ended.append(str(exc))

    with trio.fail_after(60):
        async with GrpcTransport() as transport, trio.open_nursery() as nursery:
            address: str = await nursery.start(transport.serve, accept)
            for cut in range(len(sent), 0, -1):
                raw = await connect_raw(address)
                await raw.send_all(sent[:cut])
                # An end that comes with the bytes leaves no time to look at them.
                await wait_all_tasks_blocked(0.01)
                await raw.send_eof()
                await read_to_end(raw)
                await raw.aclose()
            await until(lambda: len(ended) >= begun)
            nursery.cancel_scope.cancel()

    assert begun > 5
    assert len(ended) == begun
    assert 0 < len(received) < begun
    assert set(received) == {VOTE}


async def _record_of_a_link() -> bytes:
    """Return all that a client writes to open a link and send one message, by listening in between."""
    sent = bytearray()

    async with serving(GrpcTransport()) as (address, _), trio.open_nursery() as nursery:

        async def relay(stream: trio.SocketStream) -> None:
            async with stream, await connect_raw(address) as server, trio.open_nursery() as both:
                both.start_soon(_pass_on, server, stream, bytearray())
                await _pass_on(stream, server, sent)
                both.cancel_scope.cancel()

        listeners = await nursery.start(trio.serve_tcp, relay, 0)
        async with GrpcTransport() as dialler:
            await assert_serves(dialler, f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()
    return bytes(sent)


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, record: bytearray) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in source:
            record += data
            await sink.send_all(data)


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

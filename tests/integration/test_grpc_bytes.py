"""Bytes that are no gRPC, or more than is allowed: whoever sends them loses the connection, and nobody else does."""

from __future__ import annotations

import struct

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamReset, TrailersReceived
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, PeerUnreachable
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

"""Servers of votes over gRPC, and peers that misbehave on purpose: plain TCP with HTTP/2 frames written by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from clustercore.interfaces import (
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    RequestVoteRequest,
    RequestVoteResponse,
    Term,
)
from clustercore_grpc import GrpcTransport

__all__ = [
    "GRANTED",
    "PING",
    "PREFACE",
    "SETTINGS",
    "UNKNOWN",
    "VOTE",
    "WINDOW_UPDATE",
    "assert_serves",
    "black_hole",
    "connect_raw",
    "frame",
    "read_to_end",
    "serving",
    "silent_peer",
    "vote",
]

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

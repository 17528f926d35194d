"""DATA of links goes past h2: windows and the order of frames stay those of HTTP/2, as h2 at the other end sees it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from clustercore.interfaces import ForwardProposals, Link, Message, decode_message, encode_message
from clustercore_grpc import GrpcTransport
from clustercore_grpc.http2 import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES
from tests.integration.grpc_peers import GRANTED, VOTE, connect_raw, frame, read_to_end, serving
from tests.integration.test_grpc_bytes import request_headers

HEADERS = 1
LARGE = ForwardProposals(1, (bytes(15_000),))


def envelope(message: Message) -> bytes:
    """A message as gRPC sends it."""
    data = encode_message(message)
    return b"\x00" + struct.pack(">I", len(data)) + data


@attrs.define
class Client:
    """A gRPC client whose HTTP/2 is h2's alone, which keeps to all rules and minds those of the other side."""

    raw: trio.SocketStream
    h2: H2Connection
    received: bytes = b""

    async def flush(self) -> None:
        """Send what h2 has to say."""
        await self.raw.send_all(self.h2.data_to_send())

    async def open(self, stream_id: int) -> None:
        """Begin a link."""
        self.h2.send_headers(stream_id, request_headers("/clustercore.v1.Raft/Exchange"))
        await self.flush()

    async def ask(self, stream_id: int, message: Message) -> Message:
        """Send a message in a frame of its own, and wait for the next answer."""
        self.h2.send_data(stream_id, envelope(message))
        await self.flush()
        size = len(envelope(GRANTED))
        while len(self.received) < size:
            await self.read()
        answer, self.received = self.received[:size], self.received[size:]
        return decode_message(answer[5:])

    async def read(self) -> None:
        """Take what came, which breaks no rule."""
        for event in self.h2.receive_data(await self.raw.receive_some()):
            if isinstance(event, DataReceived):
                assert event.stream_id is not None
                self.received += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self.flush()


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[Client]:
    """Connect, until the settings are exchanged."""
    async with await connect_raw(address) as raw:
        client = Client(raw, H2Connection(config=H2Configuration(header_encoding="utf-8")))
        client.h2.initiate_connection()
        await client.flush()
        while client.h2.outbound_flow_control_window < CONNECTION_WINDOW_BYTES:
            await client.read()
        yield client


@pytest.mark.slow
async def test_windows_are_given_back_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many times what the windows hold goes through one link; h2 would not send beyond what it was given back."""
    async with serving(GrpcTransport()) as (address, _), client_of(address) as client:
        await client.open(1)
        for _ in range(2 * STREAM_WINDOW_BYTES // 15_000):
            assert await client.ask(1, LARGE) == GRANTED
        left = client.h2.local_flow_control_window(1)

        assert left >= STREAM_WINDOW_BYTES - 2 * 16 * 1024


async def test_link_that_ends_gives_the_rest_back_to_its_connection() -> None:
    """What one link has left unacknowledged is not lost to the others on a connection that somebody shares."""
    async with serving(GrpcTransport()) as (address, _), client_of(address) as client:
        for stream_id in range(1, 41, 2):
            await client.open(stream_id)
            assert await client.ask(stream_id, VOTE) == GRANTED
            assert await client.ask(stream_id, LARGE) == GRANTED
            client.h2.end_stream(stream_id)
            await client.flush()
        # The first message may come before the link is there. It goes through h2, which keeps a few bytes back.
        while client.h2.outbound_flow_control_window < CONNECTION_WINDOW_BYTES - 20 * len(envelope(VOTE)):
            await client.read()


async def test_data_among_headers_ends_the_connection() -> None:
    """Where only a CONTINUATION may come, DATA of a link is an error as it always was (RFC 9113 §6.10)."""
    async with serving(GrpcTransport()) as (address, _), client_of(address) as client:
        await client.open(1)
        assert await client.ask(1, VOTE) == GRANTED
        await client.raw.send_all(frame(HEADERS, b"\x82", 3))
        await trio.sleep(0.02)
        await client.raw.send_all(frame(0, envelope(VOTE), 1))

        await read_to_end(client.raw)


@pytest.mark.slow
async def test_peer_that_minds_no_window_is_cut_off() -> None:
    """Of what nobody takes, no more is kept than twice the window."""
    stuck = trio.Event()

    async def take_nothing(link: Link) -> None:
        await stuck.wait()

    transport = GrpcTransport()
    with trio.fail_after(30):
        async with transport, trio.open_nursery() as nursery:
            address = await nursery.start(transport.serve, take_nothing)
            async with client_of(address) as client:
                await client.open(1)
                with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  # how many are sent is the kernel's choice
                    for _ in range(3 * STREAM_WINDOW_BYTES // 15_000):
                        await client.raw.send_all(frame(0, envelope(LARGE), 1))
                        await trio.lowlevel.checkpoint()
                    await read_to_end(client.raw)
                    raise trio.BrokenResourceError
            nursery.cancel_scope.cancel()

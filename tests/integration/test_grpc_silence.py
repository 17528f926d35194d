"""Peers that have gone silent: keepalive ends their connections. grpclib's own aborts no socket that is not flushed."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import (
    AppendEntriesRequest,
    Entry,
    EntryKind,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    Term,
)
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import (
    GRANTED,
    PING,
    PREFACE,
    SETTINGS,
    VOTE,
    assert_serves,
    connect_raw,
    frame,
    read_to_end,
    serving,
    silent_peer,
)


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


@pytest.mark.slow
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

"""A server that stops: nothing leaves it afterwards. grpclib's own goes on answering on connections that it has."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, Link, LinkClosed, PeerUnreachable, encode_body
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import GRANTED, VOTE, connect_raw, read_to_end, serving, vote


async def test_stopped_server_answers_nothing_on_existing_connections() -> None:
    """After serve was cancelled an old connection gets no vote and no status, and a new one is refused."""
    async with GrpcTransport() as dialler, GrpcTransport() as transport, trio.open_nursery() as outer:
        with trio.fail_after(30):
            async with trio.open_nursery() as server:
                address = await server.start(transport.serve, vote)
                link = await dialler.connect(address, Lane.CONTROL)
                await link.send(VOTE)
                assert await link.receive() == GRANTED
                assert await dialler.call(address, "clustercore.v1.Raft/RequestVote", encode_body(VOTE))
                server.cancel_scope.cancel()

            # The transport is still open: its loop runs, and could answer.
            with pytest.raises(LinkClosed):
                await link.receive()
            with pytest.raises(LinkClosed):
                await link.send(VOTE)
            with pytest.raises((PeerUnreachable, LinkClosed)):
                await dialler.call(address, "clustercore.v1.Raft/RequestVote", encode_body(VOTE))
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

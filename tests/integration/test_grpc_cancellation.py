"""Cancelling connects, calls and whole transports at every point, and peers that never answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, Link, PeerUnreachable, TransportError, encode_body
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import GRANTED, VOTE, assert_serves, black_hole, serving, silent_peer, vote


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
    request = encode_body(VOTE)
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
                assert channel._pending == 0
                assert not channel._lock.locked()
                for pooled in channel._pooled:
                    assert pooled.connection.stream_count == 0
                    if fresh:
                        pooled.connection.abort("each from the start")

        assert await dialler.call(address, method, request) == encode_body(GRANTED)
        assert dialler._client.connection_count == 1


@pytest.mark.parametrize("accepts", [True, False], ids=["silent after TCP", "silent"])
async def test_connect_to_a_black_hole_is_cancellable(accepts: bool) -> None:
    """The caller's scope ends the wait at once, and nothing is left."""
    async with black_hole(accepts=accepts) as address, GrpcTransport(timeout=60) as dialler:
        with trio.move_on_after(0.1) as scope:
            await dialler.connect(address, Lane.CONTROL)

        assert scope.cancelled_caught
        assert dialler._client.connection_count == 0


@pytest.mark.slow
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

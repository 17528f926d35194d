"""The contract of application services, rule by rule, for every transport that can carry them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from clustercore.interfaces import Link, LinkClosed, PeerUnreachable, Service, ServiceError, TransportError
from tests.conformance.transport_kinds import KINDS, TransportKind

LIMIT_S = 20
Send = Callable[[bytes], Awaitable[None]]


class Shouting:
    """A service whose handlers can be watched."""

    def __init__(self) -> None:
        self.waiting = trio.Event()
        self.cancelled = trio.Event()
        self.service = Service(
            "test.v1.Shouting",
            unary={"Shout": self.shout, "Refuse": self.refuse, "Wait": self.wait, "Break": self.break_down},
            streams={
                "Count": self.count,
                "Refuse": self.refuse_stream,
                "Wait": self.wait_stream,
                "Break": self.break_down_stream,
            },
        )

    async def shout(self, request: bytes) -> bytes:
        return request.upper()

    async def refuse(self, request: bytes) -> bytes:
        raise ServiceError("never")

    async def wait(self, request: bytes) -> bytes:
        try:
            self.waiting.set()
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    async def count(self, request: bytes, send: Send) -> None:
        for number in range(int(request)):
            await send(str(number).encode())

    async def refuse_stream(self, request: bytes, send: Send) -> None:
        raise ServiceError("never")

    async def break_down(self, request: bytes) -> bytes:
        raise RuntimeError("a bug in the handler")

    async def break_down_stream(self, request: bytes, send: Send) -> None:
        await send(b"first")
        raise RuntimeError("a bug in the handler")

    async def wait_stream(self, request: bytes, send: Send) -> None:
        try:
            await send(b"first")
            self.waiting.set()
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


async def ignore(link: Link) -> None:
    """Accept links; these tests open none."""
    await trio.sleep_forever()


class Calls:
    """A client, and the server that it calls."""

    def __init__(self, kind: TransportKind) -> None:
        make = kind.create()
        self.nobody = kind.nobody
        self.shouting = Shouting()
        self.server, self.client = make(), make()
        self.server.offer([self.shouting.service])
        self.stop: Callable[[], None] = lambda: None
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with self.server, trio.open_nursery() as nursery:
            self.stop = nursery.cancel_scope.cancel
            self.address = await nursery.start(self.server.serve, ignore)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def calls(request: pytest.FixtureRequest) -> Calls:
    """One transport after the other."""
    return Calls(request.param)


async def test_call_returns_the_response(calls: Calls) -> None:
    """A unary call carries the request's bytes there and the response's back."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            assert await calls.client.call(calls.address, "test.v1.Shouting/Shout", b"hello") == b"HELLO"
            assert await calls.client.call(calls.address, "test.v1.Shouting/Shout", b"") == b""


async def test_call_that_is_refused_is_a_service_error(calls: Calls) -> None:
    """A handler's ServiceError is raised at the caller, with its text, and the server goes on."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            with pytest.raises(ServiceError, match="never"):
                await calls.client.call(calls.address, "test.v1.Shouting/Refuse", b"")

            assert await calls.client.call(calls.address, "test.v1.Shouting/Shout", b"on") == b"ON"


async def test_handler_with_a_bug_ends_its_own_call_only(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is LinkClosed at the caller, is logged with its traceback, and the server goes on."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            with pytest.raises(LinkClosed, match="Break"):
                await calls.client.call(calls.address, "test.v1.Shouting/Break", b"")
            async with calls.client.open_stream(calls.address, "test.v1.Shouting/Break", b"") as responses:
                assert await responses.receive() == b"first"
                with pytest.raises(LinkClosed, match="Break"):
                    await responses.receive()

            assert await calls.client.call(calls.address, "test.v1.Shouting/Shout", b"on") == b"ON"
    assert caplog.text.count('raise RuntimeError("a bug in the handler")') == 2


@pytest.mark.parametrize("method", ["test.v1.Shouting/Whisper", "test.v1.Nothing/Shout"])
async def test_call_of_an_unknown_method_is_a_service_error(calls: Calls, method: str) -> None:
    """A method or service that is not offered raises ServiceError."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            with pytest.raises(ServiceError):
                await calls.client.call(calls.address, method, b"")
            with pytest.raises(ServiceError):
                async with calls.client.open_stream(calls.address, method, b"") as responses:
                    await responses.receive()


async def test_call_to_nobody_is_unreachable(calls: Calls) -> None:
    """Where nobody serves, a call and a stream raise PeerUnreachable: nothing was sent."""
    with trio.fail_after(LIMIT_S):
        async with calls.client:
            with pytest.raises(PeerUnreachable):
                await calls.client.call(calls.nobody, "test.v1.Shouting/Shout", b"")
            with pytest.raises(PeerUnreachable):
                async with calls.client.open_stream(calls.nobody, "test.v1.Shouting/Count", b"1") as responses:
                    await responses.receive()


async def test_call_ends_when_the_server_stops(calls: Calls) -> None:
    """A caller that waits for a response gets LinkClosed, and the handler is cancelled."""
    with trio.fail_after(LIMIT_S):
        async with calls.client:
            async with trio.open_nursery() as nursery, calls.serving():
                nursery.start_soon(_expect_link_closed, calls)
                await calls.shouting.waiting.wait()
                calls.stop()
            assert calls.shouting.cancelled.is_set()


async def _expect_link_closed(calls: Calls) -> None:
    with pytest.raises(LinkClosed):
        await calls.client.call(calls.address, "test.v1.Shouting/Wait", b"")


async def test_call_can_be_cancelled(calls: Calls) -> None:
    """A caller that gives up leaves at once, and can call again."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls.client.call, calls.address, "test.v1.Shouting/Wait", b"")
                await calls.shouting.waiting.wait()
                nursery.cancel_scope.cancel()

            assert await calls.client.call(calls.address, "test.v1.Shouting/Shout", b"on") == b"ON"


async def test_stream_brings_every_response_in_order(calls: Calls) -> None:
    """All responses arrive in the order of sending, more than any buffer holds, then the channel ends."""
    with trio.fail_after(LIMIT_S):
        async with (
            calls.client,
            calls.serving(),
            calls.client.open_stream(calls.address, "test.v1.Shouting/Count", b"100") as responses,
        ):
            received = [response async for response in responses]

    assert received == [str(number).encode() for number in range(100)]


async def test_stream_that_is_refused_is_a_service_error(calls: Calls) -> None:
    """A handler's ServiceError ends the stream with ServiceError, not with a plain end."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            with pytest.raises(ServiceError, match="never"):
                async with calls.client.open_stream(calls.address, "test.v1.Shouting/Refuse", b"") as responses:
                    await responses.receive()


async def test_stream_left_by_the_client_cancels_the_handler(calls: Calls) -> None:
    """Leaving the block ends the call on the server too."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, calls.serving():
            async with calls.client.open_stream(calls.address, "test.v1.Shouting/Wait", b"") as responses:
                assert await responses.receive() == b"first"

            await calls.shouting.cancelled.wait()


async def test_stream_ends_when_the_server_stops(calls: Calls) -> None:
    """A client that waits for the next response gets LinkClosed, never a plain end."""
    with trio.fail_after(LIMIT_S):
        async with calls.client, trio.open_nursery() as nursery:
            received = trio.Event()
            async with calls.serving():
                nursery.start_soon(_expect_stream_closed, calls, received)
                await received.wait()
                calls.stop()


async def _expect_stream_closed(calls: Calls, received: trio.Event) -> None:
    async with calls.client.open_stream(calls.address, "test.v1.Shouting/Wait", b"") as responses:
        assert await responses.receive() == b"first"
        received.set()
        with pytest.raises(TransportError) as caught:
            await responses.receive()
        assert isinstance(caught.value, LinkClosed)

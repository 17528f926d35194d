"""The contract of application services, rule by rule, on top of the rules of every transport."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest
import trio
from trio.abc import ReceiveChannel

from clustercore.interfaces import (
    Link,
    LinkClosed,
    PeerTimeout,
    PeerUnreachable,
    Service,
    ServiceError,
    ServiceTransport,
)
from clustercore.testing.conformance.transport import TransportConformance

__all__ = ["ServiceTransportConformance"]

_NAME = "test.v1.Shouting"


class ServiceTransportConformance(TransportConformance):
    """Derive from it, and say in ``make`` how the transport is made."""

    @abstractmethod
    def make(self) -> ServiceTransport:
        """Make another transport. All that one test makes can reach each other, and each can serve."""

    async def test_call_returns_the_response(self) -> None:
        """A unary call carries the request's bytes there and the response's back, of any size."""
        async with self._calling() as calls:
            for request in (b"hello", b"", b"\0\xff", b"x" * 300_000):
                assert await calls.call("Shout", request) == request.upper()

    async def test_calls_wait_for_nobody(self) -> None:
        """Calls to one server run at the same time: one that waits does not hold up another."""
        async with self._calling() as calls, trio.open_nursery() as nursery:
            nursery.start_soon(calls.call, "Wait", b"")
            await calls.shouting.waiting.wait()
            assert await calls.call("Shout", b"on") == b"ON"
            nursery.cancel_scope.cancel()

    async def test_call_that_is_refused_is_a_service_error(self) -> None:
        """A handler's ServiceError is raised at the caller, with its text, and the server goes on."""
        async with self._calling() as calls:
            with pytest.raises(ServiceError, match="never"):
                await calls.call("Refuse")
            assert await calls.call("Shout", b"on") == b"ON"

    async def test_handler_with_a_bug_ends_its_own_call_only(self) -> None:
        """What a handler raises is LinkClosed at the caller, is logged with its traceback, and the server goes on."""
        with _logged() as records:
            async with self._calling() as calls:
                with pytest.raises(LinkClosed, match="Break"):
                    await calls.call("Break")
                async with calls.open_stream("Break") as responses:
                    assert await responses.receive() == b"first"
                    with pytest.raises(LinkClosed, match="Break"):
                        await responses.receive()

                assert await calls.call("Shout", b"on") == b"ON"
        logged = [record.exc_info[1] for record in records if record.exc_info is not None]
        assert [error for error in logged if isinstance(error, HandlerBug)] == logged[:2]
        assert len(logged) == 2

    async def test_call_of_an_unknown_method_is_a_service_error(self) -> None:
        """A method or service that is not offered raises ServiceError."""
        async with self._calling() as calls:
            for method in (f"{_NAME}/Whisper", "test.v1.Nothing/Shout"):
                with pytest.raises(ServiceError):
                    await calls.client.call(calls.address, method, b"")
                with pytest.raises(ServiceError):
                    async with calls.client.open_stream(calls.address, method, b"") as responses:
                        await responses.receive()

    async def test_services_offered_in_turn_are_all_answered(self) -> None:
        """What is offered later is answered as well as what was offered before."""

        async def whisper(request: bytes) -> bytes:
            return request.lower()

        async with self._calling(Service("test.v1.Whispering", unary={"Whisper": whisper})) as calls:
            assert await calls.call("Shout", b"on") == b"ON"
            assert await calls.client.call(calls.address, "test.v1.Whispering/Whisper", b"ON") == b"on"

    async def test_call_to_nobody_is_unreachable(self) -> None:
        """Where nobody serves, a call and a stream raise PeerUnreachable: nothing was sent."""
        with trio.fail_after(self.limit_s):
            async with self.make() as client:
                with pytest.raises(PeerUnreachable):
                    await client.call(self.nobody, f"{_NAME}/Shout", b"")
                with pytest.raises(PeerUnreachable):
                    async with client.open_stream(self.nobody, f"{_NAME}/Count", b"1") as responses:
                        await responses.receive()

    async def test_call_without_an_answer_times_out(self) -> None:
        """A unary call that nobody answers raises PeerTimeout after the transport's own limit; the server goes on."""
        async with self._calling() as calls:
            with pytest.raises(PeerTimeout):
                await calls.call("Wait")
            assert await calls.call("Shout", b"on") == b"ON"

    async def test_call_ends_when_the_server_stops(self) -> None:
        """A caller that waits for a response gets LinkClosed, and the handler is cancelled."""
        async with self._calling() as calls:
            calls.callers.start_soon(_expect_link_closed, calls)
            await calls.shouting.waiting.wait()
            calls.stop()
        assert calls.shouting.cancelled.is_set()

    async def test_call_can_be_cancelled(self) -> None:
        """A caller that gives up leaves at once, and can call again."""
        async with self._calling() as calls:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls.call, "Wait", b"")
                await calls.shouting.waiting.wait()
                nursery.cancel_scope.cancel()

            assert await calls.call("Shout", b"on") == b"ON"

    async def test_stream_brings_every_response_in_order(self) -> None:
        """All responses arrive in the order of sending, more than any buffer holds, then the channel ends."""
        async with self._calling() as calls, calls.open_stream("Count", b"100") as responses:
            received = [response async for response in responses]

        assert received == [str(number).encode() for number in range(100)]

    async def test_stream_waits_for_its_reader(self) -> None:
        """A handler whose client reads nothing waits: what it may be ahead is bounded."""
        async with self._calling() as calls, calls.open_stream("Flood") as responses:
            assert await responses.receive() == b"\0" * 65_536
            await trio.sleep(0.2)
            assert calls.shouting.flooded < 4000, "the buffer has no bound"
            assert await responses.receive() == b"\0" * 65_536

    async def test_stream_that_is_refused_is_a_service_error(self) -> None:
        """A handler's ServiceError ends the stream with ServiceError, not with a plain end."""
        async with self._calling() as calls:
            with pytest.raises(ServiceError, match="never"):
                async with calls.open_stream("Refuse") as responses:
                    await responses.receive()

    async def test_stream_left_by_the_client_cancels_the_handler(self) -> None:
        """Leaving the block ends the call on the server too."""
        async with self._calling() as calls:
            async with calls.open_stream("Wait") as responses:
                assert await responses.receive() == b"first"

            await calls.shouting.cancelled.wait()

    async def test_stream_ends_when_the_server_stops(self) -> None:
        """A client that waits for the next response gets LinkClosed, never a plain end."""
        async with self._calling() as calls:
            received = trio.Event()
            calls.callers.start_soon(_expect_stream_closed, calls, received)
            await received.wait()
            calls.stop()

    @asynccontextmanager
    async def _calling(self, *before: Service) -> AsyncIterator[_Calls]:
        """Serve the shouting service in the background, for a client that outlives it, as its callers do.

        Others may be offered before it.
        """
        server, shouting = self.make(), _Shouting()
        for service in (*before, shouting.service):
            server.offer([service])
        with trio.fail_after(self.limit_s):
            async with (
                self.make() as client,
                trio.open_nursery() as callers,
                self._serving(server, _ignore) as (address, stop),
            ):
                yield _Calls(client, address, shouting, callers, stop)


class HandlerBug(RuntimeError):
    """What a handler raises that has a bug."""


class _Shouting:
    """A service whose handlers can be watched."""

    def __init__(self) -> None:
        self.waiting = trio.Event()
        self.cancelled = trio.Event()
        # Responses that a stream nobody reads got rid of.
        self.flooded = 0
        self.service = Service(
            _NAME,
            unary={"Shout": self.shout, "Refuse": self.refuse, "Wait": self.wait, "Break": self.break_down},
            streams={
                "Count": self.count,
                "Flood": self.flood,
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

    async def break_down(self, request: bytes) -> bytes:
        raise HandlerBug("a bug in the handler")

    async def count(self, request: bytes, send: _Send) -> None:
        for number in range(int(request)):
            await send(str(number).encode())

    async def flood(self, request: bytes, send: _Send) -> None:
        while self.flooded < 4000:
            await send(b"\0" * 65_536)
            self.flooded += 1

    async def refuse_stream(self, request: bytes, send: _Send) -> None:
        raise ServiceError("never")

    async def wait_stream(self, request: bytes, send: _Send) -> None:
        try:
            await send(b"first")
            self.waiting.set()
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    async def break_down_stream(self, request: bytes, send: _Send) -> None:
        await send(b"first")
        raise HandlerBug("a bug in the handler")


class _Calls:
    """A client, and the server that it calls."""

    def __init__(
        self,
        client: ServiceTransport,
        address: str,
        shouting: _Shouting,
        callers: trio.Nursery,
        stop: Callable[[], None],
    ) -> None:
        self.client = client
        self.address = address
        self.shouting = shouting
        # Tasks in it go on when the server stops.
        self.callers = callers
        self.stop = stop

    async def call(self, method: str, request: bytes = b"") -> bytes:
        return await self.client.call(self.address, f"{_NAME}/{method}", request)

    def open_stream(self, method: str, request: bytes = b"") -> AbstractAsyncContextManager[ReceiveChannel[bytes]]:
        return self.client.open_stream(self.address, f"{_NAME}/{method}", request)


_Send = Callable[[bytes], Awaitable[None]]


async def _ignore(link: Link) -> None:
    """Accept links; these rules open none."""
    await trio.sleep_forever()


async def _expect_link_closed(calls: _Calls) -> None:
    with pytest.raises(LinkClosed):
        await calls.call("Wait")


async def _expect_stream_closed(calls: _Calls, received: trio.Event) -> None:
    async with calls.open_stream("Wait") as responses:
        assert await responses.receive() == b"first"
        received.set()
        with pytest.raises(LinkClosed):
            await responses.receive()


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged, by whatever logger."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    collector, root = Collector(logging.ERROR), logging.getLogger()
    root.addHandler(collector)
    try:
        yield records
    finally:
        root.removeHandler(collector)

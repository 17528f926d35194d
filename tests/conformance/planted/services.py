"""One faulty transport, at least, for each rule about application services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio
import trio.abc

from clustercore.interfaces import (
    LinkClosed,
    PeerTimeout,
    PeerUnreachable,
    Service,
    ServiceError,
    ServiceTransport,
    StreamHandler,
    UnaryHandler,
)
from tests.conformance.planted.proxies import ProxyKit, ProxyTransport
from tests.conformance.planted.runner import Fault
from tests.conformance.planted.transports import LONG_S

__all__ = ["FAULTS"]

FAULTS: list[Fault] = []
Send = Callable[[bytes], Awaitable[None]]


def plant(rule: str, what: str, transport: type[ProxyTransport], expects: type[Exception] = AssertionError) -> None:
    """Add a fault to the table."""
    FAULTS.append(Fault(rule, what, type("TestPlanted", (ProxyKit,), {"transport": transport}), expects))


class ProxyCalls(ProxyTransport):
    """Wraps each handler that is offered, and each stream that is opened."""

    def offer(self, services: Sequence[Service]) -> None:
        self.inner.offer(
            [
                attrs.evolve(
                    service,
                    unary={name: self.unary(handler) for name, handler in service.unary.items()},
                    streams={name: self.stream(handler) for name, handler in service.streams.items()},
                )
                for service in services
            ]
        )

    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        """Wrap a handler of unary calls."""
        return handler

    def stream(self, handler: StreamHandler) -> StreamHandler:
        """Wrap a handler of streams."""
        return handler

    def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
            async with self.inner.open_stream(address, method, request) as responses:
                yield self.responses(responses)

        return opened()

    def responses(self, responses: trio.abc.ReceiveChannel[bytes]) -> trio.abc.ReceiveChannel[bytes]:
        """Wrap the responses of a stream."""
        return responses


class ProxyResponses(trio.abc.ReceiveChannel[bytes]):
    """Hands on what it receives."""

    def __init__(self, inner: trio.abc.ReceiveChannel[bytes]) -> None:
        self.inner = inner

    async def receive(self) -> bytes:
        return await self.inner.receive()

    async def aclose(self) -> None:
        await self.inner.aclose()


# --- Unary calls -----------------------------------------------------------------------------------------------------


class CutsResponses(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        return (await super().call(address, method, request))[:65_536]


class OneCallAtATime(ProxyCalls):
    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        async def wait_for_turn(request: bytes) -> bytes:
            async with self.lock:
                return await handler(request)

        return wait_for_turn


class ForgetsOffers(ProxyCalls):
    def __init__(self, inner: ServiceTransport) -> None:
        super().__init__(inner)
        self.offered: list[Service] = []

    def offer(self, services: Sequence[Service]) -> None:
        # The proxy cannot take back what it has handed on; an offer without methods has the same effect.
        super().offer([attrs.evolve(service, unary={}, streams={}) for service in self.offered])
        self.offered = list(services)
        super().offer(services)


class HidesRefusals(ProxyCalls):
    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        async def hide(request: bytes) -> bytes:
            try:
                return await handler(request)
            except ServiceError as error:
                raise LinkClosed("no answer") from error

        return hide


class SwallowsBugs(ProxyCalls):
    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        async def swallow(request: bytes) -> bytes:
            try:
                return await handler(request)
            except RuntimeError:
                return b""

        return swallow


class LogsNoBug(ProxyCalls):
    def unary(self, handler: UnaryHandler) -> UnaryHandler:
        async def translate(request: bytes) -> bytes:
            try:
                return await handler(request)
            except RuntimeError as error:
                raise LinkClosed("Break failed") from error

        return translate


class AnswersAnything(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        try:
            return await super().call(address, method, request)
        except ServiceError:
            return b""


class HidesThatNothingWasSent(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        try:
            return await super().call(address, method, request)
        except PeerUnreachable as error:
            raise LinkClosed("no answer") from error


class WaitsForever(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        try:
            return await super().call(address, method, request)
        except PeerTimeout:
            await trio.sleep_forever()


class SaysNotThatTheServerStopped(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        try:
            return await super().call(address, method, request)
        except LinkClosed as error:
            raise PeerTimeout("no answer") from error


class CannotBeCancelled(ProxyCalls):
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        with trio.fail_after(LONG_S, shield=True):
            return await super().call(address, method, request)


plant("test_call_returns_the_response", "cuts large responses", CutsResponses)
plant("test_calls_wait_for_nobody", "answers one call after the other", OneCallAtATime)
plant("test_call_that_is_refused_is_a_service_error", "hides a refusal", HidesRefusals)
plant("test_handler_with_a_bug_ends_its_own_call_only", "takes a bug for an answer", SwallowsBugs)
plant("test_handler_with_a_bug_ends_its_own_call_only", "logs no bug", LogsNoBug)
plant("test_call_of_an_unknown_method_is_a_service_error", "answers anything", AnswersAnything)
plant("test_services_offered_in_turn_are_all_answered", "forgets what was offered before", ForgetsOffers, ServiceError)
plant("test_call_to_nobody_is_unreachable", "hides that nothing was sent", HidesThatNothingWasSent)
plant("test_call_without_an_answer_times_out", "waits forever", WaitsForever)
plant("test_call_ends_when_the_server_stops", "does not say that the server stopped", SaysNotThatTheServerStopped)
plant("test_call_can_be_cancelled", "cannot be cancelled", CannotBeCancelled)


# --- Streams ---------------------------------------------------------------------------------------------------------


class LosesOne(ProxyCalls):
    def stream(self, handler: StreamHandler) -> StreamHandler:
        async def lose(request: bytes, send: Send) -> None:
            async def send_most(response: bytes) -> None:
                if response != b"42":
                    await send(response)

            await handler(request, send_most)

        return lose


class SwapsTwo(ProxyCalls):
    def stream(self, handler: StreamHandler) -> StreamHandler:
        async def swap(request: bytes, send: Send) -> None:
            async def send_swapped(response: bytes) -> None:
                await send({b"42": b"43", b"43": b"42"}.get(response, response))

            await handler(request, send_swapped)

        return swap


class BuffersAll(ProxyCalls):
    def stream(self, handler: StreamHandler) -> StreamHandler:
        async def buffer(request: bytes, send: Send) -> None:
            kept: list[bytes] = []

            async def keep(response: bytes) -> None:
                kept.append(response)
                await trio.lowlevel.checkpoint()

            await handler(request, keep)
            for response in kept:
                await send(response)

        return buffer


class EndsPlainly(ProxyCalls):
    def stream(self, handler: StreamHandler) -> StreamHandler:
        async def end(request: bytes, send: Send) -> None:
            try:
                await handler(request, send)
            except ServiceError:
                return

        return end


class GoesOnAlone(ProxyCalls):
    def stream(self, handler: StreamHandler) -> StreamHandler:
        async def go_on(request: bytes, send: Send) -> None:
            with trio.move_on_after(LONG_S, shield=True):
                await handler(request, send)

        return go_on


class TakesAStopForTheEnd(ProxyCalls):
    def responses(self, responses: trio.abc.ReceiveChannel[bytes]) -> trio.abc.ReceiveChannel[bytes]:
        class Ending(ProxyResponses):
            async def receive(self) -> bytes:
                try:
                    return await self.inner.receive()
                except LinkClosed:
                    raise trio.EndOfChannel from None

        return Ending(responses)


plant("test_stream_brings_every_response_in_order", "loses a response", LosesOne)
plant("test_stream_brings_every_response_in_order", "swaps two responses", SwapsTwo)
plant("test_stream_waits_for_its_reader", "buffers all", BuffersAll)
plant("test_stream_that_is_refused_is_a_service_error", "ends plainly", EndsPlainly, trio.EndOfChannel)
plant("test_stream_left_by_the_client_cancels_the_handler", "lets the handler go on", GoesOnAlone)
plant("test_stream_ends_when_the_server_stops", "takes a stop for the end", TakesAStopForTheEnd, trio.EndOfChannel)

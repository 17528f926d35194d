"""Calls of services within one process: the handler runs in the server's nursery, the caller waits.

A handler that is under way when the server stops is cancelled with it, and its caller gets LinkClosed. So does the
caller of one whose response does not arrive: a stream that silently leaves out a response would be a lie.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.abc

from clustercore.interfaces.calls import CallFailure, OfferedServices
from clustercore.interfaces.errors import LinkClosed, TransportError

__all__ = ["LocalCall"]

# Responses a stream's handler may be ahead of its reader.
_BUFFERED_RESPONSES = 16


class LocalCall(trio.abc.ReceiveChannel[bytes]):
    """One call under way, and the caller's end of it: its responses, of which a unary call has one."""

    def __init__(self, method: str, cross: Callable[[], Awaitable[None]]) -> None:
        """Begin a call.

        Args:
            method: What is called, as in "clustercore.v1.KeyValue/Put".
            cross: Called for each response: waits as long as that is on its way, and raises LinkClosed if it is lost.
        """
        self._method = method
        self._cross = cross
        self._scope = trio.CancelScope()
        self._sender, self._receiver = trio.open_memory_channel[bytes](_BUFFERED_RESPONSES)
        # Why there are no more responses; None while there may be, and after a good end.
        self._failure: TransportError | None = None

    # --- The server's side ---

    async def answer_unary(self, services: OfferedServices, request: bytes) -> None:
        """Run the handler, and send its response. In the server's nursery."""

        async def answer() -> CallFailure | None:
            response = await services.answer_unary(self._method, request)
            if isinstance(response, CallFailure):
                return response
            await self._send(response)
            return None

        await self._answer(answer)

    async def answer_stream(self, services: OfferedServices, request: bytes) -> None:
        """Run the handler, which sends its responses. In the server's nursery."""
        await self._answer(lambda: services.answer_stream(self._method, request, self._send))

    async def _answer(self, answer: Callable[[], Awaitable[CallFailure | None]]) -> None:
        self._failure = LinkClosed(f"the server stopped during {self._method}")
        with self._sender, self._scope:
            try:
                failure = await answer()
            except TransportError as error:
                # A response was lost. The handler need not know why it was ended.
                self._failure = error
            else:
                self._failure = None if failure is None else failure.error(self._method)

    async def _send(self, response: bytes) -> None:
        await self._cross()
        await self._sender.send(response)

    # --- The caller's side ---

    async def receive(self) -> bytes:
        """Wait for the next response.

        Raises:
            trio.EndOfChannel: the server ended the stream.
            LinkClosed: the server stopped, or a response was lost.
            ServiceError: the server refuses the request.
        """
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from None
            raise

    def leave(self) -> None:
        """End the call: the handler is cancelled. Idempotent; never blocks."""
        self._scope.cancel()
        self._receiver.close()

    async def aclose(self) -> None:
        """End the call."""
        self.leave()
        await trio.lowlevel.checkpoint()

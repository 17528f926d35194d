"""Calls of an application's services on the simulated network.

A handler runs in the server's process, so that it stands still and dies with that. A caller whose response meets a cut,
or whose server ends, gets LinkClosed: a stream that silently leaves out a response would be a lie.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio
import trio.abc

from clustercore.interfaces import ClusterError, LinkClosed, ServiceError, TransportError
from clustercore.testing.simulation.network import SimulatedNetwork

__all__ = ["Call", "Responses"]

log = logging.getLogger(__name__)

# Responses a stream's handler may be ahead of its reader.
_BUFFERED_RESPONSES = 16


class _CutOff(LinkClosed):
    """A response met a cut. It ends the handler, which need not know of it, and becomes the caller's error."""


class Call:
    """One call under way: what the handler sends and how it ended. A unary call is a stream of one response."""

    def __init__(self, network: SimulatedNetwork, source: str, target: str, method: str) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._method = method
        self._scope = trio.CancelScope()
        self._sender, self.receiver = trio.open_memory_channel[bytes](_BUFFERED_RESPONSES)
        # Why there are no more responses; None while there may be, and after a good end.
        self.failure: TransportError | None = None

    async def answer(self, handler: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]) -> None:
        """Run the handler with a function that sends a response. In the server's nursery."""
        self.failure = LinkClosed(f"the server stopped during {self._method}")
        with self._sender, self._scope:
            try:
                await handler(self.respond)
            except (ServiceError, _CutOff) as error:
                self.failure = error
            except ClusterError as error:
                self.failure = LinkClosed(f"{self._method}: {error}")
            except Exception:
                # A bug in one request of one application; the node goes on, the caller and the log are told.
                log.exception("the handler of %s failed", self._method)
                self.failure = LinkClosed(f"the handler of {self._method} failed")
            else:
                self.failure = None

    async def respond(self, response: bytes) -> None:
        """Send one response to the caller."""
        delay_s = self._network.draw_delay_s(self._target, self._source)
        if delay_s:
            await trio.sleep(delay_s)
        if not self._network.can_reach(self._target, self._source):
            raise _CutOff(f"the simulated network was cut during {self._method}")
        await self._sender.send(response)

    def leave(self) -> None:
        """End the call from the caller's side: the handler is cancelled."""
        self._scope.cancel()
        self.receiver.close()


class Responses(trio.abc.ReceiveChannel[bytes]):
    """The caller's end of a stream."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def receive(self) -> bytes:
        """Wait for the next response.

        Raises:
            trio.EndOfChannel: the server ended the stream.
            LinkClosed: the server stopped, or a cut lies between.
            ServiceError: the server refuses the request.
        """
        try:
            return await self._call.receiver.receive()
        except trio.EndOfChannel:
            if self._call.failure is not None:
                raise self._call.failure from None
            raise

    async def aclose(self) -> None:
        """End the call."""
        self._call.leave()
        await trio.lowlevel.checkpoint()

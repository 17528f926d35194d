"""The transport contract within one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType

import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    ConfigError,
    Lane,
    Link,
    LinkClosed,
    LocalCall,
    OfferedServices,
    PeerTimeout,
    Service,
    ServiceTransport,
)
from clustercore_memory.link import MemoryLink, link_pair
from clustercore_memory.network import MemoryNetwork

__all__ = ["Listener", "MemoryTransport"]

# How long a caller waits for a unary response that a cut may have swallowed.
CALL_TIMEOUT_S = 10.0


class Listener:
    """Someone who serves: the accepted links and the tasks that answer."""

    def __init__(self, nursery: trio.Nursery, accept: AcceptLink, services: OfferedServices) -> None:
        self._nursery = nursery
        self._accept = accept
        self._services = services
        # Open accepted links, in the order of their opening: a set would close them in another order in each process.
        self._links: dict[MemoryLink, None] = {}

    def take(self, link: MemoryLink) -> None:
        """Accept a link, in a task of its own."""
        self._links[link] = None
        link.on_close(self._forget)
        self._nursery.start_soon(self._serve_link, link)

    def _forget(self, link: MemoryLink) -> None:
        self._links.pop(link, None)

    async def _serve_link(self, link: MemoryLink) -> None:
        async with link:
            await self._accept(link)

    def close_links(self) -> None:
        """Close every accepted link."""
        for link in list(self._links):
            link.close()

    def drop_links(self, address: str | None) -> None:
        """Close the accepted links, or those that one address, this one or the dialling one, is an end of."""
        for link in list(self._links):
            if address is None or address in link.addresses:
                link.close()

    def start(self, answer: Callable[[OfferedServices, bytes], Awaitable[None]], request: bytes) -> None:
        """Answer a call, in a task of its own."""
        self._nursery.start_soon(answer, self._services, request)


class MemoryTransport(ServiceTransport):
    """Carries messages between the nodes of one process.

    Args:
        network: Joins this transport to the others made with it.
        address: Where this node serves, any text. It also names the node in the network's cuts, whether it serves or
            only calls.
    """

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        given: object = address
        if not isinstance(given, str) or not given:
            raise ConfigError(f"address = {given!r}: expected a text that is not empty")
        self._network = network
        self._address = address
        self._services = OfferedServices()
        # Open links that this side dialled, in order.
        self._dialled: dict[MemoryLink, None] = {}

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for link in list(self._dialled):
            link.close()

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        # Before the nursery, which would wrap the error; it opens without a checkpoint, so the address stays free.
        self._network.check_free(self._address)
        async with trio.open_nursery() as nursery:
            listener = Listener(nursery, accept, self._services)
            self._network.listen(self._address, listener)
            try:
                task_status.started(self._address)
                await trio.sleep_forever()
            finally:
                # Now, and not when every handler has ended: a node that stopped answers nothing.
                self._network.stop_listening(self._address)
                listener.close_links()

    async def connect(self, address: str, lane: Lane) -> Link:
        await trio.lowlevel.checkpoint()
        listener = self._network.find(self._address, address)
        own_end, peer_end = link_pair(self._network, self._address, address)
        self._dialled[own_end] = None
        own_end.on_close(self._forget)
        listener.take(peer_end)
        return own_end

    def _forget(self, link: MemoryLink) -> None:
        self._dialled.pop(link, None)

    def offer(self, services: Sequence[Service]) -> None:
        self._services.offer(services)

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        listener = self._network.find(self._address, address)
        call = self._begin(address, method)
        try:
            listener.start(call.answer_unary, request)
            with trio.move_on_after(CALL_TIMEOUT_S):
                return await call.receive()
        except trio.EndOfChannel as error:
            raise LinkClosed(f"{method} at {address!r} ended without a response") from error
        finally:
            call.leave()
        raise PeerTimeout(
            f"{method} at {address!r} was not answered in {CALL_TIMEOUT_S} s; it may still be carried out"
        )

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        await trio.lowlevel.checkpoint()
        listener = self._network.find(self._address, address)
        call = self._begin(address, method)
        listener.start(call.answer_stream, request)
        try:
            yield call
        finally:
            call.leave()

    def _begin(self, address: str, method: str) -> LocalCall:
        async def cross() -> None:
            if not self._network.can_reach(address, self._address):
                raise LinkClosed(f"the memory network was cut during {method}")

        return LocalCall(method, cross)

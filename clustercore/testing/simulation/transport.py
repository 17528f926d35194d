"""The transport contract on the simulated network."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
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
    PeerUnreachable,
    Service,
    ServiceTransport,
)
from clustercore.runtime.signals import Wakeup
from clustercore.testing.simulation.link import SimulatedLink, link_pair
from clustercore.testing.simulation.network import CallFate, SimulatedNetwork, host_of

__all__ = ["Listener", "SimulatedTransport"]

# How long a caller waits for a unary response that a cut may have swallowed.
CALL_TIMEOUT_S = 10.0

# By how much later than a message takes a request comes for the second time: after the answer to the next one, mostly.
_LATE_FACTOR = 5

_Job = Callable[[], Awaitable[None]]


class Listener:
    """Someone who serves: the accepted links, and the tasks that answer. They are started by the server's own task."""

    def __init__(self, accept: AcceptLink, services: OfferedServices) -> None:
        self._accept = accept
        self.services = services
        # Open accepted links, in the order of their opening.
        self._links: dict[SimulatedLink, None] = {}
        self._jobs: deque[_Job] = deque()
        self._wakeup = Wakeup()

    async def run(self, nursery: trio.Nursery) -> None:
        """Start a task for everything that comes, until cancelled."""
        while True:
            await self._wakeup.wait()
            while self._jobs:
                nursery.start_soon(self._jobs.popleft())

    def start(self, job: _Job) -> None:
        """Have a task started for this."""
        self._jobs.append(job)
        self._wakeup.set()

    def take(self, link: SimulatedLink) -> None:
        """Accept a link, in a task of its own."""
        self._links[link] = None
        self.start(partial(self._serve_link, link))

    async def _serve_link(self, link: SimulatedLink) -> None:
        try:
            async with link:
                await self._accept(link)
        finally:
            self._links.pop(link, None)

    def close_links(self) -> None:
        """Close every accepted link."""
        for link in list(self._links):
            link.close()


class SimulatedTransport(ServiceTransport):
    """Carries messages between the simulated machines of one run.

    Args:
        network: Joins this transport to the others made with it. Its ``run`` must be running for anything to arrive
            later than at once.
        address: Where this node serves, any text. What ``host_of`` makes of it names it in the network's faults.
    """

    def __init__(self, network: SimulatedNetwork, address: str) -> None:
        if not address:
            raise ConfigError(f"address = {address!r}: expected a text that is not empty")
        self._network = network
        self._address = address
        self._host = host_of(address)
        self._services = OfferedServices()
        # Open links that this side dialled, in order.
        self._dialled: dict[SimulatedLink, None] = {}

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for link in list(self._dialled):
            link.close()

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        # Before the nursery, which would wrap the error; it opens without a checkpoint, so the address stays free.
        self._network.check_free(self._address)
        async with trio.open_nursery() as nursery:
            listener = Listener(accept, self._services)
            self._network.listen(self._address, listener)
            try:
                task_status.started(self._address)
                await listener.run(nursery)
            finally:
                # Now, and not when every handler has ended: a node that stopped answers nothing.
                self._network.stop_listening(self._address, listener)
                listener.close_links()

    async def connect(self, address: str, lane: Lane) -> Link:
        listener = await self._network.dial(self._host, address)
        if self._network.is_off(self._host):
            raise PeerUnreachable(f"{self._address!r} has no power")
        own_end, peer_end = link_pair(self._network, self._host, host_of(address))
        self._dialled = {link: None for link in self._dialled if not link.is_closed}
        self._dialled[own_end] = None
        listener.take(peer_end)
        return own_end

    def offer(self, services: Sequence[Service]) -> None:
        self._services.offer(services)

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        call = self._begin(address, method)
        try:
            with trio.move_on_after(CALL_TIMEOUT_S):
                listener = await self._network.dial(self._host, address)
                fate = self._network.draw_call_fate()
                if fate is CallFate.REPEATED:
                    listener.start(partial(self._answer_late, address, method, listener.services, request))
                if fate is not CallFate.REQUEST_LOST:
                    listener.start(partial(call.answer_unary, listener.services, request))
                    response = await call.receive()
                    if fate is not CallFate.RESPONSE_LOST:
                        return response
                await trio.sleep_forever()
        except trio.EndOfChannel as error:
            raise LinkClosed(f"{method} at {address!r} ended without a response") from error
        finally:
            call.leave()
        raise PeerTimeout(
            f"{method} at {address!r} was not answered in {CALL_TIMEOUT_S} s; it may still be carried out"
        )

    async def _answer_late(self, address: str, method: str, services: OfferedServices, request: bytes) -> None:
        """Carry out a request that came twice. Nobody waits for this answer, whatever it is."""
        await trio.sleep(_LATE_FACTOR * self._network.draw_delay_s(self._host, host_of(address)))
        await services.answer_unary(method, request)

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        listener = await self._network.dial(self._host, address)
        call = self._begin(address, method)
        listener.start(partial(call.answer_stream, listener.services, request))
        try:
            yield call
        finally:
            call.leave()

    def _begin(self, address: str, method: str) -> LocalCall:
        host = host_of(address)

        async def cross() -> None:
            delay_s = self._network.draw_delay_s(host, self._host)
            if delay_s:
                await trio.sleep(delay_s)
            if not self._network.can_reach(host, self._host):
                raise LinkClosed(f"the simulated network was cut during {method}")

        return LocalCall(method, cross)

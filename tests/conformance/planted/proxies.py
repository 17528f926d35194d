"""Links and transports that do what a sound one does, for faulty ones to differ from in one place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import ClassVar, Self

import trio
import trio.abc

from clustercore.interfaces import AcceptLink, Lane, Link, Message, Service, ServiceTransport
from clustercore.testing.conformance import ServiceTransportConformance
from clustercore_memory import MemoryNetwork, MemoryTransport

__all__ = ["ProxyKit", "ProxyLink", "ProxyTransport"]


class ProxyLink(Link):
    """Hands on all it is asked."""

    def __init__(self, inner: Link, transport: ProxyTransport) -> None:
        self.inner = inner
        self.transport = transport

    async def send(self, message: Message) -> None:
        await self.inner.send(message)

    async def receive(self) -> Message:
        return await self.inner.receive()

    async def aclose(self) -> None:
        await self.inner.aclose()


class ProxyTransport(ServiceTransport):
    """Hands on all it is asked, and wraps each link."""

    dialled: ClassVar[type[ProxyLink]] = ProxyLink
    accepted: ClassVar[type[ProxyLink]] = ProxyLink

    def __init__(self, inner: ServiceTransport) -> None:
        self.inner = inner
        self.lock = trio.Lock()

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(exc_type, exc, traceback)

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        async def accept_wrapped(link: Link) -> None:
            await self.handle(accept, self.accepted(link, self))

        await self.inner.serve(accept_wrapped, task_status=task_status)

    async def handle(self, accept: AcceptLink, link: Link) -> None:
        """Run the handler of an accepted link."""
        await accept(link)

    async def connect(self, address: str, lane: Lane) -> Link:
        return self.dialled(await self.inner.connect(address, lane), self)

    def offer(self, services: Sequence[Service]) -> None:
        self.inner.offer(services)

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        return await self.inner.call(address, method, request)

    def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        return self.inner.open_stream(address, method, request)


class ProxyKit(ServiceTransportConformance):
    """The kit as the author of such a transport derives it."""

    nobody = "nobody"
    is_at_host_and_port = False
    transport: ClassVar[type[ProxyTransport]] = ProxyTransport

    def __init__(self) -> None:
        self.network, self.numbers = MemoryNetwork(), itertools.count(1)

    def make(self) -> ServiceTransport:
        return self.make_at(f"node-{next(self.numbers)}")

    def make_at(self, address: str) -> ServiceTransport:
        return self.transport(MemoryTransport(self.network, address))

    async def send_nonsense(self, address: str, nonsense: bytes) -> None:
        """There is nothing that these links could misunderstand."""
        await trio.lowlevel.checkpoint()

"""A transport whose cables can be pulled, so that the story can have a partition. Only the story needs it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import trio
import trio.abc

from clustercore.interfaces import AcceptLink, Lane, Link, PeerUnreachable, Service, ServiceTransport


class Cable(ServiceTransport):
    def __init__(self, transport: ServiceTransport) -> None:
        self._transport = transport
        # Addresses that cannot be reached, and the open links, by where they lead.
        self._cut: set[str] = set()
        self._links: dict[Link, str] = {}

    async def pull(self, addresses: Sequence[str]) -> None:
        self._cut |= set(addresses)
        for link, address in list(self._links.items()):
            if address in self._cut:
                del self._links[link]
                await link.aclose()

    def plug_in(self) -> None:
        self._cut.clear()

    def _check(self, address: str) -> None:
        if address in self._cut:
            raise PeerUnreachable(f"the cable to {address} is pulled")

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(exc_type, exc, traceback)

    @property
    def max_message_bytes(self) -> int | None:
        return self._transport.max_message_bytes

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        await self._transport.serve(accept, task_status=task_status)

    async def connect(self, address: str, lane: Lane) -> Link:
        self._check(address)
        link = await self._transport.connect(address, lane)
        self._links[link] = address
        return link

    def offer(self, services: Sequence[Service]) -> None:
        self._transport.offer(services)

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        self._check(address)
        return await self._transport.call(address, method, request)

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        self._check(address)
        async with self._transport.open_stream(address, method, request) as responses:
            yield responses

"""gRPC over cables that can be pulled, so that the story can have a partition. Nothing else needs it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import trio

from clustercore.interfaces import Lane, Link, LinkClosed, PeerUnreachable
from clustercore_grpc import GrpcTransport


class CableTransport(GrpcTransport):
    """Cuts what this server dials. The others are told to cut what they dial, and then nothing goes either way."""

    def __init__(self, listen: str) -> None:
        super().__init__(listen)
        self._cut: frozenset[str] = frozenset()
        # Where the open links, and the calls that are under way, lead.
        self._links: WeakKeyDictionary[Link, str] = WeakKeyDictionary()
        self._calls: dict[trio.CancelScope, str] = {}

    async def pull(self, addresses: Collection[str]) -> None:
        """Pull the cables to these addresses, and plug in all others."""
        self._cut = frozenset(addresses)
        for scope, address in self._calls.items():
            if address in self._cut:
                scope.cancel()
        for link in [link for link, address in self._links.items() if address in self._cut]:
            await link.aclose()

    async def connect(self, address: str, lane: Lane) -> Link:
        with self._over_cable(address):
            link = await super().connect(address, lane)
            self._links[link] = address
        return link

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        with self._over_cable(address):
            return await super().call(address, method, request)

    @contextmanager
    def _over_cable(self, address: str) -> Iterator[None]:
        if address in self._cut:
            raise PeerUnreachable(f"the cable to {address} is pulled")
        with trio.CancelScope() as scope:
            self._calls[scope] = address
            try:
                yield
            finally:
                del self._calls[scope]
        if scope.cancelled_caught:
            raise LinkClosed(f"the cable to {address} was pulled")

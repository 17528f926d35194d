"""What the rules of transports need of a plugin, and how they get two ends of a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

import trio

from clustercore.interfaces import AcceptLink, Lane, Link, Transport, split_address
from clustercore.testing.conformance.base import Conformance

__all__ = ["MANY", "STUCK_S", "TransportBench"]

# Large messages that no transport buffers all of.
MANY = 1000
# How long a sender is watched to see that it waits, in seconds. One that is merely slow makes a rule weaker, not wrong.
STUCK_S = 0.2
NO_ADDRESSES = ("", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http!", "127.0.0.1:99999", "[::1", ":-1")


class TransportBench(Conformance, ABC):
    """What the author of a transport says of it."""

    # An address at which nobody serves. Port 1 is reserved, and nothing listens there.
    nobody: ClassVar[str] = "127.0.0.1:1"
    # Texts that are no address of this transport, or one at which nobody serves.
    no_addresses: ClassVar[tuple[str, ...]] = NO_ADDRESSES
    # Whether its addresses are host:port, and bytes can be sent there over TCP.
    is_at_host_and_port: ClassVar[bool] = True
    # Whether messages of one link arrive in the order of sending, on a network that keeps it.
    keeps_order: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> Transport:
        """Make another transport. All that one test makes can reach each other, and each can serve."""

    def make_at(self, address: str) -> Transport | None:
        """Make one that is to serve at this address, which is taken. Not overridden, it leaves out the rule."""
        return None

    async def send_nonsense(self, address: str, nonsense: bytes) -> None:
        """Send bytes that are no message to one who serves, and hang up. The default does so over TCP."""
        async with await trio.open_tcp_stream(*split_address(address)) as stream:
            # It may hang up at any time.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(nonsense)
                await stream.send_eof()
                with trio.move_on_after(STUCK_S):
                    while await stream.receive_some():
                        pass

    @asynccontextmanager
    async def _serving(self, transport: Transport, accept: AcceptLink) -> AsyncIterator[tuple[str, Callable[[], None]]]:
        """Serve in the background; yields the address and a function that stops it."""
        with trio.fail_after(self.limit_s):
            async with transport, trio.open_nursery() as nursery:
                address: str = await nursery.start(transport.serve, accept)
                yield address, nursery.cancel_scope.cancel
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _linked(self, accept: AcceptLink, lane: Lane) -> AsyncIterator[Link]:
        """Serve in the background; yields the dialling side of one link."""
        async with (
            self._serving(self.make(), accept) as (address, _),
            self.make() as client,
            await client.connect(address, lane) as link,
        ):
            yield link

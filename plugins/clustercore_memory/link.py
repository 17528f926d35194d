"""A link in memory: two bounded queues of messages, which are frozen and so travel as they are."""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces import Link, LinkClosed, Message
from clustercore_memory.network import MemoryNetwork

__all__ = ["MemoryLink", "link_pair"]

# Messages one side may be ahead of the other: enough that a leader's pipeline of AppendEntries is not held up by the
# turns of the event loop, few enough that a slow reader is felt.
_BUFFERED_MESSAGES = 16


class MemoryLink(Link):
    """One end of a link.

    Closing either end closes both. The other side still receives what was sent before, then LinkClosed; this side
    receives nothing more.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        own_address: str,
        peer_address: str,
        outgoing: trio.MemorySendChannel[Message],
        incoming: trio.MemoryReceiveChannel[Message],
    ) -> None:
        self._network = network
        self._own_address = own_address
        self._peer_address = peer_address
        self._outgoing = outgoing
        self._incoming = incoming
        self._is_closed = False
        # Called once, at the first close, by whoever keeps account of open links.
        self._on_close: Callable[[MemoryLink], None] | None = None

    def __repr__(self) -> str:
        return f"<MemoryLink {self._own_address} -> {self._peer_address}>"

    def on_close(self, callback: Callable[[MemoryLink], None]) -> None:
        """Have ``callback`` called when this end is closed."""
        self._on_close = callback

    async def send(self, message: Message) -> None:
        try:
            if self._network.can_reach(self._own_address, self._peer_address):
                await self._outgoing.send(message)
            else:
                await self._lose()
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise self._closed() from error

    async def _lose(self) -> None:
        """Do all that sending does but the sending."""
        await trio.lowlevel.checkpoint()
        if self._is_closed or self._outgoing.statistics().open_receive_channels == 0:
            raise trio.ClosedResourceError

    async def receive(self) -> Message:
        try:
            return await self._incoming.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel) as error:
            raise self._closed() from error

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close without a checkpoint. Idempotent."""
        self._is_closed = True
        self._outgoing.close()
        self._incoming.close()
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback(self)

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"the link between {self._own_address!r} and {self._peer_address!r} is closed")


def link_pair(network: MemoryNetwork, address: str, peer_address: str) -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a new link: first the one at ``address``."""
    to_peer, from_us = trio.open_memory_channel[Message](_BUFFERED_MESSAGES)
    to_us, from_peer = trio.open_memory_channel[Message](_BUFFERED_MESSAGES)
    return (
        MemoryLink(network, address, peer_address, to_peer, from_peer),
        MemoryLink(network, peer_address, address, to_us, from_us),
    )

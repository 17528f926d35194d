"""A link in memory: two bounded queues of messages, which are frozen and so travel as they are."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces import Link, LinkClosed, Message, encode_message
from clustercore_memory.network import MemoryNetwork
from clustercore_memory.quality import LinkQuality

__all__ = ["MemoryLink", "link_pair"]

# Messages one side may be ahead of the other: enough that a leader's pipeline of AppendEntries is not held up by the
# turns of the event loop, few enough that a slow reader is felt.
_BUFFERED_MESSAGES = 16

_PERFECT = LinkQuality()


@attrs.frozen(order=True)
class _OnItsWay:
    """A message, and when it arrives (Trio's clock)."""

    due: float
    # In the order of sending, to keep that order where the times are the same.
    number: int
    message: Message = attrs.field(order=False)
    # When it arrives a second time, if it does.
    again: float | None = attrs.field(default=None, order=False)


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
        outgoing: trio.MemorySendChannel[_OnItsWay],
        incoming: trio.MemoryReceiveChannel[_OnItsWay],
    ) -> None:
        self._network = network
        self._own_address = own_address
        self._peer_address = peer_address
        self._outgoing = outgoing
        self._incoming = incoming
        # Those that have not arrived, and were taken out of the queue to see when the next one does. A heap.
        self._on_the_way: list[_OnItsWay] = []
        self._last_number = 0
        # When the wire has room again.
        self._free_at = -math.inf
        self._is_closed = False
        # Called once, at the first close, by whoever keeps account of open links.
        self._on_close: Callable[[MemoryLink], None] | None = None

    def __repr__(self) -> str:
        return f"<MemoryLink {self._own_address} -> {self._peer_address}>"

    def on_close(self, callback: Callable[[MemoryLink], None]) -> None:
        """Have ``callback`` called when this end is closed."""
        self._on_close = callback

    @property
    def addresses(self) -> tuple[str, str]:
        """Both ends: this one first."""
        return self._own_address, self._peer_address

    async def send(self, message: Message) -> None:
        network = self._network
        quality = network.quality_of(self._own_address, self._peer_address)
        try:
            if not network.can_reach(self._own_address, self._peer_address):
                await self._lose()
            elif quality == _PERFECT:
                await self._put(message, -math.inf)
            elif network.rng.random() < quality.loss:
                await self._lose()
            else:
                is_repeated = network.rng.random() < quality.repetition
                due = self._arrival(message, quality)
                await self._put(message, due, self._arrival(message, quality) if is_repeated else None)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise self._closed() from error

    def _arrival(self, message: Message, quality: LinkQuality) -> float:
        """Return when a message arrives that is sent now."""
        now = trio.current_time()
        if quality.bytes_per_s < math.inf:
            self._free_at = max(now, self._free_at) + len(encode_message(message)) / quality.bytes_per_s
            now = self._free_at
        return now + quality.latency_s + quality.jitter_s * self._network.rng.random()

    async def _put(self, message: Message, due: float, again: float | None = None) -> None:
        self._last_number += 1
        await self._outgoing.send(_OnItsWay(due, self._last_number, message, again))

    async def _lose(self) -> None:
        """Do all that sending does but the sending."""
        await trio.lowlevel.checkpoint()
        if self._is_closed or self._outgoing.statistics().open_receive_channels == 0:
            raise trio.ClosedResourceError

    async def receive(self) -> Message:
        try:
            while not self._on_the_way:
                first = await self._incoming.receive()
                if first.due == -math.inf:
                    # On a perfect wire nothing is ever on its way.
                    return first.message
                self._expect(first)
            return await self._next_arrival()
        except (trio.ClosedResourceError, trio.EndOfChannel) as error:
            raise self._closed() from error

    def _expect(self, coming: _OnItsWay) -> None:
        heapq.heappush(self._on_the_way, coming)
        if coming.again is not None:
            heapq.heappush(self._on_the_way, _OnItsWay(coming.again, coming.number, coming.message))

    async def _next_arrival(self) -> Message:
        """Wait for the first of those on their way, unless one that comes meanwhile arrives before it."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError
            due = self._on_the_way[0].due
            if due <= trio.current_time():
                return heapq.heappop(self._on_the_way).message
            with trio.move_on_at(due):
                if len(self._on_the_way) < _BUFFERED_MESSAGES:
                    try:
                        self._expect(await self._incoming.receive())
                        continue
                    except trio.EndOfChannel:
                        # What was sent before the peer closed still arrives.
                        pass
                await trio.sleep_until(due)

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
    to_peer, from_us = trio.open_memory_channel[_OnItsWay](_BUFFERED_MESSAGES)
    to_us, from_peer = trio.open_memory_channel[_OnItsWay](_BUFFERED_MESSAGES)
    return (
        MemoryLink(network, address, peer_address, to_peer, from_peer),
        MemoryLink(network, peer_address, address, to_us, from_us),
    )

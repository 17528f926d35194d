"""A simulated connection: two bounded pipes of messages, which are frozen and so travel as they are."""

from __future__ import annotations

from collections import deque

import trio

from clustercore.interfaces import Link, LinkClosed, Message
from clustercore.testing.simulation.network import SimulatedNetwork

__all__ = ["SimulatedLink", "link_pair"]

# Messages on the way or unread, for each direction: enough that a leader's pipeline is not held up by the turns of the
# event loop, few enough that a slow reader is felt.
_MOST_MESSAGES = 16


class SimulatedLink(Link):
    """One end of a link.

    Closing either end closes both. The other side still receives what was sent before, then LinkClosed; this side
    receives nothing more.
    """

    # The other end.
    peer: SimulatedLink

    def __init__(self, network: SimulatedNetwork, own_address: str, peer_address: str) -> None:
        self._network = network
        self._own_address = own_address
        self._peer_address = peer_address
        # What has arrived here and is not received yet.
        self._arrived: deque[Message] = deque()
        # What was sent from here and has not arrived or was not received yet.
        self._outstanding = 0
        # When the last message sent from here arrives.
        self._last_due = 0.0
        # Closed at this end.
        self._is_closed = False
        # Closed at the other end, and known here.
        self._is_ended = False
        # The machine at this end has no power: nobody is told that it closes.
        self._is_silent = False
        # Whoever waits for room to send, and whoever waits for a message.
        self._sender = trio.lowlevel.ParkingLot()
        self._receiver = trio.lowlevel.ParkingLot()
        network.opened(own_address, self)

    def __repr__(self) -> str:
        return f"<SimulatedLink {self._own_address} -> {self._peer_address}>"

    @property
    def is_closed(self) -> bool:
        """Whether it was closed at this end."""
        return self._is_closed

    async def send(self, message: Message) -> None:
        await self._network.checkpoint()
        while True:
            if self._is_closed or self._is_ended:
                raise self._closed()
            if self._outstanding < _MOST_MESSAGES:
                break
            await self._sender.park()
        message = self._network.leave(self._own_address, self._peer_address, message)
        count, is_reset = self._network.draw_fate()
        if is_reset:
            self._network.carry(self._own_address, self._peer_address, self.peer.end)
            self._network.carry(self._peer_address, self._own_address, self.end)
        for _ in range(count):
            self._outstanding += 1
            due = self._network.carry(
                self._own_address,
                self._peer_address,
                lambda: self.peer.arrive(message),
                lose=self.make_room,
                not_before=self._last_due if self._network.options.is_ordered else 0.0,
            )
            self._last_due = max(self._last_due, due)

    def arrive(self, message: Message) -> None:
        """Take a message from the wire."""
        if self._is_closed:
            # Nobody knows of this connection here any more, and says so.
            self._network.carry(self._own_address, self._peer_address, self.peer.end)
            return
        self._arrived.append(message)
        self._receiver.unpark()

    async def receive(self) -> Message:
        if self._arrived:
            await self._network.checkpoint()
        while True:
            if self._is_closed:
                await trio.lowlevel.checkpoint()
                raise self._closed()
            if self._arrived:
                message = self._arrived.popleft()
                self.peer.make_room()
                return message
            if self._is_ended:
                await trio.lowlevel.checkpoint()
                raise self._closed()
            await self._receiver.park()

    def make_room(self) -> None:
        """Learn that the other end has taken a message, or that it was lost."""
        self._outstanding -= 1
        self._sender.unpark()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close without a checkpoint. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._arrived.clear()
        self._network.closed(self._own_address, self)
        self._wake()
        if not self._is_silent:
            # Behind what was sent before.
            self._network.carry(self._own_address, self._peer_address, self.peer.end, not_before=self._last_due)

    def end(self) -> None:
        """Learn that the other end is closed."""
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        self._sender.unpark_all()
        self._receiver.unpark_all()

    def fall_silent(self) -> None:
        """Lose the power at this end."""
        self._is_silent = True
        self.close()

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"the link between {self._own_address!r} and {self._peer_address!r} is closed")


def link_pair(network: SimulatedNetwork, address: str, peer_address: str) -> tuple[SimulatedLink, SimulatedLink]:
    """Return the two ends of a new link: first the one at ``address``."""
    own, peer = SimulatedLink(network, address, peer_address), SimulatedLink(network, peer_address, address)
    own.peer, peer.peer = peer, own
    return own, peer

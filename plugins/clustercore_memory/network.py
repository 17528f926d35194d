"""Who can reach whom: the wires between the memory transports of one process.

This file knows addresses and cuts; ``link`` carries messages, ``transport`` accepts and dials. All of it is
deterministic: nothing here depends on time, chance or the order of a set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clustercore.interfaces import PeerUnreachable, TransportError

if TYPE_CHECKING:
    from clustercore_memory.transport import Listener

__all__ = ["MemoryNetwork"]

# Addresses that no partition names are together, on a side of their own.
_UNNAMED = 0


class MemoryNetwork:
    """Connects the memory transports that are made with it; no other network knows them.

    A test cuts it with ``partition`` and ``isolate`` and mends it with ``heal``. Across a cut a message is silently
    lost, as it is when a cable is pulled: links stay open, and those that wait on them learn nothing. A new link, or
    a call, raises PeerUnreachable, and a call under way raises LinkClosed when its response meets the cut. What a
    peer had received before the cut, read or not, it keeps. A link that one side closes is closed for the other, cut
    or not.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        # The side each address is on. Two addresses reach each other if they are on the same.
        self._sides: dict[str, int] = {}
        self._last_side = _UNNAMED

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the network into groups of addresses, in place of any cut before.

        Addresses in no group form one more, together. An address named twice is on the side that names it last.
        """
        self.heal()
        for group in groups:
            side = self._new_side()
            for address in group:
                self._sides[address] = side

    def isolate(self, address: str) -> None:
        """Cut one address off from all others, and leave other cuts as they are."""
        self._sides[address] = self._new_side()

    def heal(self) -> None:
        """Let everyone reach everyone."""
        self._sides.clear()

    def can_reach(self, address: str, other: str) -> bool:
        """Say whether no cut lies between two addresses, whether or not someone serves there."""
        return self._sides.get(address, _UNNAMED) == self._sides.get(other, _UNNAMED)

    def _new_side(self) -> int:
        self._last_side += 1
        return self._last_side

    # -- For the transports --

    def check_free(self, address: str) -> None:
        """Make sure that nobody serves at an address.

        Raises:
            TransportError: someone does.
        """
        if address in self._listeners:
            raise TransportError(f"{address!r} is served already on this memory network; choose another address")

    def listen(self, address: str, listener: Listener) -> None:
        """Take an address that is free."""
        self._listeners[address] = listener

    def stop_listening(self, address: str) -> None:
        """Give an address back."""
        del self._listeners[address]

    def find(self, source: str, address: str) -> Listener:
        """Return who serves at an address.

        Raises:
            PeerUnreachable: nobody does, or a cut lies between.
        """
        if not self.can_reach(source, address):
            raise PeerUnreachable(f"{address!r} cannot be reached from {source!r}: the memory network is cut between")
        listener = self._listeners.get(address)
        if listener is None:
            raise PeerUnreachable(f"nobody serves at {address!r} on this memory network")
        return listener

"""Who can reach whom: the wires between the memory transports of one process.

This file knows addresses, cuts and qualities; ``link`` carries messages, ``transport`` accepts and dials. All of it is
deterministic: nothing here depends on the order of a set, on time only what a quality says, and what chance there is
comes from one seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from clustercore.interfaces import PeerUnreachable, TransportError
from clustercore_memory.quality import LinkQuality

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

    ``set_quality`` makes links slow, lossy or unruly, and ``drop_links`` ends them, as a reset does.

    Args:
        seed: Decides whatever a ``LinkQuality`` leaves to chance.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)  # chance that can be had again, and no secret
        self._quality = LinkQuality()
        # In place of it, between two addresses.
        self._qualities: dict[frozenset[str], LinkQuality] = {}
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

    def set_quality(self, quality: LinkQuality, between: tuple[str, str] | None = None) -> None:
        """Give all links a quality, or those between two addresses: open ones too, for what is sent from now on.

        What was set between two addresses stays when another is set for all.
        """
        if between is None:
            self._quality = quality
        else:
            self._qualities[frozenset(between)] = quality

    def quality_of(self, address: str, other: str) -> LinkQuality:
        """Return the quality of the links between two addresses."""
        return self._qualities.get(frozenset((address, other)), self._quality)

    def drop_links(self, address: str | None = None) -> None:
        """Close all links that are open, or all of one address, as a connection that is reset. New ones can be made."""
        for listener in list(self._listeners.values()):
            listener.drop_links(address)

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

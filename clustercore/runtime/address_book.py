"""Where the members are, by all that a node knows of it."""

from __future__ import annotations

from collections.abc import Callable

from clustercore.interfaces.discovery import DiscoverySnapshot
from clustercore.raft.types import Configuration, NodeId
from clustercore.runtime.addresses import is_for_peers

__all__ = ["AddressBook"]


class AddressBook:
    """Looks a member up where its address may be known: with discovery, with the members, and with who has called."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        own_address: Callable[[], str],
        configuration: Callable[[], Configuration],
        known: Callable[[], DiscoverySnapshot],
        reached_at: Callable[[NodeId], str | None],
    ) -> None:
        """Keep nothing: each answer is of the moment of the question.

        Args:
            node_id: This node.
            own_address: Where it serves.
            configuration: The members that count, with the addresses they agreed on.
            known: What discovery says.
            reached_at: Where a peer was last reached; None if it never was.
        """
        self._node_id = node_id
        self._own_address = own_address
        self._configuration = configuration
        self._known = known
        self._reached_at = reached_at

    def of(self, peer: NodeId) -> list[str]:
        """Return where a peer may be: as discovery knows it now, as the members agreed on, and where it was last.

        The last is for when discovery is wrong, and the members never had to write down where it is.
        """
        server = self._configuration().get(peer)
        agreed = None if server is None else server.address
        addresses = self._known().address_of(peer), agreed, self._reached_at(peer)
        return list(dict.fromkeys(address for address in addresses if address))

    def told_of(self, member: NodeId) -> str | None:
        """Return where others are told that a member is, this node included; None if this node does not know."""
        addresses = [self._own_address()] if member == self._node_id else self.of(member)
        return next(filter(is_for_peers, addresses), None)

    def of_peers(self) -> dict[NodeId, str]:
        """Return the other members, and where each is reached, as far as this node knows."""
        found = {peer: self.told_of(peer) for peer in self._configuration().peers_of(self._node_id)}
        return {peer: address for peer, address in found.items() if address is not None}

"""What discovery and a node tell each other: where the others are, and what is true of this node."""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces.discovery import Discovery, DiscoverySnapshot, Member
from clustercore.raft.types import NodeId
from clustercore.runtime.signals import Wakeup

__all__ = ["NOTHING_KNOWN", "Presence"]

# What a node knows of the others before discovery has said anything.
NOTHING_KNOWN = DiscoverySnapshot(0, (), "nobody yet", is_stale=True)


class Presence:
    """Follows what a discovery says, and keeps what it says of this node true.

    Nobody waits for it but whoever wants to: a source that does not answer keeps no node from its work.
    """

    def __init__(
        self, discovery: Discovery, node_id: NodeId, *, known: DiscoverySnapshot, member: Callable[[], Member | None]
    ) -> None:
        """Tell and ask nothing yet.

        Args:
            discovery: Entered already.
            node_id: This node.
            known: What it is known to say.
            member: What is to be told of this node now; None if it is to be forgotten. Call ``look`` when it changes.
        """
        self._discovery = discovery
        self._node_id = node_id
        self._member = member
        self._changed = Wakeup()
        # The newest that discovery said.
        self.known = known
        # Set once it tells this node.
        self.is_told = trio.Event()

    def look(self) -> None:
        """Look again at what is to be told."""
        self._changed.set()

    async def follow(self) -> None:
        """Keep ``known`` the newest, until cancelled.

        Raises: ConfigError if what the source tells can never be right.
        """
        while True:
            self.known = await self._discovery.changed(self.known.version)

    async def tell(self) -> None:
        """Keep this node registered as what it is, until cancelled.

        Raises: ConfigError if the source can never take it.
        """
        told: Member | None = None
        while True:
            # It may be another one when it is told: then this has been woken.
            member = self._member()
            if member is not None and member != told:
                await self._discovery.register(member)
            elif member is None and told is not None:
                await self._discovery.deregister(self._node_id)
            told = member
            self.is_told.set()
            await self._changed.wait()

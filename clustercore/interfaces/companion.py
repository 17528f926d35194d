"""NodeCompanion: what runs beside a node, in its nursery and on its listener, and is not replicated by Raft."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import attrs

from clustercore.interfaces.node import NodeHandle
from clustercore.interfaces.transport import Service, Transport
from clustercore.raft.types import NodeId

__all__ = ["NodeCompanion", "NodeSite"]


@attrs.frozen
class NodeSite:
    """Where a companion runs: the node, and the ways to the others."""

    node: NodeHandle
    # The node's own, which it enters and leaves; a ServiceTransport if the companion has services.
    transport: Transport
    # The other members, voters and learners alike, and where each is reached, as this node knows it at the moment of
    # the call; one whose address nobody knows is left out.
    peers: Callable[[], Mapping[NodeId, str]]
    # All other members, also those whose address nobody knows, as of the newest configuration in this node's log. One
    # that is being removed is among them until that is certain. None if it is not known who they are: no cluster was
    # formed, or this node is no member of it. Members that were added meanwhile may be missing where this node is cut
    # off or behind; ``node.members.get`` asks the leader.
    members: Callable[[], frozenset[NodeId] | None] = lambda: None


class NodeCompanion(ABC):
    """Lives as long as a node does. Used once, as the node is."""

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return the services to answer on the node's own listener. The default has none.

        Called by: the node, once, before it serves. Requests may come as soon as it does, before ``run``.
        """
        return ()

    def complaint(self) -> str:
        """Return what is not as it should be with it, for people; empty if all is, as by default.

        Called by: the node, whenever it is asked for its status, which is degraded as long as there is something:
        ``NodeHealth.degraded``. It must neither block nor raise.
        """
        return ""

    @abstractmethod
    async def run(self, site: NodeSite) -> None:
        """Do what is to be done while the node runs. May return earlier.

        Cancellation: the node stops.
        Called by: the node, once, in a task of its own nursery, when it serves.
        Raises: a ClusterError ends the node, and leaves its block.
        """

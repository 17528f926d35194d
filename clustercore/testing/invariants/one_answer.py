"""Each request has one answer (``clustercore.raft.messages``)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, Reply
from clustercore.raft.messages import RaftRequest
from clustercore.raft.types import NodeId
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["OneAnswer"]


class OneAnswer(Invariant):
    """A request is answered once, with yes or no, and an answer is not answered: nobody is left to wait."""

    name = "each request has one answer"
    source = "clustercore.raft.messages"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._is_request = False

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember what it is."""
        self._is_request = isinstance(packet.message, RaftRequest)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Count."""
        if origin is None:
            return
        replies = sum(type(effect) is Reply for effect in effects)
        if replies != self._is_request:
            self.fail(f"{node.node_id} sends {replies} answers to one message of {origin}", node)

"""Leadership is handed over whole (thesis §3.10)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, ProposalsAppended, Send
from clustercore.raft.messages import TimeoutNowRequest
from clustercore.raft.types import NodeId
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["HandOver"]


class HandOver(Invariant):
    """A leader that hands over takes nothing more, and tells its successor to stand once that has all of its log."""

    name = "leadership is handed over whole"
    source = "thesis §3.10"

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Look at what a leader says and takes meanwhile."""
        transfer = node.core.state.transfer
        if transfer is None:
            return
        for effect in effects:
            kind = type(effect)
            if kind is ProposalsAppended:
                self.fail(f"{node.node_id} takes proposals while it hands over to {transfer.target}", node)
            if kind is Send and isinstance(effect, Send) and type(effect.message) is TimeoutNowRequest:
                self._look(world, node, effect.to)

    def _look(self, world: World, node: Node, target: NodeId) -> None:
        state, successor = node.core.state, world.nodes[target]
        last_index, last_term = state.log.last_index, state.log.last_term
        if (
            successor.core.state.current_term > state.current_term
            or node.known_storages.get(target) != successor.storage
        ):
            # It has moved on already.
            return
        if not successor.disk.holds(last_index, last_term):
            self.fail(f"{node.node_id} tells {target} to stand, which lacks entry {last_index}", node)

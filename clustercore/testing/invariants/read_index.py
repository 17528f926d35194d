"""Linearizable reads: whoever reads at the index sees all that was committed before it asked (thesis §6.4)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, ReadReady, ReadRefused
from clustercore.raft.types import NodeId, ReadId
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["ReadIndex"]


class ReadIndex(Invariant):
    """A read index is at least what was committed anywhere when the read was asked; each read is answered once."""

    name = "read index is linearizable"
    source = "thesis §6.4"

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Look at answers to reads."""
        for effect in effects:
            kind = type(effect)
            if kind is ReadReady:
                assert isinstance(effect, ReadReady)
                for read_id in effect.read_ids:
                    self._once(world, node, read_id)
                    if effect.read_index < world.asked_at(node, read_id):
                        self.fail(
                            f"{node.node_id} answers read {read_id} with index {effect.read_index}; "
                            f"{world.asked_at(node, read_id)} was committed before it was asked",
                            node,
                        )
            elif kind is ReadRefused:
                assert isinstance(effect, ReadRefused)
                for read_id in effect.read_ids:
                    self._once(world, node, read_id)

    def _once(self, world: World, node: Node, read_id: ReadId) -> None:
        if world.is_answered(node, read_id):
            self.fail(f"{node.node_id} answers read {read_id} twice", node)

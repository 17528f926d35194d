"""Leases: while one lasts nobody leads a later term, and its holder knows all that is committed (thesis §6.4.1)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex, Role
from clustercore.testing.invariants.facts import Invariant, Node, Seen, World

__all__ = ["Leases"]


class Leases(Invariant):
    """No two leaders' leases overlap. It holds only where clocks run apart by no more than the cores are told."""

    name = "leases never overlap"
    source = "thesis §6.4.1"

    def took_office(self, world: World, node: Node) -> None:
        """Look for a lease of an earlier leader."""
        for other in world.nodes.values():
            if other.core.state.current_term < node.core.state.current_term and _holds_lease(world, other):
                self._fail(other, f"{node.node_id} leads term {node.core.state.current_term}")

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """Look for leases of those that do not know what was just committed."""
        if last <= self.facts.last_committed:
            return
        for other in world.nodes.values():
            if other.core.state.commit_index < last and _holds_lease(world, other):
                self._fail(other, f"does not know that entry {last} is committed", is_own=True)

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Look at leases that begin or grow while another leads already."""
        if node.core.state.current_term < self.facts.last_led_term and _holds_lease(world, node):
            self._fail(node, f"term {self.facts.last_led_term} has a leader")

    def _fail(self, holder: Node, text: str, *, is_own: bool = False) -> None:
        joined = "and " if is_own else "while "
        self.fail(f"{holder.node_id} holds a lease in term {holder.core.state.current_term} {joined}{text}", holder)


def _holds_lease(world: World, node: Node) -> bool:
    if node.core.state.role is not Role.LEADER or not node.is_up:
        return False
    return world.lease_until(node) > world.clock_of(node)

"""Election Safety: at most one leader can be elected in a given term (Raft Figure 3, §5.2)."""

from __future__ import annotations

from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["ElectionSafety"]


class ElectionSafety(Invariant):
    """At most one leader in a term, over the whole run and across restarts."""

    name = "election safety"
    source = "Raft Figure 3, §5.2"

    def took_office(self, world: World, node: Node) -> None:
        """Compare with who led this term before."""
        term = node.core.state.current_term
        other = self.facts.leaders.get(term, node.node_id)
        if other != node.node_id:
            self.fail(f"{other} and {node.node_id} both lead in term {term}", node)

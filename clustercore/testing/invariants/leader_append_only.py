"""Leader Append-Only: a leader never overwrites or deletes entries in its log (Raft Figure 3, §5.3)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, Role, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["LeaderAppendOnly"]


class LeaderAppendOnly(Invariant):
    """A leader only appends: it cuts nothing, and takes no snapshot of another's."""

    name = "leader append-only"
    source = "Raft Figure 3, §5.3"

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Look at what a leader cuts."""
        if cut and self._leads(node):
            self.fail(f"leader {node.node_id} replaces its entries from {entries[0].index} on", node)

    def replaced(self, world: World, node: Node, index: LogIndex, term: Term, *, keeps_log: bool) -> None:
        """Look at whose snapshot a leader takes."""
        if self._leads(node):
            self.fail(f"leader {node.node_id} takes another's snapshot at {index} for its log", node)

    def _leads(self, node: Node) -> bool:
        """Whether a node led before this event, and leads in the same term after it."""
        seen, state = self.facts.seen[node.node_id], node.core.state
        return seen.role is state.role is Role.LEADER and seen.term == state.current_term

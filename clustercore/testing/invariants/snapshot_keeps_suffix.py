"""A leader's snapshot takes nothing away that agrees with it (Raft Figure 13, rule 6)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["SnapshotKeepsSuffix"]


class SnapshotKeepsSuffix(Invariant):
    """Where the log has the last entry that a snapshot covers, what follows that stays: it may be acknowledged."""

    name = "a snapshot cuts nothing that agrees with it"
    source = "Raft Figure 13, rule 6"

    def replaced(self, world: World, node: Node, index: LogIndex, term: Term, *, keeps_log: bool) -> None:
        """Compare the log as it was with the snapshot."""
        if not keeps_log and self.facts.seen[node.node_id].term_at(index) == term:
            self.fail(f"{node.node_id} has entry {index} of term {term}, and drops its log for a snapshot of it", node)

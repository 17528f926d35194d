"""What never falls: terms, across restarts too; commit and applied index of a running node (Raft Figure 2)."""

from __future__ import annotations

from clustercore.raft.messages import PreVoteRequest
from clustercore.raft.types import NO_TERM, NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, Seen, World

__all__ = ["NeverBackwards"]


class NeverBackwards(Invariant):
    """Term, commit index and applied index only grow, and no start of a node knows a lower term than it told."""

    name = "terms and indexes never fall"
    source = "Raft Figure 2"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # The highest term that a message of each storage carried.
        self._shown: dict[tuple[NodeId, int], Term] = {}

    def started(self, world: World, node: Node) -> None:
        """Compare the term on the disk with those that were told."""
        shown = self._shown.get((node.node_id, node.storage), NO_TERM)
        if node.core.state.current_term < shown:
            self.fail(f"{node.node_id} starts in term {node.core.state.current_term} and told of {shown} before", node)

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Remember the term that a message tells."""
        message = packet.message
        # Who asks around names the term after its own.
        term = Term(message.term - 1) if type(message) is PreVoteRequest else message.term
        key = node.node_id, node.storage
        if term > self._shown.get(key, NO_TERM):
            self._shown[key] = term

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Compare with before the event."""
        state = node.core.state
        if (
            state.current_term < seen.term
            or state.commit_index < seen.commit_index
            or state.last_applied < seen.last_applied
        ):
            self.fail(
                f"{node.node_id} went from term {seen.term}, committed {seen.commit_index}, applied "
                f"{seen.last_applied} to {state.current_term}, {state.commit_index}, {state.last_applied}",
                node,
            )

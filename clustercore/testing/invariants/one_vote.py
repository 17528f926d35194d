"""One vote a term, across restarts and lost disks (Raft §5.2, Figure 2)."""

from __future__ import annotations

from clustercore.raft.effects import PersistHardState
from clustercore.raft.messages import RequestVoteRequest, RequestVoteResponse
from clustercore.raft.types import NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World
from clustercore.testing.protocol.disk import Write

__all__ = ["OneVote"]


class OneVote(Invariant):
    """No node ever lets two candidates know, or two disks of one term hold, that it votes for them."""

    name = "one vote a term"
    source = "Raft §5.2"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.votes: dict[tuple[NodeId, Term], NodeId] = {}

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Look at votes that leave a node: a candidate's request tells of its own."""
        message = packet.message
        if type(message) is RequestVoteRequest:
            self._vote(node, message.term, message.candidate_id)
        elif type(message) is RequestVoteResponse and message.vote_granted:
            self._vote(node, message.term, packet.to)

    def stored(self, world: World, node: Node, write: Write) -> None:
        """Look at votes that reach a disk: within a term they may change from none to one, and not again."""
        if type(write) is PersistHardState:
            new, old = write.hard_state, node.disk.hard_state
            if new.current_term == old.current_term and old.voted_for not in (None, new.voted_for):
                self.fail(
                    f"{node.node_id} replaces its vote for {old.voted_for} by {new.voted_for} in term "
                    f"{new.current_term}",
                    node,
                )

    def _vote(self, node: Node, term: Term, candidate: NodeId) -> None:
        known = self.votes.setdefault((node.node_id, term), candidate)
        if known != candidate:
            self.fail(f"{node.node_id} votes for {known} and for {candidate} in term {term}", node)

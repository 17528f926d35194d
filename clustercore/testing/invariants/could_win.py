"""Whoever stands for election was told that it could win (thesis §9.6), or was told to stand (§3.10)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, PersistHardState
from clustercore.raft.messages import PreVoteResponse, TimeoutNowRequest
from clustercore.raft.types import NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["CouldWin"]


class CouldWin(Invariant):
    """A node that was cut off does not come back with a later term than those who follow a leader have."""

    name = "only who could win stands"
    source = "thesis §9.6"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # By who asked and for which term: those who would vote for it.
        self._would_vote: dict[tuple[NodeId, Term], set[NodeId]] = {}
        self._is_told = False

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember what a node hears."""
        message = packet.message
        kind = type(message)
        self._is_told = kind is TimeoutNowRequest
        if kind is PreVoteResponse and isinstance(message, PreVoteResponse) and message.vote_granted:
            self._would_vote.setdefault((node.node_id, message.candidate_term), set()).add(packet.sender)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Look at a node that votes for itself in a new term."""
        is_told, self._is_told = self._is_told, False
        for effect in effects:
            if isinstance(effect, PersistHardState) and effect.hard_state.voted_for == node.node_id and not is_told:
                self._look(node, effect.hard_state.current_term)

    def _look(self, node: Node, term: Term) -> None:
        members = node.core.state.configuration
        told = self._would_vote.get((node.node_id, term), set()) | {node.node_id}
        for voters in (members.voters, members.old_voters):
            if voters and 2 * len(voters & told) <= len(voters):
                self.fail(
                    f"{node.node_id} stands in term {term}, for which of the voters {' '.join(sorted(voters))} only "
                    f"{' '.join(sorted(voters & told)) or 'none'} would vote for it",
                    node,
                )

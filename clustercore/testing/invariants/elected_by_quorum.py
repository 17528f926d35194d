"""Whoever leads was voted for by a majority, and by both while members change (Raft §5.2; thesis §4.3)."""

from __future__ import annotations

from clustercore.raft.messages import RequestVoteResponse
from clustercore.raft.types import Configuration, LogIndex, NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["ElectedByQuorum"]


class ElectedByQuorum(Invariant):
    """A leader has the votes of a quorum, each given in its term, by a voter with the storage that is counted on.

    Too few votes make two leaders of one term only if somebody else gets the others; here they are found at once.
    """

    name = "a leader has a quorum of votes"
    source = "Raft §5.2, thesis §4.3"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # By term and candidate: who let it know that it has their vote, and with which storage.
        self._votes: dict[tuple[Term, NodeId], set[tuple[NodeId, str]]] = {}

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Remember votes."""
        message = packet.message
        if type(message) is RequestVoteResponse and message.vote_granted:
            self._votes.setdefault((message.term, packet.to), set()).add((node.node_id, node.incarnation))

    def took_office(self, world: World, node: Node) -> None:
        """Count them. The last entry is the leader's own, and may have changed the members."""
        state, stored = node.core.state, node.disk.hard_state
        votes = set(self._votes.get((state.current_term, node.node_id), ()))
        if (stored.current_term, stored.voted_for) == (state.current_term, node.node_id):
            votes.add((node.node_id, node.incarnation))
        configuration = state.configurations.at(LogIndex(state.log.last_index - 1))
        granted = {voter for voter, incarnation in votes if _is_counted_on(configuration, voter, incarnation)}
        for voters in (configuration.voters, configuration.old_voters):
            # Whoever forms a cluster needs them all.
            needed = len(voters) if not configuration.is_formed else len(voters) // 2 + bool(voters)
            if len(granted & voters) < needed:
                self.fail(
                    f"{node.node_id} leads term {state.current_term}, and of the voters {' '.join(sorted(voters))} has "
                    f"the votes of {' '.join(sorted(granted & voters)) or 'none'}",
                    node,
                )


def _is_counted_on(configuration: Configuration, voter: NodeId, incarnation: str) -> bool:
    server = configuration.get(voter)
    return server is None or server.incarnation in ("", incarnation)

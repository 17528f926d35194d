"""A message of an earlier term changes nothing, and neither does asking around (Raft §5.1, thesis §9.6)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, ReadReady, Reply, Send
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse
from clustercore.raft.state import RaftState
from clustercore.raft.types import NodeId, Role
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["StaleMessages"]


class StaleMessages(Invariant):
    """Of a message of an earlier term, or of a pre-vote, nothing comes but its answer; and each request has one."""

    name = "stale messages change nothing"
    source = "Raft §5.1, thesis §9.6"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # What must still be so after the message that is being delivered; None if it may change things.
        self._unchanged: tuple[object, ...] | None = None

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember how things are, if the message must leave them so."""
        state, message = node.core.state, packet.message
        kind = type(message)
        if kind is PreVoteRequest:
            is_stale = True
        elif kind is PreVoteResponse:
            assert isinstance(message, PreVoteResponse)
            # One from a node that is behind may well count: it answers for the term that is asked about.
            is_stale = max(message.term, message.candidate_term) <= state.current_term
        else:
            is_stale = message.term < state.current_term
        self._unchanged = _substance(state) if is_stale else None

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Compare."""
        if self._unchanged is not None and origin is not None:
            # A read that a smaller configuration has confirmed is answered with the next message, of any kind.
            is_answer = all(isinstance(one, Reply | ReadReady) for one in effects)
            if _substance(node.core.state) != self._unchanged or not is_answer:
                self.fail(f"a pre-vote or a message of an earlier term changed something at {node.node_id}", node)
            self._unchanged = None
        replies = 0
        for effect in effects:
            if type(effect) is Reply:
                replies += 1
            elif type(effect) is Send and type(effect.message) is PreVoteRequest:
                seen, state = self.facts.seen[node.node_id], node.core.state
                # Who is a majority by itself asks its learners, and stands at once.
                is_asking = state.role is Role.PRE_CANDIDATE
                if is_asking and (state.current_term, state.voted_for) != (seen.term, seen.voted_for):
                    self.fail(f"{node.node_id} asks around, and changes its term or vote with it", node)
        if replies > 1 or (replies and origin is None):
            self.fail(f"{node.node_id} sends {replies} answers to one request", node)


def _substance(state: RaftState) -> tuple[object, ...]:
    """What messages change."""
    known = tuple((peer, progress.match_index, progress.next_index) for peer, progress in state.progress.items())
    log = state.log
    office = state.role, state.current_term, state.voted_for, state.leader_id, tuple(state.votes.items())
    deadlines = state.election_deadline, state.heartbeat_deadline, state.leader_protected_until
    return office, deadlines, state.commit_index, log.last_index, log.last_term, known

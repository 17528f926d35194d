"""Leader election (Raft §5.2): standing, counting votes, winning."""

from __future__ import annotations

from clustercore.raft.effects import Send
from clustercore.raft.messages import RequestVoteRequest, RequestVoteResponse
from clustercore.raft.quorum import VoteResult, vote_result
from clustercore.raft.replication import maybe_append_to_all
from clustercore.raft.roles import become_candidate, become_leader
from clustercore.raft.state import RaftState
from clustercore.raft.types import NodeId, Role

__all__ = ["count_own_vote", "receive_request_vote_response", "stand_for_election"]


def stand_for_election(state: RaftState, now: float) -> None:
    """Become a candidate and ask every other voter for its vote."""
    become_candidate(state, now)
    request = RequestVoteRequest(
        term=state.current_term,
        candidate_id=state.node_id,
        last_log_index=state.log.last_index,
        last_log_term=state.log.last_term,
    )
    # Asking says "I voted for myself": after a crash that forgot it, this node could vote for another in this term.
    for peer in state.configuration.peers_of(state.node_id):
        state.emit(Send(peer, request, after=state.hard_state_gate))


def count_own_vote(state: RaftState, now: float) -> None:
    """Count a candidate's vote for itself, now that it is durable."""
    if state.role is Role.CANDIDATE and state.hard_state_gate is None:
        _count_vote(state, state.node_id, True, now)


def receive_request_vote_response(state: RaftState, voter: NodeId, response: RequestVoteResponse, now: float) -> None:
    """Count an answer of the present election; one of an earlier term, or to a node no longer standing, is late."""
    if state.role is Role.CANDIDATE and response.term == state.current_term:
        _count_vote(state, voter, response.vote_granted, now)


def _count_vote(state: RaftState, voter: NodeId, vote_granted: bool, now: float) -> None:
    state.votes.setdefault(voter, vote_granted)
    # An election that cannot be won any more just runs out: its term is spent, and the deadline is already random.
    if vote_result(state.configuration, state.votes) is VoteResult.WON:
        become_leader(state, now)
        maybe_append_to_all(state, now)

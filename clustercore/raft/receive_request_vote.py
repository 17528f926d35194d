"""RequestVote at the receiver (Raft Figure 2, "RequestVote RPC"; §5.2, §5.4.1)."""

from __future__ import annotations

from clustercore.raft.effects import Reply
from clustercore.raft.messages import RequestVoteRequest, RequestVoteResponse
from clustercore.raft.roles import reset_election_deadline
from clustercore.raft.state import RaftState

__all__ = ["receive_request_vote"]


def receive_request_vote(state: RaftState, request: RequestVoteRequest, now: float) -> None:
    """Grant or refuse a vote. The request's term is at most current_term: a higher one was taken over before."""
    granted = request.term == state.current_term and _may_vote_for(state, request)
    if granted:
        if state.voted_for is None:
            state.voted_for = request.candidate_id
            state.persist_hard_state()
        reset_election_deadline(state, now)
    state.emit(Reply(RequestVoteResponse(state.current_term, granted), after=state.hard_state_gate))


def _may_vote_for(state: RaftState, request: RequestVoteRequest) -> bool:
    """One vote a term, and only for a log that holds all this node may have helped to commit (Raft §5.4.1)."""
    if state.voted_for not in (None, request.candidate_id):
        return False
    return state.log.is_up_to_date(request.last_log_index, request.last_log_term)

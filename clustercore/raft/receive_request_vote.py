"""PreVote and RequestVote at the receiver (Raft Figure 2, "RequestVote RPC"; §5.2, §5.4.1; thesis §4.2.3, §9.6)."""

from __future__ import annotations

from clustercore.raft.effects import Reply
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.roles import become_follower, reset_election_deadline, vote_for
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, Role

__all__ = ["receive_pre_vote", "receive_request_vote"]


def receive_pre_vote(state: RaftState, request: PreVoteRequest, now: float) -> None:
    """Say whether this node would vote for the candidate. Nothing changes by it: no term, no vote, no deadline."""
    granted = request.term > state.current_term and not _protects_leader(state, now) and _trusts(state, request)
    response = PreVoteResponse(state.current_term, candidate_term=request.term, vote_granted=granted)
    state.emit(Reply(response, after=state.hard_state_gate))


def receive_request_vote(state: RaftState, request: RequestVoteRequest, now: float) -> None:
    """Grant or refuse a vote, and take over the term of the request, unless a leader is to be protected from it."""
    # Whoever hears a leader does not help to depose it, and does not even take over the term: a node that was removed,
    # or cut off before it knew of PreVote, would otherwise end a leadership that serves well (thesis §4.2.3). It grants
    # no vote in its present term either: it may have come to that by another message, since it told the leader that it
    # follows, and the leader's lease counts on its vote (thesis §6.4.1).
    protects = not request.is_leadership_transfer and _protects_leader(state, now)
    if request.term > state.current_term and not protects:
        become_follower(state, request.term, now)
    granted = not protects and request.term == state.current_term and _may_vote_for(state, request)
    if granted:
        if state.voted_for is None:
            vote_for(state, request.candidate_id)
        reset_election_deadline(state, now)
    state.emit(Reply(RequestVoteResponse(state.current_term, granted), after=state.hard_state_gate))


def _protects_leader(state: RaftState, now: float) -> bool:
    """Whether a leader is at work: this node itself, or one it heard less than an election timeout ago.

    A leader that has lost its followers steps down by itself within that time (thesis §6.2), so nobody waits for ever.
    """
    return state.role is Role.LEADER or now < state.leader_protected_until


def _may_vote_for(state: RaftState, request: RequestVoteRequest) -> bool:
    """One vote a term (Raft §5.2)."""
    return state.voted_for in (None, request.candidate_id) and _trusts(state, request)


def _trusts(state: RaftState, request: PreVoteRequest | RequestVoteRequest) -> bool:
    """Say whether this node's vote counts, and the candidate's log holds all that it may have helped to commit.

    The latter is Raft §5.4.1, and rests on a disk that forgets nothing. One that is empty may be a wiped one's, while
    the cluster goes on elsewhere: its node helps to form a cluster with others that have nothing, and elects nobody who
    has something. But if it has voted while it knew of no cluster, then that is on its disk, and the disk is no wiped
    one.
    """
    if not state.may_vote:
        return False
    if not state.configuration.is_formed and not state.is_founder and request.last_log_index > BEFORE_LOG:
        return False
    return state.log.is_up_to_date(request.last_log_index, request.last_log_term)

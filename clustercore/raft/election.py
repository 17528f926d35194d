"""Leader election (Raft §5.2, thesis §9.6): asking around, standing, counting votes, winning.

A node whose election deadline passes first asks whether it could win (PreVote). Only then it starts a term: one that
was cut off does not come back with a high term and depose a leader that serves well.
"""

from __future__ import annotations

from clustercore.raft.effects import Send
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.quorum import VoteResult, vote_result
from clustercore.raft.replication import maybe_append_to_all
from clustercore.raft.roles import become_candidate, become_leader, become_pre_candidate, reset_election_deadline
from clustercore.raft.state import RaftState
from clustercore.raft.types import NodeId, Role, Term

__all__ = [
    "ask_around",
    "count_own_vote",
    "receive_pre_vote_response",
    "receive_request_vote_response",
    "stand_for_election",
]


def ask_around(state: RaftState, now: float) -> None:
    """Ask every other member whether it would vote for this node (thesis §9.6). A node that is removed keeps quiet."""
    if not state.may_stand:
        # It could when the deadline was set: since then it heard that its removal is committed.
        reset_election_deadline(state, now)
        return
    become_pre_candidate(state, now)
    request = PreVoteRequest(
        term=Term(state.current_term + 1),
        candidate_id=state.node_id,
        last_log_index=state.log.last_index,
        last_log_term=state.log.last_term,
    )
    for peer in state.configuration.peers_of(state.node_id):
        state.emit(Send(peer, request, after=state.hard_state_gate))
    _count_pre_vote(state, state.node_id, True, now)


def receive_pre_vote_response(state: RaftState, voter: NodeId, response: PreVoteResponse, now: float) -> None:
    """Count an answer of the present pre-election; any other is late."""
    if state.role is Role.PRE_CANDIDATE and response.candidate_term == state.current_term + 1:
        _count_pre_vote(state, voter, response.vote_granted, now)


def _count_pre_vote(state: RaftState, voter: NodeId, vote_granted: bool, now: float) -> None:
    if _wins_with(state, voter, vote_granted):
        stand_for_election(state, now)


def stand_for_election(state: RaftState, now: float, *, is_leadership_transfer: bool = False) -> None:
    """Become a candidate and ask every other member for its vote.

    Learners are asked too: one may have been promoted by an entry that this node does not have.
    """
    become_candidate(state, now)
    request = RequestVoteRequest(
        term=state.current_term,
        candidate_id=state.node_id,
        last_log_index=state.log.last_index,
        last_log_term=state.log.last_term,
        is_leadership_transfer=is_leadership_transfer,
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
    if _wins_with(state, voter, vote_granted):
        become_leader(state, now)
        maybe_append_to_all(state, now)


def _wins_with(state: RaftState, voter: NodeId, vote_granted: bool) -> bool:
    """Note a vote, each voter's first answer only, and say whether the election is won.

    One that cannot be won any more just runs out: the election deadline is already random. The vote of a disk that was
    wiped counts for nothing. Its node does not give any as soon as it knows; but where its log ends while it is sent
    again, it may be named as the learner it was, of whose storage nothing was known yet.
    """
    state.votes.setdefault(voter, vote_granted and not state.is_wiped(voter))
    configuration = state.configuration
    if not configuration.is_formed:
        # Every voter: whoever forms a cluster must know that none of them is in one already, and each of them must
        # have the vote on its disk, by which it is told from one whose disk was wiped.
        return all(state.votes.get(peer, False) for peer in configuration.voters)
    return vote_result(configuration, state.votes) is VoteResult.WON

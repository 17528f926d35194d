"""AppendEntries at the receiver (Raft Figure 2, "AppendEntries RPC"; §5.3)."""

from __future__ import annotations

from clustercore.raft.commit import commit_up_to
from clustercore.raft.configuration import configurations_in
from clustercore.raft.effects import Reply
from clustercore.raft.entry import Entry
from clustercore.raft.messages import AppendEntriesRequest, AppendEntriesResponse
from clustercore.raft.roles import follow_configuration, follow_leader
from clustercore.raft.state import RaftState
from clustercore.raft.types import NO_TERM, LogIndex, Role, Term, WriteId

__all__ = ["receive_append_entries"]


def receive_append_entries(state: RaftState, request: AppendEntriesRequest, now: float) -> None:
    """Store a leader's entries. The request's term is at most current_term: a higher one was taken over before."""
    # A term has one leader (Raft §5.2): a request of this node's own term of office, or of a term whose leader is
    # another, is no Raft leader's.
    if (
        request.term < state.current_term
        or state.role is Role.LEADER
        or state.leader_id not in (None, request.leader_id)
    ):
        _reply(state, request, success=False)
        return
    follow_leader(state, request.leader_id, now)
    state.heard_round = max(state.heard_round, request.round)
    conflict = _conflict(state, request)
    if conflict is not None:
        _reply(state, request, success=False, conflict=conflict)
        return
    new_entries = _new_entries(state, request.entries)
    if new_entries:
        if new_entries[0].index <= state.commit_index or not _are_of_this_cluster(state, new_entries):
            # What is committed never changes (Raft §5.4.3, State Machine Safety): this is not from a Raft leader. Or it
            # is from another cluster's.
            _reply(state, request, success=False)
            return
        before = state.configuration
        state.persist_entries(new_entries, now)
        if state.configuration is not before:
            follow_configuration(state, now)
    match_index = LogIndex(request.prev_log_index + len(request.entries))
    # The log beyond match_index may be of an older term: the leader's commit index says nothing of it.
    commit_up_to(state, min(request.leader_commit, match_index))
    _reply(state, request, success=True, match_index=match_index, after=state.log_gate(match_index))


def _conflict(state: RaftState, request: AppendEntriesRequest) -> tuple[Term, LogIndex] | None:
    """Return where and how the logs differ at prev_log_index; None if they agree there, and so before it."""
    prev_log_index = request.prev_log_index
    if prev_log_index < state.log.base_index:
        # Up to the base everything is committed, and a leader has all that is committed (Raft §5.4.3).
        return None
    term = state.log.term_at(prev_log_index)
    if term == request.prev_log_term:
        return None
    if term is None:
        return NO_TERM, LogIndex(state.log.last_index + 1)
    if prev_log_index == state.log.base_index:
        return term, prev_log_index
    return term, state.log.first_index_of_term_at(prev_log_index)


def _new_entries(state: RaftState, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the part of ``entries`` from the first one on that the log lacks or has with another term.

    A late or repeated request holds only what the log has: nothing may be cut then, since entries after it may have
    been acknowledged (Raft Figure 2, AppendEntries rule 3).
    """
    for position, entry in enumerate(entries):
        if entry.index > state.log.base_index and state.log.term_at(entry.index) != entry.term:
            return entries[position:]
    return ()


def _are_of_this_cluster(state: RaftState, entries: tuple[Entry, ...]) -> bool:
    """Whether the configurations among the entries are of one cluster, and of this node's if that is formed."""
    known = {state.configuration.cluster_id} if state.configuration.is_formed else set()
    named = {configuration.cluster_id for _, configuration in configurations_in(entries)}
    return len(known | named) <= 1


def _reply(
    state: RaftState,
    request: AppendEntriesRequest,
    *,
    success: bool,
    match_index: LogIndex = LogIndex(0),
    conflict: tuple[Term, LogIndex] | None = None,
    after: WriteId | None = None,
) -> None:
    conflict_term, conflict_index = conflict if conflict is not None else (NO_TERM, LogIndex(0))
    response = AppendEntriesResponse(
        term=state.current_term,
        success=success,
        prev_log_index=request.prev_log_index,
        match_index=match_index,
        conflict_term=conflict_term,
        conflict_index=conflict_index,
        round=request.round,
    )
    state.emit(Reply(response, after=after if success else state.hard_state_gate))

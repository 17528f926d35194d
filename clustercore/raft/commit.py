"""Advancing the commit index, and handing out what is committed (Raft §5.3, §5.4.2)."""

from __future__ import annotations

from clustercore.raft.effects import Apply, RestoreSnapshot
from clustercore.raft.quorum import quorum_value
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex

__all__ = ["commit_up_to", "maybe_apply", "maybe_commit", "maybe_restore_snapshot"]


def maybe_commit(state: RaftState) -> bool:
    """As leader, commit what a majority holds durably; return whether anything more is committed.

    The leader counts its own disk like everyone's: it may be the slowest (thesis §10.2.1). Only an entry of its own
    term is committed by counting; those before it are then committed too. A majority on an entry of an earlier term
    proves nothing, as a later leader may still replace it (Raft §5.4.2, Figure 8).
    """
    match_indexes = {peer: progress.match_index for peer, progress in state.trusted_progress.items()}
    match_indexes[state.node_id] = state.durable_index
    index = LogIndex(quorum_value(state.configuration, match_indexes))
    if index <= state.commit_index or state.log.term_at(index) != state.current_term:
        return False
    commit_up_to(state, index)
    return True


def commit_up_to(state: RaftState, index: LogIndex) -> None:
    """Note that the log is committed up to ``index``, which it holds; an index already committed changes nothing."""
    if index > state.commit_index:
        state.commit_index = index
        maybe_apply(state)


def maybe_apply(state: RaftState) -> None:
    """Hand out the entries that are committed and durable here.

    Waiting for this node's own disk costs a leader nothing as a rule, since its write started first. It keeps a state
    machine, and a snapshot taken of it, from running ahead of the log it was made from.
    """
    upto = min(state.commit_index, state.durable_index)
    if upto > state.last_applied and state.installing is None:
        entries = state.log.slice(LogIndex(state.last_applied + 1), upto)
        state.last_applied = upto
        state.emit(Apply(entries))


def maybe_restore_snapshot(state: RaftState) -> None:
    """Hand out a leader's snapshot, now that it is durable."""
    if state.installing is not None and state.installing[0] <= state.done_write_id:
        metadata = state.installing[1]
        state.installing = None
        state.snapshot = metadata
        state.last_applied = metadata.last_included_index
        state.emit(RestoreSnapshot(metadata))

"""Snapshots: installing a leader's, sending one, compacting the log (Raft §7, Figure 13)."""

from __future__ import annotations

from clustercore.raft.commit import maybe_commit
from clustercore.raft.effects import Reply
from clustercore.raft.errors import InvariantError
from clustercore.raft.messages import InstallSnapshotRequest, InstallSnapshotResponse
from clustercore.raft.progress import ProgressState
from clustercore.raft.replication import maybe_append
from clustercore.raft.roles import follow_configuration, follow_leader
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, LogIndex, NodeId, Role, Snapshot

__all__ = ["compact_log", "receive_install_snapshot", "receive_install_snapshot_response"]


def receive_install_snapshot(state: RaftState, request: InstallSnapshotRequest, now: float) -> None:
    """Take over a leader's snapshot. The request's term is at most current_term."""
    if (
        request.term < state.current_term
        or state.role is Role.LEADER
        or state.leader_id not in (None, request.leader_id)
        or _is_of_another_cluster(state, request)
    ):
        state.emit(Reply(InstallSnapshotResponse(state.current_term, BEFORE_LOG), after=state.hard_state_gate))
        return
    follow_leader(state, request.leader_id, now)
    index = request.last_included_index
    if index > state.commit_index:
        state.persist_snapshot(Snapshot(index, request.last_included_term, request.data, request.configuration), now)
        state.commit_index = index
        follow_configuration(state, now)
    # A snapshot of what is committed here already is old: the log has it all, and its leader may go on from there.
    response = InstallSnapshotResponse(state.current_term, match_index=index)
    state.emit(Reply(response, after=state.log_gate(index)))


def _is_of_another_cluster(state: RaftState, request: InstallSnapshotRequest) -> bool:
    own, theirs = state.configuration, request.configuration
    return own.is_formed and theirs.is_formed and own.cluster_id != theirs.cluster_id


def receive_install_snapshot_response(
    state: RaftState, peer: NodeId, response: InstallSnapshotResponse, now: float
) -> None:
    """Go on with entries after the snapshot. A late, repeated or foreign answer changes nothing."""
    progress = state.progress.get(peer)
    if state.role is not Role.LEADER or response.term != state.current_term or progress is None:
        return
    progress.last_contact = now
    if response.match_index > state.log.last_index:
        return
    if progress.acknowledged(response.match_index, now):
        maybe_commit(state)
    progress.catch_up(state.log.last_index, now)
    if progress.state is ProgressState.SNAPSHOT:
        # Answered, but not with what was needed: the snapshot was older than the log's base. Try again.
        progress.become_probe(is_paused=False)
    maybe_append(state, peer, progress, now)


def compact_log(state: RaftState, last_included_index: LogIndex, keep_from: LogIndex) -> None:
    """Drop entries below ``keep_from``, now that a snapshot up to ``last_included_index`` is durable."""
    if last_included_index > state.last_applied or keep_from > last_included_index + 1:
        raise InvariantError(
            f"log compacted to {keep_from} for a snapshot at {last_included_index}, applied is {state.last_applied}"
        )
    if keep_from > state.log.first_index:
        state.log.compact(LogIndex(keep_from - 1))
        state.configurations.compact(LogIndex(keep_from - 1))

"""Snapshots: receiving a leader's, moving on a follower that was sent one, compacting the log (Raft §7, Figure 13).

``snapshot_transfer`` sends them.
"""

from __future__ import annotations

import zlib

from clustercore.raft.commit import maybe_commit
from clustercore.raft.effects import Reply
from clustercore.raft.errors import InvariantError
from clustercore.raft.messages import InstallSnapshotRequest, InstallSnapshotResponse
from clustercore.raft.replication import maybe_append
from clustercore.raft.roles import follow_configuration, follow_leader
from clustercore.raft.snapshot_transfer import first_index_to_keep, give_up_what_was_overtaken, go_on_from
from clustercore.raft.state import RaftState, Receiving
from clustercore.raft.types import BEFORE_LOG, LogIndex, NodeId, Role, SnapshotMetadata, WriteId

__all__ = ["compact_log", "receive_install_snapshot", "receive_install_snapshot_response"]


def receive_install_snapshot(state: RaftState, request: InstallSnapshotRequest, now: float) -> None:
    """Take a chunk of a leader's snapshot. The request's term is at most current_term."""
    if (
        request.term < state.current_term
        or state.role is Role.LEADER
        or state.leader_id not in (None, request.leader_id)
        or _is_of_another_cluster(state, request)
    ):
        _reply(state, request, after=state.hard_state_gate)
        return
    follow_leader(state, request.leader_id, now)
    index = request.metadata.last_included_index
    if index <= state.commit_index:
        # A snapshot of what is committed here already is old: the log has it all, and its leader may go on from there.
        _reply(state, request, match_index=index, after=state.log_gate(index))
        return
    receiving = _receiving(state, request)
    if receiving is None:
        _reply(state, request, after=state.hard_state_gate)
        return
    receiving.term = request.term
    if request.offset != receiving.next_offset or zlib.crc32(request.data) != request.checksum:
        # Repeated, early or damaged. The answer waits for what it says to be stored, so that a leader which repeats
        # chunks while this disk is slow does not fill this node's memory.
        _reply(state, request, next_offset=receiving.next_offset, after=state.gate(receiving.write_id))
        return
    state.persist_snapshot_chunk(receiving, request.data)
    if not request.is_last:
        _reply(state, request, next_offset=receiving.next_offset, after=state.gate(receiving.write_id))
        return
    state.receiving = None
    state.persist_snapshot(request.metadata, now)
    state.commit_index = index
    follow_configuration(state, now)
    _reply(state, request, match_index=index, after=state.log_gate(index))


def _receiving(state: RaftState, request: InstallSnapshotRequest) -> Receiving | None:
    """Return what has arrived of the request's snapshot, nothing perhaps; None if the chunk is not to be stored."""
    receiving, metadata = state.receiving, request.metadata
    if receiving is not None and receiving.metadata == metadata:
        # The bytes are the same whoever sends them.
        return receiving
    if (
        receiving is not None
        and receiving.term == request.term
        and metadata.last_included_index <= receiving.metadata.last_included_index
    ):
        # A late chunk of a snapshot that the leader has given up for the one that is arriving.
        return None
    if request.offset != 0:
        return None
    state.receiving = Receiving(metadata, request.term)
    return state.receiving


def _reply(
    state: RaftState,
    request: InstallSnapshotRequest,
    *,
    match_index: LogIndex = BEFORE_LOG,
    next_offset: int = 0,
    after: WriteId | None,
) -> None:
    response = InstallSnapshotResponse(state.current_term, match_index, request.metadata.snapshot_id, next_offset)
    state.emit(Reply(response, after=after))


def _is_of_another_cluster(state: RaftState, request: InstallSnapshotRequest) -> bool:
    own, theirs = state.configuration, request.metadata.configuration
    return own.is_formed and theirs.is_formed and own.cluster_id != theirs.cluster_id


def receive_install_snapshot_response(
    state: RaftState, peer: NodeId, response: InstallSnapshotResponse, now: float
) -> None:
    """Go on with the next chunk, or with entries after the snapshot. A late or foreign answer changes nothing.

    An answer that names the chunk which is out is late: that chunk is on its way.
    """
    progress = state.progress.get(peer)
    if state.role is not Role.LEADER or response.term != state.current_term or progress is None:
        return
    progress.last_contact = now
    if response.match_index > state.log.last_index:
        return
    if progress.acknowledged(response.match_index, now):
        maybe_commit(state)
    progress.catch_up(state.log.last_index, now)
    sending = progress.sending
    if (
        sending is not None
        and response.snapshot_id == sending.metadata.snapshot_id
        and response.next_offset != sending.offset
    ):
        go_on_from(state, peer, progress, response.next_offset, now)
    maybe_append(state, peer, progress, now)


def compact_log(state: RaftState, metadata: SnapshotMetadata, keep_from: LogIndex) -> None:
    """Drop entries below ``keep_from``, now that this node's own snapshot is durable."""
    index = metadata.last_included_index
    if index > state.last_applied or keep_from > index + 1:
        raise InvariantError(f"log compacted to {keep_from} for a snapshot at {index}, applied is {state.last_applied}")
    if state.snapshot is None or index > state.snapshot.last_included_index:
        state.snapshot = metadata
    keep_from = first_index_to_keep(state, keep_from)
    if keep_from > state.log.first_index:
        state.log.compact(LogIndex(keep_from - 1))
        state.configurations.compact(LogIndex(keep_from - 1))
        give_up_what_was_overtaken(state)

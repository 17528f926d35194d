"""Sending a snapshot, at the leader (Raft Figure 13; thesis §5.1, Figure 5.3): one chunk at a time.

The follower's answer says where the next chunk begins, so that a transfer goes on where it stopped: after a lost
connection, and under another leader that has the same snapshot. The first chunk finds that out.
"""

from __future__ import annotations

from clustercore.raft.effects import SendSnapshot
from clustercore.raft.progress import Progress
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex, NodeId, SnapshotId

__all__ = [
    "begin_transfer",
    "first_index_to_keep",
    "give_up_what_was_overtaken",
    "go_on_from",
    "maybe_repeat_chunk",
    "snapshot_gone",
]


def begin_transfer(state: RaftState, peer: NodeId, progress: Progress, now: float) -> None:
    """Begin to send the newest snapshot."""
    # What the log lacks it covers.
    assert state.snapshot is not None
    progress.become_snapshot(state.snapshot)
    go_on_from(state, peer, progress, 0, now)


def go_on_from(state: RaftState, peer: NodeId, progress: Progress, offset: int, now: float) -> None:
    """Send the chunk at ``offset``."""
    assert progress.sending is not None
    progress.sending.offset = offset
    progress.waiting_since = now
    progress.is_paused = False
    state.emit(SendSnapshot(peer, state.current_term, progress.sending.metadata.snapshot_id, offset))


def maybe_repeat_chunk(state: RaftState, peer: NodeId, progress: Progress, now: float) -> None:
    """Send a chunk that seems to be lost again, now that its follower shows that it lives.

    A chunk whose connection broke is sure to be lost. Even so it is sent once an election timeout at most: a chunk may
    be what the connection breaks of.
    """
    if progress.sending is None:
        return
    config = state.config
    if now - progress.waiting_since >= (config.election_timeout_s if progress.is_paused else config.snapshot_timeout_s):
        go_on_from(state, peer, progress, progress.sending.offset, now)


def snapshot_gone(state: RaftState, peer: NodeId, snapshot_id: SnapshotId) -> None:
    """Give up a transfer whose snapshot cannot be read any more. The follower's next sign of life begins another."""
    progress = state.progress.get(peer)
    if progress is not None and progress.sending is not None and progress.sending.metadata.snapshot_id == snapshot_id:
        progress.become_probe(is_paused=True)


def first_index_to_keep(state: RaftState, keep_from: LogIndex) -> LogIndex:
    """Return ``keep_from``, or an earlier index that a follower needs right after the snapshot it is being sent.

    If that were dropped, the follower would need another snapshot as soon as it has this one, and so on for ever. It is
    held for as long as the follower answers, and the log does not grow beyond ``snapshot_hold_bytes``.
    """
    sent = [progress.sending for progress in state.progress.values() if progress.sending is not None]
    wanted = min([keep_from, *(LogIndex(sending.metadata.last_included_index + 1) for sending in sent)])
    within = state.log.first_index_within(state.log.last_index, state.config.snapshot_hold_bytes)
    return min(keep_from, max(wanted, within))


def give_up_what_was_overtaken(state: RaftState) -> None:
    """Give up transfers of snapshots that the log does not reach back to any more; the newest is sent instead."""
    for progress in state.progress.values():
        sending = progress.sending
        if sending is not None and sending.metadata.last_included_index + 1 < state.log.first_index:
            progress.become_probe(is_paused=True)

"""Log replication at the leader (Raft §5.3): proposals, AppendEntries, heartbeats."""

from __future__ import annotations

from clustercore.raft.commit import maybe_commit
from clustercore.raft.effects import Send
from clustercore.raft.messages import AppendEntriesRequest, AppendEntriesResponse
from clustercore.raft.progress import Progress, ProgressState
from clustercore.raft.snapshot_transfer import begin_transfer, maybe_repeat_chunk
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, NO_TERM, LogIndex, NodeId, Role, Round

__all__ = [
    "maybe_append",
    "maybe_append_to_all",
    "peer_unreachable",
    "receive_append_entries_response",
    "send_heartbeats",
]


def maybe_append_to_all(state: RaftState, now: float) -> None:
    """Send every follower what it lacks, as far as its window allows."""
    for peer, progress in state.progress.items():
        maybe_append(state, peer, progress, now)


def maybe_append(state: RaftState, peer: NodeId, progress: Progress, now: float) -> None:
    """Send one follower what it lacks: entries, or the snapshot when the leader no longer has them.

    The leader does not wait for its own disk before it sends: followers write in parallel (thesis §10.2.1). Its term
    is durable since it was elected.
    """
    config = state.config
    while progress.next_index <= state.log.last_index and progress.has_room(
        config.max_inflight_appends, config.max_inflight_bytes
    ):
        prev_log_index = LogIndex(progress.next_index - 1)
        prev_log_term = state.log.term_at(prev_log_index)
        if prev_log_term is None:
            begin_transfer(state, peer, progress, now)
            return
        entries = state.log.batch(
            progress.next_index, max_entries=config.max_append_entries, max_bytes=config.max_append_bytes
        )
        progress.sent(entries[-1].index, state.log.size_bytes(entries[0].index, entries[-1].index), now)
        request = AppendEntriesRequest(
            term=state.current_term,
            leader_id=state.node_id,
            prev_log_index=prev_log_index,
            prev_log_term=prev_log_term,
            leader_commit=state.commit_index,
            entries=entries,
            round=state.last_round,
            answered_round=progress.answered_round,
        )
        state.emit(Send(peer, request))


def send_heartbeats(state: RaftState, now: float) -> None:
    """Tell every follower that the leader lives and how far the log is committed (Raft §5.2)."""
    state.last_round = Round(state.last_round + 1)
    state.rounds_sent.append((state.last_round, now))
    for peer, progress in state.progress.items():
        # A heartbeat stands on match_index, not on next_index - 1: that one holds whatever else is on its way or lost,
        # so that a heartbeat which overtakes entries is no mismatch.
        prev_log_index = progress.match_index
        prev_log_term = state.log.term_at(prev_log_index)
        if prev_log_term is None:
            prev_log_index, prev_log_term = BEFORE_LOG, NO_TERM
        request = AppendEntriesRequest(
            term=state.current_term,
            leader_id=state.node_id,
            prev_log_index=prev_log_index,
            prev_log_term=prev_log_term,
            leader_commit=state.commit_index,
            round=state.last_round,
            answered_round=progress.answered_round,
        )
        state.emit(Send(peer, request))
        if _has_waited_too_long(state, progress, now):
            progress.become_probe(is_paused=True)


def _has_waited_too_long(state: RaftState, progress: Progress, now: float) -> bool:
    """Say whether what is unanswered is to be taken for lost. The next sign of life starts replication again."""
    if progress.state is ProgressState.SNAPSHOT:
        # A chunk that is lost is sent again as long as the follower shows that it lives. One that is down keeps neither
        # the snapshot nor the log behind it from being dropped.
        return now - progress.last_contact >= state.config.snapshot_timeout_s
    return bool(progress.inflight) and now - progress.waiting_since >= state.config.election_timeout_s


def peer_unreachable(state: RaftState, peer: NodeId) -> None:
    """Take for lost whatever is on its way to a peer whose connection broke."""
    progress = state.progress.get(peer)
    if progress is None:
        return
    if progress.state is ProgressState.SNAPSHOT:
        # What has arrived of the snapshot is not lost: the transfer goes on where it stopped.
        progress.is_paused = True
    else:
        progress.become_probe(is_paused=True)


def receive_append_entries_response(
    state: RaftState, peer: NodeId, response: AppendEntriesResponse, now: float
) -> None:
    """Move one follower on (Raft §5.3). A late, repeated or foreign answer changes nothing."""
    progress = state.progress.get(peer)
    if state.role is not Role.LEADER or response.term != state.current_term or progress is None:
        return
    progress.last_contact = now
    if not response.success:
        # conflict_index 0: refused for another reason than the log, so there is nothing to learn about it.
        if response.conflict_index == BEFORE_LOG:
            return
        progress.answered_round = max(progress.answered_round, min(response.round, state.last_round))
        progress.rejected(response.prev_log_index, _retry_from(state, response))
    elif response.match_index > state.log.last_index:
        return
    else:
        progress.answered_round = max(progress.answered_round, min(response.round, state.last_round))
        if progress.acknowledged(response.match_index, now):
            maybe_commit(state)
        progress.catch_up(state.log.last_index, now)
    maybe_repeat_chunk(state, peer, progress, now)
    maybe_append(state, peer, progress, now)


def _retry_from(state: RaftState, response: AppendEntriesResponse) -> LogIndex:
    """Skip a whole conflicting term at a time (Raft §5.3, last paragraphs).

    If the leader has entries of the follower's conflicting term, they agree at most up to the last of those;
    otherwise none of the follower's entries of that term is in the leader's log::

        leader    1:1 2:1 3:4 4:4 5:6      conflict at 4, term 2, first index 3
        follower  1:1 2:1 3:2 4:2 5:2      -> next is 3: the leader has no term 2
    """
    if response.conflict_term != NO_TERM:
        last_of_term = state.log.last_index_of_term(response.conflict_term)
        if last_of_term is not None:
            return LogIndex(last_of_term + 1)
    # A follower's log may be longer than the leader's, but the leader has nothing to send from beyond its own.
    return min(response.conflict_index, LogIndex(state.log.last_index + 1))

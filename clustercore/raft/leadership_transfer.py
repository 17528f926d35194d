"""Leadership transfer (thesis §3.10): the leader brings a follower up to date and tells it to stand at once.

Safety does not depend on it: the target wins by votes, like everyone. If it does not, the leader goes on after an
election timeout.
"""

from __future__ import annotations

from clustercore.raft.effects import Reply, Send, TransferGivenUp
from clustercore.raft.election import stand_for_election
from clustercore.raft.messages import TimeoutNowRequest, TimeoutNowResponse
from clustercore.raft.progress import ProgressState
from clustercore.raft.state import RaftState, Transfer
from clustercore.raft.types import NodeId, Role, TransferFailure

__all__ = [
    "best_successor",
    "give_up_lost_target",
    "maybe_give_up_transfer",
    "maybe_leave_stalled_disk",
    "maybe_tell_target",
    "receive_timeout_now",
    "receive_timeout_now_response",
    "repeat_timeout_now",
    "start_transfer",
    "tell_to_stand",
]

# A target that lacks more than so many full windows would keep proposals waiting to no end.
_WINDOWS_BEHIND = 2


def start_transfer(state: RaftState, target: NodeId, now: float) -> None:
    """As leader, begin to hand over to another voter, or say why that is not possible now.

    A transfer to another target that is under way is replaced, unless its target has been told to stand already. One to
    the same target keeps its deadline, so that asking again and again does not keep proposals waiting for ever.
    """
    if state.role is not Role.LEADER or (state.transfer is not None and state.transfer.target == target):
        return
    failure = _obstacle(state, target, now)
    if failure is not None:
        state.emit(TransferGivenUp(target, failure))
        return
    if state.transfer is not None:
        _give_up(state, TransferFailure.REPLACED)
    state.transfer = Transfer(target, now + state.config.election_timeout_s)
    maybe_tell_target(state)


def _obstacle(state: RaftState, target: NodeId, now: float) -> TransferFailure | None:
    """Return why a target can hardly take over within an election timeout; None if it may."""
    progress = state.progress.get(target)
    if progress is None or target not in state.configuration.voters:
        return TransferFailure.NOT_A_VOTER
    if state.is_wiped(target):
        return TransferFailure.WIPED
    if state.transfer is not None and state.transfer.told_round:
        return TransferFailure.OTHER_TOLD
    if progress.last_contact <= _lately(state, now):
        return TransferFailure.SILENT
    if progress.state is ProgressState.SNAPSHOT or progress.next_index < state.log.first_index:
        # The latter's window is full still of what the leader has dropped since: a snapshot is next.
        return TransferFailure.FAR_BEHIND
    if progress.state is ProgressState.REPLICATE:
        # Of one that is probed the leader does not know what it lacks.
        lacks_bytes = state.log.size_bytes(progress.next_index, state.log.last_index) + progress.inflight_bytes
        if lacks_bytes > _WINDOWS_BEHIND * state.config.max_inflight_bytes:
            return TransferFailure.FAR_BEHIND
    return None


def _lately(state: RaftState, now: float) -> float:
    """Return since when a follower must have answered to count as one that is there."""
    return now - 3 * state.config.heartbeat_interval_s


def maybe_tell_target(state: RaftState) -> None:
    """Tell the target to stand, once it has the leader's whole log on its disk, and all of that is committed.

    Then its log is as good as any, and whoever proposed something gets the answer from this leader.
    """
    transfer = state.transfer
    if transfer is None or transfer.told_round:
        return
    _tell(state, transfer)


def repeat_timeout_now(state: RaftState) -> None:
    """Tell the target once more, with a heartbeat: the word may be lost, and goes out of date with the next round."""
    transfer = state.transfer
    if transfer is not None and transfer.told_round:
        _tell(state, transfer)


def _tell(state: RaftState, transfer: Transfer) -> None:
    last_index = state.log.last_index
    if state.progress[transfer.target].match_index == last_index == state.commit_index:
        transfer.told_round = state.last_round
        tell_to_stand(state, transfer.target)


def tell_to_stand(state: RaftState, successor: NodeId) -> None:
    """As leader, tell a voter to stand at once. From now on this node holds no lease: the other may come to lead."""
    state.has_told_successor = True
    state.emit(Send(successor, TimeoutNowRequest(state.current_term, state.node_id, state.last_round)))


def maybe_give_up_transfer(state: RaftState, now: float) -> None:
    """Go on leading if the target has not taken over by now."""
    if state.transfer is not None and now >= state.transfer.deadline:
        _give_up(state, TransferFailure.TIMED_OUT)


def give_up_lost_target(state: RaftState, peer: NodeId) -> None:
    """Go on leading if the connection to the target broke. It may have heard the word, and take over all the same."""
    if state.transfer is not None and state.transfer.target == peer:
        _give_up(state, TransferFailure.UNREACHABLE)


def receive_timeout_now_response(state: RaftState, sender: NodeId, response: TimeoutNowResponse) -> None:
    """Go on leading if the target refuses. One that stood answers in a later term, which ended the transfer before.

    Only the answer to the newest word counts, and only if nothing newer could have overtaken it on its way.
    """
    transfer = state.transfer
    if (
        transfer is not None
        and transfer.target == sender
        and response.term == state.current_term
        and response.round == transfer.told_round == state.last_round
    ):
        _give_up(state, TransferFailure.REFUSED)


def _give_up(state: RaftState, failure: TransferFailure) -> None:
    assert state.transfer is not None
    state.emit(TransferGivenUp(state.transfer.target, failure))
    state.transfer = None


def maybe_leave_stalled_disk(state: RaftState, now: float) -> None:
    """Hand over when this node's own disk has kept a write waiting for too long.

    Followers still commit without it, so the stall shows only when it is an outage: this node can answer nobody, since
    it applies only what is durable here. Heartbeats go on meanwhile, and would keep it in office.
    """
    # A slow disk that goes on completing writes is no stalled one: the others' may be as slow.
    stalled_since = max(state.oldest_log_write_since, state.log_write_done_at)
    if state.transfer is None and now - stalled_since >= state.config.disk_stall_s:
        successor = best_successor(state, now)
        if successor is not None:
            start_transfer(state, successor, now)


def best_successor(state: RaftState, now: float) -> NodeId | None:
    """Return the follower most likely to take over at once: heard of lately, and with the longest log."""
    since = _lately(state, now)
    candidates = [
        (progress.match_index, peer)
        for peer, progress in state.progress.items()
        if peer in state.configuration.voters
        and not state.is_wiped(peer)
        and progress.last_contact > since
        and progress.state is ProgressState.REPLICATE
    ]
    return max(candidates)[1] if candidates else None


def receive_timeout_now(state: RaftState, request: TimeoutNowRequest, now: float) -> None:
    """Stand at once, without asking around, if the one who says so leads this very term and this node is a voter.

    A word that a later heartbeat has overtaken does not count: the transfer may have been given up since. Nor does one
    that reaches a node which knows of no cluster: it was for one that had the leader's whole log, so the disk was wiped
    since. If this node stood, its vote for itself would make it a founder, whose vote counts.
    """
    if (
        request.term == state.current_term
        # A leader of the first version names no round.
        and (request.round >= state.heard_round or request.round == 0)
        and state.role is Role.FOLLOWER
        and state.leader_id == request.leader_id
        and state.may_stand
        and state.configuration.is_formed
    ):
        stand_for_election(state, now, is_leadership_transfer=True)
    state.emit(Reply(TimeoutNowResponse(state.current_term, request.round), after=state.hard_state_gate))

"""Leadership transfer (thesis §3.10): the leader brings a follower up to date and tells it to stand at once.

Safety does not depend on it: the target wins by votes, like everyone. If it does not, the leader goes on after an
election timeout.
"""

from __future__ import annotations

from clustercore.raft.effects import Reply, Send
from clustercore.raft.election import stand_for_election
from clustercore.raft.messages import TimeoutNowRequest, TimeoutNowResponse
from clustercore.raft.progress import ProgressState
from clustercore.raft.state import RaftState, Transfer
from clustercore.raft.types import NodeId, Role

__all__ = [
    "best_successor",
    "maybe_give_up_transfer",
    "maybe_leave_stalled_disk",
    "maybe_tell_target",
    "receive_timeout_now",
    "start_transfer",
]


def start_transfer(state: RaftState, target: NodeId, now: float) -> bool:
    """As leader, begin to hand over to another voter; return False if that is not possible now.

    A transfer to another target that is under way is replaced, unless its target has been told to stand already. One to
    the same target keeps its deadline, so that asking again and again does not keep proposals waiting for ever.
    """
    if state.role is not Role.LEADER or target not in state.progress or target not in state.configuration.voters:
        return False
    if state.transfer is not None and (state.transfer.is_told or state.transfer.target == target):
        return False
    state.transfer = Transfer(target, now + state.config.election_timeout_s)
    maybe_tell_target(state, target)
    return True


def maybe_tell_target(state: RaftState, peer: NodeId) -> None:
    """Tell the target to stand, once it has the leader's whole log: then its log is as good as any."""
    transfer = state.transfer
    if transfer is None or transfer.target != peer or transfer.is_told:
        return
    if state.progress[peer].match_index == state.log.last_index:
        transfer.is_told = True
        state.has_told_successor = True
        state.emit(Send(peer, TimeoutNowRequest(state.current_term, state.node_id)))


def maybe_give_up_transfer(state: RaftState, now: float) -> None:
    """Go on leading if the target has not taken over by now."""
    if state.transfer is not None and now >= state.transfer.deadline:
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
    since = now - 3 * state.config.heartbeat_interval_s
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
    """Stand at once, without asking around, if the one who says so leads this very term and this node is a voter."""
    if (
        request.term == state.current_term
        and state.role is Role.FOLLOWER
        and state.leader_id == request.leader_id
        and state.may_stand
    ):
        stand_for_election(state, now, is_leadership_transfer=True)
    state.emit(Reply(TimeoutNowResponse(state.current_term), after=state.hard_state_gate))

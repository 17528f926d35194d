"""How a node changes its role (Raft Figure 4), and the timers that go with each.

The only functions that assign ``role``, ``current_term`` or ``leader_id``.
"""

from __future__ import annotations

import math

import attrs

from clustercore.raft.configuration import encode_configuration
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.progress import Progress
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, Configuration, LogIndex, NodeId, Role, Round, Term

__all__ = [
    "become_candidate",
    "become_follower",
    "become_leader",
    "become_pre_candidate",
    "follow_configuration",
    "follow_leader",
    "protect_leader",
    "reset_election_deadline",
    "step_down",
    "vote_for",
    "wait_from_durable_vote",
]


def reset_election_deadline(state: RaftState, now: float) -> None:
    """Draw a new time at which to stand for election (Raft §5.2: randomised, so that votes seldom split).

    A node that is no voter never stands.
    """
    if not state.may_stand:
        state.election_deadline = math.inf
        return
    timeout_s = state.config.election_timeout_s
    # Protected for longer only after a start: a node that had a longer timeout before keeps what it promised then.
    state.election_deadline = max(now + state.rng.uniform(timeout_s, 2 * timeout_s), state.leader_protected_until)


def follow_configuration(state: RaftState, now: float) -> None:
    """After the members may have changed: follow the new ones' logs as leader, and otherwise stand only as a voter."""
    if state.role is Role.LEADER:
        state.progress = {
            peer: state.progress.get(peer) or _new_follower(state, now)
            for peer in state.configuration.peers_of(state.node_id)
        }
    elif state.may_stand == math.isinf(state.election_deadline):
        reset_election_deadline(state, now)
    state.incarnations = {
        peer: incarnation for peer, incarnation in state.incarnations.items() if peer in state.configuration.members
    }


def _new_follower(state: RaftState, now: float) -> Progress:
    last_index = state.log.last_index
    return Progress(next_index=last_index, catch_up_target=last_index, catch_up_since=now)


def wait_from_durable_vote(state: RaftState, now: float) -> None:
    """Begin to wait for an election's outcome now that this node's vote is durable: before, nobody heard of it.

    Otherwise a cluster whose disks take longer than an election timeout would never have a leader.
    """
    if state.voted_for is None or state.role is Role.LEADER:
        return
    reset_election_deadline(state, now)
    if state.role is Role.CANDIDATE:
        # The others write their votes now, and their disks are as slow as this one, for all this node knows.
        state.election_deadline += now - state.stood_at


def protect_leader(state: RaftState, now: float) -> None:
    """Take it that a leader is at work for an election timeout from now.

    It is the shortest time after which this node would itself take the leader for lost (thesis §4.2.3).
    """
    state.leader_protected_until = now + state.config.election_timeout_s


def become_follower(state: RaftState, term: Term, now: float) -> None:
    """Go to a higher term, whose leader and votes are not known yet (Raft §5.1).

    The election deadline stays: only a leader's word or a granted vote moves it, so that a node with an old log that
    stands again and again cannot keep the others from standing.
    """
    state.current_term = term
    state.voted_for = None
    state.heard_round = Round(0)
    state.persist_hard_state()
    _lay_down_office(state, now)
    state.leader_id = None


def follow_leader(state: RaftState, leader_id: NodeId, now: float) -> None:
    """Take the word of the current term's leader (Raft §5.2): a candidate gives up, the election deadline moves."""
    _lay_down_office(state, now)
    state.leader_id = leader_id
    protect_leader(state, now)
    reset_election_deadline(state, now)


def step_down(state: RaftState, now: float) -> None:
    """Stop leading, without a successor (thesis §6.2). The term stays, and no other leader can arise in it."""
    _lay_down_office(state, now)
    state.leader_id = None


def _lay_down_office(state: RaftState, now: float) -> None:
    if state.role is Role.LEADER:
        # A leader has no election deadline; as a follower it needs one.
        state.heartbeat_deadline = math.inf
        reset_election_deadline(state, now)
    state.role = Role.FOLLOWER
    state.votes.clear()
    state.progress.clear()
    state.transfer = None


def become_pre_candidate(state: RaftState, now: float) -> None:
    """Ask around before standing (thesis §9.6). The term and vote stay as they are."""
    state.role = Role.PRE_CANDIDATE
    state.leader_id = None
    state.votes.clear()
    reset_election_deadline(state, now)


def become_candidate(state: RaftState, now: float) -> None:
    """Start a new term and vote for oneself in it (Raft §5.2). The vote counts once it is durable."""
    state.role = Role.CANDIDATE
    state.current_term = Term(state.current_term + 1)
    state.heard_round = Round(0)
    state.stood_at = now
    vote_for(state, state.node_id)
    state.leader_id = None
    state.votes.clear()
    reset_election_deadline(state, now)


def vote_for(state: RaftState, candidate_id: NodeId) -> None:
    """Give this node's vote in the current term. It may be shown once it is durable."""
    state.voted_for = candidate_id
    # The vote of a sole first voter, which it gives itself, is no other node's business.
    is_alone = state.configuration.all_voters == {state.node_id}
    state.is_founder = state.is_founder or not (state.configuration.is_formed or is_alone)
    state.persist_hard_state()


def become_leader(state: RaftState, now: float) -> None:
    """Lead the term that was won, and open it with a no-op; a cluster's first leader opens it by forming the cluster.

    The leader may not commit entries of earlier terms by counting them (Raft §5.4.2); committing one of its own term
    commits them too, and this one makes sure that there is one.
    """
    state.role = Role.LEADER
    state.leader_id = state.node_id
    state.votes.clear()
    state.election_deadline = math.inf
    next_index = LogIndex(state.log.last_index + 1)
    state.progress = {
        peer: Progress(next_index, last_contact=now, catch_up_target=state.log.last_index, catch_up_since=now)
        for peer in state.configuration.peers_of(state.node_id)
    }
    state.heartbeat_deadline = now + state.config.heartbeat_interval_s
    state.has_told_successor = False
    # The no-op that goes out at once is the first thing that a majority can be known to have heard in this term.
    state.last_round = Round(1)
    state.rounds_sent.clear()
    state.rounds_sent.append((state.last_round, now))
    if state.configuration.is_formed:
        opening = Entry.create(next_index, state.current_term, EntryKind.NO_OP)
    else:
        members = encode_configuration(_formed(state))
        opening = Entry.create(next_index, state.current_term, EntryKind.CONFIGURATION, members)
    state.persist_entries((opening,), now)


def _formed(state: RaftState) -> Configuration:
    """Give the cluster its id, and name the storages that it counts on from now on.

    All its voters have voted for this node, so all are known to have the storage that they have now.
    """
    incarnations = {**state.incarnations, state.node_id: state.incarnation}
    servers = (
        attrs.evolve(server, incarnation=incarnations.get(server.node_id, server.incarnation))
        for server in state.configuration.servers
    )
    return attrs.evolve(state.configuration, servers=tuple(servers), cluster_id=state.new_cluster_id, index=BEFORE_LOG)

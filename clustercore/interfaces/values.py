"""What a node tells of itself, and what it answers to a proposal."""

from __future__ import annotations

from enum import Enum

import attrs

from clustercore.raft.types import BEFORE_LOG, Configuration, LogIndex, NodeId, Role, Term

__all__ = [
    "Applied",
    "Consistency",
    "NodeHealth",
    "NodeStatus",
    "PeerStatus",
    "ReadResult",
    "RoleChange",
    "SessionToken",
]


@attrs.frozen
class Applied:
    """A command is committed, and applied on the node that led it."""

    index: LogIndex
    term: Term
    # What the state machine's ``apply`` returned.
    result: bytes


@attrs.frozen
class SessionToken:
    """Names one command of a client session, before and after its outcome is known. Two numbers: store them at will."""

    # The index of the log entry that opened the session.
    session_id: int
    # The command's number in it, from 1.
    sequence: int


class Consistency(Enum):
    """What a read promises."""

    # It sees everything that was committed before it was asked for: the leader makes sure, by a round of heartbeats,
    # that it still leads (thesis §6.4).
    LINEARIZABLE = "linearizable"
    # The same, without the round, as long as no two nodes' clocks drift apart by more than is configured (§6.4.1).
    LEASE = "lease"
    # What this node has applied.
    STALE = "stale"


@attrs.frozen
class ReadResult:
    """What a read saw."""

    # What the state machine's ``query`` returned.
    value: bytes
    # The last entry applied before it.
    index: LogIndex
    # What was promised: LINEARIZABLE also for a lease read when no lease was held.
    consistency: Consistency
    # For a stale read: everything that this node's leader had committed so many seconds ago was applied. It is a bound:
    # a follower counts from when it heard the newest round of heartbeats that the leader's newest word confirms, so it
    # is a heartbeat and a round trip at least, and a word that was long on its way counts in full. Infinity if this
    # node has heard no leader yet. Otherwise 0.
    lag_s: float = 0.0


@attrs.frozen
class RoleChange:
    """The newest known role, term and leader of a node."""

    role: Role
    term: Term
    leader_id: NodeId | None


@attrs.frozen
class PeerStatus:
    """A leader's view of one other member. On a follower only the id is known, and the indexes are 0."""

    node_id: NodeId
    # The highest index known to be stored on the peer, and the next one to send (Raft Figure 2).
    match_index: LogIndex = LogIndex(0)
    next_index: LogIndex = LogIndex(0)
    # Entries of the leader's log that the peer is not known to have.
    lag: int = 0
    # Whether the peer answered within the last election timeout.
    is_heard: bool = False


@attrs.frozen
class NodeHealth:
    """How a node is by its own measure. A node of an older version tells none of it, and is taken for well."""

    # Why the node should get no work; empty if it may have some.
    not_serving: str = ""
    # What is not as it should be, though it serves; empty if all is.
    degraded: str = ""
    # How long the question waited for a turn of the consensus loop, in seconds.
    loop_lag_s: float = 0.0
    # How long ago a write was last made durable, in seconds; since the node started if none was. An idle node writes
    # nothing: that this is long says nothing by itself.
    write_age_s: float = 0.0
    # How long writes have been waiting without one being done, in seconds; 0 if none waits.
    write_wait_s: float = 0.0
    # Entries that are committed, as far as the node knows, and not applied by it.
    apply_lag: int = 0
    # Everything that its leader had committed so many seconds ago is applied, as in ``ReadResult.lag_s``; -1 if it has
    # heard no leader yet.
    lag_s: float = 0.0


@attrs.frozen
class NodeStatus:
    """A consistent picture of one node at one moment."""

    node_id: NodeId
    role: Role
    term: Term
    leader_id: NodeId | None
    # last_applied <= commit_index; both lie in the log or its snapshot.
    commit_index: LogIndex
    last_applied: LogIndex
    # Entries first_log_index..last_log_index (both inclusive) are in the log; first is last + 1 when it is empty.
    first_log_index: LogIndex
    last_log_index: LogIndex
    # Proposals this node holds: waiting for room, for the leader or for their commit.
    pending_proposals: int
    # The other members, sorted by id.
    peers: tuple[PeerStatus, ...]
    # The members that count for this node, and the log entry they are from. Empty: it waits to be added.
    configuration: Configuration = attrs.field(factory=Configuration)
    configuration_index: LogIndex = BEFORE_LOG
    # Whether this node was removed from the cluster, as far as it knows.
    is_removed: bool = False
    # What it waits to be founded: see ``Founding.label``. Empty if it is not to be part of a cluster that is founded.
    founding: str = ""
    # How the node is by its own measure.
    health: NodeHealth = NodeHealth()
    # For whom or what it waits before it can take part, for people: it completes "node n1 ...". Empty if it takes part,
    # or nothing keeps it from that but time.
    waiting: str = ""

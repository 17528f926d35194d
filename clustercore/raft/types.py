"""The words of the Raft paper as Python types.

This file knows nothing of messages, time or storage. Every other module of ``clustercore.raft``
builds on it, and ``clustercore.interfaces`` makes these names public.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from enum import Enum
from itertools import pairwise
from operator import attrgetter
from typing import NewType

import attrs

__all__ = [
    "BEFORE_LOG",
    "NO_TERM",
    "ChangeRefusal",
    "Configuration",
    "HardState",
    "LogIndex",
    "NodeId",
    "ReadId",
    "Role",
    "Round",
    "Server",
    "SnapshotId",
    "SnapshotMetadata",
    "Term",
    "TransferFailure",
    "WriteId",
    "show_length",
]

NodeId = NewType("NodeId", str)

# Terms start at 1 with the first election. 0 is the term of a node that has never voted, and the
# term "of the entry before the log".
Term = NewType("Term", int)

# Log indexes start at 1 (Raft Figure 2). 0 means "before the log".
LogIndex = NewType("LogIndex", int)

# Numbers the storage writes a core asks for, from 1, in the order in which they must become durable.
WriteId = NewType("WriteId", int)

# Numbers the rounds of heartbeats a leader sends, from 1 in each of its terms. Followers answer with the number, so
# that the leader knows what it sent that they have heard.
Round = NewType("Round", int)

# Names a read, in the owner's own numbering.
ReadId = NewType("ReadId", int)

# Names the bytes of a snapshot. Made when a node takes one: two nodes' snapshots of one index may differ in their
# bytes, and copies of one snapshot do not.
SnapshotId = NewType("SnapshotId", str)

NO_TERM = Term(0)
BEFORE_LOG = LogIndex(0)


class Role(Enum):
    """What a node is in its current term (Raft §5.1)."""

    FOLLOWER = "follower"
    # Asks whether it could win before it starts a term (thesis §9.6).
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class TransferFailure(Enum):
    """Why a leader does not hand over, or does so no more; the value completes "the target ..."."""

    NOT_A_VOTER = "is no other voter"
    WIPED = "has lost its disk, and must catch up as a learner first"
    SILENT = "has not answered lately"
    FAR_BEHIND = "lacks too much of the log"
    OTHER_TOLD = "would stand against another that was told to just now"
    REPLACED = "was replaced by another"
    UNREACHABLE = "was lost: the connection to it broke"
    REFUSED = "refused to stand"
    TIMED_OUT = "did not take over within an election timeout"


def show_length(value: Sized) -> str:
    """Stand for a long value in a repr."""
    return f"<{len(value)}>"


@attrs.frozen
class HardState:
    """What a node must have on disk before it answers anything that depends on it (Raft Figure 2)."""

    current_term: Term = NO_TERM
    # The candidate that received this node's vote in current_term, or None. Within one term it
    # changes only from None to a candidate.
    voted_for: NodeId | None = None
    # Whether this storage has voted, be it for its own node, while the cluster was not formed yet. Once it is formed,
    # all its first voters have, unless there was only one; one whose disk was wiped has forgotten. Never False again.
    is_founder: bool = False


@attrs.frozen
class Server:
    """One member of the cluster."""

    node_id: NodeId
    # Whether its vote and its acknowledgement count. A learner receives the log, and does neither (thesis §4.2.1).
    is_voter: bool = True
    # A learner that becomes a voter by itself once it has caught up (thesis §4.2.1).
    is_promoted: bool = False
    # Where to reach it if discovery does not know; the core never looks at it.
    address: str = ""
    # The identity of its storage, made once with it. A node whose storage has another one has forgotten what it voted,
    # and does not vote. Empty while unknown, which only a learner's may be.
    incarnation: str = ""
    # Only in a joint configuration: an old voter that is no member any more once that is left.
    is_leaving: bool = False


@attrs.frozen
class Configuration:
    """The members that count. While ``old_voters`` is not empty it is joint: C_old,new of Raft §6, thesis §4.3.

    A joint configuration decides by a majority of the voters *and* a majority of the old voters. A node that is a
    learner in it and an old voter at once loses its vote when the joint configuration is left.
    """

    # Sorted by node id; each id once.
    servers: tuple[Server, ...] = ()
    # The voters of the configuration that is being left; empty unless joint.
    old_voters: frozenset[NodeId] = frozenset()
    # Made once, when the cluster first elects a leader. Empty until then.
    cluster_id: str = ""
    # The log entry that brought it. In a snapshot the entry is gone, and this is all that tells since when it counts.
    # BEFORE_LOG if no entry did, or that is not known. It says nothing of who the members are.
    index: LogIndex = attrs.field(default=BEFORE_LOG, eq=False)
    # Derived.
    voters: frozenset[NodeId] = attrs.field(init=False, eq=False, repr=False)
    # Derived: everybody who gets the log.
    members: frozenset[NodeId] = attrs.field(init=False, eq=False, repr=False)
    # Derived: the storages that are counted on, as far as they are known.
    incarnations: Mapping[NodeId, str] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Derive what is asked for often."""
        voters = frozenset(server.node_id for server in self.servers if server.is_voter)
        object.__setattr__(self, "voters", voters)
        members = frozenset(server.node_id for server in self.servers) | self.old_voters
        object.__setattr__(self, "members", members)
        incarnations = {server.node_id: server.incarnation for server in self.servers if server.incarnation}
        object.__setattr__(self, "incarnations", incarnations)

    @classmethod
    def of(
        cls,
        voters: Iterable[str],
        *,
        learners: Iterable[str] = (),
        old_voters: Iterable[str] = (),
        cluster_id: str = "",
    ) -> Configuration:
        """Build a configuration from plain strings."""
        servers = [Server(NodeId(voter)) for voter in voters]
        servers += [Server(NodeId(learner), is_voter=False) for learner in learners]
        return cls.with_servers(servers, old_voters=frozenset(map(NodeId, old_voters)), cluster_id=cluster_id)

    @classmethod
    def with_servers(
        cls, servers: Iterable[Server], *, old_voters: frozenset[NodeId] = frozenset(), cluster_id: str = ""
    ) -> Configuration:
        """Build a configuration from servers in any order.

        Raises: ValueError if two have the same node id.
        """
        in_order = tuple(sorted(servers, key=attrgetter("node_id")))
        for before, after in pairwise(in_order):
            if before.node_id == after.node_id:
                raise ValueError(f"node {after.node_id!r} is named twice in a configuration; each id may occur once")
        return cls(in_order, old_voters, cluster_id)

    @property
    def is_formed(self) -> bool:
        """Whether the cluster has had a leader, who gave it its id."""
        return bool(self.cluster_id)

    @property
    def is_joint(self) -> bool:
        """Whether it decides by two majorities."""
        return bool(self.old_voters)

    @property
    def all_voters(self) -> frozenset[NodeId]:
        """Everybody whose vote counts in either majority."""
        return self.voters | self.old_voters

    @property
    def learners(self) -> frozenset[NodeId]:
        """The members whose vote will not count once the configuration is not joint."""
        return frozenset(server.node_id for server in self.servers if not server.is_voter and not server.is_leaving)

    def get(self, node_id: NodeId) -> Server | None:
        """Return a member; None if it is none, or only an old voter."""
        return next((server for server in self.servers if server.node_id == node_id), None)

    def peers_of(self, node_id: NodeId) -> tuple[NodeId, ...]:
        """Return everybody else who gets the log, sorted, so that every run visits them in the same order."""
        return tuple(sorted(self.members - {node_id}))


class ChangeRefusal(Enum):
    """Why members cannot be changed so, or not now."""

    NOT_LEADER = "not leader"
    # The leadership is being handed over.
    TRANSFERRING = "transferring"
    # An earlier change is not finished.
    CHANGE_PENDING = "change pending"
    # The leader has not committed an entry of its own term yet (Ongaro, raft-dev, July 2015).
    TERM_NOT_COMMITTED = "term not committed"
    # The target contradicts itself or the cluster.
    INVALID = "invalid"
    # The target is what counts already.
    UNCHANGED = "unchanged"
    # A voter to be added has not caught up as a learner.
    NOT_CAUGHT_UP = "not caught up"
    # Too few of the target's voters answered lately.
    NO_QUORUM = "no quorum"
    # Other members count than those that the change was made for. The core does not say so: who asks it compares.
    CONFLICT = "conflict"
    # A node that would have to pass the request on speaks a version of the protocol that does not have it.
    UNSUPPORTED = "unsupported"
    # A member that is well does not answer where it is to be looked for. The core does not say so: it cannot look.
    NOT_THERE = "not there"


@attrs.frozen
class SnapshotMetadata:
    """A state machine's whole state after a prefix of the log (Raft §7), but for its bytes."""

    # The last entry the snapshot covers; at least 1.
    last_included_index: LogIndex
    last_included_term: Term
    # The members as of that entry: the entries that name them are covered, and so gone (thesis §5.1).
    configuration: Configuration
    snapshot_id: SnapshotId

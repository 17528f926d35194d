"""One message of every kind that nodes exchange, and of the larger kinds the shapes that codecs get wrong."""

from __future__ import annotations

import hashlib
import zlib

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    Entry,
    EntryKind,
    ForwardFailure,
    ForwardProposals,
    Hello,
    HelloResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogIndex,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    NodeHealth,
    NodeId,
    NodeStatus,
    PeerStatus,
    PreVoteRequest,
    PreVoteResponse,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    Round,
    Server,
    SnapshotId,
    SnapshotMetadata,
    StatusRequest,
    StatusResponse,
    Term,
    TimeoutNowRequest,
    TimeoutNowResponse,
)

__all__ = ["REQUESTS", "RESPONSES", "filled", "numbered"]

_COMMAND = Entry.create(LogIndex(6), Term(2), EntryKind.COMMAND, bytes(range(256)))
_NO_OP = Entry.create(LogIndex(7), Term(3), EntryKind.NO_OP)
_LARGEST = 2**63 - 1
_JOINT = Configuration.with_servers(
    [
        Server(NodeId("a"), address="10.0.0.1:7101", incarnation="disk"),
        Server(NodeId("ü"), is_voter=False, is_promoted=True),
        Server(NodeId("c"), is_voter=False, is_leaving=True),
    ],
    old_voters=frozenset({NodeId("a"), NodeId("c")}),
    cluster_id="x",
)
_SNAPSHOT = SnapshotMetadata(
    LogIndex(5), Term(2), Configuration.of("abc", learners="d", cluster_id="x"), SnapshotId("a-5")
)

# What the dialling side of a link sends.
REQUESTS: tuple[Message, ...] = (
    Hello(NodeId("a"), NodeId("b")),
    Hello(NodeId("a"), NodeId("ü"), 7, 3, "cluster", "incarnation", 12, 4),
    PreVoteRequest(Term(2), NodeId("a"), LogIndex(5), Term(1)),
    RequestVoteRequest(Term(1), NodeId("a"), LogIndex(5), Term(1)),
    RequestVoteRequest(Term(_LARGEST), NodeId("a"), LogIndex(_LARGEST), Term(_LARGEST), True),
    AppendEntriesRequest(Term(3), NodeId("a"), LogIndex(0), Term(0), LogIndex(0)),
    AppendEntriesRequest(Term(3), NodeId("a"), LogIndex(5), Term(2), LogIndex(4), (_COMMAND, _NO_OP), Round(9)),
    InstallSnapshotRequest(
        Term(3), NodeId("a"), _SNAPSHOT, 1 << 40, b"state" * 50_000, zlib.crc32(b"state" * 50_000), is_last=False
    ),
    InstallSnapshotRequest(Term(3), NodeId("a"), _SNAPSHOT, 0, b"", 0, is_last=True),
    TimeoutNowRequest(Term(3), NodeId("a")),
    ForwardProposals(7, (b"", b"one", b"\0" * 1000)),
    ForwardProposals(8, (b"", b"one"), bytes([EntryKind.COMMAND, EntryKind.SESSION])),
    ReadIndexRequest(9),
    StatusRequest(10),
    MembersRequest(11),
    MembersRequest(12, is_settled=True, is_forwarded=True),
    ChangeMembers(Term(3), LogIndex(5), Configuration.of("abc"), 13),
    ChangeMembers(Term(_LARGEST), LogIndex(_LARGEST), _JOINT, 14, is_forwarded=True),
)

# What the accepting side sends.
RESPONSES: tuple[Message, ...] = (
    HelloResponse(NodeId("b")),
    HelloResponse(NodeId("b"), 7, 3, "cluster", "incarnation", 12, 4, "no such cluster"),
    PreVoteResponse(Term(3), Term(4), True),
    RequestVoteResponse(Term(3), True),
    RequestVoteResponse(Term(3), False),
    AppendEntriesResponse(Term(3), True, LogIndex(5), LogIndex(7), round=Round(9)),
    AppendEntriesResponse(Term(3), False, LogIndex(5), LogIndex(0), Term(1), LogIndex(2)),
    InstallSnapshotResponse(Term(3), LogIndex(5), SnapshotId("a-5"), 1 << 40),
    InstallSnapshotResponse(Term(3), LogIndex(5), SnapshotId("a-5")),
    TimeoutNowResponse(Term(3)),
    ProposalsApplied(7, Term(3), LogIndex(8), (b"", b"result")),
    ProposalsFailed(7, ForwardFailure.NOT_LEADER, NodeId("b"), "not here"),
    ProposalsFailed(7, ForwardFailure.REFUSED, NodeId("b"), "no room"),
    ProposalsFailed(7, ForwardFailure.UNKNOWN, None, ""),
    ProposalsFailed(7, ForwardFailure.NO_RESULT, None, "too large"),
    ReadIndexReady(9, LogIndex(8)),
    ReadIndexRefused(9, NodeId("b")),
    ReadIndexRefused(9, None),
    StatusResponse(
        NodeStatus(
            node_id=NodeId("b"),
            role=Role.LEADER,
            term=Term(3),
            leader_id=NodeId("b"),
            commit_index=LogIndex(8),
            last_applied=LogIndex(7),
            first_log_index=LogIndex(4),
            last_log_index=LogIndex(9),
            pending_proposals=2,
            peers=(PeerStatus(NodeId("a"), LogIndex(8), LogIndex(9), 1), PeerStatus(NodeId("c"))),
            configuration=_JOINT,
            configuration_index=LogIndex(5),
            is_removed=True,
            founding="n1",
            health=NodeHealth("it is about to stop", "slow", 0.25, 7.5, 0.5, 3, -1.0),
            waiting="waits for node n1 to found the cluster",
        ),
        10,
    ),
    MembersResponse(
        11,
        Members(_JOINT, LogIndex(5), True, Term(3), NodeId("b"), (PeerStatus(NodeId("a"), is_heard=True),)),
    ),
    MembersResponse(12, Members(Configuration(), LogIndex(0), False, Term(3), None)),
    *(MembersFailed(13, refusal, "another time", NodeId("b")) for refusal in ChangeRefusal),
    MembersFailed(14, ChangeRefusal.NOT_LEADER, "", None, may_be_done=True),
)


def numbered(number: int = 1) -> RequestVoteRequest:
    """Return a small message; the number, its term, tells it from others."""
    return RequestVoteRequest(Term(number), NodeId("a"), LogIndex(5), Term(1))


def filled(number: int, size_bytes: int) -> ForwardProposals:
    """Return a message of about this size, whose bytes neither repeat nor compress, and are another's for no number."""
    return ForwardProposals(number, (hashlib.shake_128(number.to_bytes(8, "big")).digest(size_bytes),))

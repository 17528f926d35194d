"""Everything that travels between two nodes: Raft's own messages, forwarded requests and status questions."""

from __future__ import annotations

from enum import Enum

import attrs

from clustercore.interfaces.members import Members
from clustercore.interfaces.values import NodeStatus
from clustercore.raft.messages import RaftRequest, RaftResponse
from clustercore.raft.types import ChangeRefusal, Configuration, LogIndex, NodeId, Term, show_length

__all__ = [
    "MEMBERS_PROTOCOL_VERSION",
    "OLDEST_PROTOCOL_VERSION",
    "PROTOCOL_VERSION",
    "ChangeMembers",
    "ForwardFailure",
    "ForwardProposals",
    "Hello",
    "HelloResponse",
    "MembersFailed",
    "MembersRequest",
    "MembersResponse",
    "Message",
    "ProposalsApplied",
    "ProposalsFailed",
    "ReadIndexReady",
    "ReadIndexRefused",
    "ReadIndexRequest",
    "StatusRequest",
    "StatusResponse",
]


# Grows when a node says something that one of the version before would misunderstand. Two nodes speak the newest
# version that both know; a node says what is newer only to those it agreed on that with.
# Version 3 sends a snapshot in chunks; version 2 took what it was sent for all of it. Version 4 asks about the members,
# and changes them.
PROTOCOL_VERSION = 4
# The oldest version this one can still speak. Version 1 knew no members that come and go.
OLDEST_PROTOCOL_VERSION = 2
# The first version with MembersRequest and ChangeMembers.
MEMBERS_PROTOCOL_VERSION = 4


@attrs.frozen
class Hello:
    """The first message on a link between nodes: who calls, and whom it means to reach."""

    node_id: NodeId
    peer_id: NodeId
    # The newest version the caller can speak, and the oldest; 0 for the oldest means that there is only the one.
    protocol_version: int = PROTOCOL_VERSION
    oldest_protocol_version: int = OLDEST_PROTOCOL_VERSION
    # The cluster the caller belongs to; empty while it belongs to none.
    cluster_id: str = ""
    # Of the caller's storage: see StorageIdentity.
    incarnation: str = ""
    starts: int = 0
    # The newest version of commands that the caller's state machine understands; 0 means 1.
    command_version: int = 1
    # How long the caller protects a leader that it hears, in seconds: a leader's lease must not last longer. 0 if it
    # does not say.
    election_timeout_s: float = 0.0


@attrs.frozen
class HelloResponse:
    """Who answers. If it is not the one that was meant, the caller hangs up.

    Without this, two addresses that lead to one node would let it vote twice.
    """

    node_id: NodeId
    # As in Hello, of the one who answers.
    protocol_version: int = PROTOCOL_VERSION
    oldest_protocol_version: int = OLDEST_PROTOCOL_VERSION
    cluster_id: str = ""
    incarnation: str = ""
    starts: int = 0
    command_version: int = 1
    # Why no other request will be answered on this link, for people; empty if they will be.
    refusal: str = ""
    # As in Hello.
    election_timeout_s: float = 0.0


@attrs.frozen
class ForwardProposals:
    """A node that is not the leader passes on commands; the leader appends all of them or none."""

    # Chosen by the sender, unique among its open requests on this link.
    request_id: int
    # One or more.
    commands: tuple[bytes, ...] = attrs.field(repr=show_length)
    # The ``EntryKind`` of each, one byte each; empty if all are COMMAND.
    kinds: bytes = b""


@attrs.frozen
class ProposalsApplied:
    """The leader applied the forwarded commands, in order, at consecutive indexes from ``first_index``."""

    request_id: int
    term: Term
    first_index: LogIndex
    # What the state machine returned for each, in the order of the commands.
    results: tuple[bytes, ...] = attrs.field(repr=show_length)


class ForwardFailure(Enum):
    """Why forwarded proposals have no results; the names are those of the errors the proposer sees."""

    # Not done: the receiver does not lead.
    NOT_LEADER = "not_leader"
    # Not done: the receiver is stopping or has no room.
    REFUSED = "refused"
    # May still be done.
    UNKNOWN = "unknown"
    # Done, but a result is too large for a message.
    NO_RESULT = "no_result"


@attrs.frozen
class ProposalsFailed:
    """The forwarded commands have no results; ``failure`` says what is known of all of them."""

    request_id: int
    failure: ForwardFailure
    # The leader the receiver knows, or None.
    leader_id: NodeId | None
    detail: str


@attrs.frozen
class ReadIndexRequest:
    """A node asks the leader for an index at which a read is linearizable (thesis §6.4)."""

    # Chosen by the sender, unique among its open requests on this link.
    request_id: int


@attrs.frozen
class ReadIndexReady:
    """A read made after applying ``read_index`` sees everything that was committed before it was asked for."""

    request_id: int
    read_index: LogIndex


@attrs.frozen
class ReadIndexRefused:
    """The asked node does not lead."""

    request_id: int
    # The leader it knows, or None.
    leader_id: NodeId | None


@attrs.frozen
class MembersRequest:
    """Ask for the members, and for proof that whoever answers still leads."""

    # Chosen by the sender, unique among its open requests on this link.
    request_id: int = 0
    # Answer only when no change is under way, or after an election timeout.
    is_settled: bool = False
    # Whether a node passed it on: then it is passed on no further.
    is_forwarded: bool = False


@attrs.frozen
class ChangeMembers:
    """Ask the leader of a term to change the members, if they are still those that came with an entry of the log.

    Without the term, one that was lost on its way could arrive when its sender has long been told that it is not done.
    """

    term: Term
    expected_index: LogIndex
    # Not joint.
    target: Configuration
    request_id: int = 0
    is_forwarded: bool = False
    # Also where a member that is well is not found at its new address.
    is_forced: bool = False


@attrs.frozen
class MembersResponse:
    """The members. To a ChangeMembers: it is in the log, and this is how far it has come."""

    request_id: int
    members: Members


@attrs.frozen
class MembersFailed:
    """The members are not told, or not changed."""

    request_id: int
    reason: ChangeRefusal
    # What would help, for people.
    detail: str
    # The leader the receiver knows, or None.
    leader_id: NodeId | None = None
    # Whether the change may be in a log all the same: it was passed on, and no answer came.
    may_be_done: bool = False


@attrs.frozen
class StatusRequest:
    """Ask a node for its status."""

    request_id: int = 0


@attrs.frozen
class StatusResponse:
    """A node's status."""

    status: NodeStatus
    request_id: int = 0


Message = (
    RaftRequest
    | RaftResponse
    | Hello
    | HelloResponse
    | ForwardProposals
    | ProposalsApplied
    | ProposalsFailed
    | ReadIndexRequest
    | ReadIndexReady
    | ReadIndexRefused
    | MembersRequest
    | ChangeMembers
    | MembersResponse
    | MembersFailed
    | StatusRequest
    | StatusResponse
)

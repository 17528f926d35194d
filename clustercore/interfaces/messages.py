"""Everything that travels between two nodes: Raft's own messages, forwarded proposals and status questions."""

from __future__ import annotations

from enum import Enum

import attrs

from clustercore.interfaces.values import NodeStatus
from clustercore.raft.messages import RaftRequest, RaftResponse
from clustercore.raft.types import LogIndex, NodeId, Term, show_length

__all__ = [
    "PROTOCOL_VERSION",
    "ForwardFailure",
    "ForwardProposals",
    "Hello",
    "HelloResponse",
    "Message",
    "ProposalsApplied",
    "ProposalsFailed",
    "ReadIndexReady",
    "ReadIndexRefused",
    "ReadIndexRequest",
    "StatusRequest",
    "StatusResponse",
]


# Grows when a node says something that one of the version before would misunderstand.
PROTOCOL_VERSION = 1


@attrs.frozen
class Hello:
    """The first message on a link between nodes: who calls, and whom it means to reach."""

    node_id: NodeId
    peer_id: NodeId
    protocol_version: int = PROTOCOL_VERSION


@attrs.frozen
class HelloResponse:
    """Who answers. If it is not the one that was meant, the caller hangs up.

    Without this, two addresses that lead to one node would let it vote twice.
    """

    node_id: NodeId
    protocol_version: int = PROTOCOL_VERSION


@attrs.frozen
class ForwardProposals:
    """A node that is not the leader passes on commands; the leader appends all of them or none."""

    # Chosen by the sender, unique among its open requests on this link.
    request_id: int
    # One or more.
    commands: tuple[bytes, ...] = attrs.field(repr=show_length)


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
    | StatusRequest
    | StatusResponse
)

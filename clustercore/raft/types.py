"""The words of the Raft paper as Python types.

This file knows nothing of messages, time or storage. Every other module of ``clustercore.raft``
builds on it, and ``clustercore.interfaces`` makes these names public.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from enum import Enum
from typing import NewType

import attrs

__all__ = [
    "BEFORE_LOG",
    "NO_TERM",
    "Configuration",
    "HardState",
    "LogIndex",
    "NodeId",
    "ReadId",
    "Role",
    "Round",
    "Snapshot",
    "Term",
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

NO_TERM = Term(0)
BEFORE_LOG = LogIndex(0)


class Role(Enum):
    """What a node is in its current term (Raft §5.1)."""

    FOLLOWER = "follower"
    # Asks whether it could win before it starts a term (thesis §9.6).
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


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


@attrs.frozen
class Configuration:
    """The nodes whose votes and acknowledgements count (Raft §6)."""

    voters: frozenset[NodeId]

    @classmethod
    def of(cls, voters: Iterable[str]) -> Configuration:
        """Build a configuration from plain strings."""
        return cls(frozenset(NodeId(voter) for voter in voters))

    def peers_of(self, node_id: NodeId) -> tuple[NodeId, ...]:
        """Return the other voters, sorted, so that every run visits them in the same order."""
        return tuple(sorted(self.voters - {node_id}))


@attrs.frozen
class Snapshot:
    """A state machine's whole state after applying a prefix of the log (Raft §7)."""

    # The last entry the snapshot covers; at least 1.
    last_included_index: LogIndex
    last_included_term: Term
    data: bytes = attrs.field(repr=show_length)

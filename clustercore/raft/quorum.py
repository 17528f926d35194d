"""Quorum arithmetic: pure functions over a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from clustercore.raft.types import Configuration, NodeId

__all__ = ["VoteResult", "quorum_size", "quorum_value", "vote_result"]


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_size(configuration: Configuration) -> int:
    """Return the smallest number of voters that any two groups of that size share a member (Raft §5.2)."""
    return len(configuration.voters) // 2 + 1


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Count votes; those of nodes that are no voters do not count."""
    needed = quorum_size(configuration)
    granted = sum(votes.get(voter, False) for voter in configuration.voters)
    if granted >= needed:
        return VoteResult.WON
    missing = sum(voter not in votes for voter in configuration.voters)
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def quorum_value(configuration: Configuration, values: Mapping[NodeId, int]) -> int:
    """Return the highest value that a majority of the voters has reached (Raft §5.3); one without a value is at 0."""
    reached = sorted((values.get(voter, 0) for voter in configuration.voters), reverse=True)
    return reached[quorum_size(configuration) - 1]

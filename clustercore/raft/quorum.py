"""Quorum arithmetic: pure functions over a configuration, which may be joint (Raft §5.2, §6; thesis §4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import Enum

from clustercore.raft.types import Configuration, NodeId

__all__ = ["VoteResult", "is_quorum", "quorum_size", "quorum_value", "vote_result"]


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_size(voters: Set[NodeId]) -> int:
    """Return the smallest number of voters that any two groups of that size share a member (Raft §5.2)."""
    return len(voters) // 2 + 1


def is_quorum(configuration: Configuration, members: Set[NodeId]) -> bool:
    """Say whether these nodes can decide alone; those that are no voters do not count."""
    voters, old_voters = configuration.voters, configuration.old_voters
    return len(voters & members) >= quorum_size(voters) and (
        not old_voters or len(old_voters & members) >= quorum_size(old_voters)
    )


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Count votes; those of nodes that are no voters do not count. A joint configuration needs both majorities."""
    results = {_majority_vote(configuration.voters, votes)}
    if configuration.is_joint:
        results.add(_majority_vote(configuration.old_voters, votes))
    # The worst of both: one majority that is lost loses all, and one that is missing keeps it open.
    return next(result for result in (VoteResult.LOST, VoteResult.PENDING, VoteResult.WON) if result in results)


def quorum_value(configuration: Configuration, values: Mapping[NodeId, int]) -> int:
    """Return the highest value that a quorum has reached (Raft §5.3); a node without a value is at 0."""
    value = _majority_value(configuration.voters, values)
    if configuration.is_joint:
        return min(value, _majority_value(configuration.old_voters, values))
    return value


def _majority_vote(voters: Set[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    needed = quorum_size(voters)
    granted = sum(votes.get(voter, False) for voter in voters)
    if granted >= needed:
        return VoteResult.WON
    missing = sum(voter not in votes for voter in voters)
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def _majority_value(voters: Set[NodeId], values: Mapping[NodeId, int]) -> int:
    """Return what a majority has reached; 0 of nobody, who decides nothing."""
    reached = sorted((values.get(voter, 0) for voter in voters), reverse=True)
    return reached[quorum_size(voters) - 1] if reached else 0

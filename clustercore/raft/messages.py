"""The messages Raft nodes exchange, one class each, with the paper's field names (Raft Figure 2 and 13).

Every request has exactly one response, and a negative answer is a response, never an error. A message may be
lost, delayed, repeated and reordered; each carries what its receiver needs to recognise that.
"""

from __future__ import annotations

import attrs

from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, NodeId, Term, show_length

__all__ = [
    "AppendEntriesRequest",
    "AppendEntriesResponse",
    "InstallSnapshotRequest",
    "InstallSnapshotResponse",
    "RaftMessage",
    "RaftRequest",
    "RaftResponse",
    "RequestVoteRequest",
    "RequestVoteResponse",
]


@attrs.frozen
class RequestVoteRequest:
    """A candidate asks for a vote (Raft §5.2, §5.4.1)."""

    term: Term
    candidate_id: NodeId
    last_log_index: LogIndex
    last_log_term: Term


@attrs.frozen
class RequestVoteResponse:
    """The answer to a RequestVoteRequest."""

    # The voter's current term. The vote is for the candidate of exactly this term.
    term: Term
    vote_granted: bool


@attrs.frozen
class AppendEntriesRequest:
    """A leader replicates entries, or only says that it is alive and how far the log is committed (Raft §5.3)."""

    term: Term
    leader_id: NodeId
    # The entry directly before ``entries``: BEFORE_LOG and NO_TERM when they start the log.
    prev_log_index: LogIndex
    prev_log_term: Term
    leader_commit: LogIndex
    # Consecutive by index, the first at prev_log_index + 1. Empty for a heartbeat.
    entries: tuple[Entry, ...] = ()


@attrs.frozen
class AppendEntriesResponse:
    """The answer to an AppendEntriesRequest."""

    # The follower's current term.
    term: Term
    success: bool
    # The request's prev_log_index, by which the leader tells a late or repeated rejection from a new one.
    prev_log_index: LogIndex
    # On success: the highest index the request proved equal to the leader's log, and durable here.
    # Otherwise BEFORE_LOG.
    match_index: LogIndex = LogIndex(0)
    # On a log mismatch, where to look next (Raft §5.3, last paragraphs): the term of the follower's entry at
    # prev_log_index (NO_TERM if it has none) and the first index it holds of that term (or its log's end + 1).
    # Both are 0 when the request was refused for its term alone.
    conflict_term: Term = Term(0)
    conflict_index: LogIndex = LogIndex(0)


@attrs.frozen
class InstallSnapshotRequest:
    """A leader sends its snapshot to a follower that needs entries the leader no longer has (Raft §7, Figure 13)."""

    term: Term
    leader_id: NodeId
    # The last entry the snapshot covers; it replaces the log up to and including it.
    last_included_index: LogIndex
    last_included_term: Term
    data: bytes = attrs.field(repr=show_length)


@attrs.frozen
class InstallSnapshotResponse:
    """The answer to an InstallSnapshotRequest."""

    # The follower's current term.
    term: Term
    # The highest index known durable on the follower and equal to the leader's log; BEFORE_LOG when refused.
    match_index: LogIndex


RaftRequest = RequestVoteRequest | AppendEntriesRequest | InstallSnapshotRequest
RaftResponse = RequestVoteResponse | AppendEntriesResponse | InstallSnapshotResponse
RaftMessage = RaftRequest | RaftResponse

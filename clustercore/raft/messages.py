"""The messages Raft nodes exchange, one class each, with the paper's field names (Raft Figure 2 and 13).

Every request has exactly one response, and a negative answer is a response, never an error. A message may be
lost, delayed, repeated and reordered; each carries what its receiver needs to recognise that.
"""

from __future__ import annotations

import attrs

from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, NodeId, Round, SnapshotId, SnapshotMetadata, Term, show_length

__all__ = [
    "AppendEntriesRequest",
    "AppendEntriesResponse",
    "InstallSnapshotRequest",
    "InstallSnapshotResponse",
    "PreVoteRequest",
    "PreVoteResponse",
    "RaftMessage",
    "RaftRequest",
    "RaftResponse",
    "RequestVoteRequest",
    "RequestVoteResponse",
    "TimeoutNowRequest",
    "TimeoutNowResponse",
]


@attrs.frozen
class PreVoteRequest:
    """A node asks whether it would get a vote, if it stood now (thesis §9.6). Nothing is promised either way."""

    # The term it would stand in: its current term + 1. The receiver does not take it over.
    term: Term
    candidate_id: NodeId
    last_log_index: LogIndex
    last_log_term: Term


@attrs.frozen
class PreVoteResponse:
    """The answer to a PreVoteRequest."""

    # The answering node's own current term, from which one that is behind catches up.
    term: Term
    # The request's term, by which a late answer is told from one of the present pre-election.
    candidate_term: Term
    vote_granted: bool


@attrs.frozen
class RequestVoteRequest:
    """A candidate asks for a vote (Raft §5.2, §5.4.1)."""

    term: Term
    candidate_id: NodeId
    last_log_index: LogIndex
    last_log_term: Term
    # The leader itself told the candidate to stand, so a receiver need not protect that leader (thesis §4.2.3).
    is_leadership_transfer: bool = False


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
    # The leader's newest round of heartbeats when it sent this.
    round: Round = Round(0)
    # The newest round that the receiver had answered in this term, as far as the leader knew when it sent this. So the
    # receiver knows that this was sent after it heard of that round, be the message however long on its way.
    answered_round: Round = Round(0)


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
    # The request's round.
    round: Round = Round(0)


@attrs.frozen
class InstallSnapshotRequest:
    """A leader sends a chunk of its snapshot to a follower that needs entries it no longer has (Raft Figure 13).

    Chunks are sent one at a time: the answer to one says where the next begins.
    """

    term: Term
    leader_id: NodeId
    metadata: SnapshotMetadata
    # Where in the snapshot's bytes the chunk begins.
    offset: int
    # Empty only if the chunk is the last.
    data: bytes = attrs.field(repr=show_length)
    # CRC-32 of ``data``.
    checksum: int
    is_last: bool


@attrs.frozen
class InstallSnapshotResponse:
    """The answer to an InstallSnapshotRequest."""

    # The follower's current term.
    term: Term
    # The highest index known durable on the follower and equal to the leader's log; BEFORE_LOG when refused, and as
    # long as chunks are missing.
    match_index: LogIndex
    # The request's snapshot, by which a late answer is told from one of the present transfer.
    snapshot_id: SnapshotId
    # How much of the snapshot the follower has: where the next chunk begins. 0 when it has all it needs.
    next_offset: int = 0


@attrs.frozen
class TimeoutNowRequest:
    """A leader asks the follower that is to succeed it to stand at once (thesis §3.10)."""

    term: Term
    leader_id: NodeId
    # The leader's newest round of heartbeats when it sent this. Whoever has heard a newer one gets this word late, and
    # does not stand: the leader says it again with each heartbeat, as long as it means it.
    round: Round = Round(0)


@attrs.frozen
class TimeoutNowResponse:
    """The answer to a TimeoutNowRequest: it has arrived. Whether the election is won shows in the term to come."""

    # The follower's current term when it answers; if it stood, one above the request's.
    term: Term
    # The request's round.
    round: Round = Round(0)


RaftRequest = PreVoteRequest | RequestVoteRequest | AppendEntriesRequest | InstallSnapshotRequest | TimeoutNowRequest
RaftResponse = (
    PreVoteResponse | RequestVoteResponse | AppendEntriesResponse | InstallSnapshotResponse | TimeoutNowResponse
)
RaftMessage = RaftRequest | RaftResponse

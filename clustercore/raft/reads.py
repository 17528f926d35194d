"""Reads that need no log entry (thesis §6.4, §6.4.1).

ReadIndex: the leader notes its commit index, makes sure by a round of heartbeats that it still leads, and answers with
the index; whoever asked reads once it has applied that far. Reads that arrive while a round is under way share the
next.

Lease: followers protect a leader they hear for an election timeout, so a leader that a majority has answered knows that
no other can arise for as long after it *sent* what they answered, up to the drift between their clocks.

Neither is served before an entry of the leader's own term is committed: until then it does not know how far the log was
committed before it (thesis §6.4, step 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from clustercore.raft.effects import ReadReady, ReadRefused
from clustercore.raft.quorum import quorum_value
from clustercore.raft.replication import send_heartbeats
from clustercore.raft.state import RaftState, ReadBatch
from clustercore.raft.types import NodeId, ReadId, Role, Round

__all__ = ["lease_until", "maybe_confirm_reads", "maybe_refuse_reads", "quorum_heard_at", "request_reads"]


def request_reads(state: RaftState, read_ids: Sequence[ReadId], now: float) -> None:
    """Ask for an index to read at; ReadReady or ReadRefused answers each id."""
    if state.role is not Role.LEADER:
        state.emit(ReadRefused(tuple(read_ids), state.leader_id))
        return
    state.waiting_reads.extend(read_ids)
    _maybe_start_round(state, now)


def maybe_confirm_reads(state: RaftState, now: float) -> None:
    """Answer the reads whose round a majority has heard, and start the next round for those that wait."""
    batch = state.reads_under_way
    if batch is not None and _confirmed_round(state) >= batch.round:
        state.reads_under_way = None
        state.emit(ReadReady(batch.read_ids, batch.read_index))
    _maybe_start_round(state, now)


def maybe_refuse_reads(state: RaftState) -> None:
    """Off the leader, refuse the reads it had taken: only the new leader can answer them."""
    read_ids = (*(state.reads_under_way.read_ids if state.reads_under_way is not None else ()), *state.waiting_reads)
    if read_ids and state.role is not Role.LEADER:
        state.reads_under_way = None
        state.waiting_reads.clear()
        state.emit(ReadRefused(read_ids, state.leader_id))


def lease_until(
    state: RaftState, now: float, *, heard_since: float, protection_s: Mapping[NodeId, float] | None = None
) -> float:
    """Return until when, in this node's clock, no other node can lead; minus infinity if that is not known.

    A lease counts only if it comes from a round sent at ``heard_since`` or later, and from peers of which it is known
    for how long they protect a leader: by default, all for as long as this node does. It is as short as the shortest of
    these. A leader that has told another to stand holds none for the rest of its term: that election does not wait for
    the lease to end, and the word may arrive late, after the transfer was given up.
    """
    heard_at = quorum_heard_at(state, now, among=protection_s)
    if state.has_told_successor or heard_at < heard_since:
        return -math.inf
    known = protection_s or {}
    shortest_s = min((state.config.election_timeout_s, *(known[peer] for peer in state.progress if peer in known)))
    return heard_at + shortest_s / (1 + state.config.max_clock_drift)


def quorum_heard_at(state: RaftState, now: float, *, among: Collection[NodeId] | None = None) -> float:
    """Return when this leader sent the newest round that a majority has answered.

    Minus infinity if it sent none, or does not know yet how far the log was committed before its term. ``among`` tells
    whose answers count besides its own; by default everybody's.
    """
    if state.role is not Role.LEADER or not state.has_committed_in_term:
        return -math.inf
    if state.configuration.all_voters == {state.node_id}:
        return now
    confirmed = _confirmed_round(state, among)
    return max((sent_at for number, sent_at in state.rounds_sent if number <= confirmed), default=-math.inf)


def _maybe_start_round(state: RaftState, now: float) -> None:
    if state.reads_under_way is None and state.waiting_reads and state.has_committed_in_term:
        # The round starts after the commit index is noted, so whoever answers it answers "you lead" for that index.
        state.reads_under_way = ReadBatch(Round(state.last_round + 1), state.commit_index, tuple(state.waiting_reads))
        state.waiting_reads.clear()
        send_heartbeats(state, now)
        if _confirmed_round(state) >= state.reads_under_way.round:
            # This node is a majority by itself.
            maybe_confirm_reads(state, now)


def _confirmed_round(state: RaftState, among: Collection[NodeId] | None = None) -> Round:
    """Return the newest round that a majority has answered in this term, this node counting as having answered all."""
    answered = {
        peer: progress.answered_round
        for peer, progress in state.trusted_progress.items()
        if among is None or peer in among
    }
    answered[state.node_id] = state.last_round
    return Round(quorum_value(state.configuration, answered))

"""ReadIndex and leases (thesis §6.4, §6.4.1): what a read may rely on, and what it must wait for."""

from __future__ import annotations

import math

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, ReadReady, ReadRefused, Reply, Send
from clustercore.raft.messages import AppendEntriesRequest, AppendEntriesResponse
from clustercore.raft.types import LogIndex, NodeId, ReadId, Role, Round, Term, WriteId
from tests.unit.raft.building import CONFIG, B, C, D, append, appended, follower, leader, vote_request, vote_response

ONE, TWO, THREE = ReadId(1), ReadId(2), ReadId(3)
LEASE_S = CONFIG.election_timeout_s / (1 + CONFIG.max_clock_drift)


def answer(round_number: int, *, match: int = 1, term: int = 1) -> AppendEntriesResponse:
    """A follower that holds the log up to ``match`` answers a round."""
    return AppendEntriesResponse(Term(term), True, LogIndex(match), LogIndex(match), round=Round(round_number))


def rejection(round_number: int, *, conflict_index: int) -> AppendEntriesResponse:
    """A follower with another log answers a round."""
    return AppendEntriesResponse(
        Term(1), False, LogIndex(1), conflict_index=LogIndex(conflict_index), round=Round(round_number)
    )


def serving(voters: str = "abc", *, answered_by: str = "b") -> RaftCore:
    """A leader of term 1 that has committed its no-op at time 1, by an answer of B, or others, to round 1."""
    core = leader(voters)
    if len(voters) > 1:
        for peer in answered_by:
            core.receive(NodeId(peer), answer(1), 1.0)
    assert core.state.commit_index == 1
    return core


def heartbeats(effects: Effects) -> list[tuple[NodeId, int]]:
    """Whom a round goes to, and its number."""
    return [
        (effect.to, effect.message.round)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, AppendEntriesRequest) and not effect.message.entries
    ]


def reads(effects: Effects) -> list[ReadReady | ReadRefused]:
    """What is said of reads."""
    return [effect for effect in effects if isinstance(effect, ReadReady | ReadRefused)]


# --- ReadIndex ---


def test_read_waits_for_a_majority_to_answer_a_round_sent_after_it() -> None:
    """A read starts a round of heartbeats at once, and is ready at the commit index of that moment (§6.4, 2-3)."""
    core = serving()

    started = core.read([ONE], 1.1)
    confirmed = core.receive(C, answer(2), 1.2)

    assert heartbeats(started) == [(B, 2), (C, 2)]
    assert reads(started) == []
    assert reads(confirmed) == [ReadReady((ONE,), LogIndex(1))]


def test_answer_to_an_earlier_round_confirms_no_read() -> None:
    """A follower that answered before the read was asked for may follow another leader since."""
    core = serving()
    core.read([ONE], 1.1)

    assert reads(core.receive(C, answer(1), 1.2)) == []
    assert reads(core.receive(C, answer(0), 1.2)) == []


def test_reads_during_a_round_share_the_next() -> None:
    """They may be younger than the round under way, so they wait; all of them go with one further round (§6.4)."""
    core = serving()
    core.read([ONE], 1.1)

    assert core.read([TWO], 1.15) == ()
    assert core.read([THREE], 1.15) == ()
    first = core.receive(B, answer(2), 1.2)
    second = core.receive(B, answer(3), 1.3)

    assert reads(first) == [ReadReady((ONE,), LogIndex(1))]
    assert heartbeats(first) == [(B, 3), (C, 3)]
    assert reads(second) == [ReadReady((TWO, THREE), LogIndex(1))]


def test_read_index_is_the_commit_index_when_the_round_starts() -> None:
    """What commits while the round is under way need not be waited for."""
    core = serving()
    core.read([ONE], 1.1)
    core.propose([b"x"], 1.1)
    core.storage_done(WriteId(3), 1.1)

    committed_too = core.receive(B, answer(2, match=2), 1.2)

    assert core.state.commit_index == 2
    assert reads(committed_too) == [ReadReady((ONE,), LogIndex(1))]


def test_new_leader_serves_no_read_before_its_no_op_commits() -> None:
    """It does not know how far the log was committed before it (§6.4, 1)."""
    core = leader()

    assert core.read([ONE], 1.1) == ()
    committed = core.receive(B, answer(1), 1.2)
    confirmed = core.receive(B, answer(2), 1.3)

    assert reads(committed) == []
    assert heartbeats(committed) == [(B, 2), (C, 2)]
    assert reads(confirmed) == [ReadReady((ONE,), LogIndex(1))]


def test_mismatch_confirms_a_read_too() -> None:
    """A follower that reports another log followed this leader when it did."""
    core = serving()
    core.read([ONE], 1.1)

    assert reads(core.receive(C, rejection(2, conflict_index=1), 1.2)) == [ReadReady((ONE,), LogIndex(1))]


def test_refusal_confirms_no_read() -> None:
    """An answer that says nothing about the log is that of a node which did not take this one for its leader."""
    core = serving()
    core.read([ONE], 1.1)

    assert reads(core.receive(C, rejection(2, conflict_index=0), 1.2)) == []


def test_round_nobody_sent_counts_as_the_newest_sent() -> None:
    """A foreign answer cannot confirm reads to come."""
    core = serving()
    core.receive(C, answer(99), 1.1)

    assert core.read([ONE], 1.2) != ()
    assert core.state.progress[C].answered_round == 1


def test_lost_round_is_made_good_by_the_next_heartbeat() -> None:
    """An answer to a later round confirms as well."""
    core = serving()
    core.read([ONE], 1.1)
    beat = core.time_passed(core.deadline)

    assert heartbeats(beat) == [(B, 3), (C, 3)]
    assert reads(core.receive(B, answer(3), core.deadline)) == [ReadReady((ONE,), LogIndex(1))]


def test_lone_voter_answers_at_once() -> None:
    """It is a majority by itself."""
    core = serving("a")

    assert reads(core.read([ONE], 1.1)) == [ReadReady((ONE,), LogIndex(1))]


def test_follower_refuses_and_names_the_leader() -> None:
    """Only the leader can answer."""
    core = follower()
    core.receive(B, append(1, "b"), 0.5)

    assert core.read([ONE, TWO], 0.6) == (ReadRefused((ONE, TWO), B),)


def test_deposed_leader_refuses_what_it_had_taken() -> None:
    """Reads under way and reads that wait are both refused, and never confirmed by late answers."""
    core = serving()
    core.read([ONE], 1.1)
    core.read([TWO], 1.1)

    deposed = core.receive(C, append(2, "c"), 1.2)
    late = core.receive(B, answer(2), 1.3)

    assert core.state.role is Role.FOLLOWER
    assert reads(deposed) == [ReadRefused((ONE, TWO), C)]
    assert late == ()


def test_leader_without_followers_refuses_when_it_steps_down() -> None:
    """CheckQuorum ends the reads of a leader nobody answers (§6.2)."""
    core = serving()
    core.read([ONE], 1.1)
    refused: list[ReadReady | ReadRefused] = []
    while core.state.role is Role.LEADER:
        refused += reads(core.time_passed(core.deadline))

    assert refused == [ReadRefused((ONE,), None)]


def test_term_begins_with_the_round_of_its_no_op() -> None:
    """Rounds of an earlier term of office say nothing in a later one."""
    core = serving()
    core.read([ONE], 1.1)
    core.receive(C, append(2, "c", (1, 1)), 1.2)

    assert core.state.last_round == 2
    again = leader(term=3)

    assert again.state.last_round == 1
    assert list(again.state.rounds_sent) == [(1, 1.0)]


# --- Leases ---


def test_lease_runs_from_when_the_answered_round_was_sent() -> None:
    """Not from when the answer came: followers protect a leader since they heard it (§6.4.1)."""
    core = serving()

    assert core.lease_until(1.1, heard_since=-math.inf) == 1.0 + LEASE_S
    core.time_passed(1.25)
    assert core.lease_until(1.3, heard_since=-math.inf) == 1.0 + LEASE_S
    core.receive(C, answer(2), 1.5)
    assert core.lease_until(1.5, heard_since=-math.inf) == 1.25 + LEASE_S


def test_leader_tells_when_it_sent_what_a_majority_has_answered() -> None:
    """The newest such round counts, by the time it was sent; one that is no leader has sent nothing."""
    core = serving()
    assert core.quorum_heard_at(1.1) == 1.0

    core.time_passed(1.25)
    core.time_passed(1.5)
    assert core.quorum_heard_at(1.5) == 1.0
    core.receive(B, answer(3), 1.6)
    core.receive(C, answer(2), 1.6)

    assert core.quorum_heard_at(1.6) == 1.5
    assert serving("a").quorum_heard_at(7.0) == 7.0
    assert follower().quorum_heard_at(0.5) == -math.inf


def test_lease_needs_a_majority() -> None:
    """With five voters, one answer beside the leader is none."""
    core = leader("abcde")
    core.receive(B, answer(1), 1.1)
    assert core.lease_until(1.1, heard_since=-math.inf) == -math.inf

    core.receive(C, answer(1), 1.2)

    assert core.lease_until(1.2, heard_since=-math.inf) == 1.0 + LEASE_S


def test_lease_is_as_short_as_the_shortest_protection() -> None:
    """A follower protects a leader for its own election timeout; a longer one makes no longer lease."""
    core = serving()
    share = LEASE_S / CONFIG.election_timeout_s

    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={B: 9.0, C: 9.0}) == 1.0 + LEASE_S
    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={B: 0.25, C: 9.0}) == 1.0 + 0.25 * share
    # One that is no member protects nobody that counts.
    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={B: 9.0, D: 0.25}) == 1.0 + LEASE_S


def test_lease_counts_nobody_whose_protection_is_not_known() -> None:
    """A node of an older version may depose this leader at any time: its answers confirm reads, but make no lease."""
    core = serving("abcde", answered_by="bd")

    assert core.quorum_heard_at(1.1) == 1.0
    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={}) == -math.inf
    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={B: 1.0}) == -math.inf
    assert core.lease_until(1.1, heard_since=-math.inf, protection_s={B: 1.0, D: 1.0}) == 1.0 + LEASE_S
    assert serving("a").lease_until(7.0, heard_since=-math.inf, protection_s={}) == 7.0 + LEASE_S


def test_node_that_restarts_with_a_shorter_timeout_keeps_its_promise() -> None:
    """It helps nobody to depose a leader that may still count on it, itself included; a longer one promises more."""
    core = follower(protection_s=5.0)
    assert core.receive(C, vote_request(1, "c"), 4.9) == (Reply(vote_response(0, False)),)
    assert core.deadline == 5.0
    assert follower(protection_s=0.5).state.leader_protected_until == CONFIG.election_timeout_s

    core.receive(C, vote_request(1, "c"), 5.0)

    assert core.state.voted_for == C


def test_lease_from_before_a_clock_step_does_not_count() -> None:
    """Only what was sent since the clock can be relied on makes a lease."""
    core = serving()

    assert core.lease_until(1.1, heard_since=1.05) == -math.inf
    core.time_passed(1.25)
    core.receive(C, answer(2), 1.3)
    assert core.lease_until(1.3, heard_since=1.05) == 1.25 + LEASE_S


def test_new_leader_holds_no_lease_before_its_no_op_commits() -> None:
    """Its commit index is not the cluster's yet."""
    core = leader(is_durable=False)
    core.receive(B, answer(1, match=0), 1.1)

    assert core.state.commit_index == 0
    assert core.lease_until(1.1, heard_since=-math.inf) == -math.inf


def test_leader_that_told_another_to_stand_holds_no_lease_again() -> None:
    """The word may arrive late, when the transfer was given up long ago; it outruns every protection (§4.2.3)."""
    core = serving()
    core.transfer_leadership(B, 1.1)
    assert core.state.has_told_successor
    assert core.lease_until(1.1, heard_since=-math.inf) == -math.inf

    while core.state.transfer is not None:
        core.time_passed(core.deadline)
        core.receive(B, answer(core.state.last_round), core.deadline)
        core.receive(C, answer(core.state.last_round), core.deadline)

    assert core.state.role is Role.LEADER
    assert core.lease_until(core.deadline, heard_since=-math.inf) == -math.inf


def test_new_leader_was_heard_by_nobody_before_its_no_op_commits() -> None:
    """An answer that rejects the no-op shows that the follower listens, not how far the log is committed."""
    core = leader()
    core.receive(B, rejection(1, conflict_index=1), 1.1)
    assert core.quorum_heard_at(1.1) == -math.inf

    core.receive(C, answer(1), 1.2)
    assert core.quorum_heard_at(1.2) == 1.0
    core.receive(C, append(2, "c"), 1.3)
    assert core.quorum_heard_at(1.3) == -math.inf
    assert follower("a").quorum_heard_at(0.5) == -math.inf


def test_follower_and_deposed_leader_hold_no_lease() -> None:
    """A lease is the leader's."""
    core = serving()
    core.receive(C, append(2, "c"), 1.2)

    assert core.lease_until(1.2, heard_since=-math.inf) == -math.inf
    assert follower().lease_until(0.0, heard_since=-math.inf) == -math.inf


def test_lone_voter_always_holds_a_lease() -> None:
    """Nobody can elect another."""
    assert serving("a").lease_until(7.0, heard_since=-math.inf) == 7.0 + LEASE_S


@pytest.mark.parametrize("candidate_id", ["b", "c"])
def test_nobody_is_elected_while_a_lease_runs(candidate_id: str) -> None:
    """A follower that answered a round refuses its vote for longer than the lease from that round lasts."""
    core = follower()
    core.receive(B, append(1, "b"), 1.0)
    lease_ends = 1.0 + LEASE_S

    refused = core.receive(NodeId(candidate_id), vote_request(2, candidate_id, (5, 1)), lease_ends)

    assert core.state.current_term == 1
    assert [getattr(effect, "message", None) and effect.message.vote_granted for effect in refused] == [False]  # type: ignore[union-attr]  # one Reply


def test_answer_of_a_follower_names_the_round_it_was_asked_in() -> None:
    """Also when it reports a mismatch."""
    core = follower()
    request = append(1, "b")
    with_round = AppendEntriesRequest(
        request.term,
        request.leader_id,
        request.prev_log_index,
        request.prev_log_term,
        request.leader_commit,
        round=Round(7),
    )

    (reply, *_) = [effect for effect in core.receive(B, with_round, 0.5) if hasattr(effect, "message")]

    assert reply.message.round == 7  # type: ignore[union-attr]  # a Reply, as it is the answer to a request
    assert appended(1, 0, 0).round == 0


def test_rounds_of_reads_do_not_put_off_what_is_due() -> None:
    """CheckQuorum, the end of a transfer and the next heartbeat come in time, however many reads are made."""
    core = serving()
    due = core.deadline
    core.read([ONE], 1.1)
    core.receive(B, answer(2), 1.15)
    core.read([TWO], 1.2)

    assert core.state.last_round == 3
    assert core.deadline == due

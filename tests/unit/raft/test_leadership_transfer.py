"""Leadership transfer at the leader (thesis §3.10), and when its disk stalls. ``test_timeout_now`` has the target."""

from __future__ import annotations

import attrs
import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    Effects,
    ProposalsAppended,
    ProposalsRefused,
    Send,
    TransferGivenUp,
)
from clustercore.raft.messages import RaftMessage, TimeoutNowRequest
from clustercore.raft.types import LogIndex, NodeId, ReadId, Role, Round, Term, TransferFailure, WriteId
from tests.unit.raft.building import (
    CONFIG,
    A,
    B,
    C,
    D,
    append,
    appended,
    candidate,
    changes,
    follower,
    installed,
    leader,
    picture,
    pre_candidate,
    pre_vote_response,
    refused,
    snapshot,
    timeout_now,
    timeout_now_response,
    vote_request,
    vote_response,
)


def serving(voters: str = "abc") -> RaftCore:
    """A leader of term 1 at time 1 whose followers all have its no-op."""
    core = leader(voters)
    for peer in core.state.configuration.peers_of(A):
        core.receive(peer, appended(1, 0, 1), 1.0)
    return core


def with_target_behind() -> RaftCore:
    """The same with an entry 2 that is durable here and on its way to the others, and a transfer to B since 1."""
    core = serving()
    core.propose([b"x"], 1.0)
    core.storage_done(WriteId(3), 1.0)
    assert core.transfer_leadership(B, 1.0) == ()
    return core


def told(effects: Effects) -> list[NodeId]:
    """Who is told to stand."""
    return [
        effect.to for effect in effects if isinstance(effect, Send) and isinstance(effect.message, TimeoutNowRequest)
    ]


# --- Telling the target ---


def test_target_that_has_the_whole_log_is_told_at_once() -> None:
    """It can win the election as well as the leader could."""
    core = serving()
    before = picture(core)

    effects = core.transfer_leadership(B, 1.125)

    assert effects == (Send(B, timeout_now(1, "a")),)
    assert changes(before, core) == {"transfer": (B, 2.125, True), "has_told_successor": True}


def test_target_that_lags_is_told_when_it_has_caught_up() -> None:
    """Before, it might lose the election to no one's gain."""
    core = serving()
    core.propose([b"x"], 1.0)
    core.storage_done(WriteId(3), 1.0)
    before = picture(core)

    assert core.transfer_leadership(B, 1.125) == ()
    assert changes(before, core) == {"transfer": (B, 2.125, False)}
    assert core.receive(B, appended(1, 1, 1), 1.25) == ()

    effects = core.receive(B, appended(1, 1, 2), 1.25)

    assert effects == (Apply(core.state.log.slice(LogIndex(2), LogIndex(2))), Send(B, timeout_now(1, "a")))
    assert core.state.has_told_successor


def test_target_is_told_again_with_each_heartbeat_and_not_between() -> None:
    """The word may be lost; its further answers repeat nothing. Each time it names the round it belongs to."""
    core = with_target_behind()
    assert told(core.receive(B, appended(1, 1, 2), 1.25)) == [B]
    assert core.receive(B, appended(1, 1, 2), 1.25) == ()

    effects = core.time_passed(1.25)
    assert effects[-1] == Send(B, timeout_now(1, "a", round_number=2))
    assert told(effects) == [B]

    assert told(core.receive(B, appended(1, 1, 2, round_number=2), 1.5)) == []
    assert told(core.time_passed(1.5)) == [B]


def test_rounds_of_reads_do_not_repeat_the_word() -> None:
    """They may be as many as there are reads; the word goes with what is due in time."""
    core = with_target_behind()
    core.receive(B, appended(1, 1, 2), 1.25)

    assert told(core.read([ReadId(1)], 1.25)) == []


def test_target_that_has_all_waits_until_it_is_committed() -> None:
    """So whoever proposed it hears of it from this leader, and not that its outcome is unknown."""
    core = serving("abcde")
    core.propose([b"x"], 1.0)
    core.storage_done(WriteId(3), 1.0)
    core.transfer_leadership(B, 1.0)

    assert told(core.receive(B, appended(1, 1, 2), 1.25)) == []
    assert told(core.receive(C, appended(1, 1, 2), 1.25)) == [B]


def test_target_is_told_when_the_leaders_own_disk_was_the_last() -> None:
    """What the target has is committed by that."""
    core = serving("ab")
    core.propose([b"x"], 1.0)
    core.transfer_leadership(B, 1.0)
    assert told(core.receive(B, appended(1, 1, 2), 1.25)) == []

    assert told(core.storage_done(WriteId(3), 1.25)) == [B]


def given_up(target: NodeId, failure: TransferFailure) -> TransferGivenUp:
    """What the core says when it goes on leading."""
    return TransferGivenUp(target, failure)


def test_target_that_refuses_ends_the_transfer() -> None:
    """It did not stand, or it would have answered in a later term."""
    core = with_target_behind()
    core.receive(B, appended(1, 1, 2), 1.25)

    effects = core.receive(B, timeout_now_response(1), 1.25)

    assert effects == (given_up(B, TransferFailure.REFUSED),)
    assert core.state.transfer is None
    assert core.proposal_room_bytes > 0


@pytest.mark.parametrize(
    ("sender", "round_number"), [(C, 2), (B, 1), (B, 0), (B, 3)], ids=["another", "older", "no round", "no such round"]
)
def test_answer_to_another_word_ends_no_transfer(sender: NodeId, round_number: int) -> None:
    """Only the target's answer to the newest one says anything."""
    core = with_target_behind()
    core.receive(B, appended(1, 1, 2), 1.25)
    core.time_passed(1.25)
    before = picture(core)

    assert core.receive(sender, timeout_now_response(1, round_number=round_number), 1.25) == ()
    assert picture(core) == before


def test_refusal_of_a_word_that_may_have_been_overtaken_ends_no_transfer() -> None:
    """A round of reads went out after it: the target may have heard that first. It is told again."""
    core = with_target_behind()
    core.receive(B, appended(1, 1, 2), 1.25)
    core.read([ReadId(1)], 1.25)

    assert core.receive(B, timeout_now_response(1), 1.25) == ()
    assert told(core.time_passed(1.25)) == [B]


def test_answer_without_a_transfer_changes_nothing() -> None:
    """It comes late."""
    core = serving()
    before = picture(core)

    assert core.receive(B, timeout_now_response(1), 1.25) == ()
    assert picture(core) == before


def test_target_that_is_lost_ends_the_transfer() -> None:
    """The connection to it broke; another peer's breaking says nothing."""
    core = with_target_behind()
    assert core.peer_unreachable(C) == ()

    assert core.peer_unreachable(B) == (given_up(B, TransferFailure.UNREACHABLE),)
    assert core.state.transfer is None


def test_target_that_was_silent_lately_is_refused() -> None:
    """Nothing for three heartbeats: it could hardly take over in time."""
    core = serving()
    core.receive(C, appended(1, 0, 1), 1.5)
    before = picture(core)

    assert core.transfer_leadership(B, 1.75) == (given_up(B, TransferFailure.SILENT),)
    assert picture(core) == before
    assert told(core.transfer_leadership(C, 1.75)) == [C]


def test_target_that_needs_a_snapshot_is_refused() -> None:
    """That takes longer than an election timeout, as a rule; proposals would be refused all the while."""
    core = leader("ab", stored=snapshot(4, 1), term=2)
    core.receive(B, refused(2, 4, conflict=(0, 2)), 1.0)

    assert core.transfer_leadership(B, 1.0) == (given_up(B, TransferFailure.FAR_BEHIND),)


def test_target_whose_entries_are_compacted_is_refused_issue_4() -> None:
    """What its full window kept back is in the log no more: it needs a snapshot next. It once broke the leader."""
    core = leader(config=attrs.evolve(CONFIG, max_inflight_appends=1))
    core.receive(B, appended(1, 0, 1), 1.0)
    for _ in range(3):
        core.propose([b"x"], 1.0)
    core.storage_done(core.state.last_write_id, 1.0)
    core.receive(C, appended(1, 0, 1), 1.0)
    core.receive(C, appended(1, 1, 4), 1.0)
    assert core.state.last_applied == 4
    core.snapshot_taken(snapshot(4, 1), LogIndex(5))
    assert core.state.progress[B].next_index < core.state.log.first_index

    assert core.transfer_leadership(B, 1.0) == (given_up(B, TransferFailure.FAR_BEHIND),)


@pytest.mark.parametrize(("count", "is_far"), [(3, False), (4, True)])
def test_target_that_lacks_many_windows_is_refused(count: int, is_far: bool) -> None:
    """Two full windows are on their way soon, more are not. Of one that is probed nobody knows what it lacks."""
    core = leader(config=attrs.evolve(CONFIG, max_inflight_bytes=150, max_inflight_appends=9))
    for peer in (B, C):
        core.receive(peer, appended(1, 0, 1), 1.0)
    for _ in range(count):
        core.propose([bytes(70)], 1.0)

    effects = core.transfer_leadership(B, 1.0)
    assert effects == ((given_up(B, TransferFailure.FAR_BEHIND),) if is_far else ())

    core.peer_unreachable(C)
    assert given_up(C, TransferFailure.FAR_BEHIND) not in core.transfer_leadership(C, 1.0)


def test_answer_of_another_tells_the_target_nothing() -> None:
    """That one has the log says nothing of the other."""
    core = with_target_behind()

    assert told(core.receive(C, appended(1, 1, 2), 1.25)) == []
    assert picture(core)["transfer"] == (B, 2.0, False)


def test_target_that_gets_the_log_by_a_snapshot_is_told() -> None:
    """However it comes to have the whole log; here it is found to need one only when the transfer is under way."""
    core = leader("ab", stored=snapshot(4, 1), term=2)
    core.transfer_leadership(B, 1.0)
    core.receive(B, refused(2, 4, conflict=(0, 2)), 1.0)

    assert told(core.receive(B, installed(2, 4, snapshot(4, 1)), 1.25)) == []
    assert told(core.receive(B, installed(2, 5, snapshot(4, 1)), 1.25)) == [B]


def test_target_is_brought_up_to_date_meanwhile() -> None:
    """The leader sends what it lacks, as to any follower."""
    core = with_target_behind()

    effects = core.receive(B, refused(1, 1, conflict=(0, 1)), 1.25)
    assert effects == ()
    core.peer_unreachable(B)
    effects = core.receive(B, appended(1, 1, 1), 1.25)

    entries = core.state.log.slice(LogIndex(2), LogIndex(2))
    assert effects == (Send(B, append(1, "a", prev=(1, 1), entries=entries, commit=1, round_number=1)),)


# --- While it is under way ---


@pytest.mark.parametrize("make", [with_target_behind, serving])
def test_proposals_are_refused_while_handing_over(make: type) -> None:
    """The target would have to catch up with them for ever; nothing is appended (thesis §3.10, step 1)."""
    core: RaftCore = make()
    core.transfer_leadership(B, 1.0)
    before = picture(core)

    assert core.proposal_room_bytes == 0
    assert core.propose([b"y"], 1.125) == (ProposalsRefused(A),)
    assert picture(core) == before


def test_leader_that_hands_over_still_leads() -> None:
    """It sends heartbeats and commits what it had taken."""
    core = with_target_behind()

    assert core.receive(C, appended(1, 1, 2), 1.25) == (Apply(core.state.log.slice(LogIndex(2), LogIndex(2))),)
    assert core.time_passed(1.25) == (
        Send(B, append(1, "a", prev=(1, 1), commit=2, round_number=2)),
        Send(C, append(1, "a", prev=(2, 1), commit=2, round_number=2)),
    )


@pytest.mark.parametrize("is_told", [False, True])
def test_transfer_is_given_up_after_an_election_timeout(is_told: bool) -> None:
    """The target did not take over: the leader takes proposals again, at the first heartbeat after the deadline."""
    core = with_target_behind()
    core.receive(C, appended(1, 1, 2), 1.75)
    if is_told:
        core.receive(B, appended(1, 1, 2), 1.75)
    core.time_passed(1.99)
    told_round = Round(2) if is_told else Round(0)
    assert picture(core)["transfer"] == (B, 2.0, told_round)

    effects = core.time_passed(2.25)

    assert effects[0] == given_up(B, TransferFailure.TIMED_OUT)
    assert told(effects) == []
    assert core.state.role is Role.LEADER
    assert core.state.transfer is None
    assert core.state.has_told_successor is is_told
    assert core.proposal_room_bytes > 0
    assert core.propose([b"y"], 2.25)[0] == ProposalsAppended(Term(1), LogIndex(3))


def test_transfer_that_was_given_up_may_be_tried_again() -> None:
    """The target is then told anew."""
    core = serving()
    core.transfer_leadership(B, 1.0)
    core.receive(C, appended(1, 0, 1), 1.75)
    core.time_passed(2.0)
    core.receive(B, appended(1, 0, 1), 2.0)

    assert told(core.transfer_leadership(B, 2.125)) == [B]


def test_target_may_be_replaced_until_it_is_told() -> None:
    """The time begins again, and the first target is told nothing any more."""
    core = with_target_behind()
    core.receive(C, appended(1, 1, 2), 1.25)

    effects = core.transfer_leadership(C, 1.5)

    assert effects == (given_up(B, TransferFailure.REPLACED), Send(C, timeout_now(1, "a")))
    assert picture(core)["transfer"] == (C, 2.5, Round(1))
    assert told(core.receive(B, appended(1, 1, 2), 1.5)) == []


@pytest.mark.parametrize("target", ["b", "c"])
def test_target_that_was_told_is_not_replaced(target: str) -> None:
    """Two that stand at once would take each other's votes; and the time does not begin again."""
    core = serving()
    core.transfer_leadership(B, 1.0)
    before = picture(core)

    effects = core.transfer_leadership(NodeId(target), 1.5)

    assert effects == (() if target == "b" else (given_up(C, TransferFailure.OTHER_TOLD),))
    assert picture(core) == before


@pytest.mark.parametrize("target", ["a", "x", ""])
def test_wrong_target_changes_nothing(target: str) -> None:
    """The leader itself and strangers cannot take over."""
    core = serving()
    before = picture(core)

    assert core.transfer_leadership(NodeId(target), 1.5) == (given_up(NodeId(target), TransferFailure.NOT_A_VOTER),)
    assert picture(core) == before


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate])
def test_transfer_by_whoever_does_not_lead_changes_nothing(make: type) -> None:
    """Only a leader has something to hand over."""
    core: RaftCore = make()
    before = picture(core)

    assert core.transfer_leadership(B, 1.5) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    "message",
    [
        append(2, "b", prev=(1, 1)),
        vote_request(2, "b", last=(2, 1), is_leadership_transfer=True),
        vote_response(2, False),
        timeout_now_response(2),
    ],
    ids=["AppendEntries", "RequestVote", "a response", "TimeoutNowResponse"],
)
def test_transfer_ends_with_the_term(message: RaftMessage) -> None:
    """The leadership is gone, whoever got it."""
    core = with_target_behind()

    core.receive(B, message, 1.5)

    assert (core.state.role, core.state.current_term) == (Role.FOLLOWER, 2)
    assert core.state.transfer is None


def test_transfer_ends_when_the_leader_steps_down() -> None:
    """Whoever leads no more has nothing to hand over; a late answer tells nobody."""
    core = with_target_behind()
    core.time_passed(2.0)

    assert core.state.role is Role.FOLLOWER
    assert core.state.transfer is None
    assert core.receive(B, appended(1, 1, 2), 2.0) == ()


def test_new_term_begins_without_what_was_told_in_the_last() -> None:
    """Whoever was told to stand in an earlier term cannot in this one."""
    core = serving("ab")
    core.transfer_leadership(B, 1.0)
    core.receive(B, append(2, "b", prev=(1, 1)), 1.5)
    assert core.state.has_told_successor

    core.time_passed(2.5)
    core.receive(B, pre_vote_response(2, 3, True), 2.5)
    core.storage_done(core.state.last_write_id, 2.5)
    core.receive(B, vote_response(3, True), 2.5)

    assert (core.state.role, core.state.current_term) == (Role.LEADER, 3)
    assert not core.state.has_told_successor


# --- The one to hand over to ---


def test_best_successor_has_the_longest_log() -> None:
    """It has least to catch up with; with logs alike, any one of them will do, but always the same."""
    core = serving("abcd")
    assert core.best_successor(1.0) == D
    core.propose([b"x"], 1.0)

    core.receive(C, appended(1, 1, 2), 1.0)

    assert core.best_successor(1.0) == C


def test_best_successor_was_heard_of_lately() -> None:
    """Within three heartbeats; a longer log of one that is silent is worth nothing."""
    core = serving()
    core.propose([b"x"], 1.0)
    core.receive(C, appended(1, 1, 2), 1.0)
    core.receive(B, appended(1, 1, 1), 1.5)

    assert core.best_successor(1.74) == C
    assert core.best_successor(1.75) == B
    assert core.best_successor(2.24) == B
    assert core.best_successor(2.25) is None


def test_best_successor_gets_entries_as_they_come() -> None:
    """One that is probed or waits for a snapshot would have to catch up first."""
    core = serving()
    core.peer_unreachable(C)
    assert core.best_successor(1.0) == B

    core.peer_unreachable(B)
    assert core.best_successor(1.0) is None


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate])
def test_whoever_does_not_lead_knows_no_successor(make: type) -> None:
    """It does not know how far the others are."""
    core: RaftCore = make()

    assert core.best_successor(1.0) is None


# --- A disk that stalls ---


def stalled() -> RaftCore:
    """A leader whose followers commit, at 1.125, what its own disk has kept waiting since 1."""
    core = serving()
    core.propose([b"x"], 1.0)
    for peer in (B, C):
        core.receive(peer, appended(1, 1, 2), 1.125)
    assert (core.state.commit_index, core.state.last_applied) == (2, 1)
    return core


def test_leader_with_a_stalled_disk_hands_over() -> None:
    """It can answer nobody, and its heartbeats would keep it in office; so it leaves at one of them."""
    core = stalled()
    assert told(core.time_passed(1.49)) == []
    before = picture(core)

    effects = core.time_passed(1.74)

    assert effects == (
        Send(B, append(1, "a", prev=(2, 1), commit=2, round_number=3)),
        Send(C, append(1, "a", prev=(2, 1), commit=2, round_number=3)),
        Send(C, timeout_now(1, "a", round_number=3)),
    )
    assert changes(before, core) == {
        "transfer": (C, 2.74, Round(3)),
        "has_told_successor": True,
        "last_round": 3,
        "rounds_sent": ((1, 1.0), (2, 1.49), (3, 1.74)),
        "heartbeat_deadline": 1.99,
    }


def test_stall_is_measured_from_the_oldest_write_that_waits() -> None:
    """A disk that is slow but gets on is no outage."""
    core = stalled()
    core.propose([b"y"], 1.25)
    core.storage_done(WriteId(3), 1.375)
    for peer in (B, C):
        core.receive(peer, appended(1, 2, 3), 1.5)

    assert told(core.time_passed(1.74)) == []
    assert told(core.time_passed(1.99)) == [C]


def test_disk_may_stall_for_as_long_as_is_configured() -> None:
    """``disk_stall_s`` after the write was asked for, and not before."""
    core = leader(config=attrs.evolve(CONFIG, disk_stall_s=0.25), is_durable=False)
    for peer in (B, C):
        core.receive(peer, appended(1, 0, 1), 1.0)

    assert told(core.time_passed(1.25)) == [C]


def test_leader_with_a_stalled_disk_and_no_successor_goes_on() -> None:
    """Nobody could do better now; it hands over once somebody can."""
    core = stalled()
    core.peer_unreachable(B)
    core.peer_unreachable(C)
    assert told(core.time_passed(1.5)) == []
    assert core.proposal_room_bytes > 0

    core.receive(B, appended(1, 1, 2), 1.625)

    assert told(core.time_passed(1.75)) == [B]


def test_leader_with_a_stalled_disk_keeps_to_the_transfer_under_way() -> None:
    """Somebody chose a target already; a stall chooses no other before that is given up."""
    core = serving()
    core.peer_unreachable(B)
    core.propose([b"x"], 1.0)
    core.receive(C, appended(1, 1, 2), 1.125)
    core.transfer_leadership(B, 1.25)

    assert told(core.time_passed(1.75)) == []
    assert picture(core)["transfer"] == (B, 2.25, False)


def test_leader_whose_disk_is_idle_stays() -> None:
    """No write waits, however long ago the last one was."""
    core = serving()
    core.receive(B, appended(1, 0, 1), 8.5)

    assert told(core.time_passed(9.0)) == []
    assert core.state.transfer is None


def test_transfer_asked_for_again_keeps_its_deadline() -> None:
    """Whoever repeats it to a target that lags cannot keep proposals refused for ever."""
    core = leader()
    core.transfer_leadership(B, 1.1)
    assert core.state.transfer is not None
    deadline = core.state.transfer.deadline

    assert core.transfer_leadership(B, 1.6) == ()

    assert core.state.transfer.deadline == deadline


def test_slow_disk_that_completes_writes_is_no_stalled_one() -> None:
    """Each write took longer than ``disk_stall_s`` since it was asked for, but one was done just now."""
    core = leader()
    core.receive(B, appended(1, 0, 1), 1.0)
    core.propose([b"x"], 1.0)
    core.propose([b"y"], 1.1)
    core.storage_done(WriteId(3), 1.6)
    core.receive(B, appended(1, 1, 3), 1.7)

    core.time_passed(1.75)

    assert core.state.transfer is None

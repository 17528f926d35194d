"""Leader election (Raft §5.2, §5.4.1) and the terms it gives (§5.1)."""

import math

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, PersistEntries, PersistHardState, Reply, RoleChanged, Send
from clustercore.raft.messages import RaftMessage
from clustercore.raft.types import Configuration, HardState, NodeId, Role, Term, WriteId
from tests.unit.raft.building import (
    A,
    B,
    C,
    D,
    E,
    append,
    appended,
    candidate,
    changes,
    follower,
    install,
    installed,
    leader,
    log_of,
    no_op,
    picture,
    pre_candidate,
    pre_vote_request,
    pre_vote_response,
    refused,
    snapshot,
    timeout_now_response,
    vote_request,
    vote_response,
)


def hard_state(write_id: int, term: int, voted_for: str | None = None) -> PersistHardState:
    """The write of a term and vote."""
    return PersistHardState(
        WriteId(write_id), HardState(Term(term), NodeId(voted_for) if voted_for is not None else None)
    )


def role_changed(role: Role, term: int, leader_id: str | None = None) -> RoleChanged:
    """The news of a role."""
    return RoleChanged(role, Term(term), NodeId(leader_id) if leader_id is not None else None)


# --- Standing ---


def test_node_starts_as_follower_with_an_election_deadline() -> None:
    """When servers start up, they begin as followers (Raft §5.2)."""
    core = follower(entries=log_of(1, 2), term=3, voted_for="b")

    assert picture(core) == {
        "current_term": 3,
        "voted_for": B,
        "is_founder": False,
        "role": Role.FOLLOWER,
        "leader_id": None,
        "commit_index": 0,
        "last_applied": 0,
        "durable_index": 2,
        "leader_protected_until": 1.0,
        "has_told_successor": False,
        "heard_round": 0,
        "stood_at": -math.inf,
        "last_round": 0,
        "reads_under_way": None,
        "election_deadline": 1.0,
        "heartbeat_deadline": math.inf,
        "last_write_id": 0,
        "done_write_id": 0,
        "hard_state_write_id": 0,
        "snapshot": None,
        "installing": None,
        "base": (0, 0),
        "log": (1, 2),
        "configurations": ((0, Configuration.of("abc", cluster_id="test")),),
        "incarnations": {},
        "votes": {},
        "receiving": None,
        "transfer": None,
        "rounds_sent": (),
        "waiting_reads": (),
        "log_writes": (),
        "draws": 1,
    }
    assert core.deadline == 1.0


def test_follower_that_wins_a_pre_vote_stands_for_election() -> None:
    """It increments its term, votes for itself, and asks all others once that is durable (Raft §5.2)."""
    core = pre_candidate(entries=log_of(1, 2), term=4)
    before = picture(core)

    effects = core.receive(C, pre_vote_response(3, 4, True), 1.25)

    assert effects == (
        hard_state(1, 4, "a"),
        Send(B, vote_request(4, "a", last=(2, 2)), after=WriteId(1)),
        Send(C, vote_request(4, "a", last=(2, 2)), after=WriteId(1)),
        role_changed(Role.CANDIDATE, 4),
    )
    assert changes(before, core) == {
        "current_term": 4,
        "voted_for": A,
        "role": Role.CANDIDATE,
        "stood_at": 1.25,
        "election_deadline": 2.25,
        "last_write_id": 1,
        "hard_state_write_id": 1,
        "votes": {},
    }


def test_candidate_that_wins_nothing_asks_around_and_stands_in_a_new_term() -> None:
    """A split vote ends with a time-out and a new election (Raft §5.2), after a new pre-vote (thesis §9.6)."""
    core = candidate("abcde", term=3)
    core.storage_done(WriteId(1), 1.0)
    core.receive(B, vote_response(3, True), 1.5)
    before = picture(core)

    effects = core.time_passed(2.0)

    assert effects == (
        *(Send(peer, pre_vote_request(4, "a")) for peer in (B, C, D, E)),
        role_changed(Role.PRE_CANDIDATE, 3),
    )
    assert changes(before, core) == {"role": Role.PRE_CANDIDATE, "election_deadline": 3.0, "votes": {A: True}}
    # Earlier answers count for nothing then.
    assert core.receive(C, vote_response(3, True), 2.5) == ()
    assert core.receive(C, pre_vote_response(3, 3, True), 2.5) == ()
    assert core.state.votes == {A: True}
    before = picture(core)

    core.receive(C, pre_vote_response(3, 4, True), 2.5)
    effects = core.receive(D, pre_vote_response(3, 4, True), 2.5)

    assert effects == (
        hard_state(2, 4, "a"),
        *(Send(peer, vote_request(4, "a"), after=WriteId(2)) for peer in (B, C, D, E)),
        role_changed(Role.CANDIDATE, 4),
    )
    assert changes(before, core) == {
        "current_term": 4,
        "role": Role.CANDIDATE,
        "stood_at": 2.5,
        "election_deadline": 3.5,
        "last_write_id": 2,
        "hard_state_write_id": 2,
        "votes": {},
    }
    assert core.receive(C, vote_response(3, True), 2.5) == ()
    assert core.state.votes == {}


def test_node_that_is_no_voter_never_stands() -> None:
    """Whoever has no vote is no candidate: it has no deadline, and no time makes it one."""
    core = follower("bcd")
    before = picture(core)

    assert core.deadline == math.inf
    assert core.time_passed(1e9) == ()
    assert picture(core) == before


# --- Winning ---


def test_single_node_elects_itself_once_its_vote_is_durable() -> None:
    """In a cluster of one, its own durable vote is the majority; then it opens its term."""
    core = candidate("a")
    before = picture(core)

    effects = core.storage_done(WriteId(1), 1.5)

    assert effects == (
        PersistEntries(WriteId(2), (no_op(1, 1),)),
        role_changed(Role.LEADER, 1, "a"),
    )
    assert changes(before, core) == {
        "role": Role.LEADER,
        "leader_id": A,
        "election_deadline": math.inf,
        "heartbeat_deadline": 1.75,
        "last_write_id": 2,
        "done_write_id": 1,
        "log": (1,),
        "log_writes": ((2, 1, 1.5),),
        "last_round": 1,
        "rounds_sent": ((1, 1.5),),
    }
    assert core.deadline == 1.75


@pytest.mark.parametrize(("voters", "needed"), [("ab", 1), ("abc", 1), ("abcd", 2), ("abcde", 2)])
def test_candidate_wins_with_the_votes_of_a_majority(voters: str, needed: int) -> None:
    """Its own durable vote and those of others must make a majority, and no sooner (Raft §5.2)."""
    core = candidate(voters)
    core.storage_done(WriteId(1), 1.0)
    peers = core.state.configuration.peers_of(A)
    effects: Effects = ()

    for count, peer in enumerate(peers[:needed], start=1):
        assert core.state.role is Role.CANDIDATE
        effects = core.receive(peer, vote_response(1, True), 1.25)
        assert bool(effects) is (count == needed)

    assert effects == (
        PersistEntries(WriteId(2), (no_op(1, 1),)),
        *(Send(peer, append(1, "a", entries=[no_op(1, 1)], round_number=1)) for peer in peers),
        role_changed(Role.LEADER, 1, "a"),
    )


def test_new_leader_sends_its_no_op_from_where_its_log_ended() -> None:
    """nextIndex starts at the leader's last index + 1, matchIndex at 0 (Raft Figure 2); the no-op is sent at once.

    It is the term's first round, and every follower counts as heard of when the term begins.
    """
    core = candidate(entries=log_of(1, 1, 2), term=3)
    core.storage_done(WriteId(1), 1.0)
    before = picture(core)

    effects = core.receive(C, vote_response(3, True), 1.25)

    assert effects == (
        PersistEntries(WriteId(2), (no_op(4, 3),)),
        Send(B, append(3, "a", prev=(3, 2), entries=[no_op(4, 3)], round_number=1)),
        Send(C, append(3, "a", prev=(3, 2), entries=[no_op(4, 3)], round_number=1)),
        role_changed(Role.LEADER, 3, "a"),
    )
    assert changes(before, core) == {
        "role": Role.LEADER,
        "leader_id": A,
        "election_deadline": math.inf,
        "heartbeat_deadline": 1.5,
        "last_write_id": 2,
        "log": (1, 1, 2, 3),
        "log_writes": ((2, 4, 1.25),),
        "votes": {},
        "last_round": 1,
        "rounds_sent": ((1, 1.25),),
        "progress of b": ("probe", "paused", "match 0 next 4", "inflight", 0.0),
        "progress of c": ("probe", "paused", "match 0 next 4", "inflight", 0.0),
        "contact with b": ("round 0", 1.25),
        "contact with c": ("round 0", 1.25),
    }


def test_own_vote_counts_only_when_durable() -> None:
    """A vote that a crash may forget is no vote: another's answer does not make a majority with it."""
    core = candidate("abc")
    core.receive(B, vote_response(1, True), 1.0)
    assert core.state.votes == {B: True}

    core.storage_done(WriteId(1), 1.5)

    assert core.state.role is Role.LEADER


def test_own_vote_of_an_earlier_term_does_not_count_in_the_next() -> None:
    """When the disk is slower than the cluster, the write that ends is that of an old vote."""
    core = candidate("abc")
    core.receive(B, vote_response(5, False), 1.5)
    core.time_passed(2.0)
    core.receive(B, pre_vote_response(5, 6, True), 2.0)
    assert (core.state.role, core.state.current_term) == (Role.CANDIDATE, 6)
    before = picture(core)

    assert core.storage_done(WriteId(2), 2.0) == ()
    assert changes(before, core) == {"done_write_id": 2}

    core.storage_done(WriteId(3), 2.0)
    assert core.state.votes == {A: True}


def test_candidate_waits_for_its_disk_before_the_election_begins() -> None:
    """Nobody hears of it before; and the others' disks are taken to be as slow as its own."""
    core = candidate("abc")
    assert core.deadline == math.inf
    assert core.time_passed(2.25) == ()

    core.storage_done(WriteId(1), 2.5)

    # The shortest election timeout, and the 1.5 s that its own write took.
    assert core.deadline == 2.5 + 1.0 + 1.5
    assert core.state.role is Role.CANDIDATE


def test_voter_waits_for_its_disk_before_it_stands_itself() -> None:
    """The candidate it voted for hears of that only then. A term without a vote, as in a denial, puts off nothing."""
    core = follower()
    core.receive(B, vote_request(1, "b"), 1.0)
    assert core.time_passed(3.0) == ()
    core.storage_done(WriteId(2), 3.25)
    assert core.deadline == 4.25

    core.receive(C, vote_response(2, False), 3.5)
    assert core.deadline == 4.25
    core.storage_done(WriteId(3), 3.75)
    assert core.deadline == 4.25


def test_leader_whose_vote_becomes_durable_late_has_no_election_deadline() -> None:
    """It won by the others' votes; those of more voters than it needs may come from slow disks."""
    core = candidate("abc")
    for voter in (B, C):
        core.receive(voter, vote_response(1, True), 1.0)
    assert core.state.role is Role.LEADER

    core.storage_done(WriteId(1), 1.5)

    assert core.state.election_deadline == math.inf


@pytest.mark.parametrize("answers", ["bb", "xyz", "", "B", "BCD"])
def test_votes_count_once_and_only_from_voters(answers: str) -> None:
    """A repeated vote, a stranger's, and a denial (in capitals) win nothing."""
    core = candidate("abcde")
    core.storage_done(WriteId(1), 1.0)

    for voter in answers:
        assert core.receive(NodeId(voter.lower()), vote_response(1, voter.islower()), 1.0) == ()

    assert core.state.role is Role.CANDIDATE


def test_first_answer_of_a_voter_stands() -> None:
    """An answer does not change within a term: a contradicting later one is not from Raft."""
    core = candidate("abc")
    core.storage_done(WriteId(1), 1.0)

    core.receive(B, vote_response(1, False), 1.0)
    core.receive(B, vote_response(1, True), 1.0)

    assert core.state.role is Role.CANDIDATE
    assert core.state.votes == {A: True, B: False}


def test_lost_election_runs_out() -> None:
    """A majority of denials changes nothing at once: the next election comes at the deadline, which is random."""
    core = candidate("abc")
    core.storage_done(WriteId(1), 1.0)

    core.receive(B, vote_response(1, False), 1.0)
    core.receive(C, vote_response(1, False), 1.0)

    assert (core.state.role, core.deadline) == (Role.CANDIDATE, 2.0)


# --- Giving up ---


@pytest.mark.parametrize(("prev", "answer"), [((0, 0), appended(1, 0, 0)), ((3, 1), refused(1, 3, conflict=(0, 1)))])
def test_candidate_follows_the_leader_of_its_term(prev: tuple[int, int], answer: RaftMessage) -> None:
    """AppendEntries of its own term says that another won (Raft §5.2), whether or not the logs match."""
    core = candidate("abc")
    before = picture(core)

    effects = core.receive(B, append(1, "b", prev=prev), 1.5)

    # The answer shows the term, whose write is under way.
    assert effects == (Reply(answer, after=WriteId(1)), role_changed(Role.FOLLOWER, 1, "b"))  # type: ignore[arg-type]
    assert changes(before, core) == {
        "role": Role.FOLLOWER,
        "leader_id": B,
        "leader_protected_until": 2.5,
        "election_deadline": 2.5,
    }


@pytest.mark.parametrize(
    "message",
    [
        vote_response(7, False),
        vote_response(7, True),
        appended(7, 0, 0),
        refused(7, 0),
        installed(7, 0, snapshot(2, 4)),
        pre_vote_response(7, 1, False),
        pre_vote_response(7, 1, True),
        timeout_now_response(7),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["follower", "pre_candidate", "candidate", "leader"])
def test_response_with_a_higher_term_makes_a_follower(role: str, message: RaftMessage) -> None:
    """Whoever finds its term out of date becomes a follower in the higher one (Raft §5.1), and records it."""
    make = {"follower": follower, "pre_candidate": pre_candidate, "candidate": candidate, "leader": leader}[role]
    core = make("abc")
    before = picture(core)
    write_id = core.state.last_write_id + 1

    effects = core.receive(B, message, 1.5)

    assert effects == (hard_state(write_id, 7), role_changed(Role.FOLLOWER, 7))
    expected: dict[str, object] = {
        "current_term": 7,
        "role": Role.FOLLOWER,
        "last_write_id": write_id,
        "hard_state_write_id": write_id,
    }
    if role == "follower":
        del expected["role"]
    elif role == "pre_candidate":
        # It has voted for nobody: it only asked.
        expected |= {"votes": {}}
    else:
        expected |= {"voted_for": None}
    if role == "leader":
        # A leader had no election deadline.
        expected |= {
            "leader_id": None,
            "election_deadline": 2.5,
            "heartbeat_deadline": math.inf,
            "progress of b": None,
            "progress of c": None,
            "contact with b": None,
            "contact with c": None,
        }
    assert changes(before, core) == expected


def test_deposed_leader_answers_its_successor_when_the_new_term_is_durable() -> None:
    """A request of a higher term is taken as a follower; the answer waits for the term (Raft Figure 2)."""
    core = leader("abc")
    before = picture(core)

    effects = core.receive(B, append(2, "b", prev=(1, 1)), 1.5)

    assert effects == (
        hard_state(3, 2),
        Reply(appended(2, 1, 1), after=WriteId(3)),
        role_changed(Role.FOLLOWER, 2, "b"),
    )
    assert changes(before, core) == {
        "current_term": 2,
        "voted_for": None,
        "role": Role.FOLLOWER,
        "leader_id": B,
        "leader_protected_until": 2.5,
        "election_deadline": 2.5,
        "heartbeat_deadline": math.inf,
        "last_write_id": 3,
        "hard_state_write_id": 3,
        "progress of b": None,
        "progress of c": None,
        "contact with b": None,
        "contact with c": None,
    }


# --- Voting ---


def test_vote_is_given_and_shown_once_durable() -> None:
    """The vote is on disk before the candidate hears of it (Raft Figure 2), and puts off the voter's own election."""
    core = follower(entries=log_of(1, 2), term=3)
    before = picture(core)

    effects = core.receive(B, vote_request(3, "b", last=(2, 2)), 1.0)

    assert effects == (hard_state(1, 3, "b"), Reply(vote_response(3, True), after=WriteId(1)))
    assert changes(before, core) == {
        "voted_for": B,
        "election_deadline": 2.0,
        "last_write_id": 1,
        "hard_state_write_id": 1,
    }


def test_vote_in_a_higher_term_takes_over_the_term_first() -> None:
    """Both are written; the answer waits for the later write, which has the vote.

    The request comes an election timeout after the start, when no leader needs to be protected any more.
    """
    core = follower(term=3, voted_for="c")
    before = picture(core)

    effects = core.receive(B, vote_request(5, "b"), 1.0)

    assert effects == (
        hard_state(1, 5),
        hard_state(2, 5, "b"),
        Reply(vote_response(5, True), after=WriteId(2)),
        role_changed(Role.FOLLOWER, 5),
    )
    assert changes(before, core) == {
        "current_term": 5,
        "voted_for": B,
        "election_deadline": 2.0,
        "last_write_id": 2,
        "hard_state_write_id": 2,
    }


@pytest.mark.parametrize(
    ("last", "granted"),
    [((0, 0), False), ((9, 1), False), ((1, 2), False), ((2, 2), True), ((3, 2), True), ((1, 3), True)],
)
def test_vote_needs_a_log_that_is_up_to_date(last: tuple[int, int], granted: bool) -> None:
    """A voter denies its vote if its own log is more up to date (Raft §5.4.1); a denial puts off nothing."""
    core = follower(entries=log_of(1, 2), term=4)

    effects = core.receive(B, vote_request(4, "b", last=last), 1.0)

    assert effects[-1] == Reply(vote_response(4, granted), after=WriteId(1) if granted else None)
    assert core.state.voted_for == (B if granted else None)
    assert core.state.election_deadline == (2.0 if granted else 1.0)


def test_denial_in_a_higher_term_keeps_the_election_deadline() -> None:
    """A node with an old log that stands again and again must not keep the others from standing.

    The denial comes when no leader is protected any more, so that the log is the reason and the term is taken over.
    """
    core = follower(entries=log_of(1, 2), term=3)
    before = picture(core)

    effects = core.receive(B, vote_request(8, "b"), 1.0)

    assert effects == (
        hard_state(1, 8),
        Reply(vote_response(8, False), after=WriteId(1)),
        role_changed(Role.FOLLOWER, 8),
    )
    assert changes(before, core) == {"current_term": 8, "last_write_id": 1, "hard_state_write_id": 1}


def test_second_candidate_of_a_term_gets_no_vote() -> None:
    """Each server votes for at most one candidate in a term (Raft §5.2)."""
    core = follower()
    core.receive(B, vote_request(1, "b"), 1.0)
    before = picture(core)

    effects = core.receive(C, vote_request(1, "c", last=(0, 0)), 1.25)

    # The term that the denial shows is not durable yet.
    assert effects == (Reply(vote_response(1, False), after=WriteId(2)),)
    assert picture(core) == before


def test_repeated_request_gets_the_same_vote_and_no_second_write() -> None:
    """The answer may have been lost; it waits for the first write as long as that is under way."""
    core = follower()
    core.receive(B, vote_request(1, "b"), 1.0)
    before = picture(core)

    assert core.receive(B, vote_request(1, "b"), 1.25) == (Reply(vote_response(1, True), after=WriteId(2)),)
    assert changes(before, core) == {"election_deadline": 2.25}

    core.storage_done(WriteId(2), 1.25)
    assert core.receive(B, vote_request(1, "b"), 1.25) == (Reply(vote_response(1, True), after=None),)


@pytest.mark.parametrize("make", [candidate, leader])
def test_candidate_and_leader_deny_their_term_to_others(make: type) -> None:
    """Both have voted for themselves."""
    core: RaftCore = make("abc", term=2)
    before = picture(core)

    effects = core.receive(B, vote_request(2, "b", last=(9, 1)), 1.5)

    assert effects == (Reply(vote_response(2, False), after=core.state.hard_state_gate),)
    assert picture(core) == before


# --- Restarts ---


@pytest.mark.parametrize(("voted_for", "granted"), [("b", True), ("c", False), ("a", False), (None, True)])
def test_vote_is_remembered_across_a_restart(voted_for: str | None, granted: bool) -> None:
    """A node that comes back keeps its vote of the term: to the same candidate again, to no other (Raft §5.2).

    It votes again an election timeout after its start, when it can have told no leader any more that it follows.
    """
    core = follower(term=4, voted_for=voted_for)

    effects = core.receive(B, vote_request(4, "b"), 1.0)

    assert effects[-1] == Reply(vote_response(4, granted), after=None if voted_for else WriteId(1))


def test_candidate_that_restarts_does_not_count_its_old_vote() -> None:
    """It comes back as a follower of the term in which it stood, and can win only a new one."""
    core = follower("abc", term=4, voted_for="a")

    assert core.receive(B, vote_response(4, True), 0.5) == ()
    core.time_passed(1.0)
    # Nor does a late answer, when it asks around.
    assert core.receive(B, vote_response(4, True), 1.25) == ()
    effects = core.receive(B, pre_vote_response(4, 5, True), 1.25)

    assert effects[0] == hard_state(1, 5, "a")
    assert core.state.role is Role.CANDIDATE
    assert core.state.votes == {}


def test_leader_that_restarts_follows_and_takes_no_acknowledgement() -> None:
    """What it led is over: answers to its old requests, though of its present term, count for nothing."""
    core = follower(entries=log_of(1, 4), term=4, voted_for="a")
    before = picture(core)

    assert core.receive(B, appended(4, 1, 2), 0.5) == ()
    assert core.receive(C, appended(4, 1, 2), 0.5) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (append(4, "d", prev=(2, 4), commit=2), appended(4, 2, 2)),
        (install(4, "d", snapshot(2, 4)), installed(4, 2, snapshot(2, 4))),
    ],
    ids=["AppendEntries", "InstallSnapshot"],
)
def test_node_that_votes_for_none_still_follows_the_leader(message: RaftMessage, answer: RaftMessage) -> None:
    """Whoever won is followed, whomever this node voted for."""
    core = follower("abcd", entries=log_of(1, 4), term=4, voted_for="c")

    effects = core.receive(D, message, 0.5)

    assert any(isinstance(effect, Reply) and effect.message == answer for effect in effects)
    assert core.state.leader_id == D

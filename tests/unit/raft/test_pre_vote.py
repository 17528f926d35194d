"""PreVote (thesis §9.6), and the protection of a leader that is at work (thesis §4.2.3)."""

from __future__ import annotations

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, PersistHardState, Reply, RoleChanged, Send
from clustercore.raft.messages import PreVoteResponse, RaftMessage
from clustercore.raft.types import HardState, NodeId, Role, Term, WriteId
from tests.unit.raft.building import (
    A,
    B,
    C,
    append,
    appended,
    candidate,
    changes,
    follower,
    install,
    leader,
    log_of,
    picture,
    pre_candidate,
    pre_vote_request,
    pre_vote_response,
    snapshot,
    vote_request,
    vote_response,
)

# --- Asking ---


def test_follower_that_hears_no_leader_asks_around() -> None:
    """It asks all others whether it would win the next term; its own term and vote stay, and nothing is written."""
    core = follower(entries=log_of(1, 2), term=3, voted_for="b")
    before = picture(core)

    assert core.time_passed(0.99) == ()
    assert picture(core) == before

    effects = core.time_passed(1.0)

    assert effects == (
        Send(B, pre_vote_request(4, "a", last=(2, 2))),
        Send(C, pre_vote_request(4, "a", last=(2, 2))),
        RoleChanged(Role.PRE_CANDIDATE, Term(3), None),
    )
    assert changes(before, core) == {"role": Role.PRE_CANDIDATE, "election_deadline": 2.0, "votes": {A: True}}


def test_follower_that_lost_its_leader_forgets_it() -> None:
    """Who asks around knows no leader, and refers nobody to the one it lost."""
    core = follower(term=1)
    core.receive(B, append(1, "b"), 0.5)
    before = picture(core)

    effects = core.time_passed(1.5)

    assert effects[-1] == RoleChanged(Role.PRE_CANDIDATE, Term(1), None)
    assert changes(before, core) == {
        "role": Role.PRE_CANDIDATE,
        "leader_id": None,
        "election_deadline": 2.5,
        "votes": {A: True},
    }


def test_question_waits_for_the_term_it_shows() -> None:
    """It says that the node has come to the term before: after a crash it must not have forgotten that."""
    core = follower(entries=log_of(2), term=2)
    core.receive(B, vote_request(4, "b"), 1.0)

    effects = core.time_passed(1.25)

    question = pre_vote_request(5, "a", last=(1, 2))
    assert effects[:2] == (Send(B, question, after=WriteId(1)), Send(C, question, after=WriteId(1)))


def test_single_node_stands_without_asking() -> None:
    """It is a majority by itself."""
    core = follower("a")

    assert core.time_passed(1.0) == (
        PersistHardState(WriteId(1), HardState(Term(1), A)),
        RoleChanged(Role.CANDIDATE, Term(1), None),
    )


@pytest.mark.parametrize(("voters", "needed"), [("ab", 1), ("abc", 1), ("abcd", 2), ("abcde", 2)])
def test_node_stands_with_the_pre_votes_of_a_majority(voters: str, needed: int) -> None:
    """Its own answer and those of others must make a majority, and no sooner."""
    core = pre_candidate(voters)

    for count, peer in enumerate(core.state.configuration.peers_of(A)[:needed], start=1):
        assert core.state.role is Role.PRE_CANDIDATE
        effects = core.receive(peer, pre_vote_response(0, 1, True), 1.25)
        assert bool(effects) is (count == needed)

    assert (core.state.role, core.state.current_term) == (Role.CANDIDATE, 1)


@pytest.mark.parametrize("answers", ["bb", "xyz", "", "B", "BCD"])
def test_pre_votes_count_once_and_only_from_voters(answers: str) -> None:
    """A repeated answer, a stranger's, and a denial (in capitals) win nothing."""
    core = pre_candidate("abcde")

    for voter in answers:
        assert core.receive(NodeId(voter.lower()), pre_vote_response(0, 1, voter.islower()), 1.0) == ()

    assert (core.state.role, core.state.current_term) == (Role.PRE_CANDIDATE, 0)


def test_answer_of_a_node_that_is_behind_counts() -> None:
    """Its term is its own affair: what it answers is the term that was asked about."""
    core = pre_candidate(term=7)

    core.receive(B, pre_vote_response(2, 7, True), 1.25)

    assert (core.state.role, core.state.current_term) == (Role.CANDIDATE, 7)


def test_pre_election_that_is_not_won_begins_again_in_the_same_term() -> None:
    """However long a node is cut off, its term does not grow."""
    core = pre_candidate(entries=log_of(1), term=2)
    core.receive(B, pre_vote_response(1, 2, False), 1.5)
    before = picture(core)

    for deadline in (2.0, 3.0, 4.0):
        assert core.deadline == deadline
        assert core.time_passed(deadline) == (
            Send(B, pre_vote_request(2, "a", last=(1, 1))),
            Send(C, pre_vote_request(2, "a", last=(1, 1))),
        )

    assert changes(before, core) == {"election_deadline": 5.0, "votes": {A: True}}


@pytest.mark.parametrize("candidate_term", [3, 5])
def test_answer_about_another_term_changes_nothing(candidate_term: int) -> None:
    """It is late, or nobody asked for it."""
    core = pre_candidate(term=4)
    before = picture(core)

    assert core.receive(B, pre_vote_response(3, candidate_term, True), 1.5) == ()
    assert picture(core) == before


@pytest.mark.parametrize("make", [follower, candidate, leader])
def test_answer_to_a_node_that_asks_no_more_changes_nothing(make: type) -> None:
    """A follower has found a leader; a candidate and a leader need votes of another kind."""
    core: RaftCore = make(term=2)
    before = picture(core)

    assert core.receive(C, pre_vote_response(2, 3, True), 1.5) == ()
    assert picture(core) == before


def test_word_of_a_leader_ends_a_pre_election() -> None:
    """The leader of its term was only slow: the node follows it again."""
    core = pre_candidate(term=2)
    before = picture(core)

    effects = core.receive(B, append(1, "b", round_number=5), 1.5)

    assert effects == (
        Reply(appended(1, 0, 0, round_number=5)),
        RoleChanged(Role.FOLLOWER, Term(1), B),
    )
    assert changes(before, core) == {
        "role": Role.FOLLOWER,
        "leader_id": B,
        "heard_round": 5,
        "leader_protected_until": 2.5,
        "election_deadline": 2.5,
        "votes": {},
    }


def test_pre_candidate_votes_for_another_that_stands() -> None:
    """Asking is no promise to oneself."""
    core = pre_candidate(term=2)

    effects = core.receive(B, vote_request(2, "b"), 1.5)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(2), None)),
        PersistHardState(WriteId(2), HardState(Term(2), B)),
        Reply(vote_response(2, True), after=WriteId(2)),
        RoleChanged(Role.FOLLOWER, Term(2), None),
    )


# --- Answering ---


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate])
def test_pre_vote_is_given_and_changes_nothing(make: type) -> None:
    """Neither term nor vote nor deadline: two nodes may be told yes, and a vote of this term matters nothing."""
    core: RaftCore = make(term=3)
    core.storage_done(core.state.last_write_id, 1.0)
    term = core.state.current_term
    before = picture(core)

    for asking in (B, C):
        effects = core.receive(asking, pre_vote_request(term + 1, asking), 1.0)
        assert effects == (Reply(pre_vote_response(term, term + 1, True)),)

    assert picture(core) == before


@pytest.mark.parametrize(
    ("last", "granted"),
    [((0, 0), False), ((9, 1), False), ((1, 2), False), ((2, 2), True), ((3, 2), True), ((1, 3), True)],
)
def test_pre_vote_needs_a_log_that_is_up_to_date(last: tuple[int, int], granted: bool) -> None:
    """The answer is what a vote would be (Raft §5.4.1)."""
    core = follower(entries=log_of(1, 2), term=4, voted_for="c")
    before = picture(core)

    assert core.receive(B, pre_vote_request(5, "b", last=last), 1.0) == (Reply(pre_vote_response(4, 5, granted)),)
    assert picture(core) == before


@pytest.mark.parametrize("term", [3, 4])
def test_pre_vote_for_a_term_that_has_begun_is_denied_with_the_present_one(term: int) -> None:
    """The one who asks is behind, and catches up by the answer's term."""
    core = follower(term=4)
    before = picture(core)

    assert core.receive(B, pre_vote_request(term, "b"), 1.0) == (Reply(pre_vote_response(4, term, False)),)
    assert picture(core) == before


def test_answer_to_a_pre_vote_waits_for_the_term_it_shows() -> None:
    """The one who asked may come to that term by it."""
    core = follower(term=3)
    core.receive(B, vote_request(5, "b"), 1.0)

    assert core.receive(C, pre_vote_request(6, "c"), 1.0) == (Reply(pre_vote_response(5, 6, True), after=WriteId(2)),)


# --- A leader that is at work ---


def started() -> RaftCore:
    """A node that may have told a leader, before its restart, that it follows. It owes that until 1."""
    return follower(term=3)


def hearing() -> RaftCore:
    """A follower that heard its leader at 0.5, and owes it until 1.5."""
    core = follower(term=3)
    core.receive(C, append(3, "c"), 0.5)
    return core


def installing() -> RaftCore:
    """The same with a snapshot, which is a leader's word as well."""
    core = follower(term=3)
    core.receive(C, install(3, "c", snapshot(2, 2)), 0.5)
    core.storage_done(WriteId(1), 0.5)
    return core


def leading() -> RaftCore:
    """A leader protects itself as long as it leads."""
    return leader(term=3)


PROTECTING = [
    pytest.param(started, 0.99, id="started"),
    pytest.param(hearing, 1.49, id="hearing"),
    pytest.param(installing, 1.49, id="installing"),
    pytest.param(leading, 9.0, id="leading"),
]


@pytest.mark.parametrize(("make", "now"), PROTECTING)
@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (pre_vote_request(4, "b", last=(9, 3)), pre_vote_response(3, 4, False)),
        (pre_vote_request(8, "b", last=(9, 3)), pre_vote_response(3, 8, False)),
        (vote_request(4, "b", last=(9, 3)), vote_response(3, False)),
        (vote_request(8, "b", last=(9, 3)), vote_response(3, False)),
        (vote_request(3, "b", last=(9, 2)), vote_response(3, False)),
    ],
    ids=str,
)
def test_protected_leader_loses_no_vote_and_no_term(
    make: type, now: float, request_: RaftMessage, answer: RaftMessage
) -> None:
    """Whoever hears a leader says no, does not even take over the term, and grants none of its own term either."""
    core: RaftCore = make()
    before = picture(core)

    assert core.receive(B, request_, now) == (Reply(answer),)  # type: ignore[arg-type]  # each pairs with a response
    assert picture(core) == before


@pytest.mark.parametrize(("make", "now"), [(started, 1.0), (hearing, 1.5), (installing, 1.5)])
def test_protection_ends_an_election_timeout_after_the_leaders_last_word(make: type, now: float) -> None:
    """No sooner could this node itself have taken the leader for lost, so from then on it helps to elect another."""
    core: RaftCore = make()
    write_id = core.state.last_write_id

    assert answers_in(core.receive(B, pre_vote_request(4, "b", last=(9, 3)), now)) == [pre_vote_response(3, 4, True)]
    effects = core.receive(B, vote_request(4, "b", last=(9, 3)), now)

    assert effects == (
        PersistHardState(WriteId(write_id + 1), HardState(Term(4), None)),
        PersistHardState(WriteId(write_id + 2), HardState(Term(4), B)),
        Reply(vote_response(4, True), after=WriteId(write_id + 2)),
        RoleChanged(Role.FOLLOWER, Term(4), None),
    )


def answers_in(effects: Effects) -> list[RaftMessage]:
    """The replies among effects."""
    return [effect.message for effect in effects if isinstance(effect, Reply)]


@pytest.mark.parametrize(("make", "now"), PROTECTING)
def test_vote_that_the_leader_asked_for_is_given_at_once(make: type, now: float) -> None:
    """The leader itself wants to be deposed: there is nothing to protect (thesis §4.2.3). The term is taken over."""
    core: RaftCore = make()
    write_id = core.state.last_write_id

    effects = core.receive(B, vote_request(4, "b", last=(9, 3), is_leadership_transfer=True), now)

    assert effects == (
        PersistHardState(WriteId(write_id + 1), HardState(Term(4), None)),
        PersistHardState(WriteId(write_id + 2), HardState(Term(4), B)),
        Reply(vote_response(4, True), after=WriteId(write_id + 2)),
        RoleChanged(Role.FOLLOWER, Term(4), None),
    )


def test_vote_that_the_leader_asked_for_still_needs_the_log_and_a_free_vote() -> None:
    """The leader's wish overrides only what is done for its sake; the rest is safety (Raft §5.4.1)."""
    with_longer_log = follower(entries=log_of(1, 3), term=3)
    that_has_voted = follower(term=3, voted_for="c")

    effects = with_longer_log.receive(B, vote_request(4, "b", last=(1, 1), is_leadership_transfer=True), 0.5)
    denied = that_has_voted.receive(B, vote_request(3, "b", last=(9, 2), is_leadership_transfer=True), 0.5)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(4), None)),
        Reply(vote_response(4, False), after=WriteId(1)),
        RoleChanged(Role.FOLLOWER, Term(4), None),
    )
    assert denied == (Reply(vote_response(3, False)),)


def test_node_that_says_no_for_its_leader_still_catches_up_by_any_other_message() -> None:
    """Only the term that a candidate wishes for is left aside; one that exists is taken over from its answers."""
    core = hearing()

    effects = core.receive(B, PreVoteResponse(Term(5), Term(4), False), 0.75)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(5), None)),
        RoleChanged(Role.FOLLOWER, Term(5), None),
    )


def test_vote_of_a_term_learned_meanwhile_waits_for_the_old_leaders_lease() -> None:
    """A follower that comes to a rival's term by another message still owes the leader it heard (thesis §6.4.1)."""
    core = hearing()
    core.receive(B, PreVoteResponse(Term(4), Term(4), False), 0.75)
    core.storage_done(WriteId(1), 0.75)
    before = picture(core)

    assert core.receive(B, vote_request(4, "b", last=(9, 3)), 1.49) == (Reply(vote_response(4, False)),)
    assert picture(core) == before
    assert answers_in(core.receive(B, vote_request(4, "b", last=(9, 3)), 1.5)) == [vote_response(4, True)]

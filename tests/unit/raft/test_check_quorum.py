"""CheckQuorum (thesis §6.2): a leader that a majority does not answer steps down."""

from __future__ import annotations

import math

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import PersistEntries, PersistHardState, ProposalsRefused, Reply, RoleChanged, Send
from clustercore.raft.messages import RaftMessage
from clustercore.raft.types import HardState, NodeId, Role, Term, WriteId
from tests.unit.raft.building import (
    B,
    C,
    append,
    appended,
    changes,
    installed,
    leader,
    no_op,
    picture,
    pre_vote_request,
    pre_vote_response,
    refused,
    snapshot,
    vote_request,
    vote_response,
)


def test_leader_nobody_answers_steps_down_at_a_heartbeat() -> None:
    """An election timeout after the last answer it sends no more heartbeats, and knows no leader. The term stays."""
    core = leader("abc")
    core.receive(B, appended(1, 0, 1, round_number=1), 1.25)
    core.propose([b"x"], 1.5)
    core.storage_done(WriteId(3), 1.5)
    before = picture(core)

    effects = core.time_passed(2.25)

    assert effects == (RoleChanged(Role.FOLLOWER, Term(1), None),)
    assert changes(before, core) == {
        "role": Role.FOLLOWER,
        "leader_id": None,
        "election_deadline": 3.25,
        "heartbeat_deadline": math.inf,
        "progress of b": None,
        "progress of c": None,
        "contact with b": None,
        "contact with c": None,
    }
    assert core.propose([b"y"], 2.5) == (ProposalsRefused(None),)


def test_leader_is_given_an_election_timeout_from_the_start() -> None:
    """Its followers voted for it a moment ago: they count as heard when the term begins."""
    core = leader("abc")

    assert core.time_passed(1.99) == tuple(Send(peer, append(1, "a", round_number=2)) for peer in (B, C))
    assert core.time_passed(2.25) == (RoleChanged(Role.FOLLOWER, Term(1), None),)


@pytest.mark.parametrize(("heard_at", "is_leader"), [(1.25, False), (1.26, True), (2.25, True)])
def test_answer_counts_for_less_than_an_election_timeout(heard_at: float, is_leader: bool) -> None:
    """Longer than its followers protect it a leader does not rely on them."""
    core = leader("abc")
    core.receive(B, appended(1, 0, 1), heard_at)

    core.time_passed(2.25)

    assert (core.state.role is Role.LEADER) is is_leader


@pytest.mark.parametrize(("answers", "is_leader"), [("", False), ("b", False), ("bc", True), ("bx", False)])
def test_leader_needs_a_majority_with_itself(answers: str, is_leader: bool) -> None:
    """Of five voters, two others; a stranger's answer does not count."""
    core = leader("abcde")
    for peer in answers:
        core.receive(NodeId(peer), appended(1, 0, 1), 2.0)

    core.time_passed(2.25)

    assert (core.state.role is Role.LEADER) is is_leader


@pytest.mark.parametrize(
    "answer", [appended(1, 0, 0), refused(1, 5, conflict=(0, 1)), installed(1, 0, snapshot(1, 1))], ids=str
)
def test_every_answer_of_its_term_keeps_the_leader(answer: RaftMessage) -> None:
    """A follower with another log, or one that gets a snapshot, hears the leader too."""
    core = leader("abc")
    core.receive(B, answer, 2.0)

    core.time_passed(2.25)

    assert core.state.role is Role.LEADER


@pytest.mark.parametrize("answer", [vote_response(1, True), pre_vote_response(1, 2, False)], ids=str)
def test_other_messages_do_not_keep_the_leader(answer: RaftMessage) -> None:
    """A late vote says nothing of who is heard now."""
    core = leader("abc")
    core.receive(B, answer, 2.0)

    core.time_passed(2.25)

    assert core.state.role is Role.FOLLOWER


def test_single_node_leads_for_ever() -> None:
    """It is a majority by itself."""
    core = leader("a")

    assert core.time_passed(1e6) == ()
    assert core.state.role is Role.LEADER


def stepped_down() -> RaftCore:
    """A leader of term 1 that nobody answered, and that stepped down at 2."""
    core = leader("abc")
    core.time_passed(2.0)
    assert core.state.role is Role.FOLLOWER
    return core


def test_answer_to_a_leader_that_stepped_down_changes_nothing() -> None:
    """It does not take office again by it: only an election does that."""
    core = stepped_down()
    before = picture(core)

    assert core.receive(B, appended(1, 0, 1), 2.1) == ()
    assert picture(core) == before


def test_leader_that_stepped_down_asks_around_like_everyone() -> None:
    """It may win again, in a later term; it keeps what is in its log."""
    core = stepped_down()

    effects = core.time_passed(3.0)

    assert effects == (
        Send(B, pre_vote_request(2, "a", last=(1, 1))),
        Send(C, pre_vote_request(2, "a", last=(1, 1))),
        RoleChanged(Role.PRE_CANDIDATE, Term(1), None),
    )


def test_leader_that_stepped_down_protects_nobody() -> None:
    """It helps at once to elect another; but it had voted in its own term, for itself."""
    core = stepped_down()

    assert core.receive(B, vote_request(1, "b"), 2.0) == (Reply(vote_response(1, False)),)
    granted = core.receive(B, pre_vote_request(2, "b", last=(1, 1)), 2.0)

    assert granted == (Reply(pre_vote_response(1, 2, True)),)


def test_leader_that_stepped_down_follows_the_next() -> None:
    """What it could not commit makes room for the log of the leader that was elected meanwhile."""
    core = stepped_down()

    effects = core.receive(B, append(2, "b", entries=[no_op(1, 2)]), 2.1)

    assert effects == (
        PersistHardState(WriteId(3), HardState(Term(2), None)),
        PersistEntries(WriteId(4), (no_op(1, 2),)),
        Reply(appended(2, 0, 1), after=WriteId(4)),
        RoleChanged(Role.FOLLOWER, Term(2), B),
    )

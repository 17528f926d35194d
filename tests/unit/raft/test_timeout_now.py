"""TimeoutNow at the receiver: the leader's word to stand at once (thesis §3.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import PersistHardState, Reply, RoleChanged, Send
from clustercore.raft.types import HardState, Role, Term, WriteId
from tests.unit.raft.building import (
    A,
    B,
    C,
    append,
    candidate,
    changes,
    follower,
    leader,
    log_of,
    picture,
    pre_candidate,
    pre_vote_request,
    timeout_now,
    timeout_now_response,
    vote_request,
)


def following(**more: Any) -> RaftCore:
    """A follower of B in term 3, which it heard at 0.5."""
    core = follower(entries=log_of(1, 3), term=3, **more)
    core.receive(B, append(3, "b", prev=(2, 3)), 0.5)
    return core


def test_target_stands_at_once_without_asking_around() -> None:
    """It says that the leader asked for it, and the answer shows the new term, so it waits for it."""
    core = following()
    before = picture(core)

    effects = core.receive(B, timeout_now(3, "b"), 0.75)

    request = vote_request(4, "a", last=(2, 3), is_leadership_transfer=True)
    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(4), A)),
        Send(B, request, after=WriteId(1)),
        Send(C, request, after=WriteId(1)),
        Reply(timeout_now_response(4), after=WriteId(1)),
        RoleChanged(Role.CANDIDATE, Term(4), None),
    )
    assert changes(before, core) == {
        "current_term": 4,
        "voted_for": A,
        "role": Role.CANDIDATE,
        "leader_id": None,
        "stood_at": 0.75,
        "election_deadline": 1.75,
        "last_write_id": 1,
        "hard_state_write_id": 1,
    }


def test_target_that_does_not_win_asks_around_like_everyone() -> None:
    """Once: the leader's wish is used up with the election it was for."""
    core = following()
    core.receive(B, timeout_now(3, "b"), 0.75)
    core.storage_done(WriteId(1), 0.75)

    assert core.time_passed(1.75) == (
        Send(B, pre_vote_request(5, "a", last=(2, 3))),
        Send(C, pre_vote_request(5, "a", last=(2, 3))),
        RoleChanged(Role.PRE_CANDIDATE, Term(4), None),
    )


def test_repeated_word_is_of_an_earlier_term() -> None:
    """The target stands already; the copy is answered with the term it has come to."""
    core = following()
    core.receive(B, timeout_now(3, "b"), 0.75)
    before = picture(core)

    assert core.receive(B, timeout_now(3, "b"), 0.75) == (Reply(timeout_now_response(4), after=WriteId(1)),)
    assert picture(core) == before


def test_word_that_a_later_heartbeat_overtook_is_only_answered() -> None:
    """The transfer may have been given up since; as long as it is not, the leader says it again."""
    core = following()
    core.receive(B, append(3, "b", prev=(2, 3), round_number=5), 0.75)
    before = picture(core)

    assert core.receive(B, timeout_now(3, "b", round_number=4), 0.75) == (
        Reply(timeout_now_response(3, round_number=4)),
    )
    assert picture(core) == before

    core.receive(B, timeout_now(3, "b", round_number=5), 0.75)
    assert core.state.role is Role.CANDIDATE


def test_word_of_a_leader_of_the_first_version_counts_whatever_was_heard() -> None:
    """It names no round; an upgrade, node by node, hands over from such a leader to a newer one."""
    core = following()
    core.receive(B, append(3, "b", prev=(2, 3), round_number=5), 0.75)

    core.receive(B, timeout_now(3, "b", round_number=0), 0.75)

    assert core.state.role is Role.CANDIDATE


def test_rounds_of_another_term_say_nothing() -> None:
    """Each leader counts its own."""
    core = following()
    core.receive(B, append(3, "b", prev=(2, 3), round_number=500), 0.75)
    core.receive(C, append(4, "c", prev=(2, 3), round_number=2), 1.0)
    core.storage_done(WriteId(1), 1.0)

    core.receive(C, timeout_now(4, "c", round_number=2), 1.0)

    assert (core.state.role, core.state.heard_round) == (Role.CANDIDATE, 0)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: follower(term=3), id="that knows no leader"),
        pytest.param(lambda: pre_candidate(term=4), id="that asks around"),
        pytest.param(lambda: candidate(term=3), id="that stands"),
        pytest.param(lambda: leader(term=3), id="that leads"),
    ],
)
def test_word_to_a_node_that_does_not_follow_is_only_answered(make: Callable[[], RaftCore]) -> None:
    """Only whom a node knows to lead its term can tell it to stand."""
    core = make()
    before = picture(core)

    assert core.receive(B, timeout_now(3, "b"), 1.5) == (
        Reply(timeout_now_response(3), after=core.state.hard_state_gate),
    )
    assert picture(core) == before


@pytest.mark.parametrize(("term", "leader_id"), [(2, "b"), (3, "c")], ids=["of an earlier term", "of another"])
def test_word_that_is_not_the_present_leaders_is_only_answered(term: int, leader_id: str) -> None:
    """It comes late, or from no Raft leader."""
    core = following()
    before = picture(core)

    assert core.receive(B, timeout_now(term, leader_id), 0.75) == (Reply(timeout_now_response(3)),)
    assert picture(core) == before


def test_word_of_a_later_term_brings_the_node_to_it_and_no_further() -> None:
    """A leader that this node has not heard cannot know that its log is good enough."""
    core = following()

    assert core.receive(C, timeout_now(5, "c"), 0.75) == (
        PersistHardState(WriteId(1), HardState(Term(5), None)),
        Reply(timeout_now_response(5), after=WriteId(1)),
        RoleChanged(Role.FOLLOWER, Term(5), None),
    )


def test_node_that_is_no_voter_does_not_stand_when_told() -> None:
    """Its vote for itself would not count."""
    core = following(voters="bcd")
    before = picture(core)

    assert core.receive(B, timeout_now(3, "b"), 0.75) == (Reply(timeout_now_response(3)),)
    assert picture(core) == before


@pytest.mark.parametrize("make", [follower, pre_candidate, candidate, leader])
def test_answer_to_the_word_changes_nothing(make: type) -> None:
    """Whether the target won shows in the term to come."""
    core: RaftCore = make(term=2)
    before = picture(core)

    assert core.receive(B, timeout_now_response(core.state.current_term), 1.5) == ()
    assert picture(core) == before

"""Malformed messages, and those that say nothing new, change nothing."""

from collections.abc import Callable

import attrs
import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Reply
from clustercore.raft.messages import (
    AppendEntriesRequest,
    InstallSnapshotRequest,
    PreVoteRequest,
    RaftMessage,
    RaftResponse,
    RequestVoteRequest,
    TimeoutNowRequest,
)
from clustercore.raft.types import Configuration, NodeId, SnapshotId
from clustercore.raft.well_formed import MAX_NUMBER, is_well_formed
from tests.unit.raft.building import (
    A,
    B,
    append,
    appended,
    candidate,
    changes,
    command,
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
    timeout_now,
    timeout_now_response,
    vote_request,
    vote_response,
)

BIG = MAX_NUMBER + 1

CORES: dict[str, Callable[[], RaftCore]] = {
    "follower": lambda: follower(entries=log_of(1, 2), term=3),
    "pre_candidate": lambda: pre_candidate(entries=log_of(1, 2), term=4),
    "candidate": lambda: candidate(entries=log_of(1, 2), term=4),
    "leader": lambda: leader(entries=log_of(1, 2), term=4),
}

MALFORMED_REQUESTS = [
    vote_request(0, "b"),
    vote_request(-1, "b"),
    vote_request(BIG, "b"),
    vote_request(9, ""),
    vote_request(9, "b", last=(1, 9)),
    vote_request(9, "b", last=(0, 1)),
    vote_request(9, "b", last=(1, 0)),
    vote_request(9, "b", last=(-1, 1)),
    vote_request(9, "b", last=(1, -1)),
    vote_request(9, "b", last=(BIG, 1)),
    pre_vote_request(0, "b"),
    pre_vote_request(BIG, "b"),
    pre_vote_request(9, ""),
    pre_vote_request(9, "b", last=(1, 9)),
    pre_vote_request(9, "b", last=(0, 1)),
    pre_vote_request(9, "b", last=(1, 0)),
    pre_vote_request(9, "b", last=(-1, 1)),
    pre_vote_request(9, "b", last=(BIG, 1)),
    timeout_now(0, "b"),
    timeout_now(-1, "b"),
    timeout_now(BIG, "b"),
    timeout_now(9, ""),
    append(0, "b"),
    append(BIG, "b"),
    append(9, ""),
    append(9, "b", prev=(1, 10)),
    append(9, "b", prev=(0, 1)),
    append(9, "b", prev=(2, 0)),
    append(9, "b", prev=(BIG, 1)),
    append(9, "b", commit=-1),
    append(9, "b", commit=BIG),
    append(9, "b", entries=[command(2, 1)]),
    append(9, "b", prev=(2, 2), entries=[command(2, 2)]),
    append(9, "b", prev=(2, 2), entries=[command(4, 2)]),
    append(9, "b", prev=(2, 2), entries=[command(3, 1)]),
    append(9, "b", prev=(2, 2), entries=[command(3, 2), command(5, 2)]),
    append(9, "b", prev=(2, 2), entries=[command(3, 4), command(4, 3)]),
    append(9, "b", prev=(2, 2), entries=[command(3, 10)]),
    append(9, "b", prev=(MAX_NUMBER, 2), entries=[command(BIG, 2)]),
    install(0, "b", snapshot(4, 2)),
    install(9, "", snapshot(4, 2)),
    install(9, "b", snapshot(0, 0)),
    install(9, "b", snapshot(4, 0)),
    install(9, "b", attrs.evolve(snapshot(4, 2), configuration=Configuration.of("bc"))),
    install(9, "b", attrs.evolve(snapshot(4, 2), configuration=Configuration.of("", learners="b", cluster_id="test"))),
    install(9, "b", snapshot(4, 10)),
    install(9, "b", snapshot(BIG, 2)),
    install(9, "b", attrs.evolve(snapshot(4, 2), snapshot_id=SnapshotId(""))),
    install(9, "b", snapshot(4, 2), offset=-1),
    install(9, "b", snapshot(4, 2), b"", is_last=False),
]

MALFORMED_RESPONSES = [
    vote_response(0, True),
    vote_response(BIG, True),
    pre_vote_response(-1, 4, True),
    pre_vote_response(BIG, 4, True),
    pre_vote_response(9, -1, True),
    pre_vote_response(9, BIG, True),
    timeout_now_response(0),
    timeout_now_response(BIG),
    appended(0, 0, 0),
    appended(9, -1, 0),
    appended(9, 0, -1),
    appended(9, 0, BIG),
    appended(9, BIG, 0),
    refused(9, 2, conflict=(-1, 1)),
    refused(9, 2, conflict=(1, BIG)),
    installed(0, 0, snapshot(4, 2)),
    installed(9, -1, snapshot(4, 2)),
    installed(9, 0, snapshot(4, 2), next_offset=-1),
    installed(9, BIG, snapshot(4, 2)),
]


def refusal_of(message: RaftMessage, term: int) -> RaftResponse:
    """The answer that refuses a request in this term."""
    match message:
        case RequestVoteRequest():
            return vote_response(term, False)
        case PreVoteRequest():
            return pre_vote_response(term, message.term, False)
        case TimeoutNowRequest():
            return timeout_now_response(term)
        case AppendEntriesRequest():
            return refused(term, message.prev_log_index)
        case InstallSnapshotRequest():
            return installed(term, 0, message.metadata)
        case _:
            raise AssertionError(f"{message} is no request")


@pytest.mark.parametrize("role", CORES)
@pytest.mark.parametrize("message", MALFORMED_REQUESTS, ids=str)
def test_malformed_request_is_refused_and_changes_nothing(role: str, message: RaftMessage) -> None:
    """It is checked whole before any of it counts, its term too; the one answer is a refusal in the present term."""
    core = CORES[role]()
    before = picture(core)

    effects = core.receive(B, message, 9.0)

    term = core.state.current_term
    assert effects == (Reply(refusal_of(message, term), after=core.state.hard_state_gate),)
    assert picture(core) == before


@pytest.mark.parametrize("role", CORES)
@pytest.mark.parametrize("message", MALFORMED_RESPONSES, ids=str)
def test_malformed_response_changes_nothing(role: str, message: RaftMessage) -> None:
    """There is nothing to answer, and nothing of it counts."""
    core = CORES[role]()
    before = picture(core)

    assert core.receive(B, message, 9.0) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    "message",
    [
        vote_request(1, "b"),
        vote_request(MAX_NUMBER, "b", last=(MAX_NUMBER, MAX_NUMBER - 1)),
        pre_vote_request(1, "b"),
        pre_vote_request(MAX_NUMBER, "b", last=(MAX_NUMBER, MAX_NUMBER - 1)),
        # A node that has seen no election answers in term 0.
        pre_vote_response(0, 1, True),
        pre_vote_response(MAX_NUMBER, MAX_NUMBER, False),
        timeout_now(1, "b"),
        timeout_now(MAX_NUMBER, "b"),
        timeout_now_response(1),
        append(1, "b"),
        append(4, "b", prev=(2, 2), entries=[command(3, 2), no_op(4, 4)], commit=MAX_NUMBER),
        install(4, "b", snapshot(1, 1)),
        vote_response(1, False),
        appended(1, 0, 0),
        refused(4, 9, conflict=(2, 3)),
        installed(4, 0, snapshot(4, 2)),
    ],
    ids=str,
)
def test_message_at_its_limits_is_well_formed(message: RaftMessage) -> None:
    """The checks refuse nothing that a node of this program may send."""
    assert is_well_formed(message, A)


@pytest.mark.parametrize("role", CORES)
@pytest.mark.parametrize(
    "message",
    [
        vote_request(2, "b", last=(9, 1)),
        vote_request(2, "b", last=(9, 1), is_leadership_transfer=True),
        pre_vote_request(2, "b", last=(9, 1)),
        timeout_now(2, "b"),
        append(2, "b", prev=(2, 2), entries=[command(3, 2)], commit=3),
        install(2, "b", snapshot(9, 2)),
    ],
    ids=["RequestVote", "RequestVote for a transfer", "PreVote", "TimeoutNow", "AppendEntries", "InstallSnapshot"],
)
def test_request_of_an_earlier_term_is_refused_and_changes_nothing(role: str, message: RaftMessage) -> None:
    """A server that receives a request with a stale term rejects it (Raft §5.1)."""
    core = CORES[role]()
    before = picture(core)

    effects = core.receive(B, message, 9.0)

    term = core.state.current_term
    assert effects == (Reply(refusal_of(message, term), after=core.state.hard_state_gate),)
    assert picture(core) == before


@pytest.mark.parametrize("role", CORES)
@pytest.mark.parametrize(
    "message",
    [
        vote_response(2, True),
        pre_vote_response(2, 2, True),
        timeout_now_response(2),
        appended(2, 2, 2),
        refused(2, 2, conflict=(1, 1)),
        installed(2, 2, snapshot(4, 2)),
    ],
    ids=["RequestVote", "PreVote", "TimeoutNow", "AppendEntries", "AppendEntries refused", "InstallSnapshot"],
)
def test_response_of_an_earlier_term_changes_nothing(role: str, message: RaftMessage) -> None:
    """An answer to what was asked in an earlier term says nothing of this one (Raft §5.1)."""
    core = CORES[role]()
    before = picture(core)

    assert core.receive(B, message, 9.0) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("follower", vote_response(3, True)),
        ("follower", appended(3, 2, 2)),
        ("follower", refused(3, 2, conflict=(1, 1))),
        ("follower", installed(3, 2, snapshot(4, 2))),
        ("follower", pre_vote_response(3, 4, True)),
        ("pre_candidate", vote_response(3, True)),
        ("pre_candidate", appended(3, 2, 2)),
        ("pre_candidate", refused(3, 2, conflict=(1, 1))),
        ("pre_candidate", installed(3, 2, snapshot(4, 2))),
        ("candidate", pre_vote_response(4, 5, True)),
        ("leader", pre_vote_response(4, 5, True)),
        ("candidate", appended(4, 2, 2)),
        ("candidate", refused(4, 2, conflict=(1, 1))),
        ("candidate", installed(4, 2, snapshot(4, 2))),
        ("leader", vote_response(4, True)),
        ("leader", vote_response(4, False)),
    ],
)
def test_response_nobody_waits_for_changes_nothing(role: str, message: RaftMessage) -> None:
    """A response of this term counts only in the role that asked, and never for more than the leader has."""
    core = CORES[role]()
    before = picture(core)

    assert core.receive(B, message, 9.0) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    "message",
    [
        appended(4, 3, 9, round_number=1),
        refused(4, 2, round_number=1),
        installed(4, 9, snapshot(4, 2)),
    ],
    ids=str,
)
def test_response_that_proves_nothing_only_shows_that_the_follower_lives(message: RaftMessage) -> None:
    """More than the leader has, or a refusal that says nothing of the log: it moves nothing and confirms no round."""
    core = CORES["leader"]()
    before = picture(core)

    assert core.receive(B, message, 9.0) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 9.0)}


@pytest.mark.parametrize(
    "message", [appended(4, 2, 2), refused(4, 2, conflict=(1, 1)), installed(4, 2, snapshot(4, 2))], ids=str
)
def test_response_of_a_stranger_changes_nothing(message: RaftMessage) -> None:
    """Only voters replicate; a vote of a stranger is kept, but never counts (test_quorum)."""
    core = CORES["leader"]()
    before = picture(core)

    assert core.receive(NodeId("x"), message, 9.0) == ()
    assert picture(core) == before


@pytest.mark.parametrize(
    "message",
    [append(4, "b", prev=(2, 2)), install(4, "b", snapshot(9, 2))],
    ids=["AppendEntries", "InstallSnapshot"],
)
def test_leader_refuses_another_leader_of_its_term(message: RaftMessage) -> None:
    """A term has one leader (Raft §5.2, Election Safety): whoever else claims to lead it is no Raft node."""
    core = CORES["leader"]()
    before = picture(core)

    effects = core.receive(B, message, 9.0)

    assert effects == (Reply(refusal_of(message, 4)),)
    assert picture(core) == before


@pytest.mark.parametrize(
    "message",
    [append(3, "c", prev=(2, 2)), install(3, "c", snapshot(9, 2))],
    ids=["AppendEntries", "InstallSnapshot"],
)
def test_follower_refuses_a_second_leader_of_its_term(message: RaftMessage) -> None:
    """The same, seen by a follower of the term's leader."""
    core = CORES["follower"]()
    core.receive(B, append(3, "b", prev=(2, 2)), 0.5)
    before = picture(core)

    effects = core.receive(NodeId("c"), message, 0.75)

    assert effects == (Reply(refusal_of(message, 3)),)
    assert picture(core) == before


@pytest.mark.parametrize("role", CORES)
@pytest.mark.parametrize(
    "message",
    [
        vote_request(4, "a", last=(9, 3)),
        pre_vote_request(5, "a", last=(9, 3)),
        timeout_now(4, "a"),
        append(4, "a", prev=(2, 2), entries=[command(3, 2)], commit=3),
        install(4, "a", snapshot(9, 2)),
    ],
    ids=["RequestVote", "PreVote", "TimeoutNow", "AppendEntries", "InstallSnapshot"],
)
def test_request_in_the_receivers_own_name_is_refused(role: str, message: RaftMessage) -> None:
    """When a peer's address leads back to a candidate, its own answer must not count for the peer's vote."""
    core = CORES[role]()
    before = picture(core)

    effects = core.receive(B, message, 9.0)

    assert effects == (Reply(refusal_of(message, core.state.current_term), after=core.state.hard_state_gate),)
    assert picture(core) == before

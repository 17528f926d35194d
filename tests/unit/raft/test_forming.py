"""How a cluster comes to be: all its first voters agree, once, and a disk that was wiped since does not take part."""

from __future__ import annotations

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Reply
from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.types import Configuration, Role, WriteId
from tests.unit.raft.building import (
    B,
    C,
    append,
    follower,
    no_op,
    picture,
    pre_vote_request,
    pre_vote_response,
    timeout_now,
    vote_request,
    vote_response,
)

UNFORMED = Configuration.of("abc")


def fresh(*, term: int = 0, is_founder: bool = False) -> RaftCore:
    """Node ``a`` with an empty log, of three nodes that have formed nothing yet."""
    return follower("abc", configuration=UNFORMED, incarnation="A", term=term, is_founder=is_founder)


def granted(core: RaftCore, request: PreVoteRequest | RequestVoteRequest) -> bool:
    """Hand in a question at time 2, when no leader is protected any more, and return the answer."""
    (reply,) = [effect for effect in core.receive(B, request, 2.0) if isinstance(effect, Reply)]
    assert isinstance(reply.message, PreVoteResponse | RequestVoteResponse)
    return reply.message.vote_granted


def role_of(core: RaftCore) -> Role:
    """Return the role that a node has now."""
    return core.state.role


def test_first_leader_needs_every_voter() -> None:
    """A majority could be formed twice from one list; all of them only once."""
    core = fresh()
    core.peer_identified(B, "B")
    core.peer_identified(C, "C")
    core.time_passed(1.0)
    core.receive(B, pre_vote_response(0, 1, True), 1.0)
    assert role_of(core) is Role.PRE_CANDIDATE
    core.receive(C, pre_vote_response(0, 1, True), 1.0)
    assert role_of(core) is Role.CANDIDATE
    core.storage_done(WriteId(1), 1.0)
    core.receive(B, vote_response(1, True), 1.0)
    assert role_of(core) is Role.CANDIDATE
    core.receive(C, vote_response(1, True), 1.0)

    assert role_of(core) is Role.LEADER
    (opening,) = core.state.log.slice(core.state.log.first_index, core.state.log.last_index)
    assert opening.kind is EntryKind.CONFIGURATION
    assert core.state.configuration.cluster_id == "new"
    assert [server.incarnation for server in core.state.configuration.servers] == ["A", "B", "C"]


def test_node_with_nothing_elects_nobody_who_has_something() -> None:
    """Its disk may be a wiped one's, and it may have voted for another."""
    core = fresh()

    assert not granted(core, pre_vote_request(1, "b", (1, 1)))
    assert not granted(core, vote_request(2, "b", (1, 1)))


def test_node_with_nothing_helps_to_form_a_cluster() -> None:
    """Others with nothing get its vote, and from then on its disk is known to be as old as the cluster."""
    core = fresh()

    assert granted(core, pre_vote_request(1, "b", (0, 0)))
    assert picture(core)["is_founder"] is False
    assert granted(core, vote_request(1, "b", (0, 0)))
    assert picture(core)["is_founder"] is True


def test_founder_that_missed_the_first_entry_votes_like_everyone() -> None:
    """It took part, so its disk has forgotten nothing, and the cluster needs its vote."""
    core = fresh(term=1, is_founder=True)

    assert granted(core, vote_request(2, "b", (1, 1)))


def test_formed_node_with_a_log_denies_one_that_has_nothing() -> None:
    """Nobody forms a second cluster with a member of the first."""
    core = follower("abc", entries=(no_op(1, 1),), term=1)

    assert not granted(core, pre_vote_request(2, "b", (0, 0)))


def test_word_to_stand_does_not_make_a_founder_of_a_wiped_disk_issue_4() -> None:
    """It was for one that had the leader's whole log. Its own vote would make it a founder, whose vote counts."""
    core = fresh(term=2)
    core.receive(B, append(2, "b", prev=(3, 2)), 0.5)

    core.receive(B, timeout_now(2, "b"), 0.5)

    assert role_of(core) is Role.FOLLOWER
    assert not core.state.is_founder
    assert not granted(core, vote_request(3, "c", last=(3, 2)))


def founder(**how: object) -> RaftCore:
    """Node ``a``, which knows of no members."""
    return follower("", configuration=Configuration(), incarnation="A", **how)  # type: ignore[arg-type]


def test_sole_founder_forms_a_cluster_of_itself() -> None:
    """It elects itself as soon as its vote is durable, and its first entry names it and the cluster (thesis §4.4)."""
    core = founder()
    assert core.deadline == float("inf")

    core.found(0.5)
    core.time_passed(core.deadline)
    assert role_of(core) is Role.CANDIDATE
    core.storage_done(WriteId(1), 1.0)

    assert role_of(core) is Role.LEADER
    assert core.state.configuration.cluster_id == "new"
    assert [(server.node_id, server.incarnation) for server in core.state.configuration.servers] == [("a", "A")]
    assert core.state.commit_index == 0
    core.storage_done(WriteId(2), 1.0)
    assert core.state.commit_index == 1


def test_sole_founder_that_stopped_half_way_founds_again() -> None:
    """Its vote was its own business: nobody else can have the entry that it lost."""
    core = founder()
    core.found(0.0)
    core.time_passed(core.deadline)
    assert (core.state.current_term, core.state.is_founder) == (1, False)

    again = founder(term=1, voted_for="a")
    again.found(0.0)

    assert again.state.configuration == Configuration.of("a")


def test_node_that_took_part_in_anything_founds_nothing() -> None:
    """One that knows of members, has a log, or helped others to form a cluster is left as it is."""
    waits = fresh()
    knows = follower("abc", entries=(no_op(1, 1),), term=1)
    has_log = founder(entries=(no_op(1, 1),), term=1)
    voted = founder(term=1, is_founder=True)
    for core in (waits, knows, has_log, voted):
        before = picture(core)

        assert core.found(0.5) == ()

        assert picture(core) == before

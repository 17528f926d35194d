"""Commitment and application (Raft §5.3, §5.4.2)."""

import pytest

from clustercore.raft.effects import Apply, Send
from clustercore.raft.types import LogIndex, WriteId
from tests.unit.raft.building import (
    B,
    C,
    D,
    E,
    append,
    appended,
    changes,
    leader,
    log_of,
    no_op,
    picture,
)


def test_single_node_commits_what_is_on_its_disk() -> None:
    """Its own disk is the majority."""
    core = leader("a", entries=log_of(1), term=2, is_durable=False)
    before = picture(core)

    effects = core.storage_done(WriteId(2), 1.5)

    assert effects == (Apply((*log_of(1), no_op(2, 2))),)
    assert changes(before, core) == {
        "commit_index": 2,
        "last_applied": 2,
        "durable_index": 2,
        "done_write_id": 2,
        "log_writes": (),
    }


@pytest.mark.parametrize(
    ("voters", "acks", "committed"),
    [("ab", "", 0), ("ab", "b", 1), ("abc", "", 0), ("abc", "b", 1), ("abcde", "b", 0), ("abcde", "be", 1)],
)
def test_entry_commits_on_a_majority_with_the_leader(voters: str, acks: str, committed: int) -> None:
    """A minority never commits; a majority that includes the leader's own disk does (Raft §5.3)."""
    core = leader(voters)

    for peer in {"b": (B,), "be": (B, E), "": ()}[acks]:
        core.receive(peer, appended(1, 0, 1), 1.25)

    assert core.state.commit_index == committed
    assert core.state.last_applied == committed


def test_minority_never_commits_however_often_it_acknowledges() -> None:
    """Repeated acknowledgements of one follower are one."""
    core = leader("abcde")

    for _ in range(5):
        assert not any(isinstance(effect, Apply) for effect in core.receive(B, appended(1, 0, 1), 1.25))

    assert core.state.commit_index == 0


def test_followers_commit_without_the_leaders_disk() -> None:
    """The leader's write is one of many: a majority without it commits (thesis §10.2.1), but Apply waits for it."""
    core = leader("abc", is_durable=False)
    assert core.receive(B, appended(1, 0, 1), 1.25) == ()
    before = picture(core)

    assert core.receive(C, appended(1, 0, 1), 1.25) == ()
    assert changes(before, core) == {
        "commit_index": 1,
        "progress of c": ("replicate", "match 1 next 2", "inflight", 1.25),
        "contact with c": ("round 0", 1.25),
    }

    assert core.storage_done(WriteId(2), 1.5) == (Apply((no_op(1, 1),)),)


def test_leaders_own_log_does_not_count_before_it_is_durable() -> None:
    """With one follower's disk and the leader's memory, a crash of the leader leaves one copy of three."""
    core = leader("abc", is_durable=False)

    core.receive(B, appended(1, 0, 1), 1.25)

    assert core.state.commit_index == 0

    core.storage_done(WriteId(2), 1.5)

    assert picture(core)["commit_index"] == 1


def test_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Though it is on every node; the first entry of the leader's own term commits it too (Raft §5.4.2)."""
    core = leader("abc", entries=log_of(1, 1), term=3)

    for peer in (B, C):
        core.receive(peer, appended(3, 0, 2), 1.25)
    assert core.state.commit_index == 0

    effects = core.receive(B, appended(3, 2, 3), 1.5)
    assert effects == (Apply((*log_of(1, 1), no_op(3, 3))),)
    assert picture(core)["commit_index"] == 3


def test_commit_index_is_the_highest_a_majority_has() -> None:
    """Several entries commit with one answer, up to the middle of what the nodes hold."""
    core = leader("abcde")
    for peer in (B, C, D, E):
        core.receive(peer, appended(1, 0, 1), 1.0)
    core.propose([b"x", b"y", b"z"], 1.0)
    core.storage_done(WriteId(3), 1.0)

    core.receive(B, appended(1, 1, 4), 1.25)
    assert core.state.commit_index == 1
    effects = core.receive(C, appended(1, 1, 3), 1.25)

    assert effects == (
        Apply(core.state.log.slice(LogIndex(2), LogIndex(3))),
        # The probe answered only in part goes on: nothing else is new to send.
    )
    assert picture(core)["commit_index"] == 3


def test_followers_learn_of_the_commit_with_the_next_request() -> None:
    """leaderCommit goes with every request; a heartbeat at the latest (Raft §5.3)."""
    core = leader("ab")
    core.receive(B, appended(1, 0, 1), 1.0)

    assert core.time_passed(1.25) == (Send(B, append(1, "a", prev=(1, 1), commit=1, round_number=2)),)


def test_leader_that_is_no_longer_a_leader_applies_what_was_committed() -> None:
    """Commitment outlasts the office: once the own disk has it, it is applied."""
    core = leader("abc", is_durable=False)
    core.receive(B, appended(1, 0, 1), 1.25)
    core.receive(C, appended(1, 0, 1), 1.25)
    core.receive(B, append(2, "b", prev=(1, 1)), 1.5)

    assert core.storage_done(WriteId(2), 1.75) == (Apply((no_op(1, 1),)),)

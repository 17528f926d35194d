"""The log says why a role changed, and whether the node itself stood still (issue 3)."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    AppendEntriesRequest,
    LogIndex,
    NodeId,
    RequestVoteRequest,
    Role,
    RoleChange,
    Term,
    TimeoutNowRequest,
)
from clustercore.raft.config import RaftConfig
from clustercore.raft.state import Transfer
from clustercore.raft.types import Round
from clustercore.runtime.causes import Cause, Causes, LoopStalls
from tests.unit.raft.building import follower, leader

A, B, C = (NodeId(name) for name in "abc")
HEARTBEAT = AppendEntriesRequest(Term(1), B, LogIndex(0), Term(0), LogIndex(0))


def office(role: Role, term: int, leader_id: NodeId | None = None) -> RoleChange:
    """What a node is."""
    return RoleChange(role, Term(term), leader_id)


def causes(stalls: LoopStalls | None = None, *, write_wait_s: float = 0.0) -> Causes:
    """Nothing known yet."""
    return Causes(RaftConfig(), stalls=stalls or LoopStalls(0.1), write_wait_s=lambda now: write_wait_s)


# --- Stalls ---


@pytest.fixture
def stalls(mock_clock: MockClock) -> LoopStalls:
    """What takes longer than 0.1 s is noticed, by a clock that moves when told to."""
    return LoopStalls(0.1, real_time=trio.current_time)


async def test_stall_of_a_task_is_noticed(stalls: LoopStalls, mock_clock: MockClock) -> None:
    """A task that keeps the loop from turning, however often it is asked since when."""
    trio.lowlevel.add_instrument(stalls)
    for busy_s in (0.05, 0.75, 0.25):
        await trio.lowlevel.checkpoint()
        mock_clock.jump(busy_s)
        await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(stalls)

    now = trio.current_time()
    assert stalls.longest_s(since=0) == stalls.longest_s(since=now - 0.25) == pytest.approx(0.75)
    assert stalls.longest_s(since=now) == pytest.approx(0.25)
    assert stalls.longest_s(since=now + 0.01) == 0


async def test_process_that_is_not_run_is_noticed(stalls: LoopStalls, mock_clock: MockClock) -> None:
    """A wait for I/O that takes longer than it was to; one that ends early, or about in time, is none."""
    for timeout_s, taken_s in ((1.0, 0.5), (1.0, 1.05), (1.0, 1.5)):
        stalls.before_io_wait(timeout_s)
        mock_clock.jump(taken_s)
        stalls.after_io_wait(timeout_s)

    assert stalls.longest_s(since=0) == pytest.approx(0.5)


async def test_simulated_clock_that_jumps_is_no_stall(autojump_clock: MockClock) -> None:
    """It does so while all tasks sleep."""
    stalls = LoopStalls(0.1)
    trio.lowlevel.add_instrument(stalls)
    await trio.sleep(1000)
    trio.lowlevel.remove_instrument(stalls)

    assert stalls.longest_s(since=0) == 0


# --- Causes ---


async def test_leader_that_hears_no_majority_says_who_was_silent_for_how_long(mock_clock: MockClock) -> None:
    """Each with its time. That is trouble."""
    core, known = leader("abc"), causes()
    core.state.progress[B].last_contact, core.state.progress[C].last_contact = -1.5, -2.25

    known.time_passes(core.state)

    assert known.of(office(Role.LEADER, 1, A), office(Role.FOLLOWER, 1), 0.0) == Cause(
        "it has not heard a majority: b for 1.50 s, c for 2.25 s", is_trouble=True
    )
    core.state.progress[B].last_contact = float("-inf")
    core.state.progress[C].last_contact = -0.5
    known.time_passes(core.state)
    told = known.of(office(Role.LEADER, 1, A), office(Role.FOLLOWER, 1), 0.0)
    assert told.text == "it has not heard a majority: b not yet"


async def test_node_that_stood_still_itself_says_so(stalls: LoopStalls, mock_clock: MockClock) -> None:
    """Its event loop, and its disk; what is long past led to nothing."""
    stalls.before_io_wait(0.0)
    mock_clock.jump(1.25)
    stalls.after_io_wait(0.0)
    known = causes(stalls, write_wait_s=2.5)
    known.time_passes(follower("abc").state)

    before, after = office(Role.FOLLOWER, 1, B), office(Role.PRE_CANDIDATE, 1)

    said = known.of(before, after, 1.5).text
    assert said == (
        "it has heard no leader since it started; its own event loop stood still for 1.25 s; its disk keeps a write "
        "waiting for 2.50 s"
    )
    assert "event loop" not in known.of(before, after, 4.5).text


async def test_follower_says_for_how_long_it_heard_no_leader() -> None:
    """Whatever else it heard meanwhile."""
    core, known = follower("abc"), causes()
    core.receive(B, HEARTBEAT, 1.0)
    known.received(B, HEARTBEAT)
    known.leader_heard(HEARTBEAT, core.state, 1.0)
    request = RequestVoteRequest(Term(1), C, LogIndex(0), Term(0))
    known.received(C, request)
    known.leader_heard(request, core.state, 2.0)
    known.time_passes(core.state)

    assert known.of(office(Role.FOLLOWER, 1, B), office(Role.PRE_CANDIDATE, 1), 2.5) == Cause(
        "it has heard no leader for 1.50 s"
    )


@pytest.mark.parametrize(
    ("message", "before", "after", "text"),
    [
        (
            TimeoutNowRequest(Term(1), B, Round(1)),
            office(Role.FOLLOWER, 1, B),
            office(Role.CANDIDATE, 2),
            "b told it to stand",
        ),
        (HEARTBEAT, office(Role.PRE_CANDIDATE, 1), office(Role.CANDIDATE, 2), "a majority would vote for it"),
        (HEARTBEAT, office(Role.CANDIDATE, 2), office(Role.LEADER, 2, A), "a majority voted for it"),
        (HEARTBEAT, office(Role.LEADER, 2, A), office(Role.FOLLOWER, 3), "b is in that term"),
        (HEARTBEAT, office(Role.FOLLOWER, 2), office(Role.FOLLOWER, 2, B), ""),
        (
            HEARTBEAT,
            office(Role.LEADER, 2, A),
            office(Role.FOLLOWER, 2),
            "the members that were agreed on do without it",
        ),
    ],
)
def test_cause_that_is_a_message_names_its_sender(
    message: AppendEntriesRequest, before: RoleChange, after: RoleChange, text: str
) -> None:
    """Or what it was the last one of."""
    known = causes()
    known.received(B, message)

    assert known.of(before, after, 0.0) == Cause(text)


def test_cause_that_is_a_write_is_the_members() -> None:
    """A leader that is no member any more leaves when its own disk has that."""
    core, known = leader("abc"), causes()
    known.time_passes(core.state)
    known.write_done()

    assert known.of(office(Role.LEADER, 1, A), office(Role.FOLLOWER, 1), 9.0) == Cause(
        "the members that were agreed on do without it"
    )
    assert known.of(office(Role.FOLLOWER, 1, B), office(Role.FOLLOWER, 1), 9.0) == Cause("")


def test_hand_over_for_a_disk_that_stalls_is_told() -> None:
    """Once, with the time it stalls; one that somebody asked for is under way before the time passes."""
    core, known = leader("abc"), causes()
    core.propose([b"command"], 1.0)
    known.time_passes(core.state)
    assert known.hand_over(core.state, 3.5) == ""

    core.state.transfer = Transfer(B, deadline=4.5)

    assert known.hand_over(core.state, 3.5) == (
        "hands over to b: its disk has kept a write of the log waiting for 2.50 s"
    )
    known.time_passes(core.state)
    assert known.hand_over(core.state, 3.6) == ""

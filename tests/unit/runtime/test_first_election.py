"""A cluster that waits for its first election says for whom."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import NodeId, PreVoteResponse, Term
from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.types import Configuration
from clustercore.runtime.first_election import tell_who_is_missing
from tests.unit.raft.building import follower

A, B, C = (NodeId(name) for name in "abc")


def unformed() -> RaftCore:
    """A voter of a cluster that has had no leader."""
    return follower("abc", configuration=Configuration.of("abc"))


async def test_who_is_missing_is_said_sparsely_until_the_cluster_is_formed(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By name, ever more seldom, at least once a minute; and no more once there is a cluster."""
    core, heard = unformed(), {B: "introduced"}
    states = [core.state]
    nursery.start_soon(partial(tell_who_is_missing, lambda: states[0], heard.get, RaftConfig()))
    await trio.sleep(2.9)
    assert caplog.messages == []
    await trio.sleep(300)
    said = caplog.messages
    assert all(
        "node a waits for the first election, which needs every voter: c not heard of yet" in one for one in said
    )
    # After 3, 9, 21, 45 and 93 s, and then once a minute.
    assert len(said) == 5 + (302 - 93) // 60

    states[0] = follower("abc").state
    await trio.sleep(120)
    assert len(caplog.messages) == len(said)


async def test_voters_that_refuse_are_named(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where all were heard, those are named that would not vote for this node, as far as it has asked."""
    core = unformed()
    nursery.start_soon(partial(tell_who_is_missing, lambda: core.state, lambda peer: "introduced", RaftConfig()))
    await trio.sleep(3.1)
    core.time_passed(core.deadline)
    core.receive(C, PreVoteResponse(Term(0), Term(core.state.current_term + 1), vote_granted=False), core.deadline)
    await trio.sleep(6)

    first, second = caplog.messages
    assert first.endswith("all were heard, and do not agree yet")
    assert second.endswith("all were heard, and c would not vote for it")


async def test_nothing_is_said_where_a_leader_is_known_or_this_node_cannot_stand(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A leader is about to form the cluster; and a node that waits to be added waits for no election."""
    caplog.set_level(logging.DEBUG)
    led, outside = unformed(), follower("", configuration=Configuration())
    led.state.leader_id = B
    for core in (led, outside):
        nursery.start_soon(
            partial(tell_who_is_missing, partial(getattr, core, "state"), lambda peer: None, RaftConfig())
        )
    await trio.sleep(100)
    await wait_all_tasks_blocked()

    assert caplog.messages == []

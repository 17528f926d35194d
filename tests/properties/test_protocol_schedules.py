"""Raft's safety properties under schedules that Hypothesis draws: it shrinks the choices of what fails."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RaftMessage, RequestVoteRequest
from clustercore.raft.types import NodeId, Role
from clustercore.testing.invariants import Invariants
from clustercore.testing.protocol import Choice, Kind, World, WorldPlan
from clustercore.testing.protocol.moves import carry_out
from clustercore.testing.protocol.runs import run_schedule
from clustercore.testing.protocol.tracing import trace_run
from clustercore.testing.strategies import plans, schedules

# A leader is elected and has committed something: what goes wrong then is more than an election that nobody wins.
LED: list[Choice] = [
    (Kind.WAIT, 10, 10),
    (Kind.WAIT, 10, 10),
    (Kind.STAND, 0, 0xFF),
    (Kind.CALM, 59, 0),
    (Kind.PROPOSE, 0, 1),
    (Kind.CALM, 59, 0),
]
# Of three, the third has heard nothing for so long that it would stand, while the second has just heard its leader.
CUT_OFF: list[Choice] = [*LED, (Kind.REIGN, 0b011, 23)]
# The third stands, and only the second hears it.
STANDS: list[Choice] = [(Kind.EXPIRE, 2, 0), (Kind.AMONG, 0b110, 0)]
# The second has heard nothing for just as long, so that the third leads, while the first does not know it.
DEPOSED: list[Choice] = [*CUT_OFF, (Kind.HEARTBEAT, 0, 0), (Kind.WAIT, 10, 10), *STANDS]


def run(choices: list[Choice]) -> tuple[World, Invariants]:
    """Carry out a schedule in a plain world of three."""
    plan, invariants = WorldPlan(), Invariants()
    world = World.of(plan, watchers=[invariants])
    for number, choice in enumerate(choices):
        carry_out(world, plan, choice, number)
    return world, invariants


@pytest.mark.slow
# Three times as many where few are drawn: one takes milliseconds, but not under every profile.
@settings(max_examples=settings().max_examples * (3 if settings().max_examples <= 100 else 1))
@given(plan=plans(), start=st.sampled_from([[], LED, CUT_OFF, DEPOSED]), choices=schedules(max_size=100))
def test_any_schedule_is_safe_and_heals(plan: WorldPlan, start: list[Choice], choices: list[Choice]) -> None:
    """No schedule breaks a property, and once faults end all nodes agree, commit and come to rest."""
    schedule = [*start, *choices]
    found = run_schedule(plan, schedule)
    if found.error is not None:
        trace_run(plan, schedule, title="any schedule").keep("any schedule")
        raise found.error


@pytest.mark.parametrize("restart", [False, True])
def test_node_that_was_cut_off_is_not_elected_under_a_lease(restart: bool) -> None:
    """Who has just heard a leader, or has just started and may have, elects nobody else (thesis §4.2.3, §6.4.1)."""
    again: list[Choice] = [(Kind.CRASH, 1, 3), (Kind.START, 0, 0)] if restart else []
    world, invariants = run([*CUT_OFF, *again, *STANDS])

    leader, _, cut_off = world.nodes.values()
    assert leader.core.lease_until(world.now, heard_since=-math.inf) > world.now
    assert (cut_off.core.state.role, cut_off.core.state.current_term) == (Role.PRE_CANDIDATE, 1)
    assert invariants.facts.leaders == {1: leader.node_id}


def test_read_at_a_deposed_leader_is_not_confirmed_by_what_it_sent_before() -> None:
    """Answers to earlier rounds, however late they come, do not say that it leads now (thesis §6.4)."""
    replays: list[Choice] = [(Kind.REPLAY, number, 0) for number in range(300)]
    world, invariants = run([*DEPOSED, (Kind.READ, 0, 2), *replays])

    old, _, new = world.nodes.values()
    assert invariants.facts.leaders == {1: old.node_id, 2: new.node_id}
    assert new.core.state.commit_index > old.core.state.commit_index
    assert old.core.state.reads_under_way is not None
    assert world.answered == {}


def test_lease_outlasts_a_vote_that_is_late_when_the_voter_knows_its_term_already() -> None:
    """Whoever hears a leader grants no vote, in whichever way it came to the vote's term (thesis §4.2.3, §6.4.1)."""
    leader, first, second, rival, other = [NodeId(f"n{number}") for number in range(1, 6)]
    world = World([leader, first, second, rival, other], config=RaftConfig(max_clock_drift=0), watchers=[Invariants()])

    def deliver(kind: type[RaftMessage] | None = None, *, to: set[NodeId]) -> None:
        """Deliver all messages of a kind to these nodes, and those that come of it if they go there as well."""
        while True:
            for name in to:
                world.flush(name)
            found = [
                place
                for place, packet in enumerate(world.pool)
                if packet.to in to and (kind is None or isinstance(packet.message, kind))
            ]
            if not found:
                return
            world.deliver(found[0])

    world.expire(leader)
    deliver(to=set(world.nodes))
    world.expire(leader)
    deliver(to={first, second, rival, other})
    # The answers are late. Meanwhile the rival stands, with the votes it asks for on their way for long.
    world.expire(rival)
    deliver(PreVoteRequest, to={first, other})
    deliver(PreVoteResponse, to={rival})
    assert world.nodes[rival].core.state.role is Role.CANDIDATE
    for voter in (first, second):
        world.expire(voter)
    # They hear of its term by asking around, but that answer is late too.
    deliver(PreVoteRequest, to={rival})
    # Now the leader is heard by a majority, and knows that it is.
    deliver(to={leader})
    world.expire(leader)
    for _ in range(2):
        for name in (first, second, leader):
            late = [p for p in world.pool if isinstance(p.message, PreVoteResponse | RequestVoteRequest)]
            world.pool = [p for p in world.pool if p not in late]
            deliver(to={name})
            world.pool += late
    assert world.nodes[leader].core.lease_until(world.now, heard_since=world.now) > world.now

    deliver(PreVoteResponse, to={first, second})
    deliver(RequestVoteRequest, to={first, second})
    deliver(to={rival})

    assert {world.nodes[voter].core.state.current_term for voter in (first, second)} == {2}
    assert world.nodes[rival].core.state.role is not Role.LEADER

"""Raft's safety properties under schedules that lose, repeat and reorder messages, crash nodes and delay disks."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RaftMessage, RequestVoteRequest
from clustercore.raft.types import NodeId, Role
from tests.properties.raft_invariants import Invariants
from tests.properties.raft_schedules import WEIGHTS, Event, Setup, Step, random_schedule, run
from tests.properties.raft_trace import run_and_heal
from tests.properties.raft_world import World

SETUPS = st.builds(
    Setup,
    nodes=st.sampled_from([3, 1, 2, 4, 5]),
    max_append_entries=st.integers(1, 3),
    max_append_bytes=st.sampled_from([100_000, 1, 60]),
    max_inflight_appends=st.integers(1, 3),
    seed=st.integers(0, 1000),
    slow=st.sampled_from([-1, 0, 1]),
    snapshot_hold_bytes=st.sampled_from([1_000_000, 60]),
)
# Each kind about as often as in a seeded schedule, the rare ones somewhat more.
EVENTS = [event for event, weight in WEIGHTS.items() for _ in range(math.ceil(weight))]
STEPS = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 255), st.integers(0, 255)), max_size=200)
# A leader is elected and has committed something: what goes wrong then is more than an election that nobody wins.
LED: list[Step] = [(Event.EXPIRE, 0, 0), (Event.CALM, 59, 0), (Event.PROPOSE, 0, 1), (Event.CALM, 59, 0)]
# Of three, the third has heard nothing for so long that it would stand, while the second has just heard its leader.
CUT_OFF: list[Step] = [*LED, (Event.REIGN, 0b011, 23)]
# The third stands, and only the second hears it.
STANDS: list[Step] = [(Event.EXPIRE, 2, 0), (Event.AMONG, 0b110, 0)]
# The second has heard nothing for just as long, so that the third leads, while the first does not know it.
DEPOSED: list[Step] = [*CUT_OFF, (Event.HEARTBEAT, 0, 0), (Event.WAIT, 10, 10), *STANDS]


@pytest.mark.slow
@settings(max_examples=5 * settings().max_examples)
@given(setup=SETUPS, start=st.sampled_from([[], LED, CUT_OFF, DEPOSED]), steps=STEPS)
def test_any_schedule_is_safe_and_heals(setup: Setup, start: list[Step], steps: list[Step]) -> None:
    """No schedule breaks an invariant, and once faults end all nodes agree and commit; hypothesis shrinks what does."""
    run_and_heal(setup, [*start, *steps], name="any schedule")


# A smaller seed is no shorter schedule: what fails is made short by itself.
@pytest.mark.slow
@settings(phases=set(Phase) - {Phase.shrink})
@given(seed=st.integers(0, 2**32 - 1))
def test_long_schedule_is_safe_and_heals(seed: int) -> None:
    """The same over schedules long enough for many elections; the seed alone repeats one."""
    run_and_heal(*random_schedule(seed, length=2000), name="long schedule", shrink=True)


def test_schedules_reach_what_they_are_to_test() -> None:
    """A handful of seeded schedules elects, commits and installs snapshots: the invariants are not vacuous."""
    terms, committed, covered = 0, 0, 0
    for seed in range(10):
        world, invariants = run(*random_schedule(seed, length=2000))
        terms += len(invariants.leaders)
        committed += len(invariants.committed)
        covered += sum(node.disk.snapshot_index > 0 for node in world.nodes.values())

    assert terms > 10
    assert committed > 50
    assert covered > 4


@pytest.mark.parametrize("restart", [False, True])
def test_node_that_was_cut_off_is_not_elected_under_a_lease(restart: bool) -> None:
    """Who has just heard a leader, or has just started and may have, elects nobody else (thesis §4.2.3, §6.4.1)."""
    again: list[Step] = [(Event.CRASH, 1, 3), (Event.START, 1, 0)] if restart else []
    world, invariants = run(Setup(), [*CUT_OFF, *again, *STANDS])

    leader, _, cut_off = world.nodes.values()
    assert leader.core.lease_until(world.now, heard_since=-math.inf) > world.now
    assert (cut_off.core.state.role, cut_off.core.state.current_term) == (Role.PRE_CANDIDATE, 1)
    assert invariants.leaders == {1: leader.node_id}


def test_read_at_a_deposed_leader_is_not_confirmed_by_what_it_sent_before() -> None:
    """Answers to earlier rounds, however late they come, do not say that it leads now (thesis §6.4)."""
    replays: list[Step] = [(Event.REPLAY, number, 0) for number in range(300)]
    world, invariants = run(Setup(), [*DEPOSED, (Event.READ, 0, 2), *replays])

    old, _, new = world.nodes.values()
    assert invariants.leaders == {1: old.node_id, 2: new.node_id}
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

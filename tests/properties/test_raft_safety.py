"""Raft's safety properties under schedules that lose, repeat and reorder messages, crash nodes and delay disks."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.properties.raft_schedules import WEIGHTS, Event, Setup, Step, healed, random_schedule, run

SETUPS = st.builds(
    Setup,
    nodes=st.sampled_from([3, 1, 2, 4, 5]),
    max_append_entries=st.integers(1, 3),
    max_append_bytes=st.sampled_from([100_000, 1, 60]),
    max_inflight_appends=st.integers(1, 3),
    seed=st.integers(0, 1000),
    slow=st.sampled_from([-1, 0, 1]),
)
# Each kind about as often as in a seeded schedule, the rare ones somewhat more.
EVENTS = [event for event, weight in WEIGHTS.items() for _ in range(math.ceil(weight))]
STEPS = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 255), st.integers(0, 255)), max_size=200)
# A leader is elected and has committed something: what goes wrong then is more than an election that nobody wins.
LED: list[Step] = [(Event.EXPIRE, 0, 0), (Event.CALM, 59, 0), (Event.PROPOSE, 0, 1), (Event.CALM, 59, 0)]


@pytest.mark.slow
@settings(max_examples=5 * settings().max_examples)
@given(setup=SETUPS, start=st.sampled_from([[], LED]), steps=STEPS)
def test_any_schedule_is_safe_and_heals(setup: Setup, start: list[Step], steps: list[Step]) -> None:
    """No schedule breaks an invariant, and once faults end all nodes agree and commit; hypothesis shrinks what does."""
    world, _ = run(setup, [*start, *steps])

    healed(world)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
def test_long_schedule_is_safe_and_heals(seed: int) -> None:
    """The same over schedules long enough for many elections; the seed alone repeats one."""
    world, _ = run(*random_schedule(seed, length=2000))

    healed(world)


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

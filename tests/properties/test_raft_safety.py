"""Raft's safety properties under schedules that lose, repeat and reorder messages, crash nodes and delay disks."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.properties.raft_schedules import Event, Setup, healed, random_schedule, run

SETUPS = st.builds(
    Setup,
    nodes=st.sampled_from([3, 1, 2, 4, 5]),
    max_append_entries=st.integers(1, 3),
    max_append_bytes=st.sampled_from([100_000, 1, 60]),
    max_inflight_appends=st.integers(1, 3),
    seed=st.integers(0, 1000),
    slow=st.sampled_from([-1, 0, 1]),
)
STEPS = st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 255), st.integers(0, 255)), max_size=120)


@given(setup=SETUPS, steps=STEPS)
def test_any_schedule_is_safe_and_heals(setup: Setup, steps: list[tuple[Event, int, int]]) -> None:
    """No schedule breaks an invariant, and once faults end all nodes agree and commit; hypothesis shrinks what does."""
    world, _ = run(setup, steps)

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
    for seed in range(4):
        world, invariants = run(*random_schedule(seed, length=800))
        terms += len(invariants.leaders)
        committed += len(invariants.committed)
        covered += sum(node.disk.snapshot_index > 0 for node in world.nodes.values())

    assert terms > 10
    assert committed > 50
    assert covered > 4

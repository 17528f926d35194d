"""Running a schedule in a world, with every invariant checked after every event."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from clustercore.raft.errors import InvariantError
from clustercore.testing.invariants import PROPERTIES, Invariants
from clustercore.testing.protocol.choices import Choice, draw_schedule
from clustercore.testing.protocol.coverage import Coverage, Truncations, missing_from
from clustercore.testing.protocol.liveness import heal
from clustercore.testing.protocol.moves import carry_out
from clustercore.testing.protocol.plan import WorldPlan, draw_plan
from clustercore.testing.protocol.world import Watcher, World
from clustercore.testing.violation import PropertyViolated, RunUseless

__all__ = ["ProtocolRun", "draw_run", "property_of", "run_schedule", "run_seed"]

# Choices of a seeded schedule: short ones end before a cluster has seen much, long ones end in one state for long.
LENGTHS = (150, 300, 300, 600)


@attrs.frozen
class ProtocolRun:
    """What came of a schedule."""

    plan: WorldPlan
    choices: Sequence[Choice]
    events: int
    # Of processor time.
    seconds: float
    coverage: Mapping[str, int]
    # What broke, after that many events; None if all held.
    error: Exception | None = None
    # As it was left; None if it could not be built.
    world: World | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def violated(self) -> str | None:
        """The name of the property that does not hold; None if all do."""
        return property_of(self.error) if self.error is not None else None


def property_of(error: BaseException) -> str:
    """Return the name of the property that an error stands for: a core that contradicts itself breaks one, too."""
    if isinstance(error, PropertyViolated):
        return error.name
    return "a core's state is consistent" if isinstance(error, InvariantError) else "a core never fails"


def draw_run(seed: int, length: int | None = None) -> tuple[WorldPlan, list[Choice]]:
    """Return the world and the schedule of a seed.

    Args:
        seed: Any number.
        length: How many choices; drawn if not given.
    """
    plan = draw_plan(seed)
    drawn = random.Random(f"length {seed}").choice(LENGTHS)
    return plan, draw_schedule(plan, drawn if length is None else length)


def run_seed(seed: int, length: int | None = None) -> ProtocolRun:
    """Run what a seed stands for: its world, its schedule, the healing. One that exercised nothing fails as useless."""
    return run_schedule(*draw_run(seed, length), must_be_useful=True)


def run_schedule(
    plan: WorldPlan,
    choices: Sequence[Choice],
    *,
    heals: bool = True,
    must_be_useful: bool = False,
    watchers: Sequence[Watcher] = (),
    before: Callable[[World, int, Choice], object] | None = None,
    before_healing: Callable[[World], object] | None = None,
) -> ProtocolRun:
    """Carry out a schedule.

    Args:
        plan: The world.
        choices: What is done in it, in order.
        heals: End all faults afterwards, and see that the cluster makes progress and comes to rest.
        must_be_useful: Without an election, a commit and a fault before that, the run fails.
        watchers: They see everything before it is checked.
        before: Called before each choice, with its place in the schedule.
        before_healing: Called before the healing.
    """
    truncations = (*PROPERTIES, Truncations)
    invariants = Invariants(properties=truncations, has_true_drift=plan.has_true_drift)
    (counter,) = (check for check in invariants.checks if isinstance(check, Truncations))
    coverage = Coverage()
    started = time.process_time()
    world: World | None = None
    counts: Mapping[str, int] = {}
    error: Exception | None = None
    try:
        world = World.of(plan, watchers=[*watchers, coverage, invariants])
        for number, choice in enumerate(choices):
            if before is not None:
                before(world, number, choice)
            carry_out(world, plan, choice, number)
        invariants.look_at_all(world)
        counts = coverage.result(world, invariants.facts, counter)
        if heals:
            if before_healing is not None:
                before_healing(world)
            counts = {**counts, "healed" if heal(world, plan.seed) else "beyond healing": 1}
            invariants.look_at_all(world)
        lacks = missing_from(counts)
        if must_be_useful and lacks:
            raise RunUseless("a run is of use", f"the run lacks {', '.join(lacks)}", "clustercore.testing.protocol")
    except Exception as caught:  # noqa: BLE001 - it is the outcome, and whoever asked for the run judges it
        error = caught
        if world is not None and not counts:
            counts = coverage.result(world, invariants.facts, counter)
    events = world.events if world is not None else 0
    return ProtocolRun(plan, tuple(choices), events, time.process_time() - started, counts, error, world)

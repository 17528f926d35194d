"""Making a failing run short and simple: fewer choices, a plainer world, and messages named by who sends them to whom.

Every step is kept only if the same property still breaks, so whatever comes out is a counterexample of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from clustercore.testing.protocol.choices import Choice, Kind
from clustercore.testing.protocol.moves import place_on_link
from clustercore.testing.protocol.plan import WorldPlan
from clustercore.testing.protocol.runs import ProtocolRun, run_schedule
from clustercore.testing.protocol.world import World
from clustercore.testing.shrink import shrink_list
from clustercore.testing.violation import RunUseless

__all__ = ["Shrunk", "shrink_run"]

# A run of some dozen choices takes milliseconds, one of 600 some tens of them: it all ends within a minute.
MAX_RUNS = 4000
_SIMPLER_WORLDS: tuple[dict[str, Any], ...] = (
    {"spares": 0},
    {"loses_disks": False},
    {"loses_disks": False, "is_forming": False},
    {"clock_rates": ()},
    {"slow_disk": -1},
    {"snapshot_every": 0, "snapshot_tail": 0},
    {"has_ordered_links": False},
    {"max_inflight_appends": 1},
    {"max_append_bytes": 100_000},
    {"max_append_entries": 1},
    {"chunk_bytes": 3},
    {"snapshot_hold_bytes": 1_000_000},
    {"chaos": "rough"},
    {"voters": 3},
    {"voters": 2},
)


@attrs.frozen
class Shrunk:
    """A short run that fails."""

    plan: WorldPlan
    choices: list[Choice]
    # Whether it shows only once all faults end.
    heals: bool


@attrs.define
class _Shrinker:
    run: ProtocolRun
    on_run: Callable[[int], object]
    runs: int = 0

    def fails(self, plan: WorldPlan, choices: Sequence[Choice], *, heals: bool) -> bool:
        """Whether the property breaks so as well; no, once there were too many tries."""
        if self.runs >= MAX_RUNS:
            return False
        self.runs += 1
        self.on_run(len(choices))
        return run_schedule(plan, choices, heals=heals).violated == self.run.violated


def shrink_run(run: ProtocolRun, *, on_run: Callable[[int], object] = lambda length: None) -> Shrunk:
    """Return a short run that breaks the same property as one that failed.

    Args:
        run: It failed.
        on_run: Told the length of each schedule that is tried.
    """
    if isinstance(run.error, RunUseless):
        # It fails for what it lacks: so does whatever is left of it.
        return Shrunk(run.plan, list(run.choices), heals=True)
    shrinker = _Shrinker(run, on_run)
    best = Shrunk(run.plan, list(run.choices), heals=True)
    # Cheap passes first; what one leaves out may let another go on.
    for _ in range(3):
        before = best
        for step in (
            _without_healing,
            _left_out,
            _in_a_simpler_world,
            _by_links,
            _left_out,
            _joined,
            _with_smaller_numbers,
        ):
            best = step(shrinker, best)
        if best == before:
            break
    return best


def _without_healing(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    """Do without the healing, if need be by choices that do as much: those can be told, and left out."""
    if not best.heals:
        return best
    count = len(best.plan.names)
    all_talk = (Kind.AMONG, (1 << count) - 1, 0)
    recovery: list[Choice] = [(Kind.RECONNECT, 0, 0), *[(Kind.START, 0, 0)] * count, (Kind.WAIT, 10, 10)]
    endings: list[list[Choice]] = [[], [*recovery, all_talk]]
    # Of those that are healed first the one or other node is none, as a rule.
    for crashes in ([], *([(Kind.CRASH, place, 0)] for place in range(count))):
        for place in range(count):
            stands: list[Choice] = [*recovery, *crashes, (Kind.STAND, place, (1 << count) - 1)]
            endings += [
                stands,
                [*stands, all_talk],
                [*stands, all_talk, (Kind.PROPOSE, 0, 0), all_talk],
                [*stands, (Kind.HEARTBEAT, 0, 0), all_talk, (Kind.HEARTBEAT, 0, 0), all_talk],
            ]
    for ending in endings:
        if shrinker.fails(best.plan, [*best.choices, *ending], heals=False):
            return Shrunk(best.plan, [*best.choices, *ending], heals=False)
    return best


def _left_out(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    def fails(some: Sequence[Choice]) -> bool:
        return shrinker.fails(best.plan, some, heals=best.heals)

    return attrs.evolve(best, choices=shrink_list(best.choices, fails, max_runs=MAX_RUNS))


def _in_a_simpler_world(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    for values in _SIMPLER_WORLDS:
        try:
            plan = attrs.evolve(best.plan, **values)
        except ValueError:
            continue
        if plan != best.plan and shrinker.fails(plan, best.choices, heals=best.heals):
            best = attrs.evolve(best, plan=plan)
    return best


def _by_links(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    """Name messages by their links: then leaving one out does not change which ones the others are."""
    named: list[Choice] = []

    def name(world: World, number: int, choice: Choice) -> None:
        named.append(_named(world, best.plan, choice))

    run_schedule(best.plan, best.choices, heals=best.heals, before=name)
    # What comes after the failure was never met.
    choices = [*named, *best.choices[len(named) :]]
    if choices != best.choices and shrinker.fails(best.plan, choices, heals=best.heals):
        return attrs.evolve(best, choices=choices)
    return best


def _named(world: World, plan: WorldPlan, choice: Choice) -> Choice:
    kind, first, _ = choice
    if kind not in (Kind.DELIVER_OLDEST, Kind.DELIVER_ANY) or not world.pool:
        return choice
    place = 0 if kind is Kind.DELIVER_OLDEST else first % len(world.pool)
    packet, names = world.pool[place], list(world.nodes)
    sender, to = names.index(packet.sender), names.index(packet.to)
    is_next = plan.has_ordered_links or place_on_link(world, sender, to) == place
    return (Kind.DELIVER_LINK, sender, to) if is_next else choice


def _joined(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    """Let one spell take the place of several choices."""
    everyone = (1 << len(best.plan.names)) - 1
    spells: list[Choice] = [(Kind.AMONG, everyone, 0), (Kind.CALM, 59, 0), *_pairs(len(best.plan.names))]
    choices = list(best.choices)
    for length in (12, 6, 3, 2):
        start = 0
        while start + length <= len(choices):
            for spell in spells:
                shorter = [*choices[:start], spell, *choices[start + length :]]
                if shrinker.fails(best.plan, shorter, heals=best.heals):
                    choices = shorter
                    break
            start += 1
    return attrs.evolve(best, choices=choices)


def _pairs(count: int) -> Iterator[Choice]:
    for first in range(count):
        for second in range(first):
            yield Kind.AMONG, 1 << first | 1 << second, 0


def _with_smaller_numbers(shrinker: _Shrinker, best: Shrunk) -> Shrunk:
    choices, count = list(best.choices), len(best.plan.names)
    everyone = (1 << count) - 1
    for place, (kind, first, second) in enumerate(choices):
        for numbers in (
            (0, 0),
            (first % count, 0),
            (first % count, second & everyone),
            (first & everyone, 0),
            (first & 0xFF, second & 0xFF),
        ):
            simpler = (kind, *numbers)
            if numbers >= (first, second):
                continue
            if shrinker.fails(best.plan, [*choices[:place], simpler, *choices[place + 1 :]], heals=best.heals):
                choices[place] = simpler
                break
    return attrs.evolve(best, choices=choices)

"""A world of cores that is recorded, and what a failing schedule leaves: its shrunk self, as a trace.

A run is not recorded until it has failed: then it is made short, and run once more under a recorder. To see one again,
or whether it still fails::

    python -m tests.properties.raft_trace .clustercore-traces/NAME.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from clustercore.raft.effects import Effects
from clustercore.raft.types import NodeId, ReadId
from clustercore.testing.shrink import shrink_list
from clustercore.testing.trace import Event as TraceEvent
from clustercore.testing.trace import FailedRun, Recorder, TraceHeader, keep_failure, read_trace, trace_hash
from clustercore.testing.trace.failures import with_violation
from tests.properties.raft_invariants import Invariants
from tests.properties.raft_schedules import Event, Setup, Step, carry_out, healed, run
from tests.properties.raft_world import Node, OwnSnapshot, Packet, World, Write

__all__ = ["TracedRun", "TracedWorld", "run_and_heal", "trace_failure", "trace_schedule"]

# A node's own snapshots are writes that its core does not number.
OWN_SNAPSHOT = 1_000_000
# Shrinking a schedule of 2,000 steps takes some hundred runs of ever fewer steps.
MAX_SHRINK_RUNS = 1500


class TracedWorld(World):
    """A world that tells a recorder of every event. It does what a World does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Build a world with whatever a World takes."""
        self.recorder = Recorder(lambda: self.now)
        self._in_pool: dict[int, Packet] = {}
        self._delivered: set[int] = set()
        self._groups: dict[NodeId, int] = {}
        # Own snapshots that were not written yet, and their numbers. Few at a time.
        self._own: list[tuple[OwnSnapshot, int]] = []
        self._snapshots = OWN_SNAPSHOT
        watchers = (_Teller(self.recorder, self), *options.pop("watchers", ()))
        super().__init__(*arguments, watchers=watchers, **options)

    def look(self) -> None:
        """Tell what a schedule did to the network by itself: it takes messages out of the pool, and cuts links."""
        if self.groups != self._groups:
            self._groups = dict(self.groups)
            sides = [[name for name in self.nodes if self.groups.get(name, 0) == side] for side in (0, 1)]
            if all(sides):
                self.recorder.partitioned(sides)
            else:
                self.recorder.healed()
        if len(self.pool) < len(self._in_pool):
            for number in self._in_pool.keys() - {packet.number for packet in self.pool}:
                self.recorder.dropped(self._in_pool.pop(number).to, number, "lost")

    def arrived(self, node: Node, packet: Packet) -> None:
        """Tell that a message reaches its node."""
        is_repeat = packet.number in self._delivered
        self._delivered.add(packet.number)
        self.recorder.delivered(node.node_id, packet.number, packet.sender, is_repeat=is_repeat)

    def left(self, node: Node, packet: Packet) -> None:
        """Tell that a message leaves its node."""
        self._in_pool[packet.number] = packet
        self.recorder.sent(node.node_id, packet.number, packet.to, packet.message)

    # --- The events that watchers do not hear of ---

    def crash(self, name: NodeId, *, kept_writes: int = 0, kept_entries: int = 0) -> None:
        """Tell what still reached the disk, then as World."""
        node = self.nodes[name]
        for write in list(node.writes)[:kept_writes]:
            self.recorder.durable(name, self._number(write))
        if kept_entries > 0 and len(node.writes) > kept_writes:
            self.recorder.failed(name, self._number(node.writes[kept_writes]), "cut off by the crash")
        super().crash(name, kept_writes=kept_writes, kept_entries=kept_entries)
        self.recorder.crashed(name)

    def deliver(self, position: int, *, keep: bool = False) -> Effects:
        """As World."""
        if not keep:
            self._in_pool.pop(self.pool[position].number)
        return super().deliver(position, keep=keep)

    def _hand_over(self, packet: Packet) -> Effects:
        if not self.nodes[packet.to].is_up:
            self.recorder.dropped(packet.to, packet.number, "the node is down")
        elif self.groups.get(packet.sender, 0) != self.groups.get(packet.to, 0):
            self.recorder.dropped(packet.to, packet.number, "the network is cut")
        return super()._hand_over(packet)

    def sync(self, name: NodeId, count: int) -> list[Write]:
        """Tell what becomes durable, then as World."""
        for write in list(self.nodes[name].writes)[:count]:
            self.recorder.durable(name, self._number(write))
        return super().sync(name, count)

    def read(self, name: NodeId, read_ids: Sequence[ReadId]) -> Effects:
        """Tell of the reads, then as World."""
        self.recorder.read_asked(name, read_ids)
        return super().read(name, read_ids)

    def take_snapshot(self, name: NodeId, tail: int) -> bool:
        """As World, then tell of the write."""
        if not super().take_snapshot(name, tail):
            return False
        write = self.nodes[name].writes[-1]
        assert isinstance(write, OwnSnapshot)
        self._snapshots += 1
        self._own.append((write, self._snapshots))
        index, term = write.snapshot.last_included_index, write.snapshot.metadata.last_included_term
        self.recorder.snapshot_asked(name, self._snapshots, index, term, write.keep_from)
        return True

    def _number(self, write: Write) -> int:
        if not isinstance(write, OwnSnapshot):
            return write.write_id
        place = next(place for place, (own, _) in enumerate(self._own) if own is write)
        return self._own.pop(place)[1]


@attrs.frozen
class _Teller:
    """The watcher of a TracedWorld, which comes before those that raise."""

    recorder: Recorder
    world: TracedWorld

    def started(self, world: World, node: Node) -> None:
        self.recorder.started(node.node_id, node.core.state)

    def received(self, world: World, node: Node, packet: Packet) -> None:
        self.world.arrived(node, packet)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        self.recorder.acted(node.node_id, node.core.state, effects)

    def released(self, world: World, node: Node, packet: Packet) -> None:
        self.world.left(node, packet)

    def settled(self, world: World, node: Node) -> None:
        pass


# --- Schedules --------------------------------------------------------------------------------------------------------


@attrs.frozen
class TracedRun:
    """A schedule that was run under a recorder."""

    header: TraceHeader
    # Those of the run, and what ended it, if that was an error.
    events: Sequence[TraceEvent]
    world: TracedWorld
    # None if all is well.
    error: Exception | None

    @property
    def hash(self) -> str:
        """The trace's."""
        return trace_hash(self.header, self.events)

    def keep(self, name: str, error: Exception) -> FailedRun:
        """Leave the trace of a failed run, and tell with ``error`` where it is."""
        return keep_failure(name, self.header, self.events, error)


def trace_schedule(setup: Setup, steps: Sequence[Step], *, title: str = "", heal: bool = True) -> TracedRun:
    """Run a schedule, and with ``heal`` the healing after it, under a recorder."""
    world = setup.build(Invariants(), world=TracedWorld)
    assert isinstance(world, TracedWorld)
    recorder = world.recorder
    error: Exception | None = None
    # Checks are made after what one node did, so that is where they fail; but for what the healing is to reach.
    node: str | None = None
    try:
        for number, step in enumerate(steps):
            recorder.noted(f"{number + 1}. {tell(world, step)}")
            carry_out(world, setup, number, step)
            world.look()
        if heal:
            recorder.noted("all faults end")
            healed(world)
    except Exception as caught:  # noqa: BLE001 - it is the outcome, and whoever asked for the run judges it
        error = caught
        node = recorder.events[-1].node
    world.look()
    options = {"setup": attrs.asdict(setup), "steps": [[event.name, *numbers] for event, *numbers in steps]}
    header = TraceHeader(
        "protocol",
        tuple(world.nodes),
        title,
        setup.seed,
        options,
        "python -m tests.properties.raft_trace {path}",
    )
    events = world.recorder.events
    return TracedRun(header, events if error is None else with_violation(events, error, node), world, error)


# Steps that one node is chosen for, and others that act with it.
_AT_A_NODE = {
    Event.SYNC,
    Event.REPORT,
    Event.FLUSH,
    Event.EXPIRE,
    Event.CRASH,
    Event.START,
    Event.UNREACHABLE,
    Event.SNAPSHOT,
    Event.SERVE,
    Event.STAND,
}


def tell(world: World, step: Step) -> str:
    """Return a step in words, with the nodes that it chooses in this world."""
    event, first, second = step
    names = list(world.nodes)
    name = names[first % len(names)]
    match event:
        case Event.STAND:
            others = [other for place, other in enumerate(names) if second >> place & 1 and other != name]
            return f"{name} stands, and {' '.join(others) or 'nobody'} may vote for it"
        case Event.AMONG | Event.REIGN:
            group = " ".join(other for place, other in enumerate(names) if first >> place & 1)
            return f"{event.value}: {group or 'nobody'}"
        case _:
            return f"{event.value}: {name}" if event in _AT_A_NODE else str(event.value)


def run_and_heal(setup: Setup, steps: Sequence[Step], *, name: str, shrink: bool = False) -> World:
    """Run a schedule and heal; if that fails, leave a trace of that name, and tell where with the error.

    Args:
        setup: The world.
        steps: The schedule.
        name: The file's name, without its ending.
        shrink: First leave out of the schedule what does not matter. Hypothesis does that by itself with what it drew.
    """
    try:
        world, _ = run(setup, steps)
        healed(world)
    except Exception as error:
        trace_failure(setup, steps, error, name=name, shrink=shrink)
        raise
    return world


def trace_failure(
    setup: Setup, steps: Sequence[Step], error: Exception, *, name: str, shrink: bool = False, heal: bool = True
) -> FailedRun:
    """Leave the trace of a schedule that failed with ``error``, and tell with it where."""
    if shrink:
        steps = shrink_list(steps, lambda some: _fails(setup, some, heal=heal), max_runs=MAX_SHRINK_RUNS)
    return trace_schedule(setup, steps, title=name, heal=heal).keep(name, error)


def _fails(setup: Setup, steps: Sequence[Step], *, heal: bool) -> bool:
    try:
        world, _ = run(setup, steps)
        if heal:
            healed(world)
    except Exception:  # noqa: BLE001 - that it fails is what was asked
        return True
    return False


def schedule_of(options: Mapping[str, Any]) -> tuple[Setup, list[Step]]:
    """Return the schedule that a trace's header holds."""
    return Setup(**options["setup"]), [(Event[name], first, second) for name, first, second in options["steps"]]


def main(say: Callable[[str], object] = sys.stdout.write) -> int:
    """Run the schedule of a trace again, and say whether it goes as it did; return an exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, help="a trace of the protocol level")
    path = parser.parse_args().path
    trace = read_trace(path)
    again = trace_schedule(*schedule_of(trace.header.options), title=trace.header.title)
    if again.error is None:
        say("the schedule runs clean\n")
        return 0
    failed = again.keep(path.stem, again.error)
    say(f"{type(again.error).__name__}: {again.error}\n{failed}\n")
    say("the same trace as before\n" if failed.hash == trace.hash else "another trace than before\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Runs that are recorded: as a trace, and each choice in words.

A run is not recorded until it has failed: then it is made short (``shrinking``), and run once more under a recorder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from clustercore.raft.effects import Effects
from clustercore.raft.types import NodeId, ReadId
from clustercore.testing.protocol.choices import Choice, Kind
from clustercore.testing.protocol.disk import OwnSnapshot, Write
from clustercore.testing.protocol.moves import place_on_link
from clustercore.testing.protocol.plan import WorldPlan, plan_from
from clustercore.testing.protocol.runs import ProtocolRun, run_schedule
from clustercore.testing.protocol.world import Node, Packet, Watcher, World
from clustercore.testing.trace import Event, FailedRun, Recorder, TraceHeader, keep_failure, trace_hash
from clustercore.testing.trace.failures import with_violation

__all__ = ["TracedRun", "schedule_of", "tell", "trace_run"]

# A node's own snapshots are writes that its core does not number.
OWN_SNAPSHOT = 1_000_000
REPLAY = "clustercore fuzz --replay {path}"


class RecordingWatcher(Watcher):
    """Tells a recorder of every event in a world."""

    def __init__(self) -> None:
        self._now = 0.0
        self.recorder = Recorder(lambda: self._now)
        self._delivered: set[int] = set()
        # The numbers of own snapshots that were not written yet. Few at a time.
        self._own: list[tuple[OwnSnapshot, int]] = []
        self._snapshots = OWN_SNAPSHOT

    def noted(self, world: World, text: str) -> None:
        """Tell what the run does next."""
        self._now = world.now
        self.recorder.noted(text)

    def started(self, world: World, node: Node) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.started(node.node_id, node.core.state)

    def crashed(self, world: World, node: Node) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.crashed(node.node_id)

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Tell, and whether it comes once more."""
        self._now = world.now
        is_repeat = packet.number in self._delivered
        self._delivered.add(packet.number)
        self.recorder.delivered(node.node_id, packet.number, packet.sender, is_repeat=is_repeat)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.acted(node.node_id, node.core.state, effects)

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.sent(node.node_id, packet.number, packet.to, packet.message)

    def lost(self, world: World, packet: Packet, reason: str) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.dropped(packet.to, packet.number, reason)

    def stored(self, world: World, node: Node, write: Write) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.durable(node.node_id, self._number(write))

    def torn(self, world: World, node: Node, write: Write) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.failed(node.node_id, self._number(write), "cut off by the crash")

    def asked(self, world: World, node: Node, read_ids: Sequence[ReadId]) -> None:
        """Tell."""
        self._now = world.now
        self.recorder.read_asked(node.node_id, read_ids)

    def snapshotted(self, world: World, node: Node, write: OwnSnapshot) -> None:
        """Tell, and number the write."""
        self._now = world.now
        self._snapshots += 1
        self._own.append((write, self._snapshots))
        metadata = write.snapshot.metadata
        index, term = metadata.last_included_index, metadata.last_included_term
        self.recorder.snapshot_asked(node.node_id, self._snapshots, index, term, write.keep_from)

    def links_changed(self, world: World) -> None:
        """Tell of a cut in two as such, and of any other as who does not reach whom."""
        self._now = world.now
        if not world.cut:
            self.recorder.healed()
            return
        sides = _sides(world)
        if sides is not None:
            self.recorder.partitioned(sides)
        else:
            self.recorder.noted("cut: " + ", ".join(f"{one} to {other}" for one, other in sorted(world.cut)))

    def _number(self, write: Write) -> int:
        if not isinstance(write, OwnSnapshot):
            return write.write_id
        place = next(place for place, (own, _) in enumerate(self._own) if own is write)
        return self._own.pop(place)[1]


def _sides(world: World) -> list[list[NodeId]] | None:
    """Return the two sides of a network that is cut in two, both ways; None if it is cut otherwise."""
    names = list(world.nodes)
    first = [name for name in names if (names[0], name) not in world.cut]
    others = [name for name in names if name not in first]
    between = {link for one in first for other in others for link in ((one, other), (other, one))}
    return [first, others] if between == world.cut else None


# --- Schedules --------------------------------------------------------------------------------------------------------


@attrs.frozen
class TracedRun:
    """A schedule that was run under a recorder."""

    header: TraceHeader
    # Those of the run, and what ended it, if that was an error.
    events: Sequence[Event]
    # Each choice in words, with the nodes that it met.
    told: Sequence[str]
    run: ProtocolRun

    @property
    def hash(self) -> str:
        """The trace's."""
        return trace_hash(self.header, self.events)

    def keep(self, name: str) -> FailedRun:
        """Leave the trace of a failed run in the folder of traces, and tell with its error where it is."""
        assert self.run.error is not None
        return keep_failure(name, self.header, self.events, self.run.error)


def trace_run(
    plan: WorldPlan,
    choices: Sequence[Choice],
    *,
    title: str = "",
    heals: bool = True,
    must_be_useful: bool = False,
    replay: str = REPLAY,
) -> TracedRun:
    """Run a schedule, and with ``heals`` the healing after it, under a recorder."""
    watcher = RecordingWatcher()
    told: list[str] = []

    def tell_choice(world: World, number: int, choice: Choice) -> None:
        told.append(tell(world, choice))
        watcher.noted(world, f"{number + 1}. {told[-1]}")

    run = run_schedule(
        plan,
        choices,
        heals=heals,
        must_be_useful=must_be_useful,
        watchers=[watcher],
        before=tell_choice,
        before_healing=lambda world: watcher.noted(world, "all faults end"),
    )
    options = {
        "world": attrs.asdict(plan),
        "choices": [[kind.name, *numbers] for kind, *numbers in choices],
        "heals": heals,
    }
    header = TraceHeader("protocol", plan.names, title, plan.seed, options, replay)
    events: Sequence[Event] = watcher.recorder.events
    if run.error is not None:
        # Checks are made after what one node did, so that is where they fail, if they do not say another.
        node = getattr(run.error, "node", None) or (events[-1].node if events else None)
        events = with_violation(events, run.error, node)
    return TracedRun(header, events, tuple(told), run)


def schedule_of(options: Mapping[str, Any]) -> tuple[WorldPlan, list[Choice], bool]:
    """Return the world and the schedule that a trace's header holds, and whether it was healed.

    Raises: ValueError if it holds none.
    """
    try:
        choices = [(Kind[name], first, second) for name, first, second in options["choices"]]
        return plan_from(options["world"]), choices, bool(options["heals"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the trace holds no schedule of the protocol level: {error!r}") from error


# Choices that one node is chosen for by the first number, and those that a group is.
_AT_A_NODE = frozenset(
    {
        Kind.SYNC,
        Kind.REPORT,
        Kind.FLUSH,
        Kind.EXPIRE,
        Kind.CRASH,
        Kind.LOSE_DISK,
        Kind.UNREACHABLE,
        Kind.SNAPSHOT,
        Kind.DEPOSE,
    }
)
_IN_A_GROUP = frozenset({Kind.AMONG, Kind.REIGN, Kind.PARTITION})


def tell(world: World, choice: Choice) -> str:
    """Return a choice in words, with the nodes that it chooses in this world."""
    kind, first, second = choice
    names = list(world.nodes)
    name = names[first % len(names)]
    if kind is Kind.STAND:
        others = [other for place, other in enumerate(names) if second >> place & 1 and other != name]
        return f"{name} stands, and {' '.join(others) or 'nobody'} may vote for it"
    if kind in _AT_A_NODE:
        return f"{kind.value}: {name}"
    if kind in _IN_A_GROUP:
        group = " ".join(other for place, other in enumerate(names) if first >> place & 1)
        return f"{kind.value}: {group or 'nobody'}"
    if kind is Kind.DELIVER_LINK:
        return f"deliver the next message from {name} to {names[second % len(names)]}{_next_on_link(world, choice)}"
    packet = _chosen_packet(world, kind, first)
    return f"{kind.value}: {_shown(packet)}" if packet is not None else kind.value


def _chosen_packet(world: World, kind: Kind, first: int) -> Packet | None:
    if not world.pool:
        return None
    if kind is Kind.DELIVER_OLDEST:
        return world.pool[0]
    return world.pool[first % len(world.pool)] if kind in (Kind.DELIVER_ANY, Kind.DUPLICATE, Kind.DROP) else None


def _next_on_link(world: World, choice: Choice) -> str:
    place = place_on_link(world, choice[1], choice[2])
    return "" if place is None else f": {type(world.pool[place].message).__name__}"


def _shown(packet: Packet) -> str:
    return f"{type(packet.message).__name__} from {packet.sender} to {packet.to}"

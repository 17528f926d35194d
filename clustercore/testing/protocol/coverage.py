"""What runs reached: a campaign that never installed a snapshot has said nothing of snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from clustercore.raft.effects import (
    Apply,
    ConfigurationAppended,
    ConfigurationChanged,
    Effects,
    PersistSnapshot,
    ProposalsAppended,
    ReadReady,
    ReadRefused,
    RestoreSnapshot,
    RoleChanged,
)
from clustercore.raft.entry import Entry
from clustercore.raft.messages import RaftMessage, TimeoutNowRequest
from clustercore.raft.types import NodeId, Role, Term
from clustercore.testing.invariants import facts
from clustercore.testing.invariants.facts import Invariant
from clustercore.testing.protocol.disk import OwnSnapshot, Write
from clustercore.testing.protocol.world import Node, Packet, Watcher, World

__all__ = ["EXPECTED", "NEEDED", "Coverage", "Truncations"]

# Without one of these a run says nothing.
NEEDED = ("elections", "entries committed")
# At least one of these, or nothing went wrong in a run.
FAULTS = ("messages lost", "messages repeated", "crashes", "links cut", "elections after the first")
# What a campaign of some hundred seeds reaches, or its generator has gone lame.
EXPECTED = (
    *NEEDED,
    "elections after the first",
    "entries cut",
    "messages lost",
    "messages repeated",
    "crashes",
    "torn writes",
    "links cut",
    "snapshots taken",
    "snapshots installed",
    "reads answered",
    "reads refused",
    "transfers told",
    "members changed",
    "joint configurations",
    "disks lost",
)

_EFFECTS: Mapping[type, str] = {
    ProposalsAppended: "proposals taken",
    ReadReady: "reads answered",
    ReadRefused: "reads refused",
    PersistSnapshot: "snapshots from a leader",
    RestoreSnapshot: "snapshots installed",
    ConfigurationAppended: "changes of members begun",
    Apply: "batches applied",
}


class Coverage(Watcher):
    """Counts what happens in a world."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._delivered: Counter[type[RaftMessage]] = Counter()
        self._effects: Counter[type] = Counter()
        self._last_number = 0

    def started(self, world: World, node: Node) -> None:
        """Count."""
        self.counts["starts"] += 1

    def crashed(self, world: World, node: Node) -> None:
        """Count."""
        self.counts["crashes"] += 1

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Count by kind."""
        self._delivered[type(packet.message)] += 1

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Count by kind, and look closer at what is rare."""
        for effect in effects:
            kind = type(effect)
            self._effects[kind] += 1
            if kind is ConfigurationChanged and isinstance(effect, ConfigurationChanged):
                self.counts["members changed"] += 1
                self.counts["joint configurations"] += effect.configuration.is_joint
            elif kind is RoleChanged and isinstance(effect, RoleChanged):
                self.counts[f"{effect.role.value.replace('_', '-')}s made"] += effect.role is not Role.FOLLOWER

    def lost(self, world: World, packet: Packet, reason: str) -> None:
        """Count."""
        self.counts["messages lost"] += 1

    def torn(self, world: World, node: Node, write: Write) -> None:
        """Count."""
        self.counts["torn writes"] += 1

    def snapshotted(self, world: World, node: Node, write: OwnSnapshot) -> None:
        """Count."""
        self.counts["snapshots taken"] += 1

    def links_changed(self, world: World) -> None:
        """Count."""
        self.counts["links cut"] += bool(world.cut)

    def result(self, world: World, known: facts.Facts, truncations: Truncations) -> dict[str, int]:
        """Return all counts, by name."""
        counts = Counter(self.counts)
        counts["elections"] = len(known.leaders)
        counts["elections after the first"] = max(0, len(known.leaders) - 1)
        counts["entries committed"] = len(known.committed)
        counts["entries cut"] = truncations.count
        counts["disks lost"] = sum(len(node.lost_disks) for node in world.nodes.values())
        counts["messages delivered"] = self._delivered.total()
        counts["transfers told"] = self._delivered[TimeoutNowRequest]
        # What was handed over and is counted as delivered more often than it was made.
        counts["messages repeated"] = world.repeats
        for kind, name in _EFFECTS.items():
            counts[name] = self._effects[kind]
        return {name: count for name, count in sorted(counts.items()) if count}


class Truncations(Invariant):
    """No property: it counts the entries that nodes cut off their logs."""

    name = "truncations"
    source = ""

    def __init__(self, known: facts.Facts) -> None:
        super().__init__(known)
        self.count = 0

    def appended(self, world: facts.World, node: facts.Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Count."""
        self.count += len(cut)


def missing_from(counts: Mapping[str, int]) -> list[str]:
    """Return what a run lacks to have said anything; nothing if it has."""
    lacks = [name for name in NEEDED if not counts.get(name)]
    return lacks if any(counts.get(name) for name in FAULTS) else [*lacks, "any fault"]

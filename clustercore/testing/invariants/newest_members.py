"""The members that count are the newest in the log, committed or not (Raft §6; thesis §4.1, §5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.configuration import configurations_in
from clustercore.raft.effects import Effects, PersistSnapshot
from clustercore.raft.entry import Entry
from clustercore.raft.types import BEFORE_LOG, Configuration, LogIndex, NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Seen, World

__all__ = ["NewestMembers"]

History = list[tuple[LogIndex, Configuration]]


class NewestMembers(Invariant):
    """They count from when they are in the log, no more once they are cut off, and again after a restart."""

    name = "the newest members in the log count"
    source = "Raft §6, thesis §4.1"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # For each node, the members that its log or snapshot names, ascending; the first are those before all others.
        self._named: dict[NodeId, History] = {}

    def started(self, world: World, node: Node) -> None:
        """Read the disk."""
        disk = node.disk
        named = list(disk.named_members)
        if not named or disk.snapshot_index == BEFORE_LOG:
            named.insert(0, (BEFORE_LOG, node.configuration))
        self._named[node.node_id] = named
        self._compare(node)

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Follow the log."""
        named = self._named[node.node_id]
        while len(named) > 1 and named[-1][0] >= entries[0].index:
            named.pop()
        named += configurations_in(entries)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Follow a leader's snapshot."""
        for effect in effects:
            if isinstance(effect, PersistSnapshot):
                index = effect.metadata.last_included_index
                named = self._named[node.node_id]
                later = [item for item in named if item[0] > index] if effect.keep_from is not None else []
                named[:] = [(index, effect.metadata.configuration), *later]

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Compare."""
        self._compare(node)

    def _compare(self, node: Node) -> None:
        named = self._named[node.node_id]
        index, members = named[-1]
        counted = node.core.state.configuration
        if not members.servers and index == BEFORE_LOG and counted == Configuration.of([node.node_id]):
            # It knew of nobody, and founds a cluster (thesis §4.4).
            named[-1] = index, members = BEFORE_LOG, counted
        if counted is not members and counted != members:
            self.fail(
                f"{node.node_id} counts {' '.join(sorted(counted.members)) or 'nobody'}, its log names "
                f"{' '.join(sorted(members.members)) or 'nobody'} at {index}",
                node,
            )

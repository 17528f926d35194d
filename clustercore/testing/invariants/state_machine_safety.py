"""State Machine Safety: no two nodes apply different commands at one index (Raft Figure 3, §5.4.3)."""

from __future__ import annotations

from clustercore.raft.effects import Apply, Effects
from clustercore.raft.types import LogIndex, NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Seen, World

__all__ = ["StateMachineSafety"]


class StateMachineSafety(Invariant):
    """After the same index every machine is the same, whether it applied entries or took a snapshot."""

    name = "state machine safety"
    source = "Raft Figure 3, §5.4.3"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._terms: dict[LogIndex, Term] = {}
        self._digests: dict[LogIndex, bytes] = {}

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Compare each entry that is handed out with what others were given."""
        for effect in effects:
            if type(effect) is Apply:
                for entry in effect.entries:
                    known = self._terms.setdefault(entry.index, entry.term)
                    if known != entry.term:
                        self.fail(
                            f"{node.node_id} applies entry {entry.index} of term {entry.term}, another applied that of "
                            f"term {known}",
                            node,
                        )

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Compare the machines."""
        machine = node.machine
        if machine.index == seen.last_applied:
            return
        known = self._digests.setdefault(machine.index, machine.digest)
        if known != machine.digest:
            self.fail(f"the machine of {node.node_id} differs from another after entry {machine.index}", node)

"""At the moment of commit an entry is durable on a quorum (Raft §5.3, §5.4.2; thesis §4.3, §10.2.1)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex, NodeId, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["CommittedDurably"]


class CommittedDurably(Invariant):
    """Whatever somebody takes for committed is on the disks of a majority, and of both while members change."""

    name = "committed is durable"
    source = "Raft §5.3, thesis §4.3"

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """Count the disks that hold what has just been committed for the first time."""
        configuration = node.core.state.configuration
        log = node.core.state.log
        for number in range(max(first, self.facts.last_committed + 1, log.base_index + 1), last + 1):
            index = LogIndex(number)
            term = log.term_at(index)
            assert term is not None
            for voters in (configuration.voters, configuration.old_voters):
                holders = [voter for voter in sorted(voters) if self._held(world, voter, index, term)]
                if voters and 2 * len(holders) <= len(voters):
                    self.fail(
                        f"{node.node_id} takes entry {index} of term {term} for committed, but of the voters "
                        f"{' '.join(sorted(voters))} only {' '.join(holders) or 'none'} had it on disk",
                        node,
                    )

    def _held(self, world: World, name: NodeId, index: LogIndex, term: Term) -> bool:
        """Whether a node's disk holds an entry, or one did that was lost: what it acknowledged may still be counted."""
        node = world.nodes[name]
        return node.disk.holds(index, term) or any(disk.holds(index, term) for disk in node.lost_disks)

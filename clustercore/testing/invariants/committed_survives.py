"""Nobody could win an election without what is committed (Raft §5.4.1, §5.4.2; thesis §3.6.3, §4.1)."""

from __future__ import annotations

from clustercore.raft.types import Configuration, LogIndex
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["CommittedSurvives"]


class CommittedSurvives(Invariant):
    """Whoever could be elected from the disks as they are has the entry that has just been committed.

    So an entry that is committed too early is found at once, and not only if the election that loses it follows.
    """

    name = "committed survives elections"
    source = "Raft §5.4.1, §5.4.2"

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """Hold all possible elections."""
        term = node.core.state.log.term_at(last)
        if last <= self.facts.last_committed or term is None:
            return
        for candidate in world.nodes.values():
            if not candidate.disk.holds(last, term) and self._could_win(world, candidate):
                self.fail(
                    f"{candidate.node_id} could win an election, and lacks entry {last}, which is committed", node
                )

    def _could_win(self, world: World, candidate: Node) -> bool:
        end, configuration = candidate.disk.end, _members_on(candidate)
        if candidate.node_id not in configuration.all_voters:
            return False
        granted = {
            name
            for name in configuration.all_voters
            if world.nodes[name].disk.end <= end and _is_counted_on(configuration, world.nodes[name])
        }
        if not configuration.is_formed:
            return granted >= configuration.voters
        return all(
            2 * len(granted & voters) > len(voters)
            for voters in (configuration.voters, configuration.old_voters)
            if voters
        )


def _members_on(node: Node) -> Configuration:
    """Return the members that a node would start with from its disk."""
    return node.disk.configuration or node.configuration


def _is_counted_on(configuration: Configuration, voter: Node) -> bool:
    """Whether a node has the storage that these members count on; one that lost its disk votes for nobody."""
    server = configuration.get(voter.node_id)
    return server is None or server.incarnation in ("", voter.incarnation)

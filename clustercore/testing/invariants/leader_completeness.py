"""Leader Completeness: what is committed in a term is in the logs of all later leaders (Raft Figure 3, §5.4.3)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex, Role, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["LeaderCompleteness"]


class LeaderCompleteness(Invariant):
    """A leader has every entry that was committed in an earlier term."""

    name = "leader completeness"
    source = "Raft Figure 3, §5.4.3"

    def took_office(self, world: World, node: Node) -> None:
        """Look for each entry that is committed by now."""
        for index, term in self.facts.committed.items():
            self._look(node, index, term, self.facts.committed_in[index])

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """Look for what has just been committed in the logs of those that lead a later term already."""
        term, log = node.core.state.current_term, node.core.state.log
        for other in world.nodes.values():
            state = other.core.state
            if state.role is Role.LEADER and other.is_up and state.current_term > term:
                for number in range(max(first, log.base_index + 1, self.facts.last_committed + 1), last + 1):
                    entry_term = log.term_at(LogIndex(number))
                    assert entry_term is not None
                    self._look(other, LogIndex(number), entry_term, term)

    def _look(self, node: Node, index: LogIndex, term: Term, committed_in: Term) -> None:
        state = node.core.state
        if index <= state.log.base_index or committed_in >= state.current_term:
            return
        if state.log.term_at(index) != term:
            self.fail(
                f"{node.node_id} leads term {state.current_term} and lacks entry {index} of term {term}, which was "
                f"committed in term {committed_in}",
                node,
            )

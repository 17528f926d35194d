"""Committed entries never change, in no log that held them (Raft §5.4.3, thesis §3.6.3)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.entry import Entry
from clustercore.raft.types import LogIndex, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["CommittedForever"]


class CommittedForever(Invariant):
    """One index is committed with one term only, and nobody cuts a committed entry who might be asked for it.

    A node that is behind may: in a term before the one in which the entry was committed, a leader of that time may
    still replace it, and the node was none of those by whom it was committed::

        n1  1:1                leads term 1, and is alone with its entry
        n5  1:2                leads term 2, and is alone with its own; what it sends n1 is late
        n2  1:1 2:3            has n1's entry, leads term 3, and commits both with n3 and n4
    """

    name = "committed entries never change"
    source = "Raft §5.4.3, thesis §3.6.3"

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """Compare with what was committed at the same indexes before."""
        log = node.core.state.log
        for number in range(max(first, log.base_index + 1), last + 1):
            index = LogIndex(number)
            term = log.term_at(index)
            known = self.facts.committed.get(index, term)
            if known != term:
                self.fail(f"{node.node_id} has entry {index} committed of term {term}, others of term {known}", node)

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Look at what is cut, whether the node knows by now that it is committed or not."""
        for place, term in enumerate(cut):
            index = LogIndex(entries[0].index + place)
            is_kept = place < len(entries) and entries[place].term == term
            if not is_kept and self._must_stay(node, index, term):
                self.fail(f"{node.node_id} cuts entry {index} of term {term}, which is committed", node)

    def replaced(self, world: World, node: Node, index: LogIndex, term: Term, *, keeps_log: bool) -> None:
        """Look at a snapshot: it covers what is committed, and drops nothing that is committed behind it."""
        known = self.facts.committed.get(index)
        if known != term:
            self.fail(f"{node.node_id} takes a snapshot at {index} of term {term}; committed there is {known}", node)
        if keeps_log:
            return
        seen = self.facts.seen[node.node_id]
        for place, held in enumerate(seen.terms):
            lost = LogIndex(seen.base_index + 1 + place)
            if lost > index and self._must_stay(node, lost, held):
                self.fail(f"{node.node_id} drops entry {lost} of term {held}, which is committed", node)

    def _must_stay(self, node: Node, index: LogIndex, term: Term) -> bool:
        facts = self.facts
        return facts.committed.get(index) == term and (
            node.core.state.current_term >= facts.committed_in[index] or index <= facts.seen[node.node_id].commit_index
        )

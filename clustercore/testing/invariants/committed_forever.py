"""Committed entries never change, in no log that held them (Raft §5.4.3, thesis §3.6.3)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.entry import Entry
from clustercore.raft.types import BEFORE_LOG, LogIndex, Term
from clustercore.testing.invariants.facts import Invariant
from clustercore.testing.protocol.world import Node, World

__all__ = ["CommittedForever"]


class CommittedForever(Invariant):
    """One index is committed with one term only, and no node ever cuts a committed entry that it has."""

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
            if self.facts.committed.get(index) == term and not (place < len(entries) and entries[place].term == term):
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
            if lost > max(index, BEFORE_LOG) and self.facts.committed.get(lost) == held:
                self.fail(f"{node.node_id} drops entry {lost} of term {held}, which is committed", node)

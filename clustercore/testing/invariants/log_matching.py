"""Log Matching: two entries of one index and term are the same, and so is all before them (Raft Figure 3, §5.3)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import NO_TERM, LogIndex, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, World

__all__ = ["LogMatching"]


class LogMatching(Invariant):
    """An index and a term name one command, and one term before it; so, by induction, one prefix."""

    name = "log matching"
    source = "Raft Figure 3, §5.3"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # Each entry that was ever in a log, with the term before it.
        self._known: dict[tuple[LogIndex, Term], tuple[Term, EntryKind, bytes]] = {}

    def started(self, world: World, node: Node) -> None:
        """Look at the whole log that a disk gave back."""
        log = node.core.state.log
        if log.last_index > log.base_index:
            self._look(node, log.slice(log.first_index, log.last_index))

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Look at what is new."""
        log = node.core.state.log
        last = entries[-1]
        if log.last_index < last.index or log.term_at(last.index) != last.term:
            self.fail(f"{node.node_id} has entries up to {last.index} written that are not in its log", node)
        self._look(node, entries)

    def _look(self, node: Node, entries: Sequence[Entry]) -> None:
        before = node.core.state.log.term_at(LogIndex(entries[0].index - 1))
        for entry in entries:
            # What was before a log's base may be compacted, and is not known then.
            if before is not None:
                found = (before, entry.kind, entry.command)
                known = self._known.setdefault((entry.index, entry.term), found)
                if known != found:
                    self.fail(
                        f"entry {entry.index} of term {entry.term} is {known[2]!r} after term {known[0]} in one log, "
                        f"and {entry.command!r} after term {before} in that of {node.node_id}",
                        node,
                    )
                if before > entry.term:
                    self.fail(f"in the log of {node.node_id} term {entry.term} follows {before}", node)
            before = entry.term if entry.term > NO_TERM else None

"""Quorums of adjacent configurations intersect, and one change follows another (Raft §6; thesis §4.1, §4.3).

The definition is written out here, and does not use the core's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, combinations

from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import Configuration, LogIndex, NodeId, Role, Term
from clustercore.testing.invariants.facts import Invariant, Node, World

__all__ = ["QuorumIntersection", "do_quorums_intersect"]

# The groups of voters of which a quorum holds a majority each: one, or two while members change.
Groups = frozenset[frozenset[NodeId]]


class QuorumIntersection(Invariant):
    """No leader puts members in its log that could decide without those before, or before those are settled."""

    name = "quorums of adjacent configurations intersect"
    source = "Raft §6, thesis §4.1, §4.3"

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Look at members that a leader has just thought of; all others take them over from it."""
        state = node.core.state
        if state.role is not Role.LEADER:
            return
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                old = state.configurations.at(LogIndex(entry.index - 1))
                self._look(node, entry, old, state.configurations.at(entry.index))

    def _look(self, node: Node, entry: Entry, old: Configuration, new: Configuration) -> None:
        if not do_quorums_intersect(old, new):
            self.fail(
                f"{node.node_id} goes from the voters {_shown(old)} to {_shown(new)} at {entry.index}, of which two "
                "quorums share nobody",
                node,
            )
        if not old.is_formed:
            # The first of a cluster: nothing is committed before it.
            return
        # Ongaro, raft-dev, July 2015: single changes are safe only after an entry of the leader's own term.
        commit_index = node.core.state.commit_index
        if node.core.state.log.term_at(commit_index) != entry.term:
            self.fail(f"{node.node_id} changes members in term {entry.term} before it committed anything in it", node)
        since = _index_of(node, LogIndex(entry.index - 1))
        if since > commit_index:
            self.fail(f"{node.node_id} changes members at {entry.index}; the change at {since} is not committed", node)


def _index_of(node: Node, index: LogIndex) -> LogIndex:
    """Return where the members that count at ``index`` are in the log; the log's base if they are older than it."""
    log = node.core.state.log
    for number in range(index, log.base_index, -1):
        (entry,) = log.slice(LogIndex(number), LogIndex(number))
        if entry.kind is EntryKind.CONFIGURATION:
            return entry.index
    return log.base_index


def do_quorums_intersect(old: Configuration, new: Configuration) -> bool:
    """Say whether every quorum of one configuration shares a node with every quorum of the other."""
    return _intersect(_groups(old), _groups(new))


@lru_cache(maxsize=4096)
def _intersect(old: Groups, new: Groups) -> bool:
    nodes = sorted(frozenset().union(*old, *new))
    subsets = chain.from_iterable(combinations(nodes, size) for size in range(len(nodes) + 1))
    return not any(
        _is_quorum(old, frozenset(some)) and _is_quorum(new, frozenset(nodes) - frozenset(some)) for some in subsets
    )


def _groups(configuration: Configuration) -> Groups:
    return frozenset(group for group in (configuration.voters, configuration.old_voters) if group)


def _is_quorum(groups: Groups, some: frozenset[NodeId]) -> bool:
    return all(2 * len(group & some) > len(group) for group in groups)


def _shown(configuration: Configuration) -> str:
    return " and ".join(" ".join(sorted(group)) for group in (configuration.voters, configuration.old_voters) if group)

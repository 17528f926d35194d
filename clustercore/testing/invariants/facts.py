"""What an observer of every node knows, and the shape of a check.

The facts are gathered once, by ``Invariants``; each check is a class in a module of its own that looks at them when
something happened that it is about. So a check costs nothing when nothing changed, and all can be made after every
event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NoReturn

import attrs

from clustercore.raft.effects import Effects
from clustercore.raft.entry import Entry
from clustercore.raft.types import BEFORE_LOG, NO_TERM, LogIndex, NodeId, Role, Term
from clustercore.testing.protocol.disk import Write
from clustercore.testing.protocol.world import Node, Packet, World
from clustercore.testing.violation import PropertyViolated

__all__ = ["Facts", "Invariant", "Seen"]


@attrs.define(eq=False)
class Seen:
    """What a running node showed after the last event at it, and the terms of its log's entries."""

    term: Term = NO_TERM
    voted_for: NodeId | None = None
    role: Role = Role.FOLLOWER
    commit_index: LogIndex = BEFORE_LOG
    last_applied: LogIndex = BEFORE_LOG
    # Entries up to here are not in ``terms``.
    base_index: LogIndex = BEFORE_LOG
    terms: list[Term] = attrs.field(factory=list)

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of an entry of the log, if it is known."""
        place = index - self.base_index - 1
        return self.terms[place] if 0 <= place < len(self.terms) else None


@attrs.define(eq=False)
class Facts:
    """Who led, what was committed, and how each node stands."""

    leaders: dict[Term, NodeId] = attrs.field(factory=dict)
    last_led_term: Term = NO_TERM
    # The term of each committed entry, and the term in which it was first known committed.
    committed: dict[LogIndex, Term] = attrs.field(factory=dict)
    committed_in: dict[LogIndex, Term] = attrs.field(factory=dict)
    last_committed: LogIndex = BEFORE_LOG
    seen: dict[NodeId, Seen] = attrs.field(factory=dict)


class Invariant:
    """One property. A subclass has the methods that it needs; each raises PropertyViolated.

    ``facts`` are as of before the event until ``settled``; what the event itself made new is told by the hooks.
    """

    # What the property is called, and where it is from.
    name: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def fail(self, text: str, node: Node | None = None) -> NoReturn:
        """Say that the property does not hold."""
        raise PropertyViolated(self.name, text, self.source, node.node_id if node is not None else None)

    def started(self, world: World, node: Node) -> None:
        """A node has started."""

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """A core is about to be given a message."""

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """A core was given an input; its effects are about to be carried out."""

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """A message leaves its node."""

    def stored(self, world: World, node: Node, write: Write) -> None:
        """A write is about to be durable."""

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """A node put entries into its log, in place of those of the terms ``cut``, which began at the same index."""

    def replaced(self, world: World, node: Node, index: LogIndex, term: Term, *, keeps_log: bool) -> None:
        """A node takes a leader's snapshot for its log up to an index; without ``keeps_log`` all else is gone."""

    def took_office(self, world: World, node: Node) -> None:
        """A node leads."""

    def committed(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        """A node knows these entries, both inclusive, for committed; some of them, perhaps, as the first."""

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """An event at a node is over; ``seen`` is what it showed before."""

"""What an observer of every node knows, and the shape of a check.

The protocols say what a check may look at. Both levels of simulation offer that: the one of cores alone with its worlds
(``clustercore.testing.protocol``), and the one of whole nodes with what it sees of them
(``clustercore.testing.simulation``). So a property is written once, and holds in both.

The facts are gathered once, by ``Invariants``; each check is a class in a module of its own that looks at them when
something happened that it is about. So a check costs nothing when nothing changed, and all can be made after every
event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Protocol

import attrs

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects
from clustercore.raft.entry import Entry
from clustercore.raft.messages import RaftMessage
from clustercore.raft.types import (
    BEFORE_LOG,
    NO_TERM,
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    Term,
)
from clustercore.testing.protocol.disk import Write
from clustercore.testing.violation import PropertyViolated

__all__ = ["Disk", "Facts", "Invariant", "Machine", "Node", "Packet", "Seen", "World"]


class Disk(Protocol):
    """What is durable on a node at this moment."""

    @property
    def hard_state(self) -> HardState:
        """The term and the vote."""
        ...

    @property
    def snapshot_index(self) -> LogIndex:
        """The last index that the stored snapshot covers; BEFORE_LOG without one."""
        ...

    @property
    def last_index(self) -> LogIndex:
        """The last index stored, in the log or the snapshot."""
        ...

    @property
    def end(self) -> tuple[Term, LogIndex]:
        """What the stored log is compared by in an election (Raft §5.4.1)."""
        ...

    @property
    def configuration(self) -> Configuration | None:
        """The newest members that the disk names; None if it names none."""
        ...

    @property
    def named_members(self) -> Sequence[tuple[LogIndex, Configuration]]:
        """The members that the disk names, ascending by index: the snapshot's first, if there is one."""
        ...

    @property
    def configuration_index(self) -> LogIndex:
        """The entry that named them; what the snapshot covers if it did, and BEFORE_LOG if nothing has."""
        ...

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of a stored entry, or None if only a snapshot covers it, or nothing does."""
        ...

    def holds(self, index: LogIndex, term: Term) -> bool:
        """Say whether the entry ``index`` of ``term`` is stored, itself or within the snapshot."""
        ...


class Machine(Protocol):
    """What a state machine was given."""

    @property
    def index(self) -> LogIndex:
        """The last entry that was handed to it, by itself or within a snapshot."""
        ...

    @property
    def digest(self) -> bytes:
        """The same for all machines that were given the same; always empty where nobody computes it."""
        ...


class Node(Protocol):
    """One node, or what is left of it while it is off."""

    @property
    def node_id(self) -> NodeId:
        """Its name."""
        ...

    @property
    def configuration(self) -> Configuration:
        """The members that it is started with while its disk names none."""
        ...

    @property
    def core(self) -> RaftCore:
        """The core that runs, or ran last."""
        ...

    @property
    def disk(self) -> Disk:
        """What is durable."""
        ...

    @property
    def lost_disks(self) -> Sequence[Disk]:
        """What was durable on disks that are lost."""
        ...

    @property
    def storage(self) -> int:
        """The number of the disk it has now."""
        ...

    @property
    def has_sound_disk(self) -> bool:
        """Whether what its disk holds is as it was written."""
        ...

    @property
    def incarnation(self) -> str:
        """The identity of that disk's storage."""
        ...

    @property
    def known_storages(self) -> Mapping[NodeId, int]:
        """The disk of each peer that this process has heard of, by number."""
        ...

    @property
    def machine(self) -> Machine:
        """What its state machine was given."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether its process lives."""
        ...


class Packet(Protocol):
    """A message between two cores."""

    @property
    def sender(self) -> NodeId:
        """Who sends it."""
        ...

    @property
    def to(self) -> NodeId:
        """Whom it is for."""
        ...

    @property
    def message(self) -> RaftMessage:
        """What it says."""
        ...


class World(Protocol):
    """All nodes. ``Any`` stands for a node of this world: what it takes for one is its own affair."""

    @property
    def nodes(self) -> Mapping[NodeId, Node]:
        """Every node that ever was, by name."""
        ...

    @property
    def committed(self) -> LogIndex:
        """The highest index that was ever committed anywhere."""
        ...

    def clock_of(self, node: Any) -> float:
        """Return a node's own time, in seconds."""
        ...

    def lease_until(self, node: Any) -> float:
        """Return until when a node believes that no other can lead, by its own clock; minus infinity for not at all."""
        ...

    def asked_at(self, node: Any, read_id: ReadId) -> LogIndex:
        """Return what was committed anywhere when a node was asked for an index to read at."""
        ...

    def is_answered(self, node: Any, read_id: ReadId) -> bool:
        """Say whether it has answered that."""
        ...


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

    def applied_once(self, world: World, session_id: int, sequence: int, index: LogIndex) -> None:
        """A machine has applied a command of a session, for the entry at ``index``."""

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """An event at a node is over; ``seen`` is what it showed before."""

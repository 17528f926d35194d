"""What must hold between the nodes of a cluster, looked at after every input of every core.

The properties are those of the level of cores alone (``clustercore.testing.invariants``): the same modules serve both.
What whole nodes add is that disks, wires and state machines are not the core's, and may do what it did not ask for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import attrs
import trio

from clustercore.interfaces import Applied, Configuration, Entry, HardState, LogIndex, NodeId, StateMachine, StoredState
from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Apply, Effects, PersistHardState, ReadReady, ReadRefused, RestoreSnapshot
from clustercore.raft.messages import (
    AppendEntriesResponse,
    InstallSnapshotResponse,
    RaftMessage,
    RaftRequest,
    RaftResponse,
    RequestVoteResponse,
)
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, ReadId, WriteId
from clustercore.runtime import assembly
from clustercore.runtime import node as node_module
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.session_entries import SessionCommand
from clustercore.testing.invariants.watcher import PROPERTIES, Invariants
from clustercore.testing.simulation.disk_view import DiskView
from clustercore.testing.trace import ObservedCore, Wiretap
from clustercore.testing.violation import PropertyViolated

__all__ = ["Watch", "WatchedNode"]


@attrs.frozen
class _Handed:
    """What a state machine was given: up to here; the entries themselves are compared as they are handed out."""

    state: RaftState
    digest: bytes = b""

    @property
    def index(self) -> LogIndex:
        """The last entry that the core handed out."""
        return self.state.last_applied


@attrs.frozen
class _Packet:
    sender: NodeId
    to: NodeId
    message: RaftMessage


@attrs.define(eq=False)
class WatchedNode:
    """One machine, as the checks see it: what its running node knows, or knew when it ended, and its disk."""

    node_id: NodeId
    disk: DiskView
    core: RaftCore
    machine: _Handed
    # The identity of the disk it has now; one that no node has started on yet has none that anybody could know.
    incarnation: str
    # The members that it is started with while its disk names none.
    configuration: Configuration = attrs.field(factory=Configuration)
    storage: int = 1
    lost_disks: list[DiskView] = attrs.field(factory=list)
    known_storages: dict[NodeId, int] = attrs.field(factory=dict)
    is_up: bool = False
    # What was committed anywhere when this process was asked for each index to read at, and which it has answered.
    asked: dict[ReadId, LogIndex] = attrs.field(factory=dict)
    answered: set[ReadId] = attrs.field(factory=set)
    # Whether a node ever ran on the disk it has now.
    has_run: bool = False
    # Whether what that disk holds is as it was written. Nobody may know of damage until the next start.
    has_sound_disk: bool = True

    @property
    def state(self) -> RaftState:
        """What it knows, or knew."""
        return self.core.state


def _unknown(node_id: NodeId, stored: Callable[[], StoredState]) -> WatchedNode:
    """Return a machine before its first start: with the core of a node that belongs to nobody."""
    core = RaftCore(
        node_id=node_id,
        configuration=Configuration(),
        config=RaftConfig(),
        rng=Random(0),
        now=0.0,
        new_cluster_id="unused",
    )
    return WatchedNode(node_id, DiskView(stored), core, _Handed(core.state), f"{node_id}/1, not named yet")


class _Nodes(dict[NodeId, WatchedNode]):
    """Machines by name. Members may be named that are on no machine: they have nothing, and do nothing."""

    def __missing__(self, name: NodeId) -> WatchedNode:
        return _unknown(name, StoredState)


class Watch:
    """Sees every core of one run, and has the invariants checked.

    Args:
        names: The machines.
        stored: Returns what is synced on a machine's disk at this moment.
        lease_until: Returns until when a machine's node believes that no other can lead; minus infinity while it does
            not, or is off.
        has_true_clocks: Whether leases may be relied on, and so are checked.
    """

    def __init__(
        self,
        names: Sequence[str],
        stored: Callable[[str], StoredState],
        lease_until: Callable[[str], float],
        *,
        has_true_clocks: bool = True,
    ) -> None:
        self._stored = stored
        self._lease_until = lease_until
        self._invariants = Invariants(properties=PROPERTIES, has_true_drift=has_true_clocks)
        # Every machine that ever was, and everybody that was ever named for a member.
        self.nodes: dict[NodeId, WatchedNode] = _Nodes()
        for name in names:
            self.add(name)
        # The machine and the number of the disk of each identity that a storage was given.
        self._storages: dict[str, int] = {}
        # The highest index that was ever committed anywhere.
        self.committed = BEFORE_LOG
        # What was handed to a state machine first, for each index.
        self._applied: dict[LogIndex, Entry] = {}
        self._after_promise: dict[str, Callable[[], None]] = {}
        # What was found where it could not be raised.
        self._violation: PropertyViolated | None = None
        # How much the run did.
        self.restores = self.inputs = 0

    def add(self, name: str) -> None:
        """Watch one more machine."""
        self.nodes[NodeId(name)] = _unknown(NodeId(name), lambda: self._stored(name))

    @contextmanager
    def watching(self, wiretap: Wiretap | None) -> Iterator[None]:
        """Let every node that starts meanwhile run on a core that is watched, and traced if a wiretap is given."""
        of_cores, of_states = vars(assembly), vars(node_module)
        real = of_cores["RaftCore"], of_states["ReplicatedState"]

        def make_core(**arguments: Any) -> RaftCore:
            return _WatchedCore(self, **arguments) if wiretap is None else _TracedCore(self, wiretap, **arguments)

        of_cores["RaftCore"] = make_core
        of_states["ReplicatedState"] = lambda machine: _WatchedState(self, machine)
        try:
            yield
        finally:
            of_cores["RaftCore"], of_states["ReplicatedState"] = real

    # --- How much the run did ---

    @property
    def elections(self) -> int:
        """Terms that somebody led."""
        return len(self._invariants.facts.leaders)

    @property
    def commits(self) -> int:
        """Entries that were handed to a state machine."""
        return len(self._applied)

    # --- For the invariants ---

    def clock_of(self, node: WatchedNode) -> float:
        """Return the run's time: a clock that goes at another rate does so in its node's numbers."""
        return trio.current_time()

    def lease_until(self, node: WatchedNode) -> float:
        """Return until when a node believes that no other can lead."""
        return self._lease_until(node.node_id) if node.is_up else -math.inf

    def asked_at(self, node: WatchedNode, read_id: ReadId) -> LogIndex:
        """Return what was committed anywhere when a node was asked for an index to read at."""
        return node.asked[read_id]

    def is_answered(self, node: WatchedNode, read_id: ReadId) -> bool:
        """Say whether it has answered that."""
        return read_id in node.answered

    # --- What happens ---

    def started(self, core: RaftCore, configuration: Configuration) -> None:
        """Begin anew with a node."""
        state = core.state
        node = self.nodes[state.node_id]
        node.core, node.machine, node.configuration = core, _Handed(state), configuration
        node.incarnation, node.is_up, node.has_run = state.incarnation, True, True
        self._storages[state.incarnation] = node.storage
        for memory in (node.known_storages, node.asked, node.answered):
            memory.clear()
        self._invariants.started(self, node)

    def ended(self, name: str) -> None:
        """A machine's node is no more, by a crash or as its operator wished."""
        self.nodes[NodeId(name)].is_up = False

    def lost_disk(self, name: str) -> None:
        """A machine that is off gets an empty disk: what its disk held still counts for what it had acknowledged."""
        node = self.nodes[NodeId(name)]
        left = self._stored(name)
        node.lost_disks.append(DiskView(lambda: left))
        node.storage += 1
        node.has_sound_disk = True
        node.incarnation, node.has_run = f"{name}/{node.storage}, not named yet", False

    def damaged(self, name: str) -> None:
        """What is on a machine's disk is damaged; whoever reads it will find out."""
        self.nodes[NodeId(name)].has_sound_disk = False

    def is_damaged(self, name: str) -> bool:
        """Say whether it is."""
        return not self.nodes[NodeId(name)].has_sound_disk

    def identified(self, core: RaftCore, peer: NodeId, incarnation: str) -> None:
        """A node hears which disk a peer has."""
        storage = self._storages.get(incarnation)
        if storage is not None:
            self.nodes[core.state.node_id].known_storages[peer] = storage

    def received(self, core: RaftCore, sender: NodeId, message: RaftMessage) -> None:
        """A core is about to be given a message."""
        node = self.nodes[core.state.node_id]
        self._invariants.received(self, node, _Packet(sender, node.node_id, message))

    def asked(self, core: RaftCore, read_ids: Sequence[ReadId]) -> None:
        """A core is about to be asked for an index to read at."""
        self.nodes[core.state.node_id].asked |= dict.fromkeys(read_ids, self.committed)

    def acted(self, core: RaftCore, effects: Effects, origin: NodeId | None) -> None:
        """Look at a core after an input."""
        self.inputs += 1
        if self._violation is not None:
            raise self._violation
        state = core.state
        node = self.nodes[state.node_id]
        if node.core is not core or not node.is_up:
            # What is left of a process that was killed does no harm: nothing of it leaves, or reaches the disk.
            return
        self._invariants.acted(self, node, effects, origin)
        for effect in effects:
            if isinstance(effect, Apply):
                self._apply(state, effect.entries)
            elif isinstance(effect, RestoreSnapshot):
                self.restores += 1
            elif isinstance(effect, ReadReady | ReadRefused):
                node.answered.update(effect.read_ids)
        if state.commit_index > self.committed:
            self.committed = state.commit_index
        self._invariants.settled(self, node)

    def released(self, source: str, target: str, message: object) -> None:
        """Something leaves a machine."""
        node = self.nodes.get(NodeId(source))
        if node is not None and node.is_up and isinstance(message, RaftRequest | RaftResponse):
            self._invariants.released(self, node, _Packet(node.node_id, NodeId(target), message))
            if source in self._after_promise and _is_promise(message):
                self._after_promise.pop(source)()

    def after_promise(self, name: str, then: Callable[[], None]) -> None:
        """Call back when the next vote or acknowledgement of a machine leaves it. Replaces an earlier request."""
        self._after_promise[name] = then

    def cancel_calls(self) -> None:
        """Take back ``after_promise``."""
        self._after_promise.clear()

    def storing(self, name: str, hard_state: HardState) -> None:
        """A term and a vote are about to be durable."""
        self._invariants.stored(self, self.nodes[NodeId(name)], PersistHardState(WriteId(0), hard_state))

    def applied(self, entry: Entry, command: SessionCommand) -> None:
        """A state machine has applied a command of a session."""
        try:
            self._invariants.applied_once(self, command.session_id, command.sequence, entry.index)
        except PropertyViolated as violation:
            # Raised here it would pass for an error of the application's.
            self._violation = violation

    def _apply(self, state: RaftState, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            first = self._applied.setdefault(entry.index, entry)
            if first is not entry and first != entry:
                text = f"{state.node_id} applies {entry}, and another applied {first}"
                raise PropertyViolated("state machine safety", text, "Raft Figure 3, §5.4.3", state.node_id)

    # --- What a run asks ---

    def check_acknowledged(self, applied: Applied, command: bytes | None = None) -> None:
        """Check that what a client was told is what was applied there: it can never be lost then."""
        entry = self._applied.get(applied.index)
        if entry is None or entry.term != applied.term or command not in (None, entry.command):
            raise PropertyViolated("acknowledged is kept", f"a client was told {applied}; applied was {entry}")

    def state_of(self, name: str) -> RaftState | None:
        """Return what a machine's core knows, or knew when it ended; None if none ever ran on the disk it has."""
        node = self.nodes[NodeId(name)]
        return node.state if node.has_run else None

    def is_full_member(self, name: str) -> bool:
        """Say whether a machine knows itself as a voter with the disk it has, by a committed configuration."""
        state = self.state_of(name)
        if state is None or not state.is_configuration_committed:
            return False
        server = state.configuration.get(state.node_id)
        return server is not None and server.is_voter and server.incarnation == state.incarnation

    def is_member(self, name: str) -> bool:
        """The same, or as a learner."""
        state = self.state_of(name)
        if state is None or not state.is_configuration_committed or state.configuration.is_joint:
            return False
        server = state.configuration.get(state.node_id)
        return server is not None and server.incarnation in ("", state.incarnation) and not server.is_promoted

    def was_member(self, name: str) -> bool:
        """Say whether a machine belonged to the cluster once with the disk it has, as far as that knows."""
        node = self.nodes[NodeId(name)]
        return node.has_run and any(name in members.members for _, members in node.disk.named_members)

    def has_lost_disk(self, name: str) -> bool:
        """Say whether a machine has lost a disk and is no full member since, or is about to find that out."""
        node = self.nodes[NodeId(name)]
        return not node.has_sound_disk or (bool(node.lost_disks) and not (node.has_run and self.is_member(name)))


def _is_promise(message: RaftMessage) -> bool:
    match message:
        case RequestVoteResponse(vote_granted=True) | AppendEntriesResponse(success=True) | InstallSnapshotResponse():
            return True
        case _:
            return False


class _WatchedState(ReplicatedState):
    """What the log determines on a node, watched."""

    def __init__(self, watch: Watch, machine: StateMachine) -> None:
        super().__init__(machine)
        self._watch = watch

    def _run_in_session(self, entry: Entry, command: SessionCommand) -> bytes | None:
        result = super()._run_in_session(entry, command)
        if result is not None:
            self._watch.applied(entry, command)
        return result


class _WatchedCore(RaftCore):
    """A core that is watched. It does what a RaftCore does, to the letter."""

    def __init__(self, watch: Watch, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._watch = watch
        self._is_receiving = False
        watch.started(self, named["configuration"])

    def receive(self, sender: NodeId, message: RaftMessage, now: float) -> Effects:
        """Tell of the message before and after."""
        self._watch.received(self, sender, message)
        self._is_receiving = True
        effects = super().receive(sender, message, now)
        self._is_receiving = False
        self._watch.acted(self, effects, sender)
        return effects

    def read(self, read_ids: Sequence[ReadId], now: float) -> Effects:
        """Tell of the reads before."""
        self._watch.asked(self, read_ids)
        return super().read(read_ids, now)

    def peer_identified(self, peer: NodeId, incarnation: str) -> Effects:
        """Tell of the peer before."""
        self._watch.identified(self, peer, incarnation)
        return super().peer_identified(peer, incarnation)

    def _finish(self) -> Effects:
        effects = super()._finish()
        if not self._is_receiving:
            self._watch.acted(self, effects, None)
        return effects


class _TracedCore(_WatchedCore, ObservedCore):
    """A core that is watched and traced."""

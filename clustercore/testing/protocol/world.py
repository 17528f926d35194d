"""A cluster of cores as plain data: a pool of messages, disks that finish their writes later, and crashes.

Nothing here decides what happens next: a test, a transcript, a seed or Hypothesis does, one event at a time. The world
carries out effects exactly as ``clustercore.raft.effects`` asks, and no better: a write is on the disk only after
``sync``, the core hears of it only after ``report``, and a crash may keep any prefix of what was under way.

Long because all events of a schedule are here: each is a few lines, and changes the one state that they share.
"""

from __future__ import annotations

import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    Effects,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    PersistSnapshotChunk,
    ReadReady,
    ReadRefused,
    Reply,
    RestoreSnapshot,
    Send,
    SendSnapshot,
)
from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import InstallSnapshotRequest, RaftMessage
from clustercore.raft.types import BEFORE_LOG, Configuration, LogIndex, NodeId, ReadId, Role, SnapshotId, WriteId
from clustercore.testing.protocol.disk import Disk, Machine, OwnSnapshot, Snapshot, Write
from clustercore.testing.protocol.plan import WorldPlan
from clustercore.testing.violation import PropertyViolated

__all__ = ["Node", "Packet", "Watcher", "World"]

# Messages that were delivered and may be so again: enough to reach back over some elections.
MAX_PAST = 300


@attrs.frozen
class Packet:
    """One message on its way, or waiting to leave."""

    # From 1, in the order in which messages were made.
    number: int
    sender: NodeId
    to: NodeId
    message: RaftMessage


@attrs.define(eq=False)
class Node:
    """One core and what its owner holds for it."""

    node_id: NodeId
    # The members that it is started with while its disk names none.
    configuration: Configuration
    core: RaftCore
    disk: Disk
    machine: Machine
    # Its clock's seconds in one of the world's, and the time it showed last.
    clock_rate: float = 1.0
    clock: float = 0.0
    is_up: bool = True
    # The number of the storage it has now: another one after its disk was lost. The lost ones are kept to look at.
    storage: int = 1
    lost_disks: list[Disk] = attrs.field(factory=list)
    # The storage of each peer that this process has heard of.
    known_storages: dict[NodeId, int] = attrs.field(factory=dict)
    # Asked for and not durable yet, in order.
    writes: deque[Write] = attrs.field(factory=deque)
    # Durable, and not reported to the core yet.
    unreported: deque[Write] = attrs.field(factory=deque)
    synced_write_id: WriteId = WriteId(0)
    # Messages that wait for a write.
    held: list[tuple[WriteId, Packet]] = attrs.field(factory=list)
    # Chunks of snapshots to be read and sent.
    orders: list[SendSnapshot] = attrs.field(factory=list)
    # The snapshots that were read from last, by peer: they stay readable.
    open_snapshots: dict[NodeId, Snapshot] = attrs.field(factory=dict)
    # The newest snapshot of its own machine that was asked for.
    snapshot_asked: LogIndex = BEFORE_LOG

    @property
    def has_sound_disk(self) -> bool:
        """Whether what its disk holds is as it was written: here disks are lost whole, or not at all."""
        return True

    @property
    def incarnation(self) -> str:
        """The identity of its storage."""
        return f"{self.node_id}/{self.storage}"


class Watcher:
    """Sees all that happens in a world, to check it or to write it down. Each method may be left out."""

    def started(self, world: World, node: Node) -> None:
        """A node has started from its disk."""

    def crashed(self, world: World, node: Node) -> None:
        """A node has stopped; what was not durable is lost."""

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """A core is about to be given a message."""

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """A core was given an input, by ``origin`` if it was a message; its effects are about to be carried out."""

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """A message leaves its node."""

    def lost(self, world: World, packet: Packet, reason: str) -> None:
        """A message will not arrive this time."""

    def stored(self, world: World, node: Node, write: Write) -> None:
        """A write is about to be durable."""

    def applied_once(self, world: World, session_id: int, sequence: int, index: LogIndex) -> None:
        """A machine has applied a command of a session, for the entry at ``index``."""

    def torn(self, world: World, node: Node, write: Write) -> None:
        """A write is cut off by a crash."""

    def asked(self, world: World, node: Node, read_ids: Sequence[ReadId]) -> None:
        """A node is about to be asked for an index to read at."""

    def snapshotted(self, world: World, node: Node, write: OwnSnapshot) -> None:
        """A node has asked for a snapshot of its own machine to be written."""

    def links_changed(self, world: World) -> None:
        """Some nodes reach others no more, or again."""

    def settled(self, world: World, node: Node) -> None:
        """An event at a node is over."""


class World:
    """A cluster. Each public method that changes it is one event, mostly at one node."""

    def __init__(
        self,
        names: Iterable[str],
        *,
        strangers: Iterable[str] = (),
        cluster_id: str = "test",
        config: RaftConfig | None = None,
        seed: int = 0,
        disks: Mapping[str, Disk] | None = None,
        clock_rates: Sequence[float] = (),
        snapshot_every: int = 0,
        snapshot_tail: int = 0,
        chunk_bytes: int = 1024,
        has_identities: bool = False,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Start the named nodes, and strangers, who wait to be added; what else there is ``WorldPlan`` tells."""
        self.configuration = Configuration.of(names, cluster_id=cluster_id)
        self.config = config if config is not None else RaftConfig()
        self.now = 0.0
        # Events so far.
        self.events = 0
        self.pool: list[Packet] = []
        # The last that left the pool: a network may still repeat them, however late.
        self.past: deque[Packet] = deque(maxlen=MAX_PAST)
        # Who does not reach whom.
        self.cut: frozenset[tuple[NodeId, NodeId]] = frozenset()
        self.snapshot_every = snapshot_every
        self.snapshot_tail = snapshot_tail
        self.chunk_bytes = chunk_bytes
        self._rng = random.Random(seed)
        # Messages made so far, and how often one was handed over and kept.
        self.packets = 0
        self.repeats = 0
        # The highest index that was ever committed anywhere.
        self.committed = BEFORE_LOG
        # Each read, and what was committed when it was asked for; and its answer: an index, or None if it was refused.
        self.asked: dict[ReadId, LogIndex] = {}
        self.answered: dict[ReadId, LogIndex | None] = {}
        # Every snapshot that any node has taken or started with.
        self.taken: dict[SnapshotId, Snapshot] = {}
        # Whether nodes tell each other which storage they have, so that one that lost its disk is known.
        self.has_identities = has_identities
        self._watch(watchers)
        self.nodes: dict[NodeId, Node] = {}
        for place, name in enumerate(sorted(self.configuration.voters | set(map(NodeId, strangers)))):
            disk = (disks or {}).get(name, Disk())
            if disk.snapshot is not None:
                self.taken[disk.snapshot.metadata.snapshot_id] = disk.snapshot
            configuration = self.configuration if name in self.configuration.voters else Configuration()
            rate = clock_rates[place] if place < len(clock_rates) else 1.0
            # A node without a core does not last: starting it makes one.
            node = Node(name, configuration, self._boot(name, configuration, disk, 1, 0.0), disk, Machine(), rate)
            self.nodes[name] = node
            self.start(name)

    @classmethod
    def of(cls, plan: WorldPlan, *, watchers: Sequence[Watcher] = ()) -> World:
        """Build the world of a plan."""
        return cls(
            plan.names[: plan.voters],
            strangers=plan.names[plan.voters :],
            cluster_id="" if plan.is_forming else "test",
            config=plan.config(),
            seed=plan.seed,
            clock_rates=plan.clock_rates,
            snapshot_every=plan.snapshot_every,
            snapshot_tail=plan.snapshot_tail,
            chunk_bytes=plan.chunk_bytes,
            has_identities=True,
            watchers=watchers,
        )

    def _watch(self, watchers: Sequence[Watcher]) -> None:
        """Remember who wants to hear of what: nobody is called for nothing."""

        def of(name: str) -> list[Callable[..., None]]:
            return [
                getattr(watcher, name)
                for watcher in watchers
                if getattr(type(watcher), name) is not getattr(Watcher, name)
            ]

        self._on_started, self._on_crashed, self._on_settled = of("started"), of("crashed"), of("settled")
        self._on_received, self._on_acted, self._on_released = of("received"), of("acted"), of("released")
        self._on_lost, self._on_stored, self._on_torn = of("lost"), of("stored"), of("torn")
        self._on_applied_once = of("applied_once")
        self._on_asked, self._on_snapshotted, self._on_links = of("asked"), of("snapshotted"), of("links_changed")

    def _tell(self, hooks: list[Callable[..., None]], *arguments: Any) -> None:
        for hook in hooks:
            hook(self, *arguments)

    # --- Life and death ---

    def start(self, name: NodeId) -> None:
        """Start a node from its disk."""
        node = self.nodes[name]
        self.events += 1
        node.core = self._boot(name, node.configuration, node.disk, node.storage, self.clock_of(node))
        node.machine = Machine()
        if node.disk.snapshot is not None:
            node.machine.restore(node.disk.snapshot)
        node.snapshot_asked = node.disk.snapshot_index
        node.synced_write_id = WriteId(0)
        node.known_storages.clear()
        node.is_up = True
        self._tell(self._on_started, node)

    def _boot(self, name: NodeId, configuration: Configuration, disk: Disk, storage: int, clock: float) -> RaftCore:
        return RaftCore(
            node_id=name,
            configuration=configuration,
            config=self.config,
            rng=random.Random(self._rng.random()),
            now=clock,
            new_cluster_id="formed by " + name,
            incarnation=f"{name}/{storage}" if self.has_identities else "",
            hard_state=disk.hard_state,
            snapshot=disk.snapshot.metadata if disk.snapshot is not None else None,
            entries=tuple(disk.entries),
        )

    def crash(self, name: NodeId, *, kept_writes: int = 0, kept_entries: int = 0) -> None:
        """Stop a node. Of the writes under way, some reached the disk, and of the next one perhaps some entries.

        Args:
            name: The node.
            kept_writes: So many of them, at most, are durable.
            kept_entries: If not 0 and the next write is one of entries, it is cut off after one entry less than this.
        """
        node = self.nodes[name]
        self.events += 1
        while node.writes and kept_writes > 0:
            self._store(node)
            kept_writes -= 1
        if node.writes and kept_entries > 0:
            self._tell(self._on_torn, node, node.writes[0])
            node.disk.write_in_part(node.writes[0], kept_entries - 1)
        node.is_up = False
        node.disk.arriving = None
        for waiting in (node.writes, node.unreported, node.held, node.orders, node.open_snapshots):
            waiting.clear()
        self._tell(self._on_crashed, node)

    def lose_disk(self, name: NodeId, *, is_outsider: bool = False) -> None:
        """Take a node's disk away, and what it sent with it; it is down until it is started with an empty one.

        As connections tell at their start which storage speaks, nobody takes what another one said for its word.

        Args:
            name: The node.
            is_outsider: It comes back without knowing any members, and waits to be added.
        """
        node = self.nodes[name]
        if node.is_up:
            self.crash(name)
        node.lost_disks.append(node.disk)
        node.disk = Disk()
        node.storage += 1
        if is_outsider:
            node.configuration = Configuration()
        for packet in [packet for packet in self.pool if packet.sender == name]:
            self.drop(self.pool.index(packet), "its sender lost its disk")
        self.past = deque((packet for packet in self.past if packet.sender != name), maxlen=MAX_PAST)

    # --- Time ---

    def clock_of(self, node: Node) -> float:
        """Return a node's own time, which never goes back."""
        node.clock = max(node.clock, self.now * node.clock_rate)
        return node.clock

    def lease_until(self, node: Node) -> float:
        """Return until when a node believes that no other can lead, by its own clock."""
        return node.core.lease_until(self.clock_of(node), heard_since=-math.inf)

    def due_at(self, node: Node) -> float:
        """Return the world's time at which a node wants to be woken."""
        return node.core.deadline / node.clock_rate

    def expire(self, name: NodeId) -> Effects:
        """Let time pass until a node's deadline, and wake that node alone: the others are late."""
        node = self.nodes[name]
        self.events += 1
        deadline = node.core.deadline
        if deadline != math.inf:
            self.now = max(self.now, deadline / node.clock_rate)
            node.clock = max(node.clock, deadline)
        return self._act(node, node.core.time_passed(self.clock_of(node)))

    def wait(self, seconds: float) -> None:
        """Let time pass, and wake nobody."""
        self.events += 1
        self.now += seconds

    # --- The network ---

    def deliver(self, position: int, *, keep: bool = False) -> Effects:
        """Take a message out of the pool, or with ``keep`` a copy of it, and hand it over if it can be."""
        packet = self.pool[position] if keep else self.pool.pop(position)
        self.repeats += keep
        self.past.append(packet)
        return self._hand_over(packet)

    def replay(self, position: int) -> Effects:
        """Hand over once more what was delivered before, perhaps many terms ago."""
        self.repeats += 1
        return self._hand_over(self.past[position])

    def drop(self, position: int, reason: str = "lost") -> None:
        """Lose a message."""
        self.events += 1
        self._tell(self._on_lost, self.pool.pop(position), reason)

    def cut_links(self, cut: Iterable[tuple[NodeId, NodeId]]) -> None:
        """Let exactly these senders not reach these receivers; what they send is lost when it would arrive."""
        self.events += 1
        self.cut = frozenset(cut)
        self._tell(self._on_links)

    def partition(self, groups: Mapping[NodeId, int]) -> None:
        """Cut all links between nodes of different groups; who is in none is in group 0."""
        self.cut_links(
            (one, other) for one in self.nodes for other in self.nodes if groups.get(one, 0) != groups.get(other, 0)
        )

    def _hand_over(self, packet: Packet) -> Effects:
        self.events += 1
        node = self.nodes[packet.to]
        if not node.is_up:
            self._tell(self._on_lost, packet, "the node is down")
            return ()
        if self.cut and (packet.sender, packet.to) in self.cut:
            self._tell(self._on_lost, packet, "the network is cut")
            return ()
        sender = self.nodes[packet.sender]
        if node.known_storages.get(packet.sender) != sender.storage:
            node.known_storages[packet.sender] = sender.storage
            if self.has_identities:
                self._act(node, node.core.peer_identified(packet.sender, sender.incarnation))
        for hook in self._on_received:
            hook(self, node, packet)
        return self._act(node, node.core.receive(packet.sender, packet.message, self.clock_of(node)), packet.sender)

    def unreachable(self, name: NodeId, peer: NodeId) -> Effects:
        """Tell a node that its connection to a peer broke."""
        node = self.nodes[name]
        self.events += 1
        return self._act(node, node.core.peer_unreachable(peer))

    def serve_snapshot(self, name: NodeId, position: int) -> Packet | None:
        """Read a chunk for one of a node's SendSnapshot effects, and send it; None if the snapshot cannot be read."""
        node = self.nodes[name]
        self.events += 1
        order = node.orders.pop(position)
        sending = node.core.sending
        # A snapshot that is not being sent any more need not stay readable.
        node.open_snapshots = {
            peer: opened
            for peer, opened in node.open_snapshots.items()
            if sending.get(peer) == opened.metadata.snapshot_id
        }
        snapshot = node.open_snapshots.get(order.to)
        if snapshot is None or snapshot.metadata.snapshot_id != order.snapshot_id:
            snapshot = node.disk.snapshot
            if snapshot is None or snapshot.metadata.snapshot_id != order.snapshot_id:
                self._act(node, node.core.snapshot_gone(order.to, order.snapshot_id))
                return None
            node.open_snapshots[order.to] = snapshot
        offset = min(order.offset, len(snapshot.data))
        data = snapshot.data[offset : offset + self.chunk_bytes]
        is_last = offset + len(data) == len(snapshot.data)
        request = InstallSnapshotRequest(order.term, name, snapshot.metadata, offset, data, zlib.crc32(data), is_last)
        packet = self._packet(name, order.to, request)
        self._release(node, packet)
        return packet

    # --- The disk ---

    def sync(self, name: NodeId, count: int) -> list[Write]:
        """Make a node's next writes durable, and send what waited for them."""
        node, synced = self.nodes[name], list[Write]()
        while node.writes and len(synced) < count:
            self.events += 1
            write = self._store(node)
            if not isinstance(write, OwnSnapshot):
                node.synced_write_id = write.write_id
            node.unreported.append(write)
            synced.append(write)
        held, node.held = node.held, []
        for after, packet in held:
            self._send(node, packet, after)
        return synced

    def _store(self, node: Node) -> Write:
        write = node.writes.popleft()
        for hook in self._on_stored:
            hook(self, node, write)
        node.disk.write(write)
        if isinstance(write, PersistSnapshot | OwnSnapshot):
            self._check_snapshot(node)
        return write

    def _check_snapshot(self, node: Node) -> None:
        """Check that a snapshot is stored as it was taken, whichever way it came."""
        found = node.disk.snapshot
        if found is not None and found != self.taken.get(found.metadata.snapshot_id):
            raise PropertyViolated(
                "snapshots arrive whole",
                f"{node.node_id} stores snapshot {found.metadata.snapshot_id} otherwise than it was taken",
                "Raft §7, Figure 13",
                node.node_id,
            )

    def report(self, name: NodeId) -> Effects:
        """Tell a core of all that became durable."""
        node = self.nodes[name]
        effects: Effects = ()
        while node.unreported:
            write = node.unreported.popleft()
            if isinstance(write, OwnSnapshot):
                self.events += 1
                effects += self._act(node, node.core.snapshot_taken(write.snapshot.metadata, write.keep_from))
            elif not node.unreported or isinstance(node.unreported[0], OwnSnapshot):
                self.events += 1
                effects += self._act(node, node.core.storage_done(write.write_id, self.clock_of(node)))
        return effects

    def flush(self, name: NodeId) -> Effects:
        """Make all of a node's writes durable and tell the core, until nothing is left to write."""
        effects: Effects = ()
        node = self.nodes[name]
        while node.writes or node.unreported:
            self.sync(name, len(node.writes))
            effects += self.report(name)
        return effects

    # --- The owner ---

    def propose(self, name: NodeId, commands: Sequence[bytes], *, kinds: Sequence[EntryKind] = ()) -> Effects:
        """Propose commands at a node, as entries of these kinds."""
        node = self.nodes[name]
        self.events += 1
        return self._act(node, node.core.propose(commands, self.clock_of(node), kinds=kinds))

    def read(self, name: NodeId, read_ids: Sequence[ReadId]) -> Effects:
        """Ask a node for an index to read at."""
        node = self.nodes[name]
        self.events += 1
        self._tell(self._on_asked, node, read_ids)
        self.asked |= dict.fromkeys(read_ids, self.committed)
        return self._act(node, node.core.read(read_ids, self.clock_of(node)))

    def transfer_leadership(self, name: NodeId, target: NodeId) -> Effects:
        """Ask a node to hand over to another."""
        node = self.nodes[name]
        self.events += 1
        return self._act(node, node.core.transfer_leadership(target, self.clock_of(node)))

    def change_configuration(self, name: NodeId, target: Configuration) -> Effects:
        """Ask a node to change the members."""
        node = self.nodes[name]
        self.events += 1
        return self._act(node, node.core.change_configuration(target, self.clock_of(node)))

    def take_snapshot(self, name: NodeId, tail: int) -> bool:
        """Write a snapshot of a node's machine, keeping so many entries that it covers. Say whether it was worth it."""
        node = self.nodes[name]
        index = node.machine.index
        if index <= node.disk.snapshot_index:
            return False
        self.events += 1
        node.snapshot_asked = index
        snapshot_id = SnapshotId(f"{name}-{len(self.taken) + 1}")
        snapshot = node.machine.snapshot(node.core.configuration_at(index), snapshot_id)
        self.taken[snapshot_id] = snapshot
        node.writes.append(OwnSnapshot(snapshot, LogIndex(max(1, index + 1 - tail))))
        self._tell(self._on_snapshotted, node, node.writes[-1])
        return True

    # --- What is seen from outside ---

    def asked_at(self, node: Node, read_id: ReadId) -> LogIndex:
        """Return what was committed anywhere when a read was asked for."""
        return self.asked[read_id]

    def is_answered(self, node: Node, read_id: ReadId) -> bool:
        """Say whether a read was answered."""
        return read_id in self.answered

    def leader(self) -> Node | None:
        """Return the running leader of the highest term, if there is one."""
        found: Node | None = None
        for node in self.nodes.values():
            state = node.core.state
            is_newer = found is None or state.current_term > found.core.state.current_term
            if is_newer and state.role is Role.LEADER and node.is_up:
                found = node
        return found

    # --- Carrying out effects ---

    def _act(self, node: Node, effects: Effects, origin: NodeId | None = None) -> Effects:
        for hook in self._on_acted:
            hook(self, node, effects, origin)
        for effect in effects:
            match effect:
                case Send():
                    self._send(node, self._packet(node.node_id, effect.to, effect.message), effect.after)
                case Reply():
                    assert origin is not None, "a reply to no request"
                    self._send(node, self._packet(node.node_id, origin, effect.message), effect.after)
                case PersistEntries() | PersistHardState() | PersistSnapshotChunk() | PersistSnapshot():
                    node.writes.append(effect)
                case Apply():
                    for entry in effect.entries:
                        command = node.machine.apply(entry)
                        if command is not None:
                            self._tell(self._on_applied_once, command.session_id, command.sequence, entry.index)
                case SendSnapshot():
                    node.orders.append(effect)
                case RestoreSnapshot():
                    node.machine.restore(self.taken[effect.metadata.snapshot_id])
                case ReadReady():
                    self.answered |= dict.fromkeys(effect.read_ids, effect.read_index)
                case ReadRefused():
                    self.answered |= dict.fromkeys(effect.read_ids)
                case _:
                    pass
        self.committed = max(self.committed, node.core.state.commit_index)
        for hook in self._on_settled:
            hook(self, node)
        if self.snapshot_every and node.machine.index - node.snapshot_asked >= self.snapshot_every:
            self.take_snapshot(node.node_id, self.snapshot_tail)
        return effects

    def _packet(self, sender: NodeId, to: NodeId, message: RaftMessage) -> Packet:
        self.packets += 1
        return Packet(self.packets, sender, to, message)

    def _send(self, node: Node, packet: Packet, after: WriteId | None) -> None:
        if after is not None and after > node.synced_write_id:
            node.held.append((after, packet))
        else:
            self._release(node, packet)

    def _release(self, node: Node, packet: Packet) -> None:
        for hook in self._on_released:
            hook(self, node, packet)
        self.pool.append(packet)

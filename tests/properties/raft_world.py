"""A cluster of cores as plain data: a pool of messages, disks that finish their writes later, and crashes.

Nothing here decides what happens next: a test, a transcript or hypothesis does, one event at a time. The world carries
out effects exactly as ``clustercore.raft.effects`` asks, and no better: a write is on the disk only after ``sync``, the
core hears of it only after ``report``, and a crash may keep any prefix of what was under way.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

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
from clustercore.raft.entry import Entry
from clustercore.raft.messages import InstallSnapshotRequest, RaftMessage
from clustercore.raft.types import (
    BEFORE_LOG,
    NO_TERM,
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    SnapshotId,
    SnapshotMetadata,
    Term,
    WriteId,
)

__all__ = ["Disk", "Machine", "Node", "OwnSnapshot", "Packet", "Snapshot", "Watcher", "World", "Write"]

# Enough to reach back over some elections.
MAX_PAST = 300


@attrs.frozen
class Packet:
    """One message on its way, or waiting to leave."""

    # From 1, in the order in which messages were made.
    number: int
    sender: NodeId
    to: NodeId
    message: RaftMessage


@attrs.frozen
class Snapshot:
    """A snapshot with its bytes."""

    metadata: SnapshotMetadata
    data: bytes

    @property
    def last_included_index(self) -> LogIndex:
        """The last entry it covers."""
        return self.metadata.last_included_index


@attrs.frozen
class OwnSnapshot:
    """A snapshot a node took of its own machine, on its way to the disk."""

    snapshot: Snapshot
    keep_from: LogIndex


Write = PersistHardState | PersistEntries | PersistSnapshotChunk | PersistSnapshot | OwnSnapshot


@attrs.define
class Disk:
    """What survives a crash. It checks that the storage contract's promises to a plugin are kept."""

    hard_state: HardState = attrs.field(factory=HardState)
    snapshot: Snapshot | None = None
    entries: list[Entry] = attrs.field(factory=list)
    # A leader's snapshot that is arriving. A restart forgets it.
    arriving: Snapshot | None = None

    @property
    def snapshot_index(self) -> LogIndex:
        """The last index the snapshot covers."""
        return self.snapshot.last_included_index if self.snapshot is not None else BEFORE_LOG

    @property
    def last_index(self) -> LogIndex:
        """The last index stored, in the log or the snapshot."""
        return self.entries[-1].index if self.entries else self.snapshot_index

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of a stored entry, or None if only a snapshot covers it, or nothing does."""
        if self.entries and self.entries[0].index <= index <= self.entries[-1].index:
            return self.entries[index - self.entries[0].index].term
        if self.snapshot is not None and index == self.snapshot_index:
            return self.snapshot.metadata.last_included_term
        return None

    def holds(self, index: LogIndex, term: Term) -> bool:
        """Say whether the entry ``index`` of ``term`` is stored, itself or within the snapshot."""
        return index <= self.snapshot_index or self.term_at(index) == term

    def write(self, write: Write) -> None:
        """Make one write durable."""
        match write:
            case PersistHardState(hard_state=hard_state):
                self.hard_state = hard_state
            case PersistEntries(entries=entries):
                self._append(entries)
            case PersistSnapshotChunk(metadata=metadata, offset=offset, data=data):
                before = b"" if offset == 0 else self._arrived(metadata)
                assert offset == len(before), "a chunk that does not follow those before"
                self.arriving = Snapshot(metadata, before + data)
            case PersistSnapshot(metadata=metadata, keep_from=keep_from):
                assert metadata.last_included_index > self.snapshot_index, "snapshot not newer than the stored one"
                self._replace(Snapshot(metadata, self._arrived(metadata)), keep_from)
                self.arriving = None
            case OwnSnapshot(snapshot=snapshot, keep_from=keep_from):
                # A leader's snapshot may have come in between.
                if snapshot.last_included_index > self.snapshot_index:
                    self._replace(snapshot, keep_from)

    def _arrived(self, metadata: SnapshotMetadata) -> bytes:
        assert self.arriving is not None, "no chunk was stored"
        assert self.arriving.metadata == metadata, "chunks of another snapshot were stored"
        return self.arriving.data

    def _append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        assert self.snapshot_index < first <= self.last_index + 1, "append leaves a gap or cuts into the snapshot"
        self.entries = [entry for entry in self.entries if entry.index < first] + list(entries)

    def _replace(self, snapshot: Snapshot, keep_from: LogIndex | None) -> None:
        assert keep_from is None or keep_from <= snapshot.last_included_index + 1, "log kept leaves a gap"
        self.entries = [] if keep_from is None else [entry for entry in self.entries if entry.index >= keep_from]
        self.snapshot = snapshot

    def write_in_part(self, write: Write, entries: int) -> None:
        """Leave an ``append`` cut off by a crash: the old suffix is gone, some of the new entries are there."""
        if isinstance(write, PersistEntries):
            first = write.entries[0].index
            self.entries = [entry for entry in self.entries if entry.index < first] + list(write.entries[:entries])


@attrs.define
class Machine:
    """The smallest state machine that tells two histories apart: a digest of all it was given."""

    index: LogIndex = BEFORE_LOG
    term: Term = NO_TERM
    digest: bytes = b""

    def apply(self, entry: Entry) -> None:
        """Take one committed entry."""
        assert entry.index == self.index + 1, f"entry {entry.index} applied after {self.index}"
        content = b"%d %d " % (entry.term, entry.kind) + entry.command
        self.index, self.term = entry.index, entry.term
        self.digest = hashlib.sha256(self.digest + content).digest()[:8]

    def snapshot(self, configuration: Configuration, snapshot_id: SnapshotId) -> Snapshot:
        """Return the whole state."""
        return Snapshot(SnapshotMetadata(self.index, self.term, configuration, snapshot_id), self.digest)

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot says."""
        self.index, self.term = snapshot.last_included_index, snapshot.metadata.last_included_term
        self.digest = snapshot.data


@attrs.define
class Node:
    """One core and what its owner holds for it."""

    node_id: NodeId
    core: RaftCore
    disk: Disk
    machine: Machine
    is_up: bool = True
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


class Watcher(Protocol):
    """Sees all that happens in a world, to check it or to write it down."""

    def started(self, world: World, node: Node) -> None:
        """A node has started from its disk."""

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """A core is about to be given a message."""

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """A core was given an input, by ``origin`` if it was a message; its effects are about to be carried out."""

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """A message leaves its node."""

    def settled(self, world: World, node: Node) -> None:
        """An event at a node is over."""


class World:
    """A cluster. Each public method is one event at one node."""

    def __init__(
        self,
        names: Iterable[str],
        *,
        config: RaftConfig | None = None,
        seed: int = 0,
        disks: Mapping[str, Disk] | None = None,
        strangers: Iterable[str] = (),
        watchers: Sequence[Watcher] = (),
        chunk_bytes: int = 1024,
    ) -> None:
        """Start a cluster of the named nodes, and strangers, who wait to be added to it."""
        self.configuration = Configuration.of(names, cluster_id="test")
        self.config = config if config is not None else RaftConfig()
        self.now = 0.0
        self.pool: list[Packet] = []
        # The last that left the pool: a network may still repeat them, however late.
        self.past: deque[Packet] = deque(maxlen=MAX_PAST)
        # Nodes in different groups do not reach each other; everyone is in group 0 at first.
        self.groups: dict[NodeId, int] = {}
        self._rng = random.Random(seed)
        # Messages made so far.
        self.packets = 0
        # The highest index that was ever committed anywhere.
        self.committed = BEFORE_LOG
        # Each read, and what was committed when it was asked for; and its answer: an index, or None if it was refused.
        self.asked: dict[ReadId, LogIndex] = {}
        self.answered: dict[ReadId, LogIndex | None] = {}
        self._watchers = watchers
        self.chunk_bytes = chunk_bytes
        # Every snapshot that any node has taken or started with.
        self.taken: dict[SnapshotId, Snapshot] = {}
        self.nodes: dict[NodeId, Node] = {}
        for name in sorted(self.configuration.voters | set(map(NodeId, strangers))):
            disk = (disks or {}).get(name, Disk())
            if disk.snapshot is not None:
                self.taken[disk.snapshot.metadata.snapshot_id] = disk.snapshot
            self.nodes[name] = Node(name, self._boot(name, disk), disk, Machine())
            self.start(name)

    # --- Life and death ---

    def start(self, name: NodeId) -> None:
        """Start a node from its disk."""
        node = self.nodes[name]
        node.core = self._boot(name, node.disk)
        node.machine = Machine()
        if node.disk.snapshot is not None:
            node.machine.restore(node.disk.snapshot)
        node.synced_write_id = WriteId(0)
        node.is_up = True
        for watcher in self._watchers:
            watcher.started(self, node)

    def _boot(self, name: NodeId, disk: Disk) -> RaftCore:
        return RaftCore(
            node_id=name,
            configuration=self.configuration if name in self.configuration.voters else Configuration(),
            config=self.config,
            rng=random.Random(self._rng.random()),
            now=self.now,
            new_cluster_id="formed by " + name,
            hard_state=disk.hard_state,
            snapshot=disk.snapshot.metadata if disk.snapshot is not None else None,
            entries=tuple(disk.entries),
        )

    def crash(self, name: NodeId, *, kept_writes: int = 0, kept_entries: int = 0) -> None:
        """Stop a node. Of the writes under way, some reached the disk, and of the next one perhaps some entries."""
        node = self.nodes[name]
        while node.writes and kept_writes > 0:
            node.disk.write(node.writes.popleft())
            self._check_snapshot(node.disk)
            kept_writes -= 1
        if node.writes and kept_entries > 0:
            node.disk.write_in_part(node.writes[0], kept_entries - 1)
        node.is_up = False
        node.disk.arriving = None
        for waiting in (node.writes, node.unreported, node.held, node.orders, node.open_snapshots):
            waiting.clear()

    # --- Time ---

    def expire(self, name: NodeId) -> Effects:
        """Let time pass until a node's deadline, and wake that node alone: the others are late."""
        node = self.nodes[name]
        if node.core.deadline != float("inf"):
            self.now = max(self.now, node.core.deadline)
        return self._act(node, node.core.time_passed(self.now))

    def wait(self, seconds: float) -> None:
        """Let time pass, and wake nobody."""
        self.now += seconds

    # --- The network ---

    def deliver(self, position: int, *, keep: bool = False) -> Effects:
        """Take a message out of the pool, or with ``keep`` a copy of it, and hand it over if it can be."""
        packet = self.pool[position] if keep else self.pool.pop(position)
        self.past.append(packet)
        return self._hand_over(packet)

    def replay(self, position: int) -> Effects:
        """Hand over once more what was delivered before, perhaps many terms ago."""
        return self._hand_over(self.past[position])

    def _hand_over(self, packet: Packet) -> Effects:
        node = self.nodes[packet.to]
        if not node.is_up or self.groups.get(packet.sender, 0) != self.groups.get(packet.to, 0):
            return ()
        for watcher in self._watchers:
            watcher.received(self, node, packet)
        return self._act(node, node.core.receive(packet.sender, packet.message, self.now), origin=packet.sender)

    def unreachable(self, name: NodeId, peer: NodeId) -> Effects:
        """Tell a node that its connection to a peer broke."""
        node = self.nodes[name]
        return self._act(node, node.core.peer_unreachable(peer))

    def serve_snapshot(self, name: NodeId, position: int) -> Packet | None:
        """Read a chunk for one of a node's SendSnapshot effects, and send it; None if the snapshot cannot be read."""
        node = self.nodes[name]
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
            write = node.writes.popleft()
            node.disk.write(write)
            self._check_snapshot(node.disk)
            if not isinstance(write, OwnSnapshot):
                node.synced_write_id = write.write_id
            node.unreported.append(write)
            synced.append(write)
        held, node.held = node.held, []
        for after, packet in held:
            self._send(node, packet, after)
        return synced

    def _check_snapshot(self, disk: Disk) -> None:
        if disk.snapshot is not None:
            taken = self.taken[disk.snapshot.metadata.snapshot_id]
            assert disk.snapshot == taken, "a snapshot is stored otherwise than it was taken"

    def report(self, name: NodeId) -> Effects:
        """Tell a core of all that became durable."""
        node = self.nodes[name]
        effects: Effects = ()
        while node.unreported:
            write = node.unreported.popleft()
            if isinstance(write, OwnSnapshot):
                effects += self._act(node, node.core.snapshot_taken(write.snapshot.metadata, write.keep_from))
            elif not node.unreported or isinstance(node.unreported[0], OwnSnapshot):
                effects += self._act(node, node.core.storage_done(write.write_id, self.now))
        return effects

    def flush(self, name: NodeId) -> Effects:
        """Make all of a node's writes durable and tell the core, until nothing is left to write."""
        effects: Effects = ()
        while self.nodes[name].writes or self.nodes[name].unreported:
            self.sync(name, len(self.nodes[name].writes))
            effects += self.report(name)
        return effects

    # --- The owner ---

    def propose(self, name: NodeId, commands: Sequence[bytes]) -> Effects:
        """Propose commands at a node."""
        node = self.nodes[name]
        return self._act(node, node.core.propose(commands, self.now))

    def read(self, name: NodeId, read_ids: Sequence[ReadId]) -> Effects:
        """Ask a node for an index to read at."""
        node = self.nodes[name]
        self.asked |= dict.fromkeys(read_ids, self.committed)
        return self._act(node, node.core.read(read_ids, self.now))

    def transfer_leadership(self, name: NodeId, target: NodeId) -> Effects:
        """Ask a node to hand over to another."""
        node = self.nodes[name]
        return self._act(node, node.core.transfer_leadership(target, self.now))

    def change_configuration(self, name: NodeId, target: Configuration) -> Effects:
        """Ask a node to change the members."""
        node = self.nodes[name]
        return self._act(node, node.core.change_configuration(target, self.now))

    def take_snapshot(self, name: NodeId, tail: int) -> bool:
        """Write a snapshot of a node's machine, keeping so many entries that it covers. Say whether it was worth it."""
        node = self.nodes[name]
        if node.machine.index <= node.disk.snapshot_index:
            return False
        keep_from = LogIndex(max(1, node.machine.index + 1 - tail))
        snapshot_id = SnapshotId(f"{name}-{len(self.taken) + 1}")
        members = node.core.configuration_at(node.machine.index)
        self.taken[snapshot_id] = node.machine.snapshot(members, snapshot_id)
        node.writes.append(OwnSnapshot(self.taken[snapshot_id], keep_from))
        return True

    # --- What is seen from outside ---

    def leader(self) -> Node | None:
        """Return the running leader of the highest term, if there is one."""
        leaders = [node for node in self.nodes.values() if node.is_up and node.core.state.role is Role.LEADER]
        return max(leaders, key=lambda node: node.core.state.current_term, default=None)

    # --- Carrying out effects ---

    def _act(self, node: Node, effects: Effects, origin: NodeId | None = None) -> Effects:
        for watcher in self._watchers:
            watcher.acted(self, node, effects, origin)
        for effect in effects:
            match effect:
                case PersistHardState() | PersistEntries() | PersistSnapshotChunk() | PersistSnapshot():
                    node.writes.append(effect)
                case Send():
                    self._send(node, self._packet(node.node_id, effect.to, effect.message), effect.after)
                case Reply():
                    assert origin is not None, "a reply to no request"
                    self._send(node, self._packet(node.node_id, origin, effect.message), effect.after)
                case SendSnapshot():
                    node.orders.append(effect)
                case Apply():
                    for entry in effect.entries:
                        node.machine.apply(entry)
                case RestoreSnapshot():
                    node.machine.restore(self.taken[effect.metadata.snapshot_id])
                case ReadReady():
                    self.answered |= dict.fromkeys(effect.read_ids, effect.read_index)
                case ReadRefused():
                    self.answered |= dict.fromkeys(effect.read_ids)
                case _:
                    pass
        self.committed = max(self.committed, node.core.state.commit_index)
        for watcher in self._watchers:
            watcher.settled(self, node)
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
        for watcher in self._watchers:
            watcher.released(self, node, packet)
        self.pool.append(packet)

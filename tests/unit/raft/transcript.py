"""Transcripts: a run of a small cluster as a text that people read and a test repeats.

A transcript has three kinds of lines. Those that begin with ``> `` are inputs; those indented by four spaces are what
happened, and are written by this file; everything else is prose. The inputs are:

    cluster a b=1,1,2 c=@4:2,3 max_append_entries=1
                        nodes, with the terms of the entries on their disks (here ``c`` has a snapshot up to entry 4 of
                        term 2, and entry 5 of term 3), and settings of RaftConfig; ``term=3`` is everyone's stored
                        term, and ``chunk_bytes=3`` how much of a snapshot, which has 8 bytes, goes into a message;
                        ``+d`` is a node with an empty disk that waits to be added
    timeout a           time passes until a's deadline, and a alone notices
    sync a              all that a writes becomes durable, and a is told
    deliver 3 4         hand over messages, by their numbers; one to a node that is down is lost
    repeat 3            hand over a copy
    lose 3              drop a message
    settle a b          a and b finish their writes and deliver their messages, until nothing is left to do; what goes
                        to others is lost. Only the end is told
    beat 3 a b          three times: time passes until a's deadline, a alone notices, and a and b settle
    propose a x y       propose commands at a
    read a 1 2          ask a for an index to read at, for the reads 1 and 2
    transfer a b        ask a to hand over to b
    change a a b d~ e^  ask a to change the members: a and b vote, d is a learner, e one that is to be promoted
    snapshot a 2        a writes a snapshot of its machine, and will keep the last 2 entries it covers (0 if not said)
    serve a             a reads a chunk of its snapshot and sends it to whoever it owes it
    unreachable a b     a's connection to b broke
    crash a, start a    what was not durable is lost
    show a b            say how nodes stand
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.raft.configuration import decode_configuration
from clustercore.raft.effects import (
    Apply,
    ConfigurationAppended,
    ConfigurationChanged,
    ConfigurationRefused,
    Effect,
    Effects,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    PersistSnapshotChunk,
    ProposalsAppended,
    ProposalsRefused,
    ReadReady,
    ReadRefused,
    Reply,
    RestoreSnapshot,
    RoleChanged,
    Send,
    SendSnapshot,
    TransferGivenUp,
)
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RaftMessage,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from clustercore.raft.types import (
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    Server,
    SnapshotId,
    SnapshotMetadata,
    Term,
)
from clustercore.testing.invariants import Invariants
from clustercore.testing.protocol.disk import Disk, Snapshot
from clustercore.testing.protocol.world import Node, Packet, Watcher, World
from tests.unit.raft.building import log_of

__all__ = ["replay"]

INPUT, OUTPUT = "> ", "    "


def replay(transcript: str) -> str:
    """Run a transcript's inputs again and return it with what happened now."""
    runner = _Runner()
    lines: list[str] = []
    for line in transcript.splitlines():
        if line.startswith(OUTPUT):
            continue
        lines.append(line)
        if line.startswith(INPUT):
            name, *arguments = line.removeprefix(INPUT).split()
            lines += [OUTPUT + output for output in runner.run(name, arguments)]
    return "\n".join(lines) + "\n"


class _Runner(Watcher):
    """A watcher that carries out inputs and writes down what it sees."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._syncing = False
        self._settling = False
        self._world: World | None = None

    @property
    def world(self) -> World:
        assert self._world is not None, "a transcript begins with `cluster`"
        return self._world

    def run(self, name: str, arguments: list[str]) -> list[str]:
        """Carry out one input; return what happened."""
        self._lines = []
        getattr(self, f"do_{name}")(*arguments)
        return self._lines

    # --- Inputs ---

    def do_cluster(self, *arguments: str) -> None:
        settings: dict[str, Any] = {}
        disks: dict[str, Disk] = {}
        strangers = [argument[1:] for argument in arguments if argument.startswith("+")]
        stored_term, chunk_bytes = 0, 1024
        for argument in arguments:
            if argument.startswith("+"):
                continue
            name, _, value = argument.partition("=")
            if name == "term":
                stored_term = int(value)
            elif name == "chunk_bytes":
                chunk_bytes = int(value)
            elif name in attrs.fields_dict(RaftConfig):
                settings[name] = float(value) if name.endswith("_s") else int(value)
            else:
                disks[name] = _disk_of(value)
        for disk in disks.values():
            last = [entry.term for entry in disk.entries[-1:]] + (
                [disk.snapshot.metadata.last_included_term] if disk.snapshot else []
            )
            disk.hard_state = HardState(max([Term(stored_term), *last]))
        config = RaftConfig(**settings)
        watchers: list[Watcher] = [self, Invariants()]
        self._world = World(
            disks, config=config, disks=disks, strangers=strangers, watchers=watchers, chunk_bytes=chunk_bytes
        )

    def do_timeout(self, name: str) -> None:
        self.world.expire(NodeId(name))

    def do_sync(self, name: str) -> None:
        node = self.world.nodes[NodeId(name)]
        while node.writes:
            self._syncing = True
            self.world.sync(node.node_id, len(node.writes))
            self._syncing = False
            self.world.report(node.node_id)

    def do_deliver(self, *numbers: str) -> None:
        for number in numbers:
            self._hand_over(int(number), keep=False, is_one=len(numbers) == 1)

    def do_repeat(self, number: str) -> None:
        self._hand_over(int(number), keep=True, is_one=True)

    def do_lose(self, *numbers: str) -> None:
        for number in numbers:
            del self.world.pool[self._position(int(number))]

    def do_settle(self, *names: str) -> None:
        self._settling = True
        self._settle(names)
        self._settling = False
        self.do_show(*names)

    def do_beat(self, times: str, *names: str) -> None:
        self._settling = True
        for _ in range(int(times)):
            self.do_timeout(names[0])
            self._settle(names)
        self._settling = False
        self.do_show(*names)

    def do_propose(self, name: str, *commands: str) -> None:
        self.world.propose(NodeId(name), [command.encode() for command in commands])

    def do_read(self, name: str, *numbers: str) -> None:
        self.world.read(NodeId(name), [ReadId(int(number)) for number in numbers])

    def do_transfer(self, name: str, target: str) -> None:
        self.world.transfer_leadership(NodeId(name), NodeId(target))

    def do_change(self, name: str, *members: str) -> None:
        servers = [
            Server(NodeId(member.rstrip("~^")), is_voter=member[-1] not in "~^", is_promoted=member[-1] == "^")
            for member in members
        ]
        self.world.change_configuration(NodeId(name), Configuration.with_servers(servers))

    def do_snapshot(self, name: str, tail: str = "0") -> None:
        assert self.world.take_snapshot(NodeId(name), int(tail)), "nothing new to take a snapshot of"

    def do_serve(self, name: str) -> None:
        packet = self.world.serve_snapshot(NodeId(name), 0)
        assert packet is not None
        self._say(f"message {packet.number} to {packet.to}: {_message(packet.message)}")

    def do_unreachable(self, name: str, peer: str) -> None:
        self.world.unreachable(NodeId(name), NodeId(peer))

    def do_crash(self, name: str) -> None:
        self.world.crash(NodeId(name))

    def do_start(self, name: str) -> None:
        self.world.start(NodeId(name))

    def do_show(self, *names: str) -> None:
        for name in names:
            self._say(_standing(self.world.nodes[NodeId(name)]))

    def _settle(self, names: Collection[str]) -> None:
        nodes = [self.world.nodes[NodeId(name)] for name in names]
        while self.world.pool or any(node.writes or node.orders for node in nodes):
            for node in nodes:
                self.world.flush(node.node_id)
                while node.orders:
                    self.world.serve_snapshot(node.node_id, 0)
            if self.world.pool:
                packet = self.world.pool[0]
                if packet.sender in names and packet.to in names:
                    self.world.deliver(0)
                else:
                    del self.world.pool[0]

    def _hand_over(self, number: int, *, keep: bool, is_one: bool) -> None:
        position = self._position(number)
        packet = self.world.pool[position]
        if not is_one:
            self._say(f"{packet.to} gets {number}:")
        self.world.deliver(position, keep=keep)

    def _position(self, number: int) -> int:
        numbers = [packet.number for packet in self.world.pool]
        assert number in numbers, f"message {number} is not on its way; these are: {numbers}"
        return numbers.index(number)

    def _say(self, line: str) -> None:
        if not self._settling:
            self._lines.append(line)

    # --- Watcher ---

    def started(self, world: World, node: Node) -> None:
        """Say what a node starts with."""
        self._say(_standing(node))

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """The input is in the transcript already."""

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Write the effects down, or that there are none."""
        number = world.packets
        for effect in effects:
            text = _effect(effect)
            if isinstance(effect, Send | Reply):
                number += 1
                to = effect.to if isinstance(effect, Send) else origin
                waits = f", once write {effect.after} is durable" if effect.after is not None else ""
                text = f"message {number} to {to}: {text}{waits}"
            self._say(text)
        if not effects:
            self._say("nothing")

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Say which messages waited for a write."""
        if self._syncing:
            self._say(f"message {packet.number} leaves")

    def settled(self, world: World, node: Node) -> None:
        """Nothing to write down."""


# --- Words ---


def _disk_of(text: str) -> Disk:
    """Read ``1,1,2`` or ``@4:2,3``: terms of entries, perhaps after a snapshot's index and term."""
    parts = text.split(",") if text else []
    disk = Disk()
    if parts and parts[0].startswith("@"):
        index, term = (int(number) for number in parts.pop(0)[1:].split(":"))
        metadata = SnapshotMetadata(LogIndex(index), Term(term), Configuration(), SnapshotId(f"{index}:{term}"))
        disk.snapshot = Snapshot(metadata, b"")
    disk.entries = list(log_of(*(int(term) for term in parts), first=disk.snapshot_index + 1))
    return disk


def _effect(effect: Effect) -> str:
    match effect:
        case PersistHardState(write_id=write_id, hard_state=hard_state):
            vote = f", vote for {hard_state.voted_for}" if hard_state.voted_for is not None else ""
            return f"write {write_id}: term {hard_state.current_term}{vote}"
        case PersistEntries(write_id=write_id, entries=entries):
            return f"write {write_id}: {_entries(entries)}"
        case PersistSnapshotChunk(write_id=write_id, metadata=metadata, offset=offset, data=data):
            return f"write {write_id}: {_bytes(offset, data)} of snapshot {metadata.snapshot_id}"
        case PersistSnapshot(write_id=write_id, metadata=metadata, keep_from=keep_from):
            kept = f"log kept from {keep_from}" if keep_from is not None else "log dropped"
            return f"write {write_id}: put snapshot {metadata.snapshot_id} up to {_place(metadata)} in place, {kept}"
        case Send(message=message) | Reply(message=message):
            return _message(message)
        case SendSnapshot(to=to, snapshot_id=snapshot_id, offset=offset):
            return f"owes {to} snapshot {snapshot_id} from byte {offset} on"
        case Apply(entries=entries):
            return f"apply {_entries(entries)}"
        case RestoreSnapshot(metadata=metadata):
            return f"restore snapshot {metadata.snapshot_id} up to {_place(metadata)}"
        case RoleChanged(role=Role.FOLLOWER, term=term, leader_id=None):
            return f"now follower in term {term}"
        case RoleChanged(role=Role.FOLLOWER, term=term, leader_id=leader_id):
            return f"now follower of {leader_id} in term {term}"
        case RoleChanged(role=role, term=term):
            return f"now {_role(role)} in term {term}"
        case ProposalsAppended(term=term, first_index=first_index):
            return f"proposals appended from {first_index}:{term} on"
        case ProposalsRefused(leader_id=leader_id):
            return f"proposals refused; the leader is {leader_id or 'unknown'}"
        case ConfigurationChanged(configuration=configuration, index=index):
            return f"members since {index}: {_members(configuration)}"
        case ConfigurationAppended(term=term, index=index):
            return f"change appended at {index}:{term}"
        case ConfigurationRefused(reason=reason):
            return f"change refused: {reason.value}"
        case ReadReady(read_ids=read_ids, read_index=read_index):
            return f"ready at index {read_index}: {_reads(read_ids)}"
        case ReadRefused(read_ids=read_ids, leader_id=leader_id):
            return f"refused: {_reads(read_ids)}; the leader is {leader_id or 'unknown'}"
        case TransferGivenUp(target=target, failure=failure):
            return f"goes on leading: {target} {failure.value}"


def _message(message: RaftMessage) -> str:
    match message:
        case PreVoteRequest(term=term, last_log_index=index, last_log_term=last_term):
            return f"PreVote for term {term}, log ends at {index}:{last_term}"
        case PreVoteResponse(term=term, candidate_term=candidate_term, vote_granted=vote_granted):
            return f"pre-vote {'granted' if vote_granted else 'denied'} for term {candidate_term}, in term {term}"
        case RequestVoteRequest(term=term, last_log_index=index, last_log_term=last_term):
            why = ", as the leader asked" if message.is_leadership_transfer else ""
            return f"RequestVote in term {term}{why}, log ends at {index}:{last_term}"
        case RequestVoteResponse(term=term, vote_granted=vote_granted):
            return f"vote {'granted' if vote_granted else 'denied'} in term {term}"
        case AppendEntriesRequest():
            what = _entries(message.entries) if message.entries else "nothing"
            return (
                f"AppendEntries in term {message.term}: after {message.prev_log_index}:{message.prev_log_term} "
                f"{what}; commit {message.leader_commit}; round {message.round}"
            )
        case AppendEntriesResponse(success=True):
            return f"agree up to {message.match_index} in term {message.term}; round {message.round}"
        case AppendEntriesResponse(conflict_index=0):
            return f"refused in term {message.term}; round {message.round}"
        case AppendEntriesResponse():
            return (
                f"no match at {message.prev_log_index} in term {message.term}: "
                f"conflicting term {message.conflict_term} begins at {message.conflict_index}; round {message.round}"
            )
        case InstallSnapshotRequest(term=term, metadata=metadata, offset=offset, data=data):
            last = ", the last" if message.is_last else ""
            return (
                f"InstallSnapshot in term {term}: {_bytes(offset, data)} of {metadata.snapshot_id}{last}; "
                f"it goes up to {_place(metadata)}"
            )
        case InstallSnapshotResponse(term=term, match_index=0):
            return f"the next byte of {message.snapshot_id} is {message.next_offset}, in term {term}"
        case InstallSnapshotResponse(term=term, match_index=match_index):
            return f"agree up to {match_index} in term {term}"
        case TimeoutNowRequest(term=term, round=number):
            return f"TimeoutNow in term {term}; round {number}"
        case TimeoutNowResponse(term=term, round=number):
            return f"TimeoutNow of round {number} has arrived, in term {term}"


def _entries(entries: tuple[Entry, ...]) -> str:
    return ", ".join(f"{entry.index}:{entry.term} {_content(entry)}" for entry in entries)


def _content(entry: Entry) -> str:
    if entry.kind is EntryKind.NO_OP:
        return "no-op"
    if entry.kind is EntryKind.CONFIGURATION:
        return f"members [{_members(decode_configuration(entry.command))}]"
    return repr(entry.command.decode())


def _members(configuration: Configuration) -> str:
    """Voters' names, then the others'; ``a b c (old: d e) (learners: f) (to be promoted: g)``."""
    words: list[str] = sorted(configuration.voters)
    if configuration.old_voters:
        words.append(f"(old: {' '.join(sorted(configuration.old_voters))})")
    promoted = {server.node_id for server in configuration.servers if server.is_promoted}
    if configuration.learners - promoted:
        words.append(f"(learners: {' '.join(sorted(configuration.learners - promoted))})")
    if promoted:
        words.append(f"(to be promoted: {' '.join(sorted(promoted))})")
    return " ".join(words) or "nobody"


def _reads(read_ids: tuple[ReadId, ...]) -> str:
    return ", ".join(f"read {read_id}" for read_id in read_ids)


def _role(role: Role) -> str:
    return role.value.replace("_", "-")


def _place(metadata: SnapshotMetadata) -> str:
    return f"{metadata.last_included_index}:{metadata.last_included_term}"


def _bytes(offset: int, data: bytes) -> str:
    return f"bytes {offset} to {offset + len(data) - 1}" if data else f"no bytes at {offset}"


def _standing(node: Node) -> str:
    """One line for a node: its role, its log by terms, and how far it is committed."""
    state = node.core.state
    terms = " ".join(str(entry.term) for entry in state.log.slice(state.log.first_index, state.log.last_index))
    base = f"@{state.log.base_index}:{state.log.term_at(state.log.base_index)} " if state.log.base_index else ""
    role = _role(state.role) if node.is_up else "down"
    return (
        f"{node.node_id}: {role:<13} term {state.current_term}  commit {state.commit_index}  "
        f"log [{base}{terms}]".replace(" ]", "]")
    )

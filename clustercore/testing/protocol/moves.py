"""Carrying out choices in a world."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RaftMessage,
    RequestVoteResponse,
)
from clustercore.raft.types import Configuration, NodeId, ReadId, Role, Server
from clustercore.runtime.session_entries import (
    OpenSession,
    Operation,
    SessionCommand,
    Stamp,
    encode_operation,
    encode_stamp,
)
from clustercore.testing.protocol import faults
from clustercore.testing.protocol.choices import Choice, Kind
from clustercore.testing.protocol.plan import WorldPlan
from clustercore.testing.protocol.spells import REIGN_BEATS, calm, depose, reign, stand, talk
from clustercore.testing.protocol.world import Node, World

__all__ = ["carry_out", "place_on_link", "target_members"]

# A pool this large only grows stale; the oldest messages are lost then.
MAX_POOL = 120
# Longer than most runs, and shorter than some.
_SESSION_TTL_MS = 20_000


def carry_out(world: World, plan: WorldPlan, choice: Choice, number: int = 0) -> None:
    """Carry out a choice; ``number``, its place in the schedule, makes what it proposes its own."""
    kind, first, second = choice
    while len(world.pool) > MAX_POOL:
        world.drop(0, "too many were on their way")
    _MOVES[kind](world, plan, first, second, number)


def _name(world: World, number: int) -> NodeId:
    names = list(world.nodes)
    return names[number % len(names)]


def _group(world: World, number: int, plan: WorldPlan | None = None) -> list[NodeId]:
    """Return the nodes whose bits are set; with a plan, not the one whose disk is slow."""
    slow = plan.slow_disk if plan is not None else -1
    return [name for place, name in enumerate(world.nodes) if number >> place & 1 and place != slow]


# --- Messages ---------------------------------------------------------------------------------------------------------


def _deliver_oldest(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    if world.pool:
        world.deliver(0)


def _deliver_any(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    if world.pool:
        world.deliver(_place(world, plan, first))


def _deliver_link(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    place = place_on_link(world, first, second)
    if place is not None:
        world.deliver(place)


def place_on_link(world: World, first: int, second: int) -> int | None:
    """Return the place of the oldest message from one node to another; None if there is none."""
    sender, to = _name(world, first), _name(world, second)
    return next((place for place, packet in enumerate(world.pool) if packet.sender == sender and packet.to == to), None)


def _duplicate(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    if world.pool and not plan.has_ordered_links:
        world.deliver(first % len(world.pool), keep=True)


def _place(world: World, plan: WorldPlan, number: int) -> int:
    """Choose a message; if links keep the order, the oldest between the same two nodes."""
    place = number % len(world.pool)
    if plan.has_ordered_links:
        chosen = world.pool[place]
        for earlier, packet in enumerate(world.pool):
            if packet.sender == chosen.sender and packet.to == chosen.to:
                return earlier
    return place


# What is delivered once more: anything, or a kind whose repetition has something to break.
_REPLAYED: tuple[tuple[type[RaftMessage], ...], ...] = (
    (),
    (AppendEntriesResponse, InstallSnapshotResponse),
    (AppendEntriesRequest,),
    (RequestVoteResponse,),
    (InstallSnapshotRequest,),
)


def _replay(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    if plan.has_ordered_links:
        return
    kinds = _REPLAYED[second % len(_REPLAYED)]
    places = [place for place, packet in enumerate(world.past) if not kinds or isinstance(packet.message, kinds)]
    if places:
        world.replay(places[first % len(places)])


def _drop(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    if world.pool:
        world.drop(first % len(world.pool))


def _drop_snapshot(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    places = [
        place
        for place, packet in enumerate(world.pool)
        if isinstance(packet.message, InstallSnapshotRequest | InstallSnapshotResponse)
    ]
    if places:
        world.drop(places[first % len(places)])


# --- Disks ------------------------------------------------------------------------------------------------------------


def _sync(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    _write(world, plan, first, second, flushes=False)


def _flush(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    _write(world, plan, first, second, flushes=True)


def _write(world: World, plan: WorldPlan, first: int, second: int, *, flushes: bool) -> None:
    name = _name(world, first)
    if not world.nodes[name].is_up:
        return
    if first % len(world.nodes) == plan.slow_disk:
        if second % 4 == 0:
            world.sync(name, 1)
            world.report(name)
    elif flushes:
        world.flush(name)
    else:
        world.sync(name, 1 + second % 3)


def _report(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    if world.nodes[name].is_up:
        world.report(name)


# --- Time -------------------------------------------------------------------------------------------------------------


def _heartbeat(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    leader = world.leader()
    if leader is not None:
        world.expire(leader.node_id)
    elif second % 3 == 0:
        # Without a leader somebody stands now and then, or schedules would spend their time waiting.
        _expire(world, plan, first, second, number)


def _expire(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    if world.nodes[name].is_up:
        world.expire(name)


def _late(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    late = [name for name, node in world.nodes.items() if node.is_up and world.due_at(node) <= world.now]
    if late:
        woken = late[first % len(late)]
        world.expire(woken)
        talk(world, [name for name in world.nodes if name == woken or name in _group(world, second)], beats=0)


def _wait(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    # Up to an election timeout in all, mostly less.
    world.wait(world.config.election_timeout_s * (first % 11) * (second % 11) / 100)


# --- The owner --------------------------------------------------------------------------------------------------------


def _propose(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    leader = world.leader()
    # Mostly at a leader; else the proposal is refused, and that is all.
    name = _name(world, first) if leader is None or second % 8 == 0 else leader.node_id
    if not world.nodes[name].is_up:
        return
    if plan.has_sessions and second // 24 % 3 == 0:
        world.propose(name, [_in_session(world.nodes[name], first)], kinds=[EntryKind.SESSION])
    else:
        world.propose(name, [b"%d.%d" % (number, part) for part in range(1 + second % 3)])


def _in_session(node: Node, first: int) -> bytes:
    """Return an entry that opens a session, or one of a few commands of the first: so most are repetitions."""
    known = node.machine.sessions.session_ids
    sequence = first // 8 % 4
    operation: Operation = OpenSession(ttl_ms=_SESSION_TTL_MS)
    if known and sequence:
        operation = SessionCommand(known[first // 32 % len(known)], sequence, 1, (), 1, b"in session")
    # A leader's clock never goes back; that of a term that nobody leads any more does not count.
    stamp = Stamp(int(node.clock * 1000), max_sessions=2, max_outstanding=8, max_result_bytes=1000)
    return encode_operation(operation) + encode_stamp(stamp)


def _read(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    # At any node that thinks it leads, and at times at one that does not.
    leaders = [node.node_id for node in world.nodes.values() if node.is_up and node.core.state.role is Role.LEADER]
    name = leaders[second % len(leaders)] if leaders and second % 8 else _name(world, first)
    if world.nodes[name].is_up:
        world.read(name, [ReadId(len(world.asked) + 1)])


def _transfer(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    """To the best successor, to the one that lags most, to one that is down, or to anyone."""
    leader = world.leader()
    target: NodeId | None = _name(world, first)
    if leader is not None and leader.core.state.progress:
        progress = leader.core.state.progress
        if second % 4 == 0:
            target = leader.core.best_successor(world.clock_of(leader))
        elif second % 4 == 1:
            target = min(progress, key=lambda peer: (progress[peer].match_index, peer))
        elif second % 4 == 2:
            target = next((peer for peer in sorted(progress) if not world.nodes[peer].is_up), target)
    source = leader.node_id if leader is not None else _name(world, second)
    if target is not None and world.nodes[source].is_up:
        world.transfer_leadership(source, target)


def _change_members(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    leader = world.leader()
    if leader is None:
        return
    world.change_configuration(leader.node_id, target_members(world, leader.core.state.configuration, first, second))
    # A change that only some, or only its leader, have heard of is where it gets dangerous.
    what_then = second >> 12 & 7
    if what_then == 0:
        faults.isolate_leader(world, first >> 12)
    elif what_then == 1:
        some = _group(world, first >> 8)
        talk(world, [name for name in world.nodes if name == leader.node_id or name in some], beats=0)
        faults.crash(world, leader.node_id, first)
    elif what_then in (2, 3, 4):
        # It is carried through, so that there may be another.
        talk(world, _group(world, 0xFFFF, plan), beats=2)


def target_members(world: World, present: Configuration, first: int, second: int) -> Configuration:
    """Return members to change to: one learner more, one promoted, demoted or removed, or any others at all."""
    names = list(world.nodes)
    name = names[first % len(names)]
    servers = {server.node_id: server for server in present.servers}
    inside = [one for one in names if one in servers]
    learners = [one for one in inside if not servers[one].is_voter]
    voters = [one for one in inside if servers[one].is_voter]
    kind, choice = second % 10, second // 10
    if kind in (0, 1):
        # A node that is no member becomes a learner, that is to become a voter by itself or not.
        outside = [one for one in names if one not in servers]
        if outside:
            name = outside[first % len(outside)]
            servers[name] = Server(name, is_voter=False, is_promoted=kind == 0)
    elif kind in (2, 3):
        if learners:
            name = learners[first % len(learners)]
            servers[name] = Server(name, is_voter=kind == 2, is_promoted=kind == 3)
    elif kind == 4:
        servers[name] = Server(name, is_voter=False)
    elif kind == 5:
        # Whoever it is, and often enough the leader, which must then make way for another.
        leader = world.leader()
        servers.pop(leader.node_id if leader is not None and choice % 2 else name, None)
    elif kind in (6, 7):
        # Several votes are given and taken at once, most of all to learners: that takes a joint configuration.
        changed = [*learners[: 1 + choice % 2], *(voters[(first + place) % len(voters)] for place in range(2))]
        for one in changed:
            servers[one] = Server(one, is_voter=not servers[one].is_voter)
    else:
        servers = {
            one: attrs.evolve(servers.get(one, Server(one)), is_voter=one in servers and bool(choice >> place & 1))
            for place, one in enumerate(names)
            if kind == 8 or first >> place & 1
        }
    return Configuration.with_servers(servers.values())


def _snapshot(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    if world.nodes[name].is_up:
        world.take_snapshot(name, tail=second % 4)


def _serve(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    owing = [node for node in world.nodes.values() if node.is_up and node.orders]
    if owing:
        node = owing[first % len(owing)]
        world.serve_snapshot(node.node_id, second % len(node.orders))


# --- Faults -----------------------------------------------------------------------------------------------------------


def _start(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    down = [name for name, node in world.nodes.items() if not node.is_up]
    if down:
        world.start(down[first % len(down)])


def _unreachable(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    if world.nodes[name].is_up:
        world.unreachable(name, _name(world, second))


def _lose_disk(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    leader = world.leader()
    if plan.loses_disks and second & 2 and leader is not None:
        # Somebody lacks what is committed, so that the lost disk is missed.
        candidates = [one for one in world.nodes if one not in (name, leader.node_id)]
        if candidates:
            behind = candidates[second % len(candidates)]
            world.propose(leader.node_id, [b"%d" % number])
            talk(world, [one for one in _group(world, 0xFFFF, plan) if one != behind], beats=2)
    if not faults.lose_disk(world, plan, name) or second % 2 == 0:
        return
    # Whoever is furthest behind asks it for its vote, when the leader has told it nothing yet, or only a little.
    leader = world.leader()
    if leader is not None:
        world.expire(leader.node_id)
        for _ in range(second >> 2 & 7):
            _deliver_between(world, leader.node_id, name)
            _deliver_between(world, name, leader.node_id)
    others = [node for node in world.nodes.values() if node.is_up and node.node_id != name]
    if others:
        candidate = min(others, key=lambda node: (node.disk.end, node.node_id)).node_id
        group = _group(world, second >> 4)
        stand(world, candidate, [one for one in world.nodes if one in (candidate, name) or one in group])


def _deliver_between(world: World, sender: NodeId, to: NodeId) -> None:
    names = list(world.nodes)
    place = place_on_link(world, names.index(sender), names.index(to))
    if place is not None:
        world.deliver(place)
        world.flush(to)


# --- Spells -----------------------------------------------------------------------------------------------------------


def _calm(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    # At times a slow disk catches up, too.
    calm(world, _group(world, 0xFFFF, plan if second % 4 else None), first % 60)


def _among(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    talk(world, _group(world, first, plan), beats=0)


def _reign(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    reign(world, _group(world, first, plan), beats=second % REIGN_BEATS)


def _stand(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    if world.nodes[name].is_up:
        stand(world, name, [other for other in world.nodes if other == name or other in _group(world, second)])
        # Once there is something to know.
        if world.committed and first >> 8 & 3 == 3:
            _lose_connections(world, name)


def _depose(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    depose(world, _name(world, first), is_patient=second % 2 > 0, restarts=second % 4 > 1)


def _lose_connections(world: World, name: NodeId) -> None:
    """Break the connections of a leader that has just been elected, and lose what it sent.

    It does not know yet what its followers have, and begins with each at the start of the log, or with a snapshot of
    what the follower has long since.
    """
    for place in reversed(range(len(world.pool))):
        if world.pool[place].sender == name:
            world.drop(place, "its connection broke")
    for peer in sorted(world.nodes[name].core.state.progress):
        world.unreachable(name, peer)


def _fall_behind(world: World, plan: WorldPlan, first: int, second: int, number: int) -> None:
    name = _name(world, first)
    others = [other for other in _group(world, 0xFFFF, plan) if other != name]
    for part in range(3):
        leader = world.leader()
        if leader is None or leader.node_id == name:
            return
        world.propose(leader.node_id, [b"%d.%d" % (number, part)])
        talk(world, others, beats=1)
    for other in others:
        if world.nodes[other].is_up:
            world.take_snapshot(other, tail=second % 3)
            world.flush(other)
    for place in reversed(range(len(world.pool))):
        if world.pool[place].to == name:
            world.drop(place)


_Move = Callable[[World, WorldPlan, int, int, int], None]
_MOVES: dict[Kind, _Move] = {
    Kind.DELIVER_OLDEST: _deliver_oldest,
    Kind.DELIVER_ANY: _deliver_any,
    Kind.DELIVER_LINK: _deliver_link,
    Kind.DUPLICATE: _duplicate,
    Kind.REPLAY: _replay,
    Kind.DROP: _drop,
    Kind.DROP_SNAPSHOT: _drop_snapshot,
    Kind.SYNC: _sync,
    Kind.REPORT: _report,
    Kind.FLUSH: _flush,
    Kind.HEARTBEAT: _heartbeat,
    Kind.EXPIRE: _expire,
    Kind.LATE: _late,
    Kind.WAIT: _wait,
    Kind.PROPOSE: _propose,
    Kind.READ: _read,
    Kind.TRANSFER: _transfer,
    Kind.CHANGE_MEMBERS: _change_members,
    Kind.CRASH: lambda world, plan, first, second, number: faults.crash(world, _name(world, first), second),
    Kind.CRASH_AFTER_PROMISE: lambda world, plan, first, second, number: faults.crash_after_promise(
        world, first, second
    ),
    Kind.START: _start,
    Kind.LOSE_DISK: _lose_disk,
    Kind.COME_BACK: lambda world, plan, first, second, number: faults.come_back(world, first),
    Kind.UNREACHABLE: _unreachable,
    Kind.SNAPSHOT: _snapshot,
    Kind.SERVE: _serve,
    Kind.PARTITION: lambda world, plan, first, second, number: faults.partition(world, first),
    Kind.CUT_ONE_WAY: lambda world, plan, first, second, number: faults.cut_one_way(world, first, second),
    Kind.BRIDGE: lambda world, plan, first, second, number: faults.bridge(world, first, second),
    Kind.ISOLATE_LEADER: lambda world, plan, first, second, number: faults.isolate_leader(world, first),
    Kind.RECONNECT: lambda world, plan, first, second, number: world.cut_links(()),
    Kind.CALM: _calm,
    Kind.AMONG: _among,
    Kind.REIGN: _reign,
    Kind.STAND: _stand,
    Kind.DEPOSE: _depose,
    Kind.FALL_BEHIND: _fall_behind,
}

"""Schedules for a world of cores: lists of small numbered steps, from hypothesis or from a seed, and the healing after.

A step names a kind of event and two numbers, which are taken modulo whatever there is to choose from when its turn
comes. So every list of steps is a schedule, and dropping steps from a failing one leaves one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.types import NodeId, ReadId, Role
from tests.properties.raft_invariants import Invariants
from tests.properties.raft_world import World

__all__ = ["WEIGHTS", "Event", "Setup", "Step", "carry_out", "healed", "random_schedule", "run"]

# A pool this large only grows stale; the oldest messages are lost then.
MAX_POOL = 120
# A leader that hears nobody steps down after some heartbeats, and stands an election timeout later.
MAX_WAKES = 30

VoteMessage = PreVoteRequest | PreVoteResponse | RequestVoteRequest | RequestVoteResponse


class Event(Enum):
    """The kinds of events."""

    DELIVER_OLDEST = "deliver the oldest message"
    DELIVER_ANY = "deliver some message"
    DUPLICATE = "deliver a message and keep it"
    REPLAY = "deliver once more what was delivered long ago"
    DROP = "lose a message"
    SYNC = "finish some writes"
    REPORT = "tell the core of finished writes"
    FLUSH = "finish all writes and tell the core"
    HEARTBEAT = "wake the leader at its deadline"
    EXPIRE = "wake a node at its deadline"
    LATE = "wake a node whose deadline has passed, and let some hear it"
    WAIT = "let some time pass"
    PROPOSE = "propose"
    READ = "ask for an index to read at"
    TRANSFER = "hand over"
    CRASH = "crash"
    START = "start what has crashed"
    UNREACHABLE = "break a connection"
    SNAPSHOT = "take a snapshot"
    SERVE = "send a snapshot"
    PARTITION = "cut the network in two"
    RECONNECT = "mend the network"
    # Much of what is waiting is done, in order: without such spells a schedule makes little way.
    CALM = "calm"
    # The same between some of the nodes, while what goes to the others or comes from them is delayed.
    AMONG = "some talk among themselves"
    # Some hear their leader for long enough that the others take it for lost.
    REIGN = "some are led on"
    # A node asks for votes and some answer; nothing else goes on, and what a winner sends is on its way.
    STAND = "a node stands"


# How often a seeded schedule has each: enough calm to elect and commit, enough trouble to need it again.
WEIGHTS = {
    Event.DELIVER_OLDEST: 22,
    Event.DELIVER_ANY: 8,
    Event.DUPLICATE: 3,
    Event.REPLAY: 2,
    Event.DROP: 1.5,
    Event.SYNC: 8,
    Event.REPORT: 6,
    Event.FLUSH: 16,
    Event.HEARTBEAT: 9,
    Event.EXPIRE: 1.2,
    Event.LATE: 2,
    Event.WAIT: 2,
    Event.PROPOSE: 10,
    Event.READ: 5,
    Event.TRANSFER: 1,
    Event.CRASH: 0.8,
    Event.START: 2,
    Event.UNREACHABLE: 0.8,
    Event.SNAPSHOT: 6,
    Event.SERVE: 12,
    Event.PARTITION: 0.7,
    Event.RECONNECT: 1.3,
    Event.CALM: 1.2,
    Event.AMONG: 1.5,
    Event.REIGN: 0.7,
    Event.STAND: 1.5,
}

Step = tuple[Event, int, int]


@attrs.frozen
class Setup:
    """What a world is built with."""

    nodes: int = 3
    max_append_entries: int = 2
    max_append_bytes: int = 200
    max_inflight_appends: int = 2
    seed: int = 0
    # A machine's state has 8 bytes: three chunks.
    chunk_bytes: int = 3
    # What a leader's log keeps for a follower that is sent one: by default everything.
    snapshot_hold_bytes: int = 1_000_000
    # The place of a node whose disk is slow, and never finishes more than one write at a time; -1 for none.
    slow: int = -1

    def build(self, invariants: Invariants, world: type[World] = World) -> World:
        """Make the world, of the given class."""
        config = RaftConfig(
            max_append_entries=self.max_append_entries,
            max_append_bytes=self.max_append_bytes,
            max_inflight_appends=self.max_inflight_appends,
            snapshot_timeout_s=2.0,
            snapshot_hold_bytes=self.snapshot_hold_bytes,
            # There is one clock, so that a lease may last to the last moment in which it is true.
            max_clock_drift=0,
        )
        names = [f"n{number}" for number in range(1, self.nodes + 1)]
        return world(names, config=config, seed=self.seed, watchers=[invariants], chunk_bytes=self.chunk_bytes)


def random_schedule(seed: int, length: int) -> tuple[Setup, list[Step]]:
    """Return a setup and a schedule that follow from the seed."""
    rng = random.Random(seed)
    setup = Setup(
        nodes=rng.choice([1, 2, 3, 3, 3, 4, 5, 5]),
        max_append_entries=rng.choice([1, 2, 3, 100]),
        max_append_bytes=rng.choice([1, 60, 100_000]),
        max_inflight_appends=rng.choice([1, 2, 4]),
        seed=seed,
        slow=rng.choice([-1, -1, -1, 0, 1, 2]),
        snapshot_hold_bytes=1_000_000 if seed % 4 else 60,
    )
    # Each seed has its own mixture, so that some have slow disks, some many crashes, and so on: what is rare in the
    # average of all is then common in some (Groce et al., "Swarm Testing", ISSTA 2012).
    weights = [weight * rng.choice([0.1, 0.5, 1, 1, 2]) for weight in WEIGHTS.values()]
    events = rng.choices(list(WEIGHTS), weights, k=length)
    return setup, [(event, rng.randrange(1 << 16), rng.randrange(1 << 16)) for event in events]


def run(setup: Setup, steps: Sequence[Step]) -> tuple[World, Invariants]:
    """Carry out a schedule, with every invariant checked after every event."""
    invariants = Invariants()
    world = setup.build(invariants)
    for number, step in enumerate(steps):
        carry_out(world, setup, number, step)
    return world, invariants


def carry_out(world: World, setup: Setup, number: int, step: Step) -> None:
    """Carry out the step of that number, from 0."""
    slow = setup.slow
    event, first, second = step
    names = list(world.nodes)
    name = names[first % len(names)]
    node = world.nodes[name]
    is_slow = name in names[slow : slow + 1]
    if is_slow and node.is_up and event in (Event.SYNC, Event.FLUSH):
        if second % 4 == 0:
            world.sync(name, 1)
            world.report(name)
    elif event is Event.START and not node.is_up:
        world.start(name)
    elif event is Event.PARTITION:
        world.groups = {name: first >> bit & 1 for bit, name in enumerate(names)}
    elif event is Event.RECONNECT:
        world.groups = {}
    elif event is Event.WAIT:
        # Up to an election timeout in all, mostly less.
        world.wait(world.config.election_timeout_s * (first % 11) * (second % 11) / 100)
    elif event is Event.CALM:
        _calm(world, [name for place, name in enumerate(names) if place != slow], first % 60)
    elif event in (Event.AMONG, Event.REIGN):
        group = [name for place, name in enumerate(names) if first >> place & 1 and place != slow]
        _talk(world, group, beats=second % 24 if event is Event.REIGN else 0)
        if event is Event.REIGN:
            # The others hear nothing of it, or they would take up what they heard last.
            world.pool = [packet for packet in world.pool if packet.to in group]
    elif event is Event.LATE:
        late = [name for name, node in world.nodes.items() if node.is_up and node.core.deadline <= world.now]
        if late:
            woken = late[first % len(late)]
            world.expire(woken)
            _talk(world, [other for place, other in enumerate(names) if second >> place & 1 or other == woken], beats=0)
    elif event is Event.STAND:
        if node.is_up:
            _stand(world, name, [other for place, other in enumerate(names) if second >> place & 1 or other == name])
    elif event is Event.REPLAY:
        if world.past:
            world.replay(first % len(world.past))
    elif event in (Event.DELIVER_OLDEST, Event.DELIVER_ANY, Event.DUPLICATE, Event.DROP):
        _network(world, event, first)
    elif event is Event.HEARTBEAT:
        leader = world.leader()
        # Without a leader somebody stands now and then, or schedules would spend their time waiting.
        if leader is not None or (node.is_up and second % 3 == 0):
            world.expire(name if leader is None else leader.node_id)
    elif node.is_up:
        _at_node(world, name, number, event, second)


def _network(world: World, event: Event, number: int) -> None:
    del world.pool[:-MAX_POOL]
    if not world.pool:
        return
    if event is Event.DELIVER_OLDEST:
        world.deliver(0)
    elif event is Event.DROP:
        del world.pool[number % len(world.pool)]
    else:
        world.deliver(number % len(world.pool), keep=event is Event.DUPLICATE)


def _at_node(world: World, name: NodeId, number: int, event: Event, choice: int) -> None:
    node = world.nodes[name]
    match event:
        case Event.SYNC:
            world.sync(name, 1 + choice % 3)
        case Event.FLUSH:
            world.flush(name)
        case Event.REPORT:
            world.report(name)
        case Event.EXPIRE:
            world.expire(name)
        case Event.PROPOSE:
            leader = world.leader()
            # Mostly at a leader; else the proposal is refused, and that is all.
            target = name if leader is None or choice % 8 == 0 else leader.node_id
            world.propose(target, [b"%d.%d" % (number, part) for part in range(1 + choice % 3)])
        case Event.READ:
            # At any node that thinks it leads, and at times at one that does not.
            leaders = [
                other.node_id for other in world.nodes.values() if other.is_up and other.core.proposal_room_bytes
            ]
            target = leaders[choice % len(leaders)] if leaders and choice % 8 else name
            world.read(target, [ReadId(len(world.asked) + 1)])
        case Event.TRANSFER:
            leader = world.leader()
            world.transfer_leadership(leader.node_id if leader is not None else name, name)
        case Event.CRASH:
            world.crash(name, kept_writes=choice % 4, kept_entries=choice // 4 % 4)
        case Event.UNREACHABLE:
            world.unreachable(name, list(world.nodes)[choice % len(world.nodes)])
        case Event.SNAPSHOT:
            world.take_snapshot(name, tail=choice % 4)
        case Event.SERVE if node.orders:
            world.serve_snapshot(name, choice % len(node.orders))
        case _:
            pass


def _calm(world: World, names: Sequence[NodeId], rounds: int) -> None:
    """Let these nodes finish their writes, and messages arrive in order."""
    for _ in range(rounds):
        for name in names:
            if world.nodes[name].is_up:
                world.flush(name)
                while world.nodes[name].orders:
                    world.serve_snapshot(name, 0)
        if world.pool:
            world.deliver(0)


def _talk(world: World, group: Sequence[NodeId], beats: int) -> None:
    """Let these nodes finish what is between them, and do so again after each of their leader's heartbeats."""
    group = [name for name in group if world.nodes[name].is_up]
    for beat in range(beats + 1):
        leaders = [name for name in group if world.nodes[name].core.state.role is Role.LEADER]
        if beat > 0 and leaders:
            world.expire(leaders[0])
        # What is between them comes to an end, but for a snapshot that nobody sends.
        for _ in range(100):
            for name in group:
                world.flush(name)
            places = (place for place, packet in enumerate(world.pool) if {packet.sender, packet.to} <= set(group))
            place = next(places, None)
            if place is None:
                break
            world.deliver(place)


def _stand(world: World, candidate: NodeId, group: Sequence[NodeId]) -> None:
    """Let a node stand, if need be twice: who hears of a later term only then must ask again."""
    state = world.nodes[candidate].core.state
    for _ in range(2):
        for _ in range(MAX_WAKES):
            if state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                break
            world.expire(candidate)
        _vote(world, [name for name in group if world.nodes[name].is_up])
        if state.role is Role.LEADER:
            break


def _vote(world: World, group: Sequence[NodeId]) -> None:
    """Deliver what these nodes ask and answer about votes, until they have come to an end."""
    while True:
        for name in group:
            world.flush(name)
        places = (
            place
            for place, packet in enumerate(world.pool)
            if isinstance(packet.message, VoteMessage) and {packet.sender, packet.to} <= set(group)
        )
        place = next(places, None)
        if place is None:
            return
        world.deliver(place)


def healed(world: World) -> None:
    """End all faults; everyone must agree within bounded time, commit one more proposal everywhere, and read.

    Raises: AssertionError if that takes more than 400 heartbeats or elections.
    """
    world.groups = {}
    for name, node in world.nodes.items():
        if not node.is_up:
            world.start(name)
    _converge(world)
    leader = world.leader()
    assert leader is not None
    world.propose(leader.node_id, [b"after the healing"])
    last_index = leader.core.state.log.last_index
    assert leader.core.state.log.slice(last_index, last_index)[0].command == b"after the healing"
    read_id = ReadId(len(world.asked) + 1)
    world.read(leader.node_id, [read_id])
    _converge(world)
    assert all(node.machine.index >= last_index for node in world.nodes.values())
    assert world.answered[read_id] is not None


def _converge(world: World) -> None:
    for _ in range(400):
        while world.pool or any(node.writes or node.unreported or node.orders for node in world.nodes.values()):
            _calm(world, list(world.nodes), 1)
        if _agree(world):
            return
        due = min(node.core.deadline for node in world.nodes.values())
        for name, node in world.nodes.items():
            if node.core.deadline <= due:
                world.expire(name)
    raise AssertionError("no agreement although all faults have ended")


def _agree(world: World) -> bool:
    states = [node.core.state for node in world.nodes.values()]
    leaders = [state for state in states if state.role is Role.LEADER]
    return len(leaders) == 1 and all(
        leaders[0].transfer is None
        and state.current_term == leaders[0].current_term
        and state.leader_id == leaders[0].node_id
        and state.last_applied == state.log.last_index == leaders[0].log.last_index
        for state in states
    )

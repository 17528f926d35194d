"""Choices that do many things at once: calm, talk among some, elections. Without them schedules make little way."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.messages import PreVoteRequest, PreVoteResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.types import NodeId, Role
from clustercore.testing.protocol.world import World

__all__ = ["REIGN_BEATS", "calm", "depose", "reign", "settle_writes", "stand", "talk"]

# A leader that hears nobody steps down after some heartbeats, and stands an election timeout later.
MAX_WAKES = 30
# Messages between some nodes until they have nothing more to say; a snapshot that nobody sends would never end.
MAX_TALK = 100
# After so many heartbeats whoever has heard none of them would stand for election.
REIGN_BEATS = 24

VoteMessage = PreVoteRequest | PreVoteResponse | RequestVoteRequest | RequestVoteResponse


def settle_writes(world: World, names: Sequence[NodeId]) -> None:
    """Let these nodes finish their writes, and read the snapshots they owe."""
    for name in names:
        node = world.nodes[name]
        if node.is_up:
            if node.writes or node.unreported:
                world.flush(name)
            while node.orders:
                world.serve_snapshot(name, 0)


def calm(world: World, names: Sequence[NodeId], rounds: int) -> None:
    """Let these nodes finish their writes, and messages arrive in order."""
    for _ in range(rounds):
        settle_writes(world, names)
        if not world.pool:
            return
        world.deliver(0)


def talk(world: World, group: Sequence[NodeId], beats: int) -> None:
    """Let these nodes finish what is between them, and do so again after each of their leader's heartbeats."""
    group = [name for name in group if world.nodes[name].is_up]
    members = set(group)
    for beat in range(beats + 1):
        leaders = [name for name in group if world.nodes[name].core.state.role is Role.LEADER]
        if beat > 0 and leaders:
            world.expire(leaders[0])
        for _ in range(MAX_TALK):
            for name in group:
                world.flush(name)
            place = _place(world, members)
            if place is None:
                break
            world.deliver(place)


def _place(world: World, members: set[NodeId], *, votes_only: bool = False) -> int | None:
    for place, packet in enumerate(world.pool):
        is_among = packet.sender in members and packet.to in members
        if is_among and (not votes_only or isinstance(packet.message, VoteMessage)):
            return place
    return None


def stand(world: World, candidate: NodeId, group: Sequence[NodeId]) -> None:
    """Let a node stand, if need be more than once: who hears of a later term only then must ask again."""
    for _ in range(3):
        for wake in range(MAX_WAKES):
            # One that stands already begins anew: who answered it before may answer otherwise now.
            if wake > 0 and world.nodes[candidate].core.state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                break
            world.expire(candidate)
        _vote(world, [name for name in group if world.nodes[name].is_up])
        if world.nodes[candidate].core.state.role is Role.LEADER:
            break


def depose(world: World, candidate: NodeId, *, is_patient: bool, restarts: bool) -> None:
    """Let the others elect another and commit, of which the one that leads hears nothing: it goes on, and is late.

    Args:
        world: The world.
        candidate: Who is to lead. If it does so already, or nobody has led, nothing is done.
        is_patient: They wait until none of them protects the present leader. Otherwise those who have just heard it,
            which may be so many that it holds a lease, are asked by one that has not for long.
        restarts: Those who have just heard it are started again before they are asked.
    """
    leader = world.leader()
    if leader is None or leader.node_id == candidate or not world.nodes[candidate].is_up or not world.committed:
        return
    others = [name for name in world.nodes if name != leader.node_id]
    if is_patient:
        # By the slowest clock there can be.
        world.wait(2 * world.config.election_timeout_s)
    else:
        led_on = [name for name in others if name != candidate and world.nodes[name].is_up]
        led_on = led_on[: len(leader.core.state.configuration.voters) // 2]
        reign(world, [leader.node_id, *led_on], beats=REIGN_BEATS)
        for name in led_on if restarts else ():
            world.crash(name)
            world.start(name)
    stand(world, candidate, others)
    if world.nodes[candidate].core.state.role is Role.LEADER:
        talk(world, others, beats=1)


def reign(world: World, group: Sequence[NodeId], beats: int) -> None:
    """Let some be led on, so that the others take their leader for lost."""
    talk(world, group, beats)
    # The others hear nothing of it, or they would take up what they heard last.
    for place in reversed(range(len(world.pool))):
        if world.pool[place].to not in group:
            world.drop(place)


def _vote(world: World, group: Sequence[NodeId]) -> None:
    """Deliver what these nodes ask and answer about votes, until they have come to an end."""
    members = set(group)
    while True:
        for name in group:
            world.flush(name)
        place = _place(world, members, votes_only=True)
        if place is None:
            return
        world.deliver(place)

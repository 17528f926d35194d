"""Interleavings that a random search meets too seldom: written down, with every invariant checked all the way."""

from __future__ import annotations

import math
from collections.abc import Iterable

from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import RaftMessage, TimeoutNowRequest
from clustercore.raft.types import NodeId, Role
from clustercore.testing.invariants import Invariants
from clustercore.testing.protocol.spells import calm, stand
from clustercore.testing.protocol.world import World


def led_world(size: int = 3) -> World:
    """A cluster whose first node leads and has committed something, and whose clocks all run alike."""
    names = [f"n{number}" for number in range(1, size + 1)]
    world = World(names, config=RaftConfig(max_clock_drift=0), watchers=[Invariants()])
    # Whoever has just started helps nobody to depose the leader that it may have had.
    world.wait(world.config.election_timeout_s)
    stand(world, NodeId("n1"), list(world.nodes))
    calm(world, list(world.nodes), 99)
    assert world.leader() is world.nodes[NodeId("n1")]
    assert world.committed == 1
    return world


def deliver(world: World, among: Iterable[NodeId], kind: type[RaftMessage] | None = None) -> None:
    """Deliver what these nodes have sent each other, and what comes of it; all else is late."""
    group = list(among)
    while True:
        for name in group:
            world.flush(name)
        places = [
            place
            for place, packet in enumerate(world.pool)
            if {packet.sender, packet.to} <= set(group) and (kind is None or isinstance(packet.message, kind))
        ]
        if not places:
            return
        world.deliver(places[0])


def test_word_of_a_transfer_that_was_given_up_ends_no_lease() -> None:
    """A leader that has told another to stand holds no lease again: the word may arrive at any time (thesis §6.4.1).

    The leader gives up the transfer, is heard by a majority once more, and then the target hears the word: it stands
    with the votes of those who have just heard the leader.
    """
    world = led_world()
    leader, target, third = world.nodes
    world.transfer_leadership(leader, target)
    assert [packet.to for packet in world.pool if isinstance(packet.message, TimeoutNowRequest)] == [target]

    while world.nodes[leader].core.state.transfer is not None:
        world.expire(leader)
        deliver(world, [leader, third])
    world.expire(leader)
    deliver(world, [leader, third])
    clock = world.clock_of(world.nodes[leader])
    assert world.nodes[leader].core.quorum_heard_at(clock) == clock

    place = next(place for place, packet in enumerate(world.pool) if isinstance(packet.message, TimeoutNowRequest))
    world.deliver(place)
    deliver(world, [target, third])

    assert world.nodes[target].core.state.role is Role.LEADER
    assert world.nodes[leader].core.state.role is Role.LEADER
    # Without the rule it would hold a lease until now and longer, and the invariants would have said so.
    assert world.nodes[leader].core.lease_until(clock, heard_since=-math.inf) == -math.inf

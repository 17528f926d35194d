"""Crashes, lost disks and cut links, each as one choice."""

from __future__ import annotations

from collections.abc import Iterable

from clustercore.raft.messages import AppendEntriesResponse, InstallSnapshotResponse, RequestVoteResponse
from clustercore.raft.types import NodeId
from clustercore.testing.invariants import atlas
from clustercore.testing.protocol.plan import WorldPlan
from clustercore.testing.protocol.world import World

__all__ = [
    "both_ways",
    "bridge",
    "come_back",
    "crash",
    "crash_after_promise",
    "cut_one_way",
    "isolate_leader",
    "lose_disk",
    "partition",
]

Links = set[tuple[NodeId, NodeId]]


def crash(world: World, name: NodeId, choice: int) -> None:
    """Stop a node in the middle of its writes."""
    if world.nodes[name].is_up:
        world.crash(name, kept_writes=choice % 4, kept_entries=choice // 4 % 4)


def crash_after_promise(world: World, first: int, second: int) -> None:
    """Stop a node whose vote or acknowledgement has just left, with little more on its disk; it may start at once."""
    for packet in reversed(world.pool):
        message = packet.message
        match message:
            case RequestVoteResponse(vote_granted=True) | AppendEntriesResponse(success=True):
                pass
            case InstallSnapshotResponse():
                pass
            case _:
                continue
        if world.nodes[packet.sender].is_up:
            world.crash(packet.sender, kept_writes=second % 2, kept_entries=second // 2 % 3)
            if first % 2:
                world.start(packet.sender)
            return


# --- Disks ------------------------------------------------------------------------------------------------------------


def lose_disk(world: World, plan: WorldPlan, name: NodeId) -> bool:
    """Take a voter's disk, if what is committed survives that; return whether it did."""
    if not (plan.loses_disks and atlas.may_lose_disk(world, name)):
        return False
    world.lose_disk(name)
    world.start(name)
    return True


def come_back(world: World, choice: int) -> None:
    """Let a node that was removed, or never added, come back under its name with an empty disk."""
    gone = atlas.outsiders(world)
    if gone:
        name = gone[choice % len(gone)]
        world.lose_disk(name, is_outsider=True)
        world.start(name)


# --- Links ------------------------------------------------------------------------------------------------------------


def both_ways(some: Iterable[NodeId], others: Iterable[NodeId]) -> Links:
    """Return the links between two groups."""
    others = list(others)
    return {link for one in some for other in others if one != other for link in ((one, other), (other, one))}


def _split(world: World, number: int) -> tuple[list[NodeId], list[NodeId]]:
    names = list(world.nodes)
    some = [name for place, name in enumerate(names) if number >> place & 1]
    return some, [name for name in names if name not in some]


def partition(world: World, number: int) -> None:
    """Cut the network in two."""
    world.cut_links(both_ways(*_split(world, number)))


def cut_one_way(world: World, first: int, second: int) -> None:
    """Let a node, or some, hear nobody or be heard by nobody, beside what is cut already."""
    some, others = _split(world, 1 << first % len(world.nodes) if second & 2 else first)
    links = {(one, other) for one in some for other in others}
    world.cut_links(world.cut | ({(to, sender) for sender, to in links} if second & 1 else links))


def bridge(world: World, first: int, second: int) -> None:
    """Leave two halves that do not reach each other, and one node that both reach."""
    names = list(world.nodes)
    middle = names[second % len(names)]
    some, others = _split(world, first)
    world.cut_links(both_ways([n for n in some if n != middle], [n for n in others if n != middle]))


def isolate_leader(world: World, number: int) -> None:
    """Cut off whoever leads: a partition that moves with the leadership."""
    leader = world.leader()
    if leader is not None:
        others = [name for name in world.nodes if name != leader.node_id]
        links = both_ways([leader.node_id], others)
        if number % 3 == 1:
            # It is heard still, and hears nothing.
            links = {(sender, to) for sender, to in links if to == leader.node_id}
        elif number % 3 == 2:
            links = {(sender, to) for sender, to in links if sender == leader.node_id}
        world.cut_links(links)

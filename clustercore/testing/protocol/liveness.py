"""The end of a run: faults stop, and the cluster must elect, serve, catch everyone up, and then fall quiet."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import combinations
from typing import NoReturn

import attrs

from clustercore.raft.messages import AppendEntriesRequest, AppendEntriesResponse
from clustercore.raft.types import Configuration, LogIndex, NodeId, ReadId, Role, Term
from clustercore.testing.protocol.spells import settle_writes
from clustercore.testing.protocol.world import Node, World
from clustercore.testing.violation import PropertyViolated

__all__ = ["heal"]

# Deadlines that may pass until all agree. An election takes one or two, catching up as many as there are windows.
MAX_ROUNDS = 400
# Messages and writes between two deadlines; a cluster that has more to say goes in circles.
MAX_STEPS = 20_000
QUIET_BEATS = 10
# Reads of which one must be answered: a leader refuses that is deposed by what was on its way when faults ended.
MAX_READS = 3


def heal(world: World, seed: int = 0) -> bool:
    """End all faults for a random quorum, then for all; see that they make progress and come to rest.

    Returns: False if no protocol could make progress: members were chosen, before anybody knew it, of whom too many
        have lost their disks.

    Raises: PropertyViolated if they make none although they could.
    """
    some = _choose_quorum(world, random.Random(f"heal {seed}"))
    if some is None:
        return False
    world.cut_links(())
    for name, node in world.nodes.items():
        if node.is_up and name not in some:
            world.crash(name)
        elif not node.is_up and name in some:
            world.start(name)
    for place in reversed(range(len(world.pool))):
        if world.pool[place].sender not in some:
            world.drop(place, "its sender is gone")
    _serve(world, b"after the healing of some")
    if len(some) < len(world.nodes):
        for name, node in world.nodes.items():
            if not node.is_up:
                world.start(name)
        _serve(world, b"after the healing of all")
    _converge(world, settles_members=True)
    _rest(world)
    return True


# --- Who is healed ----------------------------------------------------------------------------------------------------


def _choose_quorum(world: World, rng: random.Random) -> set[NodeId] | None:
    """Return nodes that can elect a leader among them, whichever members any of them counts; None if none can.

    If in each such set somebody's log is in everybody's way, the smallest is returned: they have to show it.
    """
    names = list(world.nodes)
    rng.shuffle(names)
    chosen: set[NodeId] = set()
    counted: list[Configuration] = []
    smallest: set[NodeId] | None = None
    for name in names:
        chosen.add(name)
        counted += _counted_by(world.nodes[name])
        if any(configuration.voters for configuration in counted) and all(
            _is_quorum(world, configuration, chosen) for configuration in counted
        ):
            if _could_elect(world, chosen):
                return chosen
            smallest = smallest or set(chosen)
    return smallest


def _could_elect(world: World, chosen: set[NodeId]) -> bool:
    """Say whether one of these may stand, and has a log as new as a majority of those it counts (Raft §5.4.1).

    A majority is not enough while some count other members than the rest. Seed 303679: an old leader needs the vote of
    a learner that it wants to promote, which has entries of the next leader, and that one is not among them.
    """

    def end(name: NodeId) -> tuple[Term, LogIndex]:
        node = world.nodes[name]
        if not node.is_up:
            return node.disk.end
        log = node.core.state.log
        return log.last_term, log.last_index

    for name in chosen:
        node = world.nodes[name]
        members = node.core.state.configuration if node.is_up else node.disk.configuration or node.configuration
        willing = {other for other in chosen if end(other) <= end(name)}
        if (
            name in members.voters | members.old_voters
            and _has_its_disk(members, node)
            and _is_quorum(world, members, willing)
        ):
            return True
    return False


def _counted_by(node: Node) -> list[Configuration]:
    """Return the members that a node counts, or would after a crash now, or may soon count by its own doing."""
    stored = node.disk.configuration or node.configuration
    counted = [stored, node.core.state.configuration] if node.is_up else [stored]
    return [promoted for configuration in counted for promoted in _promoted(configuration)]


def _promoted(configuration: Configuration) -> Iterator[Configuration]:
    """Return a configuration with any of its learners promoted that a leader may promote by itself."""
    due = [server.node_id for server in configuration.servers if server.is_promoted]
    for count in range(len(due) + 1):
        for some in combinations(due, count):
            servers = tuple(
                attrs.evolve(server, is_voter=server.is_voter or server.node_id in some)
                for server in configuration.servers
            )
            yield attrs.evolve(configuration, servers=servers)


def _is_quorum(world: World, configuration: Configuration, chosen: set[NodeId]) -> bool:
    if not configuration.is_formed:
        return chosen >= configuration.voters
    counted = {name for name in chosen if _has_its_disk(configuration, world.nodes[name])}
    return all(
        2 * len(counted & group) > len(group) for group in (configuration.voters, configuration.old_voters) if group
    )


def _has_its_disk(configuration: Configuration, node: Node) -> bool:
    server = configuration.get(node.node_id)
    return server is None or server.incarnation in ("", node.incarnation)


# --- Progress ---------------------------------------------------------------------------------------------------------


def _serve(world: World, command: bytes) -> None:
    """Let the nodes that are up agree, commit one proposal more, and read."""
    leader = _converge(world)
    world.propose(leader.node_id, [command])
    last_index = leader.core.state.log.last_index
    (entry,) = leader.core.state.log.slice(last_index, last_index)
    if entry.command != command:
        _fail(world, f"leader {leader.node_id} refuses a proposal")
    for _ in range(MAX_READS):
        read_id = ReadId(len(world.asked) + 1)
        world.read(leader.node_id, [read_id])
        leader = _converge(world)
        if world.answered.get(read_id) is not None:
            return
    _fail(world, f"reads at those who lead, {leader.node_id} at last, are not answered")


def _converge(world: World, *, settles_members: bool = False) -> Node:
    """Let deadlines pass until all that are up agree; return their leader."""
    for _ in range(MAX_ROUNDS):
        _drain(world)
        leader = world.leader()
        if leader is not None and _do_agree(world, leader) and not (settles_members and _are_unsettled(world, leader)):
            return leader
        _wake(world)
    _fail(world, "no agreement, although faults have ended")


def _drain(world: World) -> None:
    for _ in range(MAX_STEPS):
        settle_writes(world, list(world.nodes))
        if not world.pool:
            return
        world.deliver(0)
    _fail(world, "messages without end")


def _wake(world: World) -> None:
    due_at = min((world.due_at(node) for node in world.nodes.values() if node.is_up), default=math.inf)
    if due_at == math.inf:
        _fail(world, "nobody waits for anything")
    for name, node in world.nodes.items():
        if node.is_up and world.due_at(node) <= due_at:
            world.expire(name)


def _do_agree(world: World, leader: Node) -> bool:
    """Whether all members that are up follow this leader, and have all that it has."""
    state = leader.core.state
    last_index = state.log.last_index
    if state.transfer is not None or state.last_applied != last_index or state.configuration.is_joint:
        return False
    if leader.node_id not in state.configuration.voters:
        return False
    for peer in state.configuration.members - {leader.node_id}:
        other = world.nodes[peer]
        follower = other.core.state
        if other.is_up and not (
            follower.current_term == state.current_term
            and follower.leader_id == leader.node_id
            and follower.last_applied == follower.log.last_index == last_index
        ):
            return False
    return True


def _are_unsettled(world: World, leader: Node) -> bool:
    """Whether the leader still has members to change by itself."""
    configuration = leader.core.state.configuration
    return any(
        server.is_promoted or (server.is_voter and not _has_its_disk(configuration, world.nodes[server.node_id]))
        for server in configuration.servers
    )


# --- Rest -------------------------------------------------------------------------------------------------------------


def _rest(world: World) -> None:
    """Without work a cluster exchanges heartbeats and nothing else: no writes, no entries, no elections."""
    leader = _converge(world)
    state = leader.core.state
    term, last_index = state.current_term, state.log.last_index
    members = state.configuration.members
    for _ in range(QUIET_BEATS):
        world.expire(leader.node_id)
        sent = [packet for packet in world.pool if packet.sender in members and packet.to in members]
        if len(sent) != len(members) - 1:
            _fail_quiet(world, f"leader {leader.node_id} sends {len(sent)} messages to {len(members) - 1} followers")
        while world.pool:
            packet = world.pool[0]
            message = packet.message
            is_idle = isinstance(message, AppendEntriesResponse) or (
                isinstance(message, AppendEntriesRequest) and not message.entries
            )
            if packet.sender in members and packet.to in members and not is_idle:
                _fail_quiet(world, f"{packet.sender} sends {packet.to} a {type(message).__name__}")
            world.deliver(0)
        if any(world.nodes[name].writes for name in members):
            _fail_quiet(world, "somebody writes")
        for name in members - {leader.node_id}:
            # Before the next heartbeat nobody need wake but the leader.
            if world.due_at(world.nodes[name]) <= world.due_at(leader):
                _fail_quiet(world, f"{name} wants to be woken between two heartbeats")
    if (state.role, state.current_term, state.log.last_index) != (Role.LEADER, term, last_index):
        _fail_quiet(world, f"{leader.node_id} does not go on leading in term {term} with {last_index} entries")


def _fail(world: World, text: str) -> NoReturn:
    raise PropertyViolated("progress once faults end", f"{text}: {_standing(world)}", "Raft §5.4.3, §9.3; thesis §3.9")


def _fail_quiet(world: World, text: str) -> NoReturn:
    raise PropertyViolated("an idle cluster falls quiet", f"{text}: {_standing(world)}", "Raft §5.2")


def _standing(world: World) -> str:
    return "; ".join(
        f"{name} {node.core.state.role.value if node.is_up else 'down'} of term {node.core.state.current_term}, log to "
        f"{node.core.state.log.last_index}, applied {node.core.state.last_applied}"
        for name, node in world.nodes.items()
    )

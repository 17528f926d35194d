"""The fault atlas: which disks a cluster can bear to lose at this moment.

No protocol survives the loss of more disks than it has spare. So whoever takes one, or damages it, asks here first: one
good copy of everything that is committed stays, among voters who can elect its holder. Both levels of simulation keep
to it.
"""

from __future__ import annotations

from clustercore.raft.types import Configuration, NodeId
from clustercore.testing.invariants.facts import Node, World

__all__ = ["may_lose_disk", "outsiders"]


def may_lose_disk(world: World, name: NodeId) -> bool:
    """Say whether the cluster can bear the loss of this disk, which may be a voter's.

    Whatever quorum of voters that still have their disks comes together must have somebody with all that is committed.
    """
    if not world.committed:
        return False
    state = _knower(world).core.state
    term = state.log.term_at(world.committed)
    configuration = state.configuration
    if term is None or configuration.is_joint or not configuration.is_formed:
        return False
    if any(_counts_others(world, node) for node in world.nodes.values()):
        # Members that are not committed yet may count on this very disk.
        return False
    voters = [world.nodes[voter] for voter in configuration.voters]
    if len(voters) < 3 or any(_misses_its_disk(configuration, voter) for voter in voters):
        return False
    without = [voter for voter in voters if not voter.disk.holds(world.committed, term) and voter.node_id != name]
    # The one that lost its disk votes for nobody.
    return 2 * len(without) <= len(voters)


def outsiders(world: World) -> list[NodeId]:
    """Return who was removed, or never added, as far as any other node knows, members under way included."""
    named = set(_knower(world).core.state.configurations.at(world.committed).members)
    for node in world.nodes.values():
        # A change under way may name it again, and some may not know yet that it was removed.
        named |= (node.disk.configuration or node.configuration).members - {node.node_id}
        named |= node.core.state.configuration.members - {node.node_id} if node.is_up else set()
    return [name for name in world.nodes if name not in named]


def _knower(world: World) -> Node:
    return max(world.nodes.values(), key=lambda node: node.core.state.commit_index)


def _counts_others(world: World, node: Node) -> bool:
    return max(node.disk.configuration_index, node.core.state.configurations.latest_index) > world.committed


def _misses_its_disk(configuration: Configuration, voter: Node) -> bool:
    server = configuration.get(voter.node_id)
    return not voter.has_sound_disk or (server is not None and server.incarnation != voter.incarnation)

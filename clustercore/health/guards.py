"""What may keep an unhealthy node in discovery. No clock, no I/O: facts in, the guard that stands in the way out.

A checker that is wrong must not take a cluster apart. Users of other systems were hurt by each of these: a checker that
was cut off itself and evicted everybody (alibaba/nacos#631), a heartbeat that stopped for most nodes at once
(openstack-k8s-operators/infra-operator#594), health that hides more than half of the nodes (envoyproxy/envoy#16872).

Raft's members are never changed by any of this.
"""

from __future__ import annotations

import math
from collections.abc import Container
from enum import StrEnum

import attrs

from clustercore.health.config import HealthConfig
from clustercore.raft.types import Configuration, NodeId, Term

__all__ = ["Facts", "Guard", "blocking_guard", "is_panic"]


class Guard(StrEnum):
    """What stands in the way of taking a node out of discovery. In the order in which they are asked."""

    # A node does not take itself out: it is asked for its own view by everybody else already.
    SELF = "self"
    # Only the leader takes others out, under its lease: two nodes that disagree would undo each other's work.
    NOT_LEADER = "not leader"
    # There is a later term than the one this node was elected in: another may lead by now.
    TERM = "term"
    # The checker doubts itself (``own_score``).
    OWN_HEALTH = "own health"
    # Too few nodes are healthy for this to be about this one node.
    PANIC = "panic"
    # It turned unhealthy together with most of the others.
    CLIFF = "cliff"
    # As many as may be are out already.
    SHARE = "share"
    # What would be left registered is no quorum of the voters.
    QUORUM = "quorum"


@attrs.frozen
class Facts:
    """What there is to know about the removal of one node."""

    # Whom it is about, and who asks.
    node_id: NodeId
    own_id: NodeId
    # The term in which this node holds the lease, if it does, and the highest it has heard of.
    leading_term: Term | None
    highest_term: Term
    # Whether the checker doubts itself, and whether the node fell in a cliff.
    is_frozen: bool
    fell_in_cliff: bool
    # All nodes that are monitored, and this one; those of them known to be well; those in service by discovery.
    nodes: frozenset[NodeId]
    well: frozenset[NodeId]
    in_service: frozenset[NodeId]
    configuration: Configuration


def is_panic(well: int, nodes: int, config: HealthConfig) -> bool:
    """Whether so few nodes are well that health is not believed: all get work, and nobody is taken out."""
    return well < config.panic_share * nodes


def blocking_guard(facts: Facts, config: HealthConfig, guards: Container[Guard]) -> Guard | None:
    """Return the first of ``guards`` that keeps the node where it is; None if it may be taken out."""
    blocked = {
        Guard.SELF: facts.node_id == facts.own_id,
        Guard.NOT_LEADER: facts.leading_term is None,
        Guard.TERM: facts.leading_term is not None and facts.leading_term < facts.highest_term,
        Guard.OWN_HEALTH: facts.is_frozen,
        Guard.PANIC: is_panic(len(facts.well), len(facts.nodes), config),
        Guard.CLIFF: facts.fell_in_cliff,
        Guard.SHARE: _is_above_share(facts, config),
        Guard.QUORUM: _leaves_no_quorum(facts),
    }
    return next((guard for guard in Guard if guard in guards and blocked[guard]), None)


def _is_above_share(facts: Facts, config: HealthConfig) -> bool:
    out = len(facts.nodes - facts.in_service)
    # At least one, or a small cluster could never lose a node.
    return out + 1 > max(1, math.floor(config.max_removed_share * len(facts.nodes)))


def _leaves_no_quorum(facts: Facts) -> bool:
    left = facts.in_service - {facts.node_id}
    majorities = (facts.configuration.voters, facts.configuration.old_voters)
    return any(facts.node_id in voters and len(voters & left) <= len(voters) // 2 for voters in majorities)

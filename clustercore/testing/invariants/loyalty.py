"""Who hears a leader helps nobody to depose it (thesis §4.2.3, §6.4.1)."""

from __future__ import annotations

from clustercore.raft.effects import Effects, Reply
from clustercore.raft.messages import (
    AppendEntriesRequest,
    InstallSnapshotRequest,
    PreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
)
from clustercore.raft.types import NodeId, Role
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["Loyalty"]


class Loyalty(Invariant):
    """No vote is given, nor promised, within an election timeout of hearing a leader or of a start, or by a leader.

    A leader that hands over says so to the one that is to stand, and that one to its voters.
    """

    name = "who hears a leader helps nobody to depose it"
    source = "thesis §4.2.3, §6.4.1"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # When each node, by its own clock, last heard a leader that it followed; or when it started.
        self._heard: dict[NodeId, float] = {}
        self._leader: NodeId | None = None
        self._is_handed_over = False

    def started(self, world: World, node: Node) -> None:
        """It may have heard one just before."""
        self._heard[node.node_id] = world.clock_of(node)

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember who speaks."""
        message = packet.message
        self._is_handed_over = isinstance(message, RequestVoteRequest) and message.is_leadership_transfer
        is_leader = isinstance(message, AppendEntriesRequest | InstallSnapshotRequest)
        self._leader = packet.sender if is_leader and message.term >= node.core.state.current_term else None

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Look at what is answered."""
        if origin is None:
            return
        state, clock = node.core.state, world.clock_of(node)
        if self._leader is not None and state.leader_id == self._leader:
            self._heard[node.node_id] = clock
        for effect in effects:
            if not isinstance(effect, Reply) or not isinstance(effect.message, PreVoteResponse | RequestVoteResponse):
                continue
            if not effect.message.vote_granted or self._is_handed_over:
                continue
            is_leader = self.facts.seen[node.node_id].role is Role.LEADER
            if is_leader or clock < self._heard[node.node_id] + state.config.election_timeout_s:
                heard = "leads" if is_leader else f"heard a leader {clock - self._heard[node.node_id]:.2f} s ago"
                self.fail(f"{node.node_id} would vote for {origin}, and {heard}", node)

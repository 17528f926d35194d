"""A leader that hears no majority steps down (thesis §6.2)."""

from __future__ import annotations

from clustercore.raft.messages import AppendEntriesResponse, InstallSnapshotResponse
from clustercore.raft.types import LogIndex, NodeId, Role
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, Seen, World

__all__ = ["CheckQuorum"]


class CheckQuorum(Invariant):
    """With each heartbeat a leader knows that a majority answered within an election timeout, or leads no more."""

    name = "a leader that hears no majority steps down"
    source = "thesis §6.2"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # When each leader, by its own clock, heard of each peer in its term, and of none before it led.
        self._heard: dict[NodeId, dict[NodeId, float]] = {}
        # When it wanted to be woken next, and where its log ended, after the last event at it.
        self._before: dict[NodeId, tuple[float, LogIndex]] = {}

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember a sign of life."""
        message = packet.message
        if (
            isinstance(message, AppendEntriesResponse | InstallSnapshotResponse)
            and node.core.state.role is Role.LEADER
            and message.term == node.core.state.current_term
        ):
            self._heard[node.node_id][packet.sender] = world.clock_of(node)

    def took_office(self, world: World, node: Node) -> None:
        """Those who elected it have been heard."""
        clock = world.clock_of(node)
        self._heard[node.node_id] = dict.fromkeys(node.core.state.progress, clock)

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Count at each heartbeat, by the members that counted before it."""
        state = node.core.state
        beat, last_index = self._before.get(node.node_id, (state.heartbeat_deadline, state.log.last_index))
        self._before[node.node_id] = state.heartbeat_deadline, state.log.last_index
        if state.role is not Role.LEADER or seen.role is not Role.LEADER or beat == state.heartbeat_deadline:
            return
        since = world.clock_of(node) - state.config.election_timeout_s
        heard = {peer for peer, at in self._heard[node.node_id].items() if at > since} | {node.node_id}
        members = state.configurations.at(last_index)
        for voters in (members.voters, members.old_voters):
            if voters and 2 * len(voters & heard) <= len(voters):
                self.fail(
                    f"{node.node_id} leads on, and within an election timeout heard of the voters "
                    f"{' '.join(sorted(voters))} only {' '.join(sorted(voters & heard))}",
                    node,
                )

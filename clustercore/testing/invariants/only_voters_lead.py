"""Who is no voter does not lead (thesis §4.2.1, §4.2.2)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex, NodeId, Role
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Seen, World

__all__ = ["OnlyVotersLead"]


class OnlyVotersLead(Invariant):
    """A learner is not elected; a leader that is removed leads until that is committed, and no longer."""

    name = "only voters lead"
    source = "thesis §4.2.1, §4.2.2"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # When each leader wanted to be woken for its next heartbeat.
        self._beats: dict[NodeId, float] = {}

    def took_office(self, world: World, node: Node) -> None:
        """It is a voter, or was one before a change that may yet be taken back."""
        state = node.core.state
        history = state.configurations
        known = [history.at(LogIndex(index)) for index in range(state.commit_index, state.log.last_index + 1)]
        if not any(node.node_id in members.all_voters for members in known):
            self.fail(f"{node.node_id} leads term {state.current_term}, and is no voter", node)

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """With each heartbeat, a leader looks whether it still belongs to those who lead."""
        state = node.core.state
        beat = state.heartbeat_deadline
        if beat == self._beats.get(node.node_id, beat):
            self._beats[node.node_id] = beat
            return
        self._beats[node.node_id] = beat
        members = state.configuration
        if (
            state.role is Role.LEADER
            and state.transfer is None
            and not members.is_joint
            and node.node_id not in members.voters
            and state.configurations.latest_index <= state.commit_index
            and state.log.term_at(state.commit_index) == state.current_term
        ):
            self.fail(f"{node.node_id} was removed, which is committed, and leads on", node)

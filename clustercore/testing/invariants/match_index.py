"""What a leader believes of its followers is so (Raft Figure 2, "volatile state on leaders"; §5.3)."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clustercore.raft.entry import Entry
from clustercore.raft.types import BEFORE_LOG, NO_TERM, LogIndex, NodeId, Role, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Seen, World

__all__ = ["MatchIndex"]


@attrs.define
class _Known:
    """What a leader believed after the last event at it."""

    term: Term = NO_TERM
    # For each follower, its match index and the storage that it is of.
    followers: dict[NodeId, tuple[LogIndex, int]] = attrs.field(factory=dict)


class MatchIndex(Invariant):
    """match_index never falls in a term, and counts only what is durable on the follower and equal to the leader's."""

    name = "match index is true"
    source = "Raft Figure 2, §5.3"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._known: dict[NodeId, _Known] = {}

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Look at each follower of a leader whose match index moved."""
        state = node.core.state
        if state.role is not Role.LEADER:
            return
        known = self._known.get(node.node_id)
        if known is None or known.term != state.current_term:
            known = self._known[node.node_id] = _Known(state.current_term)
        followers = known.followers
        for peer, progress in state.progress.items():
            before = followers.get(peer)
            storage = node.known_storages.get(peer, 1)
            match_index = progress.match_index
            if before is None or before[0] != match_index or before[1] != storage:
                if before is not None and match_index < before[0] and storage == before[1]:
                    self.fail(f"{node.node_id} takes back that {peer} has entry {before[0]}", node)
                self._look(world, node, peer, match_index)
                followers[peer] = match_index, storage
        if len(followers) > len(state.progress):
            for peer in followers.keys() - state.progress.keys():
                del followers[peer]

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Look at what a follower cuts: its leader may count on it until a later term reaches it."""
        if not cut:
            return
        leader = world.nodes[self.facts.leaders.get(node.core.state.current_term, node.node_id)]
        progress = leader.core.state.progress.get(node.node_id)
        if (
            progress is not None
            and leader.is_up
            and leader.core.state.current_term == node.core.state.current_term
            and progress.match_index >= entries[0].index
            and leader.known_storages.get(node.node_id) == node.storage
        ):
            self.fail(
                f"{node.node_id} cuts entry {entries[0].index}, which its leader {leader.node_id} counts on", node
            )

    def _look(self, world: World, leader: Node, peer: NodeId, index: LogIndex) -> None:
        follower, state = world.nodes[peer], leader.core.state
        if (
            index == BEFORE_LOG
            or follower.core.state.current_term > state.current_term
            or leader.known_storages.get(peer) != follower.storage
        ):
            return
        term = state.log.term_at(index)
        if not (follower.disk.last_index >= index if term is None else follower.disk.holds(index, term)):
            self.fail(
                f"{leader.node_id} believes that {peer} has entry {index} of term {term}; on its disk is "
                f"{follower.disk.term_at(index)}",
                leader,
            )

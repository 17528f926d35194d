"""Durable before visible: what a message says of its sender is on the sender's disk (Raft Figure 2, §5.1)."""

from __future__ import annotations

from clustercore.raft.effects import Apply, Effects, RestoreSnapshot
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotResponse,
    PreVoteRequest,
    RequestVoteRequest,
    RequestVoteResponse,
)
from clustercore.raft.types import NodeId
from clustercore.testing.invariants.facts import Invariant, Node, Packet, World

__all__ = ["DurableBeforeVisible"]


class DurableBeforeVisible(Invariant):
    """Terms, votes and acknowledged entries are durable before anybody hears of them, and entries before they apply."""

    name = "durable before visible"
    source = 'Raft Figure 2, "updated on stable storage before responding to RPCs"'

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Look at what is applied."""
        for effect in effects:
            kind = type(effect)
            if kind is Apply:
                assert isinstance(effect, Apply)
                for entry in effect.entries:
                    if not node.disk.holds(entry.index, entry.term):
                        self.fail(f"{node.node_id} applies entry {entry.index} before it is durable there", node)
            elif kind is RestoreSnapshot:
                assert isinstance(effect, RestoreSnapshot)
                if node.disk.snapshot_index < effect.metadata.last_included_index:
                    self.fail(f"{node.node_id} restores a snapshot before it is durable there", node)

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Look at what leaves."""
        message, stored = packet.message, node.disk.hard_state
        kind = type(message)
        # Who asks around names the term after its own.
        term = message.term - 1 if kind is PreVoteRequest else message.term
        if stored.current_term < term:
            self._fail(node, packet, f"tells of term {term}; on disk is {stored.current_term}")
        if kind is AppendEntriesRequest or stored.current_term != message.term:
            return
        if isinstance(message, AppendEntriesResponse | InstallSnapshotResponse):
            if message.match_index > node.disk.last_index:
                self._fail(node, packet, f"acknowledges {message.match_index}; the disk ends at {node.disk.last_index}")
        elif isinstance(message, RequestVoteRequest):
            if stored.voted_for != message.candidate_id:
                self._fail(node, packet, f"tells of a vote for {message.candidate_id}; on disk is {stored.voted_for}")
        elif isinstance(message, RequestVoteResponse) and message.vote_granted and stored.voted_for != packet.to:
            self._fail(node, packet, f"tells of a vote for {packet.to}; on disk is {stored.voted_for}")

    def _fail(self, node: Node, packet: Packet, text: str) -> None:
        self.fail(f"{type(packet.message).__name__} from {node.node_id} to {packet.to} {text}", node)

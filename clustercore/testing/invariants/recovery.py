"""A start yields all that was acknowledged (Raft Figure 2, "persistent state"; thesis §3.8)."""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.entry import Entry
from clustercore.raft.messages import AppendEntriesResponse, RequestVoteRequest, RequestVoteResponse
from clustercore.raft.types import BEFORE_LOG, LogIndex, NodeId, Term
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, World

__all__ = ["Recovery"]


class Recovery(Invariant):
    """A core starts with just what its disk holds, and that has whatever the node told anybody it has."""

    name = "recovery yields all that was acknowledged"
    source = "Raft Figure 2, thesis §3.8"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # The last entry that each storage acknowledged and nothing has replaced since; and its last vote.
        self._acknowledged: dict[tuple[NodeId, int], tuple[LogIndex, Term]] = {}
        self._votes: dict[tuple[NodeId, int], tuple[Term, NodeId]] = {}

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Remember what a message promises."""
        message = packet.message
        key = node.node_id, node.storage
        if type(message) is AppendEntriesResponse:
            index = message.match_index
            if message.success and index > self._acknowledged.get(key, (BEFORE_LOG, 0))[0]:
                term = node.disk.term_at(index)
                # An acknowledgement may leave when a later leader's entries are on their way to take this one's place.
                if term is not None and node.core.state.log.term_at(index) == term:
                    self._acknowledged[key] = index, term
        elif type(message) is RequestVoteRequest:
            self._votes[key] = message.term, message.candidate_id
        elif type(message) is RequestVoteResponse and message.vote_granted:
            self._votes[key] = message.term, packet.to

    def appended(self, world: World, node: Node, entries: Sequence[Entry], cut: Sequence[Term]) -> None:
        """Forget what a later leader replaces."""
        if cut:
            self._forget_from(node, entries[0].index)

    def replaced(self, world: World, node: Node, index: LogIndex, term: Term, *, keeps_log: bool) -> None:
        """Forget what a snapshot takes the place of."""
        if not keeps_log:
            self._forget_from(node, LogIndex(index + 1))

    def _forget_from(self, node: Node, index: LogIndex) -> None:
        key = node.node_id, node.storage
        known, _ = self._acknowledged.get(key, (BEFORE_LOG, 0))
        if known >= index:
            # Of what is before it nothing is known by its term; the next acknowledgement says.
            del self._acknowledged[key]

    def started(self, world: World, node: Node) -> None:
        """Compare a core that starts with its disk, and the disk with what was told."""
        state, disk, key = node.core.state, node.disk, (node.node_id, node.storage)
        stored = disk.hard_state
        if (state.current_term, state.voted_for) != (stored.current_term, stored.voted_for):
            self.fail(
                f"{node.node_id} starts with term {state.current_term} and vote {state.voted_for}; its disk has "
                f"{stored.current_term} and {stored.voted_for}",
                node,
            )
        log = state.log
        if (log.last_term, log.last_index) != disk.end:
            self.fail(f"the log of {node.node_id} ends at {log.last_index}, on its disk at {disk.last_index}", node)
        if not state.commit_index == state.last_applied == disk.snapshot_index:
            self.fail(f"{node.node_id} starts with {state.commit_index} committed, {state.last_applied} applied", node)
        index, term = self._acknowledged.get(key, (BEFORE_LOG, Term(0)))
        if index > BEFORE_LOG and not disk.holds(index, term):
            self.fail(f"{node.node_id} acknowledged entry {index} of term {term}, and starts without it", node)
        voted_in, candidate = self._votes.get(key, (Term(0), NodeId("")))
        if stored.current_term == voted_in and stored.voted_for != candidate and candidate:
            self.fail(f"{node.node_id} voted for {candidate} in term {voted_in}, and starts without it", node)

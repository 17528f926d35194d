"""What the fields of ``RaftState`` and ``Progress`` say of themselves, and of the disk."""

from __future__ import annotations

import math

from clustercore.raft.progress import Progress, ProgressState
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, Role
from clustercore.testing.invariants.facts import Invariant, Node, Seen, World

__all__ = ["Bookkeeping"]


class Bookkeeping(Invariant):
    """A core's own fields are consistent, and what it takes for durable is on its disk."""

    name = "a core's state is consistent"
    source = "clustercore.raft.state, clustercore.raft.progress"

    def settled(self, world: World, node: Node, seen: Seen) -> None:
        """Look at the node."""
        state = node.core.state
        log = state.log
        last_index, durable_index, applied = log.last_index, state.durable_index, state.last_applied
        if not (
            applied <= state.commit_index <= last_index
            and applied <= durable_index <= last_index
            and applied == node.machine.index
            and (log.base_index <= applied or state.installing is not None)
            and log.last_term <= state.current_term
        ):
            self.fail(
                f"{node.node_id}: base {log.base_index}, applied {applied}, machine at {node.machine.index}, durable "
                f"{durable_index}, committed {state.commit_index}, log up to {last_index}, term {log.last_term} of "
                f"{state.current_term}",
                node,
            )
        if durable_index > log.base_index:
            term = log.term_at(durable_index)
            if term is None or not node.disk.holds(durable_index, term):
                self.fail(f"{node.node_id} takes entry {durable_index} of term {term} for durable, and it is not", node)
        if log.base_index > BEFORE_LOG and state.installing is None:
            snapshot = state.snapshot
            if snapshot is None or not log.base_index <= snapshot.last_included_index <= applied:
                self.fail(f"{node.node_id} dropped its log up to {log.base_index}; its snapshot is {snapshot}", node)
        if state.role is Role.LEADER:
            self._leader(node, state)
        else:
            self._other(node, state)

    def _leader(self, node: Node, state: RaftState) -> None:
        stored = node.disk.hard_state
        # It was elected by durable votes, its own among them.
        if (stored.current_term, stored.voted_for) != (state.current_term, node.node_id):
            self.fail(f"{node.node_id} leads term {state.current_term}; on its disk is {stored}", node)
        if (
            state.leader_id != state.node_id
            or state.heartbeat_deadline == math.inf
            or state.election_deadline != math.inf
        ):
            self.fail(f"{node.node_id} leads, and waits for an election, or for no heartbeat", node)
        if state.progress.keys() != state.configuration.members - {node.node_id}:
            self.fail(f"{node.node_id} leads, and its followers are {sorted(state.progress)}", node)
        for peer, progress in state.progress.items():
            if not self._is_consistent(state, progress):
                self.fail(f"{node.node_id} has contradictory progress of {peer}: {progress}", node)

    def _is_consistent(self, state: RaftState, progress: Progress) -> bool:
        if not (
            progress.answered_round <= state.last_round
            and progress.match_index < progress.next_index <= state.log.last_index + 1
        ):
            return False
        sending = progress.sending
        if (progress.state is ProgressState.SNAPSHOT) != (sending is not None):
            return False
        # The entries after the snapshot are kept for the follower.
        if sending is not None and state.log.base_index > sending.metadata.last_included_index:
            return False
        inflight = progress.inflight
        if not inflight:
            return progress.inflight_bytes == 0
        last_indexes = [request.last_index for request in inflight]
        sizes = [request.size_bytes for request in inflight]
        return (
            len(inflight) <= state.config.max_inflight_appends
            and sorted(last_indexes) == last_indexes
            and progress.inflight_bytes == sum(sizes)
            # The newest request may be of any size.
            and sum(sizes[:-1]) < state.config.max_inflight_bytes
        )

    def _other(self, node: Node, state: RaftState) -> None:
        if (
            state.leader_id == state.node_id
            or state.heartbeat_deadline != math.inf
            or state.progress
            or state.transfer is not None
            or state.reads_under_way is not None
            or state.waiting_reads
        ):
            self.fail(f"{node.node_id} does not lead, and keeps what only a leader has", node)
        # A node that could be elected waits for that, or nobody may ever stand.
        if (state.election_deadline == math.inf) and state.may_stand:
            self.fail(f"{node.node_id} may stand for election, and never will", node)

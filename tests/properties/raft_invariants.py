"""What must hold in a world of cores after every event (Raft Figure 3, and the promises of ``effects.py``).

``Invariants`` remembers what an outside observer could know: who led, who was voted for, what was committed. Each check
is one method, raises AssertionError, and cites its rule.
"""

from __future__ import annotations

import math

import attrs

from clustercore.raft.configuration import configurations_in
from clustercore.raft.effects import Apply, Effects, ReadReady, ReadRefused, Reply, RestoreSnapshot, Send
from clustercore.raft.messages import (
    AppendEntriesResponse,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RequestVoteRequest,
)
from clustercore.raft.messages import RequestVoteResponse as VoteResponse
from clustercore.raft.progress import ProgressState
from clustercore.raft.quorum import VoteResult, vote_result
from clustercore.raft.state import RaftState
from clustercore.raft.types import BEFORE_LOG, NO_TERM, Configuration, HardState, LogIndex, NodeId, Role, Term
from tests.properties.raft_world import Disk, Node, Packet, World

__all__ = ["Invariants"]


@attrs.frozen
class _Seen:
    """What a running node showed after the last event; later it may only grow."""

    term: Term = NO_TERM
    voted_for: NodeId | None = None
    commit_index: LogIndex = BEFORE_LOG
    last_applied: LogIndex = BEFORE_LOG
    role: Role = Role.FOLLOWER
    last_index: LogIndex = BEFORE_LOG
    last_term: Term = NO_TERM


@attrs.define
class Invariants:
    """A watcher that checks Raft's safety properties."""

    leaders: dict[Term, NodeId] = attrs.field(factory=dict)
    votes: dict[tuple[NodeId, Term], NodeId] = attrs.field(factory=dict)
    # Highest term a node's message carried: no later start of it may know less.
    terms: dict[NodeId, Term] = attrs.field(factory=dict)
    # Each entry ever seen, by index and term, with the term before it and its command.
    entries: dict[tuple[LogIndex, Term], tuple[Term | None, bytes]] = attrs.field(factory=dict)
    # Committed entries' terms, and the term in which each was first committed.
    committed: dict[LogIndex, Term] = attrs.field(factory=dict)
    committed_in: dict[LogIndex, Term] = attrs.field(factory=dict)
    digests: dict[LogIndex, bytes] = attrs.field(factory=dict)
    seen: dict[NodeId, _Seen] = attrs.field(factory=dict)
    # What must still be so after the message that is being delivered, which is of an earlier term or only asks around.
    unchanged: tuple[object, ...] | None = None

    # --- Watcher ---

    def started(self, world: World, node: Node) -> None:
        """A restarted node knows every term it ever showed, and begins at its snapshot."""
        assert node.core.state.current_term >= self.terms.get(node.node_id, NO_TERM), "a term was forgotten"
        state = node.core.state
        self.seen[node.node_id] = _Seen(term=state.current_term, voted_for=state.voted_for)
        self.settled(world, node)

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Remember what a message of an earlier term, or a pre-vote, must leave as it is."""
        state, message = node.core.state, packet.message
        match message:
            case PreVoteRequest():
                is_empty = True
            case PreVoteResponse():
                # One from a node that is behind may well count: it answers for the term that is asked about.
                is_empty = max(message.term, message.candidate_term) <= state.current_term
            case _:
                is_empty = message.term < state.current_term
        self.unchanged = _substance(state) if is_empty else None

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Effects keep their own promises; a message of an earlier term has none but its refusal (Raft §5.1).

        The same goes for a pre-vote, which at its receiver changes nothing, and at its sender no term and no vote
        (thesis §9.6).
        """
        if self.unchanged is not None:
            assert _substance(node.core.state) == self.unchanged, "a pre-vote or an old message changed something"
            assert all(isinstance(effect, Reply) for effect in effects)
            self.unchanged = None
        assert sum(isinstance(effect, Reply) for effect in effects) <= 1, "two replies to one request"
        for effect in effects:
            match effect:
                case Apply(entries=entries):
                    for entry in entries:
                        assert node.disk.holds(entry.index, entry.term), f"{entry} applied before it was durable"
                case RestoreSnapshot(metadata=metadata):
                    assert node.disk.snapshot_index >= metadata.last_included_index, "restored before it was durable"
                case Send(message=PreVoteRequest()):
                    before, state = self.seen[node.node_id], node.core.state
                    assert (state.current_term, state.voted_for) == (before.term, before.voted_for), "asking is no vote"
                case ReadReady(read_ids=read_ids, read_index=read_index):
                    # Whoever reads at the index sees all that anybody was told before the read began (thesis §6.4).
                    for read_id in read_ids:
                        assert read_id not in world.answered, f"read {read_id} is answered twice"
                        assert read_index >= world.asked[read_id], f"read {read_id} misses what was committed before it"
                case ReadRefused(read_ids=read_ids):
                    assert world.answered.keys().isdisjoint(read_ids), f"one of the reads {read_ids} is answered twice"
                case _:
                    pass

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Durable before visible: what a message says of its sender is on the sender's disk."""
        message, stored = packet.message, node.disk.hard_state
        # Who asks around names the term after its own.
        term = Term(message.term - 1) if isinstance(message, PreVoteRequest) else message.term
        assert stored.current_term >= term, f"{packet} shows a term that is not durable"
        self.terms[node.node_id] = max(term, self.terms.get(node.node_id, NO_TERM))
        match message:
            case RequestVoteRequest(candidate_id=candidate_id):
                self._vote(node.node_id, message.term, candidate_id)
            case VoteResponse(vote_granted=True):
                self._vote(node.node_id, message.term, packet.to)
                if stored.current_term == message.term:
                    assert stored.voted_for == packet.to, "a vote was shown that is not durable"
            case AppendEntriesResponse(match_index=match_index) | InstallSnapshotResponse(match_index=match_index):
                if stored.current_term == message.term:
                    assert match_index <= node.disk.last_index, f"{packet} acknowledges what is not durable"
            case _:
                pass

    def settled(self, world: World, node: Node) -> None:
        """All the rest, after an event at one node."""
        state = node.core.state
        self._state_is_consistent(node, state)
        self._grows(node, state)
        self._logs_match(state)
        self._one_leader(world, node, state)
        self._commits(world, node, state)
        self._machines_agree(node)
        self._durable_index_is_true(node, state)
        self._match_indexes_are_true(world)
        self._leases_are_true(world)
        self.seen[node.node_id] = _Seen(
            state.current_term,
            state.voted_for,
            state.commit_index,
            state.last_applied,
            state.role,
            state.log.last_index,
            state.log.last_term,
        )

    # --- One node ---

    def _state_is_consistent(self, node: Node, state: RaftState) -> None:
        """The invariants that the fields of RaftState and Progress state about themselves."""
        assert state.log.base_index <= state.last_applied or state.installing is not None
        assert state.last_applied <= min(state.commit_index, state.durable_index)
        assert max(state.commit_index, state.durable_index) <= state.log.last_index
        assert state.last_applied == node.machine.index
        if state.log.base_index > BEFORE_LOG and state.installing is None:
            assert state.snapshot is not None
            assert state.log.base_index <= state.snapshot.last_included_index <= state.last_applied
        assert state.log.last_term <= state.current_term
        assert (state.role is Role.LEADER) == (state.leader_id == state.node_id)
        if state.role is Role.LEADER:
            # It was elected by durable votes, its own among them.
            assert node.disk.hard_state == HardState(state.current_term, node.node_id)
        assert (state.role is Role.LEADER) == (state.heartbeat_deadline != float("inf"))
        # Who may not stand needs none; one that lost its vote since it drew a time lets that pass (thesis §4.2.2).
        assert state.election_deadline == math.inf or state.role is not Role.LEADER
        assert state.election_deadline < math.inf or state.role is Role.LEADER or not state.may_stand
        assert set(state.progress) == (
            set(state.configuration.peers_of(state.node_id)) if state.role is Role.LEADER else set()
        )
        if state.role is not Role.LEADER:
            assert (state.transfer, state.reads_under_way, state.waiting_reads) == (None, None, [])
        for progress in state.progress.values():
            assert progress.answered_round <= state.last_round
            assert (progress.state is ProgressState.SNAPSHOT) == (progress.sending is not None)
            if progress.sending is not None:
                # The entries after the snapshot are kept for the follower.
                assert state.log.base_index <= progress.sending.metadata.last_included_index
            assert progress.match_index < progress.next_index <= state.log.last_index + 1
            assert len(progress.inflight) <= state.config.max_inflight_appends
            last_indexes = [request.last_index for request in progress.inflight]
            assert sorted(last_indexes) == last_indexes
            sizes = [request.size_bytes for request in progress.inflight]
            assert progress.inflight_bytes == sum(sizes)
            # The newest request may be of any size.
            assert sum(sizes[:-1]) < state.config.max_inflight_bytes

    def _grows(self, node: Node, state: RaftState) -> None:
        """Terms, commitment and application never go back; a leader only appends (Leader Append-Only)."""
        before = self.seen[node.node_id]
        assert state.current_term >= before.term
        assert state.commit_index >= before.commit_index
        assert state.last_applied >= before.last_applied
        if state.role is before.role is Role.LEADER and state.current_term == before.term:
            assert state.log.last_index >= before.last_index
            if before.last_index >= state.log.base_index:
                assert state.log.term_at(before.last_index) == before.last_term

    def _logs_match(self, state: RaftState) -> None:
        """Log Matching: an index and a term name one command, and one entry before it; so, by induction, one prefix."""
        if state.log.last_index == state.log.base_index:
            return
        before = state.log.term_at(state.log.base_index)
        for entry in state.log.slice(state.log.first_index, state.log.last_index):
            known = self.entries.setdefault((entry.index, entry.term), (before, entry.command))
            assert known == (before, entry.command), f"two logs differ before or at {entry}"
            before = entry.term

    def _durable_index_is_true(self, node: Node, state: RaftState) -> None:
        """What a core counts as its own acknowledgement is on its own disk."""
        for index in range(state.log.first_index, state.durable_index + 1):
            term = state.log.term_at(LogIndex(index))
            assert term is not None
            assert node.disk.holds(LogIndex(index), term), (
                f"index {index} of term {term} is not on {node.node_id}'s disk"
            )

    def _vote(self, voter: NodeId, term: Term, candidate: NodeId) -> None:
        """One vote a term, across restarts (Raft §5.2)."""
        assert self.votes.setdefault((voter, term), candidate) == candidate, f"{voter} voted twice in term {term}"

    # --- The cluster ---

    def _one_leader(self, world: World, node: Node, state: RaftState) -> None:
        """Election Safety, and Leader Completeness when a term's leader is first seen."""
        if state.role is not Role.LEADER:
            return
        is_new = state.current_term not in self.leaders
        assert self.leaders.setdefault(state.current_term, node.node_id) == node.node_id, "two leaders in one term"
        if is_new:
            for index, term in self.committed.items():
                self._leader_has(state, index, term)

    def _leader_has(self, state: RaftState, index: LogIndex, term: Term) -> None:
        """Leader Completeness: a leader has every entry committed in an earlier term (Raft §5.4.3)."""
        if self.committed_in[index] < state.current_term and index > state.log.base_index:
            assert state.log.term_at(index) == term, f"leader {state.node_id} lacks the committed entry {index}"

    def _commits(self, world: World, node: Node, state: RaftState) -> None:
        """A committed entry is durable on a majority, never changes, and every later leader has it."""
        for number in range(self.seen[node.node_id].commit_index + 1, state.commit_index + 1):
            index = LogIndex(number)
            term = state.log.term_at(index)
            if index <= state.log.base_index:
                # Covered by a snapshot: it was committed before that was taken.
                assert index in self.committed
                continue
            assert term is not None
            if index not in self.committed:
                holders = {name: other.disk.holds(index, term) for name, other in world.nodes.items()}
                assert vote_result(state.configuration, holders) is VoteResult.WON, (
                    f"entry {index} is committed, but only {[name for name in holders if holders[name]]} hold it"
                )
                self.committed[index], self.committed_in[index] = term, state.current_term
                if index == state.commit_index:
                    self._no_one_can_win_without(world, index, term)
                for other in world.nodes.values():
                    if other.is_up and other.core.state.role is Role.LEADER:
                        self._leader_has(other.core.state, index, term)
            assert self.committed[index] == term, f"two entries are committed at {index}"

    def _no_one_can_win_without(self, world: World, index: LogIndex, term: Term) -> None:
        """Whoever could be elected from the disks as they are has the entry just committed (Raft §5.4.1, §5.4.2).

        So an entry that is committed too early is found at once, and not only if the election that loses it follows.
        """
        ends = {name: _end_of(node.disk) for name, node in world.nodes.items()}
        for name, node in world.nodes.items():
            votes = {other: end <= ends[name] for other, end in ends.items()}
            members = _members_on(node, world)
            if members.servers and vote_result(members, votes) is VoteResult.WON:
                assert node.disk.holds(index, term), f"{name} could win, and lacks the committed entry {index}"

    def _machines_agree(self, node: Node) -> None:
        """State Machine Safety: after the same index every machine is the same."""
        known = self.digests.setdefault(node.machine.index, node.machine.digest)
        assert known == node.machine.digest, f"machines differ after {node.machine.index}"

    def _leases_are_true(self, world: World) -> None:
        """While a lease lasts nobody leads a later term, and its holder knows all that is committed (thesis §6.4.1).

        All nodes have the world's clock.
        """
        for holder in world.nodes.values():
            if not holder.is_up or holder.core.lease_until(world.now, heard_since=-math.inf) <= world.now:
                continue
            state = holder.core.state
            for other in world.nodes.values():
                rival = other.core.state
                assert not (other.is_up and rival.role is Role.LEADER and rival.current_term > state.current_term), (
                    f"{other.node_id} leads term {rival.current_term} while {state.node_id} holds a lease"
                )
            assert state.commit_index >= world.committed, f"{state.node_id} holds a lease and misses what is committed"

    def _match_indexes_are_true(self, world: World) -> None:
        """match_index counts only what is durable on the follower, and equal; until a later term reaches it."""
        for leader in world.nodes.values():
            state = leader.core.state
            if not leader.is_up:
                continue
            for peer, progress in state.progress.items():
                follower = world.nodes[peer]
                if follower.core.state.current_term > state.current_term:
                    continue
                index = progress.match_index
                term = state.log.term_at(index)
                if term is None or index == BEFORE_LOG:
                    assert follower.disk.last_index >= index
                else:
                    assert follower.disk.holds(index, term), f"match_index {index} of {peer} is not on its disk"


def _end_of(disk: Disk) -> tuple[Term, LogIndex]:
    """What a stored log is compared by in an election."""
    return disk.term_at(disk.last_index) or NO_TERM, disk.last_index


def _members_on(node: Node, world: World) -> Configuration:
    """What a node that starts from its disk would count votes by; nobody if it waits to be added."""
    stored = configurations_in(node.disk.entries)
    if stored:
        return stored[-1][1]
    if node.disk.snapshot is not None and node.disk.snapshot.metadata.configuration.servers:
        return node.disk.snapshot.metadata.configuration
    return world.configuration if node.node_id in world.configuration.voters else Configuration()


def _substance(state: RaftState) -> tuple[object, ...]:
    """What messages change."""
    known = tuple((peer, progress.match_index, progress.next_index) for peer, progress in state.progress.items())
    log = state.log
    office = state.role, state.current_term, state.voted_for, state.leader_id, tuple(state.votes)
    deadlines = state.election_deadline, state.heartbeat_deadline, state.leader_protected_until
    return office, deadlines, state.commit_index, log.last_index, log.last_term, known

"""The state of one Raft node, and the bookkeeping of its writes.

Every rule module works on this one object. It decides nothing: it holds fields, numbers writes and gathers effects.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.raft.configuration_history import ConfigurationHistory
from clustercore.raft.effects import (
    ConfigurationChanged,
    Effect,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    PersistSnapshotChunk,
)
from clustercore.raft.entry import Entry
from clustercore.raft.log import RaftLog
from clustercore.raft.progress import Progress
from clustercore.raft.types import (
    BEFORE_LOG,
    NO_TERM,
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    Round,
    SnapshotMetadata,
    Term,
    WriteId,
)

if TYPE_CHECKING:
    from random import Random

__all__ = ["RaftState", "ReadBatch", "Receiving", "Transfer"]

_NO_WRITE = WriteId(0)
# Rounds go out once a heartbeat interval, or as fast as reads are answered; an answer to an older one is worth nothing.
_ROUNDS_REMEMBERED = 64


@attrs.define
class _LogWrite:
    """A write of log entries that is not known durable yet."""

    write_id: WriteId
    # The log is durable up to here once the write is. Lowered when a later truncation takes entries away.
    last_index: LogIndex
    # When it was asked for (the caller's monotonic seconds).
    since: float


@attrs.define
class Transfer:
    """A leadership transfer under way (thesis §3.10)."""

    target: NodeId
    deadline: float
    # The round in which the target was last told to stand; 0 if it was not told yet.
    told_round: Round = Round(0)


@attrs.define
class Receiving:
    """A leader's snapshot of which some chunks have arrived."""

    metadata: SnapshotMetadata
    # The term in which a chunk of it last arrived. Within one term the leader, there is but one, sends ever newer ones.
    term: Term
    # How much of it has arrived, and the write that holds the last of that.
    next_offset: int = 0
    write_id: WriteId = _NO_WRITE


@attrs.frozen
class ReadBatch:
    """Reads that wait for a majority to answer one round of heartbeats."""

    round: Round
    # The commit index when the round was sent.
    read_index: LogIndex
    read_ids: tuple[ReadId, ...]


@attrs.define
class RaftState:
    """Everything a core knows (Raft Figure 2), and the effects of the call under way."""

    node_id: NodeId
    config: RaftConfig
    # The only source of chance: same inputs and same seed, same effects.
    rng: Random
    # The identity of this node's storage, made once with it.
    incarnation: str
    # The id that the cluster gets if this node is its first leader.
    new_cluster_id: str

    # --- Persistent: in memory it may be ahead of the disk, and then what depends on it waits for the write. ---

    log: RaftLog
    # Follows from the log and the snapshot before it.
    configurations: ConfigurationHistory
    # Highest term seen. Never falls.
    current_term: Term = NO_TERM
    voted_for: NodeId | None = None
    # Whether this storage has voted while the cluster was not formed, and others were to form it, too.
    is_founder: bool = False

    # --- Volatile, on every node ---

    role: Role = Role.FOLLOWER
    # The leader of current_term, once known.
    leader_id: NodeId | None = None
    # Highest index known committed. Never falls; <= log.last_index.
    commit_index: LogIndex = BEFORE_LOG
    # Highest index handed out in Apply or RestoreSnapshot. <= min(commit_index, durable_index).
    last_applied: LogIndex = BEFORE_LOG
    # Highest index up to which the log is known durable on this node's own disk. <= log.last_index.
    durable_index: LogIndex = BEFORE_LOG

    # Until then this node takes it that a leader is at work, and helps nobody to depose it (thesis §4.2.3, §6.4.1).
    # After a start, too: before it, this node may have told a leader that it follows.
    leader_protected_until: float = -math.inf

    # The storage that each member has now, as far as it was told; its own is not among them.
    incarnations: dict[NodeId, str] = attrs.field(factory=dict)
    # The newest round of heartbeats heard from the leader of the current term.
    heard_round: Round = Round(0)

    # --- Volatile, on pre-candidates, candidates and leaders ---

    # When this node last stood for election.
    stood_at: float = -math.inf

    # Answers of this election, by voter. In a true election it holds this node's own once its vote is durable.
    votes: dict[NodeId, bool] = attrs.field(factory=dict)
    # One for every other voter while leader, otherwise empty.
    progress: dict[NodeId, Progress] = attrs.field(factory=dict)
    # The follower to hand over to, and when to give that up. Proposals are refused meanwhile.
    transfer: Transfer | None = None
    # Whether in this term another node was told to stand. It may do so at any time to come.
    has_told_successor: bool = False

    # The newest round of heartbeats sent in this term, and when the last few were sent: enough to tell how long ago a
    # majority heard the leader.
    last_round: Round = Round(0)
    rounds_sent: deque[tuple[Round, float]] = attrs.field(factory=lambda: deque(maxlen=_ROUNDS_REMEMBERED))
    # Reads that wait for their round to be answered, and those that wait for the next round.
    reads_under_way: ReadBatch | None = None
    waiting_reads: list[ReadId] = attrs.field(factory=list)

    # --- Deadlines, in the caller's monotonic seconds ---

    election_deadline: float = math.inf
    heartbeat_deadline: float = math.inf

    # --- Writes ---

    last_write_id: WriteId = _NO_WRITE
    done_write_id: WriteId = _NO_WRITE
    # The write that holds current_term and voted_for.
    hard_state_write_id: WriteId = _NO_WRITE
    # When a write of log entries was last reported durable (the caller's monotonic seconds).
    log_write_done_at: float = -math.inf
    # Ascending by write_id; not necessarily by last_index.
    _log_writes: deque[_LogWrite] = attrs.field(factory=deque)
    # The newest snapshot known durable here; it covers log.base_index. None before the first.
    snapshot: SnapshotMetadata | None = None
    # A leader's snapshot that is arriving. It covers more than is committed here, or is about to be forgotten.
    receiving: Receiving | None = None
    # A leader's snapshot that has arrived, on its way to its place on the disk, and the write that puts it there.
    # Nothing is applied meanwhile.
    installing: tuple[WriteId, SnapshotMetadata] | None = None

    effects: list[Effect] = attrs.field(factory=list)

    @property
    def configuration(self) -> Configuration:
        """The members that count: the newest in the log, committed or not (Raft §6)."""
        return self.configurations.latest

    @property
    def is_configuration_committed(self) -> bool:
        """Whether the members that count are known to stay."""
        return self.configurations.latest_index <= self.commit_index

    @property
    def has_committed_in_term(self) -> bool:
        """Whether an entry of the current term is committed: only then a leader knows how far the log is."""
        return self.log.term_at(self.commit_index) == self.current_term

    @property
    def may_vote(self) -> bool:
        """Whether this node's storage is the one that the cluster counts on, as far as its log tells.

        One whose disk was wiped has forgotten its votes, and what it acknowledged. It finds itself named with the
        incarnation it had before, or, at an early point of the log, not at all. A learner may vote: it may have been
        promoted by an entry that it does not have yet. So may a node that was removed, if a candidate needs it (thesis
        §4.1): it goes by the newest configuration that names it.
        """
        named = self.configurations.newest_naming(self.node_id)
        return named is not None and named.incarnation in ("", self.incarnation)

    def is_wiped(self, voter: NodeId) -> bool:
        """Whether a voter is known to have another storage than the one that the cluster counts on."""
        named = self.configuration.incarnations.get(voter)
        return named is not None and self.incarnations.get(voter, named) != named

    @property
    def trusted_progress(self) -> Mapping[NodeId, Progress]:
        """The followers whose answers count in a majority: all but voters whose disk was wiped.

        Such a disk has forgotten its votes, and so its term. It may have helped to elect a leader of a later term, and
        then follow this one again: what it answers proves nothing of who leads, and so of what stays in the log.
        """
        wiped = [peer for peer in self.progress if self.is_wiped(peer)]
        if not wiped:
            return self.progress
        return {peer: progress for peer, progress in self.progress.items() if peer not in wiped}

    @property
    def may_stand(self) -> bool:
        """Whether this node may stand for election: its own vote counts, or did before a change not known committed.

        The latter is a leader that removed itself and was restarted. Its log may be the only one that ends with the
        change, and then nobody else can win (thesis §4.2.2, Figure 4.6).
        """
        if not self.may_vote:
            return False
        if self.node_id in self.configuration.all_voters:
            return True
        return not self.is_configuration_committed and self.node_id in self.configurations.previous.all_voters

    @property
    def election_due_at(self) -> float:
        """When to stand for election. Not while this node's vote is being written, however long that takes."""
        # Nobody can have heard of it before: where disks are slow, each election would be given up before it begins.
        is_vote_unheard = self.voted_for is not None and self.hard_state_gate is not None
        return math.inf if is_vote_unheard else self.election_deadline

    @property
    def hard_state_gate(self) -> WriteId | None:
        """The write to wait for before showing current_term or a vote to anyone; None if it is durable."""
        return self.hard_state_write_id if self.hard_state_write_id > self.done_write_id else None

    def gate(self, write_id: WriteId) -> WriteId | None:
        """The write to wait for before saying what rests on ``write_id`` and on the term; None if both are durable."""
        last = max(write_id, self.hard_state_write_id)
        return last if last > self.done_write_id else None

    def log_gate(self, index: LogIndex) -> WriteId | None:
        """Return the write to wait for before acknowledging the log up to ``index``; None if that is durable."""
        if index <= self.durable_index:
            return self.hard_state_gate
        # What is in the log and not durable is in a write under way.
        write_id = next(write.write_id for write in self._log_writes if write.last_index >= index)
        return max(write_id, self.hard_state_write_id)

    @property
    def oldest_log_write_since(self) -> float:
        """When the oldest write of log entries that is not durable yet was asked for; infinity if all are durable."""
        return self._log_writes[0].since if self._log_writes else math.inf

    @property
    def uncommitted_bytes(self) -> int:
        """How many bytes the entries that are not known committed take in the log."""
        return self.log.size_bytes(LogIndex(self.commit_index + 1), self.log.last_index)

    def emit(self, effect: Effect) -> None:
        """Add an effect to the result of the call under way."""
        self.effects.append(effect)

    def persist_hard_state(self) -> None:
        """Ask for the present term and vote to be made durable."""
        self.hard_state_write_id = self._next_write_id()
        self.emit(
            PersistHardState(self.hard_state_write_id, HardState(self.current_term, self.voted_for, self.is_founder))
        )

    def persist_entries(self, entries: tuple[Entry, ...], now: float) -> None:
        """Put entries into the log, cutting what they replace, and ask for them to be made durable."""
        first_index = entries[0].index
        before = self.configuration
        if first_index <= self.log.last_index:
            self.log.truncate_from(first_index)
            self.configurations.truncate_from(first_index)
            self._forget_durability_from(first_index)
        self.log.append(entries)
        self.configurations.append(entries)
        write_id = self._next_write_id()
        self._log_writes.append(_LogWrite(write_id, entries[-1].index, now))
        self.emit(PersistEntries(write_id, entries))
        self._tell_configuration(before)

    def persist_snapshot_chunk(self, receiving: Receiving, data: bytes) -> None:
        """Ask for the next part of a leader's snapshot to be stored."""
        receiving.write_id = self._next_write_id()
        self.emit(PersistSnapshotChunk(receiving.write_id, receiving.metadata, receiving.next_offset, data))
        receiving.next_offset += len(data)

    def persist_snapshot(self, metadata: SnapshotMetadata, now: float) -> None:
        """Put a snapshot in place of the log it covers, and ask for it to be made durable (Raft Figure 13)."""
        index, term = metadata.last_included_index, metadata.last_included_term
        before = self.configuration
        write_id = self._next_write_id()
        if self.log.term_at(index) == term:
            self.log.compact(index)
            self.configurations.start_from(index, metadata.configuration)
            keep_from = self.log.first_index
        else:
            # The committed prefix is the snapshot's as well: what is durable of it stays so until the snapshot is.
            self._forget_durability_from(LogIndex(self.commit_index + 1))
            self.log.reset(index, term)
            self.configurations.reset(index, metadata.configuration)
            keep_from = None
        self._log_writes.append(_LogWrite(write_id, index, now))
        self.installing = (write_id, metadata)
        self.emit(PersistSnapshot(write_id, metadata, keep_from))
        self._tell_configuration(before)

    def writes_done(self, write_id: WriteId, now: float) -> None:
        """Note that all writes up to ``write_id`` are durable."""
        self.done_write_id = max(self.done_write_id, write_id)
        while self._log_writes and self._log_writes[0].write_id <= write_id:
            self.durable_index = max(self.durable_index, self._log_writes.popleft().last_index)
            self.log_write_done_at = now

    def _tell_configuration(self, before: Configuration) -> None:
        if self.configuration != before:
            self.emit(ConfigurationChanged(self.configuration, self.configurations.latest_index))

    def _next_write_id(self) -> WriteId:
        self.last_write_id = WriteId(self.last_write_id + 1)
        return self.last_write_id

    def _forget_durability_from(self, index: LogIndex) -> None:
        """Entries from ``index`` on left the log: writes of them say nothing of the ones that take their place."""
        before = LogIndex(index - 1)
        self.durable_index = min(self.durable_index, before)
        for write in self._log_writes:
            write.last_index = min(write.last_index, before)

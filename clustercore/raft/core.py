"""RaftCore: the one object a runtime drives.

Each method takes one input and returns the effects it leads to; nothing else happens. The rules are in the modules
beside this one, one per chapter of the paper; this one only brings each input to its rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, assert_never

from clustercore.raft.check_quorum import maybe_step_down
from clustercore.raft.commit import maybe_apply, maybe_commit, maybe_restore_snapshot
from clustercore.raft.config import RaftConfig
from clustercore.raft.configuration import MalformedConfiguration
from clustercore.raft.configuration_history import ConfigurationHistory
from clustercore.raft.effects import Effects, ProposalsAppended, ProposalsRefused, Reply, RoleChanged
from clustercore.raft.election import (
    ask_around,
    count_own_vote,
    receive_pre_vote_response,
    receive_request_vote_response,
)
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.errors import InvariantError
from clustercore.raft.leadership_transfer import (
    best_successor,
    give_up_lost_target,
    maybe_give_up_transfer,
    maybe_leave_stalled_disk,
    maybe_tell_target,
    receive_timeout_now,
    receive_timeout_now_response,
    repeat_timeout_now,
    start_transfer,
)
from clustercore.raft.log import RaftLog
from clustercore.raft.membership import (
    change_configuration,
    found,
    maybe_leave,
    maybe_promote_or_readmit,
    peer_identified,
)
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RaftMessage,
    RaftResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from clustercore.raft.reads import (
    lease_until,
    maybe_confirm_reads,
    maybe_refuse_reads,
    quorum_heard_at,
    request_reads,
)
from clustercore.raft.receive_append_entries import receive_append_entries
from clustercore.raft.receive_request_vote import receive_pre_vote, receive_request_vote
from clustercore.raft.replication import (
    maybe_append_to_all,
    peer_unreachable,
    receive_append_entries_response,
    send_heartbeats,
)
from clustercore.raft.roles import become_follower, protect_leader, reset_election_deadline, wait_from_durable_vote
from clustercore.raft.snapshot_transfer import snapshot_gone
from clustercore.raft.snapshots import compact_log, receive_install_snapshot, receive_install_snapshot_response
from clustercore.raft.state import RaftState
from clustercore.raft.types import (
    BEFORE_LOG,
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    SnapshotId,
    SnapshotMetadata,
    Term,
    WriteId,
)
from clustercore.raft.well_formed import is_well_formed

if TYPE_CHECKING:
    from random import Random

__all__ = ["RaftCore"]


class RaftCore:
    """One node's consensus state, sans-IO.

    Time is handed in as ``now``, in seconds of any monotonic clock, and must never go back; the owner calls
    ``time_passed`` at ``deadline`` at the latest. After an exception the core must not be used any more.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        configuration: Configuration,
        config: RaftConfig,
        rng: Random,
        now: float,
        new_cluster_id: str,
        incarnation: str = "",
        protection_s: float = 0.0,
        hard_state: HardState | None = None,
        snapshot: SnapshotMetadata | None = None,
        entries: Sequence[Entry] = (),
    ) -> None:
        """Start a follower from what its storage holds (Raft §5.2: nodes start as followers).

        What is stored is durable; what was committed is not known, beyond the snapshot, until a leader says so.
        The state machine must hold the snapshot's state.

        Args:
            node_id: This node's name in the cluster.
            configuration: The members to start with; the stored ones count instead as soon as there are any. With a
                ``cluster_id`` the cluster is formed already. Without, all its voters must vote for the first leader,
                who forms it. Without servers, this node waits to be added to a cluster.
            config: Timing and limits.
            rng: The only source of chance.
            now: The time now.
            new_cluster_id: The cluster's id if this node comes to form it: as good as unique, and not empty.
            incarnation: The identity of this node's storage, made once with it. Empty if there is none: then a wiped
                disk goes unnoticed.
            protection_s: For how long, in seconds, this node may have promised to protect a leader before it stopped:
                the longest election timeout it had. It helps nobody to depose one, itself included, for so long or an
                election timeout, whichever is more.
            hard_state: The stored term and vote, if any.
            snapshot: The stored snapshot, if any.
            entries: The stored log.

        Raises: InvariantError if what is stored contradicts itself.
        """
        hard_state = hard_state if hard_state is not None else HardState()
        log = _log_from(snapshot, entries)
        snapshot_index = snapshot.last_included_index if snapshot is not None else BEFORE_LOG
        if log.last_term > hard_state.current_term or log.last_index < snapshot_index:
            raise InvariantError(
                f"stored log ends at {log.last_index} in term {log.last_term}, but the stored term is "
                f"{hard_state.current_term} and the snapshot covers {snapshot_index}"
            )
        self._state = RaftState(
            node_id=node_id,
            config=config,
            rng=rng,
            incarnation=incarnation,
            new_cluster_id=new_cluster_id,
            log=log,
            configurations=_configurations_from(configuration, snapshot, entries),
            current_term=hard_state.current_term,
            voted_for=hard_state.voted_for,
            is_founder=hard_state.is_founder,
            snapshot=snapshot,
            commit_index=snapshot_index,
            last_applied=snapshot_index,
            durable_index=log.last_index,
        )
        protect_leader(self._state, now)
        self._state.leader_protected_until = max(self._state.leader_protected_until, now + protection_s)
        reset_election_deadline(self._state, now)
        self._seen = self._office()

    @property
    def state(self) -> RaftState:
        """The whole state, to look at. Only the core changes it."""
        return self._state

    @property
    def deadline(self) -> float:
        """When ``time_passed`` wants to be called next, in the caller's clock; infinity for never."""
        return min(self._state.election_due_at, self._state.heartbeat_deadline)

    @property
    def proposal_room_bytes(self) -> int:
        """How many bytes of commands ``propose`` would append now; 0 if none at all, until the next input.

        Only a leader appends, while it does not hand over. When nothing is uncommitted it takes any number of bytes.
        """
        if self._state.role is not Role.LEADER or self._state.transfer is not None:
            return 0
        return max(0, self._state.config.max_uncommitted_bytes - self._state.uncommitted_bytes)

    def time_passed(self, now: float) -> Effects:
        """Do what is due by ``now``: as leader, step down or send heartbeats; otherwise, ask for votes."""
        state = self._state
        if now >= state.heartbeat_deadline:
            maybe_give_up_transfer(state, now)
            if not maybe_step_down(state, now):
                # Here and not with every round: reads start rounds of their own, and must not put off what is due.
                state.heartbeat_deadline = now + state.config.heartbeat_interval_s
                send_heartbeats(state, now)
                repeat_timeout_now(state)
                maybe_leave_stalled_disk(state, now)
                maybe_leave(state, now)
                maybe_promote_or_readmit(state, now)
        elif now >= state.election_due_at:
            ask_around(state, now)
        return self._finish()

    def receive(self, sender: NodeId, message: RaftMessage, now: float) -> Effects:
        """Take a message from another node. Exactly one Reply answers a request.

        ``sender`` tells whose response this is; requests name their sender themselves.
        """
        state = self._state
        if not is_well_formed(message, state.node_id):
            refusal = _refusal_of(message, state.current_term)
            return () if refusal is None else (Reply(refusal, after=state.hard_state_gate),)
        if isinstance(message, RaftResponse) and sender not in state.configuration.members:
            # From a node that was removed since it was asked. Its term is its own affair now (thesis §4.2.3).
            return ()
        # The term of a vote that is asked for is the candidate's wish; those rules decide whether to take it over.
        if message.term > state.current_term and not isinstance(message, PreVoteRequest | RequestVoteRequest):
            become_follower(state, message.term, now)
        match message:
            case AppendEntriesRequest():
                receive_append_entries(state, message, now)
            case AppendEntriesResponse():
                receive_append_entries_response(state, sender, message, now)
            case PreVoteRequest():
                receive_pre_vote(state, message, now)
            case PreVoteResponse():
                receive_pre_vote_response(state, sender, message, now)
            case RequestVoteRequest():
                receive_request_vote(state, message, now)
            case RequestVoteResponse():
                receive_request_vote_response(state, sender, message, now)
            case InstallSnapshotRequest():
                receive_install_snapshot(state, message, now)
            case InstallSnapshotResponse():
                receive_install_snapshot_response(state, sender, message, now)
            case TimeoutNowRequest():
                receive_timeout_now(state, message, now)
            case TimeoutNowResponse():
                receive_timeout_now_response(state, sender, message)
            case _:
                assert_never(message)
        maybe_tell_target(state)
        if state.role is Role.LEADER:
            maybe_confirm_reads(state, now)
            maybe_leave(state, now)
        return self._finish()

    def propose(self, commands: Sequence[bytes], now: float, *, kinds: Sequence[EntryKind] = ()) -> Effects:
        """Append one or more commands to the log, all of them or none, if this node is the leader (Raft §5.3).

        A leader that is handing over takes none (thesis §3.10), and neither does one with more than
        ``max_uncommitted_bytes`` in its log that are not committed. The first effect is ProposalsAppended or
        ProposalsRefused.

        Args:
            kinds: One for each command, none of them the core's own (NO_OP, CONFIGURATION). Empty if all are COMMAND.
        """
        state = self._state
        room_bytes = self.proposal_room_bytes
        is_too_much = state.uncommitted_bytes > 0 and sum(map(len, commands)) > room_bytes
        if room_bytes == 0 or is_too_much:
            return (ProposalsRefused(state.leader_id),)
        first_index = LogIndex(state.log.last_index + 1)
        entries = tuple(
            Entry.create(LogIndex(first_index + offset), state.current_term, kind, command)
            for offset, (kind, command) in enumerate(
                zip(kinds or repeat(EntryKind.COMMAND, len(commands)), commands, strict=True)
            )
        )
        state.emit(ProposalsAppended(state.current_term, first_index))
        state.persist_entries(entries, now)
        maybe_append_to_all(state, now)
        return self._finish()

    def storage_done(self, write_id: WriteId, now: float) -> Effects:
        """Note that every write up to ``write_id`` is durable: the node's own vote and log now count."""
        state = self._state
        had_gate = state.hard_state_gate is not None
        state.writes_done(write_id, now)
        if had_gate and state.hard_state_gate is None:
            wait_from_durable_vote(state, now)
        maybe_restore_snapshot(state)
        count_own_vote(state, now)
        if state.role is Role.LEADER:
            maybe_commit(state)
            maybe_tell_target(state)
            maybe_confirm_reads(state, now)
            maybe_leave(state, now)
        maybe_apply(state)
        return self._finish()

    def read(self, read_ids: Sequence[ReadId], now: float) -> Effects:
        """Ask for an index at which a read is linearizable (thesis §6.4); ReadReady or ReadRefused answers each id."""
        request_reads(self._state, read_ids, now)
        return self._finish()

    def lease_until(
        self, now: float, *, heard_since: float, protection_s: Mapping[NodeId, float] | None = None
    ) -> float:
        """Return until when, in this node's clock, no other node can lead (thesis §6.4.1); minus infinity for unknown.

        It holds as long as no two nodes' clocks drift apart by more than ``max_clock_drift``. Meanwhile this node's
        commit index is the cluster's.

        Args:
            now: The time now.
            heard_since: Only what a majority heard since then counts: the last time the clock could not be relied on.
            protection_s: For how many seconds each peer protects a leader that it hears, which is its own election
                timeout. The shortest is how long a lease lasts, and a peer that is missing counts for none. Without
                this, all are taken to have this node's.
        """
        return lease_until(self._state, now, heard_since=heard_since, protection_s=protection_s)

    def quorum_heard_at(self, now: float) -> float:
        """Return when this leader sent the newest thing that a majority has answered; minus infinity for never."""
        return quorum_heard_at(self._state, now)

    def transfer_leadership(self, target: NodeId, now: float) -> Effects:
        """Begin to hand over to another voter (thesis §3.10), if this node leads.

        It ends with the leadership, or with TransferGivenUp, at the latest after an election timeout; then this node
        goes on leading.
        """
        start_transfer(self._state, target, now)
        return self._finish()

    def best_successor(self, now: float) -> NodeId | None:
        """Return the follower to hand over to, or None if this node does not lead or none is fit."""
        return best_successor(self._state, now)

    def found(self, now: float) -> Effects:
        """Make this node the sole first voter of a cluster, to which others are added then (thesis §4.4).

        Whoever calls it makes sure that no other node does so for what is to be one cluster. It does nothing on a node
        that knows of members already, has a log, or voted in the forming of a cluster.
        """
        found(self._state, now)
        return self._finish()

    def change_configuration(self, target: Configuration, now: float) -> Effects:
        """Begin to change the members to ``target``, all at once, if this node leads (thesis chapter 4).

        The first effect is ConfigurationAppended or ConfigurationRefused. The change is finished when a configuration
        that is not joint is committed at or after the index it tells. Learners may come and go as they like; a new
        voter must have caught up as a learner before, which ``is_promoted`` leaves to the leader.

        Args:
            target: All members that are to be, and not joint. It need not name the cluster's id or incarnations.
            now: The time now.
        """
        change_configuration(self._state, target, now)
        return self._finish()

    def peer_identified(self, peer: NodeId, incarnation: str) -> Effects:
        """Note the identity of a member's storage, as it told on connecting; of others nothing is noted.

        Whatever an earlier storage of the peer answered must not be handed in any more after this. A leader that finds
        another storage than the cluster counts on makes the peer a learner at one of its next heartbeats.
        """
        peer_identified(self._state, peer, incarnation)
        return self._finish()

    def configuration_at(self, index: LogIndex) -> Configuration:
        """Return the members as of an applied entry, for the snapshot that is taken there.

        If this node was given a newer snapshot meanwhile, they are that one's: the one being taken is never used then.
        """
        return self._state.configurations.at(index)

    def snapshot_taken(self, metadata: SnapshotMetadata, keep_from: LogIndex) -> Effects:
        """Drop log entries below ``keep_from``: this node's own snapshot is durable.

        Entries that a follower needs after the snapshot it is being sent stay for the time being.

        Raises: InvariantError if the snapshot covers what is not applied, or a gap would be left.
        """
        compact_log(self._state, metadata, keep_from)
        return self._finish()

    @property
    def sending(self) -> dict[NodeId, SnapshotId]:
        """Which snapshot is being sent to which peer. Those must stay readable."""
        return {
            peer: progress.sending.metadata.snapshot_id
            for peer, progress in self._state.progress.items()
            if progress.sending is not None
        }

    def snapshot_gone(self, peer: NodeId, snapshot_id: SnapshotId) -> Effects:
        """Note that a snapshot which is being sent cannot be read: a newer one was stored before the first chunk."""
        snapshot_gone(self._state, peer, snapshot_id)
        return self._finish()

    def peer_unreachable(self, peer: NodeId) -> Effects:
        """Take for lost what was sent to a peer and not answered. Its next answer starts replication again."""
        peer_unreachable(self._state, peer)
        give_up_lost_target(self._state, peer)
        return self._finish()

    def _office(self) -> tuple[Role, Term, NodeId | None]:
        return self._state.role, self._state.current_term, self._state.leader_id

    def _finish(self) -> Effects:
        maybe_refuse_reads(self._state)
        office = self._office()
        if office != self._seen:
            self._seen = office
            self._state.emit(RoleChanged(*office))
        effects = tuple(self._state.effects)
        self._state.effects.clear()
        return effects


def _log_from(snapshot: SnapshotMetadata | None, entries: Sequence[Entry]) -> RaftLog:
    if snapshot is None:
        return RaftLog(entries)
    if entries and entries[0].index <= snapshot.last_included_index:
        # A tail kept for slow followers. Its first entry serves as the base: the term before it is not known.
        return RaftLog(entries[1:], base_index=entries[0].index, base_term=entries[0].term)
    return RaftLog(entries, base_index=snapshot.last_included_index, base_term=snapshot.last_included_term)


def _configurations_from(
    configuration: Configuration, snapshot: SnapshotMetadata | None, entries: Sequence[Entry]
) -> ConfigurationHistory:
    since = snapshot.last_included_index if snapshot is not None else BEFORE_LOG
    history = ConfigurationHistory(since, configuration)
    if snapshot is not None:
        history.reset(since, snapshot.configuration)
    try:
        history.append([entry for entry in entries if entry.index > since])
    except MalformedConfiguration as error:
        raise InvariantError(f"the stored log has a configuration that cannot be read: {error}") from error
    return history


def _refusal_of(message: RaftMessage, current_term: Term) -> RaftResponse | None:
    """Return the answer to a malformed request; None for a response, which has none."""
    match message:
        case RequestVoteRequest():
            return RequestVoteResponse(current_term, vote_granted=False)
        case PreVoteRequest():
            return PreVoteResponse(current_term, candidate_term=message.term, vote_granted=False)
        case TimeoutNowRequest():
            return TimeoutNowResponse(current_term, message.round)
        case AppendEntriesRequest():
            return AppendEntriesResponse(current_term, success=False, prev_log_index=message.prev_log_index)
        case InstallSnapshotRequest():
            return InstallSnapshotResponse(current_term, BEFORE_LOG, message.metadata.snapshot_id)
        case _:
            return None

"""How the parts of a running node are joined.

Long because it is the one place that knows all of them: each part is made here and handed what it needs of the others,
so that none has to know another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random

import trio

from clustercore.interfaces.companion import NodeCompanion, NodeSite
from clustercore.interfaces.discovery import Discovery, DiscoverySnapshot, Member, MemberMetadata
from clustercore.interfaces.errors import InvariantError, LogCorrupt
from clustercore.interfaces.messages import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    MembersFailed,
    MembersResponse,
    Message,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
)
from clustercore.interfaces.node import NodeHandle
from clustercore.interfaces.storage import Storage, StorageIdentity, StoredState
from clustercore.interfaces.transport import Lane, ServiceTransport, Transport
from clustercore.interfaces.values import NodeStatus, PeerStatus, RoleChange
from clustercore.raft.core import RaftCore
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RaftRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from clustercore.raft.types import (
    BEFORE_LOG,
    Configuration,
    LogIndex,
    NodeId,
    SnapshotId,
    SnapshotMetadata,
    Term,
    TransferFailure,
)
from clustercore.runtime.address_book import AddressBook
from clustercore.runtime.applier import Applier
from clustercore.runtime.causes import Cause
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.engine import Engine
from clustercore.runtime.first_election import missing_for_first_election, tell_who_is_missing
from clustercore.runtime.forwarder import MAX_REQUEST_BYTES, Forwarder
from clustercore.runtime.founding import FirstVoters, Founding, FoundingWatch
from clustercore.runtime.hand_over import HandOvers
from clustercore.runtime.incoming import Acceptor
from clustercore.runtime.introductions import CHUNKS_SINCE, Introductions
from clustercore.runtime.lanes import Lanes
from clustercore.runtime.leading import Leaderships
from clustercore.runtime.member_changes import MemberChanges
from clustercore.runtime.members_desk import MembersDesk
from clustercore.runtime.membership_duties import MembershipDuties
from clustercore.runtime.peers import PeerLane
from clustercore.runtime.presence import Presence
from clustercore.runtime.proposals import Proposals
from clustercore.runtime.reads import ClockGuard, ReadIndexes
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.session_entries import SessionLimits
from clustercore.runtime.snapshot_sender import SnapshotSender
from clustercore.runtime.snapshots import Snapshots
from clustercore.runtime.submitter import Submitter
from clustercore.runtime.versions import CommandVersions
from clustercore.runtime.vitals import Vitals
from clustercore.runtime.whereabouts import Whereabouts
from clustercore.runtime.writer import SaveIdentity, Writer

__all__ = ["Assembly"]

logger = logging.getLogger("clustercore")

# How long a machine may be suspended, or by how much its clock be set, without a lease being void: this share of an
# election timeout. Above what reading two clocks one after the other takes on a busy machine.
_UNNOTICED_STEP = 0.05

# Turns of the scheduler until a task that waited for a proposal has answered a client: one, and one for what it does
# between. A client that is not answered then learns that the outcome is unknown.
_TURNS_TO_ANSWER = 2


class Assembly:
    """The parts of one running node, and what each tells the others.

    ::

        links in -> Acceptor -> Engine (owns the core) -> PeerLane -> links out
        propose -> Proposals ----^   |                        Forwarder --^
                                     +-> Writer (owns the storage) -> Engine
                                     +-> Applier (owns the state machine) -> Proposals
    """

    def __init__(
        self,
        *,
        node: NodeHandle,
        configuration: Configuration,
        replicated: ReplicatedState,
        transport: Transport,
        storage: Storage,
        stored: StoredState,
        identity: StorageIdentity,
        discovery: Discovery,
        known: DiscoverySnapshot,
        join: Sequence[str] | None,
        founding: Founding | None,
        companions: Sequence[NodeCompanion],
        config: NodeConfig,
        rng: Random,
        wall_clock: Callable[[], float],
    ) -> None:
        """Build all parts from what is stored; ``replicated`` holds the state of the stored snapshot.

        Raises: LogCorrupt if what is stored contradicts itself.
        """
        # Long because it is a list: every part once, in the order in which they need each other.
        # Set by start.
        self._nursery: trio.Nursery | None = None
        # Where this node serves; set once it does.
        self.address = ""
        self._node_id = node.node_id
        self._config = config
        self._transport = transport
        self._rng = rng
        self._label = founding.label(node.node_id) if founding is not None else ""
        self.replicated = replicated
        self._core = _core_of(identity, configuration, stored, config, rng, label=self._label)
        self._first_voters = FirstVoters(founding.expect, lambda: self._core.state) if founding is not None else None
        # The others, and the ways to them.
        self.presence = Presence(discovery, node.node_id, known=known, member=self._told_of_itself)
        self._introductions = self._make_introductions(identity)
        self._addresses = self._make_address_book()
        self._lanes = Lanes(self._make_lane, farewell_s=config.raft.election_timeout_s)
        self._lanes.follow(self._core.state.configuration.peers_of(node.node_id))
        # What is asked of this node, and waits for the cluster.
        self.proposals = Proposals(
            node_id=node.node_id, max_commands=config.max_pending_proposals, max_bytes=config.max_pending_bytes
        )
        self._forwarder = self._make_forwarder()
        self.read_indexes = self._make_read_indexes()
        # A step of the clocks of up to so much stays unnoticed, and each lease is shorter by as much: what it leaves to
        # the drift of the clocks is for the drift alone.
        self._unnoticed_step_s = config.raft.election_timeout_s * _UNNOTICED_STEP
        self._clock_guard = ClockGuard(wall_clock, tolerance_s=self._unnoticed_step_s)
        self.leaderships = Leaderships(lease_until=self.lease_until, term=lambda: self._core.state.current_term)
        # What is stored, and what is made of it.
        self._snapshot_rng = Random(rng.getrandbits(64))
        snapshot_index = stored.snapshot.last_included_index if stored.snapshot is not None else BEFORE_LOG
        self._writer = Writer(
            storage,
            snapshot_index=snapshot_index,
            on_durable=lambda write_id: self.engine.storage_done(write_id),
        )
        self._snapshots = self._make_snapshots()
        self.applier = self._make_applier(last_applied=snapshot_index)
        # The core, and what is told of it.
        self.engine = self._make_engine()
        self.vitals = Vitals(
            self._writer,
            config.raft,
            lag_s=self.engine.lag_s,
            complaints=[companion.complaint for companion in companions],
        )
        self.submitter = Submitter(node.node_id, self.proposals, self.engine.propose)
        self.hand_overs = self._make_hand_overs()
        self.command_versions = self._make_command_versions()
        self.members_desk = self._make_members_desk()
        self.members = MemberChanges(self.members_desk.answer)
        self.duties = self._make_duties(join, founding)
        self.acceptor = self._make_acceptor()
        self._companions = companions
        self._site = NodeSite(node, transport, self._addresses.of_peers, self._other_members)
        self._join_cluster(identity, stored)
        self._offer_services(node)

    def _join_cluster(self, identity: StorageIdentity, stored: StoredState) -> None:
        """Belong to the cluster that the storage is of, if it is of one."""
        if identity.cluster_id:
            self._transport.name_cluster(identity.cluster_id)
        if stored.snapshot is not None:
            self._members_committed(stored.snapshot.configuration)

    def _offer_services(self, node: NodeHandle) -> None:
        if isinstance(self._transport, ServiceTransport):
            self._transport.offer(self.replicated.machine.services(node))
            for companion in self._companions:
                self._transport.offer(companion.services(node))

    # --- What the parts are made with. A callback may name a part that is made later ---

    def _make_introductions(self, identity: StorageIdentity) -> Introductions:
        return Introductions(
            identity,
            on_identified=self._identified,
            election_timeout_s=self._config.raft.election_timeout_s,
            command_version=self.replicated.machine.version,
            founding=self._label,
            is_member=lambda peer: peer in self._core.state.configuration.members,
        )

    def _make_address_book(self) -> AddressBook:
        return AddressBook(
            self._node_id,
            own_address=lambda: self.address,
            configuration=lambda: self._core.state.configuration,
            known=lambda: self.presence.known,
            reached_at=self._introductions.reached_at,
        )

    def _make_forwarder(self) -> Forwarder:
        return Forwarder(
            self._node_id,
            self.proposals,
            leader_id=lambda: self._core.state.leader_id,
            outbox_to=lambda peer: self._lanes.outbox_to(peer, Lane.BULK),
            wake_engine=lambda: self.engine.wake(),
            timeout_s=self._config.forward_timeout_s,
            # Twice what passes at most between two words of a leader: by then the old one has heard of the new, and
            # said what became of what it was given.
            farewell_s=2 * self._config.raft.heartbeat_interval_s,
            # What a transport carries is known for entries, and a request with as many bytes of commands is no larger.
            max_request_bytes=min(MAX_REQUEST_BYTES, self._config.raft.max_append_bytes),
        )

    def _make_read_indexes(self) -> ReadIndexes:
        return ReadIndexes(
            self._node_id,
            leader_id=lambda: self._core.state.leader_id,
            ask_core=lambda read_id: self.engine.read(read_id),
            outbox_to=lambda peer: self._lanes.outbox_to(peer, Lane.CONTROL),
            timeout_s=self._config.raft.election_timeout_s,
        )

    def _make_snapshots(self) -> Snapshots:
        return Snapshots(
            self._writer,
            chunk_bytes=self._config.snapshot_chunk_bytes,
            label=self._label_snapshot,
            first_index_to_keep=self._first_index_to_keep,
            on_saved=lambda metadata, keep_from: self.engine.snapshot_saved(metadata, keep_from),
        )

    def _make_applier(self, *, last_applied: LogIndex) -> Applier:
        return Applier(
            self.replicated,
            last_applied=last_applied,
            snapshot_entries=self._config.snapshot_entries,
            snapshot_bytes=self._config.snapshot_bytes,
            on_applied=self.proposals.applied,
            snapshots=self._snapshots,
            on_members=self._members_committed,
        )

    def _make_engine(self) -> Engine:
        return Engine(
            self._core,
            applier=self.applier,
            proposals=self.proposals,
            post_job=self._writer.post,
            post_message=self._post,
            snapshot_sender=self._make_snapshot_sender(),
            on_role_change=self._role_changed,
            wake_forwarder=self._forwarder.wake,
            on_heard=self.leaderships.renew,
            on_read_index=self.read_indexes.answered_by_core,
            session_limits=SessionLimits(
                self._config.max_sessions, self._config.max_session_outstanding, self._config.max_session_result_bytes
            ),
            on_configuration_change=self._configuration_changed,
            on_transfer_given_up=self._transfer_given_up,
            may_begin=lambda: self._first_voters is None or self._first_voters.are_there(),
            write_wait_s=self._writer.wait_s,
        )

    def _make_snapshot_sender(self) -> SnapshotSender:
        return SnapshotSender(
            node_id=self._node_id,
            chunk_bytes=self._config.snapshot_chunk_bytes,
            post_job=self._writer.post,
            post_message=self._post,
            on_gone=lambda peer, snapshot_id: self.engine.snapshot_gone(peer, snapshot_id),
            takes_chunks=self._takes_chunks,
            max_message_bytes=self._transport.max_message_bytes,
        )

    def _make_hand_overs(self) -> HandOvers:
        return HandOvers(
            self._node_id,
            begin=self.engine.transfer_leadership,
            best_successor=self.engine.best_successor,
            limit_s=self._config.raft.election_timeout_s + self._config.raft.heartbeat_interval_s,
        )

    def _make_command_versions(self) -> CommandVersions:
        return CommandVersions(
            self._node_id,
            self.replicated.machine.version,
            members=self._members,
            is_leader=lambda: self.engine.is_leader,
            enabled=lambda: self.replicated.command_version,
            enable=self.engine.enable_version,
        )

    def _make_members_desk(self) -> MembersDesk:
        return MembersDesk(
            self._node_id,
            engine=self.engine,
            introductions=self._introductions,
            ask_core=self.read_indexes.ask_core,
            status=self.status,
            outbox_to=lambda peer: self._lanes.outbox_to(peer, Lane.CONTROL),
            address_of=self._addresses.told_of,
            whereabouts=Whereabouts(
                self._node_id,
                transport=self._transport,
                introductions=self._introductions,
                address_of=self._addresses.told_of,
                is_heard=lambda node_id: any(peer.is_heard for peer in self.status().peers if peer.node_id == node_id),
                timeout_s=self._config.connect_timeout_s,
            ),
            timeout_s=self._config.raft.election_timeout_s,
        )

    def _make_duties(self, join: Sequence[str] | None, founding: Founding | None) -> MembershipDuties:
        return MembershipDuties(
            transport=self._transport,
            identity=lambda: self._introductions.identity,
            state=lambda: self._core.state,
            known=lambda: self.presence.known,
            join=join,
            founding=self._make_founding_watch(founding) if founding is not None else None,
            on_removed=self.presence.look,
            election_timeout_s=self._config.raft.election_timeout_s,
        )

    def _make_founding_watch(self, founding: Founding) -> FoundingWatch:
        return FoundingWatch(
            self._node_id,
            founding,
            transport=self._transport,
            known=lambda: self.presence.known,
            found=self.engine.found,
            timeout_s=self._config.raft.election_timeout_s,
        )

    def _make_acceptor(self) -> Acceptor:
        return Acceptor(
            introductions=self._introductions,
            engine=self.engine,
            proposals=self.proposals,
            read_indexes=self.read_indexes,
            answer_members=self.members_desk.answer,
            status=self.status,
            first_voters=self._first_voters,
            max_command_bytes=self._config.max_command_bytes,
            max_message_bytes=self._transport.max_message_bytes,
        )

    # --- Life ---

    def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks."""
        self._nursery = nursery
        for run in (
            self.engine.run,
            self._writer.run,
            self.applier.run,
            self._snapshots.run,
            self._forwarder.run,
            self.read_indexes.run,
        ):
            nursery.start_soon(run)
        nursery.start_soon(self._lanes.run)
        nursery.start_soon(self.presence.follow)
        nursery.start_soon(self.duties.run, self.address)
        nursery.start_soon(tell_who_is_missing, lambda: self._core.state, self._introductions.get, self._config.raft)
        for companion in self._companions:
            nursery.start_soon(companion.run, self._site)
        if self._introductions.identity.election_timeout_s > self._config.raft.election_timeout_s:
            nursery.start_soon(self._keep_earlier_promise)

    async def _keep_earlier_promise(self) -> None:
        """Forget the longer election timeout of an earlier start once nobody can rely on it any more."""
        await trio.sleep(self._introductions.identity.election_timeout_s)
        self._writer.post(SaveIdentity(self._introductions.protects_for(self._config.raft.election_timeout_s)))

    async def leave(self) -> None:
        """Before a good end: hand over, and let everybody hear what became of what they asked of this node.

        What was proposed here is with a leader, or goes to the new one: that takes a moment, or longer than whoever
        stops the node should wait.
        """
        await self.hand_overs.leave()
        with trio.move_on_after(self._config.raft.heartbeat_interval_s):
            await self.proposals.wait_settled()
            # Those who waited for it take their turn, and answer their clients.
            for _ in range(_TURNS_TO_ANSWER):
                await trio.lowlevel.checkpoint()
            await self.acceptor.wait_answers_sent()

    def stop(self) -> None:
        """Tell everybody who waits for this node that it stops. Its tasks are for the caller to cancel."""
        self.proposals.stop()
        self.read_indexes.stop()
        self.members_desk.stop()
        self.leaderships.stop()
        self.hand_overs.stop()
        self.applier.stop()
        self.engine.role.end()
        self.engine.membership.end()
        self.duties.removed.end()

    @property
    def nursery(self) -> trio.Nursery:
        """Where the node's tasks live, once it has started."""
        assert self._nursery is not None
        return self._nursery

    def lease_until(self) -> float:
        """Return until when no other node can lead (Trio's clock); minus infinity if unknown, or the clock in doubt."""
        until = self.engine.lease_until(
            heard_since=self._clock_guard.stepped_at(trio.current_time()),
            protection_s=self._introductions.election_timeouts_s,
        )
        return until - self._unnoticed_step_s

    def status(self, loop_lag_s: float = 0.0) -> NodeStatus:
        """Return a picture of the node now; the question waited ``loop_lag_s`` for a turn of the engine."""
        state = self._core.state
        heard_since = trio.current_time() - self._config.raft.election_timeout_s
        peers = tuple(
            PeerStatus(peer)
            if (progress := state.progress.get(peer)) is None
            else PeerStatus(
                peer,
                progress.match_index,
                progress.next_index,
                lag=state.log.last_index - progress.match_index,
                is_heard=progress.last_contact > heard_since,
            )
            for peer in state.configuration.peers_of(self._node_id)
        )
        return NodeStatus(
            node_id=self._node_id,
            role=state.role,
            term=state.current_term,
            leader_id=state.leader_id,
            commit_index=state.commit_index,
            last_applied=self.applier.last_applied,
            first_log_index=state.log.first_index,
            last_log_index=state.log.last_index,
            pending_proposals=self.proposals.pending,
            peers=peers,
            configuration=state.configuration,
            configuration_index=state.configurations.latest_index,
            is_removed=self.duties.is_removed,
            founding=self._label,
            waiting=self._waiting(),
            health=self.vitals.health(
                loop_lag_s=loop_lag_s, apply_lag=max(state.commit_index - self.applier.last_applied, 0)
            ),
        )

    def _waiting(self) -> str:
        """Say for whom or what this node waits, for people; empty if it takes part."""
        state = self._core.state
        missing = missing_for_first_election(state, self._introductions.get) or self.duties.waiting
        if (
            not missing
            and self.engine.is_leader
            and self._first_voters is not None
            and not self._first_voters.are_there()
        ):
            missing = f"takes no command yet: {self._first_voters}"
        return missing

    def _post(self, peer: NodeId, message: RaftRequest) -> None:
        """Queue a request on its lane: entries and snapshots must not delay a vote or a heartbeat."""
        match message:
            case PreVoteRequest() | RequestVoteRequest() | TimeoutNowRequest() | AppendEntriesRequest(entries=()):
                lane = Lane.CONTROL
            case _:
                lane = Lane.BULK
        if isinstance(message, TimeoutNowRequest) and not self.leaderships.is_empty:
            # Whoever is told to stand may lead at once: what runs only while this node leads must have ended before.
            self.leaderships.end()
            self.nursery.start_soon(self._post_when_ended, peer, message)
        else:
            self._lanes.post(peer, lane, message)

    async def _post_when_ended(self, peer: NodeId, message: TimeoutNowRequest) -> None:
        await self.leaderships.wait_ended()
        self._lanes.post(peer, Lane.CONTROL, message)

    def _make_lane(self, peer: NodeId, lane: Lane) -> PeerLane:
        return PeerLane(
            peer,
            lane,
            introductions=self._introductions,
            transport=self._transport,
            addresses_of=self._addresses.of,
            on_message=self._receive,
            on_lost=self._link_lost,
            config=self._config,
            rng=Random(self._rng.getrandbits(64)),
        )

    def _told_of_itself(self) -> Member | None:
        """Return what discovery is to tell of this node; None if it was removed from its cluster."""
        if self.duties.removed.value is not None:
            return None
        configuration, cluster_id = self._core.state.configuration, self._introductions.identity.cluster_id
        role = "voter" if self._node_id in configuration.voters else "learner"
        is_member = cluster_id and self._node_id in configuration.members
        metadata = MemberMetadata(cluster_id, role if is_member else "", PROTOCOL_VERSION, OLDEST_PROTOCOL_VERSION)
        return Member(self._node_id, self.address, metadata)

    def _other_members(self) -> frozenset[NodeId] | None:
        """Return the members but this node, and those whose removal may still be undone; None if they are not known."""
        state = self._core.state
        newest = state.configuration
        if not newest.is_formed or self._node_id not in newest.members:
            return None
        return state.configurations.members_since(state.commit_index) - {self._node_id}

    def _identified(self, peer: NodeId, incarnation: str) -> None:
        self.engine.peer_identified(peer, incarnation)
        self._lanes.heard(peer)
        said = self._introductions.get(peer)
        if said is not None:
            self.command_versions.announce(peer, said.command_version)

    async def _receive(self, peer: NodeId, incarnation: str, message: Message) -> None:
        """Take what a peer, with this storage, answers on a link this node opened."""
        match message:
            case (
                AppendEntriesResponse()
                | PreVoteResponse()
                | RequestVoteResponse()
                | InstallSnapshotResponse()
                | TimeoutNowResponse()
            ):
                await self.engine.receive(
                    peer, message, is_current=lambda: self._introductions.is_storage_of(peer, incarnation)
                )
            case ProposalsApplied() | ProposalsFailed():
                self._forwarder.receive(peer, message)
            case ReadIndexReady() | ReadIndexRefused():
                self.read_indexes.receive(peer, message)
            case MembersResponse() | MembersFailed():
                self.members_desk.receive(peer, message)
            case _:
                logger.warning("node %s answered with %s, which nobody asked for", peer, type(message).__name__)

    def _link_lost(self, peer: NodeId, lane: Lane) -> None:
        # Entries and proposals travel in bulk. A lost heartbeat is followed by the next.
        if lane is Lane.BULK:
            self.engine.peer_unreachable(peer)
            self._forwarder.give_up_on(peer)

    def _takes_chunks(self, peer: NodeId) -> bool:
        said = self._introductions.get(peer)
        return said is not None and said.protocol_version >= CHUNKS_SINCE

    def _label_snapshot(self, index: LogIndex, term: Term) -> SnapshotMetadata:
        snapshot_id = SnapshotId(f"{self._node_id}-{index}-{self._snapshot_rng.getrandbits(64):016x}")
        return SnapshotMetadata(index, term, self._core.configuration_at(index), snapshot_id)

    def _first_index_to_keep(self, last_included_index: LogIndex) -> LogIndex:
        log = self._core.state.log
        keep_from = max(1, last_included_index + 1 - self._config.snapshot_tail_entries)
        if last_included_index > log.base_index:
            keep_from = max(keep_from, log.first_index_within(last_included_index, self._config.snapshot_tail_bytes))
        return LogIndex(keep_from)

    def _members_committed(self, configuration: Configuration) -> None:
        """Belong to the cluster of a committed configuration: an older version's snapshot tells of none."""
        if configuration.cluster_id not in ("", self._introductions.identity.cluster_id):
            self._writer.post(SaveIdentity(self._introductions.join(configuration.cluster_id)))
            self._transport.name_cluster(configuration.cluster_id)
            self.presence.look()

    def _configuration_changed(self, configuration: Configuration) -> None:
        peers = configuration.peers_of(self._node_id)
        self._lanes.follow(peers)
        for peer in peers:
            # The core forgot the storage of a member that was removed, and if the links to it are open still when it is
            # added again, nobody says Hello.
            said = self._introductions.get(peer)
            if said is not None:
                self.engine.peer_identified(peer, said.incarnation)
        self.presence.look()
        # Whoever kept a version from being switched on may be a member no more, or a new one may not understand it.
        self.command_versions.look()

    def _transfer_given_up(self, target: NodeId, failure: TransferFailure) -> None:
        logger.info("node %s goes on leading: the target %s %s", self._node_id, target, failure.value)
        self.hand_overs.given_up(target, failure)

    def _role_changed(self, before: RoleChange, after: RoleChange, cause: Cause) -> None:
        # The simulator, and whoever else follows who leads, reads this line.
        logger.info("node %s: %s in term %d, leader %s", self._node_id, after.role.value, after.term, after.leader_id)
        if cause.text:
            level = logging.WARNING if cause.is_trouble else logging.INFO
            logger.log(level, "node %s changed its role: %s", self._node_id, cause.text)
        if before.leader_id is not None and (before.leader_id, before.term) != (after.leader_id, after.term):
            self._forwarder.leader_left(before.leader_id)
        if after.leader_id not in (None, self._node_id):
            self.hand_overs.leader_known(after.leader_id)
        if (before.leader_id, before.term) != (after.leader_id, after.term):
            self.read_indexes.leader_changed()
            self.leaderships.end()
        self.command_versions.look()

    def _members(self) -> frozenset[NodeId]:
        """Everybody who applies the log: this node, and those it is sent to."""
        return frozenset((self._node_id, *self._core.state.configuration.peers_of(self._node_id)))


def _core_of(
    identity: StorageIdentity,
    configuration: Configuration,
    stored: StoredState,
    config: NodeConfig,
    rng: Random,
    *,
    label: str,
) -> RaftCore:
    try:
        return RaftCore(
            node_id=identity.node_id,
            configuration=configuration,
            config=config.raft,
            rng=Random(rng.getrandbits(64)),
            now=trio.current_time(),
            new_cluster_id=f"{label}-{rng.getrandbits(128):032x}".removeprefix("-"),
            incarnation=identity.incarnation,
            protection_s=identity.election_timeout_s,
            hard_state=stored.hard_state,
            snapshot=stored.snapshot,
            entries=stored.entries,
        )
    except InvariantError as error:
        raise LogCorrupt(f"what is stored contradicts itself: {error}") from error

"""The one task that owns the protocol core: it feeds it inputs, carries out its effects, and keeps its time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

import attrs
import trio

from clustercore.interfaces.errors import NotLeader
from clustercore.interfaces.messages import Message
from clustercore.interfaces.values import RoleChange
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    ConfigurationAppended,
    ConfigurationChanged,
    ConfigurationRefused,
    Effect,
    Effects,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    PersistSnapshotChunk,
    ProposalsAppended,
    ProposalsRefused,
    ReadReady,
    ReadRefused,
    Reply,
    RestoreSnapshot,
    RoleChanged,
    Send,
    SendSnapshot,
    TransferGivenUp,
)
from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    RaftMessage,
    RaftRequest,
)
from clustercore.raft.types import (
    ChangeRefusal,
    Configuration,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    SnapshotId,
    SnapshotMetadata,
    Term,
    TransferFailure,
    WriteId,
)
from clustercore.runtime.applier import Applier
from clustercore.runtime.causes import Cause, Causes, LoopStalls
from clustercore.runtime.leader_clock import LeaderClock
from clustercore.runtime.proposals import Group, Proposals, kinds_of
from clustercore.runtime.reads import Freshness
from clustercore.runtime.session_entries import EnableVersion, SessionLimits, encode_stamp, encode_version_entry
from clustercore.runtime.signals import Newest, Wakeup
from clustercore.runtime.snapshot_sender import SnapshotSender
from clustercore.runtime.writer import StorageJob

__all__ = ["Engine", "Membership", "Respond"]

logger = logging.getLogger("clustercore")

# Messages that links may queue before the core has seen the first of them; then the links wait, and so do the senders.
MAX_WAITING_MESSAGES = 256
# Proposals appended in one go. Larger batches make fewer fsyncs, but a longer wait for those in front.
MAX_BATCH_BYTES = 1024 * 1024

Respond = Callable[[Message], None]
OnChange = Callable[[ConfigurationAppended | ConfigurationRefused], None]


@attrs.frozen
class Membership:
    """The members that count on a node, since when, and whether that is certain to stay."""

    configuration: Configuration
    index: LogIndex
    is_committed: bool

    @property
    def is_settled(self) -> bool:
        """Whether no change is under way, as far as this node knows."""
        return self.is_committed and not self.configuration.is_joint


class Engine:
    """Drives a core. Other tasks hand it inputs; it hands work to the writer, the applier and the links.

    An input waits in a queue until the engine's task runs, so that all that arrived together is taken together: the
    proposals of many tasks become one batch without waiting for anything.
    """

    def __init__(
        self,
        core: RaftCore,
        *,
        applier: Applier,
        proposals: Proposals,
        post_job: Callable[[StorageJob], None],
        post_message: Callable[[NodeId, RaftRequest], None],
        snapshot_sender: SnapshotSender,
        on_role_change: Callable[[RoleChange, RoleChange, Cause], None],
        wake_forwarder: Callable[[], None],
        on_heard: Callable[[], None],
        on_read_index: Callable[[tuple[ReadId, ...], LogIndex | None], None],
        session_limits: SessionLimits,
        on_configuration_change: Callable[[Configuration], None],
        on_transfer_given_up: Callable[[NodeId, TransferFailure], None],
        may_begin: Callable[[], bool] = lambda: True,
        write_wait_s: Callable[[float], float] = lambda now: 0.0,
    ) -> None:
        """Prepare; ``run`` makes it live."""
        self._core = core
        self._applier = applier
        self._proposals = proposals
        self._post_job = post_job
        self._post_message = post_message
        self._snapshot_sender = snapshot_sender
        self._on_role_change = on_role_change
        self._wake_forwarder = wake_forwarder
        self._on_heard = on_heard
        self._on_read_index = on_read_index
        self._on_configuration_change = on_configuration_change
        self._session_limits = session_limits
        # A leader runs several times in an election timeout; if it did not, it was stopped.
        self._leader_clock = LeaderClock(core.state.config.election_timeout_s)
        self._stalls = LoopStalls(core.state.config.heartbeat_interval_s)
        self._causes = Causes(core.state.config, stalls=self._stalls, write_wait_s=write_wait_s)
        # The version of commands that is to be switched on next; 0 if none.
        self._version_to_enable = 0
        self._on_transfer_given_up = on_transfer_given_up
        # Whether the cluster has the voters that it is to begin with.
        self._may_begin = may_begin
        # What to ask the core for in one go.
        self._reads: list[ReadId] = []
        self.freshness = Freshness()
        state = core.state
        self.role = Newest(RoleChange(state.role, state.current_term, state.leader_id))
        self.membership = Newest(self._membership())
        self._inputs: deque[Callable[[], None]] = deque()
        self._waiting_messages = 0
        self._message_room = trio.lowlevel.ParkingLot()
        self._wakeup = Wakeup()
        # When the engine's task wakes by itself.
        self._timer = trio.CancelScope()
        # What went wrong in a turn that was taken for that task.
        self._failure: Exception | None = None
        # What must not leave before a write is durable, in the order in which it was asked for.
        self._gated: list[tuple[WriteId, Callable[[], None]]] = []

    @property
    def is_leader(self) -> bool:
        """Whether this node leads its term, as far as it knows."""
        return self._core.state.role is Role.LEADER

    async def run(self) -> None:
        """Drive the core until cancelled.

        Raises: InvariantError if the core finds that it broke a rule; nothing more is said after that.
        """
        trio.lowlevel.add_instrument(self._stalls)
        try:
            await self._drive()
        finally:
            trio.lowlevel.remove_instrument(self._stalls)

    async def _drive(self) -> None:
        while True:
            # Almost every input moves the deadline to later. The timer stays where it is then, and rings once in vain:
            # that costs less than to set it anew each time.
            with trio.CancelScope(deadline=self._core.deadline) as self._timer:
                while await self._wakeup.wait(self._timer):
                    self._take_turn()
            self._take_turn()

    def _take_turn(self) -> None:
        """Do all there is to do now."""
        if self._failure is not None:
            raise self._failure
        now = trio.current_time()
        self._leader_clock.tick(now)
        while self._inputs:
            self._inputs.popleft()()
        if self._core.deadline <= trio.current_time():
            self._pass_time(trio.current_time())
            # A leader that is a majority by itself hears nobody.
            self._on_heard()
        if self._proposals.has_queued and (room_bytes := self._core.proposal_room_bytes) and self._may_begin():
            self._append_proposals(room_bytes)
        if self._version_to_enable and self._core.proposal_room_bytes and self._may_begin():
            self._append_version()
        if self._reads:
            reads, self._reads = self._reads, []
            self._carry_out(self._core.read(reads, trio.current_time()))
        if self._snapshot_sender.is_reading:
            self._snapshot_sender.keep_only(self._core.sending)
        if self._core.deadline < self._timer.deadline:
            self._timer.deadline = self._core.deadline

    def _pass_time(self, now: float) -> None:
        self._causes.time_passes(self._core.state)
        effects = self._core.time_passed(now)
        hand_over = self._causes.hand_over(self._core.state, now)
        if hand_over:
            logger.warning("node %s %s", self._core.state.node_id, hand_over)
        self._carry_out(effects)

    def _take_turn_for_message(self) -> None:
        """Have a turn taken for a message: here and now if the engine's task sleeps, or by it if it is awake anyway.

        A node that idles gets one message at a time, and waking a task costs more than most messages do.
        """
        if not self._wakeup.has_sleeper:
            self._wakeup.set()
            return
        try:
            self._take_turn()
        except Exception as error:  # noqa: BLE001  # Nothing is lost: the engine's task raises it.
            # No turn comes before that, since the task sleeps no more.
            self._failure = error
            self._wakeup.set()

    # --- Inputs ---

    async def receive(
        self,
        sender: NodeId,
        message: RaftMessage,
        respond: Respond | None = None,
        *,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        """Queue a message from a peer, waiting while too many are queued.

        Args:
            sender: The peer.
            message: What it said.
            respond: Takes the answer to a request.
            is_current: Whether the peer still has the storage it had when it said so. If not, after the wait, it does
                not count: the core may know of the other one by now.
        """
        while self._waiting_messages >= MAX_WAITING_MESSAGES:
            await self._message_room.park()
        if not is_current():
            return
        self._waiting_messages += 1
        self._inputs.append(lambda: self._receive(sender, message, respond))
        self._take_turn_for_message()

    def propose(self, group: Group) -> None:
        """Queue a group for the log; there is room for it. Off the leader one that may not be forwarded is refused."""
        self._proposals.add(group)
        if not self.is_leader:
            self._refuse_unforwardable()
            self._wake_forwarder()
        self._wakeup.set()

    def wake(self) -> None:
        """Look again: proposals are queued that were elsewhere."""
        self._wakeup.set()

    def when_turned(self, tell: Callable[[float], None]) -> None:
        """Call ``tell`` in a turn of the loop, with the seconds it took to come: the proof that the loop turns."""
        asked_at = trio.current_time()
        self._queue(lambda: tell(trio.current_time() - asked_at))

    def read(self, read_id: ReadId) -> None:
        """Queue a question for an index to read at."""
        self._reads.append(read_id)
        self._wakeup.set()

    def lease_until(self, *, heard_since: float, protection_s: Mapping[NodeId, float]) -> float:
        """Return until when no other node can lead (Trio's clock); minus infinity if that is not known."""
        return self._core.lease_until(trio.current_time(), heard_since=heard_since, protection_s=protection_s)

    @property
    def commit_index(self) -> LogIndex:
        """The highest index known committed."""
        return self._core.state.commit_index

    def lag_s(self) -> float:
        """Return how long ago this node had applied all that its leader had committed; on a leader, a majority's."""
        now = trio.current_time()
        if self.is_leader:
            self.freshness.heard(self._core.state.commit_index, self._core.quorum_heard_at(now))
        return self.freshness.lag_s(self._applier.last_applied, now)

    def storage_done(self, write_id: WriteId) -> None:
        """Queue that all writes up to ``write_id`` are durable."""
        self._queue(lambda: self._storage_done(write_id))

    def peer_unreachable(self, peer: NodeId) -> None:
        """Queue that what was sent to a peer may be lost."""
        self._queue(lambda: self._carry_out(self._core.peer_unreachable(peer)))

    def peer_identified(self, peer: NodeId, incarnation: str) -> None:
        """Queue which storage a peer says it has."""
        self._queue(lambda: self._carry_out(self._core.peer_identified(peer, incarnation)))

    def change_configuration(
        self, target: Configuration, term: Term, expected_index: LogIndex, on_answer: OnChange
    ) -> None:
        """Queue a change of the members, made for those that came with an entry in the term of this leader."""
        self._queue(lambda: self._change_configuration(target, term, expected_index, on_answer))

    def found(self) -> None:
        """Queue that this node is to form a cluster, as its sole voter, unless it is part of one."""
        self._queue(lambda: self._carry_out(self._core.found(trio.current_time())))

    def transfer_leadership(self, target: NodeId) -> None:
        """Queue that this node is to hand over to another."""
        self._queue(lambda: self._carry_out(self._core.transfer_leadership(target, trio.current_time())))

    def best_successor(self) -> NodeId | None:
        """Return the node to hand over to; None if this one does not lead or none is fit."""
        return self._core.best_successor(trio.current_time())

    def enable_version(self, version: int) -> None:
        """Have commands up to a version switched on, as soon as this leader takes proposals; nobody waits for it.

        0 takes back what was asked for and is not in the log yet.
        """
        self._version_to_enable = version
        self._wakeup.set()

    def snapshot_saved(self, metadata: SnapshotMetadata, keep_from: LogIndex) -> None:
        """Queue that this node's own snapshot is durable."""
        self._queue(lambda: self._carry_out(self._core.snapshot_taken(metadata, keep_from)))

    def snapshot_gone(self, peer: NodeId, snapshot_id: SnapshotId) -> None:
        """Queue that a snapshot which is being sent to a peer cannot be read."""
        self._queue(lambda: self._carry_out(self._core.snapshot_gone(peer, snapshot_id)))

    def _queue(self, handle: Callable[[], None]) -> None:
        self._inputs.append(handle)
        self._wakeup.set()

    # --- Handling ---

    def _receive(self, sender: NodeId, message: RaftMessage, respond: Respond | None) -> None:
        self._waiting_messages -= 1
        if self._message_room:
            self._message_room.unpark()
        now = trio.current_time()
        self._causes.received(sender, message)
        self._carry_out(self._core.receive(sender, message, now), respond)
        self._causes.leader_heard(message, self._core.state, now)
        if isinstance(message, AppendEntriesRequest) and message.term == self._core.state.current_term:
            self.freshness.heard_round(message.term, message.round, now)
            sent_after = self.freshness.round_heard_at(message.term, message.answered_round)
            if sent_after is not None and self._knows_all_committed(message):
                self.freshness.heard(message.leader_commit, sent_after)
        if isinstance(message, AppendEntriesResponse):
            self._on_heard()

    def _knows_all_committed(self, message: AppendEntriesRequest) -> bool:
        """Whether the request tells how far the log is committed: a leader knows once an entry of its term is."""
        return self._core.state.log.term_at(message.leader_commit) == message.term == self._core.state.current_term

    def _storage_done(self, write_id: WriteId) -> None:
        # First what had to wait for the write, then what the core makes of it: the order in which it was asked for.
        gated, self._gated = self._gated, []
        for after, leave in gated:
            if after <= write_id:
                leave()
            else:
                self._gated.append((after, leave))
        self._causes.write_done()
        self._carry_out(self._core.storage_done(write_id, trio.current_time()))

    def _append_proposals(self, room_bytes: int) -> None:
        groups = self._proposals.take_queued(min(MAX_BATCH_BYTES, room_bytes))
        kinds = [EntryKind(kind) for kind in kinds_of(groups)]
        commands = [command for group in groups for command in group.commands]
        now = trio.current_time()
        if EntryKind.SESSION in kinds:
            stamp = encode_stamp(self._session_limits.stamp(self._leader_clock.led_ms(now)))
            commands = [
                command + stamp if kind is EntryKind.SESSION else command
                for kind, command in zip(kinds, commands, strict=True)
            ]
        effects = self._core.propose(commands, now, kinds=kinds)
        match effects[0]:
            case ProposalsAppended(first_index=first_index):
                self._proposals.appended(groups, first_index)
                if self._proposals.has_queued:
                    self._wakeup.set()
            case _:
                # The first is too large for the room there is. More comes with a commit, and that with an input.
                self._proposals.put_back(groups)
        self._carry_out(effects)

    def _change_configuration(
        self, target: Configuration, term: Term, expected_index: LogIndex, on_answer: OnChange
    ) -> None:
        state = self._core.state
        index = state.configurations.latest_index
        if self.is_leader and (state.current_term, index) != (term, expected_index):
            detail = f"the members are those of index {index} in term {state.current_term}"
            on_answer(ConfigurationRefused(ChangeRefusal.CONFLICT, f"{detail}, not of {expected_index} in {term}"))
            return
        effects = self._core.change_configuration(target, trio.current_time())
        answer = effects[0]
        # The core's promise: this one comes first.
        assert isinstance(answer, ConfigurationAppended | ConfigurationRefused)
        on_answer(answer)
        self._carry_out(effects)

    def _append_version(self) -> None:
        entry = encode_version_entry(EnableVersion(self._version_to_enable))
        effects = self._core.propose([entry], trio.current_time(), kinds=[EntryKind.VERSION])
        if isinstance(effects[0], ProposalsAppended):
            self._version_to_enable = 0
        self._carry_out(effects)

    def _refuse_unforwardable(self) -> None:
        state = self._core.state
        self._proposals.refuse_unforwardable(lambda: NotLeader(state.node_id, state.leader_id))

    # --- Effects ---

    def _carry_out(self, effects: Effects, respond: Respond | None = None) -> None:
        for effect in effects:
            self._carry_out_one(effect, respond)
        known, configurations = self.membership.value, self._core.state.configurations
        if (configurations.latest_index, self._core.state.is_configuration_committed) != (
            known.index,
            known.is_committed,
        ) or configurations.latest is not known.configuration:
            self.membership.set(self._membership())

    def _membership(self) -> Membership:
        state = self._core.state
        return Membership(state.configuration, state.configurations.latest_index, state.is_configuration_committed)

    def _carry_out_one(self, effect: Effect, respond: Respond | None) -> None:
        match effect:
            case PersistEntries() | PersistHardState() | PersistSnapshotChunk() | PersistSnapshot():
                self._post_job(effect)
            case Send(to=peer, message=request, after=after):
                self._leave(after, lambda: self._post_message(peer, request))
            case Reply(message=response, after=after):
                # Only a request leads to a Reply, and requests come with a way to answer them.
                assert respond is not None
                self._leave(after, lambda: respond(response))
            case Apply() | RestoreSnapshot():
                self._applier.post(effect)
            case SendSnapshot():
                self._snapshot_sender.send(effect)
            case RoleChanged():
                self._change_role(effect)
            case ReadReady(read_ids=read_ids, read_index=read_index):
                self._on_read_index(read_ids, read_index)
            case ReadRefused(read_ids=read_ids):
                self._on_read_index(read_ids, None)
            case ConfigurationChanged(configuration=configuration):
                self._on_configuration_change(configuration)
            case TransferGivenUp(target=target, failure=failure):
                self._on_transfer_given_up(target, failure)
            case ProposalsAppended() | ProposalsRefused() | ConfigurationAppended() | ConfigurationRefused():
                # Who asked has looked at these.
                pass

    def _leave(self, after: WriteId | None, leave: Callable[[], None]) -> None:
        if after is None:
            leave()
        else:
            self._gated.append((after, leave))

    def _change_role(self, effect: RoleChanged) -> None:
        before = self.role.value
        if before.role is Role.LEADER:
            # A leader that goes on leading has no change of role; it cannot lead two terms in a row without one.
            self._proposals.leadership_lost(before.term)
        after = RoleChange(effect.role, effect.term, effect.leader_id)
        # Whoever leads looks anew which version can be switched on.
        self._version_to_enable = 0
        if after.role is Role.LEADER:
            self._leader_clock.start(trio.current_time())
        self.role.set(after)
        if after.role is not Role.LEADER:
            self._refuse_unforwardable()
        self._on_role_change(before, after, self._causes.of(before, after, trio.current_time()))
        self._wake_forwarder()

"""SyncService: keeps the entities of a node in step with those of the other members, beside the node."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Literal, TypeVar

import attrs
import trio

from clustercore.interfaces import (
    ConfigError,
    MalformedMessage,
    NodeCompanion,
    NodeHandle,
    NodeId,
    NodeSite,
    NodeStopped,
    PeerTimeout,
    PeerUnreachable,
    RetryPolicy,
    Service,
    ServiceError,
    ServiceTransport,
    TransportError,
)
from clustercore.sync._proto.sync import FILE_DESCRIPTOR
from clustercore.sync.changes import Change, MergeOutcome
from clustercore.sync.checkpoints import outgoing_name, read_checkpoint
from clustercore.sync.collector import CollectionStatus, TombstoneCollector
from clustercore.sync.comparison import BucketsRequest, CompareRequest, FetchRequest
from clustercore.sync.entities import EntityStore
from clustercore.sync.fetching import Fetching, SessionResult
from clustercore.sync.kinds import EntityKind
from clustercore.sync.messages import OpenRequest, PullRequest, PushRequest, PushResponse, SyncSession
from clustercore.sync.offsets import SAMPLES, ClockStanding, ClockWatch, OffsetFilter
from clustercore.sync.schedule import PeerSchedule, SyncConfig, SyncKind
from clustercore.sync.source import Source, filter_hash
from clustercore.sync.statistics import PeerStatistics, PeerSyncStatus, RepairedByFull, is_applied
from clustercore.sync.trees import DigestTrees
from clustercore.sync.wire import SyncMessage

__all__ = ["SERVICE", "PeerResult", "SyncService"]

logger = logging.getLogger("clustercore")

SERVICE = "clustercore.v1.Sync"

# How often the members are looked at, in seconds: one that is new waits no longer for its first session.
_LOOK_S = 1.0
_ASKED = {SyncKind.INCREMENTAL: SyncSession.INCREMENTAL, SyncKind.FULL: SyncSession.FULL}
_KINDS = {session: kind for kind, session in _ASKED.items()}

M = TypeVar("M", bound=SyncMessage)

Operation = Literal["create", "update", "delete"]


@attrs.frozen
class PeerResult:
    """What became of a sync by hand with one peer."""

    peer: NodeId
    # Why it failed; None if it did not.
    error: TransportError | MalformedMessage | None = None
    # What was fetched from it, if anything was to be.
    session: SessionResult | None = None
    # How many of the changes that it was sent were new to it.
    applied: int = 0


class SyncService(NodeCompanion):
    """Fetches from each other member what it has and this node lacks, and lets them fetch from here.

    A companion of the node: ``Node(..., companions=[SyncService(store)])``. It is served on the node's own listener and
    lives in its nursery. The store is the caller's, open for as long as the node runs.

    Args:
        store: The entities. All kinds in it are kept in step, also those that this node does not know.
        config: Timing and limits.
        retry: Tries a session again that failed, until the next is due. None: that one does.
        start: Whether the schedule runs from the start. Otherwise ``start_sync_service`` starts it; peers are answered,
            and ``sync`` and ``sync_all`` work, all the same.
        rng: Draws jitter, stagger and salts; a seeded one for a run that can be repeated.
        on_repaired: Is told when a full sync found what the increments had missed. It must not raise.
        on_clock_change: Is told when this node's wall clock turns out to be off, and when it is right again; see
            ``clock_standing``. It must not raise.
    """

    def __init__(
        self,
        store: EntityStore,
        *,
        config: SyncConfig | None = None,
        retry: RetryPolicy | None = None,
        start: bool = True,
        rng: Random | None = None,
        on_repaired: Callable[[RepairedByFull], None] = lambda event: None,
        on_clock_change: Callable[[ClockStanding], None] = lambda standing: None,
    ) -> None:
        self._store = store
        self._config = SyncConfig() if config is None else config
        self._retry = retry
        self._rng = Random() if rng is None else rng
        self._on_repaired = on_repaired
        self._clocks = ClockWatch(store.node_id, store.clock.max_offset_ms, on_clock_change)
        self._trees = DigestTrees(store)
        self._source: Source | None = None
        self._peers: dict[NodeId, _Peer] = {}
        self._collector = TombstoneCollector(
            store, self._config, Random(self._rng.getrandbits(64)), passed=self._passed, forget=self._forget
        )
        self._is_started = trio.Event()
        if start:
            self._is_started.set()
        self._site: NodeSite | None = None
        self._nursery: trio.Nursery | None = None

    # --- Life ---

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return the service that other members ask.

        Raises: ConfigError if the store is another node's.
        """
        if node.node_id != self._store.node_id:
            raise ConfigError(f"the entity store is of node {self._store.node_id!r}, and this is {node.node_id!r}")
        source = self._source = Source(self._store, self._trees, self._config, self._rng, remembers=self._is_member)
        return [
            Service(
                SERVICE,
                unary={
                    "Open": partial(_answer, OpenRequest, source.open),
                    "Pull": partial(_answer, PullRequest, source.pull),
                    "Compare": partial(_answer, CompareRequest, source.compare),
                    "Buckets": partial(_answer, BucketsRequest, source.buckets),
                    "Fetch": partial(_answer, FetchRequest, source.fetch),
                    "Push": partial(_answer, PushRequest, self._take_pushed),
                },
                descriptor=FILE_DESCRIPTOR,
            )
        ]

    async def run(self, site: NodeSite) -> None:
        """Sync with all members by the schedule, until cancelled."""
        self._site = site
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._is_started.wait()
                nursery.start_soon(self._collector.run, site)
                while True:
                    self._follow(site.peers())
                    await trio.sleep(_LOOK_S)
        finally:
            self._site = self._nursery = None

    def start_sync_service(self) -> None:
        """Start the schedule: a full sync with each peer first, then increments. Once is enough."""
        self._is_started.set()

    def _follow(self, addresses: Mapping[NodeId, str]) -> None:
        """Have a task for each member, and none for who is a member no more."""
        assert self._nursery is not None
        for peer_id in [known for known in self._peers if known not in addresses]:
            self._peers.pop(peer_id).scope.cancel()
        for peer_id in addresses:
            peer = self._peer(peer_id)
            if not peer.is_followed:
                peer.is_followed = True
                self._nursery.start_soon(self._keep_in_step, peer)

    def _peer(self, peer_id: NodeId) -> _Peer:
        peer = self._peers.get(peer_id)
        if peer is None:
            assert self._source is not None, "the node asks for the services first"
            offsets = OffsetFilter(SAMPLES * self._config.incremental_interval_s)
            statistics = PeerStatistics(peer_id, offsets=offsets)
            peer = self._peers[peer_id] = _Peer(peer_id, statistics, self._make_fetching(peer_id, statistics, ()))
        return peer

    def _make_fetching(self, peer_id: NodeId, statistics: PeerStatistics, kinds: Sequence[str]) -> Fetching:
        assert self._source is not None, "the node asks for the services first"
        return Fetching(
            peer_id,
            self._store,
            self._trees,
            self._config,
            statistics,
            self._source,
            kinds=kinds,
            rng=self._rng,
            on_repaired=self._repaired,
        )

    def _fetching_of(self, peer: _Peer, kind: str | None) -> Fetching:
        """Return what fetches one kind from a peer, by a checkpoint of its own; that of all kinds for None."""
        if kind is None:
            return peer.fetching
        if kind not in peer.by_kind:
            peer.by_kind[kind] = self._make_fetching(peer.node_id, peer.statistics, (kind,))
        return peer.by_kind[kind]

    def _repaired(self, event: RepairedByFull) -> None:
        logger.error(
            "node %s: a full sync from %s brought %d changes that increments had missed, such as %s: this is a bug",
            self._store.node_id,
            event.peer,
            len(event.changes),
            event.changes[0],
        )
        self._on_repaired(event)

    # --- The schedule ---

    async def _keep_in_step(self, peer: _Peer) -> None:
        with peer.scope:
            is_first = not peer.fetching.has_checkpoint
            schedule = PeerSchedule(self._config, self._rng, trio.current_time(), is_first=is_first)
            while True:
                with trio.move_on_at(schedule.due_at):
                    await peer.asked.wait()
                peer.asked = trio.Event()
                asked, peer.asked_for = peer.asked_for, {}
                for only, kind in asked.items() or ((None, schedule.take(trio.current_time())),):
                    if only is None and kind is SyncKind.FULL:
                        schedule.full_done(trio.current_time())
                    # What has failed by then is the next session's. One that goes on is left alone: slots pass it by.
                    is_done = await self._try_session(peer, kind, only, schedule.due_at)
                    if only is None and not is_done and kind is SyncKind.FULL:
                        schedule.full_failed()

    async def _try_session(self, peer: _Peer, kind: SyncKind, only: str | None, deadline: float) -> bool:
        """Have a session, and try again until the deadline as far as the policy says. Return whether it succeeded."""
        session = partial(self._session, peer, kind, only)
        try:
            if self._retry is None:
                await session()
            else:
                left_s = max(deadline - trio.current_time(), 0.001)
                retrying = self._retry.bind(target=peer.node_id, operation="sync", is_idempotent=True, timeout_s=left_s)
                await retrying.call(session)
        except (TransportError, MalformedMessage):
            # Counted, and told, where it happened.
            return False
        return True

    async def _session(self, peer: _Peer, kind: SyncKind, only: str | None = None) -> SessionResult:
        """Have a session with a peer, of all kinds or ``only`` one."""
        fetching = self._fetching_of(peer, only)
        async with peer.turn:
            epoch, acknowledged = self._store.epoch, self._acknowledged(peer.node_id)
            try:
                result = await fetching.run(kind, partial(self._call, peer.node_id))
                if only is None and fetching.holds_all and self._store.epoch == epoch:
                    # All that the peer had when it had acknowledged so much is here.
                    peer.passed_epoch, peer.passed_seq = epoch, acknowledged
                return result
            except (TransportError, MalformedMessage) as error:
                peer.statistics.failures += 1
                peer.statistics.last_error = str(error)
                logger.info("node %s: a sync from %s failed: %s", self._store.node_id, peer.node_id, error)
                raise
            finally:
                self._look_at_clocks()

    async def _call(self, peer_id: NodeId, method: str, request: bytes) -> bytes:
        site = self._running()
        assert isinstance(site.transport, ServiceTransport)
        address = site.peers().get(peer_id)
        if address is None:
            raise PeerUnreachable(f"nobody knows where {peer_id} is reached")
        with trio.move_on_after(self._config.call_timeout_s):
            return await site.transport.call(address, f"{SERVICE}/{method}", request)
        raise PeerTimeout(f"{peer_id} at {address} did not answer {method} within {self._config.call_timeout_s:g} s")

    def _running(self) -> NodeSite:
        if self._site is None:
            raise NodeStopped(f"the sync of node {self._store.node_id!r} is not running")
        return self._site

    # --- By hand ---

    async def sync(self, kind: EntityKind[Any] | str, entity_id: str, op: Operation = "update") -> list[PeerResult]:
        """Send one entity, whole, to all other members now, without waiting for their schedules.

        Args:
            kind, entity_id: Which.
            op: What was done to it: "create", "update" or "delete". It is the store that says what the entity is now;
                this is checked against it, so that a call that means something else is noticed.

        Returns: for each peer, how many of its groups were new there, or why it could not be told: then it is told by
            the schedule. Sorted by id.

        Cancellation: some may have been told.
        Raises: ConfigError if ``op`` is none of these, or not what the store says; NodeStopped; StorageError.
        """
        site = self._running()
        name = kind if isinstance(kind, str) else kind.name
        changes = self._store.states_of(name, entity_id)
        self._check_operation(name, entity_id, op, changes)
        # An edit of another task may be on its way to the disk.
        await self._store.settle()
        request = PushRequest(node_id=self._store.node_id, changes=changes)
        return await self._with_all(site, lambda peer: self._push(peer, request))

    def _check_operation(self, kind: str, entity_id: str, op: Operation, changes: Sequence[Change]) -> None:
        if op not in ("create", "update", "delete"):
            raise ConfigError(f'op is {op!r}; it must be "create", "update" or "delete"')
        if not changes:
            raise ConfigError(f"there is nothing of {kind} {entity_id!r} here; write it first, then sync it")
        if self._store.is_there(kind, entity_id) == (op == "delete"):
            state = "deleted" if op != "delete" else "not deleted"
            raise ConfigError(f"op is {op!r}, and {kind} {entity_id!r} is {state} here")

    async def sync_all(
        self, kind: EntityKind[Any] | str | None = None, *, incremental: bool = True
    ) -> list[PeerResult]:
        """Fetch from all other members now what is missing here, and ask them to do the same.

        Args:
            kind: Fetch this one alone; None for all kinds. What was fetched of one kind has a checkpoint of its own, so
                the first time everything of it is compared, and what comes that way comes once more with all kinds, as
                a duplicate. It counts for no other purpose: not as being in step, nor for the collection of deletions.
            incremental: What changed since the last time; False compares everything there is.

        Returns: for each peer, what was fetched, or why nothing could be. They fetch from here after this has returned.
            Sorted by id.

        Cancellation: what was fetched stays.
        Raises: ConfigError if there is no such kind; NodeStopped.
        """
        site = self._running()
        name = kind if isinstance(kind, str) or kind is None else kind.name
        if name is not None and name not in self._store.kinds:
            raise ConfigError(f"there is no kind {name!r}; there are {sorted(self._store.kinds)}")
        session = SyncKind.INCREMENTAL if incremental else SyncKind.FULL
        return await self._with_all(site, lambda peer: self._sync_with(peer, session, name))

    async def _sync_with(self, peer: _Peer, kind: SyncKind, only: str | None) -> PeerResult:
        result = await self._session(peer, kind, only)
        kinds = () if only is None else (only,)
        request = PushRequest(node_id=self._store.node_id, session=_ASKED[kind], kinds=kinds)
        await self._push(peer, request)
        return PeerResult(peer.node_id, None, result)

    async def _push(self, peer: _Peer, request: PushRequest) -> PeerResult:
        encoded = request.encode()
        peer.statistics.bytes_sent += len(encoded)
        response = await self._call(peer.node_id, "Push", encoded)
        peer.statistics.bytes_received += len(response)
        answer = PushResponse.decode(response)
        if answer.rebuttals:
            await self._store.apply(answer.rebuttals)
        return PeerResult(peer.node_id, applied=answer.applied)

    async def _with_all(self, site: NodeSite, do: Callable[[_Peer], Awaitable[PeerResult]]) -> list[PeerResult]:
        """Do something with all peers at once: a slow one keeps none of the others waiting."""
        results: list[PeerResult] = []

        async def do_one(peer: _Peer) -> None:
            try:
                results.append(await do(peer))
            except (TransportError, MalformedMessage) as error:
                results.append(PeerResult(peer.node_id, error))

        async with trio.open_nursery() as nursery:
            for peer_id in site.peers():
                nursery.start_soon(do_one, self._peer(peer_id))
        return sorted(results, key=lambda result: result.peer)

    async def _take_pushed(self, request: PushRequest) -> SyncMessage:
        """Apply what a peer sends of itself, and begin the session that it asks for."""
        # From nobody in particular: what comes without a checkpoint is told back, should the sender have lost it.
        report = await self._store.apply(request.changes)
        kind = _KINDS.get(request.session)
        if kind is not None and self._is_started.is_set() and request.node_id in self._peers:
            peer = self._peers[request.node_id]
            # Kinds that are not known here travel with all the others.
            known: list[str | None] = [name for name in request.kinds if name in self._store.kinds]
            for only in known or (None,):
                if peer.asked_for.get(only) is not SyncKind.FULL:
                    peer.asked_for[only] = kind
            peer.asked.set()
        return PushResponse(
            applied=sum(map(is_applied, report.outcomes)),
            duplicate=report.count(MergeOutcome.DUPLICATE),
            stale=report.count(MergeOutcome.STALE),
            rebuttals=report.rebuttals,
        )

    # --- What is known ---

    def _look_at_clocks(self) -> None:
        if self._site is None:
            return
        now, others = trio.current_time(), self._site.members() or self._site.peers().keys()
        known = {each: self._peers[each].statistics.offsets.estimate(now) for each in others if each in self._peers}
        self._clocks.look(1 + len(others), {each: offset for each, offset in known.items() if offset is not None})

    def clock_standing(self) -> ClockStanding:
        """Return how this node's wall clock stands among those of the members, by what the last sessions told."""
        return self._clocks.standing

    def complaint(self) -> str:
        """Say it if this node's wall clock is off: the node's own status has it as a reason to be degraded."""
        return str(self._clocks.standing) if self._clocks.standing.is_off else ""

    def status(self) -> dict[NodeId, PeerSyncStatus]:
        """Return the progress and the statistics of each peer. It never blocks."""
        now = trio.current_time()
        return {peer_id: self._peers[peer_id].statistics.status(now) for peer_id in sorted(self._peers)}

    @property
    def repaired_by_full(self) -> int:
        """How many changes full syncs brought that increments had missed: above 0 is a bug."""
        return sum(peer.statistics.repaired_by_full for peer in self._peers.values())

    def acknowledged(self, peers: Sequence[NodeId]) -> dict[NodeId, int]:
        """Return up to which of this store's changes each of these peers durably holds all; 0 if it never synced."""
        return {peer: self._acknowledged(peer) for peer in peers}

    def _acknowledged(self, peer: NodeId) -> int:
        # What it has fetched of some kinds by hand says nothing of the others.
        name = outgoing_name(peer, filter_hash(()))
        checkpoint = read_checkpoint(self._store.checkpoint(name), self._store.epoch)
        return 0 if checkpoint is None else checkpoint.cursor.floor

    # --- Deletions ---

    @property
    def collection(self) -> CollectionStatus:
        """What became of deletions: how many were forgotten, and for whom others wait. It never blocks."""
        return self._collector.status

    async def collect_tombstones(self) -> CollectionStatus:
        """Forget the deletions that all members know of and that are older than ``grace_s``, now; and say what was.

        The service does it by itself, each ``collect_interval_s``.

        Cancellation: what was forgotten stays so. Raises: NodeStopped; StorageError.
        """
        return await self._collector.collect(self._running())

    def _passed(self, peer_id: NodeId) -> int:
        """Return up to which change a peer holds all of this store, with all it had then fetched from it since."""
        peer = self._peers.get(peer_id)
        if peer is None or peer.passed_epoch != self._store.epoch:
            return 0
        # It may have lost its store since, and said so.
        return min(peer.passed_seq, self._acknowledged(peer_id))

    def _is_member(self, peer_id: NodeId) -> bool:
        members = None if self._site is None else self._site.members()
        return members is not None and peer_id in members

    def _forget(self, strangers: Collection[NodeId]) -> None:
        """Answer who is no member any more as one that is new."""
        assert self._source is not None
        self._source.forget(strangers)


@attrs.define(eq=False)
class _Peer:
    """A member that is synced with."""

    node_id: NodeId
    statistics: PeerStatistics
    fetching: Fetching
    # What fetches one kind alone, if that was ever asked for.
    by_kind: dict[str, Fetching] = attrs.field(factory=dict)
    # Sessions take turns.
    turn: trio.Lock = attrs.field(factory=trio.Lock)
    # Cancelled when it is a member no more.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    is_followed: bool = False
    # Set when the peer asks for sessions out of turn: of one kind alone, or, by None, of all.
    asked: trio.Event = attrs.field(factory=trio.Event)
    asked_for: dict[str | None, SyncKind] = attrs.field(factory=dict)
    # Up to which change of this store, of which epoch, it held all before a session in which all it had was fetched.
    passed_epoch: str = ""
    passed_seq: int = 0


async def _answer(kind: type[M], handler: Callable[[M], Awaitable[SyncMessage]], request: bytes) -> bytes:
    try:
        decoded = kind.decode(request)
    except MalformedMessage as error:
        raise ServiceError(str(error)) from error
    return (await handler(decoded)).encode()

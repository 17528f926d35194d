"""The asking side: sessions with one peer, in which this node fetches what it lacks.

What was received is applied and made durable in one transaction with the checkpoint, and only then is the next question
asked. So a crash at any point repeats one batch at most, which is harmless, and skips none. The receiver sets the pace:
nothing is sent that was not asked for, and one batch is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from random import Random
from typing import TypeVar

import attrs
import trio

from clustercore.interfaces import LinkClosed, NodeId
from clustercore.sync.changes import Change
from clustercore.sync.checkpoints import START, Checkpoint, Cursor, incoming_name, read_checkpoint
from clustercore.sync.comparison import (
    BucketsRequest,
    BucketsResponse,
    CompareRequest,
    CompareResponse,
    FetchRequest,
    FetchResponse,
    LeafStamps,
    Place,
)
from clustercore.sync.digests import SHORT_BYTES, leaf_of
from clustercore.sync.entities import EntityStore
from clustercore.sync.messages import (
    OpenRequest,
    OpenResponse,
    PullRequest,
    PullResponse,
    PushRequest,
    PushResponse,
    Resync,
    ResyncReason,
)
from clustercore.sync.offsets import Reading
from clustercore.sync.schedule import SyncConfig, SyncKind
from clustercore.sync.source import Source, filter_hash
from clustercore.sync.statistics import PeerStatistics, RepairedByFull, SyncProgress, is_applied
from clustercore.sync.trees import DigestTrees
from clustercore.sync.wire import SyncMessage, TimedMessage, cut

__all__ = ["Call", "Fetching", "SessionResult"]

M = TypeVar("M", bound=SyncMessage)

# Sends a request by the name of its method, and returns the response.
Call = Callable[[str, bytes], Awaitable[bytes]]

# How often a session begins anew because the peer cannot go on from where it was; each time for another reason.
_MAX_RESYNCS = 4
# Stamps in one question of a full sync: 24 KiB.
_MAX_STAMPS = 4096
# Leaves in one question, for those in which this node holds nothing.
_MAX_LEAVES = 1024
_SALT_BYTES = 8


class _MustResync(Exception):
    """The peer cannot go on from where this node was."""

    def __init__(self, reason: ResyncReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@attrs.frozen
class SessionResult:
    """What one session did."""

    kind: SyncKind
    # Changes that came, and those of them that changed something here.
    received: int
    applied: int
    # Questions that were asked, and bytes both ways.
    round_trips: int
    bytes_sent: int
    bytes_received: int


class Fetching:
    """Fetches from one peer. One session at a time: the caller sees to it."""

    def __init__(
        self,
        peer: NodeId,
        store: EntityStore,
        trees: DigestTrees,
        config: SyncConfig,
        statistics: PeerStatistics,
        source: Source,
        *,
        kinds: Sequence[str],
        rng: Random,
        on_repaired: Callable[[RepairedByFull], None],
    ) -> None:
        self._peer = peer
        self._store = store
        self._trees = trees
        self._config = config
        self._statistics = statistics
        # This node's other side, which knows what it told.
        self._source = source
        self._kinds = tuple(sorted(kinds))
        self._checkpoint_name = incoming_name(peer, filter_hash(self._kinds))
        self._rng = rng
        self._on_repaired = on_repaired
        # b"": none is open.
        self._session_id = b""
        self._source_epoch = ""
        self._own_epoch = ""
        # How many entities had come back to the store when the session began; see ``EntityStore.revivals``.
        self._revivals = 0
        self._cursor = START
        # Until everything was compared, increments would leave out what this node once told of itself.
        self._must_compare = True
        # Of the session under way.
        self._call: Call | None = None
        self._round_trips = 0
        self._received = 0
        self._applied = 0

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything was ever fetched from this peer, as far as the store knows."""
        return self._stored() is not None

    @property
    def holds_all(self) -> bool:
        """Whether the last session, if it succeeded, left nothing with the peer of what that had when it began."""
        return not self._must_compare and not self._cursor.kept_back

    def _stored(self) -> Checkpoint | None:
        return read_checkpoint(self._store.checkpoint(self._checkpoint_name), self._store.epoch)

    async def run(self, kind: SyncKind, call: Call) -> SessionResult:
        """Fetch what there is to be fetched now, and return when nothing is left.

        Cancellation: what was applied stays, and the next session goes on from there.
        Raises: TransportError, MalformedMessage if the peer answers something else; StorageError.
        """
        statistics, started_at = self._statistics, trio.current_time()
        sent, received = statistics.bytes_sent, statistics.bytes_received
        self._call, self._round_trips, self._received, self._applied = call, 0, 0, 0
        statistics.progress = SyncProgress(kind, started_at, 0, statistics.lag_changes)
        try:
            kind = await self._run(kind)
            if self._store.held:
                await self._store.release_held()
        finally:
            statistics.progress = None
        now = trio.current_time()
        statistics.sessions[kind.value] += 1
        statistics.durations_s.append(now - started_at)
        statistics.last_error = ""
        if not self._kinds:
            # In step is who holds all kinds.
            statistics.last_success_at = now
        return SessionResult(
            kind,
            self._received,
            self._applied,
            self._round_trips,
            statistics.bytes_sent - sent,
            statistics.bytes_received - received,
        )

    async def _run(self, kind: SyncKind) -> SyncKind:
        for _ in range(_MAX_RESYNCS):
            try:
                if not self._session_id or not self._goes_on:
                    await self._open()
                if self._must_compare:
                    kind = SyncKind.FULL
                if kind is SyncKind.INCREMENTAL or await self._compare():
                    await self._pull()
                if self._revivals != self._store.revivals:
                    raise _MustResync(ResyncReason.NOT_COMPARED)
            except _MustResync as resync:
                self._statistics.resync(resync.reason)
                self._session_id = b""
            else:
                return kind
        raise LinkClosed(
            f"{self._peer} cannot be synced from: it has refused {_MAX_RESYNCS} sessions, one after another"
        )

    @property
    def _goes_on(self) -> bool:
        """Whether what this node has fetched counts still: its store is the same, and nothing came back to it."""
        return (self._own_epoch, self._revivals) == (self._store.epoch, self._store.revivals)

    # --- Sessions ---

    async def _open(self) -> None:
        """Open a session, and learn whether one can go on from the checkpoint."""
        stored = self._stored()
        own_epoch, self._revivals = self._store.epoch, self._store.revivals
        request = OpenRequest(
            node_id=self._store.node_id,
            epoch=own_epoch,
            kinds=self._kinds,
            source_epoch="" if stored is None else stored.peer_epoch,
            cursor=START if stored is None else stored.cursor,
            session_id=b"" if stored is None else stored.session_id,
        )
        opened = await self._ask("Open", request, OpenResponse)
        if await self._source.hear(opened, self._peer):
            raise _MustResync(ResyncReason.WENT_BACK)
        self._session_id, self._source_epoch, self._own_epoch = opened.session_id, opened.epoch, own_epoch
        # Where everything has to be compared, nothing that the checkpoint says holds for this source.
        self._must_compare = bool(opened.reason)
        self._cursor = START if opened.reason else request.cursor
        if opened.reason not in (ResyncReason.NONE, ResyncReason.FIRST):
            self._statistics.resync(opened.reason)

    async def _ask(self, method: str, request: SyncMessage, answer: type[M]) -> M:
        """Ask; return the answer.

        Raises: _MustResync; TransportError; MalformedMessage.
        """
        assert self._call is not None
        encoded = request.encode()
        self._statistics.bytes_sent += len(encoded)
        self._round_trips += 1
        sent = self._read_clocks()
        response = await self._call(method, encoded)
        received = self._read_clocks()
        self._statistics.bytes_received += len(response)
        if resync := Resync.decode(response).reason:
            raise _MustResync(resync)
        if self._config.max_bytes_per_s < math.inf:
            await trio.sleep((len(encoded) + len(response)) / self._config.max_bytes_per_s)
        decoded = answer.decode(response)
        if isinstance(decoded, TimedMessage) and decoded.wall_ms:
            self._statistics.offsets.add(sent, received, decoded.wall_ms)
        return decoded

    def _read_clocks(self) -> Reading:
        return Reading(trio.current_time(), self._store.clock.wall())

    # --- Increments ---

    async def _pull(self) -> None:
        while True:
            cursor = self._cursor
            request = PullRequest(
                session_id=self._session_id,
                cursor=cursor,
                max_changes=self._config.max_batch_changes,
                max_bytes=self._config.max_batch_bytes,
            )
            delta = await self._ask("Pull", request, PullResponse)
            end = delta.reached
            if not delta.start.is_within(cursor) or not cursor.is_within(end):
                # Applied, it would leave a hole behind (Almeida et al., "Delta State Replicated Data Types", 2018,
                # section 6: the causal delta-merging condition).
                raise _MustResync(ResyncReason.GAP)
            self._statistics.kept_back += len(set(end.kept_back).difference(cursor.kept_back))
            if delta.changes or end != cursor:
                await self._apply(delta.changes, end)
            if not self._kinds:
                self._statistics.lag_changes = delta.behind
            if not delta.has_more:
                return

    async def _apply(self, changes: tuple[Change, ...], end: Cursor | None) -> None:
        """Apply changes and, in the same transaction, move on to ``end``."""
        # A batch was read just now, which takes about as long as to merge it: others run between the two.
        await trio.lowlevel.checkpoint()
        checkpoints = None
        if end is not None and self._revivals == self._store.revivals:
            checkpoint = Checkpoint(end, self._source_epoch, self._own_epoch, self._session_id)
            checkpoints = {self._checkpoint_name: checkpoint.encode()}
        report = await self._store.apply(changes, self._peer, checkpoints)
        if report.rebuttals:
            # The peer brings back what was deleted so long ago that it had to be told before: it is told again. The
            # checkpoint waits for that: gone past, the peer would not bring it again, and keep it.
            await self._ask("Push", PushRequest(node_id=self._store.node_id, changes=report.rebuttals), PushResponse)
            if self._revivals == self._store.revivals:
                await self._store.apply((), checkpoints=checkpoints)
        if end is not None:
            self._cursor = end
        self._statistics.count(changes, report)
        self._received += len(changes)
        applied = [change for change, outcome in zip(changes, report.outcomes, strict=True) if is_applied(outcome)]
        self._applied += len(applied)
        progress = self._statistics.progress
        if progress is not None:
            behind = max(0, progress.behind - len(changes))
            self._statistics.progress = attrs.evolve(progress, received=self._received, behind=behind)
        if end is None:
            self._look_for_missed(applied)

    def _look_for_missed(self, applied: Iterable[Change]) -> None:
        """Find out whether a full sync brought what the increments had gone past."""
        missed = tuple(
            (change.kind, change.entity_id, change.group)
            for change in applied
            # What waits because of its time did come, and parts of it may be taken sooner than the whole. So did what
            # was refused because of a deletion that was collected, and is taken since another deletion came beside it.
            if self._cursor.covers(change.seq)
            and not self._store.is_held(change.kind, change.entity_id, change.group)
            and self._store.collected(change.kind, change.entity_id) is None
        )
        if missed:
            self._statistics.repaired_by_full += len(missed)
            self._on_repaired(RepairedByFull(self._peer, missed))

    # --- Everything ---

    async def _compare(self) -> bool:
        """Fetch whatever this node does not hold like the peer; then it holds all up to where the peer was.

        Returns: whether the peer has gone on meanwhile.

        Both go on changing meanwhile: what the peer changes comes with the next increment, because it is of a later
        number than the peer's at the beginning. That something is absent from the peer says nothing.
        """
        salt = self._rng.getrandbits(8 * _SALT_BYTES).to_bytes(_SALT_BYTES, "big")
        await self._trees.catch_up()
        roots = tuple((kind, self._trees.root(kind)) for kind in self._trees.kinds(self._kinds))
        request = CompareRequest(session_id=self._session_id, salt=salt, roots=roots)
        answer = await self._ask("Compare", request, CompareResponse)
        self._statistics.digest_rounds += 1
        seq = answer.seq
        for kind, theirs in answer.buckets:
            pairs = zip(self._trees.of(kind).buckets(salt), cut(theirs, SHORT_BYTES), strict=True)
            differing = [bucket for bucket, (one, other) in enumerate(pairs) if one != other]
            seq = max(seq, await self._fetch(kind, salt, await self._differing_leaves(kind, salt, differing)))
        await self._apply((), Cursor(max(answer.seq, self._cursor.floor)))
        self._must_compare = False
        if not self._kinds:
            self._statistics.lag_changes = seq - answer.seq
        return seq > answer.seq

    async def _differing_leaves(self, kind: str, salt: bytes, buckets: list[int]) -> list[int]:
        if not buckets:
            return []
        request = BucketsRequest(session_id=self._session_id, salt=salt, kind=kind, buckets=tuple(buckets))
        answer = await self._ask("Buckets", request, BucketsResponse)
        self._statistics.digest_rounds += 1
        if len(answer.leaves) != len(buckets):
            raise LinkClosed(f"{self._peer} was asked for {len(buckets)} buckets and told of {len(answer.leaves)}")
        tree = self._trees.of(kind)
        return [
            leaf
            for bucket, shorts in zip(buckets, answer.leaves, strict=True)
            for leaf in tree.differing_leaves(bucket, salt, cut(shorts, SHORT_BYTES))
        ]

    async def _fetch(self, kind: str, salt: bytes, leaves: list[int]) -> int:
        """Fetch what is in some leaves; return where the peer was then, by its count."""
        after: Place | None = None
        seq = 0
        while leaves:
            asked = tuple(self._stamps_of(kind, salt, leaves))
            request = FetchRequest(
                session_id=self._session_id,
                salt=salt,
                kind=kind,
                leaves=asked,
                after=after,
                max_changes=self._config.max_batch_changes,
                max_bytes=self._config.max_batch_bytes,
            )
            answer = await self._ask("Fetch", request, FetchResponse)
            self._statistics.digest_rounds += 1
            if answer.done < len(asked) and not answer.changes:
                raise LinkClosed(f"{self._peer} answered {answer.done} of {len(asked)} leaves and nothing of the next")
            if answer.changes:
                await self._apply(answer.changes, None)
                await self._trees.catch_up()
            seq = answer.seq
            leaves = leaves[answer.done :]
            # A leaf that was cut: go on after what came of it.
            last = answer.changes[-1] if answer.changes else None
            is_cut = last is not None and leaves[:1] == [leaf_of(last.entity_id)]
            after = Place(last.entity_id, last.group) if last is not None and is_cut else None
        return seq

    def _stamps_of(self, kind: str, salt: bytes, leaves: Sequence[int]) -> Iterator[LeafStamps]:
        tree, left = self._trees.of(kind), _MAX_STAMPS
        for number in leaves[:_MAX_LEAVES]:
            stamps = tree.stamps(number, salt)
            if len(stamps) > left and left < _MAX_STAMPS:
                return
            left -= len(stamps)
            yield LeafStamps(number, stamps)

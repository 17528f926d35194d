"""The answering side: what a node tells those that fetch changes from it.

A source keeps one session for each receiver, with what that has acknowledged; everything else comes with the question.
So an answer that is lost is asked for again, a question that comes twice is answered twice, and nothing is lost by it.
No answer takes longer than one batch, and none holds more than one in memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from random import Random

import attrs
import trio

from clustercore.interfaces import NodeId
from clustercore.sync.changes import Change
from clustercore.sync.checkpoints import (
    MAX_KEPT_BACK,
    START,
    Checkpoint,
    Cursor,
    incoming_name,
    outgoing_name,
    read_checkpoint,
)
from clustercore.sync.comparison import (
    BucketsRequest,
    BucketsResponse,
    CompareRequest,
    CompareResponse,
    FetchRequest,
    FetchResponse,
)
from clustercore.sync.digests import stamp_of
from clustercore.sync.entities import EntityStore
from clustercore.sync.kinds import LIFE_GROUP
from clustercore.sync.messages import OpenRequest, OpenResponse, PullRequest, PullResponse, Resync, ResyncReason
from clustercore.sync.schedule import MAX_BATCH_BYTES, MAX_BATCH_CHANGES, SyncConfig
from clustercore.sync.trees import EMPTY_ROOT, DigestTrees
from clustercore.sync.wire import SyncMessage, TimedMessage

__all__ = ["MAX_SESSIONS", "Source", "filter_hash"]

logger = logging.getLogger("clustercore")

# Receivers that are answered at one time: more than a cluster has members, each with a filter or two.
MAX_SESSIONS = 256
_RUN_BYTES = 4
_NUMBER_BYTES = 4
# What a change costs in a block beyond its state, about.
_OVERHEAD_BYTES = 16


def filter_hash(kinds: Sequence[str]) -> str:
    """Return what stands for a choice of kinds in the names of checkpoints: each choice is fetched on its own."""
    return blake2b("\0".join(sorted(kinds)).encode(), digest_size=4).hexdigest()


@attrs.define(eq=False)
class _Session:
    """A receiver, and how far it is."""

    session_id: bytes
    peer: NodeId
    # The epochs of its store, and of this one.
    peer_epoch: str
    own_epoch: str
    kinds: tuple[str, ...]
    # When it was last sent all that there was, without the window, and has said that it holds it.
    flushed_at: float
    # Such an answer that it has not acknowledged, and may never have got: when it was made, and to where it leads.
    flush: tuple[float, Cursor] | None = None
    # What it holds, by its own word, and what of that is on disk here.
    acked: Cursor = START
    saved: Checkpoint | None = None

    def hear(self, cursor: Cursor) -> None:
        """Take note of what it holds by its last word."""
        if self.flush is not None and self.flush[1].is_within(cursor):
            self.flushed_at, self.flush = self.flush[0], None

    def wants(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds


class Source:
    """Answers the receivers of one node.

    Args:
        store, trees, config: The node's.
        rng: Draws the name of this run.
        remembers: Returns whether what a receiver acknowledges is kept on disk. Else it compares everything in each new
            session: whoever asks under ever new names leaves nothing behind.
    """

    def __init__(
        self,
        store: EntityStore,
        trees: DigestTrees,
        config: SyncConfig,
        rng: Random,
        *,
        remembers: Callable[[NodeId], bool] = lambda receiver: True,
    ) -> None:
        self._store = store
        self._trees = trees
        self._config = config
        self._remembers = remembers
        # Sessions of this run begin with it. What an earlier run told beyond what it found on disk is not known here.
        self._run = rng.getrandbits(8 * _RUN_BYTES).to_bytes(_RUN_BYTES, "big")
        self._last_session = 0
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        # Where the log ended when this run began.
        self._recovered_seq = store.seq

    # --- Sessions ---

    async def open(self, request: OpenRequest) -> OpenResponse:
        """Begin a session, in place of an earlier one with the same receiver and filter.

        Cancellation: there may be a session that nobody uses. Raises: StorageError.
        """
        store, hashed = self._store, filter_hash(request.kinds)
        ours = read_checkpoint(store.checkpoint(outgoing_name(request.node_id, hashed)), store.epoch)
        reason = self._reason_against(request, ours)
        if self.has_lost(request.source_epoch, request.cursor.seq, request.session_id):
            await self._went_back(request.node_id)
        session = self._begin(request)
        await self._acknowledge(session, START if reason else request.cursor, must_compare=bool(reason))
        known = read_checkpoint(store.checkpoint(incoming_name(request.node_id, hashed)), store.epoch)
        wall_ms = store.clock.wall()
        opened = OpenResponse(session_id=session.session_id, epoch=session.own_epoch, reason=reason, wall_ms=wall_ms)
        if known is None:
            return opened
        return attrs.evolve(
            opened,
            known_epoch=known.peer_epoch,
            known_session_id=known.session_id,
            known_seq=known.cursor.seq,
        )

    async def hear(self, opened: OpenResponse, peer: NodeId) -> bool:
        """Take note of what a peer knows of this store. Return whether that is more than is here.

        Cancellation: as ``open``. Raises: StorageError.
        """
        if not self.has_lost(opened.known_epoch, opened.known_seq, opened.known_session_id):
            return False
        await self._went_back(peer)
        return True

    def has_lost(self, epoch: str, seq: int, session_id: bytes) -> bool:
        """Whether whoever has fetched so much, in a session of this source, knows more than is in this store."""
        if epoch == self._store.epoch:
            return seq > (self._store.seq if session_id.startswith(self._run) else self._recovered_seq)
        # Of two epochs the later one cannot be told, unless this one has just begun: then it is this.
        return bool(epoch) and not self._store.has_new_epoch

    async def _went_back(self, peer: NodeId) -> None:
        """Begin a new epoch: a peer knows changes of this store that it does not have any more.

        Its own changes among them are told it by nobody who has them from here, and its numbers are used twice.
        """
        logger.warning(
            "node %s: %s knows changes of this entity store that are not here: an old copy of its disk was put back. "
            "Everything is compared with all peers",
            self._store.node_id,
            peer,
        )
        await self._store.renew_epoch()

    def _reason_against(self, request: OpenRequest, ours: Checkpoint | None) -> ResyncReason:
        """Return why the receiver may not go on from its cursor; NONE if it may."""
        cursor, store = request.cursor, self._store
        if not request.source_epoch:
            return ResyncReason.FIRST
        if request.source_epoch != store.epoch:
            return ResyncReason.EPOCH
        if self.has_lost(request.source_epoch, cursor.seq, request.session_id):
            return ResyncReason.WENT_BACK
        if ours is None:
            # It was forgotten, as no member: what it told of itself, and may have lost, nobody knows any more.
            return ResyncReason.NOT_COMPARED
        if ours.peer_epoch != request.epoch:
            return ResyncReason.RECEIVER_EPOCH
        if ours.must_compare and ours.session_id != request.session_id:
            # It was told so before, and the answer was lost, or it did not get to the end of it.
            return ResyncReason.NOT_COMPARED
        if not ours.cursor.is_within(cursor):
            return ResyncReason.RECEIVER_WENT_BACK
        if cursor.floor < store.floor:
            return ResyncReason.BEHIND_FLOOR
        return ResyncReason.NONE

    def _begin(self, request: OpenRequest) -> _Session:
        self._last_session += 1
        session_id = self._run + self._last_session.to_bytes(_NUMBER_BYTES, "big")
        flushed_at, flush = trio.current_time(), None
        for old in list(self._sessions.values()):
            if (old.peer, old.kinds) == (request.node_id, request.kinds):
                flushed_at, flush = old.flushed_at, old.flush
                del self._sessions[old.session_id]
        epochs = request.epoch, self._store.epoch
        session = _Session(session_id, request.node_id, *epochs, request.kinds, flushed_at, flush)
        self._sessions[session_id] = session
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def forget(self, receivers: Collection[NodeId]) -> None:
        """End the sessions of some receivers."""
        for session in [session for session in self._sessions.values() if session.peer in receivers]:
            del self._sessions[session.session_id]

    def _find(self, session_id: bytes) -> _Session | None:
        session = self._sessions.get(session_id)
        if session is not None:
            self._sessions.move_to_end(session_id)
        return session

    def _reason_to_open(self, session: _Session | None) -> ResyncReason:
        if session is None:
            return ResyncReason.UNKNOWN_SESSION
        return ResyncReason.NONE if session.own_epoch == self._store.epoch else ResyncReason.EPOCH

    async def _acknowledge(self, session: _Session, cursor: Cursor, *, must_compare: bool = False) -> None:
        """Remember durably what a member holds: nobody keeps for it what it has."""
        session.acked = cursor
        checkpoint = Checkpoint(cursor, session.peer_epoch, session.own_epoch, session.session_id, must_compare)
        if session.saved == checkpoint or not self._remembers(session.peer):
            await trio.lowlevel.checkpoint()
            return
        name = outgoing_name(session.peer, filter_hash(session.kinds))
        await self._store.apply((), checkpoints={name: checkpoint.encode()})
        session.saved = checkpoint

    # --- Increments ---

    async def pull(self, request: PullRequest) -> SyncMessage:
        """Answer with the changes after the receiver's cursor, as many as it takes.

        Cancellation: nothing happened. Raises: StorageError.
        """
        session = self._find(request.session_id)
        reason = self._reason_to_open(session)
        if not reason and request.cursor.seq > self._store.seq:
            reason = ResyncReason.WENT_BACK
        if not reason and request.cursor.floor < self._store.floor:
            reason = ResyncReason.BEHIND_FLOOR
        if reason or session is None:
            await trio.lowlevel.checkpoint()
            return Resync(reason)
        session.hear(request.cursor)
        # A question that was long on its way says less than is known by now.
        if session.acked.is_within(request.cursor):
            await self._acknowledge(session, request.cursor)
        else:
            await trio.lowlevel.checkpoint()
        return await self._settled(self._delta(session, request))

    async def _settled(self, answer: SyncMessage) -> SyncMessage:
        """Let an answer out when all that it is made of is on disk, and so what it goes past.

        A change that another one replaces while that is on its way to the disk is told by the number of that one only.
        Should this node lose its power then, the first is what it holds again, and the receiver would be past it.
        """
        await self._store.settle()
        if isinstance(answer, TimedMessage):
            return attrs.evolve(answer, wall_ms=self._store.clock.wall())
        return answer

    def _delta(self, session: _Session, request: PullRequest) -> PullResponse:
        now, start = trio.current_time(), request.cursor
        is_windowed = now - session.flushed_at < self._config.window_limit_s
        kept_back: list[int] = []

        def is_kept_back(change: Change) -> bool:
            if is_windowed and len(kept_back) < MAX_KEPT_BACK and self._is_for_later(change):
                kept_back.append(change.seq)
                return True
            return False

        batch = _Batch(request.max_changes, request.max_bytes)
        for seq in start.kept_back:
            change = self._change_at(seq)
            # None: it has changed again since, and comes under its later number.
            if change is not None and not is_kept_back(change) and not batch.take(change):
                kept_back.append(seq)
        end = start.seq
        if not batch.is_full:
            part = self._store.changes(
                start.seq,
                min(request.max_changes, MAX_BATCH_CHANGES),
                exclude=session.peer,
                wanted=lambda change: session.wants(change.kind) and not is_kept_back(change),
                is_staged_told=True,
            )
            end = part.next_seq
            for change in part.changes:
                if not batch.take(change):
                    end = batch.last_seq(start.seq)
                    break
        has_more = end < self._store.staged_seq or batch.is_full
        cursor = Cursor(end, tuple(sorted(seq for seq in kept_back if seq <= end)))
        if not is_windowed and not has_more:
            session.flush = now, cursor
        behind = self._store.staged_seq - end + len(cursor.kept_back)
        end_cursor = None if cursor == start else cursor
        return PullResponse(start=start, end=end_cursor, changes=tuple(batch.changes), behind=behind, has_more=has_more)

    def _change_at(self, seq: int) -> Change | None:
        found = self._store.changes(seq - 1, 1, is_staged_told=True).changes
        return found[0] if found and found[0].seq == seq else None

    def _is_for_later(self, change: Change) -> bool:
        """Whether a change is none of key fields, and of an entity that does not rest yet.

        By the stamps: where a clock was set, an entity counts as at rest, and is sent at once.
        """
        kind = self._store.kinds.get(change.kind)
        if not self._config.window_s or kind is None or change.group in kind.key_groups or change.group == LIFE_GROUP:
            return False
        updated = self._store.updated(change.kind, change.entity_id)
        if updated is None:
            return False
        clock = self._store.clock
        age_ms = clock.wall() - updated.physical_ms
        return -clock.max_offset_ms <= age_ms < 1000 * self._config.window_s

    # --- Comparing ---

    async def compare(self, request: CompareRequest) -> SyncMessage:
        """Answer with the digests of the buckets of each kind that differs.

        Cancellation: nothing happened. Raises: StorageError.
        """
        session = self._find(request.session_id)
        if reason := self._reason_to_open(session):
            await trio.lowlevel.checkpoint()
            return Resync(reason)
        assert session is not None
        await self._trees.catch_up()
        theirs = dict(request.roots)
        differing = tuple(
            (kind, b"".join(self._trees.of(kind).buckets(request.salt)))
            for kind in self._trees.kinds(session.kinds)
            if theirs.get(kind, EMPTY_ROOT) != self._trees.root(kind)
        )
        return await self._settled(CompareResponse(seq=self._trees.seq, buckets=differing))

    async def buckets(self, request: BucketsRequest) -> SyncMessage:
        """Answer with the digests of the leaves of the buckets.

        Cancellation: nothing happened. Raises: StorageError.
        """
        await trio.lowlevel.checkpoint()
        if reason := self._reason_to_open(self._find(request.session_id)):
            return Resync(reason)
        tree = self._trees.of(request.kind)
        answer = BucketsResponse(tuple(b"".join(tree.leaves(bucket, request.salt)) for bucket in request.buckets))
        return await self._settled(answer)

    async def fetch(self, request: FetchRequest) -> SyncMessage:
        """Answer with what is in some leaves and not at the receiver, as much as it takes.

        Cancellation: nothing happened. Raises: StorageError.
        """
        await trio.lowlevel.checkpoint()
        session = self._find(request.session_id)
        if reason := self._reason_to_open(session):
            return Resync(reason)
        return await self._settled(self._fetched(request))

    def _fetched(self, request: FetchRequest) -> FetchResponse:
        tree = self._trees.of(request.kind)
        batch = _Batch(request.max_changes, request.max_bytes)
        after = None if request.after is None else (request.after.entity_id, request.after.group)
        for done, wanted in enumerate(request.leaves):
            known = frozenset(wanted.stamps)
            for (entity_id, group), found in tree.leaf(wanted.leaf).in_order():
                if (after is not None and (entity_id, group) <= after) or stamp_of(request.salt, found) in known:
                    continue
                change = self._store.state(request.kind, entity_id, group)
                if change is not None and not batch.take(change):
                    return FetchResponse(changes=tuple(batch.changes), done=done, seq=self._store.staged_seq)
            after = None
        return FetchResponse(changes=tuple(batch.changes), done=len(request.leaves), seq=self._store.staged_seq)


class _Batch:
    """What goes into one answer: bounded, but for a change that is larger than that alone."""

    def __init__(self, max_changes: int, max_bytes: int) -> None:
        self.changes: list[Change] = []
        # Whether something found no room any more.
        self.is_full = False
        self._max_changes = min(max_changes, MAX_BATCH_CHANGES)
        self._left_bytes = min(max_bytes, MAX_BATCH_BYTES)

    def take(self, change: Change) -> bool:
        """Take a change, if there is room."""
        size = len(change.state.encoded) + len(change.entity_id) + _OVERHEAD_BYTES
        if self.is_full or len(self.changes) >= self._max_changes or (self.changes and size > self._left_bytes):
            self.is_full = True
            return False
        self._left_bytes -= size
        self.changes.append(change)
        return True

    def last_seq(self, start: int) -> int:
        """Return the number up to which all was taken, or ``start``."""
        return max((change.seq for change in self.changes if change.seq > start), default=start)

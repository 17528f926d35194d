"""EntityStore: one node's entities, kept on disk, and what changes them: edits here, and changes from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from clustercore.interfaces import ConfigError, HybridTime, NodeId, NodeStopped, RecordStorage
from clustercore.sync import life
from clustercore.sync.api import Entities
from clustercore.sync.changes import ApplyReport, Change, Changes, ResolverFailed, StoreEvent
from clustercore.sync.checkpoints import is_incoming
from clustercore.sync.clock import HybridLogicalClock
from clustercore.sync.collecting import CollectReport, collect_part
from clustercore.sync.conflict_log import ConflictLog
from clustercore.sync.journal import Journal
from clustercore.sync.kinds import MAX_NAME_BYTES, Authority, EntityKind
from clustercore.sync.receiving import Receiver
from clustercore.sync.replica import Replica, join_key
from clustercore.sync.view import EntityView
from clustercore.sync.writes import GroupState, Stamp, join_time

__all__ = ["EntityStore"]

E = TypeVar("E")

# How old a deletion has to be before it is collected, in seconds: as long as a node may be away over night.
GRACE_S = 86_400.0
# What one call of ``changes`` returns at most, unless it is asked for less: what is taken and applied in one go.
MAX_CHANGES = 500
# What it leaves out at most, at some us each: a few milliseconds.
MOST_LEFT_OUT = 1000


class EntityStore(Entities):
    """The entities of one node.

    Life: ``async with store:`` opens its records, and everything else is called inside.

    What is edited or applied is seen by readers of this node at once. It is told to other nodes (``changes``) when it
    is on disk, and not before.

    Args:
        node_id: Who writes here. No two nodes of a cluster have the same.
        kinds: The kinds that are edited and read here. Changes of other kinds are kept, and told on, unread.
        records: Where everything is kept.
        clock: None for one of its own, by the system's time. Where it last was is kept in the records.
        conflict_log: Where conflicts are logged; None for one of its own, without a file.
        on_event: Is told of what operators should hear of. It must not raise.
        rng: Draws the store's epoch. A seeded one is for tests: two stores that draw the same are taken for one.

    Raises: ConfigError if two kinds have one name, or the node's id is empty or longer than 255 bytes.
    """

    def __init__(
        self,
        node_id: NodeId,
        kinds: Iterable[EntityKind[Any]],
        records: RecordStorage,
        *,
        clock: HybridLogicalClock | None = None,
        conflict_log: ConflictLog | None = None,
        on_event: Callable[[StoreEvent], None] = lambda event: None,
        rng: Random | None = None,
    ) -> None:
        if not 1 <= len(node_id.encode()) <= MAX_NAME_BYTES:
            raise ConfigError(f"node_id is {node_id!r}; it must have from 1 to {MAX_NAME_BYTES} bytes")
        self.node_id = node_id
        self.clock = HybridLogicalClock() if clock is None else clock
        self._records = records
        self._replica = Replica(node_id, rng)
        # Read it, and leave the writing to the store.
        self.conflicts = ConflictLog() if conflict_log is None else conflict_log
        self._view = EntityView(self._replica, kinds, lambda *where: on_event(ResolverFailed(*where)))
        self.kinds: Mapping[str, EntityKind[Any]] = self._view.kinds
        self._receiver = Receiver(self._replica, self.kinds, on_event, self.conflicts, self.clock)
        self._journal: Journal | None = None
        self._stack = AsyncExitStack()

    # -- Life --

    async def __aenter__(self) -> Self:
        """Open.

        Raises:
            StorageError: the records cannot be opened.
            LogCorrupt: they are damaged, or another node's.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._records)
            stack.enter_context(self.conflicts)
            self._replica.load(await self._records.load())
            for gone in self.conflicts.take_back(self._replica.take_conflicts()):
                self._replica.forget_conflict(gone)
            self.clock.start_above(self._replica.clock_bound_ms)
            journal = Journal(self._replica, self._records)
            await journal.commit()
            self._journal = journal
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. Edits that are under way in other tasks raise NodeStopped, or are durable."""
        journal, self._journal = self._journal, None
        try:
            if journal is not None and not journal.has_failed:
                # So that the next start need not wait until the clock has passed the bound.
                self._replica.set_clock_bound(self.clock.last_ms)
                with trio.CancelScope(shield=True):
                    await journal.commit()
        finally:
            await self._stack.__aexit__(exc_type, exc, traceback)

    def _opened(self) -> Journal:
        if self._journal is None:
            raise NodeStopped("the entity store is not open; use it inside `async with store`")
        self._journal.check()
        return self._journal

    async def _commit(self) -> None:
        journal = self._opened()
        bound_ms = self.clock.next_bound_ms()
        if bound_ms is not None:
            self._replica.set_clock_bound(bound_ms)
            self.clock.bound_is_kept(bound_ms)
        await journal.commit()

    # -- Reading --

    @property
    def epoch(self) -> str:
        """Names this store's count of changes, 16 digits; another one when the store is made anew."""
        return self._replica.epoch

    @property
    def has_new_epoch(self) -> bool:
        """Whether the epoch began since the store was opened: nobody can know of a later one."""
        return self._replica.has_new_epoch

    @property
    def seq(self) -> int:
        """The number of the last change that is on disk; 0 before the first."""
        return self._opened().durable_seq

    @property
    def staged_seq(self) -> int:
        """The number of the last change, on disk or on its way there."""
        self._opened()
        return self._replica.seq

    @property
    def floor(self) -> int:
        """Whoever has not seen the changes up to here may lack deletions, and needs a full sync."""
        return self._replica.floor

    @property
    def removals(self) -> int:
        """How many groups were dropped since the store was opened, which the log of changes does not tell."""
        return self._replica.removals

    def get(self, kind: EntityKind[E], entity_id: str) -> E | None:
        """Return an entity; None if there is none, or a field without a default has not come yet.

        Raises: ValueError if another node wrote what this node's class cannot hold.
        """
        self._opened()
        return self._view.get(kind, entity_id)

    def ids(self, kind: EntityKind[Any]) -> Iterator[str]:
        """Yield the ids of the entities of a kind that are there, in no order. Change nothing meanwhile."""
        self._opened()
        return self._view.ids(kind)

    def values(self, kind: EntityKind[Any], entity_id: str) -> dict[str, bytes]:
        """Return the canonical JSON of each group of an entity, unknown ones too; nothing if it is not there."""
        self._opened()
        return self._view.values(kind, entity_id)

    def stamps(self, kind: EntityKind[Any], entity_id: str) -> dict[str, Stamp]:
        """Return the stamp of what holds in each group of an entity, also of one that is deleted."""
        self._opened()
        return self._view.stamps(kind, entity_id)

    def states(self) -> Iterator[Change]:
        """Yield all that is held, in no order. Change nothing meanwhile."""
        for (kind, entity_id), slots in self._replica.entities.items():
            for group, slot in slots.items():
                yield Change(kind, entity_id, group, slot.state, slot.seq)

    def state(self, kind: str, entity_id: str, group: str) -> Change | None:
        """Return what is held of one group; None if nothing was ever seen of it."""
        slot = self._replica.entities.get((kind, entity_id), {}).get(group)
        return None if slot is None else Change(kind, entity_id, group, slot.state, slot.seq)

    def states_of(self, kind: str, entity_id: str) -> tuple[Change, ...]:
        """Return what is held of all groups of an entity, deleted or not."""
        slots = self._replica.entities.get((kind, entity_id), {})
        return tuple(Change(kind, entity_id, group, slot.state, slot.seq) for group, slot in slots.items())

    def is_there(self, kind: str, entity_id: str) -> bool:
        """Whether there is such an entity: it was written, and no deletion wins."""
        return life.is_alive(self._replica.entities.get((kind, entity_id), {}))

    def updated(self, kind: str, entity_id: str) -> HybridTime | None:
        """Return when an entity last changed, in whichever group; None if nothing was ever seen of it."""
        return max((change.updated for change in self.states_of(kind, entity_id)), default=None)

    def canonical_bytes(self) -> bytes:
        """Return all that is replicated: replicas that saw the same writes have the same, to the last byte."""
        parts = []
        for change in self.states():
            name, state = join_key((change.kind, change.entity_id), change.group), change.state.encoded
            parts.append(b"".join((len(name).to_bytes(4, "big"), name, len(state).to_bytes(4, "big"), state)))
        return b"".join(sorted(parts))

    # -- Editing --

    async def put(self, kind: EntityKind[E], entity_id: str, entity: E) -> bool:
        """See ``Entities.put``; here the edit always holds, on this node and until others are heard of."""
        changes = await self._edit(kind, entity_id, lambda time: self._view.plan_put(kind, entity_id, entity, time))
        return changes is not None

    async def update(self, kind: EntityKind[Any], entity_id: str, **fields: Any) -> bool:
        """See ``Entities.update``."""
        plan = await self._edit(kind, entity_id, lambda time: self._view.plan_update(kind, entity_id, fields, time))
        return plan is not None

    async def delete(self, kind: EntityKind[Any], entity_id: str) -> bool:
        """See ``Entities.delete``."""
        plan = await self._edit(kind, entity_id, lambda time: self._view.plan_delete(kind, entity_id, time))
        return plan is not None

    async def restore(self, conflict_id: str) -> bool:
        """Write the losing value of a conflict back, as a new edit of this node.

        If it lost to the deletion of the entity, the entity comes back with all its groups, as they are still held. If
        the loser is a deletion, the entity is deleted.

        Args:
            conflict_id: As in the log, or so many of its first digits that no other begins with them.

        Durability, Cancellation: as ``put``. Returns whether there is such a conflict in the log.
        Raises: AmbiguousConflict if several begin with these digits; ConfigError if the kind is not one of this
            store's; StorageError.
        """
        self._opened()
        conflict = self.conflicts.get(conflict_id)
        if conflict is None:
            await trio.lowlevel.checkpoint()
            return False
        time = join_time(await self.clock.read())
        await self._carry_out(self._view.plan_restore(conflict, time))
        return True

    async def _edit(
        self, kind: EntityKind[Any], entity_id: str, plan: Callable[[int], list[Change] | None]
    ) -> list[Change] | None:
        self._opened()
        self._view.check_edit(kind, entity_id)
        if kind.authority is Authority.RAFT:
            raise ConfigError(f"kind {kind.name!r} goes through the Raft log; edit it with RaftEntities")
        time = join_time(await self.clock.read())
        self._opened()
        # From here on nothing waits until all is staged: what was read is what the edit is based on.
        changes = plan(time)
        await self._carry_out(changes or [])
        return changes

    async def _carry_out(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._replica.set_state((change.kind, change.entity_id), change.group, change.state, None)
        await self._commit()

    # -- Telling and hearing --

    def changes(
        self,
        since: int = 0,
        limit: int = MAX_CHANGES,
        *,
        exclude: NodeId | None = None,
        wanted: Callable[[Change], bool] = lambda change: True,
        is_staged_told: bool = False,
    ) -> Changes:
        """Return the groups that changed after ``since``, each once with its newest state, in the order of change.

        Args:
            since: ``next_seq`` of the part before; 0 for all there is.
            limit: How many changes at most; 1 or more.
            exclude: A peer: what is held exactly as it came from there is left out.
            wanted: Leaves out what it returns False for. ``next_seq`` goes past it; a part ends, perhaps without a
                change, when so much was left out that it is other tasks' turn.
            is_staged_told: Whether also what is on its way to the disk is told: then the caller tells nobody before a
                ``settle`` that it calls at once has returned. Otherwise a group that is edited without a pause is never
                told of: there is always a newer edit under way, in whose place the one before it is not told.
        """
        last_seq = self._opened().durable_seq if not is_staged_told else self.staged_seq
        taken: list[Change] = []
        left_out = 0
        for (kind, entity_id), group, slot in self._replica.changed_since(since, last_seq):
            change = Change(kind, entity_id, group, slot.state, slot.seq)
            if (exclude is None or slot.source != exclude) and wanted(change):
                if len(taken) == limit:
                    return Changes(tuple(taken), taken[-1].seq, True, self.floor, self.epoch)
                taken.append(change)
            else:
                left_out += 1
                if left_out == MOST_LEFT_OUT:
                    return Changes(tuple(taken), slot.seq, slot.seq < last_seq, self.floor, self.epoch)
        return Changes(tuple(taken), max(since, last_seq), False, self.floor, self.epoch)

    async def apply(
        self,
        changes: Sequence[Change],
        source: NodeId | None = None,
        checkpoints: Mapping[str, bytes | None] | None = None,
    ) -> ApplyReport:
        """Merge another node's changes into what is here, and keep checkpoints, in one transaction.

        Merging is commutative, associative and idempotent: changes may come in any order, and again.

        Args:
            changes: Any number, also of kinds that this node does not have.
            source: Who they came from; it is not told of them again. None if they should be told to everyone.
            checkpoints: By name; None removes one. They are not kept where the report has rebuttals: whoever sent the
                changes is to be told of those first, and must not be gone past before.

        Durability: on return all of it survives a power cut, and before that nothing of it counts: either all changes
            are on disk with the checkpoints, or none.
        Cancellation: as ``put``.
        Raises: InvalidCommand if a change's names are too long; nothing is applied. StorageError.
        """
        self._opened()
        revivals = self._replica.revivals
        report = self._receiver.apply(changes, source)
        if not report.rebuttals:
            for name, value in (checkpoints or {}).items():
                self._replica.set_checkpoint(name, value)
        if self._replica.revivals != revivals:
            for name in filter(is_incoming, self.checkpoints()):
                self._replica.set_checkpoint(name, None)
        await self._commit()
        return report

    async def release_held(self) -> ApplyReport:
        """Apply what waited because its time was too far ahead, and is no longer. ``apply`` does it as well.

        Durability, Cancellation: as ``apply``.
        """
        return await self.apply(())

    async def settle(self) -> None:
        """Return when all that is held here is on disk.

        Cancellation: nothing is lost. Raises: StorageError.
        """
        self._opened()
        await self._commit()

    async def renew_epoch(self) -> None:
        """Begin a new epoch, and write under a new name: the disk was taken back to an earlier day.

        All checkpoints are void by that, here and at the peers, which compare everything.

        Durability, Cancellation: as ``put``. Raises: StorageError.
        """
        self._opened()
        self._replica.renew_epoch()
        await self._commit()

    @property
    def held(self) -> int:
        """How many groups have a state that waits until its time is no longer ahead of this node's clock."""
        return len(self._replica.held)

    async def collect_tombstones(
        self, acknowledged: Mapping[NodeId, int], *, grace_s: float = GRACE_S, now_ms: int | None = None
    ) -> CollectReport:
        """Drop deletions, and what is left of the deleted, that every peer has seen and that are old.

        ``SyncService`` does it by itself. A peer that was not known, and has the entity still, is refused
        (``MergeOutcome.ZOMBIE``), and ``rebuttals`` of the report are what it should be told.

        Args:
            acknowledged: For every known peer, the seq of this store, in its present epoch, up to which the peer has
                applied all changes; what it did before it had must have been fetched from it. One that is left out is
                taken for gone for good.
            grace_s: How old a deletion has to be, in seconds.
            now_ms: The wall clock, in ms since 1970 UTC; None for the store's.

        Durability: on return. It goes part by part, and others run in between; each part is in one transaction.
        Cancellation: the parts that are done stay so.
        Raises: StorageError.
        """
        now_ms = self.clock.wall() if now_ms is None else now_ms
        older_than_ms, since, has_more = now_ms - int(grace_s * 1000), 0, True
        collected, waiting_for, epoch = 0, Counter[NodeId](), self.epoch
        # What was acknowledged, was in this epoch.
        while has_more and self.epoch == epoch:
            self._opened()
            part = collect_part(self._replica, since, acknowledged, older_than_ms=older_than_ms)
            since, has_more = part.next_seq, part.has_more
            collected += part.collected
            waiting_for += part.waiting_for
            await self._commit()
        return CollectReport(collected, dict(waiting_for))

    @property
    def revivals(self) -> int:
        """How often since the store was opened an entity came back against a deletion that was collected here.

        What was collected or refused of it is fetched by comparing with all peers: what says how far the increments
        have come is dropped with it.
        """
        return self._replica.revivals

    def collected(self, kind: str, entity_id: str) -> GroupState | None:
        """Return the deletions of an entity that were collected here, as far as they are remembered."""
        return self._replica.collected.get((kind, entity_id))

    def is_held(self, kind: str, entity_id: str, group: str) -> bool:
        """Whether something of a group waits until its time is no longer ahead of this node's clock."""
        return ((kind, entity_id), group) in self._replica.held

    def checkpoint(self, name: str) -> bytes | None:
        """Return a checkpoint as it was last given to ``apply``; None if there is none."""
        return self._replica.checkpoints.get(name)

    def checkpoints(self) -> dict[str, bytes]:
        """Return all checkpoints."""
        return dict(self._replica.checkpoints)

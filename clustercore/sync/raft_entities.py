"""Kinds that go through the Raft log: sync operations arrive from it, in one order on all nodes.

An operation is the writes of one edit, made on some node over what that node knew. When it arrives, each write meets
what is held: one that was made in knowledge of it replaces it; of two that did not know each other the last-write
rules, or the group's resolver, prefer one. So what is older than what is here is refused, the rest is applied, the
local version moves, and both sides of a conflict are logged, on every node alike. All of it is the merge that other
kinds have too (``merge``), without clocks and peers: nothing but the log changes these entities.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from clustercore.interfaces import (
    ConfigError,
    Consistency,
    InvalidCommand,
    LogIndex,
    MalformedMessage,
    NodeHandle,
    NodeId,
    Service,
    StateMachine,
)
from clustercore.sync import life
from clustercore.sync.api import Entities
from clustercore.sync.changes import Change, MergeOutcome, ResolverFailed, StoreEvent
from clustercore.sync.clock import HybridLogicalClock
from clustercore.sync.conflict_log import ConflictLog
from clustercore.sync.kinds import LIFE_GROUP, Authority, EntityKind
from clustercore.sync.merge import pick
from clustercore.sync.receiving import Receiver
from clustercore.sync.replica import EntityKey, Replica, Slot, join_key, split_key
from clustercore.sync.view import EntityView
from clustercore.sync.writes import GroupState, Stamp, decode_group_state, join_time, known_by

__all__ = ["EntityMachine", "RaftEntities", "encode_operation"]

E = TypeVar("E")

# One that a node does not know must not be guessed at.
_OPERATION_FORMAT, _SNAPSHOT_FORMAT = b"\x01", b"\x02"
_LENGTHS = struct.Struct(">HI")
_COUNT = struct.Struct(">H")
_TAKEN = (MergeOutcome.NEW, MergeOutcome.FAST_FORWARD, MergeOutcome.CONCURRENT)
# The answers, a byte for each write: whether it holds.
_REFUSED, _APPLIED = 0, 1
# What is read to learn how far the log is applied; it asks for nothing.
_NOTHING = b""
_CHUNK_BYTES = 64 * 1024
# How many writers are remembered, of all groups together: those whose operations came last. Each start of a node is a
# writer of its own, so a writer that is forgotten is one after whose last operation so many starts have made some. What
# it proposed before is in the log by then, or never will be. No clock has a say in that.
_MAX_WRITERS = 64
# How many deleted entities are kept, for edits that come from the log yet without knowing of the deletion: at a
# kilobyte each, 10 MB. What is dropped was deleted before so many others; an operation is not that long on its way.
_MAX_DELETED = 10_000


def _encode(changes: Iterable[Change]) -> Iterator[bytes]:
    for change in changes:
        name, state = join_key((change.kind, change.entity_id), change.group), change.state.encoded
        yield _LENGTHS.pack(len(name), len(state)) + name + state


def encode_operation(changes: Iterable[Change]) -> bytes:
    """Return the command that carries the writes of one edit."""
    return _OPERATION_FORMAT + b"".join(_encode(changes))


def _decode_operation(data: bytes) -> list[Change]:
    """Read what ``encode_operation`` wrote. Raises: MalformedMessage."""
    _check_format(data, _OPERATION_FORMAT)
    return _decode(data, 1)


def _check_format(data: bytes, expected: bytes) -> None:
    if data[:1] != expected:
        raise MalformedMessage(f"format {data[:1].hex()}; this version reads {expected.hex()}")


def _decode(data: bytes, position: int) -> list[Change]:
    """Read what ``_encode`` wrote, from a position to the end. Raises: MalformedMessage."""
    changes = []
    try:
        while position < len(data):
            name_size, state_size = _LENGTHS.unpack_from(data, position)
            start = position + _LENGTHS.size
            middle, position = start + name_size, start + name_size + state_size
            (kind, entity_id), group = split_key(data[start:middle])
            if position > len(data):
                raise MalformedMessage(f"{position - len(data)} bytes are missing at the end")
            changes.append(Change(kind, entity_id, group, decode_group_state(data[middle:position])))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"entities cannot be read: {error}") from error
    return changes


def _is_deleted(slots: Mapping[str, Slot]) -> bool:
    return bool(life.tombstones(slots)) and not life.is_alive(slots)


def _decode_writers(snapshot: bytes) -> tuple[list[str], int]:
    """Return the writers at the beginning of a snapshot, and where the states begin. Raises: MalformedMessage."""
    _check_format(snapshot, _SNAPSHOT_FORMAT)
    position, writers = 1 + _COUNT.size, []
    try:
        for _ in range(*_COUNT.unpack_from(snapshot, 1)):
            start = position + _COUNT.size
            (size,) = _COUNT.unpack_from(snapshot, position)
            position = start + size
            if position > len(snapshot):
                raise MalformedMessage(f"{position - len(snapshot)} bytes are missing at the end")
            writers.append(snapshot[start:position].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedMessage(f"the writers of a snapshot cannot be read: {error}") from error
    return writers, position


class EntityMachine(StateMachine):
    """The state machine of entity kinds whose authority is the Raft log. ``RaftEntities`` reads and edits it.

    Args:
        kinds: Those with ``Authority.RAFT``. A node that lacks one keeps its entities all the same.
        conflict_log: Where conflicts are logged, as this node meets them in the log; those in the log before its last
            snapshot are not met again after a restart, so give it a file to keep them. None for one in memory.
        on_event: Is told of what operators should hear of. It must not raise.

    Raises: ConfigError if a kind is of another authority, or two have one name.
    """

    def __init__(
        self,
        kinds: Iterable[EntityKind[Any]],
        *,
        conflict_log: ConflictLog | None = None,
        on_event: Callable[[StoreEvent], None] = lambda event: None,
    ) -> None:
        self._kinds = list(kinds)
        for kind in self._kinds:
            if kind.authority is not Authority.RAFT:
                raise ConfigError(f"kind {kind.name!r} is merged, and belongs into an EntityStore")
        self.conflicts = ConflictLog() if conflict_log is None else conflict_log
        self._on_event = on_event
        # Known before the node serves; for the conflict log.
        self._node_id = NodeId("")
        self._fill((), ())

    def _fill(self, changes: Sequence[Change], writers: Iterable[str]) -> None:
        # The last whose operations came from the log, the latest last; see ``_MAX_WRITERS``.
        self._writers: dict[str, None] = dict.fromkeys(writers)
        self.replica = Replica(self._node_id)
        self.view = EntityView(
            self.replica,
            self._kinds,
            lambda *where: self._on_event(ResolverFailed(*where)),
            remembers=lambda writer: writer in self._writers,
        )
        self._receiver = Receiver(self.replica, self.view.kinds, self._on_event, self.conflicts)
        for change in changes:
            self.replica.set_state((change.kind, change.entity_id), change.group, change.state, None)
        entities = self.replica.entities
        # Those that are deleted, in the order in which they were: that of a snapshot, too.
        self._deleted: dict[EntityKey, None] = {key: None for key, slots in entities.items() if _is_deleted(slots)}
        self.replica.take_staged()

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Take note of the node; there are no services."""
        self._node_id = node.node_id
        self.replica.name(node.node_id, "")
        return ()

    def validate(self, command: bytes) -> None:
        """Refuse what is no operation."""
        try:
            _decode_operation(command)
        except MalformedMessage as error:
            raise InvalidCommand(f"this is no operation on entities: {error}") from error

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Apply a sync operation: refuse what is older than what is here, apply the rest."""
        try:
            changes = _decode_operation(command)
        except MalformedMessage:
            # Every node finds it so: nothing of it is applied.
            return b""
        outcomes = self._receiver.apply(changes, None).outcomes
        taken = [change for change, outcome in zip(changes, outcomes, strict=True) if outcome in _TAKEN]
        self._remember({head.stamp.writer: None for change in taken for head in change.state.heads})
        for change in taken:
            self._forget_old_writers((change.kind, change.entity_id), change.group)
        for key in dict.fromkeys((change.kind, change.entity_id) for change in taken):
            if _is_deleted(self.replica.entities[key]):
                self._deleted.setdefault(key)
            else:
                self._deleted.pop(key, None)
        answer = bytes(_APPLIED if self._holds(change) else _REFUSED for change in changes)
        while len(self._deleted) > _MAX_DELETED:
            oldest = next(iter(self._deleted))
            del self._deleted[oldest]
            self.replica.drop(oldest)
        # Nothing of it goes to a disk of its own: the log has it.
        self.replica.take_staged()
        return answer

    def _remember(self, writers: Iterable[str]) -> None:
        for writer in writers:
            self._writers.pop(writer, None)
            self._writers[writer] = None
        while len(self._writers) > _MAX_WRITERS:
            del self._writers[next(iter(self._writers))]

    def _forget_old_writers(self, key: EntityKey, group: str) -> None:
        """Drop from what was seen of a group what is of writers that are not remembered, but for what heads know."""
        slot = self.replica.entities.get(key, {}).get(group)
        if slot is None or self._writers.keys() >= slot.state.seen.keys():
            return
        state = slot.state
        said = known_by(state.heads)
        seen = {writer: time for writer, time in state.seen.items() if writer in self._writers or writer in said}
        if len(seen) < len(state.seen):
            self.replica.set_state(key, group, GroupState(state.heads, seen), None)

    def _holds(self, change: Change) -> bool:
        """Whether what a change says is what is held now, as it is or merged with what it met."""
        slots = self.replica.entities.get((change.kind, change.entity_id), {})
        slot = slots.get(change.group)
        if slot is None or life.is_alive(slots) is (change.group == LIFE_GROUP):
            return False
        kind = self.view.kinds.get(change.kind)
        resolver = None if kind is None else kind.resolver_of(change.group)
        mine = {head.stamp for head in change.state.heads}
        if not any(head.stamp in mine for head in slot.state.heads):
            return False
        return resolver is not None or pick(slot.state.heads)[0] in mine

    def snapshot(self) -> Iterator[bytes]:
        """Return the writers, and all states: the living in the order of their names, the deleted as they were deleted.

        What comes of the same log has the same snapshot.
        """
        entities = self.replica.entities
        living = sorted(entities.keys() - self._deleted.keys(), key=lambda key: join_key(key, ""))
        changes = (
            Change(*key, group, entities[key][group].state)
            for key in (*living, *self._deleted)
            for group in sorted(entities[key])
        )
        part = bytearray(_SNAPSHOT_FORMAT + _COUNT.pack(len(self._writers)))
        for writer in self._writers:
            name = writer.encode()
            part += _COUNT.pack(len(name)) + name
        for encoded in _encode(changes):
            part += encoded
            if len(part) >= _CHUNK_BYTES:
                yield bytes(part)
                part.clear()
        yield bytes(part)

    def restore(self, snapshot: bytes) -> None:
        """Replace all states by those of a snapshot."""
        writers, position = _decode_writers(snapshot)
        self._fill(_decode(snapshot, position), writers)

    def query(self, query: bytes) -> bytes:
        """Answer the one question there is: how far the log is applied. Entities are read on the node itself."""
        if query != _NOTHING:
            raise InvalidCommand("entities are read with RaftEntities, on the node")
        return b""


class RaftEntities(Entities):
    """Entities that go through the Raft log of a node; of other kinds, those of its store.

    ``get`` and ``ids`` say what this node has applied. ``read`` sees everything that was acknowledged before, on
    whichever node.

    Args:
        node: The node, running.
        machine: Its state machine, or the part of it that has the entities.
        store: For kinds that are merged, so that an application has one object for all. None if there are none.
        clock: None for that of the store, or else one of its own.
        propose: How an operation gets into the log, and its result comes back; None for ``node.propose``. A machine
            that has other commands as well says here how it tells them apart.
    """

    def __init__(
        self,
        node: NodeHandle,
        machine: EntityMachine,
        *,
        store: Entities | None = None,
        clock: HybridLogicalClock | None = None,
        propose: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._node = node
        self._machine = machine
        self._store = store
        self._clock = HybridLogicalClock() if clock is None else clock
        self._propose = propose
        # Another one at each start: what was proposed before it may still be in the log, unknown to this one.
        self._writer_epoch = ""
        self._renew_writer()
        self._editing: dict[tuple[str, str], trio.Lock] = {}

    # -- Reading --

    def get(self, kind: EntityKind[E], entity_id: str) -> E | None:
        """See ``Entities.get``; of a kind in the log, as far as this node has applied it."""
        if (store := self._store_of(kind)) is not None:
            return store.get(kind, entity_id)
        return self._machine.view.get(kind, entity_id)

    async def read(self, kind: EntityKind[E], entity_id: str) -> E | None:
        """Return an entity, with everything that was acknowledged on any node before the call.

        Cancellation: nothing happened. Raises: as ``NodeHandle.read``, and ``get``.
        """
        if self._store_of(kind) is None:
            await self._node.read(_NOTHING, consistency=Consistency.LINEARIZABLE)
        else:
            await trio.lowlevel.checkpoint()
        return self.get(kind, entity_id)

    def ids(self, kind: EntityKind[Any]) -> Iterator[str]:
        """See ``Entities.ids``."""
        if (store := self._store_of(kind)) is not None:
            return store.ids(kind)
        return self._machine.view.ids(kind)

    def stamps(self, kind: EntityKind[Any], entity_id: str) -> dict[str, Stamp]:
        """Return the stamp of what holds in each group of an entity in the log."""
        return self._machine.view.stamps(kind, entity_id)

    def _store_of(self, kind: EntityKind[Any]) -> Entities | None:
        if kind.authority is Authority.RAFT:
            return None
        if self._store is None:
            raise ConfigError(f"kind {kind.name!r} is merged, and no store was given for such")
        return self._store

    # -- Editing --

    async def put(self, kind: EntityKind[E], entity_id: str, entity: E) -> bool:
        """See ``Entities.put``."""
        if (store := self._store_of(kind)) is not None:
            return await store.put(kind, entity_id, entity)
        return await self._edit(kind, entity_id, lambda view, time: view.plan_put(kind, entity_id, entity, time))

    async def update(self, kind: EntityKind[Any], entity_id: str, **fields: Any) -> bool:
        """See ``Entities.update``."""
        if (store := self._store_of(kind)) is not None:
            return await store.update(kind, entity_id, **fields)
        return await self._edit(kind, entity_id, lambda view, time: view.plan_update(kind, entity_id, fields, time))

    async def delete(self, kind: EntityKind[Any], entity_id: str) -> bool:
        """See ``Entities.delete``."""
        if (store := self._store_of(kind)) is not None:
            return await store.delete(kind, entity_id)
        return await self._edit(kind, entity_id, lambda view, time: view.plan_delete(kind, entity_id, time))

    async def restore(self, conflict_id: str) -> bool:
        """Write the losing value of a conflict in the machine's log back, as a new edit. Return whether there is one.

        See ``EntityStore.restore``; what it may raise is what ``put`` may.
        """
        conflict = self._machine.conflicts.get(conflict_id)
        if conflict is None:
            await trio.lowlevel.checkpoint()
            return False
        kind = self._machine.view.kinds.get(conflict.kind)
        if kind is None:
            raise ConfigError(f"there is no kind {conflict.kind!r} here; there are {sorted(self._machine.view.kinds)}")
        await self._edit(kind, conflict.entity_id, lambda view, time: view.plan_restore(conflict, time))
        return True

    def _renew_writer(self) -> None:
        self._writer_epoch = secrets.token_hex(8)

    async def _edit(
        self,
        kind: EntityKind[Any],
        entity_id: str,
        plan: Callable[[EntityView, int], list[Change] | None],
    ) -> bool:
        self._machine.view.check_edit(kind, entity_id)
        async with self._alone_with(kind.name, entity_id):
            # So that it knows of what was acknowledged, this node's edit before it above all.
            await self._node.read(_NOTHING)
            time = join_time(await self._clock.read())
            self._machine.replica.name(self._node.node_id, self._writer_epoch)
            changes = plan(self._machine.view, time)
            if changes is None:
                return False
            if not changes:
                return True
            command = encode_operation(changes)
            try:
                result = await (self._node.propose(command) if self._propose is None else self._propose(command))
            except BaseException:
                # It may come from the log yet. Whoever makes the next edit does not know it, and must not pass for one
                # who does, as the same writer would: that one would replace it without a word.
                self._renew_writer()
                raise
            answer: bytes = result.result
            return len(answer) == len(changes) and all(answer)

    @asynccontextmanager
    async def _alone_with(self, *key: str) -> AsyncIterator[None]:
        """Let this node's edits of one entity wait for each other: the later one is made in knowledge of the first."""
        kind, entity_id = key
        lock = self._editing.setdefault((kind, entity_id), trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._editing.pop((kind, entity_id), None)

"""The entities of one node in memory, and the bytes that keep them: no I/O, no clock.

Everything that changes here is staged as records for the disk under the keys below, so that one commit holds an edit or
a batch of a peer's, with whatever belongs to it: the checkpoint, the clock's bound, the log of changes.

*seq* numbers the changes of this store: each state of a group that is new here takes the next, in place of the one it
had before. So the log of changes is compacted by itself, and holds as many entries as there are groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random, SystemRandom

import attrs

from clustercore.interfaces import LogCorrupt, MalformedMessage, NodeId
from clustercore.sync.change_log import ChangeLog
from clustercore.sync.conflict_log import Conflict
from clustercore.sync.kinds import LIFE_GROUP
from clustercore.sync.writes import GroupState, Past, decode_group_state, split_time, writer_of

__all__ = ["EntityKey", "Replica", "Slot"]

# The kind's name and the entity's id.
EntityKey = tuple[str, str]

_FORMAT = 2
# Records, by the first byte of their keys.
_META, _GROUP, _CHECKPOINT, _HELD, _COLLECTED, _CLOCK, _CONFLICT = b"m", b"g", b"c", b"h", b"d", b"t", b"l"
_SEQ_BYTES = 8
# How many collected tombstones are remembered: with some 300 bytes each, 6 MB. Of what is older than those only the
# time is, and an entity that is not known and not younger is refused.
MAX_COLLECTED = 20_000


@attrs.frozen
class Slot:
    """One group of one entity, as it is held."""

    state: GroupState
    # When it last changed, in this store's count.
    seq: int
    # The peer whose state it is, exactly; None if it was made, or joined, here.
    source: NodeId | None


class Replica:
    """All slots, their order of change, and what else a store remembers."""

    def __init__(self, node_id: NodeId, rng: Random | None = None) -> None:
        self._rng = SystemRandom() if rng is None else rng
        self.node_id = node_id
        self.epoch = ""
        # Whether the epoch began since this was loaded: nobody can know of a later one.
        self.has_new_epoch = False
        self.writer = ""
        self.entities: dict[EntityKey, dict[str, Slot]] = {}
        # States from clocks too far ahead, by entity and group.
        self.held: dict[tuple[EntityKey, str], GroupState] = {}
        # The tombstones that were collected, oldest first. They are not replicated.
        self.collected: dict[EntityKey, GroupState] = {}
        # For some of them, by group, what was seen that is not in the tombstone: edits that lost to it, and that it did
        # not know of. Whoever creates the entity anew knows of them.
        self.dropped: dict[EntityKey, dict[str, GroupState]] = {}
        # Tombstones up to this moment, in ms since 1970 UTC, may have been dropped from there too.
        self.forgotten_ms = 0
        # How often since then one of those had to be held again.
        self.revivals = 0
        # How often a group was dropped. By the floor that cannot be told: it stays where a later change went first.
        self.removals = 0
        self.checkpoints: dict[str, bytes] = {}
        self.clock_bound_ms = 0
        # For each entry of the conflict log that is kept, the number of its record, oldest first.
        self._conflict_numbers: dict[str, int] = {}
        self._loaded_conflicts: list[tuple[int, Conflict]] = []
        # The last number that was taken.
        self.seq = 0
        # Changes up to it may be missing from the log: tombstones that were collected.
        self.floor = 0
        self._collected_numbers: dict[EntityKey, int] = {}
        self._log = ChangeLog()
        self._staged: dict[bytes, bytes | None] = {}
        # How many records were ever staged: it tells whether a commit has what was staged at some moment.
        self.staged_count = 0

    # -- Loading --

    def load(self, records: Mapping[bytes, bytes]) -> None:
        """Take in what is on disk; a new store gets an epoch.

        Raises: LogCorrupt if a record cannot be read, or is another node's.
        """
        if _META in records:
            self._load_meta(records[_META])
        elif records:
            raise LogCorrupt("the entity store has records but none that says whose they are; start with an empty one")
        else:
            self.renew_epoch()
        try:
            for key, value in records.items():
                self._load_record(key, value)
        except (MalformedMessage, IndexError, KeyError, TypeError, ValueError) as error:
            raise LogCorrupt(f"a record of the entity store is damaged ({error}); start with an empty one") from error
        places = [(slot.seq, (key, group)) for key, slots in self.entities.items() for group, slot in slots.items()]
        for seq, place in sorted(places):
            self._log.append(seq, place)
            self.seq = seq
        self.collected = {
            key: self.collected[key] for key in sorted(self.collected, key=self._collected_numbers.__getitem__)
        }
        self._loaded_conflicts.sort(key=lambda entry: entry[0])
        self._conflict_numbers = {conflict.conflict_id: number for number, conflict in self._loaded_conflicts}
        self.seq = max(self.floor, self.seq)

    def _load_meta(self, value: bytes) -> None:
        meta = json.loads(value)
        if meta["format"] != _FORMAT:
            raise LogCorrupt(f"the entity store has format {meta['format']}; this version reads {_FORMAT}")
        if meta["node_id"] != self.node_id:
            raise LogCorrupt(f"the entity store is of node {meta['node_id']!r}, not of {self.node_id!r}")
        self.epoch, self.floor, self.forgotten_ms = meta["epoch"], meta["floor"], meta["forgotten_ms"]
        self.writer = writer_of(self.node_id, self.epoch)

    def _load_record(self, key: bytes, value: bytes) -> None:
        table, rest = key[:1], key[1:]
        if table == _GROUP:
            entity, group = split_key(rest)
            source = value[_SEQ_BYTES + 1 : _SEQ_BYTES + 1 + value[_SEQ_BYTES]].decode()
            state = decode_group_state(value[_SEQ_BYTES + 1 + value[_SEQ_BYTES] :])
            slot = Slot(state, int.from_bytes(value[:_SEQ_BYTES], "big"), NodeId(source) if source else None)
            self.entities.setdefault(entity, {})[group] = slot
        elif table == _HELD:
            self.held[split_key(rest)] = decode_group_state(value)
        elif table == _COLLECTED and (group := split_key(rest)[1]):
            self.dropped.setdefault(split_key(rest)[0], {})[group] = decode_group_state(value)
        elif table == _COLLECTED:
            # After the count of how many were collected before, so that the oldest can go first.
            self._collected_numbers[split_key(rest)[0]] = int.from_bytes(value[:_SEQ_BYTES], "big")
            self.collected[split_key(rest)[0]] = decode_group_state(value[_SEQ_BYTES:])
        elif table == _CHECKPOINT:
            self.checkpoints[rest.decode()] = value
        elif table == _CONFLICT:
            # By number, as they were logged. By id, each would go to another page of the disk.
            self._loaded_conflicts.append((int.from_bytes(rest, "big"), Conflict.from_json(json.loads(value))))
        elif table == _CLOCK:
            self.clock_bound_ms = int.from_bytes(value, "big")

    # -- Changing --

    def name(self, node_id: NodeId, epoch: str) -> None:
        """Say who writes here, where nothing is kept on disk."""
        self.node_id, self.epoch = node_id, epoch
        self.writer = writer_of(node_id, epoch)

    def renew_epoch(self) -> None:
        """Begin to write under a new name: what was written under the old one is not all known here."""
        self.epoch = f"{self._rng.getrandbits(64):016x}"
        self.writer = writer_of(self.node_id, self.epoch)
        self.has_new_epoch = True
        self._stage_meta()

    def _stage_meta(self) -> None:
        meta = {"format": _FORMAT, "node_id": self.node_id, "epoch": self.epoch, "floor": self.floor}
        meta["forgotten_ms"] = self.forgotten_ms
        self._stage(_META, json.dumps(meta).encode())

    def set_state(self, key: EntityKey, group: str, state: GroupState, source: NodeId | None) -> None:
        """Hold a state, as the newest change."""
        slots = self.entities.setdefault(key, {})
        if group in slots:
            self._log.remove(slots[group].seq)
        self.seq += 1
        slots[group] = Slot(state, self.seq, source)
        self._log.append(self.seq, (key, group))
        name = (source or "").encode()
        value = b"".join((self.seq.to_bytes(_SEQ_BYTES, "big"), bytes((len(name),)), name, state.encoded))
        self._stage(_GROUP + join_key(key, group), value)

    def collect(self, key: EntityKey, groups: Sequence[str], seen: Mapping[str, Past]) -> None:
        """Drop groups of an entity, its tombstone among them, and note that tombstone in the ledger.

        Args:
            seen: For some of the groups, what was seen of them and is to be remembered beside the tombstone.
        """
        slots = self.entities[key]
        state = slots[LIFE_GROUP].state
        for group in groups:
            self._remove(key, group, slots.pop(group))
        if not slots:
            del self.entities[key]
        # Behind all others: the dictionary is in the order of its numbers.
        newest = next(reversed(self.collected), None)
        number = 1 if newest is None else self._collected_numbers[newest] + 1
        self.collected.pop(key, None)
        self.collected[key], self._collected_numbers[key] = state, number
        self._stage(_COLLECTED + join_key(key, ""), number.to_bytes(_SEQ_BYTES, "big") + state.encoded)
        for group in groups:
            self._set_dropped(key, group, seen.get(group))
        while len(self.collected) > MAX_COLLECTED:
            times = [head.stamp.time for head in self._forget(next(iter(self.collected))).heads]
            self.forgotten_ms = max(self.forgotten_ms, split_time(max(times, default=0)).physical_ms)
        self._stage_meta()

    def hold_again(self, key: EntityKey) -> None:
        """Hold a tombstone that was collected, as the newest change: the ledger's entity came back against it."""
        self.set_state(key, LIFE_GROUP, self._forget(key), None)
        self.revivals += 1

    def _forget(self, key: EntityKey) -> GroupState:
        """Take an entity out of the ledger."""
        state = self.collected.pop(key)
        del self._collected_numbers[key]
        self._stage(_COLLECTED + join_key(key, ""), None)
        for group in list(self.dropped.get(key, ())):
            self._set_dropped(key, group, None)
        return state

    def _set_dropped(self, key: EntityKey, group: str, seen: Past | None) -> None:
        groups = self.dropped.setdefault(key, {})
        if seen:
            groups[group] = GroupState((), seen)
            self._stage(_COLLECTED + join_key(key, group), groups[group].encoded)
        elif groups.pop(group, None) is not None:
            self._stage(_COLLECTED + join_key(key, group), None)
        if not groups:
            del self.dropped[key]

    def dropped_of(self, key: EntityKey, group: str) -> GroupState | None:
        """Return what is known to have been seen of a group that was collected, beyond what the tombstone covers."""
        return self.dropped[key].get(group) if key in self.dropped else None

    def drop(self, key: EntityKey) -> None:
        """Hold nothing of an entity any more, and do not remember that there was something."""
        for group, slot in self.entities.pop(key).items():
            self._remove(key, group, slot)

    def _remove(self, key: EntityKey, group: str, slot: Slot) -> None:
        """Keep a group no more, neither in the log of changes nor on disk."""
        self._log.remove(slot.seq)
        self.floor = max(self.floor, slot.seq)
        self.removals += 1
        self._stage(_GROUP + join_key(key, group), None)

    def hold(self, key: EntityKey, group: str, state: GroupState | None) -> None:
        """Keep a state aside, or no more if it is None."""
        record = _HELD + join_key(key, group)
        if state is None:
            self.held.pop((key, group), None)
            self._stage(record, None)
        else:
            self.held[key, group] = state
            self._stage(record, state.encoded)

    def set_checkpoint(self, name: str, value: bytes | None) -> None:
        """Keep a checkpoint, or no more if it is None."""
        if value is None:
            self.checkpoints.pop(name, None)
        else:
            self.checkpoints[name] = value
        self._stage(_CHECKPOINT + name.encode(), value)

    def set_clock_bound(self, bound_ms: int) -> None:
        """Keep the clock's bound."""
        self.clock_bound_ms = bound_ms
        self._stage(_CLOCK, bound_ms.to_bytes(8, "big"))

    def log_conflict(self, conflict_id: str, encoded: bytes) -> None:
        """Keep an entry of the conflict log."""
        newest = next(reversed(self._conflict_numbers), None)
        number = 1 if newest is None else self._conflict_numbers[newest] + 1
        self._conflict_numbers[conflict_id] = number
        self._stage(_CONFLICT + number.to_bytes(_SEQ_BYTES, "big"), encoded)

    def forget_conflict(self, conflict_id: str) -> None:
        """Keep an entry of the conflict log no more."""
        # One of another store's that has the same log is not kept here.
        if (number := self._conflict_numbers.pop(conflict_id, None)) is not None:
            self._stage(_CONFLICT + number.to_bytes(_SEQ_BYTES, "big"), None)

    def take_conflicts(self) -> list[Conflict]:
        """Return the conflicts that were logged before, oldest first, and keep them here no more."""
        loaded, self._loaded_conflicts = self._loaded_conflicts, []
        return [conflict for _, conflict in loaded]

    def _stage(self, key: bytes, value: bytes | None) -> None:
        self._staged[key] = value
        self.staged_count += 1

    def take_staged(self) -> dict[bytes, bytes | None]:
        """Return what has to be written, and begin to gather anew."""
        staged, self._staged = self._staged, {}
        return staged

    def put_back(self, staged: Mapping[bytes, bytes | None]) -> None:
        """Take back what was not written; what was staged since then replaces it."""
        self._staged = {**staged, **self._staged}

    # -- Reading --

    def changed_since(self, since: int, up_to: int) -> Iterator[tuple[EntityKey, str, Slot]]:
        """Yield the slots that changed after ``since`` and not after ``up_to``, in order. Change nothing meanwhile."""
        for seq, (key, group) in self._log.since(since):
            if seq > up_to:
                return
            yield key, group, self.entities[key][group]


def join_key(key: EntityKey, group: str) -> bytes:
    """Return the bytes that name a group of an entity, in records and digests. Each name has at most 255 bytes."""
    kind, entity_id = key[0].encode(), key[1].encode()
    return b"".join((bytes((len(kind),)), kind, bytes((len(entity_id),)), entity_id, group.encode()))


def split_key(data: bytes) -> tuple[EntityKey, str]:
    """Return what ``join_key`` joined. Raises: IndexError, UnicodeDecodeError."""
    kind_end = 1 + data[0]
    id_end = kind_end + 1 + data[kind_end]
    return (data[1:kind_end].decode(), data[kind_end + 1 : id_end].decode()), data[id_end:].decode()

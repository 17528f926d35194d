"""What is on a simulated disk, sector by sector: a journal that is only ever appended to.

Why a journal of the simulator's own, and not the SQLite storage that ships, on a simulated block device: a storage that
ships works in a thread, through the operating system's files, and takes real time; a run that one seed decides can have
none of these. That storage has tests of its own that cut it off at every sector. What this one is for is the node above
it: it is as simple as can be, and keeps just what the contract of Storage promises, and no more, whatever becomes of
its sectors.

A write is a *batch* of records: for ``append`` the place where the log is cut, then each entry, for all others one.
Each record begins a sector, and names its batch, whether it is the last of that, and the record before it, by its
checksum::

    sector 0          1              2                  3           4
    batch 1, term     batch 2, cut   batch 2, entry 7 (two sectors)   batch 2, entry 8, last

Sectors are written wholly or not at all, those of a write that is cut off in any order. What is found again is the
longest run of records that follow one another from the start. Where that ends, its batch was cut off, or the next one
was that began behind what was left of it. If there is a record of a still later batch, both were whole once, since no
batch begins before the one before it is synced: something is damaged, be it by flipped bits or because another sector
was written over it.

A damaged record of the *last* batches cannot be told from one that was cut off; no storage can that syncs once. So
damage in a simulation keeps to the batches before them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import attrs

from clustercore.interfaces import (
    Entry,
    HardState,
    LogCorrupt,
    LogIndex,
    NodeId,
    SnapshotId,
    SnapshotMetadata,
    StorageIdentity,
    StoredState,
    Term,
)
from clustercore.raft.configuration import decode_configuration, encode_configuration
from clustercore.raft.entry import decode_entry
from clustercore.testing.simulation.chance import Chance

__all__ = ["SECTOR_BYTES", "Content", "Journal", "Record", "cut", "entry", "identity", "install", "part", "term"]

# Smaller than any disk's, so that what few and short entries take is several of them.
SECTOR_BYTES = 64

# The checksum of all that follows; that of the record before it; batch; kind; whether it is the last of its batch;
# how many bytes follow.
_HEADER = struct.Struct("<IIIBBI")
_CHECKED_FROM = 4


class _Kind(IntEnum):
    IDENTITY = 1
    TERM = 2
    CUT = 3
    ENTRY = 4
    INSTALL = 5
    # Of a snapshot that is not installed yet: it need not survive, and does not.
    PART = 6


@attrs.frozen
class Record:
    """A part of a write."""

    kind: _Kind
    payload: bytes


@attrs.frozen
class Content:
    """All that a disk holds for certain. Parts of a snapshot that is not installed need not survive, and so do not."""

    state: StoredState = attrs.field(factory=StoredState)
    # The bytes of the stored snapshot.
    snapshot_data: bytes = b""


# --- Records ---


def identity(stored: StorageIdentity) -> Record:
    """Return the record of whose storage it is."""
    values = stored.node_id, stored.incarnation, stored.starts, stored.cluster_id, stored.election_timeout_s
    return Record(_Kind.IDENTITY, json.dumps(values).encode())


def term(stored: HardState) -> Record:
    """Return the record of a term and a vote."""
    return Record(_Kind.TERM, json.dumps((stored.current_term, stored.voted_for, stored.is_founder)).encode())


def cut(first: LogIndex) -> Record:
    """Return the record that takes away all entries from an index on."""
    return Record(_Kind.CUT, b"%d" % first)


def entry(stored: Entry) -> Record:
    """Return the record of an entry."""
    return Record(_Kind.ENTRY, stored.encoded)


def install(metadata: SnapshotMetadata, keep_from: LogIndex | None, data: bytes) -> Record:
    """Return the record of a snapshot that takes the place of the log below ``keep_from``."""
    values = metadata.last_included_index, metadata.last_included_term, metadata.snapshot_id, keep_from
    configuration = encode_configuration(metadata.configuration)
    parts = json.dumps(values).encode(), configuration, data
    return Record(_Kind.INSTALL, struct.pack("<3I", *map(len, parts)) + b"".join(parts))


def part(data: bytes) -> Record:
    """Return the record of a part of a snapshot."""
    return Record(_Kind.PART, data)


@attrs.define
class _Found:
    """A record on a disk."""

    record: Record
    before: int
    batch: int
    is_last: bool
    checksum: int
    end: int


def _read(image: bytes | bytearray, position: int) -> _Found | None:
    """Return the record that begins at a sector; None if none does, or not all of it is there."""
    if position + _HEADER.size > len(image):
        return None
    checksum, before, batch, kind, is_last, length = _HEADER.unpack_from(image, position)
    end = position + _HEADER.size + length
    if not batch or end > len(image) or zlib.crc32(image[position + _CHECKED_FROM : end]) != checksum:
        return None
    payload = bytes(image[position + _HEADER.size : end])
    return _Found(Record(_Kind(kind), payload), before, batch, bool(is_last), checksum, _aligned(end))


def _aligned(position: int) -> int:
    return -(-position // SECTOR_BYTES) * SECTOR_BYTES


class Journal:
    """The sectors of one disk."""

    def __init__(self) -> None:
        self._image = bytearray()
        # Where the next batch begins; the number of the last one, and the checksum of its last record.
        self._end = 0
        self._batch = 0
        self._checksum = 0
        # Where each batch began that was appended wholly, in order.
        self._batches: list[int] = []
        # Whether sectors were damaged since: as long as none were, what is read need not be checked.
        self.is_damaged = False

    def copy(self) -> Journal:
        """Return a disk with the same sectors."""
        other = Journal()
        other._image = bytearray(self._image)
        other._end, other._batch, other._checksum = self._end, self._batch, self._checksum
        other._batches, other.is_damaged = list(self._batches), self.is_damaged
        return other

    def append(self, records: Sequence[Record]) -> None:
        """Write a batch, wholly."""
        sectors, checksum = self._encode(records)
        self._put(sectors, range(len(sectors) // SECTOR_BYTES))
        self._batches.append(self._end)
        self._end += len(sectors)
        self._batch += 1
        self._checksum = checksum

    def tear(self, records: Sequence[Record], chance: Chance) -> None:
        """Write some sectors of a batch, of which none was synced, and lose the others."""
        sectors, _ = self._encode(records)
        every = range(len(sectors) // SECTOR_BYTES)
        share = chance.choice([0.0, 0.5, 0.8, 0.95, 1.0])
        self._put(sectors, [number for number in every if chance.happens(share)])

    def _encode(self, records: Sequence[Record]) -> tuple[bytes, int]:
        parts: list[bytes] = []
        before = self._checksum
        for number, record in enumerate(records, start=1):
            is_last = number == len(records)
            checked = _HEADER.pack(0, before, self._batch + 1, record.kind, is_last, len(record.payload))
            checked = checked[_CHECKED_FROM:] + record.payload
            before = zlib.crc32(checked)
            whole = struct.pack("<I", before) + checked
            parts.append(whole.ljust(_aligned(len(whole)), b"\0"))
        return b"".join(parts), before

    def _put(self, sectors: bytes, numbers: Sequence[int]) -> None:
        if len(self._image) < self._end + len(sectors):
            self._image.extend(bytes(self._end + len(sectors) - len(self._image)))
        for number in numbers:
            offset = number * SECTOR_BYTES
            self._image[self._end + offset : self._end + offset + SECTOR_BYTES] = sectors[
                offset : offset + SECTOR_BYTES
            ]

    # --- Damage ---

    def flip(self, chance: Chance) -> bool:
        """Flip a bit of a record that is not of the last batches. Say whether there was one."""
        places = self._damageable()
        if places:
            offset, length = chance.choice(places)
            self._image[offset + chance.below(length)] ^= 1 << chance.below(8)
            self.is_damaged = True
        return self.is_damaged

    def misdirect(self, chance: Chance) -> bool:
        """Let a sector of the last batch have been written elsewhere, over one of a batch before it, and not here.

        Say whether there was room for that.
        """
        places = self._damageable()
        if places:
            target = chance.choice(places)[0] // SECTOR_BYTES * SECTOR_BYTES
            sectors = range(self._batches[-1], self._end, SECTOR_BYTES)
            # The last batch is broken now, too. The one before it tells of the damage.
            source = chance.choice(sectors)
            self._image[target : target + SECTOR_BYTES] = self._image[source : source + SECTOR_BYTES]
            self._image[source : source + SECTOR_BYTES] = bytes(SECTOR_BYTES)
            self.is_damaged = True
        return self.is_damaged

    def _damageable(self) -> list[tuple[int, int]]:
        """Return where records are, each with its length, that so many more batches follow that damage shows."""
        end = self._batches[-3] if len(self._batches) > 3 else 0
        return [
            (position, _HEADER.size + len(found.record.payload)) for position, found in self._walk() if position < end
        ]

    # --- Recovery ---

    def _walk(self) -> Iterator[tuple[int, _Found]]:
        """Yield the records that follow one another from the start, each with its place."""
        position = batch = checksum = 0
        is_complete = True
        while (found := _read(self._image, position)) is not None and found.before == checksum:
            # The records of a batch that was cut off are followed by those of the next.
            if found.batch != batch + 1 and (is_complete or found.batch != batch):
                break
            yield position, found
            position, batch, checksum, is_complete = found.end, found.batch, found.checksum, found.is_last

    def recover(self) -> Content:
        """Find what is there, as the machine does that is switched on; the next batch follows it.

        Raises: LogCorrupt if something is damaged that was synced.
        """
        replay = _Replay()
        batches: list[int] = []
        end = batch = checksum = 0
        for position, found in self._walk():
            if found.batch != batch:
                batches.append(position)
            replay.take(found.record)
            end, batch, checksum = found.end, found.batch, found.checksum
        # One batch, and perhaps the one after what is left of another, was cut off.
        broken = batch + 1
        for later in range(end, len(self._image), SECTOR_BYTES):
            behind = _read(self._image, later)
            if behind is not None and behind.batch > broken:
                raise LogCorrupt(
                    f"the simulated disk has a record of batch {behind.batch}, and none at sector "
                    f"{end // SECTOR_BYTES}, where batch {broken} was"
                )
        self._end, self._batch, self._checksum, self._batches = end, batch, checksum, batches
        self.is_damaged = False
        return replay.content


class _Replay:
    """What records make of a disk, one after the other."""

    def __init__(self) -> None:
        self._identity: StorageIdentity | None = None
        self._hard_state = HardState()
        self._snapshot: SnapshotMetadata | None = None
        self._data = b""
        self._entries: list[Entry] = []

    @property
    def content(self) -> Content:
        """What there is."""
        state = StoredState(self._hard_state, self._snapshot, tuple(self._entries), self._identity)
        return Content(state, self._data)

    def take(self, record: Record) -> None:
        """Carry out one record."""
        payload = record.payload
        match record.kind:
            case _Kind.IDENTITY:
                node_id, incarnation, starts, cluster_id, timeout_s = json.loads(payload)
                self._identity = StorageIdentity(NodeId(node_id), incarnation, starts, cluster_id, timeout_s)
            case _Kind.TERM:
                current_term, voted_for, is_founder = json.loads(payload)
                vote = None if voted_for is None else NodeId(voted_for)
                self._hard_state = HardState(Term(current_term), vote, is_founder)
            case _Kind.CUT:
                self._keep(lambda index: index < int(payload))
            case _Kind.ENTRY:
                self._entries.append(decode_entry(payload))
            case _Kind.INSTALL:
                self._install(payload)
            case _Kind.PART:
                pass

    def _install(self, payload: bytes) -> None:
        lengths = struct.unpack_from("<3I", payload)
        start = struct.calcsize("<3I")
        values, configuration = payload[start : start + lengths[0]], payload[start + lengths[0] :][: lengths[1]]
        index, last_term, snapshot_id, keep_from = json.loads(values)
        members = decode_configuration(configuration)
        self._snapshot = SnapshotMetadata(LogIndex(index), Term(last_term), members, SnapshotId(snapshot_id))
        self._data = payload[start + lengths[0] + lengths[1] :]
        self._keep(lambda index: keep_from is not None and index >= keep_from)

    def _keep(self, is_kept: Callable[[LogIndex], bool]) -> None:
        self._entries = [entry for entry in self._entries if is_kept(entry.index)]

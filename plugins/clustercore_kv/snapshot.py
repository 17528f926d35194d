"""The bytes of a snapshot: the whole store, compact and checked.

Big-endian, without padding. They are on disk and travel to other nodes, so a change to this layout is a new version:

    offset  size  field
    0       4     "CCKV"
    4       4     version: 1
    8       8     applied index: the log index of the last command applied
    16      8     revision: the log index of the last change, at most the applied index
    24      8     number of keys
    32            for each key, in order:  key length (4), value length (4), revision (8), key in UTF-8, value
    end - 4 4     CRC-32 of everything before

Nodes with the same state make the same bytes. They are made and read in parts, so that a state of gigabytes is never in
memory twice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import attrs

from clustercore.interfaces import SnapshotHandle
from clustercore_kv.errors import MalformedSnapshot
from clustercore_kv.store import Entry, Store

__all__ = ["FrozenStore", "SnapshotDecoder", "StoreSnapshot"]

_MAGIC = b"CCKV"
_VERSION = 1
_HEADER = struct.Struct(">4sIQQQ")
_ENTRY = struct.Struct(">IIQ")
_CHECK = struct.Struct(">I")
# Keys and values of one part, about: it takes a millisecond at most.
_PART_BYTES = 32 * 1024


class FrozenStore(SnapshotHandle):
    """A store as it was, to be written down while it changes."""

    def __init__(self, store: Store, applied_index: int, revision: int) -> None:
        """Freeze the store, until ``close``.

        Args:
            store: The store.
            applied_index: The log index of the last command applied to it.
            revision: The log index of its last change.
        """
        self._store = store
        self._view = store.freeze()
        self._applied_index = applied_index
        self._revision = revision

    def chunks(self) -> Iterator[bytes]:
        part = _HEADER.pack(_MAGIC, _VERSION, self._applied_index, self._revision, self._view.count)
        check = zlib.crc32(part)
        yield part
        while not self._view.is_read:
            part = _encode_entries(self._view.read(_PART_BYTES))
            check = zlib.crc32(part, check)
            yield part
        yield _CHECK.pack(check)

    def close(self) -> None:
        self._store.thaw(self._view)


def _encode_entries(entries: list[tuple[str, Entry]]) -> bytes:
    parts: list[bytes] = []
    for key, (value, revision) in entries:
        name = key.encode()
        parts += (_ENTRY.pack(len(name), len(value), revision), name, value)
    return b"".join(parts)


@attrs.frozen
class StoreSnapshot:
    """What a snapshot holds."""

    store: Store
    applied_index: int
    revision: int


class SnapshotDecoder:
    """Reads a snapshot that comes in parts, cut anywhere: ``feed`` each, and then ``finish``.

    Raises, from both: MalformedSnapshot if it is damaged, cut short, or of a version that this program does not know.
    """

    def __init__(self) -> None:
        self._unread = bytearray()
        self._check = 0
        self._applied_index = self._revision = 0
        # How many keys there are to be; None until the header is read.
        self._count: int | None = None
        self._store = Store()
        self._last_key: str | None = None
        # How many unread bytes it takes to go on: those of the next key and its value, as far as they are known.
        self._needed = _HEADER.size

    def feed(self, part: bytes) -> None:
        """Take the next part. It takes about a microsecond a key."""
        self._unread += part
        position = 0
        if len(self._unread) < self._needed:
            return
        if self._count is None:
            self._read_header()
            position = _HEADER.size
        # What is read is behind the header, and a copy: slices of a bytearray would be bytearrays.
        data = bytes(memoryview(self._unread)[position:])
        end = self._read_entries(data)
        self._check = zlib.crc32(memoryview(data)[:end], self._check)
        self._unread[:] = memoryview(data)[end:]

    def finish(self) -> StoreSnapshot:
        """Return what the parts made, now that all have come."""
        if self._count is None:
            raise MalformedSnapshot(
                f"a snapshot has {len(self._unread)} bytes; the least is {_HEADER.size + _CHECK.size}"
            )
        if len(self._store) < self._count:
            raise MalformedSnapshot(
                f"the snapshot ends in key {len(self._store)}, or before it; it must have {self._count} keys"
            )
        if len(self._unread) != _CHECK.size:
            raise MalformedSnapshot(
                f"{len(self._unread)} bytes follow the snapshot's {self._count} keys; there must be {_CHECK.size}"
            )
        (expected,) = _CHECK.unpack(self._unread)
        if self._check != expected:
            raise MalformedSnapshot(f"the snapshot's CRC-32 is {self._check:#010x}; it must be {expected:#010x}")
        return StoreSnapshot(self._store, self._applied_index, self._revision)

    def _read_header(self) -> None:
        magic, version, self._applied_index, self._revision, self._count = _HEADER.unpack_from(self._unread)
        if magic != _MAGIC:
            raise MalformedSnapshot(f"a snapshot begins with {magic!r}; one of the key-value store with {_MAGIC!r}")
        if version != _VERSION:
            raise MalformedSnapshot(f"the snapshot is of version {version}; this program reads version {_VERSION}")
        self._check = zlib.crc32(memoryview(self._unread)[: _HEADER.size])

    def _read_entries(self, data: bytes) -> int:
        """Read the entries that are there in full; return where they end."""
        assert self._count is not None
        position, size = 0, len(data)
        while len(self._store) < self._count:
            name_at = position + _ENTRY.size
            if name_at > size:
                self._needed = _ENTRY.size
                return position
            name_bytes, value_bytes, revision = _ENTRY.unpack_from(data, position)
            value_at = name_at + name_bytes
            end = value_at + value_bytes
            if end > size:
                self._needed = end - position
                return position
            self._add(data[name_at:value_at], data[value_at:end], revision)
            position = end
        self._needed = _CHECK.size
        return position

    def _add(self, name: bytes, value: bytes, revision: int) -> None:
        try:
            key = name.decode()
        except UnicodeDecodeError as error:
            raise MalformedSnapshot(f"key {len(self._store)} of the snapshot cannot be read: {error}") from error
        if self._last_key is not None and key <= self._last_key:
            raise MalformedSnapshot("the snapshot's keys are not in order")
        self._store.append(key, value, revision)
        self._last_key = key

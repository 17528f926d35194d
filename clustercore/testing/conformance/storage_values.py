"""Entries and snapshots for tests of storages, and how a snapshot is written and read whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import attrs

from clustercore.interfaces import (
    Configuration,
    Entry,
    EntryKind,
    LogIndex,
    SnapshotId,
    SnapshotMetadata,
    Storage,
    Term,
)

__all__ = ["Whole", "command", "commands", "read_snapshot", "save_snapshot", "snapshot"]

ABC = Configuration.of("abc", cluster_id="x")


@attrs.frozen
class Whole:
    """A snapshot and its bytes."""

    metadata: SnapshotMetadata
    data: bytes


def command(index: int, term: int = 1, data: bytes | None = None) -> Entry:
    """Return a command entry; without ``data`` its command says where it is from."""
    text = f"{index}@{term}".encode() if data is None else data
    return Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, text)


def commands(indexes: Iterable[int], term: int = 1) -> list[Entry]:
    """Return a command entry for each index."""
    return [command(index, term) for index in indexes]


def snapshot(
    index: int,
    term: int = 1,
    data: bytes = b"state",
    *,
    name: str = "",
    members: Configuration = ABC,
) -> Whole:
    """Return a snapshot up to an index."""
    snapshot_id = SnapshotId(name or f"s{index}-{term}-{zlib.crc32(data):x}")
    return Whole(SnapshotMetadata(LogIndex(index), Term(term), members, snapshot_id), data)


async def save_snapshot(storage: Storage, whole: Whole, *, keep_from: int | None, chunk_bytes: int = 1 << 20) -> None:
    """Write a snapshot in chunks and install it."""
    for offset in range(0, len(whole.data) or 1, chunk_bytes):
        await storage.write_snapshot_chunk(whole.metadata, offset, whole.data[offset : offset + chunk_bytes])
    await storage.install_snapshot(whole.metadata, keep_from=None if keep_from is None else LogIndex(keep_from))


async def read_snapshot(storage: Storage, *, max_bytes: int = 1 << 20) -> Whole | None:
    """Read the stored snapshot to its end, which checks all of it."""
    reader = await storage.open_snapshot()
    if reader is None:
        return None
    data = b""
    while part := await reader.read(len(data), max_bytes):
        assert len(part) <= max_bytes
        data += part
    assert len(data) == reader.size
    await reader.aclose()
    return Whole(reader.metadata, data)

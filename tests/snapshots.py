"""Snapshots as tests have them: whole, with their bytes."""

from __future__ import annotations

import zlib

import attrs

from clustercore.interfaces import (
    Configuration,
    InstallSnapshotRequest,
    LogIndex,
    NodeId,
    SnapshotId,
    SnapshotMetadata,
    Storage,
    Term,
)

__all__ = ["NODE_BYTES", "Whole", "install_request", "machine_bytes", "read_snapshot", "save_snapshot", "snapshot"]

# What a node puts in front of the state machine's bytes, as long as it has nothing of its own to remember.
NODE_BYTES = b"\x89clustercore\x01" + bytes(8)

ABC = Configuration.of("abc", cluster_id="x")


@attrs.frozen
class Whole:
    """A snapshot and its bytes."""

    metadata: SnapshotMetadata
    data: bytes


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


def machine_bytes(data: bytes) -> bytes:
    """Return what is the state machine's in a snapshot that a node took."""
    mark = len(NODE_BYTES) - 8
    assert data.startswith(NODE_BYTES[:mark])
    return data[len(NODE_BYTES) + int.from_bytes(data[mark : mark + 8], "little") :]


def install_request(
    whole: Whole, *, term: int = 1, leader: str = "a", offset: int = 0, is_last: bool = True
) -> InstallSnapshotRequest:
    """Return the request that sends a snapshot's bytes as one chunk."""
    return InstallSnapshotRequest(
        Term(term), NodeId(leader), whole.metadata, offset, whole.data, zlib.crc32(whole.data), is_last
    )

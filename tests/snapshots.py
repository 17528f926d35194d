"""Snapshots as tests have them: whole, with their bytes."""

from __future__ import annotations

import zlib

from clustercore.interfaces import InstallSnapshotRequest, NodeId, Term
from clustercore.testing.conformance.storage_values import Whole, read_snapshot, save_snapshot, snapshot

__all__ = ["NODE_BYTES", "Whole", "install_request", "machine_bytes", "read_snapshot", "save_snapshot", "snapshot"]

# What a node puts in front of the state machine's bytes, as long as it has nothing of its own to remember.
NODE_BYTES = b"\x89clustercore\x01" + bytes(8)


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

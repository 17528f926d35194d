"""Reading a stored snapshot for a peer: in chunks, or whole for a peer that knows of none."""

from __future__ import annotations

import zlib

import attrs
import pytest

from clustercore.interfaces import InstallSnapshotRequest, NodeId, SnapshotId, Term
from clustercore.raft.effects import SendSnapshot
from clustercore.runtime.snapshot_sender import SnapshotSender
from clustercore.runtime.writer import StorageCall
from clustercore_memory import MemoryStorage
from tests.snapshots import Whole, save_snapshot, snapshot

A, B = NodeId("a"), NodeId("b")
S5 = snapshot(5, data=b"some state")


@attrs.define
class Bench:
    """A sender on a storage that has one snapshot, and what it did."""

    takes_chunks: bool = True
    max_message_bytes: int | None = None
    storage: MemoryStorage = attrs.field(factory=MemoryStorage)
    calls: list[StorageCall] = attrs.field(factory=list)
    sent: list[InstallSnapshotRequest] = attrs.field(factory=list)
    gone: list[SnapshotId] = attrs.field(factory=list)

    async def send(self, *offsets: int, of: Whole = S5) -> None:
        """Send the chunks at these offsets to one peer."""
        sender = SnapshotSender(
            node_id=A,
            chunk_bytes=4,
            post_job=self.calls.append,
            post_message=lambda peer, message: self.sent.append(message),
            on_gone=lambda peer, snapshot_id: self.gone.append(snapshot_id),
            takes_chunks=lambda peer: self.takes_chunks,
            max_message_bytes=self.max_message_bytes,
        )
        async with self.storage:
            await save_snapshot(self.storage, S5, keep_from=None)
            for offset in offsets:
                sender.send(SendSnapshot(B, Term(3), of.metadata.snapshot_id, offset))
                await self.calls.pop().call(self.storage)


def request(offset: int, data: bytes, *, is_last: bool) -> InstallSnapshotRequest:
    """What is to be sent."""
    return InstallSnapshotRequest(Term(3), A, S5.metadata, offset, data, zlib.crc32(data), is_last)


async def test_snapshot_is_sent_in_chunks() -> None:
    """Each begins where it is asked for, and the one that reaches the end says so."""
    bench = Bench()

    await bench.send(0, 4, 8)

    assert bench.sent == [
        request(0, b"some", is_last=False),
        request(4, b" sta", is_last=False),
        request(8, b"te", is_last=True),
    ]


async def test_chunk_beyond_the_end_is_the_first() -> None:
    """A follower asks for what there is not if it has another snapshot; the first chunk shows it."""
    bench = Bench()

    await bench.send(11)

    assert bench.sent == [request(0, b"some", is_last=False)]


async def test_snapshot_that_is_not_stored_is_reported() -> None:
    """The core then sends the newest."""
    bench = Bench()

    await bench.send(0, of=snapshot(6))

    assert (bench.sent, bench.gone) == ([], [snapshot(6).metadata.snapshot_id])


@pytest.mark.parametrize("offset", [0, 4])
async def test_snapshot_for_a_peer_of_version_2_is_one_message(offset: int) -> None:
    """It takes what it is sent for all of it, so it is all of it."""
    bench = Bench(takes_chunks=False, max_message_bytes=64 * 1024 + 10)

    await bench.send(offset)

    assert bench.sent == [request(0, b"some state", is_last=True)]


async def test_snapshot_too_large_for_one_message_is_not_sent_to_a_peer_of_version_2(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Never a part of it. What is to be done about it is said once."""
    bench = Bench(takes_chunks=False, max_message_bytes=64 * 1024 + 9)

    await bench.send(0, 0)

    assert bench.sent == []
    assert caplog.messages == [
        "node b needs a snapshot of 10 bytes, and its version takes none above 9 bytes; upgrade it"
    ]

"""Reading stored snapshots chunk by chunk, for the peers they are sent to."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Mapping
from functools import partial

from clustercore.interfaces.storage import SnapshotReader, Storage
from clustercore.raft.effects import SendSnapshot
from clustercore.raft.messages import InstallSnapshotRequest
from clustercore.raft.types import NodeId, SnapshotId
from clustercore.runtime.writer import StorageCall

__all__ = ["SnapshotSender"]

logger = logging.getLogger("clustercore")

# The most that a request holds beside the snapshot's bytes: above all the members, of which there may be hundreds.
_HEADER_BYTES = 64 * 1024


class SnapshotSender:
    """Carries out SendSnapshot: keeps a snapshot open for each peer that is sent one, and sends a chunk at a time.

    One chunk is in memory for each such peer at most, until the link has taken it.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        chunk_bytes: int,
        post_job: Callable[[StorageCall], None],
        post_message: Callable[[NodeId, InstallSnapshotRequest], None],
        on_gone: Callable[[NodeId, SnapshotId], None],
        takes_chunks: Callable[[NodeId], bool],
        max_message_bytes: int | None,
    ) -> None:
        """Prepare to send.

        Args:
            node_id: This node's.
            chunk_bytes: The most that is read and sent at once.
            post_job, post_message: Where to put what is to be done with the storage, and what is to be sent.
            on_gone: Told that a snapshot cannot be read, as a newer one took its place.
            takes_chunks: Whether a peer knows of chunks. One of an older version takes whatever it is sent for all.
            max_message_bytes: The largest message that the transport carries; None for any.
        """
        self._node_id = node_id
        self._chunk_bytes = chunk_bytes
        self._post_job = post_job
        self._post_message = post_message
        self._on_gone = on_gone
        self._takes_chunks = takes_chunks
        self._max_whole_bytes = math.inf if max_message_bytes is None else max_message_bytes - _HEADER_BYTES
        # Of which snapshots it was said that a peer of an older version cannot have them.
        self._told: dict[NodeId, SnapshotId] = {}
        self._readers: dict[NodeId, SnapshotReader] = {}

    def send(self, effect: SendSnapshot) -> None:
        """Have a chunk read, in turn with the writes, and sent."""

        async def read_and_send(storage: Storage) -> None:
            reader = await self._reader_for(effect, storage)
            if reader is None:
                self._on_gone(effect.to, effect.snapshot_id)
                return
            # Who asks for what is beyond the end gets the beginning, and will find that it is another snapshot.
            offset = effect.offset if effect.offset <= reader.size else 0
            if self._takes_chunks(effect.to):
                data = await reader.read(offset, self._chunk_bytes)
            elif self._is_too_large(reader, effect.to):
                return
            else:
                offset, data = 0, await _read_all(reader)
            request = InstallSnapshotRequest(
                term=effect.term,
                leader_id=self._node_id,
                metadata=reader.metadata,
                offset=offset,
                data=data,
                checksum=zlib.crc32(data),
                is_last=offset + len(data) == reader.size,
            )
            self._post_message(effect.to, request)

        self._post_job(StorageCall(read_and_send))

    async def _reader_for(self, effect: SendSnapshot, storage: Storage) -> SnapshotReader | None:
        reader = self._readers.get(effect.to)
        if reader is not None and reader.metadata.snapshot_id == effect.snapshot_id:
            return reader
        self._readers.pop(effect.to, None)
        if reader is not None:
            await reader.aclose()
        reader = await storage.open_snapshot()
        if reader is not None and reader.metadata.snapshot_id != effect.snapshot_id:
            await reader.aclose()
            return None
        if reader is not None:
            self._readers[effect.to] = reader
        return reader

    def keep_only(self, sending: Mapping[NodeId, SnapshotId]) -> None:
        """Close what is not being sent any more."""
        for peer, reader in list(self._readers.items()):
            if sending.get(peer) != reader.metadata.snapshot_id:
                del self._readers[peer]
                self._post_job(StorageCall(partial(_close, reader)))

    def _is_too_large(self, reader: SnapshotReader, peer: NodeId) -> bool:
        if reader.size <= self._max_whole_bytes:
            return False
        if self._told.get(peer) != reader.metadata.snapshot_id:
            self._told[peer] = reader.metadata.snapshot_id
            logger.warning(
                "node %s needs a snapshot of %d bytes, and its version takes none above %d bytes; upgrade it",
                peer,
                reader.size,
                self._max_whole_bytes,
            )
        return True

    @property
    def is_reading(self) -> bool:
        """Whether any snapshot is open."""
        return bool(self._readers)


async def _close(reader: SnapshotReader, storage: Storage) -> None:
    await reader.aclose()


async def _read_all(reader: SnapshotReader) -> bytes:
    parts = bytearray()
    while part := await reader.read(len(parts), reader.size):
        parts += part
    return bytes(parts)

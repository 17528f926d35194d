"""What a snapshot's bytes are: a mark, what the node itself has to remember, and the state machine's bytes.

::

    offset  size  field
    0       13    89 "clustercore" 01
    13      8     length of the preamble, little-endian
    21            the preamble; then the state machine's bytes, to the end

A snapshot that does not begin with the mark is from before there were preambles: all of it is the state machine's.
These bytes are on disk and travel to other nodes, so a change to this layout is a new mark.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing, nullcontext

import trio

from clustercore.interfaces.errors import StateMachineError, StorageError
from clustercore.interfaces.state_machine import SnapshotHandle
from clustercore.interfaces.storage import SnapshotReader, Storage
from clustercore.raft.protobuf import MalformedBytes
from clustercore.raft.types import LogIndex
from clustercore.runtime.replicated_state import ReplicatedState

__all__ = ["Read", "Source", "restore", "restore_stored", "snapshot_bytes"]

# What StateMachine.snapshot returns.
Source = bytes | Iterable[bytes] | AsyncIterable[bytes] | SnapshotHandle
# Reads from an offset on, at most so many bytes; nothing at the end.
Read = Callable[[int, int], Awaitable[bytes]]

_MARK = b"\x89clustercore\x01"
_LENGTH = struct.Struct("<Q")

# Other tasks run after so many bytes or parts of a state machine, whichever comes first. Of parts of a few bytes each
# there may be millions, and a checkpoint takes 4 us.
_BYTES_PER_CHECKPOINT = 64 * 1024
_PARTS_PER_CHECKPOINT = 64
# Read from the storage at once.
_READ_BYTES = 1024 * 1024


async def snapshot_bytes(
    source: Source, *, preamble: bytes, index: LogIndex, chunk_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield a snapshot's bytes, each time ``chunk_bytes`` of them but for the last.

    Raises: StateMachineError if the state machine raises.
    """
    buffer = bytearray(_MARK + _LENGTH.pack(len(preamble)) + preamble)
    async with aclosing(_parts_of(source, index)) as parts:
        async for part in parts:
            buffer += part
            while len(buffer) > chunk_bytes:
                yield bytes(memoryview(buffer)[:chunk_bytes])
                del buffer[:chunk_bytes]
    while buffer:
        yield bytes(memoryview(buffer)[:chunk_bytes])
        del buffer[:chunk_bytes]


async def _parts_of(source: Source, index: LogIndex) -> AsyncGenerator[bytes, None]:
    """Yield the state machine's parts, and let other tasks run in between."""
    chunks = source.chunks() if isinstance(source, SnapshotHandle) else source
    unyielded_bytes = unyielded_parts = 0
    try:
        if isinstance(chunks, AsyncIterable):
            # A generator that is not read to its end has clean-up to do, and must not be left to the garbage collector.
            async with aclosing(chunks) if isinstance(chunks, AsyncGenerator) else nullcontext():
                async for part in chunks:
                    yield part
            return
        for part in [chunks] if isinstance(chunks, bytes) else chunks:
            yield part
            unyielded_bytes += len(part)
            unyielded_parts += 1
            if unyielded_bytes >= _BYTES_PER_CHECKPOINT or unyielded_parts >= _PARTS_PER_CHECKPOINT:
                unyielded_bytes = unyielded_parts = 0
                await trio.lowlevel.checkpoint()
    except Exception as error:
        raise StateMachineError(index, f"the state machine raised {error!r} from its snapshot at {index}") from error


async def restore(state: ReplicatedState, reader: SnapshotReader, read: Read) -> None:
    """Put a snapshot's state in place of what there is.

    Args:
        reader: The snapshot.
        read: How to read it, which may be in turn with other users of the storage.

    Raises: StateMachineError if the machine or the node cannot read what it says; StorageError if it cannot be read.
    """
    index = reader.metadata.last_included_index
    try:
        preamble, begin = await _read_preamble(read)
        state.restore_preamble(preamble)
        async with aclosing(_chunks(read, begin)) as chunks:
            await state.machine.restore_chunks(chunks)
            # To the end, where the storage checks the whole.
            async for _ in chunks:
                pass
    except StorageError:
        raise
    except Exception as error:
        raise StateMachineError(
            index, f"the state machine could not read the snapshot up to index {index}: {error!r}"
        ) from error


async def restore_stored(state: ReplicatedState, storage: Storage) -> None:
    """Put what a storage holds, if it holds a snapshot, in place of what there is.

    Raises: As ``restore``.
    """
    reader = await storage.open_snapshot()
    if reader is not None:
        await restore(state, reader, reader.read)
        await reader.aclose()


async def _read_preamble(read: Read) -> tuple[bytes, int]:
    """Return the preamble, and where the state machine's bytes begin.

    Raises: MalformedBytes if the preamble is cut off.
    """
    start = len(_MARK) + _LENGTH.size
    head = await _read_exactly(read, 0, start)
    if not head.startswith(_MARK):
        return b"", 0
    if len(head) < start:
        raise MalformedBytes("the snapshot's preamble is cut off")
    (length,) = _LENGTH.unpack_from(head, len(_MARK))
    preamble = await _read_exactly(read, start, length)
    if len(preamble) < length:
        raise MalformedBytes(f"the snapshot's preamble has {length} bytes; {len(preamble)} are left")
    return preamble, start + length


async def _read_exactly(read: Read, offset: int, count: int) -> bytes:
    """Read so many bytes, or fewer at the end."""
    found = bytearray()
    while len(found) < count and (data := await read(offset + len(found), count - len(found))):
        found += data
    return bytes(found)


async def _chunks(read: Read, offset: int) -> AsyncGenerator[bytes, None]:
    while data := await read(offset, _READ_BYTES):
        yield data
        offset += len(data)

"""The one task that stores this node's own snapshots, part by part, while everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import attrs
import trio

from clustercore.interfaces.state_machine import SnapshotHandle
from clustercore.raft.types import LogIndex, SnapshotMetadata, Term
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.signals import Wakeup
from clustercore.runtime.snapshot_stream import Source, restore, snapshot_bytes
from clustercore.runtime.writer import Writer

__all__ = ["Snapshots"]


@attrs.frozen
class _Taken:
    """A snapshot that is to be stored."""

    metadata: SnapshotMetadata
    source: Source
    preamble: bytes


class Snapshots:
    """Between state machine and writer: stores the snapshots that are taken, one at a time, and reads the stored.

    A part is taken from the state machine when the one before is on disk, so one part at a time is in memory.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        chunk_bytes: int,
        label: Callable[[LogIndex, Term], SnapshotMetadata],
        first_index_to_keep: Callable[[LogIndex], LogIndex],
        on_saved: Callable[[SnapshotMetadata, LogIndex], None],
    ) -> None:
        """Prepare; ``run`` makes it live."""
        self._writer = writer
        self._chunk_bytes = chunk_bytes
        self._label = label
        self._first_index_to_keep = first_index_to_keep
        self._on_saved = on_saved
        self._taken: _Taken | None = None
        self._wakeup = Wakeup()
        self._idle = trio.Event()
        self._idle.set()
        self._storing = trio.CancelScope()

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being stored."""
        return self._taken is not None

    def take(self, index: LogIndex, term: Term, source: Source, preamble: bytes) -> None:
        """Store a snapshot of the state after an entry. None is being stored."""
        self._taken = _Taken(self._label(index, term), source, preamble)
        self._idle = trio.Event()
        self._wakeup.set()

    async def wait_idle(self) -> None:
        """Wait until the snapshot that is being stored is, or is given up."""
        await self._idle.wait()

    async def give_up(self) -> None:
        """Stop storing a snapshot: a leader's newer one has been stored. Returns when its source is closed."""
        self._storing.cancel()
        await self._idle.wait()

    async def run(self) -> None:
        """Store what is taken, until cancelled.

        Raises: StateMachineError if the machine raises while it is asked for its parts.
        """
        try:
            while True:
                await self._wakeup.wait()
                assert self._taken is not None
                with trio.CancelScope() as self._storing:
                    await self._store(self._taken)
                self._let_go()
                self._idle.set()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None and isinstance(taken.source, SnapshotHandle):
            taken.source.close()

    async def _store(self, taken: _Taken) -> None:
        metadata = taken.metadata
        index = metadata.last_included_index
        offset = 0
        parts = snapshot_bytes(taken.source, preamble=taken.preamble, index=index, chunk_bytes=self._chunk_bytes)
        async with aclosing(parts):
            async for part in parts:
                if not await self._writer.write_own_chunk(metadata, offset, part):
                    return
                offset += len(part)
        keep_from = self._first_index_to_keep(index)
        if await self._writer.install_own(metadata, keep_from):
            self._on_saved(metadata, keep_from)

    async def restore(self, state: ReplicatedState, at_least: LogIndex) -> SnapshotMetadata:
        """Put the stored snapshot, which covers ``at_least`` so much, in place of what there is; return which it is.

        Raises: StateMachineError if it says what cannot be read.
        """
        reader = await self._writer.use(lambda storage: storage.open_snapshot())
        assert reader is not None
        assert reader.metadata.last_included_index >= at_least
        await restore(state, reader, lambda offset, count: self._writer.use(lambda _: reader.read(offset, count)))
        await self._writer.use(lambda _: reader.aclose())
        return reader.metadata

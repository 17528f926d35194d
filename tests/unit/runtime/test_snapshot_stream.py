"""The bytes of a snapshot, and the task that stores this node's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import LogIndex, SnapshotHandle, StateMachineError, Term
from clustercore.raft.protobuf import MalformedBytes
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.snapshot_stream import Source, restore_stored, snapshot_bytes
from clustercore.runtime.snapshots import Snapshots
from clustercore.runtime.writer import Writer
from clustercore_memory import MemoryStorage
from tests.simulation.cluster import Journal
from tests.snapshots import NODE_BYTES, machine_bytes, read_snapshot, save_snapshot, snapshot


async def parts(source: Source, *, preamble: bytes = b"", chunk_bytes: int = 10) -> list[bytes]:
    """Return the chunks that a source is cut into."""
    chunks = snapshot_bytes(source, preamble=preamble, index=LogIndex(7), chunk_bytes=chunk_bytes)
    return [chunk async for chunk in chunks]


class Handle(SnapshotHandle):
    """Gives some parts, and remembers that it was closed."""

    def __init__(self, *given: bytes) -> None:
        self.given = given
        self.closed = 0

    def chunks(self) -> Iterator[bytes]:
        yield from self.given

    def close(self) -> None:
        self.closed += 1


async def later(*given: bytes) -> AsyncIterator[bytes]:
    """Give parts one at a time."""
    for part in given:
        await trio.lowlevel.checkpoint()
        yield part


SOURCES = [
    b"a state of so many bytes",
    [b"", b"a state ", b"of so ", b"many bytes"],
    Handle(b"a state of so many", b" bytes"),
]


@pytest.mark.parametrize("source", [*SOURCES, None], ids=["bytes", "parts", "handle", "async"])
async def test_snapshot_is_cut_into_chunks_of_one_size(source: Source | None) -> None:
    """Whatever the parts of the state machine are; only the last may be shorter, and none is empty."""
    chunks = await parts(source if source is not None else later(b"a state of so m", b"any bytes"))

    assert b"".join(chunks) == NODE_BYTES + b"a state of so many bytes"
    assert [len(chunk) for chunk in chunks] == [10, 10, 10, 10, 5]


async def test_snapshot_begins_with_the_preamble() -> None:
    """Its length is in front, so that it may have any."""
    chunks = await parts(b"state", preamble=b"xyz", chunk_bytes=1000)

    assert chunks == [NODE_BYTES[:13] + (3).to_bytes(8, "little") + b"xyz" + b"state"]
    assert machine_bytes(chunks[0]) == b"state"


async def test_state_without_bytes_is_a_snapshot_too() -> None:
    """There is the mark, at least."""
    assert await parts(b"", chunk_bytes=1000) == [NODE_BYTES]


async def test_many_small_parts_let_others_run() -> None:
    """A state machine that gives parts of a few bytes does not keep the node from its heartbeats."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await parts((b"x" for _ in range(1000)), chunk_bytes=100_000)
        nursery.cancel_scope.cancel()

    assert turns > 10


async def test_machine_that_raises_between_parts_is_named() -> None:
    """With the index of the snapshot, and the cause."""

    def broken() -> Iterator[bytes]:
        yield b"good so far"
        raise RuntimeError("no more")

    with pytest.raises(StateMachineError, match="from its snapshot at 7") as caught:
        await parts(broken())

    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_snapshot_of_before_there_were_preambles_is_read() -> None:
    """All of it is the state machine's."""
    machine = Journal()
    async with MemoryStorage() as storage:
        await save_snapshot(storage, snapshot(7, data=b'[[7, "x"]]'), keep_from=None, chunk_bytes=3)
        await restore_stored(ReplicatedState(machine), storage)

    assert machine.lines == [(7, b"x")]


@pytest.mark.parametrize("data", [NODE_BYTES[:15], NODE_BYTES[:13] + (9).to_bytes(8, "little") + b"short"])
async def test_snapshot_whose_preamble_is_cut_off_is_refused(data: bytes) -> None:
    """It is not taken for the state machine's bytes."""
    async with MemoryStorage() as storage:
        await save_snapshot(storage, snapshot(7, data=data), keep_from=None)
        with pytest.raises(StateMachineError, match="up to index 7") as caught:
            await restore_stored(ReplicatedState(Journal()), storage)

    assert isinstance(caught.value.__cause__, MalformedBytes)


async def test_machine_may_leave_bytes_unread() -> None:
    """The rest is read all the same, as the storage checks the whole at its end."""

    class Picky(Journal):
        async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
            self.first = await anext(chunks)

    machine = Picky()
    async with MemoryStorage() as storage:
        await save_snapshot(storage, snapshot(7, data=NODE_BYTES + b"a" * 3_000_000), keep_from=None)
        await restore_stored(ReplicatedState(machine), storage)

    assert machine.first == b"a" * (1024 * 1024)


# --- Storing ---


def make_snapshots(writer: Writer, saved: list[int]) -> Snapshots:
    """Return what stores snapshots, in chunks of ten bytes."""
    return Snapshots(
        writer,
        chunk_bytes=10,
        label=lambda index, term: snapshot(index, term).metadata,
        first_index_to_keep=lambda index: LogIndex(index + 1),
        on_saved=lambda metadata, keep_from: saved.append(metadata.last_included_index),
    )


async def test_handle_is_closed_when_its_snapshot_is_stored(nursery: trio.Nursery) -> None:
    """Once, after the last part."""
    handle, saved = Handle(b"some", b"state"), list[int]()
    async with MemoryStorage() as storage:
        writer = Writer(storage, snapshot_index=LogIndex(0), on_durable=lambda write_id: None)
        snapshots = make_snapshots(writer, saved)
        nursery.start_soon(writer.run)
        nursery.start_soon(snapshots.run)

        snapshots.take(LogIndex(4), Term(1), handle, b"")
        await snapshots.wait_idle()

        assert (saved, handle.closed) == ([4], 1)
        whole = await read_snapshot(storage)
        assert whole is not None
        assert machine_bytes(whole.data) == b"somestate"


async def test_snapshot_that_is_given_up_is_not_stored(nursery: trio.Nursery) -> None:
    """Its handle is closed before ``give_up`` returns, and the next one can be taken."""
    saved = list[int]()

    class Slow(Handle):
        def chunks(self) -> AsyncIterator[bytes]:  # type: ignore[override]  # the base gives either
            return self.wait()

        async def wait(self) -> AsyncIterator[bytes]:
            yield b"beginning"
            await trio.sleep_forever()

    async with MemoryStorage() as storage:
        writer = Writer(storage, snapshot_index=LogIndex(0), on_durable=lambda write_id: None)
        snapshots = make_snapshots(writer, saved)
        nursery.start_soon(writer.run)
        nursery.start_soon(snapshots.run)
        handle = Slow()
        snapshots.take(LogIndex(4), Term(1), handle, b"")
        await wait_all_tasks_blocked()

        await snapshots.give_up()
        assert (handle.closed, snapshots.is_busy) == (1, False)

        snapshots.take(LogIndex(9), Term(1), b"state", b"")
        await snapshots.wait_idle()
        assert saved == [9]


async def test_generator_of_parts_is_closed_when_its_snapshot_is_given_up(nursery: trio.Nursery) -> None:
    """Whatever it holds is let go of before ``give_up`` returns, not when the garbage is collected."""
    events: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more than one chunk of it"
        finally:
            events.append("closed")

    async with MemoryStorage() as storage:
        writer = Writer(storage, snapshot_index=LogIndex(0), on_durable=lambda write_id: None)
        snapshots = make_snapshots(writer, [])
        nursery.start_soon(writer.run)
        nursery.start_soon(snapshots.run)
        snapshots.take(LogIndex(4), Term(1), endless(), b"")
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert events == []

        await snapshots.give_up()

        assert events == ["closed"]


@pytest.mark.parametrize("turns", range(6))
async def test_handle_is_closed_when_the_node_ends(turns: int) -> None:
    """Once, however far its snapshot was: not begun yet, or under way."""
    handle = Handle(*[b"some"] * 100)
    async with MemoryStorage() as storage:
        writer = Writer(storage, snapshot_index=LogIndex(0), on_durable=lambda write_id: None)
        snapshots = make_snapshots(writer, [])
        async with trio.open_nursery() as node:
            node.start_soon(writer.run)
            node.start_soon(snapshots.run)
            snapshots.take(LogIndex(4), Term(1), handle, b"")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            node.cancel_scope.cancel()

    assert handle.closed == 1


async def test_snapshot_that_a_leaders_overtakes_is_given_up(nursery: trio.Nursery) -> None:
    """A newer one from the leader is stored meanwhile: that one stays, and the handle is closed."""
    handle, saved = Handle(b"older"), list[int]()
    async with MemoryStorage() as storage:
        writer = Writer(storage, snapshot_index=LogIndex(9), on_durable=lambda write_id: None)
        snapshots = make_snapshots(writer, saved)
        nursery.start_soon(writer.run)
        nursery.start_soon(snapshots.run)
        snapshots.take(LogIndex(4), Term(1), handle, b"")
        await snapshots.wait_idle()

        assert (saved, handle.closed) == ([], 1)
        assert await read_snapshot(storage) is None

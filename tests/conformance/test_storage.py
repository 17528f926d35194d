"""The Storage contract, rule by rule, for every storage that ships."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from clustercore.interfaces import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    InvariantError,
    LogIndex,
    NodeId,
    Server,
    Storage,
    StorageError,
    StorageIdentity,
    StoredState,
    Term,
)
from tests.conformance.storage_kinds import KINDS, StorageKind, command, commands
from tests.snapshots import Whole, read_snapshot, save_snapshot, snapshot

Open = Callable[[], Storage]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Make a storage over the same content at each call."""
    kind: StorageKind = request.param
    return kind.create(tmp_path)


async def state_after(open_storage: Open, *writes: Callable[[Storage], Awaitable[None]]) -> StoredState:
    """Carry out writes, close, open again and load."""
    async with open_storage() as storage:
        await storage.load()
        for write in writes:
            await write(storage)
    async with open_storage() as storage:
        return await storage.load()


def append(entries: list[Entry]) -> Callable[[Storage], Awaitable[None]]:
    """Return a write for ``state_after``."""
    return lambda storage: storage.append(entries)


def save(taken: Whole, keep_from: int | None) -> Callable[[Storage], Awaitable[None]]:
    """Return a write for ``state_after``."""
    return lambda storage: save_snapshot(storage, taken, keep_from=keep_from)


async def test_storage_starts_empty(open_storage: Open) -> None:
    """A storage that was never written has term 0, no vote, no snapshot and no entries."""
    async with open_storage() as storage:
        assert await storage.load() == StoredState()
        assert await storage.open_snapshot() is None


async def test_storage_open_is_exclusive(open_storage: Open) -> None:
    """While a storage is open, opening the same content again raises StorageError, and the first goes on."""
    async with open_storage() as storage:
        with pytest.raises(StorageError):
            async with open_storage():
                pass

        await storage.append([command(1)])
        assert (await storage.load()).entries == (command(1),)


async def test_storage_refuses_use_outside_its_block(open_storage: Open) -> None:
    """Before it is opened and after it is closed, a storage raises StorageError."""
    storage = open_storage()
    with pytest.raises(StorageError):
        await storage.load()

    async with storage:
        pass

    with pytest.raises(StorageError):
        await storage.append([command(1)])


async def test_storage_hard_state_replaces_the_one_before(open_storage: Open) -> None:
    """Term and vote are those saved last, and the log is untouched."""
    first, second = HardState(Term(3), NodeId("b")), HardState(Term(4), None)

    state = await state_after(
        open_storage,
        append([command(1)]),
        lambda storage: storage.save_hard_state(first),
        lambda storage: storage.save_hard_state(second),
    )

    assert state == StoredState(second, None, (command(1),))


@pytest.mark.parametrize("is_founder", [False, True])
@pytest.mark.parametrize("vote", [None, "b", "", "ü\0'"])
async def test_storage_vote_comes_back_exactly(open_storage: Open, vote: str | None, is_founder: bool) -> None:
    """No vote, an empty id and unusual letters are told apart, and votes before the cluster was formed from others."""
    hard_state = HardState(Term(1), None if vote is None else NodeId(vote), is_founder)

    state = await state_after(open_storage, lambda storage: storage.save_hard_state(hard_state))

    assert state.hard_state == hard_state


async def test_storage_identity_replaces_the_one_before(open_storage: Open) -> None:
    """Whose storage it is comes back exactly as it was said last, and nothing else is touched."""
    first = StorageIdentity(NodeId("ü\0'"), "one", 1)
    second = StorageIdentity(NodeId("ü\0'"), "one", 2**40, "cluster", 0.1)

    state = await state_after(
        open_storage,
        append([command(1)]),
        lambda storage: storage.save_identity(first),
        lambda storage: storage.save_identity(second),
    )

    assert state == StoredState(HardState(), None, (command(1),), second)


async def test_storage_entry_comes_back_exactly(open_storage: Open) -> None:
    """Index, term, kind, command and encoding are those that were appended, whatever the command's bytes."""
    entries = [
        Entry.create(LogIndex(1), Term(1), EntryKind.NO_OP),
        Entry.create(LogIndex(2), Term(2**40), EntryKind.COMMAND, bytes(range(256))),
        Entry.create(LogIndex(3), Term(2**40), EntryKind.COMMAND, b"\0" * 100_000),
    ]

    state = await state_after(open_storage, append(entries))

    assert state.entries == tuple(entries)
    assert [entry.encoded for entry in state.entries] == [entry.encoded for entry in entries]


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 700])
async def test_storage_append_takes_any_number(open_storage: Open, count: int) -> None:
    """A batch of any size is stored whole, also behind an entry that is there."""
    entries = commands(range(1, count + 2))

    state = await state_after(open_storage, append(entries[:1]), append(entries[1:]))

    assert state.entries == tuple(entries)


@pytest.mark.parametrize("first", [1, 2, 4, 5])
async def test_storage_append_replaces_the_suffix(open_storage: Open, first: int) -> None:
    """Everything from the first new entry's index on is replaced, also by fewer entries; what is before stays."""
    old, new = commands(range(1, 6)), commands([first], term=2)

    state = await state_after(open_storage, append(old), append(new), append(commands([first + 1], term=2)))

    assert state.entries == (*old[: first - 1], *new, command(first + 1, term=2))


async def test_storage_append_sees_the_log_of_an_earlier_opening(open_storage: Open) -> None:
    """After opening again a suffix is replaced as it is within one opening."""
    await state_after(open_storage, append(commands(range(1, 6))))

    state = await state_after(open_storage, append(commands([3], term=2)))

    assert state.entries == (command(1), command(2), command(3, term=2))


@pytest.mark.parametrize(
    "entries",
    [[], commands([4]), [command(3), command(5)], [command(3), command(3)], commands([0])],
    ids=["none", "after a gap", "with a gap", "repeated", "before the log"],
)
async def test_storage_append_refuses_what_leaves_a_gap(open_storage: Open, entries: list[Entry]) -> None:
    """Entries that do not continue the log are a bug of the caller: InvariantError, nothing changed, and it goes on."""
    async with open_storage() as storage:
        await storage.append(commands([1, 2]))

        with pytest.raises(InvariantError):
            await storage.append(entries)

        await storage.append([command(3)])
        assert (await storage.load()).entries == tuple(commands([1, 2, 3]))


async def test_storage_append_refuses_what_the_snapshot_covers(open_storage: Open) -> None:
    """An entry at or below the snapshot's last is refused even where the log keeps a tail."""
    async with open_storage() as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, snapshot(4), keep_from=2)

        with pytest.raises(InvariantError):
            await storage.append([command(4, term=2)])

        await storage.append([command(5, term=2)])
        assert (await storage.load()).entries == (*commands(range(2, 5)), command(5, term=2))


@pytest.mark.parametrize("keep_from", [1, 2, 3, 4])
async def test_storage_snapshot_keeps_the_log_from_where_it_is_told(open_storage: Open, keep_from: int) -> None:
    """Entries below ``keep_from`` are dropped, the others stay, and the snapshot is stored with them."""
    state = await state_after(open_storage, append(commands(range(1, 6))), save(snapshot(3), keep_from))

    assert state == StoredState(HardState(), snapshot(3).metadata, tuple(commands(range(keep_from, 6))))


async def test_storage_snapshot_can_drop_the_whole_log(open_storage: Open) -> None:
    """Without ``keep_from`` no entry stays, and the log goes on after the snapshot."""
    state = await state_after(
        open_storage, append(commands(range(1, 6))), save(snapshot(9, term=2), None), append(commands([10], term=2))
    )

    assert state == StoredState(HardState(), snapshot(9, term=2).metadata, (command(10, term=2),))


async def test_storage_snapshot_of_an_empty_log_lets_it_begin_behind(open_storage: Open) -> None:
    """A new node that gets a snapshot first appends right after it, also in a later opening."""
    await state_after(open_storage, save(snapshot(7), None))

    state = await state_after(open_storage, append([command(8)]))

    assert state == StoredState(HardState(), snapshot(7).metadata, (command(8),))


async def test_storage_snapshot_keeps_the_members(open_storage: Open) -> None:
    """The entries that named them may be dropped, so they come back with the snapshot, to the last field."""
    members = Configuration.with_servers(
        [
            Server(NodeId("a"), address="a:1", incarnation="one"),
            Server(NodeId("b"), is_voter=False, is_promoted=True),
            Server(NodeId("c"), is_voter=False, is_leaving=True),
        ],
        old_voters=frozenset({NodeId("a"), NodeId("c")}),
        cluster_id="cluster",
    )
    taken = snapshot(7, 2, members=members)

    state = await state_after(open_storage, save(taken, None))

    assert state.snapshot == taken.metadata
    async with open_storage() as storage:
        assert await read_snapshot(storage) == taken


async def test_storage_snapshot_replaces_the_one_before(open_storage: Open) -> None:
    """The newest snapshot is the one that ``load`` and ``open_snapshot`` return, with all its bytes."""
    large = snapshot(3, data=bytes(range(256)) * 4096)
    async with open_storage() as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, snapshot(2), keep_from=3)

        await save_snapshot(storage, large, keep_from=4, chunk_bytes=100_000)

        assert await read_snapshot(storage) == large
    async with open_storage() as storage:
        assert await read_snapshot(storage) == large
        assert (await storage.load()).snapshot == large.metadata


@pytest.mark.parametrize(("index", "keep_from"), [(2, None), (1, None), (4, 6), (9, 4)])
async def test_storage_snapshot_refuses_what_is_old_or_leaves_a_gap(
    open_storage: Open, index: int, keep_from: int | None
) -> None:
    """A snapshot that is not newer, or a kept log that does not meet it, is a bug of the caller; nothing changes."""
    async with open_storage() as storage:
        await storage.append(commands(range(1, 6)))
        await save_snapshot(storage, snapshot(2), keep_from=3)
        before = await storage.load()

        with pytest.raises(InvariantError):
            await save_snapshot(storage, snapshot(index, name="refused"), keep_from=keep_from)

        assert await storage.load() == before


WRITES: list[Callable[[Storage], Awaitable[None]]] = [
    append([command(2)]),
    lambda storage: storage.save_hard_state(HardState(Term(2), NodeId("a"))),
    lambda storage: storage.save_identity(StorageIdentity(NodeId("a"), "one", 1)),
    lambda storage: storage.install_snapshot(snapshot(1).metadata, keep_from=None),
]


@pytest.mark.parametrize("write", WRITES, ids=["append", "save_hard_state", "save_identity", "install_snapshot"])
async def test_storage_write_cancelled_before_it_starts_changes_nothing(
    open_storage: Open, write: Callable[[Storage], Awaitable[None]]
) -> None:
    """In a scope that is cancelled already a write raises Cancelled and leaves everything as it was."""
    async with open_storage() as storage:
        await storage.append([command(1)])
        await storage.write_snapshot_chunk(snapshot(1).metadata, 0, snapshot(1).data)
        before = await storage.load()

        with trio.CancelScope() as scope:
            scope.cancel()
            await write(storage)

        assert scope.cancelled_caught
        assert await storage.load() == before


@pytest.mark.parametrize("write", WRITES, ids=["append", "save_hard_state", "save_identity", "install_snapshot"])
@pytest.mark.parametrize("turns", range(6))
async def test_storage_write_that_is_cancelled_is_done_or_not_as_it_says(
    open_storage: Open, write: Callable[[Storage], Awaitable[None]], turns: int
) -> None:
    """Cancelled at some turn of the event loop, a write is stored if it returned, and has changed nothing if not."""

    async def cancel_later(scope: trio.CancelScope) -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    returned = False
    async with open_storage() as storage:
        await storage.append([command(1)])
        await storage.write_snapshot_chunk(snapshot(1).metadata, 0, snapshot(1).data)
        before = await storage.load()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later, nursery.cancel_scope)
            await write(storage)
            returned = True

        assert (await storage.load() != before) == returned


async def test_storage_closes_when_cancelled(open_storage: Open) -> None:
    """Leaving the block by cancellation gives the storage back: it can be opened again at once."""
    with trio.CancelScope() as scope:
        async with open_storage() as storage:
            await storage.append([command(1)])
            scope.cancel()
            await trio.lowlevel.checkpoint()

    async with open_storage() as storage:
        assert (await storage.load()).entries == (command(1),)

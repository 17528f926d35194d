"""The rules of storages about the log, the hard state and the identity, and about their snapshot's place in it."""

from __future__ import annotations

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
    StorageError,
    StorageIdentity,
    StoredState,
    Term,
)
from clustercore.testing.conformance.links import cancel_after_turns
from clustercore.testing.conformance.storage_bench import (
    StorageBench,
    Write,
    append,
    case,
    save,
    save_hard_state,
    state_after,
)
from clustercore.testing.conformance.storage_values import (
    command,
    commands,
    read_snapshot,
    save_snapshot,
    snapshot,
)

__all__ = ["LogRules"]


WRITES: tuple[tuple[str, Write], ...] = (
    ("append", append([command(2)])),
    ("save_hard_state", save_hard_state(HardState(Term(2), NodeId("a")))),
    ("save_identity", lambda storage: storage.save_identity(StorageIdentity(NodeId("a"), "one", 1))),
    ("install_snapshot", lambda storage: storage.install_snapshot(snapshot(1).metadata, keep_from=None)),
)


class LogRules(StorageBench):
    """What was written comes back exactly, and nothing that would leave a gap is taken."""

    async def test_starts_empty(self) -> None:
        """A storage that was never written has term 0, no vote, no snapshot and no entries."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            assert await storage.load() == StoredState()
            assert await storage.open_snapshot() is None

    async def test_open_is_exclusive(self) -> None:
        """While a storage is open, opening the same content again raises StorageError, and the first goes on."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            with pytest.raises(StorageError):
                async with open_storage():
                    pass

            await storage.append([command(1)])
            assert (await storage.load()).entries == (command(1),)

    async def test_refuses_use_outside_its_block(self) -> None:
        """Before it is opened and after it is closed, a storage raises StorageError."""
        open_storage = self.fresh()
        storage = open_storage()
        with pytest.raises(StorageError):
            await storage.load()

        async with storage:
            pass

        with pytest.raises(StorageError):
            await storage.append([command(1)])

    async def test_hard_state_replaces_the_one_before(self) -> None:
        """Term and vote are those saved last, and the log is untouched."""
        open_storage = self.fresh()
        first, second = HardState(Term(3), NodeId("b")), HardState(Term(4), None)

        state = await state_after(
            open_storage,
            append([command(1)]),
            lambda storage: storage.save_hard_state(first),
            lambda storage: storage.save_hard_state(second),
        )

        assert state == StoredState(second, None, (command(1),))

    async def test_vote_comes_back_exactly(self) -> None:
        """No vote, an empty id and unusual letters are told apart, and votes of a founder from others."""
        for is_founder in [False, True]:
            for vote in [None, "b", "", "ü\0'"]:
                with case(is_founder=is_founder, vote=vote):
                    open_storage = self.fresh()
                    hard_state = HardState(Term(1), None if vote is None else NodeId(vote), is_founder)

                    state = await state_after(open_storage, save_hard_state(hard_state))

                    assert state.hard_state == hard_state

    async def test_identity_replaces_the_one_before(self) -> None:
        """Whose storage it is comes back exactly as it was said last, and nothing else is touched."""
        open_storage = self.fresh()
        first = StorageIdentity(NodeId("ü\0'"), "one", 1)
        second = StorageIdentity(NodeId("ü\0'"), "one", 2**40, "cluster", 0.1)

        state = await state_after(
            open_storage,
            append([command(1)]),
            lambda storage: storage.save_identity(first),
            lambda storage: storage.save_identity(second),
        )

        assert state == StoredState(HardState(), None, (command(1),), second)

    async def test_entry_comes_back_exactly(self) -> None:
        """Index, term, kind, command and encoding are those that were appended, whatever the command's bytes."""
        open_storage = self.fresh()
        entries = [
            Entry.create(LogIndex(1), Term(1), EntryKind.NO_OP),
            Entry.create(LogIndex(2), Term(2**40), EntryKind.COMMAND, bytes(range(256))),
            Entry.create(LogIndex(3), Term(2**40), EntryKind.COMMAND, b"\0" * 100_000),
        ]

        state = await state_after(open_storage, append(entries))

        assert state.entries == tuple(entries)
        assert [entry.encoded for entry in state.entries] == [entry.encoded for entry in entries]

    async def test_append_takes_any_number(self) -> None:
        """A batch of any size is stored whole, also behind an entry that is there."""
        for count in [1, 2, 3, 255, 256, 257, 700]:
            with case(count=count):
                open_storage = self.fresh()
                entries = commands(range(1, count + 2))

                state = await state_after(open_storage, append(entries[:1]), append(entries[1:]))

                assert state.entries == tuple(entries)

    async def test_append_replaces_the_suffix(self) -> None:
        """Everything from the first new entry's index on is replaced, also by fewer entries; what is before stays."""
        for first in [1, 2, 4, 5]:
            with case(first=first):
                open_storage = self.fresh()
                old, new = commands(range(1, 6)), commands([first], term=2)

                state = await state_after(open_storage, append(old), append(new), append(commands([first + 1], term=2)))

                assert state.entries == (*old[: first - 1], *new, command(first + 1, term=2))

    async def test_append_sees_the_log_of_an_earlier_opening(self) -> None:
        """After opening again a suffix is replaced as it is within one opening."""
        open_storage = self.fresh()
        await state_after(open_storage, append(commands(range(1, 6))))

        state = await state_after(open_storage, append(commands([3], term=2)))

        assert state.entries == (command(1), command(2), command(3, term=2))

    async def test_append_refuses_what_leaves_a_gap(self) -> None:
        """Entries that do not continue the log raise InvariantError, change nothing, and the storage goes on."""
        for entries in [[], commands([4]), [command(3), command(5)], [command(3), command(3)], commands([0])]:
            with case(entries=entries):
                open_storage = self.fresh()
                async with open_storage() as storage:
                    await storage.append(commands([1, 2]))

                    with pytest.raises(InvariantError):
                        await storage.append(entries)

                    await storage.append([command(3)])
                    assert (await storage.load()).entries == tuple(commands([1, 2, 3]))

    async def test_append_refuses_what_the_snapshot_covers(self) -> None:
        """An entry at or below the snapshot's last is refused even where the log keeps a tail."""
        open_storage = self.fresh()
        async with open_storage() as storage:
            await storage.append(commands(range(1, 6)))
            await save_snapshot(storage, snapshot(4), keep_from=2)

            with pytest.raises(InvariantError):
                await storage.append([command(4, term=2)])

            await storage.append([command(5, term=2)])
            assert (await storage.load()).entries == (*commands(range(2, 5)), command(5, term=2))

    async def test_snapshot_keeps_the_log_from_where_it_is_told(self) -> None:
        """Entries below ``keep_from`` are dropped, the others stay, and the snapshot is stored with them."""
        for keep_from in [1, 2, 3, 4]:
            with case(keep_from=keep_from):
                open_storage = self.fresh()
                state = await state_after(open_storage, append(commands(range(1, 6))), save(snapshot(3), keep_from))

                assert state == StoredState(HardState(), snapshot(3).metadata, tuple(commands(range(keep_from, 6))))

    async def test_snapshot_can_drop_the_whole_log(self) -> None:
        """Without ``keep_from`` no entry stays, and the log goes on after the snapshot."""
        open_storage = self.fresh()
        state = await state_after(
            open_storage, append(commands(range(1, 6))), save(snapshot(9, term=2), None), append(commands([10], term=2))
        )

        assert state == StoredState(HardState(), snapshot(9, term=2).metadata, (command(10, term=2),))

    async def test_snapshot_of_an_empty_log_lets_it_begin_behind(self) -> None:
        """A new node that gets a snapshot first appends right after it, also in a later opening."""
        open_storage = self.fresh()
        await state_after(open_storage, save(snapshot(7), None))

        state = await state_after(open_storage, append([command(8)]))

        assert state == StoredState(HardState(), snapshot(7).metadata, (command(8),))

    async def test_snapshot_keeps_the_members(self) -> None:
        """The entries that named them may be dropped, so they come back with the snapshot, to the last field."""
        open_storage = self.fresh()
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

    async def test_snapshot_replaces_the_one_before(self) -> None:
        """The newest snapshot is the one that ``load`` and ``open_snapshot`` return, with all its bytes."""
        open_storage = self.fresh()
        large = snapshot(3, data=bytes(range(256)) * 4096)
        async with open_storage() as storage:
            await storage.append(commands(range(1, 6)))
            await save_snapshot(storage, snapshot(2), keep_from=3)

            await save_snapshot(storage, large, keep_from=4, chunk_bytes=100_000)

            assert await read_snapshot(storage) == large
        async with open_storage() as storage:
            assert await read_snapshot(storage) == large
            assert (await storage.load()).snapshot == large.metadata

    async def test_snapshot_refuses_what_is_old_or_leaves_a_gap(self) -> None:
        """A snapshot that is not newer, or a kept log that does not meet it, raises InvariantError; nothing changes."""
        for index, keep_from in [(2, None), (1, None), (4, 6), (9, 4)]:
            with case(index=index, keep_from=keep_from):
                open_storage = self.fresh()
                async with open_storage() as storage:
                    await storage.append(commands(range(1, 6)))
                    await save_snapshot(storage, snapshot(2), keep_from=3)
                    before = await storage.load()

                    with pytest.raises(InvariantError):
                        await save_snapshot(storage, snapshot(index, name="refused"), keep_from=keep_from)

                    assert await storage.load() == before

    async def test_write_cancelled_before_it_starts_changes_nothing(self) -> None:
        """In a scope that is cancelled already a write raises Cancelled and leaves everything as it was."""
        for name, write in WRITES:
            with case(write=name):
                open_storage = self.fresh()
                async with open_storage() as storage:
                    await storage.append([command(1)])
                    await storage.write_snapshot_chunk(snapshot(1).metadata, 0, snapshot(1).data)
                    before = await storage.load()

                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await write(storage)

                    assert scope.cancelled_caught
                    assert await storage.load() == before

    async def test_write_that_is_cancelled_is_done_or_not_as_it_says(self) -> None:
        """Cancelled at any turn of the event loop, a write is stored if it returned, and has changed nothing if not."""
        for name, write in WRITES:
            for turns in range(6):
                with case(write=name, turns=turns):
                    open_storage = self.fresh()

                    returned = False
                    async with open_storage() as storage:
                        await storage.append([command(1)])
                        await storage.write_snapshot_chunk(snapshot(1).metadata, 0, snapshot(1).data)
                        before = await storage.load()

                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(cancel_after_turns, nursery.cancel_scope, turns)
                            await write(storage)
                            returned = True

                        assert (await storage.load() != before) == returned

    async def test_closes_when_cancelled(self) -> None:
        """Leaving the block by cancellation gives the storage back: it can be opened again at once."""
        open_storage = self.fresh()
        with trio.CancelScope() as scope:
            async with open_storage() as storage:
                await storage.append([command(1)])
                scope.cancel()
                await trio.lowlevel.checkpoint()

        async with open_storage() as storage:
            assert (await storage.load()).entries == (command(1),)

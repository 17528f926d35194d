"""The sectors of a simulated disk: what a torn write leaves, and that damage is told from it."""

from __future__ import annotations

import attrs
import pytest

from clustercore.interfaces import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogCorrupt,
    LogIndex,
    NodeId,
    StorageIdentity,
    StoredState,
    Term,
)
from clustercore.testing.simulation import Chance, journal
from clustercore.testing.simulation.journal import Content, Journal
from tests.snapshots import snapshot

IDENTITY = StorageIdentity(NodeId("a"), "one", 3, "cluster", 1.5)
VOTE = HardState(Term(4), NodeId("b"), is_founder=True)
TAKEN = snapshot(3, 2, data=b"state" * 40)


def commands(first: int, last: int, term: int = 1, size: int = 100) -> tuple[Entry, ...]:
    """Return the command entries from first to last, both inclusive."""
    command = b"x" * size
    return tuple(
        Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, command) for index in range(first, last + 1)
    )


def written(*batches: list[journal.Record]) -> Journal:
    """Return a disk with these writes."""
    disk = Journal()
    for batch in batches:
        disk.append(batch)
    return disk


def records_of(entries: tuple[Entry, ...]) -> list[journal.Record]:
    """Return what appends entries."""
    return [journal.entry(entry) for entry in entries]


def full() -> Journal:
    """Return a disk with a write of each kind."""
    return written(
        [journal.identity(IDENTITY)],
        [journal.term(VOTE)],
        records_of(commands(1, 5)),
        [journal.cut(LogIndex(4)), *records_of(commands(4, 6, term=3))],
        [journal.part(TAKEN.data)],
        [journal.install(TAKEN.metadata, LogIndex(3), TAKEN.data)],
        records_of(commands(7, 7, term=4)),
    )


ENTRIES = commands(3, 3) + commands(4, 6, term=3) + commands(7, 7, term=4)


def test_journal_gives_back_what_was_written() -> None:
    """Every kind of write, in order; and so does a copy of it."""
    content = Content(StoredState(VOTE, TAKEN.metadata, ENTRIES, IDENTITY), TAKEN.data)

    assert full().recover() == content
    assert full().copy().recover() == content
    assert Journal().recover() == Content()


def test_journal_without_a_tail_drops_the_whole_log() -> None:
    """A snapshot that keeps nothing."""
    disk = written(records_of(commands(1, 2)), [journal.install(TAKEN.metadata, None, TAKEN.data)])

    assert disk.recover().state == StoredState(HardState(), TAKEN.metadata)


def test_torn_append_leaves_a_prefix_of_it_and_nothing_else() -> None:
    """Whatever sectors are there: the old log, or the new one up to some entry; each of these comes."""
    before, new = commands(1, 3), commands(2, 4, term=2)
    records = [journal.cut(LogIndex(2)), *records_of(new)]
    seen = set()
    for seed in range(300):
        disk = written(records_of(before))
        disk.tear(records, Chance(seed))
        seen.add(disk.recover().state.entries)

    assert seen == {before, *(before[:1] + new[:count] for count in range(4))}


def test_torn_write_that_is_one_record_is_there_or_not() -> None:
    """A snapshot, which is many sectors, a term, an identity."""
    for record in (journal.install(TAKEN.metadata, None, TAKEN.data), journal.term(VOTE), journal.identity(IDENTITY)):
        disk = written(records_of(commands(1, 3)))
        old = disk.recover()
        disk.append([record])
        new = disk.recover()
        seen = []
        for seed in range(60):
            torn = written(records_of(commands(1, 3)))
            torn.tear([record], Chance(seed))
            seen.append(torn.recover())

        assert old in seen
        assert new in seen
        assert all(content in (old, new) for content in seen)


def test_journal_goes_on_after_torn_writes_one_after_the_other() -> None:
    """What they left behind the end is never taken for what follows."""
    for seed in range(60):
        chance = Chance(seed)
        disk, expected = Journal(), Content()
        for turn in range(20):
            first = len(expected.state.entries) + 1
            records = records_of(
                commands(first, first + chance.below(4), term=turn + 1, size=chance.choice([1, 90, 300]))
            )
            if chance.happens(0.5):
                disk.tear(records, chance)
                expected = disk.recover()
            else:
                disk.append(records)
                found = disk.recover()
                assert found.state.entries[: first - 1] == expected.state.entries
                assert len(found.state.entries) == first - 1 + len(records)
                expected = found


@pytest.mark.parametrize("harm", ["flip", "misdirect"])
def test_damage_is_always_found(harm: str) -> None:
    """No bit that flips and no sector that goes astray gives other content than was written, or an older one."""
    for seed in range(200):
        disk = full()

        assert getattr(disk, harm)(Chance(seed))
        assert disk.is_damaged
        with pytest.raises(LogCorrupt, match="simulated disk"):
            disk.recover()


def test_damage_is_found_though_the_machine_went_on_writing() -> None:
    """Nobody had read what is damaged; and the last write was torn."""
    for seed in range(60):
        disk = full()
        assert disk.misdirect(Chance(seed))
        disk.append(records_of(commands(8, 9, term=4)))
        disk.tear(records_of(commands(10, 12, term=4)), Chance(seed))

        with pytest.raises(LogCorrupt):
            disk.recover()


def test_journal_is_not_damaged_where_it_could_not_be_told() -> None:
    """With two writes on it, nothing says whether one that is broken was ever whole."""
    disk = written([journal.term(VOTE)], records_of(commands(1, 1)))

    assert not disk.flip(Chance(1))
    assert not disk.misdirect(Chance(1))
    assert disk.recover().state.hard_state == VOTE


def test_journal_keeps_members() -> None:
    """Of a snapshot's metadata all that counts."""
    members = attrs.evolve(TAKEN.metadata, configuration=Configuration.of("abc", learners="d", cluster_id="one"))

    stored = written([journal.install(members, None, b"")]).recover()

    assert stored.state.snapshot == members
    assert stored.snapshot_data == b""

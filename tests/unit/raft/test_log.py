"""The log in memory."""

from collections.abc import Callable

import pytest

from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.errors import InvariantError
from clustercore.raft.log import RaftLog
from clustercore.raft.types import LogIndex, Term
from tests.unit.raft.building import log_of

EMPTY = RaftLog()


def make(*terms: int, base: tuple[int, int] = (0, 0)) -> RaftLog:
    """A log of these terms after a base."""
    return RaftLog(log_of(*terms, first=base[0] + 1), base_index=LogIndex(base[0]), base_term=Term(base[1]))


def terms_of(log: RaftLog) -> list[int]:
    """The terms held, in order."""
    return [entry.term for entry in log.slice(log.first_index, log.last_index)]


def test_empty_log_ends_before_the_log() -> None:
    """Index 0 with term 0 stands before the first entry."""
    assert (EMPTY.base_index, EMPTY.first_index, EMPTY.last_index, EMPTY.last_term) == (0, 1, 0, 0)
    assert EMPTY.term_at(LogIndex(0)) == 0


def test_log_knows_the_terms_of_its_base_and_entries_only() -> None:
    """Terms below the base and past the end are unknown, not 0."""
    log = make(2, 3, base=(4, 2))

    assert [log.term_at(LogIndex(index)) for index in range(3, 8)] == [None, 2, 2, 3, None]
    assert (log.first_index, log.last_index, log.last_term) == (5, 6, 3)


def test_log_that_holds_nothing_ends_with_its_base() -> None:
    """After compaction of everything, the base's term is the last term."""
    log = make(base=(4, 2))

    assert (log.first_index, log.last_index, log.last_term) == (5, 4, 2)


@pytest.mark.parametrize(
    ("last_index", "last_term", "expected"),
    [(3, 2, True), (2, 2, False), (4, 2, True), (1, 3, True), (9, 1, False), (0, 0, False)],
)
def test_up_to_date_compares_terms_before_lengths(last_index: int, last_term: int, expected: bool) -> None:
    """The later last term wins; with equal terms the longer log does, and an equal log is up to date (Raft §5.4.1)."""
    assert make(1, 1, 2).is_up_to_date(LogIndex(last_index), Term(last_term)) is expected


@pytest.mark.parametrize(("first", "last", "terms"), [(5, 7, [1, 2, 3]), (6, 6, [2]), (7, 6, [])])
def test_slice_includes_both_ends(first: int, last: int, terms: list[int]) -> None:
    """Both bounds are inclusive; a last one before the first gives nothing."""
    log = make(1, 2, 3, base=(4, 1))

    assert [entry.term for entry in log.slice(LogIndex(first), LogIndex(last))] == terms


@pytest.mark.parametrize(
    ("max_entries", "max_bytes", "count"),
    [(10, 10_000, 3), (2, 10_000, 2), (10, 1, 1), (10, 75, 3), (10, 74, 2), (10, 50, 2), (10, 49, 1)],
)
def test_batch_keeps_both_limits_but_holds_one_entry(max_entries: int, max_bytes: int, count: int) -> None:
    """A batch stops before the entry that would exceed a limit, except that the first always fits."""
    log = make(1, 1, 1, 1)
    assert {len(entry.encoded) for entry in log_of(1, 1, 1)} == {25}

    batch = log.batch(LogIndex(2), max_entries=max_entries, max_bytes=max_bytes)

    assert batch == log_of(1, 1, 1, 1)[1 : 1 + count]


def test_sizes_are_those_of_the_encoded_entries_whatever_was_cut_on_either_side() -> None:
    """Each entry is told apart by its size: 1 byte more than the one before."""
    entries = [Entry.create(LogIndex(index), Term(1), EntryKind.COMMAND, b"x" * index) for index in range(1, 9)]
    log = RaftLog(entries)
    log.compact(LogIndex(2))
    log.truncate_from(LogIndex(7))
    log.append([Entry.create(LogIndex(7), Term(1), EntryKind.COMMAND, b"x" * 100)])
    sizes = {entry.index: len(entry.encoded) for entry in log.slice(LogIndex(3), LogIndex(7))}

    for first in range(3, 9):
        for last in range(2, 8):
            expected = sum(sizes[index] for index in sizes if first <= index <= last)
            assert log.size_bytes(LogIndex(first), LogIndex(last)) == expected
    for last in range(3, 8):
        for max_bytes in range(300):
            start = log.first_index_within(LogIndex(last), max_bytes)
            assert log.size_bytes(start, LogIndex(last)) <= max_bytes
            assert start == 3 or log.size_bytes(LogIndex(start - 1), LogIndex(last)) > max_bytes

    with pytest.raises(InvariantError, match=r"size of entries 2\.\.4 wanted, the log begins at 3"):
        log.size_bytes(LogIndex(2), LogIndex(4))
    log.reset(LogIndex(20), Term(2))
    assert log.size_bytes(LogIndex(21), LogIndex(20)) == 0
    log.append([Entry.create(LogIndex(21), Term(2), EntryKind.COMMAND, b"x")])
    assert log.first_index_within(LogIndex(21), 0) == 22
    assert log.first_index_within(LogIndex(21), 100) == 21


def test_batch_past_the_end_is_empty() -> None:
    """There is nothing to send then."""
    assert make(1).batch(LogIndex(2), max_entries=5, max_bytes=100) == ()


def test_append_and_truncate_keep_the_rest() -> None:
    """Cutting drops the entry named and all after it; appending continues from there."""
    log = make(1, 1, 2, base=(3, 1))

    log.truncate_from(LogIndex(5))
    log.append(log_of(3, 3, first=5))

    assert (log.first_index, terms_of(log)) == (4, [1, 3, 3])
    log.append(())
    assert log.last_index == 6


@pytest.mark.parametrize(
    ("terms", "base", "index", "first"),
    [((1, 1, 2, 2, 3), (0, 0), 4, 3), ((1, 1, 2), (0, 0), 2, 1), ((4, 4, 4), (6, 4), 9, 7), ((2, 5), (3, 2), 5, 5)],
)
def test_first_index_of_term_is_the_first_held(
    terms: tuple[int, ...], base: tuple[int, int], index: int, first: int
) -> None:
    """The search stops at the first entry held: what the base covers is committed."""
    assert make(*terms, base=base).first_index_of_term_at(LogIndex(index)) == first


@pytest.mark.parametrize(("term", "last"), [(1, 2), (2, None), (3, 4), (4, None), (9, None), (0, 0)])
def test_last_index_of_term_is_found_or_none(term: int, last: int | None) -> None:
    """A term that no entry has is not found, wherever it would lie."""
    assert make(1, 1, 3, 3).last_index_of_term(Term(term)) == last


def test_last_index_of_term_counts_the_base() -> None:
    """The base's own term is known, those before it are not."""
    log = make(3, 3, base=(4, 2))

    assert (log.last_index_of_term(Term(2)), log.last_index_of_term(Term(1))) == (4, None)


def test_compaction_moves_the_base() -> None:
    """The entry compacted up to becomes the base; what follows stays, and the base itself may be named again."""
    log = make(1, 2, 3)

    log.compact(LogIndex(2))
    log.compact(LogIndex(2))

    assert (log.base_index, log.term_at(LogIndex(2)), terms_of(log)) == (2, 2, [3])


def test_reset_starts_again_after_a_base() -> None:
    """Nothing of the old log is left."""
    log = make(1, 2, 3)

    log.reset(LogIndex(9), Term(4))

    assert (log.base_index, log.last_index, log.last_term, terms_of(log)) == (9, 9, 4, [])


@pytest.mark.parametrize(
    "misuse",
    [
        lambda log: log.slice(LogIndex(4), LogIndex(5)),
        lambda log: log.slice(LogIndex(5), LogIndex(7)),
        lambda log: log.append(log_of(3, first=8)),
        lambda log: log.append(log_of(3, first=6)),
        lambda log: log.truncate_from(LogIndex(4)),
        lambda log: log.compact(LogIndex(3)),
        lambda log: log.compact(LogIndex(7)),
    ],
    ids=["slice of the base", "slice past the end", "gap", "overlap", "cut the base", "compact back", "compact ahead"],
)
def test_misuse_raises_and_changes_nothing(misuse: Callable[[RaftLog], object]) -> None:
    """Each refuses what would leave a gap or touch what is compacted."""
    log = make(2, 2, base=(4, 2))

    with pytest.raises(InvariantError):
        misuse(log)

    assert (log.base_index, terms_of(log)) == (4, [2, 2])


def test_log_does_not_share_the_list_it_is_made_from() -> None:
    """A caller may go on with its own list."""
    entries: list[Entry] = list(log_of(1, 1))
    log = RaftLog(entries)

    entries.clear()

    assert log.last_index == 2

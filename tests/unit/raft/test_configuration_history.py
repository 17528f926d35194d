"""Which configuration counts at which index."""

import attrs
import pytest

from clustercore.raft.configuration import MalformedConfiguration, encode_configuration
from clustercore.raft.configuration_history import ConfigurationHistory
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import Configuration, LogIndex, NodeId, Server, Term
from tests.unit.raft.building import A, B, command

FIRST, SECOND, THIRD = (Configuration.of(names, cluster_id="test") for names in ("a", "ab", "abc"))


def entry(index: int, configuration: Configuration) -> Entry:
    """An entry with a configuration."""
    return Entry.create(LogIndex(index), Term(1), EntryKind.CONFIGURATION, encode_configuration(configuration))


def history() -> ConfigurationHistory:
    """Three configurations, from 0, 3 and 5 on."""
    known = ConfigurationHistory(LogIndex(0), FIRST)
    known.append([command(2, 1), entry(3, SECOND), command(4, 1)])
    known.append([entry(5, THIRD)])
    return known


def test_history_knows_what_counts_at_each_index() -> None:
    """A configuration counts from its own entry on (Raft §6)."""
    known = history()

    assert [known.at(LogIndex(index)) for index in range(7)] == [FIRST, FIRST, FIRST, SECOND, SECOND, THIRD, THIRD]
    assert (known.latest, known.latest_index, known.previous) == (THIRD, 5, SECOND)


def test_history_names_all_who_may_turn_out_to_be_members() -> None:
    """A removal after the index may be cut off, and so may an addition: whoever is named counts."""
    known = history()
    known.append([entry(6, Configuration.of("ad", cluster_id="test"))])

    assert [known.members_since(LogIndex(index)) for index in (0, 4, 5, 6)] == [
        set("abcd"),
        set("abcd"),
        set("abcd"),
        set("ad"),
    ]
    known.truncate_from(LogIndex(6))
    assert known.members_since(LogIndex(3)) == set("abc")


@pytest.mark.parametrize(
    ("index", "latest", "latest_index", "previous"),
    [(6, THIRD, 5, SECOND), (5, SECOND, 3, FIRST), (4, SECOND, 3, FIRST), (3, FIRST, 0, FIRST), (1, FIRST, 0, FIRST)],
)
def test_history_goes_back_when_the_log_is_cut(
    index: int, latest: Configuration, latest_index: int, previous: Configuration
) -> None:
    """Without its entry a configuration never counted; the first is not in the log."""
    known = history()

    known.truncate_from(LogIndex(index))

    assert (known.latest, known.latest_index, known.previous) == (latest, latest_index, previous)


@pytest.mark.parametrize(
    ("base", "at_base", "remembered"), [(2, FIRST, 3), (3, SECOND, 2), (4, SECOND, 2), (5, THIRD, 1), (9, THIRD, 1)]
)
def test_history_keeps_what_counts_at_the_base(base: int, at_base: Configuration, remembered: int) -> None:
    """Compaction forgets no configuration that still counts, nor one that may again."""
    known = history()

    known.compact(LogIndex(base))

    assert known.at(LogIndex(base)) == at_base
    assert known.latest == THIRD
    assert len(known._items) == remembered


@pytest.mark.parametrize(
    ("base", "named", "items"),
    [
        (4, SECOND, [(3, SECOND), (5, THIRD)]),
        (4, FIRST, [(4, FIRST), (5, THIRD)]),
        (5, THIRD, [(5, THIRD)]),
        (7, FIRST, [(7, FIRST)]),
    ],
)
def test_history_takes_a_snapshots_word_and_keeps_what_comes_after(
    base: int, named: Configuration, items: list[tuple[int, Configuration]]
) -> None:
    """What a snapshot names counts at its index; when it is known already, since when is, too."""
    known = history()

    known.start_from(LogIndex(base), named)

    assert known._items == items


@pytest.mark.parametrize(("named", "items"), [(SECOND, [(3, SECOND)]), (FIRST, [(4, FIRST)])])
def test_history_begins_again_from_a_snapshot(named: Configuration, items: list[tuple[int, Configuration]]) -> None:
    """When the log is dropped, so are its configurations."""
    known = history()

    known.reset(LogIndex(4), named)

    assert known._items == items


@pytest.mark.parametrize(("index", "since"), [(2, 2), (4, 4), (5, 4)])
def test_history_begins_when_a_snapshot_says(index: int, since: int) -> None:
    """The same index on every node: the one of the entry, which the snapshot covers. One behind it is none."""
    known = history()

    known.reset(LogIndex(4), attrs.evolve(FIRST, index=LogIndex(index)))

    assert known._items == [(since, FIRST)]
    assert known.latest_index == since


def test_history_notes_which_entry_brought_each() -> None:
    """So that a snapshot can tell it when the entry is gone."""
    known = history()
    known.append([entry(6, FIRST)])

    assert known.latest.index == 6


def test_history_finds_the_newest_that_names_a_node() -> None:
    """A node that was removed goes by the last that knew it."""
    known = ConfigurationHistory(LogIndex(0), FIRST)
    known.append([entry(1, Configuration.with_servers([Server(A, incarnation="i")], cluster_id="test"))])
    known.append([entry(2, Configuration.of("bc", cluster_id="test"))])

    assert known.newest_naming(A) == Server(A, incarnation="i")
    assert known.newest_naming(B) == Server(B)
    assert known.newest_naming(NodeId("x")) is None


def test_history_forgets_who_was_to_form_a_cluster_once_one_is_formed() -> None:
    """A node that was started as one of the founders, of a cluster that had none of it, is unknown to that."""
    known = ConfigurationHistory(LogIndex(0), Configuration.of("abc"))
    assert known.newest_naming(A) == Server(A)

    known.append([entry(1, Configuration.of("bc", cluster_id="test"))])

    assert known.newest_naming(A) is None


def test_history_refuses_what_is_no_configuration() -> None:
    """Damage is for the caller to report."""
    known = history()

    with pytest.raises(MalformedConfiguration):
        known.append([Entry.create(LogIndex(6), Term(1), EntryKind.CONFIGURATION, b"\xff")])

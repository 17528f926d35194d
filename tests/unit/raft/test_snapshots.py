"""Snapshots (Raft §7, Figure 13): installing a leader's, compacting the own log, starting from one."""

import attrs
import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    ConfigurationChanged,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    Reply,
    RestoreSnapshot,
    RoleChanged,
)
from clustercore.raft.entry import Entry
from clustercore.raft.errors import InvariantError
from clustercore.raft.types import Configuration, HardState, LogIndex, NodeId, Role, Snapshot, Term, WriteId
from tests.unit.raft.building import (
    B,
    append,
    appended,
    changes,
    follower,
    install,
    installed,
    leader,
    log_of,
    no_op,
    picture,
    snapshot,
)


def following(*terms: int, commit: int = 0, term: int = 3) -> RaftCore:
    """A follower of ``b`` with a durable log of these terms, committed and applied up to ``commit``."""
    core = follower(entries=log_of(*terms), term=term)
    core.receive(B, append(term, "b", prev=(commit, terms[commit - 1] if commit else 0), commit=commit), 0.0)
    return core


# --- Installing ---


def test_snapshot_beyond_the_log_replaces_it_and_is_restored_once_durable() -> None:
    """The whole log goes (Raft Figure 13, rule 7); the machine is reset (rule 8) only from what a crash will keep."""
    core = following(1, 1)
    before = picture(core)

    effects = core.receive(B, install(3, "b", snapshot(7, 2)), 0.5)

    assert effects == (
        PersistSnapshot(WriteId(1), snapshot(7, 2), keep_from=None),
        Reply(installed(3, 7), after=WriteId(1)),
    )
    assert changes(before, core) == {
        "commit_index": 7,
        "durable_index": 0,
        "leader_protected_until": 1.5,
        "election_deadline": 1.5,
        "last_write_id": 1,
        "installing": (1, snapshot(7, 2)),
        "base": (7, 2),
        "log": (),
        "log_writes": ((1, 7, 0.5),),
    }
    before = picture(core)

    assert core.storage_done(WriteId(1), 0.5) == (RestoreSnapshot(snapshot(7, 2)),)
    assert changes(before, core) == {
        "last_applied": 7,
        "durable_index": 7,
        "done_write_id": 1,
        "installing": None,
        "log_writes": (),
    }


@pytest.mark.parametrize("terms", [(1, 1, 1, 1), (1, 1, 3, 3)], ids=["at its last entry", "before others"])
def test_snapshot_that_disagrees_with_the_log_replaces_it(terms: tuple[int, ...]) -> None:
    """An entry with the snapshot's index and another term: nothing of the log is kept (Raft Figure 13, rule 7)."""
    core = following(*terms)

    effects = core.receive(B, install(3, "b", snapshot(4, 2)), 0.5)

    assert effects[0] == PersistSnapshot(WriteId(1), snapshot(4, 2), keep_from=None)
    assert (picture(core)["base"], picture(core)["log"]) == ((4, 2), ())


def test_snapshot_that_agrees_with_the_log_keeps_what_follows() -> None:
    """Entries after the snapshot stay (Raft Figure 13, rule 6), and stay durable."""
    core = following(1, 1, 2, 2, 2)
    before = picture(core)

    effects = core.receive(B, install(3, "b", snapshot(3, 2)), 0.0)

    assert effects == (
        PersistSnapshot(WriteId(1), snapshot(3, 2), keep_from=LogIndex(4)),
        Reply(installed(3, 3)),
    )
    assert changes(before, core) == {
        "commit_index": 3,
        "last_write_id": 1,
        "installing": (1, snapshot(3, 2)),
        "base": (3, 2),
        "log": (2, 2),
        "log_writes": ((1, 3, 0.0),),
    }
    assert core.storage_done(WriteId(1), 0.0) == (RestoreSnapshot(snapshot(3, 2)),)


def test_old_snapshot_changes_nothing_and_is_acknowledged() -> None:
    """What it covers is committed here; the answer lets the leader go on from there."""
    core = following(1, 1, 2, commit=2)
    before = picture(core)

    assert core.receive(B, install(3, "b", snapshot(2, 1)), 0.0) == (Reply(installed(3, 2)),)
    assert changes(before, core) == {}


def test_repeated_snapshot_is_acknowledged_when_the_first_is_durable() -> None:
    """It is not written twice."""
    core = following(1)
    core.receive(B, install(3, "b", snapshot(7, 2)), 0.0)
    before = picture(core)

    assert core.receive(B, install(3, "b", snapshot(7, 2)), 0.0) == (Reply(installed(3, 7), after=WriteId(1)),)
    assert core.receive(B, install(3, "b", snapshot(5, 2)), 0.0) == (Reply(installed(3, 5), after=WriteId(1)),)
    assert changes(before, core) == {}


def test_nothing_is_applied_while_a_snapshot_is_on_its_way_to_the_disk() -> None:
    """The machine lacks what lies between; entries after the snapshot are applied after it."""
    core = following(1)
    core.receive(B, install(3, "b", snapshot(4, 2)), 0.0)

    entries = log_of(3, first=5)
    effects = core.receive(B, append(3, "b", prev=(4, 2), entries=entries, commit=5), 0.0)
    assert effects == (PersistEntries(WriteId(2), entries), Reply(appended(3, 4, 5), after=WriteId(2)))

    assert core.storage_done(WriteId(2), 0.0) == (RestoreSnapshot(snapshot(4, 2)), Apply(entries))


def test_newer_snapshot_takes_the_place_of_one_on_its_way() -> None:
    """Only the newest is restored; the first one's write does not restore it."""
    core = following(1)
    core.receive(B, install(3, "b", snapshot(4, 2)), 0.0)
    core.receive(B, install(3, "b", snapshot(6, 3)), 0.0)

    assert core.storage_done(WriteId(1), 0.0) == ()
    assert core.state.last_applied == 0
    assert core.storage_done(WriteId(2), 0.0) == (RestoreSnapshot(snapshot(6, 3)),)


def test_snapshot_of_a_higher_term_is_taken_over_with_its_term() -> None:
    """The term is written first; the answer waits for both."""
    core = follower(entries=log_of(1), term=1)

    effects = core.receive(B, install(4, "b", snapshot(7, 2)), 0.5)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(4))),
        PersistSnapshot(WriteId(2), snapshot(7, 2), keep_from=None),
        Reply(installed(4, 7), after=WriteId(2)),
        RoleChanged(Role.FOLLOWER, Term(4), NodeId("b")),
    )


def test_snapshot_brings_its_members() -> None:
    """The entries that named them are gone with it: they count from then on, and are stored with it (thesis §5.1)."""
    core, members = following(1, 1), Configuration.of("abd", cluster_id="test")

    effects = core.receive(B, install(3, "b", attrs.evolve(snapshot(7, 2), configuration=members)), 0.5)

    assert effects[0] == PersistSnapshot(
        WriteId(1), attrs.evolve(snapshot(7, 2), configuration=members), keep_from=None
    )
    assert ConfigurationChanged(members, LogIndex(7)) in effects
    assert core.state.configuration == members


def test_snapshot_of_another_cluster_is_refused() -> None:
    """A node whose cluster has formed takes the state of no other."""
    core = following(1, 1)
    before = picture(core)
    foreign = attrs.evolve(snapshot(7, 2), configuration=Configuration.of("abc", cluster_id="other"))

    assert core.receive(B, install(3, "b", foreign), 0.5) == (Reply(installed(3, 0)),)

    assert changes(before, core) == {}


def test_snapshot_leaves_durable_what_was_committed_before() -> None:
    """The committed prefix is on the disk and in the snapshot: last_applied <= durable_index holds all along."""
    core = following(1, 1, 1, commit=2)

    core.receive(B, install(3, "b", snapshot(7, 2)), 0.0)

    assert (core.state.last_applied, core.state.durable_index) == (2, 2)


# --- Compacting ---


@pytest.mark.parametrize(
    ("keep_from", "base", "terms"), [(4, (3, 2), (2,)), (2, (1, 1), (1, 2, 2)), (1, (0, 0), (1, 1, 2, 2))]
)
def test_own_snapshot_compacts_the_log_but_for_a_tail(
    keep_from: int, base: tuple[int, int], terms: tuple[int, ...]
) -> None:
    """Entries below keep_from go, and nothing else changes."""
    core = following(1, 1, 2, 2, commit=3)

    assert core.snapshot_taken(LogIndex(3), LogIndex(keep_from)) == ()
    assert (picture(core)["base"], picture(core)["log"]) == (base, terms)
    assert (core.state.commit_index, core.state.last_applied, core.state.durable_index) == (3, 3, 4)


def test_own_snapshot_older_than_the_log_changes_nothing() -> None:
    """A leader's snapshot came in between."""
    core = following(1, 1, commit=2)
    core.receive(B, install(3, "b", snapshot(7, 2)), 0.0)
    before = picture(core)

    assert core.snapshot_taken(LogIndex(2), LogIndex(3)) == ()
    assert picture(core) == before


@pytest.mark.parametrize(("last_included_index", "keep_from"), [(4, 4), (3, 5)], ids=["not applied", "gap"])
def test_impossible_snapshot_is_a_bug(last_included_index: int, keep_from: int) -> None:
    """A snapshot covers what was applied, and the log goes on right after it at the latest."""
    core = following(1, 1, 2, 2, commit=3)

    with pytest.raises(InvariantError, match="applied is 3"):
        core.snapshot_taken(LogIndex(last_included_index), LogIndex(keep_from))


# --- Starting from one ---


@pytest.mark.parametrize(
    ("entries", "base", "terms"),
    [
        ((), (4, 2), ()),
        (log_of(2, 3, first=5), (4, 2), (2, 3)),
        (log_of(1, 2, 2, 3, first=2), (2, 1), (2, 2, 3)),
        (log_of(2, first=4), (4, 2), ()),
    ],
    ids=["no log", "log after it", "log with a tail", "tail of one"],
)
def test_node_starts_from_its_snapshot(
    entries: tuple[Entry, ...], base: tuple[int, int], terms: tuple[int, ...]
) -> None:
    """What the snapshot covers is committed and applied; all that is stored is durable."""
    core = follower(stored=snapshot(4, 2), entries=entries, term=3)

    assert (picture(core)["base"], picture(core)["log"]) == (base, terms)
    last_index = base[0] + len(terms)
    assert (core.state.commit_index, core.state.last_applied, core.state.durable_index) == (4, 4, last_index)


def test_restarted_node_applies_from_its_snapshot_on() -> None:
    """Entries after it are applied again once a leader says that they are committed."""
    core = follower(stored=snapshot(4, 2), entries=log_of(2, 2, 3, first=3), term=3)

    effects = core.receive(B, append(3, "b", prev=(5, 3), commit=5), 0.5)

    assert effects[0] == Apply(log_of(3, first=5))


@pytest.mark.parametrize(
    ("stored", "entries", "term"),
    [
        (None, log_of(2), 1),
        (snapshot(4, 2), (), 1),
        (snapshot(4, 2), log_of(1, 1, first=2), 3),
        (snapshot(4, 2), log_of(3, first=6), 3),
        (None, log_of(1, first=2), 3),
    ],
    ids=["term ahead", "snapshot's term ahead", "log ends before the snapshot", "gap", "log without its start"],
)
def test_impossible_storage_is_a_bug(stored: Snapshot | None, entries: tuple[Entry, ...], term: int) -> None:
    """What no order of writes leaves behind is refused, not repaired."""
    with pytest.raises(InvariantError):
        follower(stored=stored, entries=entries, term=term)


def test_leader_compacts_too() -> None:
    """Its own no-op may be the base; replication goes on from there."""
    core = leader("a")

    core.snapshot_taken(LogIndex(1), LogIndex(2))

    assert (picture(core)["base"], picture(core)["log"]) == ((1, 1), ())
    assert core.propose([b"x"], 1.5)[1] == PersistEntries(WriteId(3), core.state.log.slice(LogIndex(2), LogIndex(2)))
    assert no_op(1, 1) not in core.state.log.slice(LogIndex(2), LogIndex(2))

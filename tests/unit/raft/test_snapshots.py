"""Snapshots (Raft §7, Figure 13): installing a leader's, compacting the own log, starting from one."""

import attrs
import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    ConfigurationChanged,
    Effects,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    PersistSnapshotChunk,
    Reply,
    RestoreSnapshot,
    RoleChanged,
)
from clustercore.raft.entry import Entry
from clustercore.raft.errors import InvariantError
from clustercore.raft.messages import InstallSnapshotRequest
from clustercore.raft.types import Configuration, HardState, LogIndex, NodeId, Role, SnapshotMetadata, Term, WriteId
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


S7 = snapshot(7, 2)

# --- Installing ---


def test_snapshot_beyond_the_log_replaces_it_and_is_restored_once_durable() -> None:
    """The whole log goes (Raft Figure 13, rule 7); the machine is reset (rule 8) only from what a crash will keep."""
    core = following(1, 1)
    before = picture(core)

    effects = core.receive(B, install(3, "b", S7), 0.5)

    assert effects == (
        PersistSnapshotChunk(WriteId(1), S7, 0, b"state"),
        PersistSnapshot(WriteId(2), S7, keep_from=None),
        Reply(installed(3, 7, S7), after=WriteId(2)),
    )
    assert changes(before, core) == {
        "commit_index": 7,
        "durable_index": 0,
        "leader_protected_until": 1.5,
        "election_deadline": 1.5,
        "last_write_id": 2,
        "installing": (2, S7),
        "base": (7, 2),
        "log": (),
        "log_writes": ((2, 7, 0.5),),
    }
    assert core.storage_done(WriteId(1), 0.5) == ()
    before = picture(core)

    assert core.storage_done(WriteId(2), 0.5) == (RestoreSnapshot(S7),)
    assert changes(before, core) == {
        "last_applied": 7,
        "durable_index": 7,
        "done_write_id": 2,
        "snapshot": S7,
        "installing": None,
        "log_writes": (),
    }


@pytest.mark.parametrize("terms", [(1, 1, 1, 1), (1, 1, 3, 3)], ids=["at its last entry", "before others"])
def test_snapshot_that_disagrees_with_the_log_replaces_it(terms: tuple[int, ...]) -> None:
    """An entry with the snapshot's index and another term: nothing of the log is kept (Raft Figure 13, rule 7)."""
    core = following(*terms)

    effects = core.receive(B, install(3, "b", snapshot(4, 2)), 0.5)

    assert effects[1] == PersistSnapshot(WriteId(2), snapshot(4, 2), keep_from=None)
    assert (picture(core)["base"], picture(core)["log"]) == ((4, 2), ())


def test_snapshot_that_agrees_with_the_log_keeps_what_follows() -> None:
    """Entries after the snapshot stay (Raft Figure 13, rule 6), and stay durable."""
    core = following(1, 1, 2, 2, 2)
    before = picture(core)

    effects = core.receive(B, install(3, "b", snapshot(3, 2)), 0.0)

    assert effects[1:] == (
        PersistSnapshot(WriteId(2), snapshot(3, 2), keep_from=LogIndex(4)),
        Reply(installed(3, 3, snapshot(3, 2))),
    )
    assert changes(before, core) == {
        "commit_index": 3,
        "last_write_id": 2,
        "installing": (2, snapshot(3, 2)),
        "base": (3, 2),
        "log": (2, 2),
        "log_writes": ((2, 3, 0.0),),
    }
    assert core.storage_done(WriteId(2), 0.0) == (RestoreSnapshot(snapshot(3, 2)),)


def test_old_snapshot_changes_nothing_and_is_acknowledged() -> None:
    """What it covers is committed here; the answer lets the leader go on from there."""
    core = following(1, 1, 2, commit=2)
    before = picture(core)

    old = snapshot(2, 1)
    assert core.receive(B, install(3, "b", old), 0.0) == (Reply(installed(3, 2, old)),)
    assert core.receive(B, install(3, "b", old, offset=900, is_last=False), 0.0) == (Reply(installed(3, 2, old)),)
    assert changes(before, core) == {}


def test_repeated_snapshot_is_acknowledged_when_the_first_is_durable() -> None:
    """It is not written twice."""
    core = following(1)
    core.receive(B, install(3, "b", S7), 0.0)
    before = picture(core)

    assert core.receive(B, install(3, "b", S7), 0.0) == (Reply(installed(3, 7, S7), after=WriteId(2)),)
    assert core.receive(B, install(3, "b", snapshot(5, 2)), 0.0) == (
        Reply(installed(3, 5, snapshot(5, 2)), after=WriteId(2)),
    )
    assert changes(before, core) == {}


def test_nothing_is_applied_while_a_snapshot_is_on_its_way_to_the_disk() -> None:
    """The machine lacks what lies between; entries after the snapshot are applied after it."""
    core = following(1)
    core.receive(B, install(3, "b", snapshot(4, 2)), 0.0)

    entries = log_of(3, first=5)
    effects = core.receive(B, append(3, "b", prev=(4, 2), entries=entries, commit=5), 0.0)
    assert effects == (PersistEntries(WriteId(3), entries), Reply(appended(3, 4, 5), after=WriteId(3)))

    assert core.storage_done(WriteId(3), 0.0) == (RestoreSnapshot(snapshot(4, 2)), Apply(entries))


def test_snapshot_that_follows_one_on_its_way_to_the_disk_is_the_one_restored() -> None:
    """The first is passed over: the machine goes from before it to after the second."""
    core = following(1)
    core.receive(B, install(3, "b", snapshot(4, 2)), 0.0)
    effects = core.receive(B, install(3, "b", S7), 0.0)

    assert [type(effect) for effect in effects] == [PersistSnapshotChunk, PersistSnapshot, Reply]
    assert core.storage_done(WriteId(2), 0.0) == ()
    assert core.storage_done(WriteId(4), 0.0) == (RestoreSnapshot(S7),)


def test_snapshot_of_a_higher_term_is_taken_over_with_its_term() -> None:
    """The term is written first; the answer waits for both."""
    core = follower(entries=log_of(1), term=1)

    effects = core.receive(B, install(4, "b", S7), 0.5)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(4))),
        PersistSnapshotChunk(WriteId(2), S7, 0, b"state"),
        PersistSnapshot(WriteId(3), S7, keep_from=None),
        Reply(installed(4, 7, S7), after=WriteId(3)),
        RoleChanged(Role.FOLLOWER, Term(4), NodeId("b")),
    )


def test_snapshot_brings_its_members() -> None:
    """The entries that named them are gone with it: they count from then on, and are stored with it (thesis §5.1)."""
    core, members = following(1, 1), Configuration.of("abd", cluster_id="test")
    metadata = attrs.evolve(S7, configuration=members)

    first = core.receive(B, install(3, "b", metadata, is_last=False), 0.5)
    assert [type(effect) for effect in first] == [PersistSnapshotChunk, Reply]
    assert core.state.configuration == Configuration.of("abc", cluster_id="test")

    effects = core.receive(B, install(3, "b", metadata, b"more", offset=5), 0.5)

    assert PersistSnapshot(WriteId(3), metadata, keep_from=None) in effects
    assert ConfigurationChanged(members, LogIndex(7)) in effects
    assert core.state.configuration == members


def test_snapshot_of_another_cluster_is_refused() -> None:
    """A node whose cluster has formed takes the state of no other."""
    core = following(1, 1)
    before = picture(core)
    foreign = attrs.evolve(S7, configuration=Configuration.of("abc", cluster_id="other"))

    assert core.receive(B, install(3, "b", foreign), 0.5) == (Reply(installed(3, 0, foreign)),)

    assert changes(before, core) == {}


def test_snapshot_leaves_durable_what_was_committed_before() -> None:
    """The committed prefix is on the disk and in the snapshot: last_applied <= durable_index holds all along."""
    core = following(1, 1, 1, commit=2)

    core.receive(B, install(3, "b", S7), 0.0)

    assert (core.state.last_applied, core.state.durable_index) == (2, 2)


# --- Receiving chunk by chunk ---


def first_chunk(core: RaftCore, metadata: SnapshotMetadata = S7, *, term: int = 3, leader_id: str = "b") -> Effects:
    """Let the first five bytes of a snapshot arrive."""
    return core.receive(NodeId(leader_id), install(term, leader_id, metadata, is_last=False), 0.0)


def test_chunk_is_stored_and_then_answered_with_where_the_next_begins() -> None:
    """Nothing of the log changes before the last one has arrived."""
    core = following(1, 1)
    before = picture(core)

    assert first_chunk(core) == (
        PersistSnapshotChunk(WriteId(1), S7, 0, b"state"),
        Reply(installed(3, 0, S7, next_offset=5), after=WriteId(1)),
    )
    assert changes(before, core) == {"last_write_id": 1, "receiving": (S7, 3, 5, 1)}

    effects = core.receive(B, install(3, "b", S7, b"more", offset=5), 0.0)
    assert effects == (
        PersistSnapshotChunk(WriteId(2), S7, 5, b"more"),
        PersistSnapshot(WriteId(3), S7, keep_from=None),
        Reply(installed(3, 7, S7), after=WriteId(3)),
    )
    assert core.state.receiving is None


def test_snapshot_without_bytes_is_one_chunk() -> None:
    """There is a machine without state."""
    core = following(1)

    effects = core.receive(B, install(3, "b", S7, b""), 0.0)

    assert effects[0] == PersistSnapshotChunk(WriteId(1), S7, 0, b"")
    assert isinstance(effects[1], PersistSnapshot)


@pytest.mark.parametrize(
    "chunk",
    [
        install(3, "b", S7, is_last=False),
        install(3, "b", S7, b"later", offset=10, is_last=False),
        install(3, "b", S7, b"more", offset=5, checksum=1),
    ],
    ids=["repeated", "early", "damaged"],
)
@pytest.mark.parametrize("is_stored", [False, True])
def test_chunk_that_does_not_follow_is_answered_with_what_does(chunk: InstallSnapshotRequest, is_stored: bool) -> None:
    """Once what it says is stored: a leader that repeats chunks of a slow disk is slowed down by it."""
    core = following(1)
    first_chunk(core)
    if is_stored:
        core.storage_done(WriteId(1), 0.0)
    before = picture(core)

    expected = Reply(installed(3, 0, S7, next_offset=5), after=None if is_stored else WriteId(1))
    assert core.receive(B, chunk, 0.0) == (expected,)
    assert changes(before, core) == {}


def test_snapshot_that_begins_in_the_middle_is_asked_for_from_its_start() -> None:
    """The receiver started again in between: what had arrived is forgotten."""
    core = following(1)
    before = picture(core)

    assert core.receive(B, install(3, "b", S7, offset=5), 0.0) == (Reply(installed(3, 0, S7)),)
    assert changes(before, core) == {}


def test_damaged_first_chunk_is_asked_for_again() -> None:
    """Nothing is stored of it."""
    core = following(1)

    assert core.receive(B, install(3, "b", S7, checksum=1), 0.0) == (Reply(installed(3, 0, S7)),)


def test_newer_snapshot_of_the_leader_takes_the_place_of_the_one_that_arrives() -> None:
    """And late chunks of that one no longer count, not even its first."""
    core = following(1)
    first_chunk(core)
    newer = snapshot(9, 3)

    assert first_chunk(core, newer)[0] == PersistSnapshotChunk(WriteId(2), newer, 0, b"state")
    before = picture(core)
    assert first_chunk(core) == (Reply(installed(3, 0, S7)),)
    assert core.receive(B, install(3, "b", S7, offset=5), 0.0) == (Reply(installed(3, 0, S7)),)
    assert changes(before, core) == {}


def test_snapshot_of_a_new_leader_takes_the_place_of_the_one_that_arrives() -> None:
    """Of the same index, or even an older one: its bytes are others, and it is what this leader has."""
    for other in (snapshot(7, 2, "c's own"), snapshot(6, 2)):
        core = following(1)
        first_chunk(core)

        effects = first_chunk(core, other, term=4, leader_id="c")

        assert PersistSnapshotChunk(WriteId(3), other, 0, b"state") in effects


def test_same_snapshot_goes_on_under_a_new_leader() -> None:
    """Its bytes are the same, whoever sends them."""
    core = following(1)
    first_chunk(core)

    effects = core.receive(NodeId("c"), install(4, "c", S7, b"more", offset=5), 0.0)

    assert PersistSnapshotChunk(WriteId(3), S7, 5, b"more") in effects


def test_chunk_of_an_earlier_term_is_refused() -> None:
    """Its leader is one no more; whether anything of the snapshot is here is not its business."""
    core = following(1)
    first_chunk(core)
    before = picture(core)

    assert core.receive(B, install(2, "c", S7, offset=5), 0.0) == (Reply(installed(3, 0, S7)),)
    assert changes(before, core) == {}


def test_follower_that_catches_up_needs_the_rest_no_more() -> None:
    """Entries came another way, and are committed as far."""
    core = following(1)
    first_chunk(core)
    core.receive(B, append(3, "b", prev=(1, 1), entries=log_of(2, 2, 2, 2, 2, 2, first=2), commit=7), 0.0)

    effects = core.receive(B, install(3, "b", S7, b"more", offset=5), 0.0)

    assert effects == (Reply(installed(3, 7, S7), after=WriteId(2)),)


# --- Compacting ---


@pytest.mark.parametrize(
    ("keep_from", "base", "terms"), [(4, (3, 2), (2,)), (2, (1, 1), (1, 2, 2)), (1, (0, 0), (1, 1, 2, 2))]
)
def test_own_snapshot_compacts_the_log_but_for_a_tail(
    keep_from: int, base: tuple[int, int], terms: tuple[int, ...]
) -> None:
    """Entries below keep_from go, and nothing else changes."""
    core = following(1, 1, 2, 2, commit=3)

    assert core.snapshot_taken(snapshot(3, 2), LogIndex(keep_from)) == ()
    assert (picture(core)["base"], picture(core)["log"]) == (base, terms)
    assert (core.state.commit_index, core.state.last_applied, core.state.durable_index) == (3, 3, 4)


def test_own_snapshot_older_than_the_log_changes_nothing() -> None:
    """A leader's snapshot came in between."""
    core = following(1, 1, commit=2)
    core.receive(B, install(3, "b", snapshot(7, 2)), 0.0)
    before = picture(core)

    assert core.snapshot_taken(snapshot(2, 1), LogIndex(3)) == ()
    # Until the other is durable it is the newest.
    assert changes(before, core) == {"snapshot": snapshot(2, 1)}
    core.storage_done(WriteId(2), 0.0)
    before = picture(core)
    core.snapshot_taken(snapshot(2, 1), LogIndex(3))
    assert changes(before, core) == {}


@pytest.mark.parametrize(("last_included_index", "keep_from"), [(4, 4), (3, 5)], ids=["not applied", "gap"])
def test_impossible_snapshot_is_a_bug(last_included_index: int, keep_from: int) -> None:
    """A snapshot covers what was applied, and the log goes on right after it at the latest."""
    core = following(1, 1, 2, 2, commit=3)

    with pytest.raises(InvariantError, match="applied is 3"):
        core.snapshot_taken(snapshot(last_included_index, 2), LogIndex(keep_from))


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
def test_impossible_storage_is_a_bug(stored: SnapshotMetadata | None, entries: tuple[Entry, ...], term: int) -> None:
    """What no order of writes leaves behind is refused, not repaired."""
    with pytest.raises(InvariantError):
        follower(stored=stored, entries=entries, term=term)


def test_leader_compacts_too() -> None:
    """Its own no-op may be the base; replication goes on from there."""
    core = leader("a")

    core.snapshot_taken(snapshot(1, 1), LogIndex(2))

    assert (picture(core)["base"], picture(core)["log"]) == ((1, 1), ())
    assert core.propose([b"x"], 1.5)[1] == PersistEntries(WriteId(3), core.state.log.slice(LogIndex(2), LogIndex(2)))
    assert no_op(1, 1) not in core.state.log.slice(LogIndex(2), LogIndex(2))

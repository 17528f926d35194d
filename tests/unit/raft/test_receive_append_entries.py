"""AppendEntries at the receiver (Raft Figure 2, §5.3)."""

import pytest

from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Apply, PersistEntries, PersistHardState, Reply, RoleChanged
from clustercore.raft.entry import Entry
from clustercore.raft.types import HardState, NodeId, Role, Term, WriteId
from tests.unit.raft.building import (
    B,
    append,
    appended,
    changes,
    command,
    follower,
    log_of,
    picture,
    refused,
    snapshot,
)


def following(*terms: int, term: int) -> RaftCore:
    """A node with a durable log of these terms that follows ``b`` in ``term``, since time 0."""
    core = follower(entries=log_of(*terms), term=term)
    core.receive(B, append(term, "b"), 0.0)
    return core


def test_first_word_of_a_leader_makes_it_known_and_puts_off_an_election() -> None:
    """A heartbeat establishes the leader's authority and prevents new elections (Raft §5.2)."""
    core = follower(entries=log_of(1), term=1)
    before = picture(core)

    effects = core.receive(B, append(1, "b"), 0.5)

    assert effects == (
        Reply(appended(1, 0, 0)),
        RoleChanged(Role.FOLLOWER, Term(1), NodeId("b")),
    )
    assert changes(before, core) == {"leader_id": B, "leader_protected_until": 1.5, "election_deadline": 1.5}


def test_entries_are_stored_and_acknowledged_once_durable() -> None:
    """The answer waits for the write that holds the entries (Raft Figure 2: respond after storing)."""
    core = following(1, term=2)
    before = picture(core)

    effects = core.receive(B, append(2, "b", prev=(1, 1), entries=log_of(2, 2, first=2)), 0.5)

    assert effects == (
        PersistEntries(WriteId(1), log_of(2, 2, first=2)),
        Reply(appended(2, 1, 3), after=WriteId(1)),
    )
    assert changes(before, core) == {
        "log": (1, 2, 2),
        "election_deadline": 1.5,
        "last_write_id": 1,
        "log_writes": ((1, 3, 0.5),),
        "leader_protected_until": 1.5,
    }
    before = picture(core)
    assert core.storage_done(WriteId(1), 0.5) == ()
    assert changes(before, core) == {"durable_index": 3, "done_write_id": 1, "log_writes": ()}


def test_acknowledgement_waits_for_a_term_that_is_written_after_the_entries() -> None:
    """What covers the entries is not enough while the term shown is not durable."""
    core = following(term=1)
    core.receive(B, append(1, "b", entries=log_of(1)), 0.1)

    effects = core.receive(B, append(2, "b", entries=log_of(1)), 0.2)

    assert effects == (
        PersistHardState(WriteId(2), HardState(Term(2))),
        Reply(appended(2, 0, 1), after=WriteId(2)),
        RoleChanged(Role.FOLLOWER, Term(2), NodeId("b")),
    )


@pytest.mark.parametrize(
    ("terms", "prev", "conflict"),
    [
        ((1, 1, 2), (5, 2), (0, 4)),
        ((), (1, 1), (0, 1)),
        ((1, 1, 2, 2, 2), (5, 3), (2, 3)),
        ((1, 1, 2, 2, 2), (3, 3), (2, 3)),
        ((1, 1, 1), (3, 2), (1, 1)),
        ((1, 1, 3), (3, 2), (3, 3)),
    ],
)
def test_mismatch_is_refused_with_where_to_look_next(
    terms: tuple[int, ...], prev: tuple[int, int], conflict: tuple[int, int]
) -> None:
    """The answer has the conflicting term and the first index of it, or the log's end (Raft §5.3); nothing is cut."""
    core = following(*terms, term=4)
    before = picture(core)

    effects = core.receive(B, append(4, "b", prev=prev, entries=[command(prev[0] + 1, 4)], commit=9), 0.5)

    assert effects == (Reply(refused(4, prev[0], conflict=conflict)),)
    assert changes(before, core) == {"leader_protected_until": 1.5, "election_deadline": 1.5}


def test_refusal_waits_for_the_term_it_shows() -> None:
    """A term shown and then forgotten could be voted in twice."""
    core = follower(term=1)

    effects = core.receive(B, append(2, "b", prev=(1, 1)), 0.5)

    assert effects == (
        PersistHardState(WriteId(1), HardState(Term(2))),
        Reply(refused(2, 1, conflict=(0, 1)), after=WriteId(1)),
        RoleChanged(Role.FOLLOWER, Term(2), NodeId("b")),
    )


@pytest.mark.parametrize(
    ("entries", "kept", "written"),
    [
        (log_of(2, 3, 3, first=2), (1,), log_of(2, 3, 3, first=2)),
        (log_of(1, 3, 3, first=2), (1, 1), log_of(3, 3, first=3)),
        (log_of(1, 1, 2, first=2), (1, 1, 1), log_of(2, first=4)),
        (log_of(1, 1, 1, 3, first=2), (1, 1, 1, 1), log_of(3, first=5)),
    ],
)
def test_conflicting_suffix_is_cut_from_the_first_conflict_on(
    entries: tuple[Entry, ...], kept: tuple[int, ...], written: tuple[Entry, ...]
) -> None:
    """Only an entry that conflicts, and those after it, are deleted (Raft Figure 2, rule 3)."""
    core = following(1, 1, 1, 1, term=3)

    effects = core.receive(B, append(3, "b", prev=(1, 1), entries=entries), 0.5)

    match = 1 + len(entries)
    assert effects == (PersistEntries(WriteId(1), written), Reply(appended(3, 1, match), after=WriteId(1)))
    assert picture(core)["log"] == kept + tuple(entry.term for entry in written)
    assert core.state.durable_index == len(kept)


@pytest.mark.parametrize(
    ("prev", "count", "match"), [((0, 0), 0, 0), ((0, 0), 2, 2), ((1, 1), 1, 2), ((2, 1), 0, 2), ((3, 2), 0, 3)]
)
def test_repeated_request_cuts_nothing_and_acknowledges_what_it_proves(
    prev: tuple[int, int], count: int, match: int
) -> None:
    """Entries after those of a late request may have been acknowledged and must stay (Raft Figure 2, rule 3)."""
    core = following(1, 1, 2, 2, term=2)
    before = picture(core)

    effects = core.receive(B, append(2, "b", prev=prev, entries=log_of(1, 1, 2, 2)[prev[0] : prev[0] + count]), 0.0)

    assert effects == (Reply(appended(2, prev[0], match)),)
    assert changes(before, core) == {}


def test_acknowledgement_of_a_repeated_request_waits_for_the_write_under_way() -> None:
    """The entries are in the log already, but not on the disk; each answer waits for the write that covers its own."""
    core = following(term=1)
    core.receive(B, append(1, "b", entries=log_of(1, 1)), 0.0)
    core.receive(B, append(1, "b", prev=(2, 1), entries=log_of(1, first=3)), 0.0)
    before = picture(core)

    first = core.receive(B, append(1, "b", entries=log_of(1, 1)), 0.0)
    second = core.receive(B, append(1, "b", prev=(2, 1), entries=log_of(1, first=3)), 0.0)
    heartbeat = core.receive(B, append(1, "b", prev=(1, 1)), 0.0)

    assert first == (Reply(appended(1, 0, 2), after=WriteId(1)),)
    assert second == (Reply(appended(1, 2, 3), after=WriteId(2)),)
    assert heartbeat == (Reply(appended(1, 1, 1), after=WriteId(1)),)
    assert changes(before, core) == {}

    core.storage_done(WriteId(1), 0.0)
    assert core.receive(B, append(1, "b", entries=log_of(1, 1)), 0.0) == (Reply(appended(1, 0, 2)),)


def test_write_of_replaced_entries_says_nothing_of_those_that_took_their_place() -> None:
    """Write ids and truncation: when the first write ends, only the part that is still in the log is durable."""
    core = following(term=1)
    core.receive(B, append(1, "b", entries=log_of(1, 1, 1)), 0.0)
    core.receive(NodeId("c"), append(2, "c", prev=(1, 1), entries=log_of(2, 2, first=2)), 0.1)
    assert picture(core)["log_writes"] == ((1, 1, 0.0), (3, 3, 0.1))

    core.storage_done(WriteId(1), 0.2)

    assert core.state.durable_index == 1
    repeated = core.receive(NodeId("c"), append(2, "c", prev=(1, 1), entries=log_of(2, 2, first=2)), 0.2)
    assert repeated == (Reply(appended(2, 1, 3), after=WriteId(3)),)

    core.storage_done(WriteId(3), 0.3)
    assert (core.state.durable_index, core.state.log_gate(core.state.log.last_index)) == (3, None)


def test_truncation_lowers_what_was_durable() -> None:
    """Entries on the disk that are replaced in memory do not count, though the disk still has them."""
    core = following(1, 1, 1, term=1)

    core.receive(NodeId("c"), append(2, "c", prev=(1, 1), entries=log_of(2, first=2), commit=2), 0.1)

    assert (core.state.durable_index, core.state.commit_index, core.state.last_applied) == (1, 2, 1)


@pytest.mark.parametrize(
    ("prev", "entries", "commit", "committed"),
    [
        ((0, 0), (), 4, 0),
        ((2, 1), (), 4, 2),
        ((2, 1), (), 1, 1),
        ((2, 1), log_of(2, first=3), 9, 3),
        ((4, 2), (), 4, 4),
    ],
)
def test_commit_index_follows_the_leader_as_far_as_the_logs_agree(
    prev: tuple[int, int], entries: tuple[Entry, ...], commit: int, committed: int
) -> None:
    """It becomes the lower of leaderCommit and the last index the request proved (Raft Figure 2, rule 5)."""
    core = following(1, 1, 2, 2, term=2)
    before = picture(core)

    effects = core.receive(B, append(2, "b", prev=prev, entries=entries, commit=commit), 0.0)

    applied = (Apply(log_of(1, 1, 2, 2)[:committed]),) if committed else ()
    assert effects == (*applied, Reply(appended(2, prev[0], prev[0] + len(entries))))
    assert changes(before, core) == ({"commit_index": committed, "last_applied": committed} if committed else {})


def test_lower_leader_commit_does_not_take_back() -> None:
    """A late request carries an old commit index."""
    core = following(1, 1, term=1)
    core.receive(B, append(1, "b", prev=(2, 1), commit=2), 0.0)
    before = picture(core)

    assert core.receive(B, append(1, "b", prev=(2, 1), commit=1), 0.0) == (Reply(appended(1, 2, 2)),)
    assert changes(before, core) == {}


def test_committed_entries_are_applied_once_durable() -> None:
    """A follower hands out what is committed when its own disk has it, each entry once."""
    core = following(1, term=1)

    effects = core.receive(B, append(1, "b", prev=(1, 1), entries=log_of(1, 1, first=2), commit=2), 0.0)
    assert effects == (
        PersistEntries(WriteId(1), log_of(1, 1, first=2)),
        Apply(log_of(1)),
        Reply(appended(1, 1, 3), after=WriteId(1)),
    )

    assert core.storage_done(WriteId(1), 0.0) == (Apply(log_of(1, first=2)),)
    assert core.receive(B, append(1, "b", prev=(3, 1), commit=3), 0.0) == (
        Apply(log_of(1, first=3)),
        Reply(appended(1, 3, 3)),
    )


def test_request_that_would_replace_a_committed_entry_is_refused() -> None:
    """What is committed never changes (Raft §5.4.3): whoever asks for it is no Raft leader."""
    core = following(1, 1, term=1)
    core.receive(B, append(1, "b", prev=(2, 1), commit=2), 0.0)
    before = picture(core)

    effects = core.receive(B, append(1, "b", entries=log_of(1, 1), commit=2), 0.0)
    assert effects == (Reply(appended(1, 0, 2)),)

    core.receive(NodeId("c"), append(3, "c"), 0.0)
    before = picture(core)
    effects = core.receive(NodeId("c"), append(3, "c", prev=(1, 1), entries=log_of(3, 3, first=2)), 0.0)

    assert effects == (Reply(refused(3, 1), after=WriteId(1)),)
    assert changes(before, core) == {}


# --- A log that starts after a snapshot ---


def compacted() -> RaftCore:
    """A node that follows ``b`` in term 3, with a snapshot up to 4 (term 2) and entries 5 and 6 of term 3."""
    core = follower(stored=snapshot(4, 2), entries=log_of(3, 3, first=5), term=3)
    core.receive(B, append(3, "b"), 0.0)
    return core


@pytest.mark.parametrize(
    ("prev", "entries", "match"),
    [
        ((0, 0), (), 0),
        ((2, 1), log_of(2, first=3), 3),
        ((2, 1), log_of(2, 2, 3, first=3), 5),
        ((3, 2), log_of(2, 3, 3, first=4), 6),
        ((4, 2), log_of(3, first=5), 5),
    ],
)
def test_request_about_compacted_entries_agrees(prev: tuple[int, int], entries: tuple[Entry, ...], match: int) -> None:
    """Up to the snapshot all is committed, and every leader has that (Raft §5.4.3): it agrees, and is not rewritten."""
    core = compacted()
    before = picture(core)

    assert core.receive(B, append(3, "b", prev=prev, entries=entries), 0.0) == (Reply(appended(3, prev[0], match)),)
    assert changes(before, core) == {}


def test_entries_after_compacted_ones_are_stored() -> None:
    """A request may reach from below the base beyond the log's end; what is new is written."""
    core = compacted()

    effects = core.receive(B, append(3, "b", prev=(3, 2), entries=log_of(2, 3, 3, 3, first=4)), 0.0)

    assert effects == (PersistEntries(WriteId(1), log_of(3, first=7)), Reply(appended(3, 3, 7), after=WriteId(1)))


@pytest.mark.parametrize(("prev", "conflict"), [((4, 3), (2, 4)), ((6, 2), (3, 5)), ((7, 3), (0, 7))])
def test_mismatch_after_a_snapshot_is_searched_in_what_is_held(
    prev: tuple[int, int], conflict: tuple[int, int]
) -> None:
    """The first index of the conflicting term is the first one held; the base itself can only be named."""
    core = compacted()
    before = picture(core)

    assert core.receive(B, append(3, "b", prev=prev), 0.0) == (Reply(refused(3, prev[0], conflict=conflict)),)
    assert changes(before, core) == {}

"""Replication at the leader (Raft §5.3): requests, windows, answers, heartbeats, what is lost."""

import attrs
import pytest

from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    Apply,
    PersistEntries,
    ProposalsAppended,
    ProposalsRefused,
    Send,
    SendSnapshot,
)
from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import InstallSnapshotResponse
from clustercore.raft.types import LogIndex, NodeId, Role, SnapshotMetadata, Term, WriteId
from tests.unit.raft.building import (
    CONFIG,
    A,
    B,
    C,
    append,
    appended,
    candidate,
    changes,
    command,
    follower,
    installed,
    leader,
    log_of,
    no_op,
    picture,
    refused,
    snapshot,
)


def replicating(voters: str = "ab") -> RaftCore:
    """A leader of term 1 with a committed, applied no-op, whose followers have it and get entries as they come."""
    core = leader(voters)
    for peer in core.state.configuration.peers_of(A):
        core.receive(peer, appended(1, 0, 1), 1.0)
    return core


# --- Proposals ---


def test_proposals_are_appended_written_and_sent_at_once() -> None:
    """The leader sends before its own write is durable: followers write in parallel (thesis §10.2.1)."""
    core = replicating("abc")
    before = picture(core)

    effects = core.propose([b"x", b"y"], 1.5)

    entries = (attrs.evolve(command(2, 1), command=b"x"), attrs.evolve(command(3, 1), command=b"y"))
    request = append(1, "a", prev=(1, 1), entries=entries, commit=1, round_number=1)
    assert effects == (
        ProposalsAppended(Term(1), LogIndex(2)),
        PersistEntries(WriteId(3), entries),
        Send(B, request),
        Send(C, request),
    )
    assert changes(before, core) == {
        "log": (1, 1, 1),
        "last_write_id": 3,
        "log_writes": ((3, 3, 1.5),),
        "progress of b": ("replicate", "match 1 next 4", "inflight 3", 1.5),
        "progress of c": ("replicate", "match 1 next 4", "inflight 3", 1.5),
    }


def test_proposed_entries_are_encoded_as_they_are_read() -> None:
    """The bytes that go to disk and peers are those of the entries."""
    core = replicating()

    effects = core.propose([b"x"], 1.5)

    written = effects[1]
    assert isinstance(written, PersistEntries)
    assert written.entries[0].encoded == attrs.evolve(command(2, 1)).encoded.replace(b"\x032:1", b"\x01x")


def test_proposals_may_be_of_other_kinds() -> None:
    """To the core they are commands: one kind for each."""
    core = replicating()

    core.propose([b"x", b"y", b"z"], 1.5, kinds=[EntryKind.COMMAND, EntryKind.SESSION, EntryKind.VERSION])

    entries = core.state.log.slice(LogIndex(2), LogIndex(4))
    assert [(entry.kind, entry.command) for entry in entries] == [
        (EntryKind.COMMAND, b"x"),
        (EntryKind.SESSION, b"y"),
        (EntryKind.VERSION, b"z"),
    ]


@pytest.mark.parametrize(("make", "leader_id"), [(follower, None), (candidate, None)])
def test_proposals_are_refused_by_whoever_does_not_lead(make: type, leader_id: NodeId | None) -> None:
    """None of them is appended."""
    core: RaftCore = make()
    before = picture(core)

    assert core.propose([b"x"], 1.0) == (ProposalsRefused(leader_id),)
    assert picture(core) == before


def test_refusal_names_the_leader_if_it_is_known() -> None:
    """So the proposer can turn to it."""
    core = follower(term=1)
    core.receive(B, append(1, "b"), 0.0)

    assert core.propose([b"x"], 0.5) == (ProposalsRefused(B),)


def test_proposals_gather_while_the_window_is_full_and_go_together() -> None:
    """With two requests unanswered nothing more is sent; the next answer takes all that gathered."""
    core = replicating()
    assert isinstance(core.propose([b"x"], 1.0)[-1], Send)
    assert isinstance(core.propose([b"y"], 1.0)[-1], Send)
    for data in (b"z", b"w"):
        assert isinstance(core.propose([data], 1.0)[-1], PersistEntries)
    before = picture(core)

    effects = core.receive(B, appended(1, 1, 2), 1.25)

    entries = core.state.log.slice(LogIndex(4), LogIndex(5))
    assert effects == (Send(B, append(1, "a", prev=(3, 1), entries=entries, commit=1, round_number=1)),)
    assert changes(before, core) == {
        "progress of b": ("replicate", "match 2 next 6", "inflight 3 5", 1.25),
        "contact with b": ("round 0", 1.25),
    }


def test_large_entries_fill_the_window_before_its_number_of_requests_does() -> None:
    """One request of any size goes when less than the window is on its way; what follows waits for an answer."""
    core = leader("ab", config=attrs.evolve(CONFIG, max_inflight_bytes=100, max_inflight_appends=9))
    core.receive(B, appended(1, 0, 1), 1.0)
    assert isinstance(core.propose([b"x" * 60], 1.0)[-1], Send)
    assert isinstance(core.propose([b"y" * 600], 1.0)[-1], Send)
    assert isinstance(core.propose([b"z"], 1.0)[-1], PersistEntries)

    effects = core.receive(B, appended(1, 1, 2), 1.25)
    assert [effect for effect in effects if isinstance(effect, Send)] == []
    effects = core.receive(B, appended(1, 2, 3), 1.25)

    entries = core.state.log.slice(LogIndex(4), LogIndex(4))
    assert effects[-1] == Send(B, append(1, "a", prev=(3, 1), entries=entries, commit=1, round_number=1))


def test_no_more_is_appended_than_may_be_uncommitted() -> None:
    """A leader that cannot commit keeps its log bounded; a commit makes room again."""
    core = leader("ab", config=attrs.evolve(CONFIG, max_uncommitted_bytes=200))
    core.receive(B, appended(1, 0, 1), 1.0)
    assert core.proposal_room_bytes == 200
    assert isinstance(core.propose([b"x" * 100], 1.0)[0], ProposalsAppended)
    before = picture(core)
    room_bytes = core.proposal_room_bytes

    assert room_bytes < 100
    assert core.propose([b"y" * (room_bytes + 1)], 1.0) == (ProposalsRefused(A),)
    assert picture(core) == before
    assert isinstance(core.propose([b"y" * room_bytes], 1.0)[0], ProposalsAppended)
    assert core.proposal_room_bytes == 0
    assert core.propose([b""], 1.0) == (ProposalsRefused(A),)

    core.storage_done(WriteId(4), 1.0)
    core.receive(B, appended(1, 1, 3), 1.25)
    assert core.proposal_room_bytes == 200


def test_anything_may_be_appended_when_all_is_committed() -> None:
    """Or a command larger than the bound would wait for ever. The no-op of an election counts, and is never refused."""
    core = leader("ab", config=attrs.evolve(CONFIG, max_uncommitted_bytes=1))
    assert core.state.log.last_index == 1
    assert core.propose([b"x" * 100], 1.0) == (ProposalsRefused(A),)
    core.receive(B, appended(1, 0, 1), 1.0)

    assert isinstance(core.propose([b"x" * 100, b"y" * 100], 1.0)[0], ProposalsAppended)


def test_one_request_holds_as_much_as_the_configuration_allows() -> None:
    """A long backlog goes in several requests, as many as the window takes."""
    core = leader("ab", entries=log_of(1, 1, 1, 1, 1), term=2, config=attrs.evolve(CONFIG, max_append_entries=2))
    core.receive(B, refused(2, 5, conflict=(0, 1)), 1.0)

    effects = core.receive(B, appended(2, 0, 0), 1.0)

    assert effects == (
        Send(B, append(2, "a", prev=(0, 0), entries=log_of(1, 1), round_number=1)),
        Send(B, append(2, "a", prev=(2, 1), entries=log_of(1, 1, first=3), round_number=1)),
    )


# --- Finding where the logs agree ---


def test_probe_goes_back_by_a_term_at_a_time() -> None:
    """The leader passes over all entries of a term it does not have (Raft §5.3)."""
    core = leader("ab", entries=log_of(1, 1, 4, 4), term=6)
    before = picture(core)

    effects = core.receive(B, refused(6, 4, conflict=(2, 3)), 1.25)

    entries = (*log_of(4, 4, first=3), no_op(5, 6))
    assert effects == (Send(B, append(6, "a", prev=(2, 1), entries=entries, round_number=1)),)
    assert changes(before, core) == {
        "progress of b": ("probe", "paused", "match 0 next 3", "inflight", 0.0),
        "contact with b": ("round 0", 1.25),
    }


@pytest.mark.parametrize(
    ("conflict", "next_index"),
    [((1, 1), 3), ((0, 4), 4), ((0, 1), 1), ((2, 2), 2), ((4, 3), 4), ((0, 9), 4)],
    ids=["last of the term", "short log", "empty log", "foreign term", "not past prev", "never up"],
)
def test_next_index_after_a_mismatch(conflict: tuple[int, int], next_index: int) -> None:
    """After the last own entry of the conflicting term, or else at the follower's first of it; one back at least."""
    core = leader("ab", entries=log_of(1, 1, 3, 4), term=6)

    core.receive(B, refused(6, 4, conflict=conflict), 1.25)

    assert core.state.progress[B].next_index == next_index


def test_repeated_mismatch_changes_nothing() -> None:
    """It answers a probe that was followed by another."""
    core = leader("ab", entries=log_of(1, 1, 4, 4), term=6)
    core.receive(B, refused(6, 4, conflict=(2, 3)), 1.25)
    before = picture(core)

    assert core.receive(B, refused(6, 4, conflict=(2, 3)), 1.25) == ()
    assert picture(core) == before


def test_mismatch_below_what_matched_changes_nothing() -> None:
    """What matched once matches for the whole term: a rejection of it was overtaken. Only, the follower lives."""
    core = replicating()
    before = picture(core)

    assert core.receive(B, refused(1, 1, conflict=(0, 1)), 1.25) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 1.25)}


def test_acknowledged_probe_opens_the_window() -> None:
    """Once the logs are known to agree, entries are sent without waiting."""
    core = leader("ab", entries=log_of(1), term=2)
    core.propose([b"x"], 1.0)
    before = picture(core)

    effects = core.receive(B, appended(2, 1, 2), 1.25)

    # The no-op of this leader's own term is on a majority now, and so committed.
    assert effects == (
        Apply((*log_of(1), no_op(2, 2))),
        Send(
            B,
            append(2, "a", prev=(2, 2), entries=[attrs.evolve(command(3, 2), command=b"x")], commit=2, round_number=1),
        ),
    )
    assert changes(before, core) == {
        "commit_index": 2,
        "last_applied": 2,
        "progress of b": ("replicate", "match 2 next 4", "inflight 3", 1.25),
        "contact with b": ("round 0", 1.25),
    }


@pytest.mark.parametrize("match", [0, 1])
def test_repeated_acknowledgement_changes_nothing(match: int) -> None:
    """match_index never falls, and what is on its way stays on its way. Only, the follower lives."""
    core = replicating()
    core.propose([b"x"], 1.0)
    before = picture(core)

    assert core.receive(B, appended(1, 0, match), 1.25) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 1.25)}


def test_acknowledgements_may_come_in_any_order() -> None:
    """The later one proves all before it; the earlier one, when it comes, says nothing new."""
    core = replicating()
    core.propose([b"x"], 1.0)
    core.propose([b"y"], 1.0)

    core.receive(B, appended(1, 2, 3), 1.25)
    assert picture(core)["progress of b"] == ("replicate", "match 3 next 4", "inflight", 1.25)

    before = picture(core)
    assert core.receive(B, appended(1, 1, 2), 1.5) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 1.5)}


# --- Loss ---


def test_lost_request_is_found_by_the_rejection_of_the_next() -> None:
    """The one after it does not fit: everything from what matches on is sent again, and late answers do no harm."""
    core = replicating()
    core.propose([b"x"], 1.0)
    core.propose([b"y"], 1.0)

    effects = core.receive(B, refused(1, 2, conflict=(0, 2)), 1.25)

    resent = core.state.log.slice(LogIndex(2), LogIndex(3))
    assert effects == (Send(B, append(1, "a", prev=(1, 1), entries=resent, commit=1, round_number=1)),)
    assert picture(core)["progress of b"] == ("probe", "paused", "match 1 next 2", "inflight", 1.0)
    before = picture(core)
    assert core.receive(B, refused(1, 2, conflict=(0, 2)), 1.25) == ()
    assert picture(core) == before


def test_heartbeats_go_out_at_their_deadline() -> None:
    """Each stands on what the follower is known to have, so it fits whatever else is lost or on its way (Raft §5.2)."""
    core = replicating("abc")
    core.propose([b"x"], 1.0)
    core.receive(B, appended(1, 1, 2), 1.0)
    core.storage_done(WriteId(3), 1.0)
    before = picture(core)

    assert core.deadline == 1.25
    assert core.time_passed(1.2) == ()
    effects = core.time_passed(1.3)

    assert effects == (
        Send(B, append(1, "a", prev=(2, 1), commit=2, round_number=2)),
        Send(C, append(1, "a", prev=(1, 1), commit=2, round_number=2)),
    )
    assert changes(before, core) == {
        "last_round": 2,
        "rounds_sent": ((1, 1.0), (2, 1.3)),
        "heartbeat_deadline": 1.55,
    }


def test_heartbeat_to_a_follower_behind_the_log_stands_before_the_log() -> None:
    """The term of what it has is not known any more; index 0 always fits."""
    core = leader(stored=snapshot(4, 1), term=2)
    core.state.progress[B].match_index = LogIndex(3)

    effects = core.time_passed(1.25)

    assert effects[0] == Send(B, append(2, "a", commit=4, round_number=2))


def test_entries_unanswered_too_long_are_taken_for_lost() -> None:
    """After an election timeout without progress the leader probes again, at the follower's next sign of life.

    Another follower's answers keep the leader in office meanwhile.
    """
    core = replicating("abc")
    core.propose([b"x"], 1.0)
    core.storage_done(WriteId(3), 1.0)
    core.receive(C, appended(1, 1, 2), 1.5)
    core.time_passed(1.75)
    assert picture(core)["progress of b"] == ("replicate", "match 1 next 3", "inflight 2", 1.0)

    core.time_passed(2.0)
    assert picture(core)["progress of b"] == ("probe", "paused", "match 1 next 2", "inflight", 1.0)
    proposed = core.propose([b"y"], 2.0)
    assert proposed[1] == PersistEntries(WriteId(4), (attrs.evolve(command(3, 1), command=b"y"),))
    assert [effect.to for effect in proposed if isinstance(effect, Send)] == [C]

    effects = core.receive(B, appended(1, 1, 1), 2.25)

    entries = core.state.log.slice(LogIndex(2), LogIndex(3))
    assert effects == (Send(B, append(1, "a", prev=(1, 1), entries=entries, commit=2, round_number=3)),)


def test_lost_probe_is_repeated_at_the_next_sign_of_life() -> None:
    """The answer to a heartbeat says that the follower lives; if the probe had arrived, it would be answered too."""
    core = leader("ab", entries=log_of(1), term=2)

    effects = core.receive(B, appended(2, 0, 0), 1.25)

    assert effects == (Send(B, append(2, "a", prev=(1, 1), entries=[no_op(2, 2)], round_number=1)),)
    assert picture(core)["progress of b"] == ("probe", "paused", "match 0 next 2", "inflight", 0.0)


def test_broken_connection_takes_what_was_sent_for_lost() -> None:
    """peer_unreachable stops sending; the peer's next answer starts replication again."""
    core = replicating()
    core.propose([b"x"], 1.0)
    before = picture(core)

    assert core.peer_unreachable(B) == ()
    assert changes(before, core) == {"progress of b": ("probe", "paused", "match 1 next 2", "inflight", 1.0)}
    assert not any(isinstance(effect, Send) for effect in core.propose([b"y"], 1.0))

    effects = core.receive(B, appended(1, 1, 1), 1.25)

    entries = core.state.log.slice(LogIndex(2), LogIndex(3))
    assert effects == (Send(B, append(1, "a", prev=(1, 1), entries=entries, commit=1, round_number=1)),)


@pytest.mark.parametrize("make", [follower, candidate, leader])
def test_broken_connection_to_a_stranger_changes_nothing(make: type) -> None:
    """Only a leader's peers are replicated to."""
    core: RaftCore = make()
    before = picture(core)

    assert core.peer_unreachable(NodeId("x")) == ()
    assert picture(core) == before


# --- Snapshots for followers far behind ---

OLD = snapshot(4, 1)


def chunk_for(peer: NodeId, offset: int, metadata: SnapshotMetadata = OLD, *, term: int = 2) -> SendSnapshot:
    """The effect that asks for a chunk to be sent."""
    return SendSnapshot(peer, Term(term), metadata.snapshot_id, offset)


def sending_snapshot(voters: str = "ab", config: RaftConfig = CONFIG) -> RaftCore:
    """A leader of term 2, compacted up to 4, that has just asked for a snapshot to be sent to ``b``."""
    core = leader(voters, stored=OLD, term=2, config=config)
    assert core.receive(B, refused(2, 4, conflict=(0, 2)), 1.25) == (chunk_for(B, 0),)
    return core


def test_follower_that_needs_compacted_entries_gets_the_snapshot() -> None:
    """The leader has discarded what it would send (Raft §7); no entries are sent meanwhile."""
    core = sending_snapshot()

    assert picture(core)["progress of b"] == ("snapshot", "match 0 next 2", "inflight", 1.25, "sending", "s4:1", 0)
    assert core.sending == {B: OLD.snapshot_id}
    assert not any(isinstance(effect, Send) for effect in core.propose([b"x"], 1.25))
    before = picture(core)
    assert core.receive(B, appended(2, 0, 0), 1.5) == ()
    assert core.receive(B, refused(2, 4, conflict=(0, 2)), 1.5) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 1.5)}


def test_answer_to_a_chunk_says_where_the_next_begins() -> None:
    """One chunk at a time, from where the follower is, be it further than what was sent (Raft Figure 13)."""
    core = sending_snapshot()
    before = picture(core)

    assert core.receive(B, installed(2, 0, OLD, next_offset=700), 1.5) == (chunk_for(B, 700),)
    assert changes(before, core) == {
        "progress of b": ("snapshot", "match 0 next 2", "inflight", 1.5, "sending", "s4:1", 700),
        "contact with b": ("round 0", 1.5),
    }
    # A follower that started again has forgotten all of it.
    assert core.receive(B, installed(2, 0, OLD), 1.75) == (chunk_for(B, 0),)


@pytest.mark.parametrize(
    "answer",
    [installed(2, 0, OLD, next_offset=700), installed(2, 0, snapshot(3, 1), next_offset=900)],
    ids=["the chunk that is out", "another snapshot"],
)
def test_late_answer_to_a_chunk_sends_nothing(answer: InstallSnapshotResponse) -> None:
    """What it asks for is on its way, or is part of a transfer that is over."""
    core = sending_snapshot()
    core.receive(B, installed(2, 0, OLD, next_offset=700), 1.5)
    before = picture(core)

    assert core.receive(B, answer, 1.75) == ()
    assert changes(before, core) == {"contact with b": ("round 0", 1.75)}


def test_installed_snapshot_is_followed_by_entries() -> None:
    """The log goes on after what the snapshot covers."""
    core = sending_snapshot()
    core.propose([b"x"], 1.25)
    before = picture(core)

    effects = core.receive(B, installed(2, 4, OLD), 1.5)

    entries = core.state.log.slice(LogIndex(5), LogIndex(6))
    assert effects == (Send(B, append(2, "a", prev=(4, 1), entries=entries, commit=4, round_number=1)),)
    assert changes(before, core) == {
        "progress of b": ("replicate", "match 4 next 7", "inflight 6", 1.5),
        "contact with b": ("round 0", 1.5),
    }
    assert core.sending == {}


def test_installed_snapshot_can_commit() -> None:
    """A snapshot with entries of the leader's own term is an acknowledgement of them, as any other."""
    core = sending_snapshot()

    effects = core.receive(B, installed(2, 5, OLD), 1.5)

    assert effects == (Apply((no_op(5, 2),)),)
    assert core.state.commit_index == 5


def test_follower_that_caught_up_meanwhile_is_sent_no_more_of_the_snapshot() -> None:
    """Late entries, of an earlier leader perhaps, have brought it as far."""
    core = sending_snapshot()

    effects = core.receive(B, appended(2, 4, 4), 1.5)

    assert [type(effect) for effect in effects] == [Send]
    assert core.sending == {}


def test_follower_that_caught_up_in_part_gets_the_newest_snapshot() -> None:
    """What it still lacks is not in the log."""
    core = sending_snapshot()

    assert core.receive(B, appended(2, 0, 3), 1.5) == (chunk_for(B, 0),)
    assert picture(core)["progress of b"] == ("snapshot", "match 3 next 4", "inflight", 1.5, "sending", "s4:1", 0)


def test_lost_chunk_is_sent_again_after_its_timeout() -> None:
    """snapshot_timeout_s after it was asked for, as soon as the follower shows that it lives.

    Its answers to heartbeats keep the leader in office meanwhile.
    """
    core = sending_snapshot()
    core.receive(B, installed(2, 0, OLD, next_offset=700), 1.5)
    assert core.receive(B, appended(2, 0, 0), 5.25) == ()
    before = picture(core)

    assert core.receive(B, appended(2, 0, 0), 5.5) == (chunk_for(B, 700),)
    assert changes(before, core) == {
        "progress of b": ("snapshot", "match 0 next 2", "inflight", 5.5, "sending", "s4:1", 700),
        "contact with b": ("round 0", 5.5),
    }


def test_chunk_over_a_broken_connection_is_sent_again_after_an_election_timeout() -> None:
    """The transfer goes on where it was; not faster, as the chunk may be what breaks the connection."""
    core = sending_snapshot()
    core.receive(B, installed(2, 0, OLD, next_offset=700), 1.5)

    assert core.peer_unreachable(B) == ()
    assert core.receive(B, appended(2, 0, 0), 2.25) == ()
    assert core.receive(B, appended(2, 0, 0), 2.5) == (chunk_for(B, 700),)
    assert core.receive(B, appended(2, 0, 0), 3.75) == ()


def test_transfer_to_a_silent_follower_ends() -> None:
    """After snapshot_timeout_s nothing is kept for it any more; once it is back, it is asked how far it had come.

    The others keep the leader in office.
    """
    core = sending_snapshot("abc")
    core.receive(B, installed(2, 0, OLD, next_offset=700), 1.5)
    for now in (2.0, 3.0, 4.0, 5.0, 5.25):
        core.receive(C, appended(2, 4, 4), now)
        core.time_passed(now)
    assert core.sending == {B: OLD.snapshot_id}

    core.time_passed(5.5)
    assert core.sending == {}
    assert picture(core)["progress of b"] == ("probe", "paused", "match 0 next 1", "inflight", 1.5)

    assert core.receive(B, appended(2, 0, 0), 9.0) == (chunk_for(B, 0),)


def test_transfer_begins_again_if_its_snapshot_is_gone() -> None:
    """A newer one was stored before the first chunk was read; the follower's next sign of life asks for that."""
    core = sending_snapshot()

    assert core.snapshot_gone(B, snapshot(3, 1).snapshot_id) == ()
    assert core.snapshot_gone(NodeId("x"), OLD.snapshot_id) == ()
    assert core.sending == {B: OLD.snapshot_id}
    assert core.snapshot_gone(B, OLD.snapshot_id) == ()

    assert core.sending == {}
    core.snapshot_gone(B, OLD.snapshot_id)
    assert picture(core)["progress of b"] == ("probe", "paused", "match 0 next 1", "inflight", 1.25)
    assert core.receive(B, appended(2, 0, 0), 1.5) == (chunk_for(B, 0),)


def test_entries_after_a_snapshot_on_its_way_are_kept() -> None:
    """Or the follower would need the next snapshot as soon as it has this one, and so on for ever."""
    core = sending_snapshot("abc")
    core.propose([b"x"], 1.25)
    core.storage_done(WriteId(3), 1.25)
    core.receive(C, appended(2, 4, 6), 1.25)
    newer = snapshot(6, 2)

    core.snapshot_taken(newer, LogIndex(7))
    assert core.state.log.first_index == 5
    # The transfer goes on with the snapshot it began with.
    assert core.receive(B, installed(2, 0, OLD, next_offset=9), 1.5) == (chunk_for(B, 9),)

    effects = core.receive(B, installed(2, 4, OLD), 1.75)
    assert [type(effect) for effect in effects] == [Send]
    core.snapshot_taken(newer, LogIndex(7))
    assert core.state.log.first_index == 7


def test_transfer_that_is_too_slow_begins_anew_with_the_newest_snapshot() -> None:
    """The log is in memory: what it keeps for a follower is bounded, and what the follower would lack then is known."""
    core = sending_snapshot("abc", config=attrs.evolve(CONFIG, snapshot_hold_bytes=60))
    for number, at in enumerate((1.25, 1.5, 1.75)):
        core.propose([b"x"], at)
        core.storage_done(WriteId(3 + number), at)
        core.receive(C, appended(2, 5 + number, 6 + number), at)
    newer = snapshot(8, 2)

    # Four entries after the snapshot that is on its way, of 23 bytes each but for the no-op.
    core.snapshot_taken(newer, LogIndex(9))
    assert core.state.log.first_index == 7
    assert core.state.progress[B].sending is None

    # The next sign of life begins the newest, be it the answer to a chunk of the old one.
    assert core.receive(B, installed(2, 0, OLD, next_offset=9), 2.0) == (chunk_for(B, 0, newer),)


def test_follower_overtaken_by_compaction_gets_the_snapshot() -> None:
    """Entries it still waits for are dropped while others are on their way to it."""
    core = replicating("abc")
    core.propose([b"x"], 1.0)
    core.storage_done(WriteId(3), 1.0)
    core.receive(C, appended(1, 1, 2), 1.0)
    core.peer_unreachable(B)
    core.snapshot_taken(snapshot(2, 1), LogIndex(3))

    assert core.receive(B, appended(1, 1, 1), 1.25) == (chunk_for(B, 0, snapshot(2, 1), term=1),)


# --- Stepping down ---


def test_leader_of_an_earlier_term_sends_nothing_more() -> None:
    """After a higher term there are no heartbeats, and no answer is taken."""
    core = replicating()
    core.receive(B, refused(5, 1), 1.25)

    assert core.state.role is Role.FOLLOWER
    assert core.deadline == core.state.election_deadline == 2.25
    assert core.receive(B, appended(1, 1, 1), 1.25) == ()


def test_mismatch_beyond_the_leaders_log_is_retried_at_its_end() -> None:
    """Only a foreign message can claim it; next_index never passes the leader's last index + 1."""
    core = leader()
    core.receive(B, appended(1, 0, 1), 1.0)

    core.receive(B, refused(1, 50, (0, 40)), 1.0)

    assert core.state.progress[B].next_index == core.state.log.last_index + 1

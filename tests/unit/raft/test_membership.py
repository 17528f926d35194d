"""Changing the members at the leader (thesis chapter 4)."""

from __future__ import annotations

import attrs
import pytest

from clustercore.raft.configuration import decode_configuration, encode_configuration
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import (
    ConfigurationAppended,
    ConfigurationChanged,
    ConfigurationRefused,
    Effects,
    Reply,
    Send,
    TransferGivenUp,
)
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.errors import InvariantError
from clustercore.raft.messages import AppendEntriesRequest, TimeoutNowRequest
from clustercore.raft.types import (
    ChangeRefusal,
    Configuration,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    Server,
    Term,
    TransferFailure,
    WriteId,
)
from tests.unit.raft.building import (
    A,
    B,
    C,
    D,
    append,
    appended,
    follower,
    leader,
    no_op,
    picture,
    pre_vote_request,
    pre_vote_response,
    refused,
    vote_request,
    vote_response,
)
from tests.unit.raft.members import answer, committed, committed_leader, joint, members, members_entry


def of(effects: Effects, kind: type) -> list[object]:
    """Return the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def last_members(core: RaftCore) -> Configuration:
    """Return the configuration in the last entry of the log."""
    state = core.state
    (entry,) = state.log.slice(state.log.last_index, state.log.last_index)
    return decode_configuration(entry.command)


def role_of(core: RaftCore) -> Role:
    """Return the role that a node has now."""
    return core.state.role


# --- What is refused -------------------------------------------------------------------------------------------------


def refusal(core: RaftCore, target: Configuration, now: float = 1.0) -> ConfigurationRefused:
    """Ask for a change that is refused, and check that nothing changes by it."""
    before = picture(core)
    effects = core.change_configuration(target, now)
    assert picture(core) == before
    (refused,) = effects
    assert isinstance(refused, ConfigurationRefused)
    return refused


def test_change_is_for_the_leader() -> None:
    """A follower names the leader it knows, or says that it knows none."""
    stranger, core = follower("abc", term=1), follower("abc", term=1)
    core.receive(B, append(1, "b"), 0.5)

    assert refusal(stranger, members("ab")).reason is ChangeRefusal.NOT_LEADER
    assert "no leader is known" in refusal(stranger, members("ab")).detail
    assert "ask 'b'" in refusal(core, members("ab")).detail


def test_change_waits_for_an_entry_of_the_leaders_own_term() -> None:
    """Before that, another leader could begin one that this node does not know (raft-dev, July 2015)."""
    assert refusal(leader("abc"), members("ab")).reason is ChangeRefusal.TERM_NOT_COMMITTED


def test_change_waits_for_a_transfer() -> None:
    """Who hands over begins nothing."""
    core = committed_leader(members("abc"))
    core.transfer_leadership(B, 1.0)

    assert refusal(core, members("ab")).reason is ChangeRefusal.TRANSFERRING


def test_change_waits_for_the_one_before() -> None:
    """One change at a time, a joint one until it is left (thesis §4.3, last paragraphs)."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("ab"), 1.0)

    refused = refusal(core, members("abc"))

    assert refused.reason is ChangeRefusal.CHANGE_PENDING
    assert "index 2" in refused.detail


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (joint(members("ab"), "abc"), "joint"),
        (Configuration((Server(A), Server(B, False, is_leaving=True)), cluster_id="test"), "joint"),
        (Configuration.of("ab", cluster_id="other"), "of cluster 'other'"),
        (members("", learners="ab"), "no voter"),
        (Configuration((Server(NodeId("")), Server(A))), "no node id"),
    ],
)
def test_impossible_target_is_refused_with_what_is_wrong(target: Configuration, text: str) -> None:
    """What can never be is told apart from what is only too early."""
    refused = refusal(committed_leader(members("abc")), target)

    assert refused.reason is ChangeRefusal.INVALID
    assert text in refused.detail


def test_present_members_are_no_change() -> None:
    """Asking for what is so already appends nothing."""
    assert refusal(committed_leader(members("abc")), members("abc")).reason is ChangeRefusal.UNCHANGED


def test_new_voter_must_have_been_a_learner() -> None:
    """An empty log among the voters would cost availability (thesis §4.2.1)."""
    refused = refusal(committed_leader(members("abc")), members("abcd"))

    assert refused.reason is ChangeRefusal.NOT_CAUGHT_UP
    assert "'d' is no member yet; add it as a learner first" in refused.detail


def test_new_voter_must_have_caught_up() -> None:
    """A learner that has not answered lacks everything."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("abc", learners="d"), 1.0)
    committed(core, "bc", 1.0)

    refused = refusal(core, members("abcd"))

    assert refused.reason is ChangeRefusal.NOT_CAUGHT_UP
    assert "learner 'd' lacks 2 entries" in refused.detail


def test_change_that_could_not_commit_is_not_begun() -> None:
    """The voters that would stay must have answered lately: configurations count at once, committed or not."""
    core = committed_leader(members("abc"))
    answer(core, "b", 2.5)

    refused = refusal(core, members("ac"), 2.5)

    assert refused.reason is ChangeRefusal.NO_QUORUM
    assert "['a', 'c']" in refused.detail


# --- One voter at a time ---------------------------------------------------------------------------------------------


def test_one_voter_less_is_one_entry_and_counts_at_once() -> None:
    """The new configuration counts when it is appended, and its entry goes out (thesis §4.1)."""
    core = committed_leader(members("abc"))

    effects = core.change_configuration(members("ab"), 1.0)

    assert effects[0] == ConfigurationAppended(Term(1), LogIndex(2))
    assert of(effects, ConfigurationChanged) == [ConfigurationChanged(members("ab"), LogIndex(2))]
    assert [effect.to for effect in effects if isinstance(effect, Send)] == ["b"]
    assert last_members(core) == core.state.configuration == members("ab")
    assert set(core.state.progress) == {"b"}


def test_answer_of_a_removed_node_counts_for_nothing() -> None:
    """It may be late; and its term is its own affair now."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("ab"), 1.0)
    before = picture(core)

    assert core.receive(C, appended(1, 2, 2), 1.0) == ()
    assert core.receive(C, appended(9, 0, 0), 1.0) == ()
    assert picture(core) == before


def test_smaller_cluster_commits_what_was_waiting() -> None:
    """With b gone, what a has alone of the two is a majority of itself."""
    core = committed_leader(members("ab"))

    core.change_configuration(members("a"), 1.0)
    assert core.state.commit_index == 1
    core.storage_done(core.state.last_write_id, 1.0)

    assert core.state.commit_index == 2


def test_learner_gets_the_log_and_does_not_count() -> None:
    """It is replicated to, and its acknowledgement commits nothing (thesis §4.2.1)."""
    core = committed_leader(members("abc"))

    effects = core.change_configuration(members("abc", learners="d"), 1.0)
    core.storage_done(core.state.last_write_id, 1.0)
    answer(core, "d", 1.0)

    assert "d" in [effect.to for effect in effects if isinstance(effect, Send)]
    assert core.state.commit_index == 1
    answer(core, "b", 1.0)
    assert core.state.commit_index == 2


# --- Joint consensus -------------------------------------------------------------------------------------------------


def replaced_all() -> RaftCore:
    """Node ``a`` leads a, b, c, with d, e, f as learners that have caught up."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("abc", learners="def"), 1.0)
    committed(core, "bcdef", 1.0)
    return core


def test_change_of_several_voters_is_joint_until_both_majorities_have_it() -> None:
    """C_old,new commits by a majority of a, b, c and one of d, e, f; then the leader appends C_new (thesis §4.3)."""
    core = replaced_all()
    core.change_configuration(members("def"), 1.0)
    assert last_members(core) == joint(members("def"), "abc", leaving="abc")
    index = core.state.log.last_index
    core.storage_done(core.state.last_write_id, 1.0)

    answer(core, "bc", 1.0)
    assert core.state.commit_index == index - 1
    answer(core, "d", 1.0)
    assert core.state.commit_index == index - 1
    answer(core, "e", 1.0)

    assert core.state.commit_index == index
    assert last_members(core) == members("def")
    assert set(core.state.progress) == {"d", "e", "f"}


def test_leader_that_is_replaced_leads_until_the_new_members_have_it() -> None:
    """It does not count itself, steps down once C_new is committed, and tells the best of them to stand (§4.2.2)."""
    core = replaced_all()
    core.change_configuration(members("def"), 1.0)
    committed(core, "bcde", 1.0)
    core = replaced_all()
    core.change_configuration(members("def"), 1.0)
    core.storage_done(core.state.last_write_id, 1.0)
    answer(core, "bde", 1.0)
    core.storage_done(core.state.last_write_id, 1.0)
    answer(core, "d", 1.0)
    assert role_of(core) is Role.LEADER

    message = attrs.evolve(appended(1, core.state.log.last_index, core.state.log.last_index))
    effects = core.receive(NodeId("e"), message, 1.0)

    assert role_of(core) is Role.FOLLOWER
    told = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, TimeoutNowRequest)]
    assert [effect.to for effect in told] == ["e"]


def test_removed_leader_without_a_fit_successor_just_steps_down() -> None:
    """One whose connection broke is not told to stand: it may not be told for long."""
    core = committed_leader(members("ab", incarnations={"a": "A", "b": "B"}), incarnation="A")
    core.change_configuration(members("b"), 1.0)
    core.transfer_leadership(B, 1.0)
    committed(core, "b", 1.0)
    core.peer_unreachable(B)

    effects = core.time_passed(1.25)

    assert role_of(core) is Role.FOLLOWER
    assert not [
        effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, TimeoutNowRequest)
    ]


def test_new_leader_that_finds_a_committed_joint_configuration_leaves_it() -> None:
    """Whoever leads then appends C_new, once an entry of its own term is committed."""
    entries = (no_op(1, 1), members_entry(2, 1, joint(members("abd"), "abc", leaving="c")))
    core = leader("abcd", entries=entries, term=2, configuration=members("abc"))
    assert core.state.configuration.is_joint

    committed(core, "bcd", 1.0)

    assert last_members(core) == members("abd")


# --- Learners that become voters -------------------------------------------------------------------------------------


def test_learner_that_has_caught_up_becomes_a_voter_by_itself() -> None:
    """A round that took less than an election timeout is enough (thesis §4.2.1)."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("abc", promoted="d"), 1.0)
    committed(core, "bcd", 1.0)

    core.time_passed(1.25)

    assert core.state.configuration == members("abcd")


def test_learner_that_is_slow_stays_one() -> None:
    """It is not promoted while it does not answer."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("abc", promoted="d"), 1.0)
    committed(core, "bc", 1.0)

    core.time_passed(1.25)

    assert core.state.configuration == members("abc", promoted="d")


# --- Disks that were wiped -------------------------------------------------------------------------------------------


def test_voter_with_another_storage_becomes_a_learner() -> None:
    """What it voted and acknowledged is gone: it comes back as a learner that is promoted (thesis §3.8)."""
    known = {"a": "A", "b": "B", "c": "C"}
    core = committed_leader(members("abc", incarnations=known), incarnation="A")
    core.peer_identified(C, "new")
    answer(core, "b", 1.0)

    core.time_passed(1.25)

    assert core.state.configuration == members("ab", promoted="c", incarnations=known | {"c": "new"})
    assert core.state.progress[C].match_index == 0


def test_word_of_a_wiped_voter_counts_for_nothing_issue_4() -> None:
    """It has forgotten its votes: it may have elected a leader of a later term, and follow this one again.

    Seed 105631: it voted for ``b``, lost its disk, and then gave ``a`` a lease while ``b`` led and committed.
    """
    core = committed_leader(members("abc", incarnations={"a": "A", "b": "B", "c": "C"}), incarnation="A")
    core.peer_identified(C, "new")
    core.propose([b"x"], 1.3)
    core.storage_done(core.state.last_write_id, 1.3)
    core.read([ReadId(1)], 1.3)

    answer(core, "c", 1.3)

    assert core.state.commit_index == 1
    assert core.quorum_heard_at(1.3) < 1.3
    assert core.state.reads_under_way is not None

    answer(core, "b", 1.4)

    assert core.state.commit_index == 2
    assert core.quorum_heard_at(1.4) == 1.3
    assert core.state.reads_under_way is None


def test_leader_whom_only_a_wiped_voter_answers_steps_down_issue_4() -> None:
    """It can commit nothing, and another may have been elected with the vote that was forgotten."""
    core = committed_leader(members("abc", incarnations={"a": "A", "b": "B", "c": "C"}), incarnation="A")
    core.peer_identified(C, "new")
    answer(core, "c", 2.1)

    core.time_passed(2.2)

    assert role_of(core) is Role.FOLLOWER


def test_member_with_another_storage_is_asked_at_once_issue_4() -> None:
    """Its log is found to be empty by its next answer, though nothing new is appended. It once waited for that."""
    core = committed_leader(members("abc", incarnations={"a": "A", "b": "B", "c": "C"}), incarnation="A")
    core.peer_identified(C, "new")

    effects = core.receive(C, appended(1, 0, 0, round_number=1), 1.0)

    (sent,) = effects
    assert isinstance(sent, Send)
    assert isinstance(sent.message, AppendEntriesRequest)
    assert (sent.to, sent.message.prev_log_index, len(sent.message.entries)) == (C, 0, 1)


def test_identity_of_a_stranger_is_not_noted() -> None:
    """Nor this node's own."""
    core = committed_leader(members("abc"))
    before = picture(core)

    assert core.peer_identified(NodeId("x"), "X") == ()
    assert core.peer_identified(A, "X") == ()
    assert picture(core) == before


def test_learner_with_another_storage_is_named_anew_before_it_votes_issue_4() -> None:
    """Until it has the members that name the new one it votes for nobody, and its vote may be the one that decides.

    Seed 301901 at the protocol level: it was the only voter of the change under way when its leader fell silent, had
    the members before that, and refused its vote until a leader would send it more.
    """
    known = {"a": "A", "b": "B", "c": "C"}
    core = committed_leader(members("ab", promoted="c", incarnations=known), incarnation="A")
    core.peer_identified(C, "new")
    committed(core, "bc", 1.0)
    anew = members("ab", promoted="c", incarnations=known | {"c": "new"})

    refused = refusal(core, members("abc"))
    core.time_passed(1.25)
    told = last_members(core)
    committed(core, "b", 1.25)
    core.time_passed(1.3)

    assert refused.reason is ChangeRefusal.NOT_CAUGHT_UP
    assert "learner 'c' does not know yet that it is counted with the storage that it has" in refused.detail
    assert attrs.evolve(told, index=anew.index) == anew
    assert core.state.configuration == anew

    committed(core, "bc", 1.4)
    core.time_passed(1.55)

    assert core.state.configuration == members("abc", incarnations=known | {"c": "new"})


def test_voter_with_another_storage_is_named_before_such_a_learner() -> None:
    """It counts in majorities."""
    known = {"a": "A", "b": "B", "c": "C", "d": "D"}
    core = committed_leader(members("abd", learners="c", incarnations=known), incarnation="A")
    core.peer_identified(C, "new")
    core.peer_identified(D, "new")
    answer(core, "b", 1.0)

    core.time_passed(1.25)

    assert core.state.configuration == members("ab", learners="c", promoted="d", incarnations=known | {"d": "new"})

    committed(core, "b", 1.25)
    core.time_passed(1.5)

    named = known | {"c": "new", "d": "new"}
    assert core.state.configuration == members("ab", learners="c", promoted="d", incarnations=named)


def test_wiped_voter_is_no_target_of_a_transfer() -> None:
    """It may not stand before it is a voter again; whoever asked hears so at once."""
    core = committed_leader(members("abc", incarnations={"a": "A", "b": "B", "c": "C"}), incarnation="A")
    core.peer_identified(C, "new")
    before = picture(core)

    assert core.transfer_leadership(C, 2.1) == (TransferGivenUp(C, TransferFailure.WIPED),)
    assert picture(core) == before


def test_change_to_voters_who_could_elect_nobody_is_refused_issue_4() -> None:
    """Those whose disk was wiped do not vote, and what they acknowledge commits nothing."""
    core = committed_leader(members("abc", incarnations={"a": "A", "b": "B", "c": "C"}), incarnation="A")
    core.peer_identified(C, "new")

    refused = refusal(core, members("bc", learners="a"))

    assert refused.reason is ChangeRefusal.NO_QUORUM
    assert "['b', 'c'] could elect nobody: ['c'] lost their disks" in refused.detail


def test_wiped_voter_is_kept_while_too_few_would_be_left() -> None:
    """Nothing is begun that cannot be committed."""
    known = {"a": "A", "b": "B", "c": "C"}
    core = committed_leader(members("abc", incarnations=known), incarnation="A")
    core.peer_identified(C, "new")
    answer(core, "c", 2.1)

    core.time_passed(2.2)

    assert core.state.configuration == members("abc", incarnations=known)


def test_voter_whose_disk_was_wiped_does_not_vote() -> None:
    """It finds itself named with a storage that is not the one it has."""
    core = follower("abc", configuration=members("abc", incarnations={"a": "old"}), incarnation="new")

    effects = core.receive(B, vote_request(1, "b"), 2.0)

    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert reply.message == vote_response(1, False)
    assert core.deadline == float("inf")


def test_vote_of_a_wiped_disk_elects_nobody_issue_3() -> None:
    """What it had acknowledged is gone, and where its new log ends so far, nobody knew yet which storage it had.

    It once voted there, and its vote counted: entry 4, committed by a and c, was lost when b was elected without it.
    """
    known = {"a": "A", "b": "B"}
    learner = members_entry(2, 1, members("ab", promoted="c", incarnations=known))
    voter = members_entry(3, 1, members("abc", incarnations=known | {"c": "C"}))
    wiped = follower("", configuration=Configuration(), node="c", incarnation="new")
    wiped.receive(A, append(1, "a", entries=(no_op(1, 1), learner)), 0.0)
    wiped.storage_done(WriteId(wiped.state.last_write_id), 0.0)
    core = follower("ab", node="b", entries=(no_op(1, 1), learner, voter), term=1, incarnation="B")
    core.peer_identified(C, "new")
    core.time_passed(core.deadline)

    asked = wiped.receive(B, pre_vote_request(2, "b", (3, 1)), 10.0)
    core.receive(C, pre_vote_response(1, 2, True), 10.0)

    assert asked == (Reply(pre_vote_response(1, 2, True)),)
    assert role_of(core) is Role.PRE_CANDIDATE

    core.receive(A, pre_vote_response(1, 2, True), 10.0)
    core.storage_done(WriteId(core.state.last_write_id), 10.0)
    core.receive(C, vote_response(2, True), 10.0)
    assert role_of(core) is Role.CANDIDATE
    core.receive(A, vote_response(2, True), 10.0)
    assert role_of(core) is Role.LEADER


# --- Members in the log of a follower --------------------------------------------------------------------------------


def test_follower_takes_up_members_with_the_entry_and_goes_back_when_it_is_cut() -> None:
    """Committed or not, the newest in the log counts; the one before counts again without it (thesis §4.1)."""
    core = follower("abc", term=1)
    entry = members_entry(2, 1, members("abcd"))

    effects = core.receive(B, append(1, "b", entries=(no_op(1, 1), entry)), 0.0)
    assert ConfigurationChanged(members("abcd"), LogIndex(2)) in effects
    effects = core.receive(C, append(2, "c", (1, 1), (no_op(2, 2),)), 0.0)

    assert ConfigurationChanged(Configuration.of("abc", cluster_id="test"), LogIndex(0)) in effects
    assert core.state.configuration == Configuration.of("abc", cluster_id="test")


def test_entries_of_another_cluster_are_refused_and_change_nothing() -> None:
    """Two clusters never become one."""
    core = follower("abc", term=1)
    other = Configuration.of("abc", cluster_id="other")

    effects = core.receive(B, append(1, "b", entries=(members_entry(1, 1, other),)), 0.0)

    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert reply.message == refused(1, 0)
    assert (core.state.log.last_index, core.state.configuration.cluster_id) == (0, "test")


@pytest.mark.parametrize("command", [b"\xff", b"", encode_configuration(Configuration.of("abc"))])
def test_malformed_members_are_refused_and_change_nothing(command: bytes) -> None:
    """A configuration without voters or cluster id could elect nobody."""
    core = follower("abc", term=1)
    core.receive(B, append(1, "b"), 0.0)
    before = picture(core)
    entry = attrs.evolve(members_entry(1, 1, members("abc")), command=command)

    core.receive(B, AppendEntriesRequest(Term(1), B, LogIndex(0), Term(0), LogIndex(0), (entry,)), 0.0)

    assert picture(core) == before


def test_node_that_waits_to_be_added_follows_and_never_stands() -> None:
    """It has no members to ask, takes a leader's log, and counts once that names it."""
    core = follower("", configuration=Configuration(), node="d")
    assert core.deadline == float("inf")

    core.receive(A, append(1, "a", entries=(members_entry(1, 1, members("abcd")),)), 0.0)

    assert core.state.configuration == members("abcd")
    assert core.deadline < float("inf")


def test_removed_node_that_knows_stands_no_more() -> None:
    """Once its removal is committed it keeps quiet; until then its log may be the only one that can win (§4.2.2)."""
    entries = (no_op(1, 1), members_entry(2, 1, members("bc")))
    core = follower("abc", entries=entries, term=1)
    core.receive(B, append(1, "b", (2, 1), commit=1), 0.0)
    may_stand = core.state.may_stand
    assert may_stand

    core.receive(B, append(1, "b", (2, 1), commit=2), 0.0)

    assert not core.state.may_stand
    deadline = core.deadline
    if deadline < float("inf"):
        assert core.time_passed(deadline) == ()
    assert role_of(core) is Role.FOLLOWER
    assert D not in core.state.configuration.members


def test_members_of_an_applied_entry_are_known_for_the_snapshot() -> None:
    """A snapshot carries the members as of its last entry, whatever came after."""
    core = follower("abc", entries=(no_op(1, 1), members_entry(2, 1, members("ab"))), term=1)

    assert core.configuration_at(LogIndex(1)) == Configuration.of("abc", cluster_id="test")
    assert core.configuration_at(LogIndex(2)) == members("ab")


def test_stored_members_that_cannot_be_read_keep_the_node_from_starting() -> None:
    """It could not know whose votes count."""
    entry = Entry.create(LogIndex(1), Term(1), EntryKind.CONFIGURATION, b"\xff")

    with pytest.raises(InvariantError, match="a configuration that cannot be read"):
        follower("abc", entries=(entry,), term=1)


def test_configuration_in_the_log_names_no_index() -> None:
    """Where its entry is says that: one made from a configuration of the log must not name the other's place."""
    core = committed_leader(members("abc"))
    core.change_configuration(members("ab"), 1.0)

    assert core.state.configuration.index == 2
    assert last_members(core).index == 0

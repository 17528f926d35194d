"""The task that owns the core: what leaves when, and what is taken together."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    InvariantError,
    Message,
    NodeId,
    NotLeader,
    OutcomeUnknown,
    PreVoteRequest,
    PreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    RoleChange,
)
from clustercore.raft.config import RaftConfig
from clustercore.raft.configuration import encode_configuration
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, PersistEntries, PersistHardState
from clustercore.raft.types import Configuration, LogIndex, ReadId, Round, Term, TransferFailure, WriteId
from clustercore.runtime.applier import Applier
from clustercore.runtime.causes import Cause
from clustercore.runtime.engine import MAX_BATCH_BYTES, MAX_WAITING_MESSAGES, Engine
from clustercore.runtime.proposals import Group, GroupResult, Proposals
from clustercore.runtime.replicated_state import ReplicatedState
from clustercore.runtime.session_entries import (
    EnableVersion,
    OpenSession,
    SessionLimits,
    Stamp,
    decode_session_entry,
    decode_version_entry,
    encode_operation,
)
from clustercore.runtime.snapshot_sender import SnapshotSender
from clustercore.runtime.snapshots import Snapshots
from clustercore.runtime.writer import StorageCall, StorageJob, Writer
from clustercore_memory import MemoryStorage
from tests.simulation.cluster import Journal
from tests.snapshots import save_snapshot, snapshot

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


@attrs.define
class Bench:
    """An engine with everything around it kept, so that the test decides when a write is durable."""

    engine: Engine
    core: RaftCore
    proposals: Proposals
    jobs: list[StorageJob]
    # What left: messages to peers, answers, and what became of groups, in order.
    left: list[Any]
    roles: list[RoleChange]
    # Why, for each of them.
    causes: list[str]
    forwarder_calls: list[str]
    read_answers: list[tuple[tuple[ReadId, ...], LogIndex | None]]
    configurations: list[Configuration]

    @property
    def last_write_id(self) -> WriteId:
        """The newest write the core asked for."""
        return max(job.write_id for job in self.jobs if isinstance(job, PersistEntries | PersistHardState))

    async def durable(self, write_id: int | None = None) -> None:
        """Say that all writes up to this one, or all, are durable."""
        self.engine.storage_done(WriteId(write_id) if write_id is not None else self.last_write_id)
        await wait_all_tasks_blocked()

    async def receive(self, sender: NodeId, message: Message) -> None:
        """Take a message, and keep the answer."""
        await self.engine.receive(sender, message, self.left.append)  # type: ignore[arg-type]  # Raft's own only
        await wait_all_tasks_blocked()

    async def propose(self, *commands: bytes, may_forward: bool = True) -> None:
        """Propose each command as a group of its own, all before the engine runs."""
        for command in commands:
            self.engine.propose(Group((command,), on_done=self.left.append, may_forward=may_forward))
        await wait_all_tasks_blocked()

    async def stand(self) -> None:
        """Let the election deadline pass and b say that it would vote for a; nothing that left before is kept."""
        await trio.sleep(max(0.0, self.core.deadline - trio.current_time()))
        await wait_all_tasks_blocked()
        self.left.clear()
        term = self.core.state.current_term
        await self.receive(B, PreVoteResponse(term, Term(term + 1), True))
        assert self.core.state.role is Role.CANDIDATE

    async def stand_and_win(self) -> None:
        """Let a stand and b grant its vote; the vote of a itself is durable."""
        await self.stand()
        await self.durable()
        await self.receive(B, RequestVoteResponse(self.core.state.current_term, True))
        assert self.engine.is_leader
        self.left.clear()

    def kinds(self) -> list[type]:
        """What left, by type."""
        return [type(thing) for thing in self.left]


@asynccontextmanager
async def running(hard_state: HardState | None = None, config: RaftConfig | None = None) -> AsyncIterator[Bench]:
    """Run the engine of node "a", one of three, while the block lasts."""
    core = RaftCore(
        node_id=A,
        configuration=Configuration.of("abc", cluster_id="test"),
        new_cluster_id="new",
        config=config or RaftConfig(),
        rng=Random(1),
        now=trio.current_time(),
        hard_state=hard_state,
    )
    left: list[Any] = []
    jobs: list[StorageJob] = []
    roles: list[RoleChange] = []
    causes: list[str] = []
    forwarder_calls: list[str] = []
    read_answers: list[tuple[tuple[ReadId, ...], LogIndex | None]] = []
    configurations: list[Configuration] = []
    given_up: list[tuple[NodeId, TransferFailure]] = []
    proposals = Proposals(node_id=A, max_commands=1_000_000, max_bytes=10**9)
    applier = Applier(
        ReplicatedState(Journal()),
        last_applied=LogIndex(0),
        snapshot_entries=1000,
        snapshot_bytes=1 << 30,
        on_applied=proposals.applied,
        on_members=lambda configuration: None,
        snapshots=Snapshots(
            Writer(MemoryStorage(), snapshot_index=LogIndex(0), on_durable=lambda write_id: None),
            chunk_bytes=1000,
            label=lambda index, term: snapshot(index, term).metadata,
            first_index_to_keep=lambda index: index,
            on_saved=lambda metadata, keep_from: None,
        ),
    )

    def role_changed(before: RoleChange, after: RoleChange, cause: Cause) -> None:
        roles.append(after)
        causes.append(cause.text)

    engine = Engine(
        core,
        applier=applier,
        proposals=proposals,
        post_job=jobs.append,
        post_message=lambda peer, message: left.append((peer, message)),
        snapshot_sender=SnapshotSender(
            node_id=A,
            chunk_bytes=3,
            post_job=jobs.append,
            post_message=lambda peer, message: left.append((peer, message)),
            on_gone=lambda peer, snapshot_id: engine.snapshot_gone(peer, snapshot_id),
            takes_chunks=lambda peer: True,
            max_message_bytes=None,
        ),
        on_role_change=role_changed,
        wake_forwarder=lambda: forwarder_calls.append("wake"),
        on_heard=lambda: None,
        on_read_index=lambda read_ids, read_index: read_answers.append((read_ids, read_index)),
        session_limits=SessionLimits(max_sessions=10, max_outstanding=8, max_result_bytes=1000),
        on_configuration_change=configurations.append,
        on_transfer_given_up=lambda target, failure: given_up.append((target, failure)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        nursery.start_soon(applier.run)
        yield Bench(engine, core, proposals, jobs, left, roles, causes, forwarder_calls, read_answers, configurations)
        nursery.cancel_scope.cancel()


def vote_request(term: int, candidate_id: NodeId = B) -> RequestVoteRequest:
    """A candidate with an empty log asks."""
    return RequestVoteRequest(Term(term), candidate_id, LogIndex(0), Term(0))


def append_request(term: int, first: int = 1, last: int = 0, commit: int = 0) -> AppendEntriesRequest:
    """The leader b sends entries of its term."""
    entries = tuple(
        Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, b"%d" % index) for index in range(first, last + 1)
    )
    prev_term = Term(term) if first > 1 else Term(0)
    return AppendEntriesRequest(Term(term), B, LogIndex(first - 1), prev_term, LogIndex(commit), entries)


# --- Why a role changed ---


async def test_each_change_of_role_comes_with_its_cause(autojump_clock: MockClock) -> None:
    """From the first deadline to the loss of the majority (issue 3)."""
    async with running() as bench:
        await bench.stand_and_win()
        await trio.sleep(0.95)
        await bench.receive(C, AppendEntriesResponse(bench.core.state.current_term, True, LogIndex(0)))
        await trio.sleep(1.25)

    assert bench.causes == [
        "it has heard no leader since it started",
        "a majority would vote for it",
        "a majority voted for it",
        "it has not heard a majority: b for 2.00 s, c for 1.05 s",
    ]


# --- How old a stale read is ---


def heartbeat(number: int, answered: int, commit: int = 1) -> AppendEntriesRequest:
    """A heartbeat of b in term 1, with the log up to 1."""
    return attrs.evolve(
        append_request(1, 2, 1, commit), prev_log_term=Term(1), round=Round(number), answered_round=Round(answered)
    )


async def test_age_of_a_stale_read_counts_the_way_of_the_leaders_word(autojump_clock: MockClock) -> None:
    """Round 3 was long on its way (issue 3). It was sent after round 2 was heard here, and is taken to be as old."""
    async with running() as bench:
        await bench.receive(B, attrs.evolve(append_request(1, 1, 1), round=Round(1)))
        await bench.durable()
        assert bench.engine.lag_s() == math.inf
        heard_at = trio.current_time()
        await bench.receive(B, heartbeat(2, answered=1))
        assert bench.engine.lag_s() == 0.0

        await trio.sleep(0.75)
        await bench.receive(B, heartbeat(3, answered=2))

        assert bench.engine.lag_s() == trio.current_time() - heard_at == 0.75


async def test_word_that_names_no_round_heard_here_makes_nothing_fresh(autojump_clock: MockClock) -> None:
    """It may be of any age: from an older version, from another term, or overtaken by all that was heard since."""
    async with running() as bench:
        await bench.receive(B, attrs.evolve(append_request(1, 1, 1), round=Round(4)))
        await bench.durable()

        await bench.receive(B, heartbeat(5, answered=0))
        await bench.receive(B, heartbeat(6, answered=3))
        assert bench.engine.lag_s() == math.inf
        await bench.receive(B, heartbeat(7, answered=6))
        assert bench.engine.lag_s() == 0.0
        await trio.sleep(0.5)
        # The same words again: as old as they were.
        await bench.receive(B, heartbeat(7, answered=6))

        assert bench.engine.lag_s() == 0.5


async def test_word_of_a_storage_that_was_lost_while_it_waited_does_not_count_issue_3(
    autojump_clock: MockClock,
) -> None:
    """The core knows of the new storage by then, and would take it for that one's."""
    async with running() as bench:
        await bench.stand()
        await bench.durable()
        vote = RequestVoteResponse(bench.core.state.current_term, True)

        await bench.engine.receive(B, vote, is_current=lambda: False)
        await wait_all_tasks_blocked()
        assert not bench.engine.is_leader

        await bench.engine.receive(B, vote, is_current=lambda: True)
        await wait_all_tasks_blocked()
        assert bench.engine.is_leader


# --- Durable before visible ---


async def test_a_vote_leaves_only_after_its_write(autojump_clock: MockClock) -> None:
    """A granted vote is answered when it is durable, not before."""
    async with running() as bench:
        await trio.sleep(1)
        await bench.receive(B, vote_request(1))
        assert bench.left == []

        await bench.durable()
        assert bench.left == [RequestVoteResponse(Term(1), True)]


async def test_a_candidate_asks_for_votes_after_its_own_is_durable(autojump_clock: MockClock) -> None:
    """Asking says "I voted for myself", and so waits for that write."""
    async with running() as bench:
        await bench.stand()
        assert bench.left == []
        sent_terms = [job.hard_state.current_term for job in bench.jobs if isinstance(job, PersistHardState)]

        await bench.durable()

        requests = [message for _, message in bench.left if isinstance(message, RequestVoteRequest)]
        assert {request.term for request in requests} == set(sent_terms)
        assert [peer for peer, _ in bench.left] == [B, C] * len(sent_terms)


async def test_what_waits_for_writes_leaves_write_by_write_in_order() -> None:
    """A write that is durable lets out what waited for it and for those before it, in the order of asking."""
    async with running() as bench:
        await bench.receive(B, append_request(1, 1, 1))
        after_first = bench.last_write_id
        await bench.receive(B, append_request(1, 2, 2))
        after_second = bench.last_write_id
        await bench.receive(B, append_request(1, 3, 3))
        assert bench.left == []

        await bench.durable(after_first)
        assert [answer.match_index for answer in bench.left if isinstance(answer, AppendEntriesResponse)] == [1]
        await bench.durable(after_second)
        await bench.durable()

        assert [answer.match_index for answer in bench.left if isinstance(answer, AppendEntriesResponse)] == [1, 2, 3]


async def test_joined_writes_let_out_everything_up_to_them() -> None:
    """A report of the last of several writes covers those before it."""
    async with running() as bench:
        for index in (1, 2, 3):
            await bench.receive(B, append_request(1, index, index))

        await bench.durable()

        assert [answer.match_index for answer in bench.left if isinstance(answer, AppendEntriesResponse)] == [1, 2, 3]


async def test_what_waited_leaves_before_what_the_report_leads_to(autojump_clock: MockClock) -> None:
    """The answers that waited for a write go before the messages that the core sends because it is durable."""
    async with running(HardState(Term(4))) as bench:
        await trio.sleep(1)
        await bench.receive(C, AppendEntriesRequest(Term(5), C, LogIndex(0), Term(0), LogIndex(0)))
        await bench.stand()

        await bench.durable()

        # The answer to c, what a asked around, and what it asks as a candidate.
        assert bench.kinds()[0] is AppendEntriesResponse
        assert [type(message) for _, message in bench.left[1:]] == [PreVoteRequest] * 2 + [RequestVoteRequest] * 2


# --- Proposals ---


async def test_proposals_that_arrive_together_are_one_write(autojump_clock: MockClock) -> None:
    """All that is proposed before the engine runs is appended as one batch."""
    async with running() as bench:
        await bench.stand_and_win()
        writes = len(bench.jobs)

        await bench.propose(b"x", b"y", b"z")

        [job] = bench.jobs[writes:]
        assert isinstance(job, PersistEntries)
        assert [entry.command for entry in job.entries] == [b"x", b"y", b"z"]


async def test_leader_stamps_entries_of_sessions(autojump_clock: MockClock) -> None:
    """With how long it has led, and its limits; other entries are as they were proposed."""
    async with running() as bench:
        await bench.stand_and_win()
        writes = len(bench.jobs)
        await trio.sleep(0.05)
        operation = encode_operation(OpenSession(1000))

        bench.engine.propose(Group((b"x",), on_done=bench.left.append, may_forward=True))
        bench.engine.propose(Group((operation,), on_done=bench.left.append, may_forward=True, kinds=b"\x04"))
        await wait_all_tasks_blocked()

        [job] = bench.jobs[writes:]
        assert isinstance(job, PersistEntries)
        plain, stamped = job.entries
        assert (plain.kind, plain.command) == (EntryKind.COMMAND, b"x")
        assert stamped.kind is EntryKind.SESSION
        assert decode_session_entry(stamped.command) == (
            OpenSession(1000),
            Stamp(50, max_sessions=10, max_outstanding=8, max_result_bytes=1000),
        )


async def test_version_is_switched_on_when_the_leader_can(autojump_clock: MockClock) -> None:
    """While too much is uncommitted it waits."""
    async with running(config=RaftConfig(max_uncommitted_bytes=100)) as bench:
        await bench.stand_and_win()
        await bench.durable()
        await bench.receive(B, AppendEntriesResponse(Term(1), True, LogIndex(0), LogIndex(1)))
        await bench.propose(b"x" * 99)
        bench.engine.enable_version(2)
        await wait_all_tasks_blocked()
        assert bench.core.state.log.last_index == 2

        await bench.durable()
        await bench.receive(B, AppendEntriesResponse(Term(1), True, LogIndex(1), LogIndex(2)))

        [entry] = bench.core.state.log.slice(LogIndex(3), LogIndex(3))
        assert entry.kind is EntryKind.VERSION
        assert decode_version_entry(entry.command) == EnableVersion(2)


async def test_batches_are_bounded_in_bytes(autojump_clock: MockClock) -> None:
    """Proposals beyond a batch's limit are appended in the next turns, without waiting for anything."""
    async with running() as bench:
        await bench.stand_and_win()
        writes = len(bench.jobs)

        await bench.propose(*[bytes(MAX_BATCH_BYTES // 2)] * 5)

        counts = [len(job.entries) for job in bench.jobs[writes:] if isinstance(job, PersistEntries)]
        assert counts == [2, 2, 1]


async def test_proposals_wait_while_too_much_is_uncommitted(autojump_clock: MockClock) -> None:
    """They are neither lost nor refused, nor does the engine ask again and again: a commit lets the next ones in."""
    async with running(config=RaftConfig(max_uncommitted_bytes=100)) as bench:
        await bench.stand_and_win()
        await bench.durable()
        await bench.receive(B, AppendEntriesResponse(Term(1), True, LogIndex(0), LogIndex(1)))

        await bench.propose(b"x" * 60, b"y" * 60, b"z")
        assert bench.core.state.log.last_index == 2
        assert bench.proposals.has_queued

        await bench.durable()
        await bench.receive(B, AppendEntriesResponse(Term(1), True, LogIndex(1), LogIndex(2)))
        assert bench.core.state.log.last_index == 4
        assert not bench.proposals.has_queued


async def test_proposals_off_the_leader_wake_the_forwarder_or_are_refused() -> None:
    """On a follower a proposal waits for the forwarder; one that may not be passed on is refused, naming the leader."""
    async with running() as bench:
        await bench.receive(B, append_request(1))
        await bench.durable()
        bench.left.clear()
        bench.forwarder_calls.clear()

        await bench.propose(b"x")
        assert bench.left == []
        assert bench.forwarder_calls == ["wake"]
        await bench.propose(b"y", may_forward=False)

        [error] = bench.left
        assert isinstance(error, NotLeader)
        assert (error.node_id, error.leader_id) == (A, B)
        assert bench.proposals.pending == 1


async def test_losing_office_leaves_appended_proposals_unknown_and_queued_ones_queued(
    autojump_clock: MockClock,
) -> None:
    """A later term ends what is in the log as unknown; what was proposed in that moment is not in it and waits."""
    async with running() as bench:
        await bench.stand_and_win()
        await bench.propose(b"in the log")
        term = bench.core.state.current_term
        results: list[GroupResult] = []
        bench.engine.propose(Group((b"queued",), on_done=results.append, may_forward=True))
        bench.engine.propose(Group((b"stays here",), on_done=results.append, may_forward=False))

        await bench.receive(C, append_request(term + 1))

        assert [type(result) for result in results] == [NotLeader]
        assert OutcomeUnknown in bench.kinds()
        assert bench.proposals.pending == 1
        assert bench.roles[-1] == RoleChange(Role.FOLLOWER, Term(term + 1), B)


# --- The rest ---


async def test_role_is_told_before_and_kept_as_newest(autojump_clock: MockClock) -> None:
    """Each change of role, term or leader is told, and the newest is there to see."""
    async with running() as bench:
        assert bench.engine.role.value == RoleChange(Role.FOLLOWER, Term(0), None)
        await bench.stand_and_win()

        assert bench.engine.role.value == RoleChange(Role.LEADER, bench.core.state.current_term, A)
        assert [change.role for change in bench.roles][-1] is Role.LEADER


async def test_other_members_are_told_before_anything_is_sent_to_them(autojump_clock: MockClock) -> None:
    """The configuration in a leader's entry is handed on; and which storage a peer has, to the core."""
    members = Configuration.of("abd", cluster_id="test")
    command = encode_configuration(members)
    entry = Entry.create(LogIndex(1), Term(1), EntryKind.CONFIGURATION, command)
    async with running() as bench:
        await bench.receive(B, AppendEntriesRequest(Term(1), B, LogIndex(0), Term(0), LogIndex(0), (entry,)))
        bench.engine.peer_identified(B, "new disk")
        await wait_all_tasks_blocked()

    assert bench.configurations == [members]
    assert bench.core.state.incarnations == {B: "new disk"}


async def test_a_leader_sends_heartbeats_in_time(autojump_clock: MockClock) -> None:
    """The engine wakes at the core's deadline, and only then."""
    async with running() as bench:
        await bench.stand_and_win()
        await trio.sleep(0.901)

        heartbeats = [entry for entry in bench.left if isinstance(entry[1], AppendEntriesRequest)]
        # Nine to each of two peers; the no-op is not answered, so nothing else is sent.
        assert len(heartbeats) == 18


async def test_reads_that_arrive_together_are_asked_together(autojump_clock: MockClock) -> None:
    """Off the leader all of them are refused in one answer; on it they share one round."""
    async with running() as bench:
        bench.engine.read(ReadId(1))
        bench.engine.read(ReadId(2))
        await wait_all_tasks_blocked()
        assert bench.read_answers == [((1, 2), None)]

        await bench.stand_and_win()
        await bench.durable()
        term = bench.core.state.current_term
        await bench.receive(B, AppendEntriesResponse(term, True, LogIndex(0), LogIndex(1), round=Round(1)))
        bench.left.clear()
        bench.engine.read(ReadId(3))
        bench.engine.read(ReadId(4))
        await wait_all_tasks_blocked()
        assert [(peer, message.round) for peer, message in bench.left] == [(B, 2), (C, 2)]
        await bench.receive(B, AppendEntriesResponse(term, True, LogIndex(1), LogIndex(1), round=Round(2)))

        assert bench.read_answers[1:] == [((3, 4), LogIndex(1))]


async def test_message_is_taken_in_the_turn_in_which_it_comes(autojump_clock: MockClock) -> None:
    """While the engine's task sleeps, no turn of another task passes between a request and what may leave at once."""
    async with running() as bench:
        await wait_all_tasks_blocked()
        await bench.engine.receive(B, PreVoteRequest(Term(1), B, LogIndex(0), Term(0)), bench.left.append)

        assert bench.kinds() == [PreVoteResponse]


async def test_message_waits_its_turn_behind_what_is_queued(autojump_clock: MockClock) -> None:
    """An engine that is to run anyway takes messages in the order in which all inputs came."""
    async with running() as bench:
        await wait_all_tasks_blocked()
        bench.engine.wake()
        await bench.engine.receive(B, PreVoteRequest(Term(1), B, LogIndex(0), Term(0)), bench.left.append)
        assert bench.left == []
        await wait_all_tasks_blocked()

        assert bench.kinds() == [PreVoteResponse]


async def test_timer_follows_a_deadline_that_a_message_brings_nearer(autojump_clock: MockClock) -> None:
    """Whoever wins by a message sends its heartbeats in time, though the engine's task slept when it came."""
    async with running() as bench:
        await bench.stand_and_win()
        began = trio.current_time()
        bench.left.clear()
        await trio.sleep(bench.core.state.config.heartbeat_interval_s * 1.5)
        await wait_all_tasks_blocked()

        assert trio.current_time() - began < bench.core.state.config.election_timeout_s
        assert AppendEntriesRequest in [type(message) for _, message in bench.left]


async def test_error_in_a_turn_for_a_message_ends_the_engine_and_nothing_follows(autojump_clock: MockClock) -> None:
    """The engine's task raises what went wrong, whoever's turn it was; the core is not used any more."""
    with pytest.RaisesGroup(InvariantError):
        async with running() as bench:
            await wait_all_tasks_blocked()

            asked = list[float]()

            def fail(sender: NodeId, message: object, now: float) -> Effects:
                asked.append(now)
                raise InvariantError("broken")

            bench.core.receive = fail  # type: ignore[method-assign]  # A core that finds a rule broken.
            for term in (1, 2):
                await bench.engine.receive(B, vote_request(term), bench.left.append)
            await trio.sleep(100)
    assert len(asked) == 1
    assert bench.left == []


async def test_messages_wait_when_too_many_are_queued() -> None:
    """A link that brings more than the core has seen waits, and goes on when the engine has run."""
    async with running() as bench:
        for _ in range(MAX_WAITING_MESSAGES):
            # Queues without a checkpoint, so that the engine does not run in between.
            await bench.engine.receive(B, append_request(1), lambda message: None)
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.engine.receive(B, append_request(1), lambda message: None)
        assert scope.cancelled_caught

        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            await bench.engine.receive(B, append_request(1), lambda message: None)


async def wanting_a_snapshot(bench: Bench) -> Term:
    """Let a win and drop what c needs: it owes c its snapshot up to entry 3. Return its term."""
    await bench.stand_and_win()
    term = bench.core.state.current_term
    await bench.propose(b"x", b"y")
    await bench.durable()
    await bench.receive(B, AppendEntriesResponse(term, True, LogIndex(0), LogIndex(1)))
    await bench.receive(B, AppendEntriesResponse(term, True, LogIndex(1), LogIndex(3)))
    bench.engine.snapshot_saved(snapshot(3, term).metadata, LogIndex(4))
    await wait_all_tasks_blocked()
    await bench.receive(C, AppendEntriesResponse(term, False, LogIndex(0), LogIndex(0), Term(0), LogIndex(1)))
    await bench.receive(C, AppendEntriesResponse(term, True, LogIndex(0), LogIndex(0)))
    bench.left.clear()
    return term


async def do_calls(bench: Bench, storage: MemoryStorage) -> None:
    """Do for the writer what else it has to do with the storage."""
    calls = [job for job in bench.jobs if isinstance(job, StorageCall)]
    bench.jobs[:] = [job for job in bench.jobs if not isinstance(job, StorageCall)]
    for job in calls:
        await job.call(storage)
    await wait_all_tasks_blocked()


async def test_a_snapshot_is_read_and_sent_chunk_by_chunk(autojump_clock: MockClock) -> None:
    """A follower that needs what was dropped gets the stored snapshot, to its end though a newer one is stored."""
    async with running() as bench, MemoryStorage() as storage:
        term = await wanting_a_snapshot(bench)
        taken = snapshot(3, term)
        await save_snapshot(storage, taken, keep_from=None)

        await do_calls(bench, storage)
        await save_snapshot(storage, snapshot(4, term), keep_from=None)
        await bench.receive(C, InstallSnapshotResponse(term, LogIndex(0), taken.metadata.snapshot_id, 3))
        await do_calls(bench, storage)

        assert bench.left == [
            (C, InstallSnapshotRequest(term, A, taken.metadata, 0, b"sta", zlib.crc32(b"sta"), False)),
            (C, InstallSnapshotRequest(term, A, taken.metadata, 3, b"te", zlib.crc32(b"te"), True)),
        ]


async def test_a_snapshot_that_was_replaced_before_it_was_read_is_not_sent(autojump_clock: MockClock) -> None:
    """The core hears of it, and asks for the newest at the follower's next sign of life."""
    async with running() as bench, MemoryStorage() as storage:
        term = await wanting_a_snapshot(bench)
        await save_snapshot(storage, snapshot(4, term), keep_from=None)

        await do_calls(bench, storage)

        assert bench.left == []
        assert bench.core.sending == {}
        await bench.receive(C, AppendEntriesResponse(term, True, LogIndex(0), LogIndex(0)))
        assert bench.core.sending == {C: snapshot(3, term).metadata.snapshot_id}


async def test_a_snapshot_is_let_go_of_when_its_follower_has_it(autojump_clock: MockClock) -> None:
    """It is closed, so that its space is free."""
    async with running() as bench, MemoryStorage() as storage:
        term = await wanting_a_snapshot(bench)
        taken = snapshot(3, term)
        await save_snapshot(storage, taken, keep_from=None)
        await do_calls(bench, storage)

        await bench.receive(C, InstallSnapshotResponse(term, LogIndex(3), taken.metadata.snapshot_id))
        [close] = [job for job in bench.jobs if isinstance(job, StorageCall)]

        await close.call(storage)
        assert bench.core.sending == {}

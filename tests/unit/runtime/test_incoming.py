"""Answering the links that peers open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Applied,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    ForwardFailure,
    ForwardProposals,
    Hello,
    HelloResponse,
    MembersFailed,
    MembersRequest,
    Message,
    NodeStatus,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    Role,
    StatusRequest,
    StatusResponse,
)
from clustercore.raft.messages import RaftMessage
from clustercore.raft.types import LogIndex, NodeId, ReadId, Term
from clustercore.runtime.engine import Engine, Respond
from clustercore.runtime.incoming import MAX_OPEN_REQUESTS, Acceptor
from clustercore.runtime.outbox import MAX_BYTES
from clustercore.runtime.proposals import Group, Proposals
from clustercore.runtime.reads import ReadIndexes
from clustercore.runtime.session_entries import (
    EnableVersion,
    OpenSession,
    SessionCommand,
    VersionedCommand,
    encode_operation,
    encode_version_entry,
)
from tests.unit.runtime.fakes import FakeLink, introductions_of

HEARTBEAT = AppendEntriesRequest(Term(1), NodeId("b"), LogIndex(0), Term(0), LogIndex(0))
STATUS = NodeStatus(
    NodeId("a"), Role.LEADER, Term(1), NodeId("a"), LogIndex(0), LogIndex(0), LogIndex(1), LogIndex(0), 0, ()
)


@attrs.define(slots=False)
class FakeEngine(Engine):
    """Keeps what it is given; the test answers."""

    proposals: Proposals
    received: list[tuple[NodeId, RaftMessage, Respond | None]] = attrs.field(factory=list)
    proposed: list[Group] = attrs.field(factory=list)
    leads: bool = True
    # Whether its loop turns; if not, who waits for that.
    turns: bool = True
    asked: list[Callable[[float], None]] = attrs.field(factory=list)

    def when_turned(self, tell: Callable[[float], None]) -> None:
        if self.turns:
            tell(0.0)
        else:
            self.asked.append(tell)

    @property
    def is_leader(self) -> bool:
        return self.leads

    async def receive(
        self,
        sender: NodeId,
        message: RaftMessage,
        respond: Respond | None = None,
        *,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.received.append((sender, message, respond))

    def propose(self, group: Group) -> None:
        self.proposals.add(group)
        self.proposed.append(group)


@attrs.define
class Bench:
    """An acceptor with one link."""

    link: FakeLink
    engine: FakeEngine
    proposals: Proposals
    read_indexes: ReadIndexes
    # What the core was asked.
    asked: list[ReadId]
    acceptor: Acceptor = attrs.field(init=False)
    # Whether ``accept`` has returned.
    has_ended: bool = False
    # What was asked about the members, which is answered when the test says so.
    members_asked: list[MembersRequest | ChangeMembers] = attrs.field(factory=list)
    members_told: trio.Event = attrs.field(factory=trio.Event)
    members_stopped: bool = False

    async def answer_members(self, request: MembersRequest | ChangeMembers) -> MembersFailed:
        """Stand for the desk."""
        self.members_asked.append(request)
        await self.members_told.wait()
        if self.members_stopped:
            raise NodeStopped("stopped")
        return MembersFailed(request.request_id, ChangeRefusal.NOT_LEADER, "not here")

    async def deliver(self, *messages: Message) -> None:
        """Have the peer send, and let everything run that can."""
        for message in messages:
            self.link.deliver(message)
        await wait_all_tasks_blocked()

    def finish(self, group: Group, result: list[Applied] | NotLeader | OutcomeUnknown | NodeStopped) -> None:
        """Answer a group as the engine and the applier do."""
        [taken] = self.proposals.take_queued(0)
        assert taken is group
        self.proposals.finish(group, result)


@asynccontextmanager
async def accepting(
    max_commands: int = 1000, max_message_bytes: int | None = 1000, *, introduced: bool = True
) -> AsyncIterator[Bench]:
    """Accept one link while the block lasts; usually from "b", who has said so."""
    proposals = Proposals(node_id=NodeId("a"), max_commands=max_commands, max_bytes=1000)
    engine = FakeEngine(proposals)
    asked: list[ReadId] = []
    read_indexes = ReadIndexes(
        NodeId("a"), leader_id=lambda: NodeId("a"), ask_core=asked.append, outbox_to=lambda peer: None, timeout_s=1.0
    )
    bench = Bench(FakeLink(), engine, proposals, read_indexes, asked)
    acceptor = Acceptor(
        introductions=introductions_of("a"),
        engine=engine,
        proposals=proposals,
        read_indexes=bench.read_indexes,
        answer_members=bench.answer_members,
        status=lambda late_s: STATUS,
        max_command_bytes=10,
        max_message_bytes=max_message_bytes,
    )
    bench.acceptor = acceptor

    async def accept() -> None:
        await acceptor.accept(bench.link)
        bench.has_ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        if introduced:
            await bench.deliver(Hello(NodeId("b"), NodeId("a")))
            bench.link.sent.clear()
        yield bench
        nursery.cancel_scope.cancel()


def applied(index: int, result: bytes) -> Applied:
    """One command's result."""
    return Applied(LogIndex(index), Term(1), result)


async def test_requests_reach_the_engine_and_answers_the_link() -> None:
    """A request goes to the engine under its sender's name, and what the engine answers goes back."""
    async with accepting() as bench:
        await bench.deliver(HEARTBEAT)
        [(sender, message, respond)] = bench.engine.received
        assert (sender, message) == ("b", HEARTBEAT)
        assert respond is not None

        answer = AppendEntriesResponse(Term(1), True, LogIndex(0))
        respond(answer)
        await wait_all_tasks_blocked()
        assert bench.link.sent == [answer]


async def test_status_is_answered_in_a_turn_of_the_engine() -> None:
    """A node whose consensus loop stands still answers no status question; as soon as it turns, it does."""
    async with accepting() as bench:
        bench.engine.turns = False
        await bench.deliver(StatusRequest(7))
        assert bench.link.sent == []

        [tell] = bench.engine.asked
        tell(0.5)
        await wait_all_tasks_blocked()
        assert bench.link.sent == [StatusResponse(STATUS, 7)]


async def test_forwarded_proposals_are_answered_by_what_became_of_them() -> None:
    """Each outcome of a group has its answer, and a group that came from a peer is never passed on again."""
    async with accepting() as bench:
        await bench.deliver(*(ForwardProposals(number, (b"x", b"y")) for number in (1, 2, 3)))
        assert [group.may_forward for group in bench.engine.proposed] == [False] * 3
        one, two, three = bench.engine.proposed

        bench.finish(one, [applied(4, b"X"), applied(5, b"Y")])
        bench.finish(two, NotLeader(NodeId("a"), NodeId("c")))
        bench.finish(three, OutcomeUnknown("lost office"))
        await wait_all_tasks_blocked()

        first, second, third = bench.link.sent
        assert first == ProposalsApplied(1, Term(1), LogIndex(4), (b"X", b"Y"))
        assert isinstance(second, ProposalsFailed)
        assert (second.failure, second.leader_id) == (ForwardFailure.NOT_LEADER, "c")
        assert isinstance(third, ProposalsFailed)
        assert (third.failure, third.detail) == (ForwardFailure.UNKNOWN, "lost office")


async def test_results_too_large_for_one_message_go_in_several() -> None:
    """Each within what the transport carries: one that is not would end the link, for everybody."""
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, (b"x",) * 5))
        results = [applied(index, bytes([index]) * 300) for index in range(4, 9)]
        bench.finish(bench.engine.proposed[0], results)
        await wait_all_tasks_blocked()

        parts = [message for message in bench.link.sent if isinstance(message, ProposalsApplied)]
        assert parts == bench.link.sent
        assert [(part.request_id, part.first_index, len(part.results)) for part in parts] == [
            (1, 4, 2),
            (1, 6, 2),
            (1, 8, 1),
        ]
        assert [result for part in parts for result in part.results] == [result.result for result in results]


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((900, 1, 1), [(4, 0), (5, 2)]),
        ((1, 900, 1), [(4, 1), (6, 1)]),
        ((1, 900, 800), [(4, 1)]),
        ((900,), [(4, 0)]),
    ],
)
async def test_result_too_large_for_any_message_is_unknown_alone(
    sizes: tuple[int, ...], parts: list[tuple[int, int]]
) -> None:
    """The command is applied, which the text says; others get their results. The first part tells where they begin."""
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, (b"x",) * len(sizes)), StatusRequest(7))
        bench.finish(bench.engine.proposed[0], [applied(4 + n, bytes(size)) for n, size in enumerate(sizes)])
        await wait_all_tasks_blocked()

        _, *answers, last = bench.link.sent
        assert [
            (part.first_index, len(part.results)) for part in answers if isinstance(part, ProposalsApplied)
        ] == parts
        assert isinstance(last, ProposalsFailed)
        assert last.failure is ForwardFailure.NO_RESULT
        assert f"at index {4 + sizes.index(900)} is applied, but its result of 900 bytes" in last.detail


async def test_commands_beyond_the_limit_are_refused_whole() -> None:
    """One command that is too large, or none at all, refuses the request: all are appended or none."""
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, (b"fine", bytes(11))), ForwardProposals(2, ()))

        failures = [message.failure for message in bench.link.sent if isinstance(message, ProposalsFailed)]
        assert failures == [ForwardFailure.REFUSED] * 2
        assert bench.engine.proposed == []


@pytest.mark.parametrize(
    ("kinds", "commands"),
    [
        (b"\x02", (b"x", b"y")),
        (b"\x01", (b"",)),
        (b"\x03", (b"",)),
        (b"\x63", (b"",)),
        (b"\x04", (b"not an operation",)),
        (b"\x04", (encode_operation(SessionCommand(1, 1, 1, (), 1, bytes(11))),)),
        (b"\x05", (encode_version_entry(EnableVersion(2)),)),
    ],
)
async def test_forwarded_entries_that_only_a_leader_makes_are_refused(
    kinds: bytes, commands: tuple[bytes, ...]
) -> None:
    """And those that are malformed, or too large: what is in the log every node must be able to apply."""
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, commands, kinds))

        [failure] = bench.link.sent
        assert isinstance(failure, ProposalsFailed)
        assert failure.failure is ForwardFailure.REFUSED
        assert bench.engine.proposed == []


async def test_forwarded_entries_keep_their_kinds() -> None:
    """A command, one of a session and one of a version; and a leader that stops says that it leads no more."""
    commands = (b"x", encode_operation(OpenSession(1)), encode_version_entry(VersionedCommand(2, b"y")))
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, commands, b"\x02\x04\x05"))
        [group] = bench.engine.proposed
        assert (group.commands, group.kinds) == (commands, b"\x02\x04\x05")

        bench.finish(group, NodeStopped("stopped"))
        await wait_all_tasks_blocked()

        [failure] = bench.link.sent
        assert isinstance(failure, ProposalsFailed)
        assert failure.failure is ForwardFailure.NOT_LEADER


async def test_forwarded_proposals_wait_for_room() -> None:
    """A full leader takes no more from its peers until something is done."""
    async with accepting(max_commands=1) as bench:
        await bench.deliver(ForwardProposals(1, (b"x",)), ForwardProposals(2, (b"y",)))
        [held] = bench.engine.proposed

        bench.finish(held, [applied(1, b"")])
        await wait_all_tasks_blocked()
        assert [group.commands for group in bench.engine.proposed] == [(b"x",), (b"y",)]


async def test_a_node_that_does_not_lead_needs_no_room_to_refuse() -> None:
    """Two full nodes that each take the other for the leader must not wait for each other."""
    async with accepting(max_commands=1) as bench:
        await bench.deliver(ForwardProposals(1, (b"x",)))
        bench.engine.leads = False
        await bench.deliver(ForwardProposals(2, (b"y",)))

        assert len(bench.engine.proposed) == 2


async def test_proposals_that_wait_for_room_hold_up_no_other_request() -> None:
    """Entries behind them on the link are heard: a node with a full queue could not follow a new leader otherwise."""
    async with accepting(max_commands=1) as bench:
        await bench.deliver(ForwardProposals(1, (b"x",)), ForwardProposals(2, (b"y",)), HEARTBEAT)

        assert len(bench.engine.proposed) == 1
        assert [message for _, message, _ in bench.engine.received] == [HEARTBEAT]


async def test_stop_while_proposals_wait_for_room_raises_nothing() -> None:
    """A peer's proposals in line are dropped when the node stops: that is no error, and nobody is answered."""
    async with accepting(max_commands=1) as bench:
        await bench.deliver(ForwardProposals(1, (b"x",)), ForwardProposals(2, (b"y",)))
        bench.link.sent.clear()

        bench.proposals.stop()
        await wait_all_tasks_blocked()

        assert not any(message.request_id == 2 for message in bench.link.sent if isinstance(message, ProposalsFailed))


async def test_a_link_is_not_read_while_too_many_requests_are_open() -> None:
    """Requests that nobody has answered yet are bounded."""
    async with accepting() as bench:
        await bench.deliver(*[HEARTBEAT] * (MAX_OPEN_REQUESTS + 5))
        assert len(bench.engine.received) == MAX_OPEN_REQUESTS

        for _, _, respond in bench.engine.received[:3]:
            assert respond is not None
            respond(AppendEntriesResponse(Term(1), True, LogIndex(0)))
        await wait_all_tasks_blocked()
        assert len(bench.engine.received) == MAX_OPEN_REQUESTS + 3


async def test_accept_ends_when_the_peer_hangs_up() -> None:
    """The end of a link is no error of the node; late answers to it go nowhere."""
    async with accepting() as bench:
        await bench.deliver(HEARTBEAT, ForwardProposals(1, (b"x",)))
        bench.link.hang_up()
        await wait_all_tasks_blocked()
        assert bench.has_ended

        [held] = bench.engine.proposed
        bench.finish(held, [applied(1, b"")])
        assert bench.link.sent == []


async def test_accept_ends_at_a_message_that_is_no_request() -> None:
    """A peer that sends answers where requests belong is not understood: the link closes."""
    async with accepting() as bench:
        await bench.deliver(AppendEntriesResponse(Term(1), True, LogIndex(0)))

        assert bench.has_ended


async def test_hello_is_answered_with_who_is_here() -> None:
    """Also one that was meant for another node: it is for the caller to hang up."""
    async with accepting(introduced=False) as bench:
        await bench.deliver(Hello(NodeId("b"), NodeId("a")), Hello(NodeId("b"), NodeId("c")))
        await wait_all_tasks_blocked()

        welcome = HelloResponse(NodeId("a"), incarnation="first", starts=1, election_timeout_s=1.0)
        assert bench.link.sent == [welcome, attrs.evolve(welcome, refusal="this is node 'a', not 'c'")]


@pytest.mark.parametrize(
    "message",
    [HEARTBEAT, ForwardProposals(1, (b"x",)), ReadIndexRequest(1)],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("hello", [None, Hello(NodeId("b"), NodeId("c"))], ids=["none", "refused"])
async def test_a_stranger_is_not_heard(message: Message, hello: Hello | None) -> None:
    """Without a Hello, or after one that was refused, a request of members closes the link and reaches nobody."""
    async with accepting(introduced=False) as bench:
        await bench.deliver(*([hello] if hello else []), message)

        assert bench.has_ended
        assert (bench.engine.received, bench.engine.proposed, bench.asked) == ([], [], [])


async def test_a_message_in_the_name_of_another_closes_the_link() -> None:
    """Who said Hello as one node may not vote as another."""
    async with accepting() as bench:
        await bench.deliver(attrs.evolve(HEARTBEAT, leader_id=NodeId("c")))

        assert bench.has_ended
        assert bench.engine.received == []


async def test_anybody_may_ask_for_the_status() -> None:
    """Whoever looks at a cluster from outside is no member of it, and says no Hello."""
    async with accepting(introduced=False) as bench:
        await bench.deliver(StatusRequest(7))

        assert bench.link.sent == [StatusResponse(STATUS, 7)]


async def test_read_index_is_asked_of_the_core_and_answered_when_it_is() -> None:
    """Each question is answered for itself, in the order in which the core answers."""
    async with accepting() as bench:
        await bench.deliver(ReadIndexRequest(7), ReadIndexRequest(8))
        first, second = bench.asked
        assert bench.link.sent == []

        bench.read_indexes.answered_by_core((second,), LogIndex(5))
        bench.read_indexes.answered_by_core((first,), None)
        await wait_all_tasks_blocked()

        assert bench.link.sent == [ReadIndexReady(8, LogIndex(5)), ReadIndexRefused(7, NodeId("a"))]


async def test_repeated_proposals_are_appended_once() -> None:
    """A transport may repeat a message; a second copy is neither appended nor answered."""
    async with accepting() as bench:
        await bench.deliver(ForwardProposals(1, (b"x",)), ForwardProposals(2, (b"y",)), ForwardProposals(1, (b"x",)))

        assert [group.commands for group in bench.engine.proposed] == [(b"x",), (b"y",)]


async def test_link_is_not_read_while_too_much_in_answers_waits() -> None:
    """An answer is given once, so none is dropped; whoever reads no answers gets no more questions answered."""
    async with accepting(max_message_bytes=None) as bench:
        bench.link.hold()
        await bench.deliver(*(ForwardProposals(number, (b"x",)) for number in range(2)), StatusRequest(7))
        large = Applied(LogIndex(1), Term(1), bytes(MAX_BYTES))
        for group in list(bench.engine.proposed):
            bench.finish(group, [large])
        await wait_all_tasks_blocked()

        await bench.deliver(ForwardProposals(2, (b"x",)))
        await bench.deliver(ForwardProposals(3, (b"x",)))
        assert len(bench.engine.proposed) == 2
        bench.link.release()
        await wait_all_tasks_blocked()

        assert len(bench.engine.proposed) == 2 + 2
        assert len(bench.link.sent) == 3


async def test_whoever_stops_can_wait_until_all_answers_are_sent(nursery: trio.Nursery) -> None:
    """Handed to their links, that is; a link that is gone is waited for no more."""
    for ending in ("sent", "gone"):
        async with accepting() as bench:
            waited: list[str] = []

            async def wait(acceptor: Acceptor = bench.acceptor, waited: list[str] = waited) -> None:
                await acceptor.wait_answers_sent()
                waited.append("all sent")

            await bench.acceptor.wait_answers_sent()
            bench.link.hold()
            await bench.deliver(StatusRequest(1), StatusRequest(2))
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert waited == []

            if ending == "sent":
                bench.link.release()
            else:
                bench.link.hang_up()
            await wait_all_tasks_blocked()
            assert waited == ["all sent"]


@pytest.mark.parametrize("introduced", [True, False])
async def test_questions_about_members_hold_up_no_other_request(*, introduced: bool) -> None:
    """They wait for the leader; and anybody may ask, as operators are no members."""
    asked = MembersRequest(5), ChangeMembers(Term(1), LogIndex(2), Configuration.of("ab"), 6)
    async with accepting(introduced=introduced) as bench:
        await bench.deliver(*asked, StatusRequest(7))
        assert bench.members_asked == list(asked)
        assert bench.link.sent == [StatusResponse(STATUS, 7)]

        bench.members_told.set()
        await wait_all_tasks_blocked()

        answers = [MembersFailed(number, ChangeRefusal.NOT_LEADER, "not here") for number in (5, 6)]
        assert sorted(bench.link.sent[1:], key=lambda answer: answer.request_id) == answers  # type: ignore[union-attr]


async def test_stop_while_members_are_asked_for_raises_nothing() -> None:
    """The link ends with the node; nobody is answered."""
    async with accepting() as bench:
        await bench.deliver(MembersRequest(5))

        bench.members_stopped = True
        bench.members_told.set()
        await wait_all_tasks_blocked()

        assert bench.link.sent == []
        assert not bench.has_ended

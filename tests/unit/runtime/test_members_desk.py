"""Questions about the members, at a node: answered here, passed on once, or refused with what is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    MEMBERS_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    ChangeMembers,
    ChangeRefusal,
    ConfigError,
    Configuration,
    Hello,
    HelloResponse,
    LogIndex,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    NodeId,
    NodeStatus,
    NodeStopped,
    Role,
    RoleChange,
    Server,
    Term,
    Transport,
)
from clustercore.raft.effects import ConfigurationAppended, ConfigurationRefused
from clustercore.runtime.engine import Engine, Membership
from clustercore.runtime.members_desk import MembersDesk
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.reads import OnReadIndex
from clustercore.runtime.signals import Newest
from clustercore.runtime.whereabouts import Whereabouts
from tests.unit.runtime.fakes import FakeLink, FakeTransport, introductions_of

A, B = NodeId("a"), NodeId("b")
PRESENT = Configuration.of("ab", cluster_id="test")
CHANGE = ChangeMembers(Term(2), LogIndex(5), Configuration.of("abc", cluster_id="test"), 9)
FOLLOWS = RoleChange(Role.FOLLOWER, Term(2), B)
LEADS = RoleChange(Role.LEADER, Term(2), A)

OnChange = Callable[[ConfigurationAppended | ConfigurationRefused], None]


class FakeEngine(Engine):
    """Keeps what it is asked; the test answers."""

    def __init__(self, office: RoleChange) -> None:
        self.role = Newest(office)
        self.membership = Newest(Membership(PRESENT, LogIndex(5), is_committed=True))
        self.asked: list[tuple[Configuration, Term, LogIndex, OnChange]] = []

    def change_configuration(
        self, target: Configuration, term: Term, expected_index: LogIndex, on_answer: OnChange
    ) -> None:
        self.asked.append((target, term, expected_index, on_answer))


@attrs.define
class Bench:
    """A desk of node a, and what it asked of others."""

    engine: FakeEngine
    desk: MembersDesk
    outbox: Outbox
    read_indexes: list[OnReadIndex]
    nursery: trio.Nursery
    answers: list[MembersResponse | MembersFailed | NodeStopped] = attrs.field(factory=list)

    async def ask(self, request: MembersRequest | ChangeMembers) -> None:
        """Ask in a task of its own, and let everything run that can."""

        async def ask() -> None:
            try:
                self.answers.append(await self.desk.answer(request))
            except NodeStopped as error:
                self.answers.append(error)

        self.nursery.start_soon(ask)
        await wait_all_tasks_blocked()

    @property
    def sent(self) -> list[object]:
        """What waits to be sent to b."""
        return [mail.message for mail in self.outbox._mails]

    def send(self) -> None:
        """Hand everything to the link."""
        for mail in list(self.outbox._mails):
            assert mail.on_sent is not None
            self.outbox.withdraw(mail)
            mail.on_sent()


def status_of(office: RoleChange) -> NodeStatus:
    """A node in an office."""
    return NodeStatus(
        node_id=A,
        role=office.role,
        term=office.term,
        leader_id=office.leader_id,
        commit_index=LogIndex(5),
        last_applied=LogIndex(5),
        first_log_index=LogIndex(1),
        last_log_index=LogIndex(5),
        pending_proposals=0,
        peers=(),
    )


@asynccontextmanager
async def open_bench(
    office: RoleChange,
    *,
    version: int = PROTOCOL_VERSION,
    reachable: bool = True,
    transport: Transport | None = None,
) -> AsyncIterator[Bench]:
    """Open a desk; the leader b, if it is another, speaks a version of the protocol."""
    engine, outbox, read_indexes = FakeEngine(office), Outbox(), list[OnReadIndex]()
    introductions = introductions_of("a")
    introductions.answer(Hello(B, A, version, 2, "", "i", 1))
    desk = MembersDesk(
        A,
        engine=engine,
        introductions=introductions,
        ask_core=read_indexes.append,
        status=lambda: status_of(engine.role.value),
        outbox_to=lambda peer: outbox if reachable else None,
        address_of={"a": "here:1", "b": "there:1"}.get,
        whereabouts=Whereabouts(
            A,
            transport=transport or FakeTransport(),
            introductions=introductions,
            address_of={"a": "here:1", "b": "there:1"}.get,
            is_heard=lambda node_id: node_id == B,
            timeout_s=1.0,
        ),
        timeout_s=1.0,
    )
    async with trio.open_nursery() as nursery:
        yield Bench(engine, desk, outbox, read_indexes, nursery)
        nursery.cancel_scope.cancel()


def failed(detail: str, *, leader_id: NodeId | None = B, may_be_done: bool = False, number: int = 9) -> MembersFailed:
    """What a node that does not lead says."""
    return MembersFailed(number, ChangeRefusal.NOT_LEADER, f"node 'a': {detail}", leader_id, may_be_done)


def told(configuration: Configuration = PRESENT, index: int = 5, *, number: int = 9) -> MembersResponse:
    """What a leader tells."""
    return MembersResponse(number, Members(configuration, LogIndex(index), True, Term(2), A))


async def test_leader_tells_the_members_once_it_knows_that_it_leads(autojump_clock: MockClock) -> None:
    """A read index is the proof; without one, it is no leader any more."""
    async with open_bench(LEADS) as bench:
        await bench.ask(MembersRequest(9))
        assert bench.answers == []

        bench.read_indexes[0](LogIndex(5))
        await wait_all_tasks_blocked()
        await bench.ask(MembersRequest(9))
        bench.read_indexes[1](None)
        await wait_all_tasks_blocked()

        assert bench.answers == [told(), failed("it leads no more", leader_id=A)]


async def test_leader_waits_for_a_change_to_settle_but_not_for_ever(autojump_clock: MockClock) -> None:
    """Whoever asks for settled members gets them when they are, or as they are after a while."""
    pending = Membership(Configuration.of("abc", cluster_id="test"), LogIndex(6), is_committed=False)
    async with open_bench(LEADS) as bench:
        bench.engine.membership.set(pending)
        for _ in range(2):
            await bench.ask(MembersRequest(9, is_settled=True))
            bench.read_indexes[-1](LogIndex(5))
            await wait_all_tasks_blocked()
        assert bench.answers == []

        await trio.sleep(1.5)
        assert [answer.members.is_settled for answer in bench.answers if isinstance(answer, MembersResponse)] == [
            False,
            False,
        ]
        await bench.ask(MembersRequest(9, is_settled=True))
        bench.read_indexes[-1](LogIndex(5))
        bench.engine.membership.set(attrs.evolve(pending, is_committed=True))
        await wait_all_tasks_blocked()
        assert bench.answers[2] == told(pending.configuration, 6)


async def test_leader_that_is_deposed_meanwhile_tells_nothing(autojump_clock: MockClock) -> None:
    """What it knows may be old."""
    async with open_bench(LEADS) as bench:
        bench.engine.membership.set(Membership(PRESENT, LogIndex(5), is_committed=False))
        await bench.ask(MembersRequest(9, is_settled=True))
        bench.read_indexes[0](LogIndex(5))
        await wait_all_tasks_blocked()

        bench.engine.role.set(RoleChange(Role.FOLLOWER, Term(3), B))
        bench.engine.membership.set(Membership(PRESENT, LogIndex(5), is_committed=False))
        await wait_all_tasks_blocked()

        assert bench.answers == [failed("it leads no more")]


async def test_member_that_is_well_is_not_moved_to_where_it_is_not(autojump_clock: MockClock) -> None:
    """Nothing is appended, and the answer says who is missing where; forced, it is appended unseen."""
    target = Configuration.with_servers([Server(A), Server(B, address="wrong:1")], cluster_id="test")
    transport = FakeTransport()
    async with open_bench(LEADS, transport=transport) as bench:
        await bench.ask(attrs.evolve(CHANGE, target=target))

        [answer] = bench.answers
        assert isinstance(answer, MembersFailed)
        assert (answer.reason, answer.may_be_done) == (ChangeRefusal.NOT_THERE, False)
        assert "node 'b' is well at 'there:1', and at 'wrong:1' it is not found" in answer.detail
        assert bench.engine.asked == []

        await bench.ask(attrs.evolve(CHANGE, target=target, is_forced=True))
        assert len(bench.engine.asked) == len(transport.attempts) == 1


async def test_address_that_is_none_of_the_transport_is_refused_for_good(autojump_clock: MockClock) -> None:
    """Also forced, and also of a node that is only to come."""

    class Strict(FakeTransport):
        def check_address(self, address: str) -> None:
            if ":" not in address:
                raise ConfigError(f"{address!r} is none")

    target = Configuration.with_servers([Server(A), Server(B), Server(NodeId("c"), address="foo")], cluster_id="test")
    async with open_bench(LEADS, transport=Strict()) as bench:
        await bench.ask(attrs.evolve(CHANGE, target=target, is_forced=True))

        assert bench.answers == [MembersFailed(9, ChangeRefusal.INVALID, "node 'c': 'foo' is none", A)]
        assert bench.engine.asked == []


async def test_change_is_appended_with_the_addresses_that_the_leader_knows(autojump_clock: MockClock) -> None:
    """Those that are given stay; the answer comes when the change is finished."""
    target = Configuration.with_servers(
        [Server(A), Server(B, address="moved:1"), Server(NodeId("c"))], cluster_id="test"
    )
    transport = FakeTransport(lambda address, lane: FakeLink(hello_response=HelloResponse(B, incarnation="i")))
    async with open_bench(LEADS, transport=transport) as bench:
        await bench.ask(attrs.evolve(CHANGE, target=target))
        assert [address for _, address, _ in transport.attempts] == ["moved:1"]
        [(asked, term, expected_index, on_answer)] = bench.engine.asked
        assert [(server.node_id, server.address) for server in asked.servers] == [
            ("a", "here:1"),
            ("b", "moved:1"),
            ("c", ""),
        ]
        assert (term, expected_index) == (2, 5)

        bench.engine.membership.set(Membership(asked, LogIndex(6), is_committed=False))
        on_answer(ConfigurationAppended(Term(2), LogIndex(6)))
        await wait_all_tasks_blocked()
        assert bench.answers == []
        # It removed this leader: it is one no more, and all is said and done.
        bench.engine.role.set(RoleChange(Role.FOLLOWER, Term(2), None))
        bench.engine.membership.set(Membership(asked, LogIndex(6), is_committed=True))
        await wait_all_tasks_blocked()

        assert bench.answers == [MembersResponse(9, Members(asked, LogIndex(6), True, Term(2), None))]


async def test_change_that_the_core_refuses_is_refused_with_its_words(autojump_clock: MockClock) -> None:
    """The reason is for programs, the words are for people."""
    async with open_bench(LEADS) as bench:
        await bench.ask(CHANGE)

        bench.engine.asked[0][3](ConfigurationRefused(ChangeRefusal.NO_QUORUM, "bring them back"))
        await wait_all_tasks_blocked()

        assert bench.answers == [MembersFailed(9, ChangeRefusal.NO_QUORUM, "bring them back", A)]


async def test_follower_passes_a_question_on_once(autojump_clock: MockClock) -> None:
    """One that was passed on already is refused with who leads, so that none goes round in circles."""
    async with open_bench(FOLLOWS) as bench:
        await bench.ask(MembersRequest(9, is_settled=True))
        await bench.ask(attrs.evolve(CHANGE, is_forwarded=True))
        assert bench.sent == [MembersRequest(1, is_settled=True, is_forwarded=True)]
        assert bench.answers == [failed("ask 'b'")]

        bench.send()
        bench.desk.receive(NodeId("c"), told(number=1))
        bench.desk.receive(B, told(number=7))
        await wait_all_tasks_blocked()
        assert len(bench.answers) == 1
        bench.desk.receive(B, told(number=1))
        await wait_all_tasks_blocked()

        assert bench.answers[1] == told()


async def test_node_without_a_leader_says_so(autojump_clock: MockClock) -> None:
    """Nothing is asked of anybody."""
    async with open_bench(RoleChange(Role.FOLLOWER, Term(2), None)) as bench:
        await bench.ask(CHANGE)

        assert bench.answers == [failed("it knows no leader; ask again after an election", leader_id=None)]


@pytest.mark.parametrize("request_", [CHANGE, MembersRequest(9)], ids=["change", "read"])
@pytest.mark.parametrize("was_sent", [False, True])
async def test_question_without_an_answer_tells_what_is_known(
    request_: MembersRequest | ChangeMembers, autojump_clock: MockClock, *, was_sent: bool
) -> None:
    """A change that has left may be made. One that has not is taken back."""
    async with open_bench(FOLLOWS) as bench:
        await bench.ask(request_)
        if was_sent:
            bench.send()

        await trio.sleep(3)

        may_be_done = was_sent and isinstance(request_, ChangeMembers)
        assert bench.answers == [failed("leader 'b' gave it no answer", may_be_done=may_be_done)]
        assert bench.sent == []
        # Too late: nobody waits for it.
        bench.desk.receive(B, told(number=1))


async def test_question_that_cannot_be_sent_is_not_done(autojump_clock: MockClock) -> None:
    """The link is down, or there is no lane to the leader."""
    async with open_bench(FOLLOWS) as bench:
        await bench.ask(CHANGE)
        bench.outbox.drop_all()
        await wait_all_tasks_blocked()
        assert bench.answers == [failed("it cannot reach leader 'b'")]
    async with open_bench(FOLLOWS, reachable=False) as bench:
        await bench.ask(CHANGE)
        assert bench.answers == [failed("it cannot reach leader 'b'")]


async def test_leader_of_an_older_version_is_not_asked(autojump_clock: MockClock) -> None:
    """It would close the link at a message that it does not know; nothing is lost, and the error says what to do."""
    async with open_bench(FOLLOWS, version=MEMBERS_PROTOCOL_VERSION - 1) as bench:
        await bench.ask(CHANGE)

        assert bench.sent == []
        [answer] = bench.answers
        assert isinstance(answer, MembersFailed)
        assert answer.reason is ChangeRefusal.UNSUPPORTED
        assert not answer.may_be_done
        assert "upgrade it, or let a newer node lead" in answer.detail


async def test_stop_ends_every_wait(autojump_clock: MockClock) -> None:
    """Here, for a change, and elsewhere; and nothing is taken afterwards."""
    async with open_bench(LEADS) as bench:
        await bench.ask(MembersRequest(9))
        await bench.ask(CHANGE)
        await bench.ask(CHANGE)
        bench.engine.membership.set(Membership(PRESENT, LogIndex(6), is_committed=False))
        bench.engine.asked[1][3](ConfigurationAppended(Term(2), LogIndex(6)))
        await wait_all_tasks_blocked()

        bench.desk.stop()
        bench.engine.membership.end()
        await wait_all_tasks_blocked()
        await bench.ask(MembersRequest(9))

        assert [type(answer) for answer in bench.answers] == [NodeStopped] * 4

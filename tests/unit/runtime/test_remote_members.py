"""Asking about the members from outside: one node after the other, and what is known when none answers."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    AcceptLink,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    NodeId,
    PeerUnreachable,
    StatusRequest,
    Term,
    Transport,
)
from clustercore.runtime.remote_members import RemoteMembers

Request = MembersRequest | ChangeMembers
CHANGE = ChangeMembers(Term(2), LogIndex(5), Configuration.of("abc"))
MEMBERS = Members(Configuration.of("ab"), LogIndex(5), True, Term(2), NodeId("a"))

# Stands for an answer that never comes.
HANG = StatusRequest(-1)

Behave = Callable[[Request], Message | None]


def tells(request: Request) -> Message:
    """A node that knows the leader."""
    return MembersResponse(request.request_id, MEMBERS)


def knows_nobody(request: Request) -> Message:
    """A node without a leader."""
    return MembersFailed(request.request_id, ChangeRefusal.NOT_LEADER, "it knows no leader")


def refuses(request: Request) -> Message:
    """A leader that does not do it."""
    return MembersFailed(request.request_id, ChangeRefusal.NO_QUORUM, "no majority")


def hangs_up(_: Request) -> None:
    """A node of an older version: it closes the link at a message that it does not know."""
    return


def hangs(_: Request) -> Message:
    """A node that is stopped in the middle."""
    return HANG


def talks_of_something_else(_: Request) -> Message:
    """No node of ours."""
    return StatusRequest(1)


@attrs.define
class FakeTransport(Transport):
    """Nodes by address, each with a way to answer; the others cannot be reached. Keeps what each was asked."""

    nodes: dict[str, Behave]
    asked: list[tuple[str, Request]] = attrs.field(factory=list)
    open_links: int = 0

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        raise NotImplementedError

    async def connect(self, address: str, lane: Lane) -> Link:
        await trio.lowlevel.checkpoint()
        if address not in self.nodes:
            raise PeerUnreachable(f"nobody is at {address}")
        self.open_links += 1
        return FakeLink(self, address)


@attrs.define
class FakeLink(Link):
    """Answers each request as its node does."""

    transport: FakeTransport
    address: str
    answers: list[Message | None] = attrs.field(factory=list)
    is_closed: bool = False

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(message, MembersRequest | ChangeMembers)
        self.transport.asked.append((self.address, message))
        self.answers.append(self.transport.nodes[self.address](message))

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0)
        if answer == HANG:
            await trio.sleep_forever()
        if answer is None:
            raise LinkClosed("the link is closed")
        return answer

    async def aclose(self) -> None:
        self.transport.open_links -= not self.is_closed
        self.is_closed = True


async def test_the_next_is_asked_until_one_knows(autojump_clock: MockClock) -> None:
    """And whoever did is asked first from then on, over the same link."""
    transport = FakeTransport({"b": knows_nobody, "c": tells})
    remote = RemoteMembers(transport, lambda: ["a", "b", "c"], timeout_s=1.0)

    told = await remote.ask(MembersRequest(is_settled=True))
    assert isinstance(told, MembersResponse)
    assert told.members == MEMBERS
    await remote.ask(CHANGE)

    assert [address for address, _ in transport.asked] == ["b", "c", "c"]
    assert transport.asked[-1][1] == attrs.evolve(CHANGE, request_id=2)
    await remote.aclose()
    assert transport.open_links == 0


async def test_who_keeps_others_waiting_is_asked_last(autojump_clock: MockClock) -> None:
    """With little time, one that never answers must not be all that is tried."""
    transport = FakeTransport({"b": tells})
    remote = RemoteMembers(transport, lambda: ["a", "b"], timeout_s=1.0)
    transport.nodes["a"] = hangs
    with trio.move_on_after(1.5):
        await remote.ask(MembersRequest())
    transport.asked.clear()

    await remote.ask(MembersRequest())

    assert [address for address, _ in transport.asked] == ["b"]
    await remote.aclose()
    assert transport.open_links == 0


async def test_nobody_else_is_asked_what_a_leader_refused(autojump_clock: MockClock) -> None:
    """They would say the same."""
    transport = FakeTransport({"a": refuses, "b": tells})

    answer = await RemoteMembers(transport, lambda: ["a", "b"], timeout_s=1.0).ask(CHANGE)

    assert answer == MembersFailed(1, ChangeRefusal.NO_QUORUM, "no majority")
    assert [address for address, _ in transport.asked] == ["a"]


async def test_all_that_nobody_knew_is_told_once(autojump_clock: MockClock) -> None:
    """An operator sees each address with its reason."""
    transport = FakeTransport({"b": knows_nobody, "c": knows_nobody})

    answer = await RemoteMembers(transport, lambda: ["a", "b", "c", "a"], timeout_s=1.0).ask(MembersRequest())

    assert isinstance(answer, MembersFailed)
    assert answer.detail == "a: nobody is at a; it knows no leader"
    assert not answer.may_be_done


@pytest.mark.parametrize("behave", [hangs_up, talks_of_something_else])
async def test_change_that_was_sent_may_be_done(behave: Behave, autojump_clock: MockClock) -> None:
    """Nobody else is asked for it, and no link is left. A question can be asked of the next."""
    transport = FakeTransport({"a": behave, "b": tells})
    remote = RemoteMembers(transport, lambda: ["a", "b"], timeout_s=1.0)

    answer = await remote.ask(CHANGE)

    assert isinstance(answer, MembersFailed)
    assert answer.may_be_done
    assert "its version may know no such question" in answer.detail
    assert transport.open_links == 0
    assert isinstance(await remote.ask(MembersRequest()), MembersResponse)


async def test_change_that_reached_nobody_is_not_done(autojump_clock: MockClock) -> None:
    """Without a connection nothing was sent; and without an address nobody can be asked."""
    nowhere = await RemoteMembers(FakeTransport({}), lambda: ["a", "b"], timeout_s=1.0).ask(CHANGE)
    nobody = await RemoteMembers(FakeTransport({}), list, timeout_s=1.0).ask(CHANGE)

    assert nowhere == MembersFailed(0, ChangeRefusal.NOT_LEADER, "a: nobody is at a; b: nobody is at b")
    assert nobody == MembersFailed(0, ChangeRefusal.NOT_LEADER, "no address of a member is known")


async def test_addresses_that_are_gone_are_forgotten() -> None:
    """Discovery may name others every time: a node that runs for a year remembers those of today."""
    here = ["a"]
    transport = FakeTransport({f"{number}": tells for number in range(100)})
    remote = RemoteMembers(transport, lambda: here, timeout_s=1)

    for number in range(100):
        here[:] = [f"{number}"]
        assert isinstance(await remote.ask(MembersRequest()), MembersResponse)
        await remote.aclose()

    assert (remote._nodes, remote._misses) == ({}, {"99": -1})
    assert transport.open_links == 0

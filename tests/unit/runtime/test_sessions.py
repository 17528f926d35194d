"""The client's side of a session: what it repeats, what it remembers, and what it says it is done with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    Applied,
    LogIndex,
    NodeStopped,
    OutcomeUnknown,
    ProposalRefused,
    ResultLost,
    SessionExpired,
    SessionLimit,
    Term,
    TokenSettled,
    VersionNotEnabled,
)
from clustercore.raft.entry import EntryKind
from clustercore.runtime.session_entries import (
    Answer,
    CloseSession,
    KeepAlive,
    OpenSession,
    Operation,
    Outcome,
    ResolveCommand,
    SessionCommand,
    decode_session_entry,
    encode_answer,
)
from clustercore.runtime.sessions import Session, SessionClient
from clustercore.runtime.submitter import Fate, Submitter

# What the fake log does with an operation: it answers it, or raises.
Reaction = Answer | bytes | Exception
SESSION_ID = 5


def applied(result: bytes = b"r") -> Answer:
    """A command was applied."""
    return Answer(Outcome.APPLIED, 9, 2, result)


@attrs.define(eq=False)
class FakeLog(Submitter):
    """Notes each operation, and answers as the test says; without a word from it, as a log that does all."""

    said: list[Operation] = attrs.field(factory=list)
    reactions: list[Reaction] = attrs.field(factory=list)
    # Operations wait while it is not set.
    answers: trio.Event = attrs.field(factory=trio.Event)

    async def submit(
        self,
        kind: EntryKind,
        command: bytes,
        *,
        forward: bool = True,
        give_up_s: float | None = None,
        fate: Fate | None = None,
    ) -> Applied:
        assert kind is EntryKind.SESSION
        assert fate is not None
        operation, _ = decode_session_entry(command)
        self.said.append(operation)
        fate.tried_at = trio.current_time()
        try:
            await self.answers.wait()
        except trio.Cancelled:
            fate.may_be_appended = True
            raise
        reaction = self.reactions.pop(0) if self.reactions else _usual(operation)
        if isinstance(reaction, Exception):
            fate.may_be_appended |= isinstance(reaction, OutcomeUnknown)
            raise reaction
        encoded = reaction if isinstance(reaction, bytes) else encode_answer(reaction)
        return Applied(LogIndex(20), Term(2), encoded)


def _usual(operation: Operation) -> Answer:
    match operation:
        case SessionCommand() | ResolveCommand():
            return applied()
        case OpenSession() | KeepAlive() | CloseSession():
            return Answer(Outcome.DONE, SESSION_ID)


@asynccontextmanager
async def opened(ttl_s: float = 60.0) -> AsyncIterator[tuple[Session, FakeLog]]:
    """A session while the block lasts; what was said to open it is not kept."""
    log = FakeLog()
    log.answers.set()
    client = SessionClient(log, check=lambda command, version: None, command_version=lambda: 1, max_outstanding=8)
    async with trio.open_nursery() as nursery:
        async with client.open(nursery, ttl_s, None) as session:
            log.said.clear()
            yield session, log
        nursery.cancel_scope.cancel()


def unknown() -> OutcomeUnknown:
    """An answer got lost."""
    return OutcomeUnknown("lost")


async def test_unknown_outcome_is_asked_about_with_the_same_number(autojump_clock: MockClock) -> None:
    """Again and again, and the next command has the next number and says that the client is done with the first."""
    async with opened() as (session, log):
        log.reactions = [unknown(), unknown()]

        assert await session.propose(b"x") == Applied(LogIndex(9), Term(2), b"r")
        await session.propose(b"y")

        assert log.said == [SessionCommand(SESSION_ID, 1, 1, (), 1, b"x")] * 3 + [
            SessionCommand(SESSION_ID, 2, 2, (), 1, b"y")
        ]
    assert log.said[-1] == CloseSession(SESSION_ID)


async def test_command_without_an_answer_stays_open_until_it_is_resolved(autojump_clock: MockClock) -> None:
    """Each operation names it until then."""
    async with opened() as (session, log):
        log.answers = trio.Event()
        with trio.move_on_after(1):
            await session.propose(b"x")
        log.answers.set()
        (token,) = session.unresolved

        await session.propose(b"y")
        await session.resolve(token)
        await session.propose(b"z")

        assert log.said[1:] == [
            SessionCommand(SESSION_ID, 2, 2, (1,), 1, b"y"),
            ResolveCommand(SESSION_ID, 1),
            SessionCommand(SESSION_ID, 3, 3, (), 1, b"z"),
        ]


async def test_released_token_is_done_with_whatever_became_of_it() -> None:
    """A caller that no longer wants to know need not ask."""
    async with opened() as (session, log):
        log.answers = trio.Event()
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.propose(b"x")
        assert not session.unresolved
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.propose, b"y")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        [token] = session.unresolved

        session.release(token)

        assert not session.unresolved
        with pytest.raises(TokenSettled):
            await session.resolve(token)
        log.answers.set()
    assert log.said[-1] == CloseSession(SESSION_ID)


async def test_many_open_numbers_are_named_one_by_one() -> None:
    """An old token that is proposed late does not make all numbers since then look open."""
    async with opened() as (session, log):
        old = session.prepare()
        for _ in range(6):
            await session.propose(b"x")

        await session.propose(b"old", token=old)

        assert log.said[-1] == SessionCommand(SESSION_ID, 1, 8, (1,), 1, b"old")


@pytest.mark.parametrize(
    ("reactions", "error", "is_unresolved"),
    [
        ([Answer(Outcome.NO_ROOM)], SessionLimit, False),
        ([Answer(Outcome.NOT_ENABLED)], VersionNotEnabled, False),
        ([Answer(Outcome.LIMIT)], SessionLimit, False),
        ([unknown(), Answer(Outcome.LIMIT)], OutcomeUnknown, True),
        ([Answer(Outcome.SETTLED)], TokenSettled, False),
        ([Answer(Outcome.NO_SESSION)], SessionExpired, False),
        ([ProposalRefused("the leader's limits")], ProposalRefused, False),
        ([unknown(), ProposalRefused("the leader's limits")], OutcomeUnknown, True),
        ([NodeStopped("stopped")], NodeStopped, False),
        ([unknown(), NodeStopped("stopped")], OutcomeUnknown, True),
        ([ResultLost("too large")], ResultLost, True),
        ([b"\x08\x63"], OutcomeUnknown, True),
    ],
)
async def test_error_says_what_is_known(
    reactions: list[Reaction], error: type[Exception], is_unresolved: bool, autojump_clock: MockClock
) -> None:
    """Not done, or never will be, where that is certain; otherwise there is a token to resolve."""
    async with opened() as (session, log):
        log.reactions = reactions

        with pytest.raises(error) as caught:
            await session.propose(b"x")

        assert type(caught.value) is error
        assert len(session.unresolved) == is_unresolved
        if is_unresolved:
            assert isinstance(caught.value, OutcomeUnknown)
            assert (caught.value.token,) == session.unresolved


@pytest.mark.parametrize(("attempts", "may_be_applied"), [(1, False), (2, True)])
async def test_expired_session_says_whether_a_command_may_have_been_applied(
    attempts: int, may_be_applied: bool, autojump_clock: MockClock
) -> None:
    """Only a copy that was sent before can have been."""
    async with opened() as (session, log):
        log.reactions = [*(unknown() for _ in range(attempts - 1)), Answer(Outcome.NO_SESSION)]

        with pytest.raises(SessionExpired) as caught:
            await session.propose(b"x")

        assert caught.value.may_be_applied is may_be_applied
        assert session.has_ended
        log.said.clear()
    # There is nothing to close.
    assert log.said == []


async def test_keep_alive_speaks_only_when_nothing_else_does(autojump_clock: MockClock) -> None:
    """A command puts it off; an error does not end it; a session that is gone does."""
    async with opened(ttl_s=30) as (session, log):
        await trio.sleep(6)
        await session.propose(b"x")
        await trio.sleep(9)
        assert len(log.said) == 1
        log.reactions = [unknown(), ProposalRefused("no"), Answer(Outcome.DONE, 5), Answer(Outcome.NO_SESSION)]

        await trio.sleep(25)

        assert log.said[1:] == [KeepAlive(SESSION_ID, 2, ())] * 4
        assert session.has_ended
        await trio.sleep(100)
        assert len(log.said) == 5


async def test_closing_is_bounded(autojump_clock: MockClock) -> None:
    """A cluster that does not answer holds up nobody for more than a second, cancelled or not; no error comes of it."""
    for reactions, takes_s in (([], 1.0), ([NodeStopped("stopped")], 0.0)):
        with trio.CancelScope() as scope:
            async with opened() as (_, log):
                log.reactions = list(reactions)
                if takes_s:
                    log.answers = trio.Event()
                started = trio.current_time()
                scope.cancel()
        assert trio.current_time() - started == takes_s


async def test_each_way_of_waiting_for_room_lets_in_the_next(autojump_clock: MockClock) -> None:
    """As many run at once as may; whoever is called in and cannot begin leaves no other waiting."""
    async with opened() as (session, log):
        log.answers = trio.Event()
        done: list[bytes] = []

        async def propose(command: bytes, make_scope: Callable[[], trio.CancelScope]) -> None:
            with make_scope():
                await session.propose(command)
                done.append(command)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(propose, b"%d" % number, trio.CancelScope)
            await wait_all_tasks_blocked()
            nursery.start_soon(propose, b"cancelled", lambda: trio.move_on_after(1))
            nursery.start_soon(propose, b"last", trio.CancelScope)
            await trio.sleep(2)
            assert len(log.said) == 4
            log.answers.set()
        assert sorted(done) == [b"0", b"1", b"2", b"3", b"last"]

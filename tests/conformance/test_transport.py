"""The Transport contract, rule by rule, for every transport that ships."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AcceptLink,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Configuration,
    Entry,
    EntryKind,
    ForwardFailure,
    ForwardProposals,
    InstallSnapshotResponse,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    PeerUnreachable,
    ProposalsApplied,
    ProposalsFailed,
    RequestVoteRequest,
    RequestVoteResponse,
    ServiceTransport,
    SnapshotId,
    Term,
)
from tests.conformance.transport_kinds import KINDS, TransportKind
from tests.snapshots import install_request, snapshot

Make = Callable[[], ServiceTransport]

# Far beyond what any step takes: it only ends a test that hangs.
LIMIT_S = 20


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    """One transport after the other."""
    chosen: TransportKind = request.param
    return chosen


@asynccontextmanager
async def serving(transport: ServiceTransport, accept: AcceptLink) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Serve in the background; yields the address and a function that stops it."""
    with trio.fail_after(LIMIT_S):
        async with transport, trio.open_nursery() as nursery:
            address: str = await nursery.start(transport.serve, accept)
            yield address, nursery.cancel_scope.cancel
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(make: Make, accept: AcceptLink, lane: Lane) -> AsyncIterator[Link]:
    """Serve in the background; yields the dialling side of one link."""
    async with serving(make(), accept) as (address, _), make() as client, await client.connect(address, lane) as link:
        yield link


async def echo(link: Link) -> None:
    """Send every message back, until the link closes."""
    try:
        while True:
            await link.send(await link.receive())
    except LinkClosed:
        return


async def ask(link: Link, request: Message) -> Message:
    """Send a request and return its response."""
    await link.send(request)
    return await link.receive()


async def send_until_closed(link: Link) -> None:
    """Send until it fails: a send promises nothing, so some may go before the end of the link is known."""
    while True:
        await link.send(vote_request())


def vote_request(term: int = 1) -> RequestVoteRequest:
    """Return a small message; the term tells them apart."""
    return RequestVoteRequest(Term(term), NodeId("a"), LogIndex(5), Term(1))


ENTRY = Entry.create(LogIndex(6), Term(2), EntryKind.COMMAND, bytes(range(256)))
NO_OP = Entry.create(LogIndex(7), Term(3), EntryKind.NO_OP)
MESSAGES: list[Message] = [
    vote_request(),
    AppendEntriesRequest(Term(3), NodeId("a"), LogIndex(0), Term(0), LogIndex(0)),
    AppendEntriesRequest(Term(3), NodeId("a"), LogIndex(5), Term(2), LogIndex(4), (ENTRY, NO_OP)),
    install_request(
        snapshot(5, 2, b"state" * 50_000, members=Configuration.of("abc", learners="d", cluster_id="x")),
        term=3,
        offset=1 << 40,
        is_last=False,
    ),
    install_request(snapshot(5, 2, b"")),
    ForwardProposals(7, (b"", b"one", b"\0" * 1000)),
    ForwardProposals(8, (b"", b"one"), bytes([EntryKind.COMMAND, EntryKind.SESSION])),
]
RESPONSES: list[Message] = [
    RequestVoteResponse(Term(3), True),
    RequestVoteResponse(Term(3), False),
    AppendEntriesResponse(Term(3), True, LogIndex(5), LogIndex(7)),
    AppendEntriesResponse(Term(3), False, LogIndex(5), LogIndex(0), Term(1), LogIndex(2)),
    InstallSnapshotResponse(Term(3), LogIndex(5), SnapshotId("a-5"), 1 << 40),
    ProposalsApplied(7, Term(3), LogIndex(8), (b"", b"result")),
    ProposalsFailed(7, ForwardFailure.NOT_LEADER, NodeId("b"), "not here"),
    ProposalsFailed(7, ForwardFailure.UNKNOWN, None, ""),
    ProposalsFailed(7, ForwardFailure.NO_RESULT, None, "too large"),
]


@pytest.mark.parametrize("lane", list(Lane), ids=lambda lane: lane.value)
async def test_transport_carries_every_message_unaltered(kind: TransportKind, lane: Lane) -> None:
    """Requests one way and responses the other arrive equal to what was sent, encodings of entries included."""
    make = kind.create()
    received: list[Message] = []

    async def answer(link: Link) -> None:
        for response in RESPONSES:
            received.append(await link.receive())
            await link.send(response)
        await trio.sleep_forever()

    requests = [MESSAGES[number % len(MESSAGES)] for number in range(len(RESPONSES))]
    async with linked(make, answer, lane) as link:
        responses = []
        for request in requests:
            await link.send(request)
            responses.append(await link.receive())

    assert received == requests
    assert responses == RESPONSES
    sent = [entry.encoded for request in requests for entry in getattr(request, "entries", ())]
    assert [entry.encoded for request in received for entry in getattr(request, "entries", ())] == sent


async def test_transport_serves_many_links_at_once(kind: TransportKind) -> None:
    """Each link has a task of its own, and its messages come back on it alone."""
    make = kind.create()
    async with serving(make(), echo) as (address, _), make() as client:
        links = [await client.connect(address, Lane.CONTROL) for _ in range(5)]
        for number, link in enumerate(links):
            await link.send(vote_request(number + 1))
        for number, link in reversed(list(enumerate(links))):
            assert await link.receive() == vote_request(number + 1)
        for link in links:
            await link.aclose()


async def test_transport_address_is_the_one_to_connect_to(kind: TransportKind) -> None:
    """What ``serve`` reports when started is an address, at once good for ``connect``, and each server has its own."""
    make = kind.create()
    async with serving(make(), echo) as (first, _), serving(make(), echo) as (second, _), make() as client:
        assert first != second
        for address in (first, second):
            async with await client.connect(address, Lane.BULK) as link:
                await link.send(vote_request())
                assert await link.receive() == vote_request()


async def test_transport_connect_to_nobody_is_unreachable(kind: TransportKind) -> None:
    """Where nobody serves, ``connect`` raises PeerUnreachable."""
    with trio.fail_after(LIMIT_S):
        async with kind.create()() as client:
            with pytest.raises(PeerUnreachable):
                await client.connect(kind.nobody, Lane.CONTROL)


async def test_transport_connect_after_the_server_stopped_is_unreachable(kind: TransportKind) -> None:
    """An address is given back when ``serve`` ends."""
    make = kind.create()
    async with make() as client:
        async with serving(make(), echo) as (address, _):
            pass
        with trio.fail_after(LIMIT_S), pytest.raises(PeerUnreachable):
            await client.connect(address, Lane.CONTROL)


async def test_transport_serve_cancelled_closes_every_link(kind: TransportKind) -> None:
    """A peer that waits on a link gets LinkClosed when the server stops, on each link, and can send no more."""
    make = kind.create()
    async with make() as client:
        async with serving(make(), echo) as (address, stop):
            links = [await client.connect(address, lane) for lane in Lane]
            for link in links:
                await link.send(vote_request())
                await link.receive()
            stop()
        with trio.fail_after(LIMIT_S):
            for link in links:
                with pytest.raises(LinkClosed):
                    await link.receive()
                with pytest.raises(LinkClosed):
                    await send_until_closed(link)
                await link.aclose()


async def test_transport_stopped_server_answers_nothing(kind: TransportKind) -> None:
    """A request that is sent after ``serve`` ended reaches no handler."""
    make = kind.create()
    received: list[Message] = []

    async def record(link: Link) -> None:
        while True:
            received.append(await link.receive())
            await link.send(RequestVoteResponse(Term(1), True))

    async with make() as client:
        async with serving(make(), record) as (address, stop):
            link = await client.connect(address, Lane.CONTROL)
            await ask(link, vote_request(1))
            stop()
        with trio.fail_after(LIMIT_S), pytest.raises(LinkClosed):
            await ask(link, vote_request(2))
        await link.aclose()

    assert received == [vote_request(1)]


async def test_transport_serve_stops_a_handler_that_does_nothing(kind: TransportKind) -> None:
    """A server whose handlers neither receive nor send stops in bounded time too."""
    make = kind.create()
    idle = trio.Event()

    async def ignore(link: Link) -> None:
        idle.set()
        await trio.sleep_forever()

    async with make() as client:
        async with serving(make(), ignore) as (address, stop):
            link = await client.connect(address, Lane.CONTROL)
            await link.send(vote_request())
            await idle.wait()
            stop()
        await link.aclose()


async def test_transport_link_closes_when_accept_returns(kind: TransportKind) -> None:
    """The dialling side gets LinkClosed once the accepting side is done with the link."""
    make = kind.create()

    async def hang_up(link: Link) -> None:
        await link.receive()

    async with linked(make, hang_up, Lane.CONTROL) as link:
        await link.send(vote_request())
        with pytest.raises(LinkClosed):
            await link.receive()


async def test_link_close_is_seen_by_the_accepting_side(kind: TransportKind) -> None:
    """When the dialling side closes, the accepting side gets LinkClosed, after all that it had still to receive."""
    make = kind.create()
    ended = trio.Event()

    async def wait_for_the_end(link: Link) -> None:
        try:
            while True:
                await link.receive()
        except LinkClosed:
            ended.set()

    async with serving(make(), wait_for_the_end) as (address, _), make() as client:
        link = await client.connect(address, Lane.CONTROL)
        await link.send(vote_request())
        await link.aclose()
        await ended.wait()


async def test_link_close_ends_a_receive_under_way(kind: TransportKind) -> None:
    """A receive that waits raises LinkClosed when its own side closes; so does every later use but closing."""
    make = kind.create()
    outcomes: list[str] = []

    async def receive(link: Link) -> None:
        try:
            await link.receive()
        except LinkClosed:
            outcomes.append("closed")

    async with serving(make(), echo) as (address, _), make() as client:
        link = await client.connect(address, Lane.CONTROL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, link)
            await wait_all_tasks_blocked()
            await link.aclose()
        await link.aclose()

        assert outcomes == ["closed"]
        with pytest.raises(LinkClosed):
            await link.send(vote_request())
        with pytest.raises(LinkClosed):
            await link.receive()


async def test_link_closes_even_if_cancelled(kind: TransportKind) -> None:
    """In a cancelled scope ``aclose`` closes all the same, for both sides."""
    make = kind.create()
    ended = trio.Event()

    async def wait_for_the_end(link: Link) -> None:
        await echo(link)
        ended.set()

    async with serving(make(), wait_for_the_end) as (address, _), make() as client:
        link = await client.connect(address, Lane.CONTROL)
        await link.send(vote_request())
        await link.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.aclose()
        with pytest.raises(LinkClosed):
            await link.send(vote_request())
        await ended.wait()


async def test_link_receive_cancelled_loses_no_message(kind: TransportKind) -> None:
    """Messages arrive whole and once around receives that were cancelled before, while and after they came."""
    make = kind.create()
    async with linked(make, echo, Lane.BULK) as link:
        with trio.move_on_after(0):
            await link.receive()
        received: list[Message] = []
        for number in range(1, 21):
            await link.send(vote_request(number))
        attempts = 0
        while len(received) < 20:
            # At some turn of the event loop: before, while or after a message comes. Each attempt at a message gets one
            # turn more than the last, for a receive may take any number of them.
            turns = len(received) % 4 + attempts
            attempts += 1
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after_turns, scope, turns)
                    received.append(await link.receive())
                    attempts = 0
                    nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()

    # A transport may reorder; none of ours repeats, so all are there once.
    assert sorted(message.term for message in received if isinstance(message, RequestVoteRequest)) == list(range(1, 21))


async def _cancel_after_turns(scope: trio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_link_send_waits_when_nobody_receives(kind: TransportKind) -> None:
    """The buffer is bounded: against a peer that reads nothing a sender stops, and goes on when it reads."""
    make = kind.create()
    read = trio.Event()

    async def read_late(link: Link) -> None:
        await read.wait()
        await echo_nothing(link)

    async def echo_nothing(link: Link) -> None:
        try:
            while True:
                await link.receive()
        except LinkClosed:
            return

    # Large enough that no transport buffers a thousand of them.
    large = install_request(snapshot(1, data=b"\0" * 256_000))
    async with linked(make, read_late, Lane.BULK) as link:
        sent = 0
        with trio.move_on_after(0.2) as scope:
            while sent < 1000:
                await link.send(large)
                sent += 1
        assert scope.cancelled_caught
        assert sent < 1000
        read.set()
        # The cancelled send may have been cut off in the middle; then the link had to close.
        with suppress(LinkClosed):
            await link.send(large)


async def test_transport_leaves_no_open_link(kind: TransportKind) -> None:
    """Leaving the transport's block closes the links that were dialled and not closed."""
    make = kind.create()
    ended = trio.Event()

    async def wait_for_the_end(link: Link) -> None:
        await echo(link)
        ended.set()

    async with serving(make(), wait_for_the_end) as (address, _):
        async with make() as client:
            link = await client.connect(address, Lane.CONTROL)
            await link.send(vote_request())
            await link.receive()
        await ended.wait()
        with pytest.raises(LinkClosed):
            await link.receive()

"""Links over gRPC between transports with a loop each: the Transport contract, and the unary RPCs as one-shot links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AcceptLink,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    EntryKind,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    NodeStatus,
    PeerTimeout,
    PeerUnreachable,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    ServiceError,
    StatusRequest,
    StatusResponse,
    Term,
    TransportError,
    decode_body,
    encode_body,
)
from clustercore_grpc import GrpcTransport
from tests.snapshots import install_request, snapshot

STATUS = "clustercore.v1.Raft/Status"


@asynccontextmanager
async def serving(accept: AcceptLink, **options: Any) -> AsyncIterator[str]:
    """Serve on a free port; yields the address."""
    with trio.fail_after(30):
        async with GrpcTransport(**options) as transport, trio.open_nursery() as nursery:
            yield await nursery.start(transport.serve, accept)
            nursery.cancel_scope.cancel()


def node_status() -> NodeStatus:
    """Some status of some node."""
    zero = LogIndex(0)
    return NodeStatus(NodeId("n1"), Role.LEADER, Term(3), NodeId("n1"), zero, zero, LogIndex(1), zero, 0, ())


def append(number: int, command: bytes = b"x") -> AppendEntriesRequest:
    """A request with one entry, at an index of its own."""
    entry = Entry.create(LogIndex(number + 1), Term(1), EntryKind.COMMAND, command)
    return AppendEntriesRequest(Term(1), NodeId("n1"), LogIndex(number), Term(1), LogIndex(0), (entry,))


def response_to(message: Message) -> Message:
    """Answer by kind of request."""
    if isinstance(message, AppendEntriesRequest):
        return AppendEntriesResponse(message.term, True, message.prev_log_index, message.entries[-1].index)
    if isinstance(message, RequestVoteRequest):
        return RequestVoteResponse(message.term, True)
    assert isinstance(message, StatusRequest)
    return StatusResponse(node_status(), message.request_id)


async def answer(link: Link) -> None:
    """Answer every request until the link ends."""
    try:
        while True:
            await link.send(response_to(await link.receive()))
    except LinkClosed:
        return


async def ignore(link: Link) -> None:
    """Keep the link, and read nothing."""
    await trio.sleep_forever()


async def test_two_transports_in_one_program_exchange_messages() -> None:
    """Each of two transports serves and dials the other; every message arrives as it was sent, in order."""
    async with serving(answer) as first, serving(answer) as second, GrpcTransport() as dialler:
        for address in (first, second):
            async with await dialler.connect(address, Lane.BULK) as link:
                for number in range(50):
                    await link.send(append(number))
                responses = [await link.receive() for _ in range(50)]

                assert responses == [response_to(append(number)) for number in range(50)]


async def test_transport_serves_and_dials_at_the_same_time() -> None:
    """One transport is both sides of a link: one loop carries listener and connection."""
    with trio.fail_after(30):
        async with GrpcTransport() as transport, trio.open_nursery() as nursery:
            address = await nursery.start(transport.serve, answer)
            async with await transport.connect(address, Lane.CONTROL) as link:
                await link.send(StatusRequest(7))

                assert await link.receive() == StatusResponse(node_status(), 7)
            nursery.cancel_scope.cancel()


async def test_large_message_crosses_whole() -> None:
    """A message of many frames, larger than every window and buffer, arrives unaltered."""
    data = bytes(range(256)) * (5 * 4096)
    chunk = install_request(snapshot(9, data=data))
    received: list[Message] = []

    async def accept(link: Link) -> None:
        received.append(await link.receive())
        await link.send(RequestVoteResponse(Term(1), False))
        await link.receive()

    async with (
        serving(_until_closed(accept)) as address,
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.BULK) as link,
    ):
        await link.send(chunk)
        await link.receive()

    assert received == [chunk]


def _until_closed(accept: AcceptLink) -> AcceptLink:
    async def wrapper(link: Link) -> None:
        try:
            await accept(link)
        except LinkClosed:
            return

    return wrapper


async def test_message_above_the_limit_is_refused_and_the_link_stays() -> None:
    """A message larger than max_message_bytes raises TransportError; the next one is carried."""
    async with (
        serving(answer) as address,
        GrpcTransport(max_message_bytes=2048) as dialler,
        await dialler.connect(address, Lane.BULK) as link,
    ):
        with pytest.raises(TransportError, match="max_message_bytes allows 2048") as caught:
            await link.send(append(1, bytes(4096)))
        await link.send(append(2))

        assert not isinstance(caught.value, LinkClosed)
        assert await link.receive() == response_to(append(2))


async def test_message_above_the_receivers_limit_closes_the_link() -> None:
    """The receiver refuses on the length prefix; both sides see LinkClosed, and say the limit."""
    seen: list[str] = []

    async def accept(link: Link) -> None:
        await link.send(response_to(await link.receive()))
        try:
            await link.receive()
        except LinkClosed as exc:
            seen.append(str(exc))

    async with (
        serving(accept, max_message_bytes=2048) as address,
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.BULK) as link,
    ):
        await link.send(append(1))
        await link.receive()
        await link.send(append(1, bytes(4096)))
        with pytest.raises(LinkClosed, match="at most 2048 are taken"):
            await link.receive()

    assert len(seen) == 1
    assert "at most 2048 are taken" in seen[0]


async def test_malformed_message_closes_the_link_and_leaves_the_node_unharmed() -> None:
    """Bytes that are no message end their own link with LinkClosed on both sides, and nothing else."""
    reasons: list[str] = []

    async def accept(link: Link) -> None:
        try:
            while True:
                await link.send(response_to(await link.receive()))
        except LinkClosed as exc:
            reasons.append(str(exc))

    async with serving(accept) as address, GrpcTransport() as dialler:
        async with await dialler.connect(address, Lane.BULK) as good, await dialler.connect(address, Lane.BULK) as bad:
            bad._stream.send_nowait(b"\x1a\x04\x32\x02\x08\x01")  # type: ignore[attr-defined]  # past the codec
            with pytest.raises(LinkClosed, match="malformed"):
                await bad.receive()
            await good.send(append(1))

            assert await good.receive() == response_to(append(1))
        await wait_all_tasks_blocked()

    assert "malformed entry" in reasons[0]


async def test_closing_a_link_wakes_both_sides() -> None:
    """A receive under way raises LinkClosed on the side that closes and on the other; closing twice is harmless."""
    ended = trio.Event()

    async def accept(link: Link) -> None:
        with pytest.raises(LinkClosed):
            await link.receive()
        with pytest.raises(LinkClosed):
            await link.send(StatusRequest())
        ended.set()

    async def expect_closed(link: Link) -> None:
        with pytest.raises(LinkClosed, match="closed here"):
            await link.receive()

    async with serving(accept) as address, GrpcTransport() as dialler:
        link = await dialler.connect(address, Lane.CONTROL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, link)
            await wait_all_tasks_blocked()
            await link.aclose()
        await link.aclose()
        with pytest.raises(LinkClosed):
            await link.send(StatusRequest())
        await ended.wait()

        assert dialler._client.connection_count == 0


async def test_link_closes_even_if_the_closer_is_cancelled() -> None:
    """aclose in a cancelled scope leaves no connection."""
    async with serving(answer) as address, GrpcTransport() as dialler:
        link = await dialler.connect(address, Lane.CONTROL)
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.aclose()

        assert dialler._client.connection_count == 0


async def test_link_ends_when_accept_returns() -> None:
    """What accept sent last still arrives, then the link is closed."""

    async def accept(link: Link) -> None:
        await link.send(response_to(await link.receive()))

    async with (
        serving(accept) as address,
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        await link.send(append(1))

        assert await link.receive() == response_to(append(1))
        with pytest.raises(LinkClosed, match="ended by the peer"):
            await link.receive()


async def test_full_link_makes_send_wait_and_loses_nothing() -> None:
    """Against a peer that does not read, send waits after a bounded number; then all arrive in order."""
    go = trio.Event()
    received: list[Message] = []
    sent = 0
    total = 120

    async def accept(link: Link) -> None:
        await go.wait()
        for _ in range(total):
            received.append(await link.receive())

    async def send_all(link: Link) -> None:
        nonlocal sent
        for number in range(total):
            await link.send(append(number, bytes(100_000)))
            sent += 1

    async with (
        serving(accept) as address,
        GrpcTransport() as dialler,
        trio.open_nursery() as nursery,
        await dialler.connect(address, Lane.BULK) as link,
    ):
        nursery.start_soon(send_all, link)
        await wait_all_tasks_blocked(0.05)
        sent_while_full = sent
        go.set()
        with pytest.raises(LinkClosed, match="ended by the peer"):
            await link.receive()

    # The peer's window of 2 MiB and our buffer of 256 KiB take about 23; the last one in may overfill it.
    assert 0 < sent_while_full < 30
    assert received == [append(number, bytes(100_000)) for number in range(total)]


async def test_cancelled_send_is_whole_or_not_at_all() -> None:
    """Sends cancelled while the link is full leave no part of a message behind."""
    go = trio.Event()
    received: list[Message] = []

    async def accept(link: Link) -> None:
        await go.wait()
        while True:
            received.append(await link.receive())
            if received[-1] == append(99):
                last.set()

    last = trio.Event()
    sent: list[Message] = []
    async with (
        serving(_until_closed(accept)) as address,
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.BULK) as link,
    ):
        for number in range(40):
            message = append(number, bytes([number]) * 100_000)
            with trio.move_on_after(0.01) as scope:
                await link.send(message)
            if not scope.cancelled_caught:
                sent.append(message)
        go.set()
        await link.send(append(99))
        await last.wait()

    assert len(sent) < 40
    assert received == [*sent, append(99)]


async def test_cancelled_receive_loses_no_message() -> None:
    """A receive that is cancelled, at whatever moment, takes nothing away."""
    async with (
        serving(answer) as address,
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        received: list[Message] = []
        for number in range(30):
            await link.send(append(number))
            for checkpoints in range(8):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_after, checkpoints, scope)
                        received.append(await link.receive())
                        nursery.cancel_scope.cancel()
                if len(received) > number:
                    break
            else:
                received.append(await link.receive())

    assert received == [response_to(append(number)) for number in range(30)]


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_full_bulk_lane_does_not_delay_the_control_lane() -> None:
    """While one link of a peer is stuck, another one to the same peer answers."""

    async def accept(link: Link) -> None:
        first = await link.receive()
        if isinstance(first, StatusRequest):
            await link.send(response_to(first))
        await trio.sleep_forever()

    async def fill(link: Link) -> None:
        try:
            while True:
                await link.send(append(1, bytes(500_000)))
        except LinkClosed:
            return

    async with (
        serving(accept) as address,
        GrpcTransport() as dialler,
        trio.open_nursery() as nursery,
        await dialler.connect(address, Lane.BULK) as bulk,
        await dialler.connect(address, Lane.CONTROL) as control,
    ):
        nursery.start_soon(fill, bulk)
        await wait_all_tasks_blocked(0.05)
        await control.send(StatusRequest(1))

        assert await control.receive() == StatusResponse(node_status(), 1)


async def test_nobody_listening_is_unreachable() -> None:
    """A refused connection, a name that does not exist and an address that is none are PeerUnreachable."""
    async with serving(answer) as address:
        free_again = address
    async with GrpcTransport() as dialler:
        for address in (free_again, "no.such.host.invalid:1", "nonsense"):
            with pytest.raises(PeerUnreachable, match=address):
                await dialler.connect(address, Lane.CONTROL)

        assert dialler._client.connection_count == 0


async def test_address_in_use_is_a_transport_error() -> None:
    """A second listener on the same port is refused with a typed error."""
    async with serving(answer) as address, GrpcTransport(address) as second:
        with pytest.raises(TransportError, match="cannot listen"):
            await second.serve(answer, task_status=trio.TASK_STATUS_IGNORED)


async def test_transport_outside_its_block_is_a_transport_error() -> None:
    """Before and after its block, a transport says that it is not open."""
    transport = GrpcTransport()
    with pytest.raises(TransportError, match="not open"):
        await transport.connect("127.0.0.1:1", Lane.CONTROL)
    async with transport:
        await trio.lowlevel.checkpoint()
    with pytest.raises(TransportError, match="not open"):
        await transport.call("127.0.0.1:1", STATUS, b"")
    with pytest.raises(TransportError, match="used once"):
        await transport.__aenter__()


async def test_what_the_block_raises_is_not_wrapped() -> None:
    """An error of the user's leaves the block as it is, not in a group."""
    with pytest.raises(KeyError):
        async with GrpcTransport():
            raise KeyError("mine")


async def test_error_from_accept_leaves_serve_as_it_is() -> None:
    """An error that the node raises from accept ends serve, without a group around it."""
    caught: list[Exception] = []

    async def accept(link: Link) -> None:
        await link.receive()
        raise ValueError("broken invariant")

    async def serve(transport: GrpcTransport, *, task_status: trio.TaskStatus[str]) -> None:
        try:
            await transport.serve(accept, task_status=task_status)
        except ValueError as exc:
            caught.append(exc)

    with trio.fail_after(30):
        async with GrpcTransport() as transport, GrpcTransport() as dialler, trio.open_nursery() as nursery:
            address = await nursery.start(serve, transport)
            async with await dialler.connect(address, Lane.CONTROL) as link:
                await link.send(StatusRequest())
                with pytest.raises(LinkClosed):
                    await link.receive()

    assert [str(exc) for exc in caught] == ["broken invariant"]
    assert caught[0].__context__ is None


# --- Unary RPCs as links with one request ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rpc", "request_message"),
    [
        ("Status", StatusRequest(4)),
        ("AppendEntries", append(4)),
        ("RequestVote", RequestVoteRequest(Term(4), NodeId("n2"), LogIndex(1), Term(1))),
    ],
)
async def test_unary_rpc_reaches_the_node_as_a_link(rpc: str, request_message: Message) -> None:
    """A unary RPC is answered by the same accept, with the message alone as its body."""
    async with serving(answer) as address, GrpcTransport() as client:
        body = await client.call(address, f"clustercore.v1.Raft/{rpc}", encode_body(request_message))

    response = response_to(request_message)
    assert decode_body(type(response), body) == response


async def test_one_shot_link_ends_with_its_response() -> None:
    """After the response, and after a refused one, the link does what the contract says."""
    notes: list[str] = []

    async def accept(link: Link) -> None:
        request = await link.receive()
        try:
            await link.send(RequestVoteResponse(Term(1), True))
        except TransportError as exc:
            notes.append(str(exc))
        await link.send(response_to(request))
        for ended in (link.receive, lambda: link.send(response_to(request))):
            with pytest.raises(LinkClosed, match="answered"):
                await ended()
            notes.append("ended")
        await link.aclose()

    async with serving(accept) as address, GrpcTransport() as client:
        await client.call(address, STATUS, b"")
        await wait_all_tasks_blocked()

    refusal = "this link answers a StatusRequest with a StatusResponse, not with a RequestVoteResponse"
    assert notes == [refusal, "ended", "ended"]


async def test_unary_rpc_without_an_answer_times_out() -> None:
    """A node that never answers costs the client its deadline; the link just ends, without cancelling the node."""
    reasons: list[str] = []

    async def accept(link: Link) -> None:
        await link.receive()
        try:
            await link.receive()
        except LinkClosed as exc:
            reasons.append(str(exc))

    async with serving(accept, timeout=0.05) as address, GrpcTransport() as client:
        with pytest.raises(PeerTimeout, match=r"DEADLINE_EXCEEDED: the node did not answer Status within 0.05 s"):
            await client.call(address, STATUS, b"")

    assert "did not answer Status" in reasons[0]


async def test_unary_rpc_that_accept_drops_is_unavailable() -> None:
    """When accept returns without an answer the client is told at once."""

    async def accept(link: Link) -> None:
        await link.receive()

    async with serving(accept) as address, GrpcTransport() as client:
        with pytest.raises(LinkClosed, match="UNAVAILABLE: the node did not answer Status"):
            await client.call(address, STATUS, b"")


@pytest.mark.parametrize("body", [b"\x08", b"\xff\xff"], ids=["cut off", "no field"])
async def test_malformed_unary_request_is_refused(body: bytes) -> None:
    """A body that is no message is INVALID_ARGUMENT, and the node never sees it."""
    seen: list[Link] = []

    async def accept(link: Link) -> None:
        seen.append(link)
        await trio.lowlevel.checkpoint()

    async with serving(accept) as address, GrpcTransport() as client:
        with pytest.raises(ServiceError, match="INVALID_ARGUMENT"):
            await client.call(address, STATUS, body)

    assert not seen


async def test_unary_link_ends_when_the_client_leaves() -> None:
    """A client that gives up makes the link's receive raise LinkClosed."""
    arrived, left = trio.Event(), trio.Event()

    async def accept(link: Link) -> None:
        await link.receive()
        arrived.set()
        with pytest.raises(LinkClosed, match="the client is gone"):
            await link.receive()
        left.set()

    async with serving(accept) as address, GrpcTransport() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.call, address, STATUS, b"")
        await arrived.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await left.wait()

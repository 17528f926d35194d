"""What the world does to transports over sockets, a test for each hazard: nodes survive, and say what they refuse."""

from __future__ import annotations

import datetime
import importlib
import json
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from clustercore import Node
from clustercore.interfaces import (
    AcceptLink,
    AppendEntriesRequest,
    Entry,
    EntryKind,
    Hello,
    HelloResponse,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    PeerTimeout,
    PeerUnreachable,
    RequestVoteRequest,
    Role,
    Service,
    ServiceTransport,
    Term,
    TransportError,
    split_address,
)
from clustercore_memory import MemoryStorage
from clustercore_static import StaticDiscovery
from tests.certificates import Authority
from tests.integration.grpc_peers import silent_peer
from tests.simulation.cluster import Journal

pytestmark = pytest.mark.integration

# Far beyond what any step takes: it only ends a test that hangs.
LIMIT_S = 60
QUICK = {"keepalive_time_ms": 100, "keepalive_timeout_ms": 100}
VOTE = RequestVoteRequest(Term(2), NodeId("n2"), LogIndex(1), Term(1))
LARGE = AppendEntriesRequest(
    Term(1),
    NodeId("n1"),
    LogIndex(0),
    Term(0),
    LogIndex(0),
    (Entry.create(LogIndex(1), Term(1), EntryKind.COMMAND, bytes(1_000_000)),),
)


@attrs.frozen
class Kind:
    """A transport, and how its connections begin."""

    name: str
    module: str
    # What a client says before its messages, up to where the length of the first one stands.
    opening: bytes
    # What a server says to accept a link.
    accepting: bytes
    # A message that claims 1 GiB.
    gigabyte: bytes

    def make(self, **options: Any) -> Any:
        """Make a transport of this kind."""
        return getattr(importlib.import_module(self.module), f"{self.name.title()}Transport")(**options)


_TCP_OPEN = b"\x89CLCR1\r\n" + bytes.fromhex("00000002 8c79135c 01") + b"c"
KINDS = [
    Kind("tcp", "clustercore_tcp", _TCP_OPEN, bytes.fromhex("00000001 3c0c8ea1 02"), b"\x40\x00\x00\x00" + bytes(5)),
    Kind(
        "http",
        "clustercore_http",
        b"POST /links/control HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"40000000\r\n",
    ),
    Kind("grpc", "clustercore_grpc", b"", b"", b""),
]
# Those whose bytes are written down above; tests/integration/test_grpc_bytes.py does the like for HTTP/2.
RAW_KINDS = [kind for kind in KINDS if kind.opening]


@pytest.fixture(params=RAW_KINDS, ids=lambda kind: kind.name)
def raw_kind(request: pytest.FixtureRequest) -> Kind:
    """One transport after the other whose bytes are written down."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """One transport after the other."""
    chosen: Kind = request.param
    return chosen


async def echo(link: Link) -> None:
    """Send every message back, until the link closes."""
    with suppress(LinkClosed):
        while True:
            await link.send(await link.receive())


@asynccontextmanager
async def serving(
    transport: ServiceTransport, accept: AcceptLink = echo
) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Serve in the background; yields the address and a function that stops it."""
    with trio.fail_after(LIMIT_S):
        async with transport, trio.open_nursery() as nursery:
            address: str = await nursery.start(transport.serve, accept)
            yield address, nursery.cancel_scope.cancel
            nursery.cancel_scope.cancel()


async def assert_serves(client: ServiceTransport, address: str) -> None:
    """Make sure that the server answers a client that behaves."""
    async with await client.connect(address, Lane.CONTROL) as link:
        await link.send(VOTE)
        assert await link.receive() == VOTE


@asynccontextmanager
async def deaf_server(kind: Kind) -> AsyncIterator[str]:
    """A server that accepts links, and from then on neither reads nor writes."""

    async def accept(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(kind.accepting)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, accept, 0)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


# --- Silence ---------------------------------------------------------------------------------------------------------


async def test_silent_peer_with_a_full_send_buffer_is_closed(raw_kind: Kind) -> None:
    """Sender and receiver get LinkClosed that says keepalive, and no connection is left."""
    ends: list[str] = []

    async def send(link: Link) -> None:
        with pytest.raises(LinkClosed, match="keepalive"):  # noqa: PT012  # which of the sends fails is the buffer's choice
            while True:
                await link.send(LARGE)
        ends.append("send")

    async def receive(link: Link) -> None:
        with pytest.raises(LinkClosed, match="keepalive"):
            await link.receive()
        ends.append("receive")

    with trio.fail_after(LIMIT_S):
        async with deaf_server(raw_kind) as address, raw_kind.make(**QUICK) as client:
            link = await client.connect(address, Lane.BULK)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, link)
                nursery.start_soon(receive, link)

            assert sorted(ends) == ["receive", "send"]
            assert client.connection_count == 0
            assert client.statistics()[address].silences == 1


@pytest.mark.slow
async def test_call_that_a_silent_peer_does_not_read_ends_and_leaves_no_socket(kind: Kind) -> None:
    """A request larger than all buffers ends by keepalive, or over HTTP by ``timeout``; its socket is gone with it."""
    large = bytes(32 << 20)
    with trio.fail_after(LIMIT_S):
        async with (
            deaf_server(kind) if kind.opening else silent_peer() as address,
            kind.make(timeout=2.0 if kind.name == "http" else 30.0, **QUICK) as client,
        ):
            with pytest.raises(TransportError, match="no answer within 2 s" if kind.name == "http" else "keepalive"):
                await client.call(address, "test.App/Shout", large)
            assert client.connection_count == 0

            with trio.move_on_after(5) as scope, pytest.raises(TransportError):  # either step may tell
                async with client.open_stream(address, "test.App/Shout", large) as responses:
                    await responses.receive()
            assert scope.cancelled_caught is (kind.name == "http")
            assert client.connection_count == 0


async def test_silent_peer_is_found_by_one_who_only_listens(raw_kind: Kind) -> None:
    """A receive that waits ends with LinkClosed that says keepalive."""
    with trio.fail_after(LIMIT_S):
        async with (
            deaf_server(raw_kind) as address,
            raw_kind.make(**QUICK) as client,
            await client.connect(address, Lane.CONTROL) as link,
        ):
            with pytest.raises(LinkClosed, match="keepalive"):
                await link.receive()


async def test_quiet_link_and_quiet_stream_outlive_keepalive(kind: Kind) -> None:
    """Where both sides are well and have nothing to say, keepalive ends nothing, in five times its patience."""

    async def wait_long(request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        await trio.sleep(1.0)
        await send(b"late")

    server = kind.make(**QUICK)
    server.offer([Service("test.App", streams={"Wait": wait_long})])
    async with serving(server) as (address, _), kind.make(**QUICK) as client:
        link = await client.connect(address, Lane.CONTROL)
        with trio.move_on_after(1.0):
            await link.receive()
        await link.send(VOTE)
        assert await link.receive() == VOTE
        async with client.open_stream(address, "test.App/Wait", b"") as responses:
            assert [response async for response in responses] == [b"late"]
        await link.aclose()


_SERVER = """
import json, sys, trio
from clustercore.interfaces import LinkClosed
from {module} import {name}Transport
async def echo(link):
    try:
        while True:
            await link.send(await link.receive())
    except LinkClosed:
        pass
async def main():
    async with {name}Transport(**json.loads(sys.argv[1])) as transport, trio.open_nursery() as nursery:
        print(await nursery.start(transport.serve, echo), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("with_tls", [False, True], ids=["clear", "tls"])
async def test_sigstop_of_a_server_is_noticed_and_sigcont_mends_it(
    kind: Kind, authority: Authority, with_tls: bool
) -> None:
    """The kernel of a stopped process goes on acknowledging; keepalive sees through it. Woken, it serves again."""
    server, files = (authority.issue(name).options if with_tls else {} for name in ("n1", "n2"))
    program = _SERVER.format(module=kind.module, name=kind.name.title())
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program, json.dumps(server)], stdout=subprocess.PIPE
    )
    try:
        with trio.fail_after(LIMIT_S):
            assert process.stdout is not None
            address = (await process.stdout.receive_some()).decode().strip()
            async with kind.make(timeout=10.0, **QUICK, **files) as client:
                link = await client.connect(address, Lane.CONTROL)
                await link.send(VOTE)
                assert await link.receive() == VOTE
                process.send_signal(signal.SIGSTOP)
                with pytest.raises(LinkClosed, match="keepalive"):
                    await link.receive()
                assert client.statistics()[address].silences == 1
                process.send_signal(signal.SIGCONT)
                await assert_serves(client, address)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


# --- Strangers with a Hello ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_node_of_another_cluster_is_refused_with_a_clear_error(kind: Kind) -> None:
    """What a Hello says of another cluster is answered with both ids; the node leads on, and takes the right ones.

    So is a Hello whose names are too long, with how long they may be.
    """
    discovery, storage = StaticDiscovery({}), MemoryStorage()
    node = Node("n1", machine=Journal(), transport=kind.make(), storage=storage, discovery=discovery, voters=["n1"])
    with trio.fail_after(LIMIT_S):
        async with node, kind.make() as client:
            await node.wait_leader()
            own = node.status().configuration.cluster_id
            address = (await discovery.members()).address_of(NodeId("n1"))
            assert address is not None
            async with await client.connect(address, Lane.CONTROL) as link:
                await link.send(Hello(NodeId("n2" * 200), NodeId("n1"), incarnation="i", starts=1))
                answer = await link.receive()
                assert isinstance(answer, HelloResponse)
                assert answer.refusal == "of the caller's Hello, node_id has 400 bytes; at most 255 are allowed"
            for cluster_id in ("another", own):
                async with await client.connect(address, Lane.CONTROL) as link:
                    await link.send(Hello(NodeId("n2"), NodeId("n1"), cluster_id=cluster_id, incarnation="i", starts=1))
                    answer = await link.receive()
                    assert isinstance(answer, HelloResponse)
                    if cluster_id == own:
                        assert answer.refusal == ""
                        continue
                    assert f"node 'n1' belongs to cluster {own}, node 'n2' to another" in answer.refusal
                    # It is no word of a peer's.
                    await link.send(VOTE)
                    with pytest.raises(LinkClosed):
                        await link.receive()
            assert node.status().role is Role.LEADER
            assert (await node.propose(b"x")).index > 0


# --- Stopping --------------------------------------------------------------------------------------------------------


async def test_server_stopped_with_idle_and_busy_clients_is_gone_at_once(kind: Kind) -> None:
    """``serve`` ends within a second though clients wait, call and keep connections; afterwards nothing is answered."""
    asked = trio.Event()

    async def shout(request: bytes) -> bytes:
        return request.upper()

    async def wait(request: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    server = kind.make()
    server.offer([Service("test.App", unary={"Shout": shout, "Wait": wait})])
    ended: list[str] = []

    async def expect_end(name: str, work: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(LinkClosed):
            await work()
        ended.append(name)

    async with kind.make(timeout=30.0) as client, trio.open_nursery() as nursery:
        async with serving(server) as (address, stop):
            assert await client.call(address, "test.App/Shout", b"idle") == b"IDLE"
            link = await client.connect(address, Lane.CONTROL)
            nursery.start_soon(expect_end, "link", link.receive)
            nursery.start_soon(expect_end, "call", lambda: client.call(address, "test.App/Wait", b""))
            await asked.wait()
            begun = trio.current_time()
            stop()
        assert trio.current_time() - begun < 1.0
        with pytest.raises(PeerUnreachable):
            await client.call(address, "test.App/Shout", b"more")
    assert sorted(ended) == ["call", "link"]


@pytest.mark.slow
async def test_ten_thousand_random_cancellations_leave_nothing_in_the_pool(kind: Kind) -> None:
    """Whenever calls are given up, no connection stays in use, and the next call is answered."""
    rng = random.Random(5)

    async def shout(request: bytes) -> bytes:
        for _ in range(rng.randrange(3)):
            await trio.lowlevel.checkpoint()
        return request.upper()

    server = kind.make()
    server.offer([Service("test.App", unary={"Shout": shout})])
    cancelled = 0

    async def call_and_give_up(client: Any, address: str, count: int) -> None:
        nonlocal cancelled
        for _ in range(count):
            with trio.CancelScope() as scope:
                # At a turn of the event loop, or at a time.
                if rng.random() < 0.5:
                    scope.deadline = trio.current_time() + rng.random() * 0.002
                else:
                    nursery.start_soon(_cancel_after_turns, scope, rng.randrange(12))
                with suppress(TransportError):
                    assert await client.call(address, "test.App/Shout", b"on") == b"ON"
            cancelled += scope.cancelled_caught

    with trio.fail_after(10 * LIMIT_S):
        async with server, kind.make(timeout=30.0) as client, trio.open_nursery() as serving_nursery:
            address: str = await serving_nursery.start(server.serve, echo)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(call_and_give_up, client, address, 1000)
            assert await client.call(address, "test.App/Shout", b"still") == b"STILL"
            # Those that are kept for the next call, and no other.
            assert client.connection_count <= 11
            serving_nursery.cancel_scope.cancel()
    assert cancelled > 1000


async def _cancel_after_turns(scope: trio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


# --- Strangers -------------------------------------------------------------------------------------------------------


async def test_wrong_token_is_refused_with_a_clear_error(kind: Kind) -> None:
    """Links and calls with another token, or none, are refused and told why; no error holds the secret."""

    async def shout(request: bytes) -> bytes:
        return request.upper()

    server = kind.make(token="right")
    server.offer([Service("test.App", unary={"Shout": shout})])
    async with serving(server) as (address, _):
        for wrong in ("wrong", ""):
            async with kind.make(token=wrong) as client:
                with pytest.raises(TransportError, match="token") as caught:  # at once, or when it is used
                    async with await client.connect(address, Lane.CONTROL) as link:
                        await link.receive()
                assert "right" not in str(caught.value)
                with pytest.raises(TransportError, match="token"):
                    await client.call(address, "test.App/Shout", b"")
        async with kind.make(token="right") as client:
            await assert_serves(client, address)
            assert await client.call(address, "test.App/Shout", b"in") == b"IN"


async def test_wrong_cluster_id_is_refused_with_a_clear_error(kind: Kind) -> None:
    """Links and calls of a client that means another cluster are refused and told both; one that means this is not."""

    async def shout(request: bytes) -> bytes:
        return request.upper()

    server = kind.make()
    server.offer([Service("test.App", unary={"Shout": shout})])
    async with serving(server) as (address, _):
        async with kind.make(cluster_id="blue") as client:
            # The server does not know yet which cluster it is to belong to.
            assert await client.call(address, "test.App/Shout", b"in") == b"IN"
        server.name_cluster("green")
        async with kind.make(cluster_id="blue") as client:
            with pytest.raises(TransportError, match=r"cluster green.*blue is meant"):
                async with await client.connect(address, Lane.CONTROL) as link:
                    await link.receive()
            with pytest.raises(TransportError, match=r"cluster green.*blue is meant"):
                await client.call(address, "test.App/Shout", b"")
            with pytest.raises(TransportError, match=r"cluster green.*blue is meant"):  # at once, or when it is used
                async with client.open_stream(address, "test.App/Shout", b"") as responses:
                    await responses.receive()
        for right in ("green", ""):
            async with kind.make(cluster_id=right) as client:
                await assert_serves(client, address)
                assert await client.call(address, "test.App/Shout", b"in") == b"IN"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of the cluster."""
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_tls_carries_links_and_calls(kind: Kind, authority: Authority) -> None:
    """With certificates of one authority, everything works as it does in the clear."""

    async def shout(request: bytes) -> bytes:
        return request.upper()

    server = kind.make(**authority.issue("n1").options)
    server.offer([Service("test.App", unary={"Shout": shout})])
    async with serving(server) as (address, _), kind.make(**authority.issue("n2").options) as client:
        await assert_serves(client, address)
        assert await client.call(address, "test.App/Shout", b"in") == b"IN"
        async with await client.connect(address, Lane.BULK) as link:
            await link.send(LARGE)
            assert await link.receive() == LARGE


async def test_wrong_certificate_is_refused_with_a_clear_error(
    kind: Kind, authority: Authority, tmp_path: Path
) -> None:
    """Neither side takes a certificate of another authority; nor is a client without TLS let in."""
    other = Authority(tmp_path)
    foreign = other.issue("n2", trusts=authority)
    deceived = other.issue("n3")
    async with serving(kind.make(**authority.issue("n1").options)) as (address, _):
        async with kind.make(**deceived.options) as client:
            with pytest.raises(PeerUnreachable, match="certificate"):
                await client.connect(address, Lane.CONTROL)
        async with kind.make(**foreign.options) as client:
            # With TLS 1.3 the server refuses after the client believes itself connected.
            with pytest.raises(PeerUnreachable):
                await client.connect(address, Lane.CONTROL)
        async with kind.make() as client:
            with pytest.raises(PeerUnreachable):
                await client.connect(address, Lane.CONTROL)
        async with kind.make(**authority.issue("n4").options) as client:
            await assert_serves(client, address)


async def test_expired_certificate_is_refused_with_a_clear_error(kind: Kind, authority: Authority) -> None:
    """A client takes no certificate whose time is over, and says that that is why."""
    over = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = authority.issue("expired", until=over)
    good = authority.issue("n1")
    async with serving(kind.make(**expired.options)) as (address, _), kind.make(**good.options) as client:
        with pytest.raises(PeerUnreachable, match="expired"):
            await client.connect(address, Lane.CONTROL)
    async with serving(kind.make(**good.options)) as (address, _), kind.make(**expired.options) as client:
        with pytest.raises(PeerUnreachable):
            await client.connect(address, Lane.CONTROL)


async def test_certificate_is_renewed_without_a_restart(kind: Kind, authority: Authority) -> None:
    """A server and a client whose files are replaced show the new certificates on the next connection."""
    over = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    files = authority.issue("renewed", until=over)
    client = kind.make(**authority.issue("n2").options)
    async with serving(kind.make(**files.options)) as (address, _), client:
        with pytest.raises(PeerUnreachable, match="expired"):
            await client.connect(address, Lane.CONTROL)
        authority.issue("renewed")
        await assert_serves(client, address)


async def test_certificate_must_name_the_node_that_its_holder_claims_to_be(kind: Kind, authority: Authority) -> None:
    """A Hello in another's name is refused by the one who is called, and a HelloResponse by the one who calls."""
    received: list[Message] = []

    async def greet(link: Link) -> None:
        with suppress(LinkClosed):
            while True:
                received.append(await link.receive())
                await link.send(HelloResponse(NodeId("n9")))

    client = kind.make(**authority.issue("n2").options)
    async with serving(kind.make(**authority.issue("n1").options), greet) as (address, _), client:
        async with await client.connect(address, Lane.CONTROL) as link:
            await link.send(Hello(NodeId("n3"), NodeId("n1")))
            with pytest.raises(LinkClosed):
                await link.receive()
        async with await client.connect(address, Lane.CONTROL) as link:
            await link.send(Hello(NodeId("n2"), NodeId("n1")))
            with pytest.raises(LinkClosed, match=r"'n9'.* names n1"):
                await link.receive()
    assert received == [Hello(NodeId("n2"), NodeId("n1"))]


async def send_raw(address: str, data: bytes) -> bytes:
    """Send bytes; return all that comes back until the server ends the connection."""
    host, port = split_address(address)
    answer = b""
    with trio.fail_after(LIMIT_S), suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(data)
            async for chunk in stream:
                answer += chunk
    return answer


async def test_gigabyte_length_prefix_is_refused_and_memory_stays_flat(raw_kind: Kind) -> None:
    """A length of 1 GiB closes the connection, or is read only as far as is allowed; nothing is set aside for it."""
    ended: list[str] = []

    async def accept(link: Link) -> None:
        try:
            await link.receive()
        except LinkClosed as exc:
            ended.append(str(exc))

    async with serving(raw_kind.make(max_message_bytes=100_000), accept) as (address, _), raw_kind.make() as client:
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(5):
            await send_raw(address, raw_kind.opening + raw_kind.gigabyte + bytes(200_000))
        await assert_opens(client, address)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000
    assert len(ended) in (5, 6)  # of the good one, perhaps not yet
    assert all("100000" in reason for reason in ended[:5])


async def assert_opens(client: ServiceTransport, address: str) -> None:
    """Make sure that the server takes another link."""
    await (await client.connect(address, Lane.CONTROL)).aclose()


async def test_random_bytes_are_refused(raw_kind: Kind) -> None:
    """Bytes that mean nothing close their connection, at its start or behind a good one; the node serves on."""
    rng = random.Random(1)
    async with serving(raw_kind.make(timeout=0.2, **QUICK)) as (address, _), raw_kind.make() as client:
        for _ in range(20):
            await send_raw(address, b"\x00" + rng.randbytes(rng.randrange(1, 2000)))
            await send_raw(address, raw_kind.opening + rng.randbytes(rng.randrange(100, 2000)) + b"\n")
        await assert_serves(client, address)


async def test_truncated_frames_end_their_link_with_a_clear_error(raw_kind: Kind) -> None:
    """A connection that ends in the middle of a message gives LinkClosed, and no half of a message."""
    ended: list[str] = []

    async def accept(link: Link) -> None:
        try:
            while True:
                await link.receive()
        except LinkClosed as exc:
            ended.append(str(exc))

    opening, message = await _record(raw_kind)
    async with serving(raw_kind.make(timeout=5.0), accept) as (address, _):
        host, port = split_address(address)
        cuts = range(len(message) - 1, 0, -3)
        for cut in cuts:
            stream = await trio.open_tcp_stream(host, port)
            await stream.send_all(opening + message[:cut])
            await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                async for _ in stream:
                    pass
            await stream.aclose()
    assert len(ended) == len(cuts)


async def _record(kind: Kind) -> tuple[bytes, bytes]:
    """Return what a client writes to open a link, and to send one message."""
    written: list[bytes] = []
    complete = trio.Event()

    async def record(stream: trio.SocketStream) -> None:
        written.append(bytes(await stream.receive_some(65536)))
        await stream.send_all(kind.accepting)
        written.append(bytes(await stream.receive_some(65536)))
        complete.set()

    async with trio.open_nursery() as nursery, kind.make() as client:
        listeners = await nursery.start(trio.serve_tcp, record, 0)
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with await client.connect(address, Lane.CONTROL) as link:
            await link.send(VOTE)
            await complete.wait()
        nursery.cancel_scope.cancel()
    opening, message = written
    return opening, message


async def test_peer_that_accepts_and_says_nothing_is_unreachable_in_time(kind: Kind) -> None:
    """Connecting to a listener that never answers ends after ``timeout``, as does a call."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        async with kind.make(timeout=0.1) as client:
            with trio.fail_after(LIMIT_S), pytest.raises(PeerUnreachable, match=r"0\.1 s"):
                await client.connect(address, Lane.CONTROL)
            with trio.fail_after(LIMIT_S), pytest.raises((PeerUnreachable, PeerTimeout), match=r"0\.1 s"):
                await client.call(address, "test.App/Shout", b"")

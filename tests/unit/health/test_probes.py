"""The probes that ship, against servers on loopback and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import (
    AliasProbe,
    CallableProbe,
    CompositeProbe,
    GrpcHealthProbe,
    HealthChecker,
    HealthConfig,
    HttpProbe,
    TcpProbe,
    TtlProbe,
)
from clustercore.interfaces import (
    CheckOutcome,
    CheckResult,
    ConfigError,
    ErrorCategory,
    HealthStatus,
    Link,
    LinkClosed,
    MalformedMessage,
    PeerUnreachable,
    Probe,
    Service,
    ServiceError,
)
from clustercore_memory import MemoryNetwork, MemoryTransport
from tests.unit.health.fakes import DRAIN, FAIL, OK, UNKNOWN, WARN, FakeProbe, until


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[tuple[str, int]]:
    """Serve on loopback inside the block; yield host and port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        host, port = listener.socket.getsockname()[:2]
        yield host, port
        nursery.cancel_scope.cancel()


def http(answer: bytes) -> Callable[[trio.SocketStream], Awaitable[object]]:
    """Return a server that reads a request and gives an answer, in pieces."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += await stream.receive_some(100)
            assert request.startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")
            for start in range(0, len(answer), 7):
                await stream.send_all(answer[start : start + 7])

    return serve


# --- TCP and HTTP -----------------------------------------------------------------------------------------------------


async def test_tcp_probe_wants_a_connection() -> None:
    """A listener is well; a port where nobody listens is a network error."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with serving(hang_up) as (host, port):
        probe = TcpProbe(f"{host}:{port}")
        assert (await probe.check()).outcome is CheckOutcome.OK
    with pytest.raises(PeerUnreachable):
        await probe.check()


@pytest.mark.parametrize(
    ("answer", "outcome", "category", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", CheckOutcome.OK, None, "HTTP 200 OK"),
        (b"HTTP/1.0 204\r\n\r\n", CheckOutcome.OK, None, "HTTP 204"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", CheckOutcome.OK, None, "HTTP 200 OK"),
        (
            b"HTTP/1.1 429 Too Many Requests\r\n\r\n",
            CheckOutcome.WARN,
            ErrorCategory.RATE_LIMIT_ERROR,
            "HTTP 429 Too Many Requests",
        ),
        (b"HTTP/1.1 503 No\r\n\r\n", CheckOutcome.FAIL, ErrorCategory.SERVER_ERROR, "HTTP 503 No"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", CheckOutcome.FAIL, ErrorCategory.CLIENT_ERROR, "HTTP 302 Found"),
    ],
)
async def test_http_probe_reads_the_status(
    answer: bytes, outcome: CheckOutcome, category: ErrorCategory | None, detail: str
) -> None:
    """2xx is well, 429 a warning, everything else a failure of its kind; hints before the answer are passed over."""
    async with serving(http(answer)) as (host, port):
        result = await HttpProbe(f"{host}:{port}", "/health?deep=1").check()

    assert result == CheckResult(outcome, detail, category)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", LinkClosed),
        (b"HTTP/1.1 200 OK\r\nHalf: ", LinkClosed),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", MalformedMessage),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, MalformedMessage),
    ],
)
async def test_http_probe_bears_what_is_no_answer(answer: bytes, error: type[Exception]) -> None:
    """A server that hangs up, or says something else, or never comes to an end, fails the check."""
    async with serving(http(answer)) as (host, port):
        with pytest.raises(error):
            await HttpProbe(f"{host}:{port}", "/health?deep=1").check()


@pytest.mark.parametrize("path", ["health", "/a b", "/x\r\nHost: evil", "/é"])
def test_http_probe_refuses_what_is_no_path(path: str) -> None:
    """A path cannot smuggle a header."""
    with pytest.raises(ConfigError, match="path is"):
        HttpProbe("127.0.0.1:1", path)


async def test_node_is_monitored_by_its_endpoint() -> None:
    """``start_monitoring_node`` asks where and how it is told."""
    config = HealthConfig(check_interval=0.05, timeout=0.04, max_check_interval_s=0.05)
    async with serving(http(b"HTTP/1.1 200 OK\r\n\r\n")) as (host, port), HealthChecker(config) as checker:
        checker.start_monitoring_node("web", host, port, "/health?deep=1")
        checker.start_monitoring_node("socket", host, port)
        await until(lambda: all(checker.status(node) is HealthStatus.HEALTHY for node in ("web", "socket")))
        # On a busy machine others may have come too late.
        assert "HTTP 200 OK" in [record.result.detail for record in checker.history("web").checks]


@pytest.mark.parametrize(
    ("endpoint", "says"), [("http", "must be 'tcp'"), ("grpc", "given a transport"), ("grpc:x", "given a transport")]
)
async def test_endpoint_that_cannot_be_is_refused(endpoint: str, says: str) -> None:
    """An endpoint that nobody knows, or for which there is no transport, is a ConfigError."""
    async with HealthChecker() as checker:
        with pytest.raises(ConfigError, match=says):
            checker.start_monitoring_node("n", "127.0.0.1", 1, endpoint)
        assert checker.monitored == ()


# --- In this process --------------------------------------------------------------------------------------------------


async def test_callable_probe_takes_plain_and_async_functions() -> None:
    """True and None are well, False is not, a result is itself; anything else is a mistake that is told."""

    async def say(answer: bool) -> bool:
        return answer

    assert (await CallableProbe(lambda: None).check()).outcome is CheckOutcome.OK
    assert (await CallableProbe(lambda: say(True)).check()).outcome is CheckOutcome.OK
    assert (await CallableProbe(lambda: say(False)).check()).outcome is CheckOutcome.FAIL
    assert await CallableProbe(lambda: WARN).check() is WARN
    with pytest.raises(TypeError, match="returned 1"):
        await CallableProbe(lambda: 1).check()  # type: ignore[arg-type, return-value]  # a mistake that users make


async def test_ttl_probe_waits_for_beats(autojump_clock: MockClock) -> None:
    """Until the first beat nothing is known; a beat holds for its time, and no longer."""
    probe = TtlProbe(30)
    assert (await probe.check()).outcome is CheckOutcome.UNKNOWN
    probe.beat()
    await trio.sleep(30)
    assert await probe.check() == OK
    await trio.sleep(0.1)
    late = await probe.check()
    assert (late.outcome, late.category) == (CheckOutcome.FAIL, ErrorCategory.TIMEOUT_ERROR)
    probe.beat(WARN)
    assert await probe.check() == WARN


async def test_alias_probe_follows_another(autojump_clock: MockClock) -> None:
    """A node that stands on another is as well as that."""
    async with HealthChecker() as checker:
        base = FakeProbe()
        checker.start_monitoring("database", base)
        checker.start_monitoring("other", FakeProbe())
        checker.start_monitoring("web", AliasProbe(lambda: checker.status("database")))
        await trio.sleep(30)
        assert checker.status("web") is HealthStatus.HEALTHY
        base.answer = FAIL
        await trio.sleep(100)
        assert checker.status("web") is HealthStatus.UNHEALTHY


@pytest.mark.parametrize(
    ("needed", "results", "outcome", "is_decisive"),
    [
        ("all", [OK, OK, OK], CheckOutcome.OK, False),
        ("all", [OK, WARN, OK], CheckOutcome.WARN, False),
        ("all", [OK, FAIL, OK], CheckOutcome.FAIL, False),
        ("all", [OK, DRAIN, OK], CheckOutcome.FAIL, True),
        ("all", [OK, UNKNOWN, OK], CheckOutcome.UNKNOWN, False),
        ("any", [FAIL, FAIL, OK], CheckOutcome.OK, False),
        ("any", [FAIL, DRAIN, FAIL], CheckOutcome.FAIL, False),
        ("quorum", [OK, FAIL, OK], CheckOutcome.OK, False),
        ("quorum", [OK, FAIL, FAIL], CheckOutcome.FAIL, False),
        ("quorum", [OK, FAIL, UNKNOWN], CheckOutcome.UNKNOWN, False),
        (2, [WARN, FAIL, OK], CheckOutcome.WARN, False),
    ],
)
async def test_composite_probe_counts(
    needed: str | int, results: list[CheckResult], outcome: CheckOutcome, is_decisive: bool
) -> None:
    """So many of its parts must be well; what is wrong with the others is told by name."""
    probe = CompositeProbe({name: FakeProbe(each) for name, each in zip("abc", results, strict=True)}, needed)  # type: ignore[arg-type]  # the names are checked at run time

    result = await probe.check()

    assert (result.outcome, result.is_decisive) == (outcome, is_decisive)
    for name, each in zip("abc", results, strict=True):
        assert (f"{name}: " in result.detail) == (each.outcome is not CheckOutcome.OK)


async def test_composite_probe_asks_at_once_and_keeps_exceptions(autojump_clock: MockClock) -> None:
    """Its parts are asked at the same time, and what one raises is that one's failure."""
    probe = CompositeProbe({"a": FakeProbe(takes_s=1), "b": FakeProbe(OSError("gone"), takes_s=1)}, "any")

    assert (await probe.check()).detail == "b: gone"
    assert trio.current_time() == pytest.approx(1)
    with pytest.raises(ConfigError, match="needed is 3"):
        CompositeProbe({"a": FakeProbe(), "b": FakeProbe()}, 3)


# --- gRPC, over a transport in memory ---------------------------------------------------------------------------------


class Server:
    """A server of grpc.health.v1, as it is told to be."""

    def __init__(self, *, has_check: bool = True, has_watch: bool = True) -> None:
        self.status = 1
        self.changed = trio.Event()
        self.asked: list[bytes] = []
        self.watches = 0
        self.drops = trio.Event()
        self.service = Service(
            "grpc.health.v1.Health" if has_check else "other.Service",
            unary={"Check": self.check},
            streams={"Watch": self.watch} if has_watch else {},
        )

    def set(self, status: int) -> None:
        self.status = status
        self.changed.set()
        self.changed = trio.Event()

    async def check(self, request: bytes) -> bytes:
        self.asked.append(request)
        if self.status == 99:
            await trio.sleep_forever()
        return bytes([8, self.status])

    async def watch(self, request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.watches += 1
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def drop() -> None:
                    await self.drops.wait()
                    scope.cancel()

                nursery.start_soon(drop)
                while True:
                    await send(bytes([8, self.status]))
                    await self.changed.wait()


async def _take(link: Link) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def server_and_client(server: Server) -> AsyncIterator[MemoryTransport]:
    """Serve at "server" inside the block; yield a transport to call with."""
    network = MemoryNetwork()
    serves, calls = MemoryTransport(network, "server"), MemoryTransport(network, "client")
    serves.offer([server.service])
    async with serves, calls, trio.open_nursery() as nursery:
        await nursery.start(serves.serve, _take)
        yield calls
        nursery.cancel_scope.cancel()


async def test_grpc_probe_hears_changes_at_once(autojump_clock: MockClock) -> None:
    """What Watch tells counts at once: NOT_SERVING is unhealthy, SERVING twice heard is healthy, unknown is unknown."""
    server = Server()
    async with server_and_client(server) as transport, HealthChecker() as checker:
        checker.start_monitoring("n", GrpcHealthProbe(transport, "server", "my.Service"))
        checker.start_monitoring("other", FakeProbe())
        await wait_all_tasks_blocked()
        assert checker.status("n") is HealthStatus.HEALTHY
        server.set(2)
        await wait_all_tasks_blocked()
        assert checker.status("n") is HealthStatus.UNHEALTHY
        server.set(1)
        server.set(1)
        await trio.sleep(12)
        assert checker.status("n") is HealthStatus.HEALTHY
        server.set(3)
        await wait_all_tasks_blocked()
        assert checker.status("n") is HealthStatus.UNKNOWN
        assert set(server.asked) == {b"\n\nmy.Service"}


async def test_grpc_probe_finds_a_frozen_server_that_keeps_its_watch(autojump_clock: MockClock) -> None:
    """A server that answers nothing any more, and whose stream stays open, is unhealthy within the worst case."""
    server = Server()
    async with server_and_client(server) as transport, HealthChecker() as checker:
        checker.start_monitoring("n", GrpcHealthProbe(transport, "server"))
        checker.start_monitoring("other", FakeProbe())
        await trio.sleep(25)
        assert checker.status("n") is HealthStatus.HEALTHY
        # As a frozen process does: no word on the stream, and no answer.
        server.status = 99

        await trio.sleep(checker.config.worst_case_detection_s)

        assert checker.status("n") is HealthStatus.UNHEALTHY
        assert server.watches == 1


async def test_grpc_probe_watches_again_and_waits_longer_each_time(autojump_clock: MockClock) -> None:
    """A stream that ends is opened again; one that tells nothing new is not a loop that burns."""
    server = Server()
    server.drops.set()
    async with server_and_client(server) as transport, HealthChecker() as checker:
        checker.start_monitoring("n", GrpcHealthProbe(transport, "nobody"))
        checker.start_monitoring("m", GrpcHealthProbe(transport, "server"))
        await trio.sleep(600)
        assert 100 < server.watches <= 601
        assert checker.status("n") is HealthStatus.UNHEALTHY


async def test_server_without_watch_is_asked_by_check(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no Watch, Check alone is asked; that is said once."""
    server = Server(has_watch=False)
    async with server_and_client(server) as transport, HealthChecker() as checker:
        checker.start_monitoring("n", GrpcHealthProbe(transport, "server"))
        await trio.sleep(100)
        assert checker.status("n") is HealthStatus.HEALTHY
        server.set(2)
        await trio.sleep(11)
        assert checker.status("n") is HealthStatus.UNHEALTHY
    assert caplog.text.count("has no grpc.health.v1.Health/Watch") == 1


async def test_server_without_health_service_is_asked_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not know the protocol is not ill for it: whether it listens is asked; that is said once."""

    class Unimplemented(MemoryTransport):
        async def call(self, address: str, method: str, request: bytes) -> bytes:
            raise ServiceError("no such method", code="UNIMPLEMENTED")

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with serving(hang_up) as (host, port), Unimplemented(MemoryNetwork(), "client") as transport:
        probe = GrpcHealthProbe(transport, f"{host}:{port}")
        for _ in range(3):
            assert (await probe.check()).detail == "accepts connections"
    with pytest.raises(PeerUnreachable):
        await probe.check()
    assert caplog.text.count("whether it accepts connections is all that is checked") == 1


@pytest.mark.parametrize(("code", "outcome"), [("NOT_FOUND", CheckOutcome.UNKNOWN), ("UNAUTHENTICATED", None)])
async def test_grpc_probe_tells_refusals_apart(code: str, outcome: CheckOutcome | None) -> None:
    """A service that the server does not know is unknown; another refusal is a failure."""

    class Refusing(MemoryTransport):
        async def call(self, address: str, method: str, request: bytes) -> bytes:
            raise ServiceError("no", code=code)

    async with Refusing(MemoryNetwork(), "client") as transport:
        probe: Probe = GrpcHealthProbe(transport, "server", "x")
        if outcome is None:
            with pytest.raises(ServiceError):
                await probe.check()
        else:
            assert (await probe.check()).outcome is outcome

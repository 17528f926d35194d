"""The probes that ship: TCP, HTTP, a function, a heartbeat, another node, and several of them as one.

Those over the wire need nothing but Trio. gRPC's is in ``grpc_probe``: it goes over a transport's own calls, so that
this package knows no plugin, and any transport that carries services will do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import trio

from clustercore.health.failures import failure_of
from clustercore.health.grpc_probe import GrpcHealthProbe
from clustercore.health.tcp_probe import TcpProbe
from clustercore.interfaces.errors import ConfigError, LinkClosed, MalformedMessage
from clustercore.interfaces.health import CheckOutcome, CheckResult, HealthStatus, Probe
from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.interfaces.sockets import LOST, dial, format_address
from clustercore.interfaces.tls import TlsFiles
from clustercore.interfaces.transport import ServiceTransport

__all__ = [
    "AliasProbe",
    "CallableProbe",
    "CompositeProbe",
    "HttpProbe",
    "TtlProbe",
    "make_probe",
]

# The head of an HTTP answer is read up to here; a server that sends more of it is not one to be checked by its head.
_MAX_HEAD_BYTES = 16 * 1024


def make_probe(host: str, port: int, endpoint: str, transport: ServiceTransport | None) -> Probe:
    """Return the probe that an endpoint names; see ``HealthChecker.start_monitoring_node``.

    Raises: ConfigError.
    """
    address = format_address(host, port)
    if endpoint == "tcp":
        return TcpProbe(address)
    if endpoint.startswith("/"):
        return HttpProbe(address, endpoint)
    kind, _, service = endpoint.partition(":")
    if kind != "grpc":
        raise ConfigError(f"health_endpoint is {endpoint!r}; it must be 'tcp', '/path', 'grpc' or 'grpc:a.Service'")
    if transport is None:
        raise ConfigError(f"health_endpoint is {endpoint!r}; it needs a HealthChecker that is given a transport")
    return GrpcHealthProbe(transport, address, service)


class HttpProbe(Probe):
    """Whether an HTTP endpoint answers a GET with 2xx; 429 is a warning, everything else a failure.

    Redirections are not followed: name the place that answers.
    """

    def __init__(self, address: str, path: str, *, tls: TlsFiles | None = None) -> None:
        """Ask for ``path`` at ``address`` ("host:port"), over TLS if its files are given.

        Raises: ConfigError if the path is no path.
        """
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError(f"path is {path!r}; it must begin with '/', and be printable ASCII without spaces")
        self._address = address
        self._tls = tls
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: clustercore\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n"
        ).encode()

    async def check(self) -> CheckResult:
        """Ask once, on a connection of its own."""
        # The checker's timeout ends it.
        connection = await dial(self._address, timeout_s=math.inf, tls=self._tls)
        try:
            await connection.stream.send_all(self._request)
            status, reason = await self._read_status(connection.stream)
        except LOST as error:
            raise LinkClosed(f"{self._address} ended the connection before it answered") from error
        finally:
            connection.close()
        detail = f"HTTP {status} {reason}".rstrip()
        if 200 <= status < 300:
            return CheckResult(CheckOutcome.OK, detail)
        if status == 429:
            return CheckResult(CheckOutcome.WARN, detail, ErrorCategory.RATE_LIMIT_ERROR)
        category = ErrorCategory.SERVER_ERROR if status >= 500 else ErrorCategory.CLIENT_ERROR
        return CheckResult(CheckOutcome.FAIL, detail, category)

    async def _read_status(self, stream: trio.abc.ReceiveStream) -> tuple[int, str]:
        """Read the status of the final answer: those of 1xx come before it."""
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                if len(data) > _MAX_HEAD_BYTES:
                    raise MalformedMessage(f"{self._address} answered with a head of more than {_MAX_HEAD_BYTES} bytes")
                received = await stream.receive_some(_MAX_HEAD_BYTES)
                if not received:
                    raise LinkClosed(f"{self._address} ended the connection before it answered")
                data += received
            head, _, data = data.partition(b"\r\n\r\n")
            words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                raise MalformedMessage(f"{self._address} does not answer in HTTP/1: {head[:80]!r}")
            if not 100 <= int(words[1]) < 200:
                return int(words[1]), words[2] if len(words) > 2 else ""


class CallableProbe(Probe):
    """Asks a function. True, or nothing, is good; False is a failure, as is whatever it raises."""

    def __init__(
        self, function: Callable[[], Awaitable[CheckResult | bool | None] | CheckResult | bool | None]
    ) -> None:
        """Ask ``function``, plain or async; a plain one must not block."""
        self._function = function

    async def check(self) -> CheckResult:
        """Call it once."""
        found = self._function()
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, CheckResult):
            return found
        if found is None or found is True:
            return CheckResult(CheckOutcome.OK)
        if found is False:
            return CheckResult(CheckOutcome.FAIL, "it says no")
        raise TypeError(f"a health check returned {found!r}; it must return a CheckResult, a bool or None")


class TtlProbe(Probe):
    """Waits to be told: it fails when the last ``beat`` is too long ago."""

    def __init__(self, ttl_s: float) -> None:
        """A beat holds for ``ttl_s`` seconds. Until the first one, nothing is known."""
        self._ttl_s = ttl_s
        self._last: tuple[float, CheckResult] | None = None

    def beat(self, result: CheckResult | None = None) -> None:
        """Say that whoever is watched is alive; or, with a result, how it is. Called inside Trio."""
        self._last = trio.current_time(), result if result is not None else CheckResult(CheckOutcome.OK)

    async def check(self) -> CheckResult:
        """Return the last beat, if it still holds."""
        if self._last is None:
            return CheckResult(CheckOutcome.UNKNOWN, "it was not heard yet")
        at, result = self._last
        age_s = trio.current_time() - at
        if age_s > self._ttl_s:
            detail = f"not heard for {age_s:.3f} s; {self._ttl_s:g} s are allowed"
            return CheckResult(CheckOutcome.FAIL, detail, ErrorCategory.TIMEOUT_ERROR)
        return result


class AliasProbe(Probe):
    """Is as well as another: ``AliasProbe(lambda: checker.status("database"))``."""

    def __init__(self, status: Callable[[], HealthStatus]) -> None:
        """Take over what ``status`` returns."""
        self._status = status

    async def check(self) -> CheckResult:
        """Look once."""
        status = self._status()
        outcomes = {
            HealthStatus.HEALTHY: CheckOutcome.OK,
            HealthStatus.DEGRADED: CheckOutcome.WARN,
            HealthStatus.UNHEALTHY: CheckOutcome.FAIL,
        }
        return CheckResult(outcomes.get(status, CheckOutcome.UNKNOWN), f"the other is {status}")


class CompositeProbe(Probe):
    """Several probes as one, asked at the same time. They are checked, and not watched."""

    def __init__(self, probes: Mapping[str, Probe], needed: Literal["all", "any", "quorum"] | int = "all") -> None:
        """Ask all of ``probes``, by name; so many must be good.

        Args:
            probes: At least one.
            needed: All, any, a quorum (more than half), or a number of them.

        Raises: ConfigError if the number is not one of them.
        """
        numbers = {"all": len(probes), "any": 1, "quorum": len(probes) // 2 + 1}
        self._needed = numbers[needed] if isinstance(needed, str) else needed
        if not 1 <= self._needed <= len(probes):
            raise ConfigError(f"needed is {needed}; it must be from 1 to the {len(probes)} probes there are")
        self._probes = dict(probes)

    async def check(self) -> CheckResult:
        """Ask all once."""
        results: dict[str, CheckResult] = {}

        async def ask(name: str, probe: Probe) -> None:
            try:
                results[name] = await probe.check()
            except Exception as error:  # noqa: BLE001  # as in the checker: it is a failed check, and told
                results[name] = failure_of(error)

        async with trio.open_nursery() as nursery:
            for name, probe in self._probes.items():
                nursery.start_soon(ask, name, probe)
        return self._judge(results)

    def _judge(self, results: Mapping[str, CheckResult]) -> CheckResult:
        good = [each for each in results.values() if each.outcome in (CheckOutcome.OK, CheckOutcome.WARN)]
        bad = {name: results[name] for name in sorted(results) if results[name].outcome is not CheckOutcome.OK}
        detail = "; ".join(f"{name}: {each.detail or each.outcome}" for name, each in bad.items())
        if len(good) >= self._needed:
            oks = sum(each.outcome is CheckOutcome.OK for each in good)
            return CheckResult(CheckOutcome.OK if oks >= self._needed else CheckOutcome.WARN, detail)
        failed = [each for each in bad.values() if each.outcome is CheckOutcome.FAIL]
        if len(results) - len(failed) >= self._needed:
            return CheckResult(CheckOutcome.UNKNOWN, detail)
        decisive = sum(each.is_decisive for each in failed)
        return CheckResult(
            CheckOutcome.FAIL, detail, failed[0].category, is_decisive=len(results) - decisive < self._needed
        )

"""Asking a server by ``grpc.health.v1`` (grpc/grpc doc/health-checking.md), over any transport that carries services.

Two small messages are all of the protocol, so they are written and read here. What the client must bear is said in gRFC
A17: a server without the service is not ill for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from clustercore.health.tcp_probe import TcpProbe
from clustercore.interfaces.errors import MalformedMessage, ServiceError, TransportError
from clustercore.interfaces.health import CheckOutcome, CheckResult, Probe
from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.interfaces.transport import ServiceTransport
from clustercore.interfaces.wire import encode_field, split_fields

__all__ = ["GrpcHealthProbe"]

logger = logging.getLogger("clustercore.health")

_SERVICE = "grpc.health.v1.Health"

# Between two attempts to watch: the first wait, doubled each time up to the last. Any message begins anew.
_WATCH_WAIT_S = 1.0
_MAX_WATCH_WAIT_S = 60.0

# What a server says that has no such method; transports that do not speak gRPC have no word for it.
_UNIMPLEMENTED = frozenset({"UNIMPLEMENTED", ""})


class GrpcHealthProbe(Probe):
    """A server's own word on itself, or on one of its services.

    SERVING is good. NOT_SERVING is a decisive failure: the server says it itself, so one is enough. A service that the
    server does not know is unknown. Changes are heard by Watch at once; since a frozen process tells none, and its
    connection stays open, every check asks anew by Check. A server without Watch is asked by Check alone, one without
    either by whether it accepts a connection; both are said once, in the log.
    """

    def __init__(self, transport: ServiceTransport, address: str, service: str = "") -> None:
        """Ask at ``address``, in the transport's form, for a service; "" is the whole server."""
        self._transport = transport
        self._address = address
        self._request = encode_field(1, service.encode()) if service else b""
        self._service = service
        self._tcp: TcpProbe | None = None

    async def check(self) -> CheckResult:
        """Ask once, by Check."""
        if self._tcp is not None:
            return await self._tcp.check()
        try:
            response = await self._transport.call(self._address, f"{_SERVICE}/Check", self._request)
        except ServiceError as error:
            if error.code == "NOT_FOUND":
                return self._unknown()
            if error.code not in _UNIMPLEMENTED:
                raise
            logger.error(
                "%s has no %s; whether it accepts connections is all that is checked there", self._address, _SERVICE
            )
            self._tcp = TcpProbe(self._address)
            return await self._tcp.check()
        return self._result(response)

    async def watch(self, report: Callable[[CheckResult], None]) -> None:
        """Report what Watch tells, for as long as the server has it."""
        wait_s = _WATCH_WAIT_S
        while True:
            try:
                async with self._transport.open_stream(self._address, f"{_SERVICE}/Watch", self._request) as responses:
                    async for response in responses:
                        wait_s = _WATCH_WAIT_S
                        report(self._result(response))
            except ServiceError as error:
                if error.code in _UNIMPLEMENTED:
                    logger.warning("%s has no %s/Watch; it is asked every interval", self._address, _SERVICE)
                    return
                logger.debug("watching %s: %s", self._address, error)
            except (TransportError, MalformedMessage) as error:
                logger.debug("watching %s: %s", self._address, error)
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_WATCH_WAIT_S)

    def _result(self, response: bytes) -> CheckResult:
        """Read a HealthCheckResponse: field 1, ``status``."""
        status = 0
        for number, _, value in split_fields(response):
            if number == 1 and isinstance(value, int):
                status = value
        match status:
            case 1:
                return CheckResult(CheckOutcome.OK, "SERVING")
            case 2:
                return CheckResult(CheckOutcome.FAIL, "NOT_SERVING", ErrorCategory.SERVER_ERROR, is_decisive=True)
            case 3:
                return self._unknown()
            case _:
                return CheckResult(CheckOutcome.UNKNOWN, f"status {status}")

    def _unknown(self) -> CheckResult:
        return CheckResult(CheckOutcome.UNKNOWN, f"{self._address} knows no service {self._service!r}")

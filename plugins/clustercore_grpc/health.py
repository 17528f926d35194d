"""``grpc.health.v1.Health``: what load balancers, orchestrators and ``grpc_health_probe`` ask a server.

The protocol is that of grpc/grpc doc/health-checking.md. A service is SERVING if the node answers when it is asked for
its status, which it does in a turn of its consensus loop, and says that it serves: a process that listens and does
nothing else is not well, and one that is about to stop should get no work. The empty name stands for the whole server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio
from grpclib.const import Status

from clustercore.interfaces import MalformedMessage, Service, ServiceError, split_fields
from clustercore_grpc.errors import CallFailed

__all__ = ["HEALTH_SERVICE", "Health"]

HEALTH_SERVICE = "grpc.health.v1.Health"

# How often a Watch looks. Its client learns of a change within this and the time in which the node answers.
WATCH_INTERVAL_S = 1.0

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """Answers for a node and the services it offers."""

    def __init__(self, ask: Callable[[], Awaitable[bool]], services: Iterable[str]) -> None:
        """Answer by ``ask``, which says whether the node answers, in bounded time."""
        self._ask = ask
        self._services = frozenset({"", *services})

    @property
    def service(self) -> Service:
        """What to offer."""
        return Service(HEALTH_SERVICE, unary={"Check": self.check}, streams={"Watch": self.watch})

    async def check(self, request: bytes) -> bytes:
        """Answer a HealthCheckRequest with a HealthCheckResponse.

        Raises: CallFailed for a service that is not offered; ServiceError for another message.
        """
        status = await self._status(_name_in(request))
        if status == _SERVICE_UNKNOWN:
            raise CallFailed(Status.NOT_FOUND, f"there is no service of that name; there are {sorted(self._services)}")
        return _response(status)

    async def watch(self, request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Answer with the status now, and again whenever it changes, until the client leaves."""
        name = _name_in(request)
        told = 0
        while True:
            status = await self._status(name)
            if status != told:
                await send(_response(status))
                told = status
            await trio.sleep(WATCH_INTERVAL_S)

    async def _status(self, name: str) -> int:
        if name not in self._services:
            return _SERVICE_UNKNOWN
        return _SERVING if await self._ask() else _NOT_SERVING


def _name_in(request: bytes) -> str:
    """Read a HealthCheckRequest: field 1, ``service``."""
    name = b""
    try:
        for number, _, value in split_fields(request):
            if number == 1 and isinstance(value, bytes):
                name = value
        return name.decode()
    except (MalformedMessage, UnicodeDecodeError) as exc:
        raise ServiceError(f"this is no HealthCheckRequest: {exc}") from exc


def _response(status: int) -> bytes:
    """Write a HealthCheckResponse: field 1, ``status``, a small enum."""
    return bytes([1 << 3, status])

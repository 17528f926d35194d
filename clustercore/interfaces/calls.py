"""Answering calls of an application's services, whatever carries them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import attrs

from clustercore.interfaces.errors import ClusterError, ConfigError, LinkClosed, ServiceError, TransportError
from clustercore.interfaces.transport import Service

__all__ = ["CallFailure", "OfferedServices"]

log = logging.getLogger("clustercore")

Send = Callable[[bytes], Awaitable[None]]


@attrs.frozen
class CallFailure:
    """Why a call has no answer, as it travels to the caller."""

    # The request can never be answered; otherwise this one was not, and another may be.
    is_refusal: bool
    text: str
    # How long to wait before another attempt, in seconds: the ``retry_after_s`` of the handler's error.
    retry_after_s: float | None = None

    def error(self, what: str) -> TransportError:
        """Return the error of ``ServiceTransport.call`` for whoever asked ``what``."""
        kind = ServiceError if self.is_refusal else LinkClosed
        return kind(f"{what}: {self.text}", retry_after_s=self.retry_after_s)


class OfferedServices:
    """The services of one transport, and what becomes of a call of them.

    An application's handler may raise what it will: it ends this one call, and is logged with its traceback.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._reserved = frozenset(reserved)
        self._services: dict[str, Service] = {}

    def offer(self, services: Iterable[Service]) -> None:
        """Offer these from now on.

        Raises: ConfigError for a name that the transport needs for itself.
        """
        for service in services:
            if service.name in self._reserved:
                raise ConfigError(f"the service name {service.name!r} is the node's own")
            self._services[service.name] = service

    async def answer_unary(self, method: str, request: bytes) -> bytes | CallFailure:
        """Run the handler of a unary method such as "clustercore.v1.KeyValue/Put"; return its response.

        Cancellation: the handler is cancelled.
        """
        service_name, _, name = method.rpartition("/")
        service = self._services.get(service_name)
        handler = None if service is None else service.unary.get(name)
        if handler is None:
            return self._unknown(method, None if service is None else service.unary)
        try:
            return await handler(request)
        except Exception as exc:  # noqa: BLE001  # an application's handler may raise what it will; it is logged
            return _failure_of(method, exc)

    async def answer_stream(self, method: str, request: bytes, send: Send) -> CallFailure | None:
        """Run the handler of a streaming method, which sends its responses with ``send``.

        A TransportError that ``send`` raises is raised: the connection's end is no failure of the handler.

        Returns: None after a good end.
        Cancellation: the handler is cancelled.
        """
        service_name, _, name = method.rpartition("/")
        service = self._services.get(service_name)
        handler = None if service is None else service.streams.get(name)
        if handler is None:
            return self._unknown(method, None if service is None else service.streams)
        sending = _Sending(send)
        try:
            await handler(request, sending)
        except Exception as exc:
            if exc is sending.error:
                raise
            return _failure_of(method, exc)
        return None

    def _unknown(self, method: str, methods: Iterable[str] | None) -> CallFailure:
        if methods is None:
            return CallFailure(True, f"{method} is not offered; the services here are {sorted(self._services)}")
        return CallFailure(True, f"{method} is not offered; there are {sorted(methods)}")


def _failure_of(method: str, exc: Exception) -> CallFailure:
    if isinstance(exc, ClusterError):
        hint = exc.retry_after_s if isinstance(exc, TransportError) else None
        return CallFailure(isinstance(exc, ServiceError), str(exc), hint)
    # A bug in one request of one application; the node goes on, the caller and the log are told.
    log.error("the handler of %s failed", method, exc_info=exc)
    return CallFailure(False, f"the handler of {method} failed")


class _Sending:
    """A ``send`` that remembers how it failed, to tell the connection's error from one of the handler's own."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.error: TransportError | None = None

    async def __call__(self, response: bytes) -> None:
        try:
            await self._send(response)
        except TransportError as exc:
            self.error = exc
            raise

"""Where foreign errors end: what grpclib, h2, asyncio and the socket raise becomes one of ours here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from grpclib.const import Status
from grpclib.metadata import decode_grpc_message

from clustercore.interfaces import LinkClosed, PeerTimeout, ServiceError, TransportError

__all__ = ["PUSHBACK", "REFUSALS", "CallFailed", "Headers", "Outcome", "StreamBroken", "outcome_of", "show_pushback"]

Headers = Sequence[tuple[str, str]]

# The peer has read the request and will answer no repetition of it otherwise.
REFUSALS = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.NOT_FOUND,
        Status.OUT_OF_RANGE,
        Status.PERMISSION_DENIED,
        Status.RESOURCE_EXHAUSTED,
        Status.UNAUTHENTICATED,
        Status.UNIMPLEMENTED,
    }
)
# What an HTTP answer without a gRPC status means (grpc doc/http-grpc-status-mapping.md); all others are UNAVAILABLE.
_HTTP_STATUSES = {"400": Status.INTERNAL, "401": Status.UNAUTHENTICATED, "404": Status.UNIMPLEMENTED}

# The trailer in which a server says when to try again, in milliseconds (gRFC A6).
PUSHBACK = "grpc-retry-pushback-ms"
_MAX_PUSHBACK_MS = (1 << 31) - 1


class CallFailed(Exception):
    """Ends a request with a status. Stays inside this plugin."""

    def __init__(self, status: Status, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        # See ``TransportError``.
        self.retry_after_s = retry_after_s


class StreamBroken(Exception):
    """An HTTP/2 stream ended before its time. Stays inside this plugin: the caller knows what was being done."""


@attrs.frozen
class Outcome:
    """How a call ended, by the peer's word."""

    status: Status
    message: str
    # See ``TransportError``.
    retry_after_s: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the peer calls it a success."""
        return self.status is Status.OK

    def error(self, what: str) -> TransportError:
        """Return the error that says so to whoever did ``what``."""
        text = f"{what}: the peer answered {self.status.name}" + (f": {self.message}" if self.message else "")
        if self.status in REFUSALS:
            return ServiceError(text, code=self.status.name, retry_after_s=self.retry_after_s)
        kind: type[TransportError] = PeerTimeout if self.status is Status.DEADLINE_EXCEEDED else LinkClosed
        return kind(text, retry_after_s=self.retry_after_s)


def outcome_of(headers: Headers | None, trailers: Headers | None) -> Outcome:
    """Read the status from a finished stream's trailers, or from its headers if they are all there is."""
    fields = dict(trailers or headers or ())
    code = fields.get("grpc-status")
    if code is None:
        http_status = dict(headers or ()).get(":status", "")
        if http_status != "200":
            return Outcome(
                _HTTP_STATUSES.get(http_status, Status.UNAVAILABLE), f"HTTP status {http_status or 'missing'}"
            )
        return Outcome(Status.UNKNOWN, "no grpc-status")
    try:
        status = Status(int(code))
    except ValueError:
        status = Status.UNKNOWN
    return Outcome(status, decode_grpc_message(fields.get("grpc-message", "")), _read_pushback(fields.get(PUSHBACK)))


def show_pushback(retry_after_s: float) -> str:
    """Return the value of the trailer; negative for never."""
    return str(min(math.ceil(retry_after_s * 1000), _MAX_PUSHBACK_MS)) if math.isfinite(retry_after_s) else "-1"


def _read_pushback(value: str | None) -> float | None:
    """Return how long to wait, in seconds; a number that is negative or none forbids it (gRFC A6)."""
    if value is None:
        return None
    return int(value) / 1000 if value.isascii() and value.isdigit() and len(value) <= 10 else math.inf

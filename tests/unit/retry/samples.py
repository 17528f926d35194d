"""An error for each row of the classification table, shaped as the libraries shape theirs; none of them is imported."""

from __future__ import annotations

import builtins
import errno
import socket
from enum import Enum

import attrs

from clustercore import interfaces
from clustercore_retry import RetryRule
from clustercore_retry.rule import GRPC_STATUSES

__all__ = ["grpc_error", "http_error", "named", "sample_of"]

# Of a message rule, and of a rule's refinement by message: a text that fits it.
TEXTS = {
    "gRPC UNAVAILABLE; text like /REFUSED_STREAM|failed to connect/": "failed to connect to all addresses",
    "gRPC RESOURCE_EXHAUSTED; text like /larger than|too large|max(imum)? (message )?size/": (
        "Received message larger than max (5000000 vs. 4194304)"
    ),
    "text: AUTH_ERROR": "permission denied",
    "text: VALIDATION_ERROR": "malformed request",
    "text: RATE_LIMIT_ERROR": "Too Many Requests",
    "text: SERVER_ERROR": "internal server error",
    "text: TIMEOUT_ERROR": "the request timed out",
    "text: NETWORK_ERROR": "connection was lost",
}

Status = Enum("Status", GRPC_STATUSES)  # type: ignore[misc] # mypy wants to see the members.


class GrpcError(Exception):
    """As grpclib's, with grpcio's trailers."""

    def __init__(self, status: str, message: str, trailers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message)
        self.status = Status[status]
        self._trailers = trailers

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailers


@attrs.frozen
class Response:
    status_code: int
    headers: dict[str, str]


class HttpError(Exception):
    """As httpx's HTTPStatusError."""

    def __init__(self, response: Response) -> None:
        super().__init__("an HTTP status")
        self.response = response


def grpc_error(status: str, message: str = "", *, pushback_ms: str | None = None) -> Exception:
    """Return an error with a gRPC status."""
    return GrpcError(status, message, () if pushback_ms is None else (("grpc-retry-pushback-ms", pushback_ms),))


def http_error(status: int, **headers: str) -> Exception:
    """Return an error with an HTTP status; ``_`` in a header's name stands for ``-``."""
    return HttpError(Response(status, {name.replace("_", "-"): value for name, value in headers.items()}))


def named(name: str, *bases: type[Exception]) -> type[Exception]:
    """Return an exception as a library would define it, by "package:Name"."""
    package, _, qualified = name.partition(":")
    return type(qualified, bases or (Exception,), {"__module__": f"{package}.somewhere"})


def sample_of(rule: RetryRule) -> Exception | None:
    """Return an error that falls under a rule of the table and no earlier one; None if the platform has none."""
    text = TEXTS.get(rule.name, "")
    if rule.grpc_status is not None:
        return grpc_error(rule.grpc_status, text, pushback_ms="20" if rule.has_hint else None)
    if rule.http_status is not None:
        first, last = rule.http_range
        # The rows for a range of 4xx that follow those for single statuses.
        return http_error(404 if (first, last) == (400, 499) else last)
    if rule.errno_name is not None:
        number = getattr(errno, rule.errno_name, None)
        return None if number is None else OSError(number, text)
    if rule.resolver_code is not None:
        number = getattr(socket, rule.resolver_code, None)
        return None if number is None else socket.gaierror(number, text)
    if isinstance(rule.error_type, str):
        return _of_type(rule.error_type)
    return Exception(text)


def _of_type(name: str) -> Exception:
    package, _, qualified = name.partition(":")
    if package != "clustercore":
        kind = getattr(builtins, qualified) if package == "builtins" else named(name)
    else:
        kind = getattr(interfaces, qualified)
    # Their constructors ask for facts that no rule looks at.
    made = kind.__new__(kind)
    assert isinstance(made, Exception)
    return made

"""Errors made from a few words on the command line, to ask a retry policy about them.

A policy reads errors by their attributes, so these have the ones that gRPC and HTTP libraries give theirs.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from enum import Enum
from importlib import import_module

import attrs

from clustercore.interfaces import ConfigError

__all__ = ["KINDS", "sample_error"]


class GrpcStatus(Enum):
    """The statuses of gRPC, as its libraries' enumerations have them: grpc doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """A call that ended with a gRPC status, shaped as grpclib's and grpcio's errors are."""

    def __init__(self, status: GrpcStatus, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self._retry_after_s = retry_after_s

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the server's pushback, if there is one."""
        if self._retry_after_s is None:
            return ()
        return (("grpc-retry-pushback-ms", str(round(self._retry_after_s * 1000))),)


@attrs.frozen
class Response:
    """An HTTP response, as clients show it."""

    status_code: int
    headers: dict[str, str]


class HttpError(Exception):
    """A call that ended with an HTTP status."""

    def __init__(self, status_code: int, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        headers = {} if retry_after_s is None else {"Retry-After": str(round(retry_after_s))}
        self.response = Response(status_code, headers)


def sample_error(sample: str, message: str = "", retry_after_s: float | None = None) -> BaseException:
    """Return an error as ``KIND:VALUE`` describes it.

    Args:
        sample: A kind of ``KINDS`` and a value of it, such as ``grpc:UNAVAILABLE``.
        message: The error's text.
        retry_after_s: When the server asks to come back; only over gRPC and HTTP there is a way to say so.

    Raises: ConfigError, saying what is allowed.
    """
    kind, _, value = sample.partition(":")
    if kind not in KINDS or not value:
        raise ConfigError(f"{sample!r} is no error; write KIND:VALUE, with a KIND of {', '.join(KINDS)}")
    if retry_after_s is not None and kind not in ("grpc", "http"):
        raise ConfigError(f"{sample!r} cannot say when to come back; only grpc and http can")
    return KINDS[kind](value, message, retry_after_s)


def _grpc(value: str, message: str, retry_after_s: float | None) -> BaseException:
    if value not in GrpcStatus.__members__:
        raise ConfigError(f"{value!r} is no gRPC status; there are {', '.join(GrpcStatus.__members__)}")
    return GrpcError(GrpcStatus[value], message, retry_after_s)


def _http(value: str, message: str, retry_after_s: float | None) -> BaseException:
    if not value.isdecimal() or not 100 <= int(value) <= 599:
        raise ConfigError(f"{value!r} is no HTTP status; they are from 100 to 599")
    return HttpError(int(value), message, retry_after_s)


def _errno(value: str, message: str, _: float | None) -> BaseException:
    number = getattr(errno, value, None)
    if not value.startswith("E") or not isinstance(number, int):
        raise ConfigError(f"{value!r} is no error code of this system; one is ECONNREFUSED")
    # Of the subclass that the system's own errors with this code have.
    return OSError(number, message)


def _resolver(value: str, message: str, _: float | None) -> BaseException:
    number = getattr(socket, value, None)
    if not value.startswith("EAI_") or not isinstance(number, int):
        raise ConfigError(f"{value!r} is no code of this system's resolver; one is EAI_NONAME")
    return socket.gaierror(number, message)


def _type(value: str, message: str, _: float | None) -> BaseException:
    module, _dot, name = value.rpartition(".")
    try:
        found = getattr(import_module(module or "builtins"), name, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{value!r} cannot be imported: {error}") from error
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise ConfigError(f"{value!r} is no exception; write it as in trio.BrokenResourceError, or TimeoutError")
    # Its constructor may ask for anything; the text is all that is needed here.
    made = found.__new__(found, message)
    made.args = (message,)
    return made


def _text(value: str, message: str, _: float | None) -> BaseException:
    # Of a class that no policy can know.
    return _UnheardOf(f"{value} {message}".strip())


class _UnheardOf(Exception):
    pass


KINDS: dict[str, Callable[[str, str, float | None], BaseException]] = {
    "grpc": _grpc,
    "http": _http,
    "errno": _errno,
    "resolver": _resolver,
    "type": _type,
    "text": _text,
}

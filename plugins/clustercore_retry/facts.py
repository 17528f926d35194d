"""What can be read from an error without importing the library that raised it.

The shapes that are known here, by attribute: grpclib's ``GRPCError`` (``status``), grpcio's ``RpcError`` (``code()``,
``trailing_metadata()``), google.api_core's (``grpc_status_code``); ``status_code``, ``response.status_code`` and,
beside ``headers``, ``status`` or ``code``, as HTTP clients have them. An attribute that fails when it is read is as
good as absent, and told to the log.
"""

from __future__ import annotations

import errno
import logging
import socket

import attrs

from clustercore_retry.hints import hint_of
from clustercore_retry.reading import read
from clustercore_retry.rule import GRPC_STATUSES

__all__ = ["Facts", "errno_name_of", "facts_of", "is_cancelled_here", "resolver_code_of", "text_of"]

_logger = logging.getLogger(__name__)

# A longer text is cut before it is searched.
_MAX_TEXT = 2000
_GRPC_NAMES = frozenset(GRPC_STATUSES)
_RESOLVER_CODES = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}


@attrs.frozen
class Facts:
    """What an error says in fields."""

    grpc_status: str | None
    http_status: int | None
    # In seconds; infinite if the server asks not to come back.
    retry_after_s: float | None


# Of an error that has none of these there is nothing to read. Most errors have none.
_FIELDS = (
    "status",
    "code",
    "status_code",
    "response",
    "headers",
    "trailing_metadata",
    "details",
    "grpc_status_code",
    "retry_after_s",
)
_NOTHING = Facts(None, None, None)


def facts_of(error: BaseException) -> Facts:
    """Return what an error says. Never raises."""
    if _is_plain(error):
        return _NOTHING
    response = read(error, "response")
    return Facts(_grpc_status(error), _http_status(error, response), hint_of(error, response))


def errno_name_of(error: OSError) -> str | None:
    """Return the name of an error's code, such as "ECONNRESET"; None if it has none."""
    return errno.errorcode.get(error.errno) if isinstance(error.errno, int) else None


def resolver_code_of(error: socket.gaierror) -> str | None:
    """Return the name of what getaddrinfo says, such as "EAI_AGAIN"; None if it says nothing."""
    return _RESOLVER_CODES.get(error.errno)


def text_of(error: BaseException) -> str:
    """Return an error's text, or nothing if it cannot be told."""
    try:
        text = str(error)
    except Exception:
        _logger.warning("the text of a %s cannot be read", type(error).__name__, exc_info=True)
        return ""
    # grpclib's and grpcio's texts are their arguments' or a report; the server's words are beside them.
    details = read(error, "details")
    if callable(details):
        details = read(error, "details", call=True)
    message = read(error, "message")
    said = [part for part in (message, details) if isinstance(part, str)]
    return " ".join([text, *said])[:_MAX_TEXT]


def is_cancelled_here(error: BaseException, facts: Facts) -> bool:
    """Return whether a gRPC call ended because this side cancelled it. grpcio's synchronous calls raise that."""
    return facts.grpc_status == "CANCELLED" and "locally cancelled" in text_of(error).lower()


def _is_plain(error: BaseException) -> bool:
    try:
        for name in _FIELDS:  # A loop, for it is several times faster than any() here.
            if getattr(error, name, None) is not None:
                return False
    except Exception:
        _logger.warning("a field of a %s cannot be read", type(error).__name__, exc_info=True)
        return False
    return True


def _grpc_status(error: BaseException) -> str | None:
    for name in ("status", "grpc_status_code"):
        status = read(error, name)
        if status is not None and (found := _grpc_name(status)):
            return found
    code = read(error, "code")
    if callable(code):
        return _grpc_name(read(error, "code", call=True))
    return None if code is None else _grpc_name(code)


def _grpc_name(status: object) -> str | None:
    """Return the name of a member of some library's enumeration of gRPC's statuses. A bare number may be anything."""
    name = read(status, "name")
    return name if isinstance(name, str) and name in _GRPC_NAMES else None


def _http_status(error: BaseException, response: object) -> int | None:
    candidates = [read(error, "status_code"), read(response, "status_code"), read(response, "status")]
    if read(error, "headers") is not None:
        # These names are common; only beside headers they are HTTP's.
        candidates += [read(error, "status"), read(error, "code")]
    for status in candidates:
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
            return int(status)
    return None

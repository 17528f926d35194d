"""The accepting side: the paths a node answers.

GET  /status                       the node's status as JSON; no Hello, so that curl can ask
POST /links/control, /links/bulk   a link: lines of JSON both ways, for as long as it lasts
POST /calls/<service>/<method>     a unary call of an application's service; bodies are encoded messages
POST /streams/<service>/<method>   the same with a stream of responses: lines of JSON, each with a ``response`` in
                                   base 64, and at last one with ``end`` or ``error``
"""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import h11
import trio

from clustercore.interfaces import (
    AcceptLink,
    CallFailure,
    Lane,
    LinkClosed,
    OfferedServices,
    SocketOptions,
    ask_status,
)
from clustercore_http.connection import HttpConnection
from clustercore_http.json_codec import show_status
from clustercore_http.links import HttpLink
from clustercore_http.retry_after import show_retry_after

__all__ = ["CLUSTER_HEADER", "LINES", "Server"]

log = logging.getLogger("clustercore")

# A connection on which nobody asked anything for so long is closed: its client may have vanished without a word.
IDLE_S = 60.0

# Lines of JSON (https://github.com/ndjson/ndjson-spec).
LINES = ("Content-Type", "application/x-ndjson")
# The cluster that a client means, if it means a certain one.
CLUSTER_HEADER = "Clustercore-Cluster-Id"
_JSON = ("Content-Type", "application/json")
_DATA = ("Content-Type", "application/octet-stream")
_PATHS = ["GET /status", "POST /links/{control,bulk}", "POST /calls/<service>/<method>"]
_PATHS += ["POST /streams/<service>/<method>"]


class Server:
    """Answers connections, each in the task that accepted it."""

    def __init__(
        self,
        options: SocketOptions,
        accept: AcceptLink,
        services: OfferedServices,
        cluster_fault: Callable[[str], str],
    ) -> None:
        self._options = options
        self._accept = accept
        self._services = services
        self._cluster_fault = cluster_fault

    async def answer(self, connection: HttpConnection) -> None:
        """Answer request after request, until the connection ends."""
        link: HttpLink | None = None
        try:
            while link is None:
                request = await self._next_request(connection)
                link = await self._answer_request(connection, request)
                if link is None and not _next_cycle(connection):
                    return
        except LinkClosed as exc:
            log.debug("a connection ended: %s", exc)
            return
        await self._accept(link)

    async def _next_request(self, connection: HttpConnection) -> h11.Request:
        with trio.move_on_after(IDLE_S):
            if not connection.h11.trailing_data[0]:
                await connection.read_more()
            with trio.move_on_after(self._options.timeout_s):
                request: h11.Request = await connection.next_event()
                return request
            raise LinkClosed(f"{connection.peer} has not finished its request in {self._options.timeout_s:g} s")
        raise LinkClosed(f"{connection.peer} has asked for nothing for {IDLE_S:g} s")

    async def _answer_request(self, connection: HttpConnection, request: h11.Request) -> HttpLink | None:
        """Answer a request; return the link if it is for one."""
        path = request.target.decode("latin-1").partition("?")[0]
        if not self._options.is_token(_token_of(request)):
            log.warning("refused a request from %s: its token is wrong", connection.peer)
            await _fail(connection, 401, "the Authorization header must be: Bearer, and this cluster's token")
            return None
        fault = self._cluster_fault(_header_of(request, CLUSTER_HEADER))
        if fault:
            log.warning("refused a request from %s: %s", connection.peer, fault)
            await _fail(connection, 421, fault)
            return None
        kind, _, rest = path[1:].partition("/")
        if kind == "links" and rest and request.method == b"POST":
            return await self._open_link(connection, rest)
        # Of an unknown path too: the connection is good for the next request.
        body = await self._read_body(connection)
        if (kind, bool(rest)) not in {("status", False), ("links", True), ("calls", True), ("streams", True)}:
            await _fail(connection, 404, f"there is no {path}; there are {', '.join(_PATHS)}")
        elif request.method != (b"GET" if kind == "status" else b"POST"):
            wanted = "GET" if kind == "status" else "POST"
            await _fail(connection, 405, f"{path} is for {wanted}", ("Allow", wanted))
        else:
            await self._answer_call(connection, kind, rest, body)
        return None

    async def _read_body(self, connection: HttpConnection) -> bytes:
        limit_s = self._options.timeout_s + IDLE_S
        with trio.move_on_after(limit_s):
            if connection.h11.they_are_waiting_for_100_continue:
                await connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            return await connection.read_body(self._options.max_message_bytes)
        raise LinkClosed(f"{connection.peer} did not send the whole of its request within {limit_s:g} s")

    async def _open_link(self, connection: HttpConnection, lane: str) -> HttpLink | None:
        if lane not in {one.value for one in Lane}:
            await _fail(connection, 404, f"there is no lane {lane!r}; there are control and bulk")
            return None
        await connection.send(h11.Response(status_code=200, headers=[LINES]))
        connection.says_lines = connection.expects_lines = True
        return HttpLink(connection, self._options.max_message_bytes)

    # --- Questions with one answer, and streams ---

    async def _answer_call(self, connection: HttpConnection, kind: str, method: str, body: bytes) -> None:
        """Answer a request that has come whole, while its client is there."""
        async with trio.open_nursery() as nursery:
            # A client that gives up closes its connection; then nobody needs the answer.
            nursery.start_soon(_cancel_at_end, connection, nursery.cancel_scope)
            if kind == "status":
                await self._answer_status(connection)
            elif kind == "calls":
                await self._answer_unary(connection, method, body)
            else:
                await self._answer_stream(connection, method, body)
            nursery.cancel_scope.cancel()
        if connection.end_reason is not None:
            raise connection.closed()

    async def _answer_status(self, connection: HttpConnection) -> None:
        status = await ask_status(self._accept, connection.peer, timeout_s=self._options.timeout_s)
        if status is None:
            await _fail(connection, 503, "the node did not say how it is")
        else:
            await _respond(connection, 200, show_status(status), _JSON)

    async def _answer_unary(self, connection: HttpConnection, method: str, request: bytes) -> None:
        response = await self._services.answer_unary(method, request)
        fault = response if isinstance(response, CallFailure) else self._too_large(method, response)
        if fault is not None:
            hint = show_retry_after(fault.retry_after_s)
            status = 400 if fault.is_refusal else 503 if hint else 500
            await _fail(connection, status, fault.text, *hint)
        elif isinstance(response, bytes):
            await _respond(connection, 200, response, _DATA)

    async def _answer_stream(self, connection: HttpConnection, method: str, request: bytes) -> None:
        await connection.send(h11.Response(status_code=200, headers=[LINES]))
        connection.says_lines = True

        async def send(response: bytes) -> None:
            fault = self._too_large(method, response)
            if fault is not None:
                await connection.send(_line(error=fault.text, is_refusal=True), h11.EndOfMessage())
                connection.close(fault.text)
                raise connection.closed()
            await connection.send(_line(response=b64encode(response).decode()))

        failure = await self._services.answer_stream(method, request, send)
        # From here on an empty line would come behind the end.
        connection.says_lines = False
        last = _line(end=True) if failure is None else _line(error=failure.text, is_refusal=failure.is_refusal)
        await connection.send(last, h11.EndOfMessage())

    def _too_large(self, method: str, response: bytes) -> CallFailure | None:
        allowed = self._options.max_message_bytes
        if len(response) <= allowed:
            return None
        return CallFailure(
            True, f"the response of {method} takes {len(response)} bytes; max_message_bytes allows {allowed}"
        )


def _token_of(request: h11.Request) -> bytes:
    scheme, _, token = _header_of(request, "Authorization").partition(" ")
    return token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _header_of(request: h11.Request, name: str) -> str:
    """Return the value of a header; empty if it is missing."""
    for found, value in request.headers:
        if found == name.lower().encode():
            return bytes(value).decode("latin-1")
    return ""


def _next_cycle(connection: HttpConnection) -> bool:
    """Make ready for the next request; False if the connection was to end with this one."""
    if connection.h11.our_state is not h11.DONE or connection.h11.their_state is not h11.DONE:
        return False
    connection.h11.start_next_cycle()
    return True


def _line(**content: Any) -> h11.Data:
    return h11.Data(data=json.dumps(content).encode() + b"\n")


async def _fail(connection: HttpConnection, status: int, why: str, *headers: tuple[str, str]) -> None:
    await _respond(connection, status, json.dumps({"error": why}).encode() + b"\n", _JSON, *headers)


async def _respond(connection: HttpConnection, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    if connection.h11.their_state is h11.SEND_BODY:
        # Its body was not read: what comes next would be taken for a request.
        headers = (*headers, ("Connection", "close"))
    await connection.send(
        h11.Response(status_code=status, headers=[*headers, ("Content-Length", str(len(body)))]),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )


async def _cancel_at_end(connection: HttpConnection, scope: trio.CancelScope) -> None:
    try:
        await connection.read_more()
        if not connection.h11.trailing_data[1]:
            # It sends the next request before it has this answer, and may.
            return
        connection.close("ended by the peer")
    except LinkClosed:
        pass
    scope.cancel()

"""HttpTransport: what the node sees, and the dialling side."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, ClassVar

import h11
import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    CallFailure,
    Lane,
    Link,
    LinkClosed,
    PeerUnreachable,
    ServiceError,
    SocketServiceTransport,
    WatchedConnection,
)
from clustercore_http.connection import HttpConnection, Lines
from clustercore_http.links import HttpLink
from clustercore_http.retry_after import read_retry_after
from clustercore_http.server import CLUSTER_HEADER, LINES, Server

__all__ = ["HttpTransport"]

# The answer that refuses a connection is a sentence.
_MAX_REFUSAL_BYTES = 64 * 1024


class HttpTransport(SocketServiceTransport[HttpConnection]):
    """Carries messages as JSON over HTTP/1.1, or HTTPS if it is given certificates: slow and legible.

    ``curl http://HOST:PORT/status`` asks a node how it is; ``server`` lists the paths. A link is a request whose body
    and response last as long as it does, on a connection of its own. Calls of services share connections, one after the
    other on each. ``HostPortTransport`` has the options; ``max_message_bytes`` is counted at three quarters of the
    JSON, for in base 64 bytes grow by a third.
    """

    connection_class: ClassVar[type[WatchedConnection]] = HttpConnection

    async def answer(self, connection: HttpConnection, accept: AcceptLink) -> None:
        await Server(self._options, accept, self.services, self.cluster_fault).answer(connection)

    # --- Links ---

    async def connect(self, address: str, lane: Lane) -> Link:
        async def greet(connection: HttpConnection) -> None:
            headers = [*self._headers(address), LINES, ("Transfer-Encoding", "chunked")]
            await connection.send(h11.Request(method="POST", target=f"/links/{lane.value}", headers=headers))
            response = await connection.next_event()
            if response.status_code != 200:
                raise PeerUnreachable(f"{address} refuses the link: {await _refusal(connection, response)}")
            connection.says_lines = connection.expects_lines = True

        return HttpLink(await self.dial_and_greet(address, greet), self._options.max_message_bytes)

    def _headers(self, address: str) -> list[tuple[str, str]]:
        headers = [("Host", address)]
        if self._options.token:
            headers.append(("Authorization", f"Bearer {self._options.token.decode()}"))
        if self._options.cluster_id:
            headers.append((CLUSTER_HEADER, self._options.cluster_id))
        return headers

    # --- Calls ---

    async def dial_for_calls(self, address: str) -> HttpConnection:
        return await self.dial(address)

    async def ask(self, connection: HttpConnection, address: str, what: str, method: str, request: bytes) -> bytes:
        try:
            await self._begin(connection, address, what, f"/calls/{method}", request)
            response = await connection.next_event()
            body = await connection.read_body(self._options.max_message_bytes)
        except LinkClosed as exc:
            raise LinkClosed(f"{what}: {exc}") from exc
        if connection.h11.our_state is h11.DONE and connection.h11.their_state is h11.DONE:
            connection.h11.start_next_cycle()
            connection.is_free = True
        if response.status_code == 200:
            return body
        raise _failure(response, body).error(what)

    async def ask_stream(
        self, connection: HttpConnection, address: str, what: str, method: str, request: bytes
    ) -> trio.abc.ReceiveChannel[bytes]:
        await self._begin(connection, address, what, f"/streams/{method}", request)
        return _Responses(connection, what, self._options.max_message_bytes)

    async def _begin(self, connection: HttpConnection, address: str, what: str, target: str, request: bytes) -> None:
        allowed = self._options.max_message_bytes
        if len(request) > allowed:
            raise ServiceError(f"{what}: the request takes {len(request)} bytes; max_message_bytes allows {allowed}")
        headers = [*self._headers(address), ("Content-Length", str(len(request)))]
        await connection.send(
            h11.Request(method="POST", target=target, headers=headers), h11.Data(data=request), h11.EndOfMessage()
        )


class _Responses(trio.abc.ReceiveChannel[bytes]):
    """The responses of one streaming call."""

    def __init__(self, connection: HttpConnection, what: str, max_message_bytes: int) -> None:
        self._connection = connection
        self._what = what
        self._max_message_bytes = max_message_bytes
        # A line has a few words beside the response.
        self._lines = Lines(connection, max_message_bytes + 1024)
        self._is_begun = False
        self._is_over = False
        self._is_closed = False

    async def receive(self) -> bytes:
        """Return the next response.

        Cancellation: no response is lost.
        Raises:
            trio.EndOfChannel: the peer ended the stream.
            LinkClosed: the connection ended, or the handler failed.
            ServiceError: the peer refused the request.
            trio.ClosedResourceError: after ``aclose``.
        """
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._is_over:
            raise trio.EndOfChannel
        try:
            if not self._is_begun:
                await self._begin()
            line = await self._lines.next()
        except LinkClosed as exc:
            if self._is_closed:
                raise trio.ClosedResourceError from None
            raise LinkClosed(f"{self._what}: {exc}") from exc
        return self._read(line)

    async def _begin(self) -> None:
        response = await self._connection.next_event()
        if response.status_code != 200:
            body = await self._connection.read_body(self._max_message_bytes)
            raise _failure(response, body).error(self._what)
        self._is_begun = self._connection.expects_lines = True

    def _read(self, line: bytes | None) -> bytes:
        content: Any = None
        try:
            content = None if line is None else json.loads(line)
            if isinstance(content, dict) and "response" in content:
                return b64decode(content["response"], validate=True)
        except (ValueError, TypeError, RecursionError) as exc:
            self._connection.close(f"refused: a line of a stream is malformed: {exc}")
            raise LinkClosed(f"{self._what}: {self._connection.end_reason}") from exc
        if isinstance(content, dict) and content.get("end") is True:
            self._is_over = True
            raise trio.EndOfChannel
        if isinstance(content, dict) and "error" in content:
            self._is_over = True
            raise CallFailure(content.get("is_refusal") is True, str(content["error"])).error(self._what)
        self._connection.close("refused: a stream ended without saying how")
        raise LinkClosed(f"{self._what}: {self._connection.end_reason}")

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        self._is_closed = True
        self._connection.close("the stream was left")
        await trio.lowlevel.checkpoint()


def _failure(response: h11.Response, body: bytes) -> CallFailure:
    """Return what a response says that is not 200. To ask for less is no refusal (RFC 6585 §4)."""
    is_refusal = response.status_code < 500 and response.status_code != 429
    return CallFailure(is_refusal, _error_text(body), read_retry_after(response.headers))


async def _refusal(connection: HttpConnection, response: h11.Response) -> str:
    body = await connection.read_body(_MAX_REFUSAL_BYTES)
    return f"HTTP {response.status_code}: {_error_text(body)}"


def _error_text(body: bytes) -> str:
    """Return the sentence in a failed response, or the body if it is no JSON of ours."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "error" in content:
        return str(content["error"])
    return body[:200].decode(errors="replace")

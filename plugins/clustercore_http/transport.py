"""HttpTransport: what the node sees, and the dialling side."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h11
import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    CallFailure,
    IdleConnections,
    Lane,
    Link,
    LinkClosed,
    OfferedServices,
    PeerTimeout,
    PeerUnreachable,
    Service,
    ServiceError,
    ServiceTransport,
    SocketConnection,
    SocketOptions,
    TransportError,
    dial,
    serve_sockets,
)
from clustercore_http.connection import HttpConnection, Lines
from clustercore_http.links import HttpLink
from clustercore_http.server import LINES, Server, log

__all__ = ["HttpTransport"]

# The answer that refuses a connection is a sentence.
_MAX_REFUSAL_BYTES = 64 * 1024


class HttpTransport(ServiceTransport):
    """Carries messages as JSON over HTTP/1.1, or HTTPS if it is given certificates: slow and legible.

    ``curl http://HOST:PORT/status`` asks a node how it is; ``server`` lists the paths. A link is a request whose body
    and response last as long as it does, on a connection of its own. Calls of services share connections, one after the
    other on each.

    Args:
        listen: Where ``serve`` listens, as host:port; port 0 takes a free one.
        timeout: Limit in seconds for connecting, and for a ``call``.
        keepalive_time_ms: On a link or stream something is said at least this often ...
        keepalive_timeout_ms: ... and who was not heard for both times together is taken for dead.
        max_message_bytes: Longer messages are neither sent nor taken; it also bounds what a peer can make us hold.
            Counted at three quarters of the JSON, for in base 64 bytes grow by a third.
        token: A secret that all nodes and clients of the cluster share. It goes over the wire as it is: use TLS.
        tls_certificate, tls_key, tls_authority: See ``TlsFiles``.

    Raises: ConfigError if a value is not allowed.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        *,
        timeout: float = 2.0,
        keepalive_time_ms: int = 2_000,
        keepalive_timeout_ms: int = 2_000,
        max_message_bytes: int = 64 * 1024 * 1024,
        token: str = "",
        tls_certificate: Path | str = "",
        tls_key: Path | str = "",
        tls_authority: Path | str = "",
    ) -> None:
        self._options = SocketOptions.checked(
            listen=listen,
            timeout=timeout,
            keepalive_time_ms=keepalive_time_ms,
            keepalive_timeout_ms=keepalive_timeout_ms,
            max_message_bytes=max_message_bytes,
            token=token,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_authority=tls_authority,
        )
        self._services = OfferedServices()
        # All that are open, whoever opened them, in order.
        self._connections: dict[HttpConnection, None] = {}
        self._idle: IdleConnections[HttpConnection] = IdleConnections()
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        if self._nursery_manager is not None:
            raise TransportError("a transport is used once: make another")
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._watch, self._nursery)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._nursery_manager is not None
        assert self._nursery is not None
        for connection in list(self._connections):
            connection.close("the transport closed")
        self._idle.close()
        self._nursery.cancel_scope.cancel()
        # What the block raised is not ours to wrap in a group.
        await self._nursery_manager.__aexit__(None, None, None)

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Write empty lines where nothing was said for a while, and end connections whose peers are silent."""
        step_s = min(self._options.keepalive_time_s, self._options.keepalive_timeout_s) / 4
        while True:
            await trio.sleep(step_s)
            for connection in list(self._connections):
                connection.close_if_silent()
                if connection.is_line_due:
                    nursery.start_soon(connection.send_empty_line)

    def _track(self, socket: SocketConnection, role: Any) -> HttpConnection:
        if self._nursery is None:
            socket.close()
            raise TransportError("the transport is not open: use it inside its `async with` block")
        connection = HttpConnection(socket, self._options, role, lambda: self._connections.pop(connection, None))
        self._connections[connection] = None
        return connection

    @property
    def max_message_bytes(self) -> int:
        return self._options.max_message_bytes

    @property
    def connection_count(self) -> int:
        """How many connections are open, those that wait for a next call included."""
        return len(self._connections)

    # --- Serving ---

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        server = Server(self._options, accept, self._services)

        async def answer(socket: SocketConnection) -> None:
            connection = self._track(socket, h11.SERVER)
            try:
                await server.answer(connection)
            finally:
                connection.close()

        await serve_sockets(
            self._options.host,
            self._options.port,
            answer,
            timeout_s=self._options.timeout_s,
            tls=self._options.tls,
            on_refused=lambda peer, reason: log.warning("refused a connection from %s: %s", peer, reason),
            task_status=task_status,
        )

    def offer(self, services: Sequence[Service]) -> None:
        self._services.offer(services)

    # --- Links ---

    async def connect(self, address: str, lane: Lane) -> Link:
        limit_s = self._options.timeout_s
        with trio.move_on_after(limit_s):
            connection = await self._dial(address)
            is_open = False
            try:
                headers = [*self._headers(address), LINES, ("Transfer-Encoding", "chunked")]
                await connection.send(h11.Request(method="POST", target=f"/links/{lane.value}", headers=headers))
                response = await connection.next_event()
                if response.status_code != 200:
                    raise PeerUnreachable(f"{address} refuses the link: {await _refusal(connection, response)}")
                is_open = connection.says_lines = connection.expects_lines = True
                return HttpLink(connection, self._options.max_message_bytes)
            except LinkClosed as exc:
                raise PeerUnreachable(f"no connection to {address}: {exc}") from exc
            finally:
                if not is_open:
                    connection.close()
        raise PeerUnreachable(f"no connection to {address}: it did not answer within {limit_s:g} s")

    async def _dial(self, address: str) -> HttpConnection:
        socket = await dial(address, timeout_s=self._options.timeout_s, tls=self._options.tls)
        return self._track(socket, h11.CLIENT)

    def _headers(self, address: str) -> list[tuple[str, str]]:
        headers = [("Host", address)]
        if self._options.token:
            headers.append(("Authorization", f"Bearer {self._options.token.decode()}"))
        return headers

    # --- Calls ---

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        what = f"{method} at {address}"
        is_sent = is_over = False
        with trio.move_on_after(self._options.timeout_s):
            connection = self._idle.take(address) or await self._dial(address)
            try:
                is_sent = True
                await self._ask(connection, address, what, f"/calls/{method}", request)
                response = await connection.next_event()
                body = await connection.read_body(self._options.max_message_bytes)
                is_over = True
            except LinkClosed as exc:
                raise LinkClosed(f"{what}: {exc}") from exc
            finally:
                self._after_call(address, connection, is_over)
            if response.status_code == 200:
                return body
            raise CallFailure(response.status_code < 500, _error_text(body)).error(what)
        if is_sent:
            raise PeerTimeout(f"{what}: no answer within {self._options.timeout_s:g} s")
        raise PeerUnreachable(f"{what}: no connection within {self._options.timeout_s:g} s")

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        what = f"{method} at {address}"
        connection = self._idle.take(address) or await self._dial(address)
        try:
            await self._ask(connection, address, what, f"/streams/{method}", request)
            yield _Responses(connection, what, self._options.max_message_bytes)
        finally:
            connection.close()

    async def _ask(self, connection: HttpConnection, address: str, what: str, target: str, request: bytes) -> None:
        allowed = self._options.max_message_bytes
        if len(request) > allowed:
            raise ServiceError(f"{what}: the request takes {len(request)} bytes; max_message_bytes allows {allowed}")
        headers = [*self._headers(address), ("Content-Length", str(len(request)))]
        await connection.send(
            h11.Request(method="POST", target=target, headers=headers), h11.Data(data=request), h11.EndOfMessage()
        )

    def _after_call(self, address: str, connection: HttpConnection, is_over: bool) -> None:
        """Keep a connection whose call has ended; close one on which something may still come."""
        done = connection.h11.our_state is h11.DONE and connection.h11.their_state is h11.DONE
        if is_over and done and connection.end_reason is None:
            connection.h11.start_next_cycle()
            self._idle.put(address, connection)
        else:
            connection.close()


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
            raise CallFailure(response.status_code < 500, _error_text(body)).error(self._what)
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

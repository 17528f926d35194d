"""TcpTransport: what the node sees, and the dialling side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
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
from clustercore_tcp.connection import Connection
from clustercore_tcp.frames import MAGIC, Kind
from clustercore_tcp.link import TcpLink
from clustercore_tcp.server import CALLS, LANES, Server, log, read_failure

__all__ = ["TcpTransport"]

# What a frame of a call or of its failure has beside the request: a name, and a sentence that says why.
_EXTRA_BYTES = 64 * 1024


class TcpTransport(ServiceTransport):
    """Carries messages in frames over TCP, each with a checksum, and over TLS if it is given certificates.

    A link is a connection of its own, so the lanes of a peer share nothing. Calls of services have connections of
    theirs, one call at a time on each, which are kept for the next.

    Args:
        listen: Where ``serve`` listens, as host:port; port 0 takes a free one.
        timeout: Limit in seconds for connecting, and for a ``call``.
        keepalive_time_ms: A connection on which nothing was read for so long is pinged ...
        keepalive_timeout_ms: ... and closed if then nothing is read for so long.
        max_message_bytes: Longer messages are neither sent nor taken; it also bounds what a peer can make us hold.
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
        self._connections: dict[Connection, None] = {}
        self._idle: IdleConnections[Connection] = IdleConnections()
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
        """Ping where nothing was heard for a while, and end connections whose peers are silent."""
        step_s = min(self._options.keepalive_time_s, self._options.keepalive_timeout_s) / 4
        while True:
            await trio.sleep(step_s)
            for connection in list(self._connections):
                connection.close_if_silent()
                if connection.take_ping_due():
                    nursery.start_soon(connection.ping)

    @contextmanager
    def _kept(self, socket: SocketConnection) -> Iterator[Connection]:
        """Frame a connection, and watch it inside the block."""
        connection = self._track(socket)
        try:
            yield connection
        finally:
            connection.close()

    def _track(self, socket: SocketConnection) -> Connection:
        if self._nursery is None:
            socket.close()
            raise TransportError("the transport is not open: use it inside its `async with` block")
        connection = Connection(socket, self._options, lambda: self._connections.pop(connection, None))
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
            with self._kept(socket) as connection:
                await server.answer(connection)

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

    # --- Dialling ---

    async def connect(self, address: str, lane: Lane) -> Link:
        return TcpLink(await self._open(address, LANES[lane.value]), self._options.max_message_bytes)

    async def _open(self, address: str, purpose: bytes) -> Connection:
        """Open a connection for a purpose, and wait until the peer accepts it.

        Cancellation: no connection is left.
        Raises: PeerUnreachable.
        """
        limit_s = self._options.timeout_s
        with trio.move_on_after(limit_s):
            connection = self._track(await dial(address, timeout_s=limit_s, tls=self._options.tls))
            is_accepted = False
            try:
                await connection.send(Kind.OPEN, purpose + self._options.token, before=MAGIC)
                kind, payload = await connection.receive()
                if kind is not Kind.ACCEPTED:
                    why = payload.decode(errors="replace") if kind is Kind.REFUSED else f"it answers with {kind.name}"
                    raise PeerUnreachable(f"{address} refuses the connection: {why}")
                is_accepted = True
                return connection
            except LinkClosed as exc:
                raise PeerUnreachable(f"no connection to {address}: {exc}") from exc
            finally:
                if not is_accepted:
                    connection.close()
        raise PeerUnreachable(f"no connection to {address}: it did not answer within {limit_s:g} s")

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        what = f"{method} at {address}"
        is_sent = False
        with trio.move_on_after(self._options.timeout_s):
            connection = await self._for_call(address)
            is_over = False
            try:
                is_sent = True
                await self._begin(connection, Kind.UNARY, what, method, request)
                response = await _response(connection, what)
                if response is None:
                    raise LinkClosed(f"{what}: the peer ended the call without a response")
                is_over = True
                return response
            except ServiceError:
                is_over = connection.end_reason is None
                raise
            finally:
                self._after_call(address, connection, is_over)
        if is_sent:
            raise PeerTimeout(f"{what}: no answer within {self._options.timeout_s:g} s")
        raise PeerUnreachable(f"{what}: no connection within {self._options.timeout_s:g} s")

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        what = f"{method} at {address}"
        connection = await self._for_call(address)
        responses = _Responses(connection, what)
        try:
            await self._begin(connection, Kind.STREAM, what, method, request)
            yield responses
        finally:
            self._after_call(address, connection, responses.is_over)

    async def _for_call(self, address: str) -> Connection:
        connection = self._idle.take(address) or await self._open(address, CALLS)
        connection.is_watched = True
        return connection

    def _after_call(self, address: str, connection: Connection, is_over: bool) -> None:
        """Keep a connection whose call has ended; close one on which something may still come."""
        connection.is_watched = False
        if is_over:
            self._idle.put(address, connection)
        else:
            connection.close()

    async def _begin(self, connection: Connection, kind: Kind, what: str, method: str, request: bytes) -> None:
        allowed = self._options.max_message_bytes
        name = method.encode()
        if len(request) + len(name) + 2 > allowed:
            raise ServiceError(f"{what}: the request takes {len(request)} bytes; max_message_bytes allows {allowed}")
        await connection.send(kind, len(name).to_bytes(2, "big") + name + request)


async def _response(connection: Connection, what: str) -> bytes | None:
    """Wait for the next response; None at the end of a stream.

    Raises: LinkClosed; ServiceError.
    """
    try:
        kind, payload = await connection.receive()
    except LinkClosed as exc:
        raise LinkClosed(f"{what}: {exc}") from exc
    if kind is Kind.RESPONSE:
        return payload
    if kind is Kind.END:
        return None
    if kind is Kind.FAILED:
        raise read_failure(payload).error(what)
    connection.close(f"refused: a frame of kind {kind.name} during a call")
    raise connection.closed()


class _Responses(trio.abc.ReceiveChannel[bytes]):
    """The responses of one streaming call."""

    def __init__(self, connection: Connection, what: str) -> None:
        self._connection = connection
        self._what = what
        # Whether the peer has ended the stream, so that the connection is good for another call.
        self.is_over = False
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
        if self.is_over:
            raise trio.EndOfChannel
        try:
            response = await _response(self._connection, self._what)
        except TransportError:
            if self._is_closed:
                raise trio.ClosedResourceError from None
            raise
        if response is None:
            self.is_over = True
            raise trio.EndOfChannel
        return response

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        self._is_closed = True
        if not self.is_over:
            self._connection.close("the stream was left")
        await trio.lowlevel.checkpoint()

"""TcpTransport: what the node sees, and the dialling side."""

from __future__ import annotations

from typing import ClassVar

import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    Lane,
    Link,
    LinkClosed,
    PeerUnreachable,
    ServiceError,
    SocketServiceTransport,
    TransportError,
    WatchedConnection,
)
from clustercore_tcp.connection import Connection
from clustercore_tcp.frames import MAGIC, Kind
from clustercore_tcp.link import TcpLink
from clustercore_tcp.server import CALLS, LANES, Server, opening_payload, read_failure

__all__ = ["TcpTransport"]


class TcpTransport(SocketServiceTransport[Connection]):
    """Carries messages in frames over TCP, each with a checksum, and over TLS if it is given certificates.

    A link is a connection of its own, so the lanes of a peer share nothing. Calls of services have connections of
    theirs, one call at a time on each, which are kept for the next. ``HostPortTransport`` has the options.
    """

    connection_class: ClassVar[type[WatchedConnection]] = Connection

    async def answer(self, connection: Connection, accept: AcceptLink) -> None:
        await Server(self._options, accept, self.services, self.cluster_fault).answer(connection)

    async def connect(self, address: str, lane: Lane) -> Link:
        return TcpLink(await self._open(address, LANES[lane.value]), self._options.max_message_bytes)

    async def dial_for_calls(self, address: str) -> Connection:
        return await self._open(address, CALLS)

    async def _open(self, address: str, purpose: bytes) -> Connection:
        """Open a connection for a purpose, and wait until the peer accepts it.

        Cancellation: no connection is left.
        Raises: PeerUnreachable.
        """

        async def greet(connection: Connection) -> None:
            await connection.send(Kind.OPEN, opening_payload(purpose, self._options), before=MAGIC)
            kind, payload = await connection.receive()
            if kind is not Kind.ACCEPTED:
                why = payload.decode(errors="replace") if kind is Kind.REFUSED else f"it answers with {kind.name}"
                raise PeerUnreachable(f"{address} refuses the connection: {why}")

        return await self.dial_and_greet(address, greet)

    # --- Calls ---

    async def ask(self, connection: Connection, address: str, what: str, method: str, request: bytes) -> bytes:
        await self._begin(connection, Kind.UNARY, what, method, request)
        response = await _response(connection, what)
        if response is None:
            raise LinkClosed(f"{what}: the peer ended the call without a response")
        connection.is_free = True
        return response

    async def ask_stream(
        self, connection: Connection, address: str, what: str, method: str, request: bytes
    ) -> trio.abc.ReceiveChannel[bytes]:
        await self._begin(connection, Kind.STREAM, what, method, request)
        return _Responses(connection, what)

    async def _begin(self, connection: Connection, kind: Kind, what: str, method: str, request: bytes) -> None:
        allowed = self._options.max_message_bytes
        name = method.encode()
        if len(request) + len(name) + 2 > allowed:
            connection.is_free = True
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
        connection.is_free = True
        raise read_failure(payload).error(what)
    connection.close(f"refused: a frame of kind {kind.name} during a call")
    raise connection.closed()


class _Responses(trio.abc.ReceiveChannel[bytes]):
    """The responses of one streaming call."""

    def __init__(self, connection: Connection, what: str) -> None:
        self._connection = connection
        self._what = what
        # Whether the peer has ended the stream. The connection may be another call's by then.
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
            response = await _response(self._connection, self._what)
        except TransportError:
            if self._is_closed:
                raise trio.ClosedResourceError from None
            self._is_over = self._connection.is_free
            raise
        if response is None:
            self._is_over = self._connection.is_free = True
            raise trio.EndOfChannel
        return response

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        self._is_closed = True
        if not self._is_over:
            self._connection.close("the stream was left")
        await trio.lowlevel.checkpoint()

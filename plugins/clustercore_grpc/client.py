"""The dialling side: connections of their own for links, shared ones for calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.abc
from grpclib.metadata import USER_AGENT, encode_timeout
from grpclib.protocol import AbstractHandler

from clustercore.interfaces import (
    Link,
    LinkClosed,
    PeerTimeout,
    PeerUnreachable,
    ServiceError,
    SocketOptions,
    TransportError,
    split_address,
)
from clustercore_grpc.errors import StreamBroken, outcome_of
from clustercore_grpc.http2 import Http2Protocol
from clustercore_grpc.link import StreamLink
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.statistics import Ledger
from clustercore_grpc.stream import CONTENT_TYPE, MessageStream

__all__ = ["Client"]

EXCHANGE = "/clustercore.v1.Raft/Exchange"

# Addresses to which a connection for calls is kept. A cluster has few; a program that walks through many loses the one
# unused for longest.
MAX_CHANNELS = 64

# Added to the deadline a server is told, so that at the deadline it is the caller's clock that speaks: a Trio scope of
# the caller's then ends the call as Trio does, instead of racing with the server's DEADLINE_EXCEEDED.
_DEADLINE_GRACE_S = 0.1

# A peer that goes away says which requests it did not look at. Each is made once more (gRFC A6, "transparent retries").
_TRANSPARENT_ATTEMPTS = 2

# gRPC allows eight digits; a longer deadline than this need not be told.
_MAX_TIMEOUT_S = 99_999_999.0


class _NoRequests(AbstractHandler):
    """A client's side of a connection accepts no streams."""

    def accept(self, stream: Any, headers: Any, release_stream: Any) -> None:
        stream.adopt(release_stream)
        stream.close("a client accepts no requests")

    def cancel(self, stream: Any) -> None:
        pass

    def close(self) -> None:
        pass


@attrs.define(eq=False)
class _Channel:
    """The shared connection to one address."""

    connection: Http2Protocol | None = None
    # Held while connecting, so that calls at the same time share what the first one opens.
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    users: int = 0


class Client:
    """Opens links and makes calls, and knows every connection it opened."""

    def __init__(self, loop: SocketLoop, options: SocketOptions) -> None:
        self._loop = loop
        self._options = options
        # What was counted, by address.
        self.ledger = Ledger()
        self._connections: set[Http2Protocol] = set()
        # By address, the one used last at the end.
        self._channels: dict[str, _Channel] = {}

    @property
    def connection_count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._connections)

    def abort(self, reason: str) -> None:
        """End every connection at once. Never blocks."""
        for connection in list(self._connections):
            connection.abort(reason)

    # --- Links ---

    async def connect(self, address: str) -> Link:
        """Open a link on a connection of its own.

        Cancellation: no connection is left.
        Raises: PeerUnreachable.
        """
        connection: Http2Protocol | None = None
        with trio.move_on_after(self._options.timeout_s):
            connection = await self._dial(address)
        if connection is None:
            raise self._unreachable(address, f"no connection within {self._options.timeout_s:g} s")
        try:
            stream = await connection.open_stream(self._headers(address, EXCHANGE))
        except StreamBroken as exc:
            raise self._unreachable(address, str(exc)) from exc
        except BaseException:
            connection.abort("given up while connecting")
            raise

        def close(reason: str) -> None:
            stream.stop_receiving(reason)
            connection.abort(reason)

        return StreamLink(stream, address, close)

    async def _dial(self, address: str) -> Http2Protocol:
        """Connect and wait until the peer speaks HTTP/2. Cancellation: no connection is left."""
        try:
            host, port = split_address(address)
        except ValueError as exc:
            raise self._unreachable(address, str(exc)) from exc
        counters = self.ledger.of(address)
        connection = Http2Protocol(
            _NoRequests(),
            self._options,
            self._loop,
            client_side=True,
            on_end=self._connections.discard,
            counters=counters,
        )
        self._connections.add(connection)
        try:
            await self._loop.connect(connection, host, port, self._options.tls)
            await connection.wait_ready()
        except (OSError, ValueError, StreamBroken, TransportError) as exc:
            counters.connects_failed += 1
            connection.abort(str(exc))
            raise self._unreachable(address, str(exc)) from exc
        except BaseException:
            counters.connects_failed += 1
            connection.abort("given up while connecting")
            raise
        counters.connects += 1
        return connection

    @staticmethod
    def _unreachable(address: str, reason: str) -> PeerUnreachable:
        return PeerUnreachable(f"no connection to {address}: {reason}")

    def _headers(self, address: str, path: str, timeout_s: float = float("inf")) -> list[tuple[str, str]]:
        headers = [
            (":method", "POST"),
            (":scheme", "https" if self._options.tls else "http"),
            (":path", path),
            (":authority", address),
        ]
        if self._options.token:
            headers.append(("authorization", f"Bearer {self._options.token.decode()}"))
        if timeout_s <= _MAX_TIMEOUT_S:
            headers.append(("grpc-timeout", encode_timeout(max(timeout_s, 0.0))))
        return [*headers, ("te", "trailers"), CONTENT_TYPE, ("user-agent", USER_AGENT)]

    # --- Calls ---

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        """Make a unary call on the shared connection. See ``ServiceTransport.call``."""
        with self.ledger.of(address).counted():
            return await self._call(address, method, request)

    async def _call(self, address: str, method: str, request: bytes) -> bytes:
        what = f"{method} at {address}"
        is_sent = False
        with trio.move_on_after(self._options.timeout_s):
            channel = self._channel(address)
            try:
                for _ in range(_TRANSPARENT_ATTEMPTS):
                    deadline = trio.current_effective_deadline() + _DEADLINE_GRACE_S
                    connection, stream = await self._open(address, channel, what, method, request, deadline)
                    is_sent = True
                    try:
                        return await _response(stream, what)
                    except LinkClosed:
                        if not stream.is_unprocessed:
                            raise
                        is_sent = False
                    finally:
                        connection.close_stream(stream, "the call is over")
                raise self._unreachable(address, "it goes away, and did not look at the request")
            finally:
                channel.users -= 1
        if is_sent:
            raise PeerTimeout(f"{what}: no answer within {self._options.timeout_s:g} s")
        raise self._unreachable(address, f"not ready for {method} within {self._options.timeout_s:g} s")

    async def _open(
        self, address: str, channel: _Channel, what: str, method: str, request: bytes, deadline: float = float("inf")
    ) -> tuple[Http2Protocol, MessageStream]:
        """Send a request on the channel's connection, or on a new one if the peer just closes that in order."""
        while True:
            connection = await self._connected(address, channel)
            try:
                timeout_s = deadline - trio.current_time()
                return connection, await self._request(connection, address, what, method, request, timeout_s)
            except PeerUnreachable:
                if connection.going_away is None:
                    raise

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        """Make a call with a stream of responses on the shared connection. See ``ServiceTransport.open_stream``."""
        what = f"{method} at {address}"
        channel = self._channel(address)
        try:
            stream: MessageStream | None = None
            with trio.move_on_after(self._options.timeout_s):
                connection, stream = await self._open(address, channel, what, method, request)
            if stream is None:
                raise self._unreachable(address, f"not ready for {method} within {self._options.timeout_s:g} s")
            try:
                yield _Responses(stream, what)
            finally:
                connection.close_stream(stream, "the stream was left")
        finally:
            channel.users -= 1

    async def _request(
        self,
        connection: Http2Protocol,
        address: str,
        what: str,
        method: str,
        request: bytes,
        timeout_s: float = float("inf"),
    ) -> MessageStream:
        """Send a whole request. Cancellation: nothing was sent."""
        if len(request) > self._options.max_message_bytes:
            allowed = self._options.max_message_bytes
            raise ServiceError(f"{what}: the request takes {len(request)} bytes; max_message_bytes allows {allowed}")
        try:
            return await connection.open_stream(self._headers(address, f"/{method}", timeout_s), request)
        except StreamBroken as exc:
            raise self._unreachable(address, str(exc)) from exc

    # --- Shared connections ---

    def _channel(self, address: str) -> _Channel:
        """Return the channel for an address, with the caller counted among its users."""
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = _Channel()
            self._evict()
        self._channels[address] = channel
        channel.users += 1
        return channel

    def _evict(self) -> None:
        """Make room for one more channel, if one is unused."""
        if len(self._channels) < MAX_CHANNELS:
            return
        for address, channel in self._channels.items():
            if not channel.users:
                del self._channels[address]
                if channel.connection is not None:
                    channel.connection.abort("unused")
                return

    async def _connected(self, address: str, channel: _Channel) -> Http2Protocol:
        """Return the channel's connection, opened anew if it has ended."""
        async with channel.lock:
            connection = channel.connection
            if connection is None or connection.end_reason is not None or connection.going_away is not None:
                channel.connection = connection = await self._dial(address)
            return connection


class _Responses(trio.abc.ReceiveChannel[bytes]):
    """The responses of one streaming call."""

    def __init__(self, stream: MessageStream, what: str) -> None:
        self._stream = stream
        self._what = what

    async def receive(self) -> bytes:
        """Return the next response.

        Cancellation: no response is lost.
        Raises:
            trio.EndOfChannel: the peer ended the stream.
            LinkClosed, PeerTimeout: the connection ended, or the peer gave up.
            ServiceError: the peer refused the request.
            trio.ClosedResourceError: after ``aclose``.
        """
        try:
            response = await self._stream.receive()
        except StreamBroken as exc:
            if self._is_closed:
                raise trio.ClosedResourceError from exc
            raise LinkClosed(f"{self._what}: {exc}") from exc
        if response is not None:
            return response
        outcome = outcome_of(self._stream.headers, self._stream.trailers)
        if outcome.is_ok:
            raise trio.EndOfChannel
        raise outcome.error(self._what)

    _is_closed = False

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        self._is_closed = True
        self._stream.stop_receiving("closed here")
        await trio.lowlevel.checkpoint()


async def _response(stream: MessageStream, what: str) -> bytes:
    """Wait for the one response of a call, and for the status that makes it valid."""
    try:
        response = await stream.receive()
        if response is not None and await stream.receive() is not None:
            raise LinkClosed(f"{what}: the peer sent two responses where one was asked for")
    except StreamBroken as exc:
        raise LinkClosed(f"{what}: {exc}") from exc
    outcome = outcome_of(stream.headers, stream.trailers)
    if not outcome.is_ok:
        raise outcome.error(what)
    if response is None:
        raise LinkClosed(f"{what}: the peer ended the call without a response")
    return response

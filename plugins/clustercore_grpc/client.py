"""The dialling side: connections of their own for links, shared ones for calls (see ``channel``)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.abc
from grpclib.metadata import USER_AGENT, encode_timeout
from grpclib.protocol import AbstractHandler

from clustercore.interfaces import (
    Ledger,
    Link,
    LinkClosed,
    PeerTimeout,
    PeerUnreachable,
    ServiceError,
    SocketOptions,
    TransportError,
    split_address,
)
from clustercore_grpc.channel import Channel, ChannelState, PoolOptions
from clustercore_grpc.errors import StreamBroken, outcome_of
from clustercore_grpc.http2 import Http2Protocol
from clustercore_grpc.link import StreamLink
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.stream import CONTENT_TYPE, MessageStream

__all__ = ["CLUSTER_HEADER", "Client"]

log = logging.getLogger(__name__)

EXCHANGE = "/clustercore.v1.Raft/Exchange"

# Addresses to which a connection for calls is kept. A cluster has few; a program that walks through many loses the one
# unused for longest.
MAX_CHANNELS = 64

# The cluster that a client means, if it means a certain one.
CLUSTER_HEADER = "clustercore-cluster-id"

# Addresses whose keepalive is remembered to be slower; beyond that the first to be slowed is forgotten.
_MAX_SLOWED = 256

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


class Client:
    """Opens links and makes calls, and knows every connection it opened."""

    def __init__(self, loop: SocketLoop, options: SocketOptions, pool: PoolOptions, ledger: Ledger) -> None:
        self._loop = loop
        self._options = options
        self._pool = pool
        self._ledger = ledger
        self._connections: set[Http2Protocol] = set()
        # By address, the one used last at the end.
        self._channels: dict[str, Channel] = {}
        # By what keepalive_time is multiplied for an address that found our pings too many (gRFC A8).
        self._slowed: dict[str, int] = {}

    @property
    def connection_count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._connections)

    @property
    def states(self) -> Mapping[str, ChannelState]:
        """How things are with the addresses that are called."""
        return {address: channel.state for address, channel in sorted(self._channels.items())}

    def heard_from(self, host: str) -> None:
        """Take note that a peer on this host has called us: whoever serves there is up again."""
        for address, channel in self._channels.items():
            if split_address(address)[0] == host:
                channel.heard()

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

        if address in self._channels:
            self._channels[address].heard()
        return StreamLink(stream, address, close)

    async def _dial(self, address: str) -> Http2Protocol:
        """Connect and wait until the peer speaks HTTP/2. Cancellation: no connection is left."""
        try:
            host, port = split_address(address)
        except ValueError as exc:
            raise self._unreachable(address, str(exc)) from exc
        counters = self._ledger.of(address)
        connection = Http2Protocol(
            _NoRequests(),
            self._options,
            self._loop,
            client_side=True,
            on_end=self._connections.discard,
            on_too_many_pings=lambda: self._slow_down(address),
            keepalive_time_s=self._options.keepalive_time_s * self._slowed.get(address, 1),
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

    def _slow_down(self, address: str) -> None:
        """Ping this address half as often, on connections to come (gRFC A8)."""
        factor = 2 * self._slowed.pop(address, 1)
        if len(self._slowed) >= _MAX_SLOWED:
            del self._slowed[next(iter(self._slowed))]
        self._slowed[address] = factor
        log.warning(
            "%s finds our pings too many; from now on they come after %g s of silence. Set keepalive_time_ms to what "
            "it permits",
            address,
            self._options.keepalive_time_s * factor,
        )

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
        if self._options.cluster_id:
            headers.append((CLUSTER_HEADER, self._options.cluster_id))
        if timeout_s <= _MAX_TIMEOUT_S:
            headers.append(("grpc-timeout", encode_timeout(max(timeout_s, 0.0))))
        return [*headers, ("te", "trailers"), CONTENT_TYPE, ("user-agent", USER_AGENT)]

    # --- Calls ---

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        """Make a unary call on the shared connection. See ``ServiceTransport.call``."""
        with self._ledger.of(address).counted():
            return await self._call(address, method, request)

    async def _call(self, address: str, method: str, request: bytes) -> bytes:
        what = f"{method} at {address}"
        is_sent = False
        with trio.move_on_after(self._options.timeout_s):
            channel = self._channel(address)
            try:
                for _ in range(_TRANSPARENT_ATTEMPTS):
                    deadline = trio.current_effective_deadline() + _DEADLINE_GRACE_S
                    connection, stream = await self._request(address, channel, what, method, request, deadline)
                    is_sent = True
                    try:
                        return await _response(stream, what)
                    except LinkClosed:
                        if not stream.is_unprocessed:
                            raise
                        is_sent = False
                        self._ledger.of(address).transparent_retries += 1
                    finally:
                        connection.close_stream(stream, "the call is over")
                raise self._unreachable(address, "it goes away, and did not look at the request")
            finally:
                channel.users -= 1
        if is_sent:
            raise PeerTimeout(f"{what}: no answer within {self._options.timeout_s:g} s")
        raise self._unreachable(address, f"not ready for {method} within {self._options.timeout_s:g} s")

    async def _request(
        self, address: str, channel: Channel, what: str, method: str, request: bytes, deadline: float = float("inf")
    ) -> tuple[Http2Protocol, MessageStream]:
        """Send a whole request. Cancellation: nothing was sent."""
        if len(request) > self._options.max_message_bytes:
            allowed = self._options.max_message_bytes
            raise ServiceError(f"{what}: the request takes {len(request)} bytes; max_message_bytes allows {allowed}")
        return await channel.open_stream(
            lambda: self._headers(address, f"/{method}", deadline - trio.current_time()), request
        )

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        """Make a call with a stream of responses on a shared connection. See ``ServiceTransport.open_stream``."""
        what = f"{method} at {address}"
        with self._ledger.of(address).counted(is_stream=True):
            channel = self._channel(address)
            try:
                stream: MessageStream | None = None
                with trio.move_on_after(self._options.timeout_s):
                    connection, stream = await self._request(address, channel, what, method, request)
                if stream is None:
                    raise self._unreachable(address, f"not ready for {method} within {self._options.timeout_s:g} s")
                try:
                    yield _Responses(stream, what)
                finally:
                    connection.close_stream(stream, "the stream was left")
            finally:
                channel.users -= 1

    # --- Shared connections ---

    def _channel(self, address: str) -> Channel:
        """Return the channel for an address, with the caller counted among its users."""
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = Channel(address, self._dial, self._pool)
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
                channel.shut("unused")
                return


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

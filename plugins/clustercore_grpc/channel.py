"""The connections that the calls to one address share: how many there are, who waits, and when to connect again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum

import attrs
import trio

from clustercore.interfaces import Backoff, PeerUnreachable, QueueFull
from clustercore_grpc.errors import StreamBroken
from clustercore_grpc.http2 import Http2Protocol
from clustercore_grpc.stream import MessageStream

__all__ = ["Channel", "ChannelState", "PoolOptions"]

# Connections beyond the first are for times of many calls; one that carried none for so long is closed.
IDLE_S = 60.0

# Raft's peers come back within seconds; gRPC's own two minutes would leave a node out that has long returned.
FIRST_BACKOFF_S, BACKOFF_FACTOR, MAX_BACKOFF_S = 0.1, 1.6, 3.0


class ChannelState(StrEnum):
    """How things are with an address (gRPC, "Connectivity semantics")."""

    # No connection, and none was asked for since the last one ended.
    IDLE = "IDLE"
    CONNECTING = "CONNECTING"
    READY = "READY"
    # Connecting failed, and it is not yet time for the next attempt.
    TRANSIENT_FAILURE = "TRANSIENT_FAILURE"
    # The peer goes away, and still answers what it was asked.
    DRAINING = "DRAINING"
    SHUTDOWN = "SHUTDOWN"


@attrs.frozen
class PoolOptions:
    """How calls share connections."""

    max_connections: int
    max_pending: int
    wait_for_ready: bool


@attrs.define(eq=False)
class _Pooled:
    """A connection, and when it last had a call (Trio's clock)."""

    connection: Http2Protocol
    used_at: float


class Channel:
    """Opens streams to one address, on as few connections as carry them."""

    def __init__(self, address: str, dial: Callable[[str], Awaitable[Http2Protocol]], options: PoolOptions) -> None:
        self._address = address
        self._dial = dial
        self._options = options
        self._pooled: list[_Pooled] = []
        # Held while connecting, so that calls at the same time share what the first one opens.
        self._lock = trio.Lock()
        # Calls that wait for a connection, or for a place on one.
        self._pending = 0
        self._backoff = Backoff(FIRST_BACKOFF_S, BACKOFF_FACTOR, MAX_BACKOFF_S)
        self._may_dial_at = -math.inf
        self._last_failure = ""
        self._is_shut = False
        # How many calls use it: it is not to be forgotten.
        self.users = 0

    @property
    def state(self) -> ChannelState:
        """How things are."""
        connections = [pooled.connection for pooled in self._pooled if pooled.connection.end_reason is None]
        if self._is_shut:
            return ChannelState.SHUTDOWN
        if any(connection.going_away is None for connection in connections):
            return ChannelState.READY
        if self._lock.locked():
            return ChannelState.CONNECTING
        if connections:
            return ChannelState.DRAINING
        return ChannelState.TRANSIENT_FAILURE if trio.current_time() < self._may_dial_at else ChannelState.IDLE

    def heard(self) -> None:
        """Connect at once when next asked to, and back off from the start: the peer was just heard."""
        self._backoff.reset()
        self._may_dial_at = -math.inf

    def shut(self, reason: str) -> None:
        """Abort all connections."""
        self._is_shut = True
        for pooled in self._pooled:
            pooled.connection.abort(reason)

    async def open_stream(
        self, make_headers: Callable[[], list[tuple[str, str]]], request: bytes
    ) -> tuple[Http2Protocol, MessageStream]:
        """Send a request; return its stream, and the connection that closes it. Waits for its turn where it must.

        Cancellation: nothing was sent.
        Raises: PeerUnreachable; QueueFull.
        """
        while True:
            connection = self._free()
            with self._waiting() if connection is None else nullcontext():
                if connection is None:
                    connection = await self._connected()
                try:
                    return connection, await connection.open_stream(make_headers(), request)
                except StreamBroken as exc:
                    if connection.going_away is None:
                        raise self._unreachable(str(exc)) from exc

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if self._pending >= self._options.max_pending:
            raise QueueFull(
                f"{self._address}: {self._pending} calls wait already, which is all that max_pending allows"
            )
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def _live(self) -> list[_Pooled]:
        """Return the connections that take calls; forget those that have ended, and close what is superfluous."""
        now = trio.current_time()
        self._pooled = [pooled for pooled in self._pooled if pooled.connection.end_reason is None]
        live = [pooled for pooled in self._pooled if pooled.connection.going_away is None]
        for pooled in live[1:]:
            if not pooled.connection.stream_count and now >= pooled.used_at + IDLE_S:
                pooled.connection.abort("unused")
        return [pooled for pooled in live if pooled.connection.end_reason is None]

    def _free(self) -> Http2Protocol | None:
        """Return a connection with room for a stream; None if there is none."""
        for pooled in self._live():
            if pooled.connection.has_room:
                pooled.used_at = trio.current_time()
                return pooled.connection
        return None

    async def _connected(self) -> Http2Protocol:
        """Return a connection: one with room, a new one, or when there may be no more, that with the shortest queue."""
        self._check_patience()
        async with self._lock:
            while True:
                free = self._free()
                if free is not None:
                    return free
                live = self._live()
                if len(live) < self._options.max_connections:
                    connection = await self._try_to_dial(has_another=bool(live))
                    if connection is not None:
                        return connection
                    live = self._live()
                if live:
                    return min((pooled.connection for pooled in live), key=lambda one: one.waiting_count)

    def _check_patience(self) -> None:
        """Fail now where a call would wait for the next attempt to connect, unless it is to wait."""
        left_s = self._may_dial_at - trio.current_time()
        if left_s > 0 and not self._live() and not self._options.wait_for_ready:
            raise self._unreachable(f"{self._last_failure}; the next attempt is due in {left_s:.1f} s")

    async def _try_to_dial(self, *, has_another: bool) -> Http2Protocol | None:
        """Connect, when it is time to. None if that failed and there is something else to do."""
        left_s = self._may_dial_at - trio.current_time()
        if left_s > 0:
            if has_another:
                return None
            self._check_patience()
            await trio.sleep(left_s)
        try:
            connection = await self._dial(self._address)
        except PeerUnreachable as exc:
            self._may_dial_at = trio.current_time() + self._backoff.draw()
            self._last_failure = str(exc)
            if has_another or self._options.wait_for_ready:
                return None
            raise
        self.heard()
        self._pooled.append(_Pooled(connection, trio.current_time()))
        return connection

    def _unreachable(self, reason: str) -> PeerUnreachable:
        prefix = f"no connection to {self._address}: "
        return PeerUnreachable(reason if reason.startswith(prefix) else prefix + reason)

"""What transports over sockets have in common, so that each of them says only what goes over the wire.

``HostPortTransport`` is for any whose addresses are host:port: the options, the addresses, the cluster, the counts.
``SocketTransport`` adds the life of its connections over Trio's streams: listening, dialling, watching, closing.
``SocketServiceTransport`` adds the calls of services, and keeps connections for the next one.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar, cast

import trio
import trio.abc

from clustercore.interfaces.calls import OfferedServices
from clustercore.interfaces.errors import ConfigError, LinkClosed, PeerTimeout, PeerUnreachable, TransportError
from clustercore.interfaces.socket_options import SocketOptions
from clustercore.interfaces.sockets import IdleConnections, SocketConnection, dial, serve_sockets, split_address
from clustercore.interfaces.statistics import CallStatistics, Counters, Ledger
from clustercore.interfaces.transport import AcceptLink, Service, ServiceTransport, Transport
from clustercore.interfaces.watched import WatchedConnection

__all__ = ["HostPortTransport", "SocketServiceTransport", "SocketTransport"]

log = logging.getLogger("clustercore")

ConnectionT = TypeVar("ConnectionT", bound=WatchedConnection)


class HostPortTransport(Transport):
    """A transport whose addresses are host:port, with the options that all of these have.

    Args:
        listen: Where ``serve`` listens, as host:port; port 0 takes a free one.
        timeout: Limit in seconds for connecting, and for a ``call``.
        keepalive_time_ms: A connection on which nothing was read for so long is asked for a sign of life ...
        keepalive_timeout_ms: ... and ended if then nothing is read for so long.
        max_message_bytes: Longer messages are neither sent nor taken; it also bounds what a peer can make us hold.
        token: A secret that all nodes and clients of the cluster share. It goes over the wire as it is: use TLS.
        tls_certificate, tls_key, tls_authority: See ``TlsFiles``.
        cluster_id: For clients: the cluster that is meant. A node that knows that it belongs to another refuses every
            connection and call. Empty: any. Nodes tell each other in the Hello of each link, and need not say it here.

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
        cluster_id: str = "",
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
            cluster_id=cluster_id,
        )
        # What was counted, by the address that was dialled.
        self._ledger = Ledger()
        # That of the node here; empty as long as it is not known.
        self._own_cluster_id = ""

    @property
    def max_message_bytes(self) -> int:
        """See ``Transport``."""
        return self._options.max_message_bytes

    def check_address(self, address: str) -> None:
        """See ``Transport``."""
        try:
            _, port = split_address(address)
        except ValueError as exc:
            raise ConfigError(f"{address!r} is no address of a node: {exc}") from None
        if not port:
            raise ConfigError(f"{address!r} is no address of a node: port 0 is for listening, not for connecting")

    def name_cluster(self, cluster_id: str) -> None:
        """See ``Transport``."""
        self._own_cluster_id = cluster_id

    def cluster_fault(self, meant: str) -> str:
        """Return why one who says that it means this cluster is refused; empty if it is not, or says nothing."""
        own = self._own_cluster_id
        if not meant or not own or meant == own:
            return ""
        return f"this node belongs to cluster {own}, and cluster {meant} is meant"

    def statistics(self) -> Mapping[str, CallStatistics]:
        """See ``Transport``."""
        return self._ledger.snapshot()


class SocketTransport(HostPortTransport, Generic[ConnectionT]):
    """A transport over Trio's streams, with TLS or without. What is left to say is ``answer`` and ``connect``.

    Every connection, dialled or accepted, is a ``connection_class``. All are closed when the transport is left, and the
    accepted ones when ``serve`` ends.
    """

    # What is made of a socket: ``WatchedConnection``, or what derives from it to speak a protocol and to tell silence.
    connection_class: ClassVar[type[WatchedConnection]] = WatchedConnection

    # A generator cannot be left by anybody but who entered it, so the nursery's two halves are kept.
    _nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None
    _nursery: trio.Nursery | None = None

    @abstractmethod
    async def answer(self, connection: ConnectionT, accept: AcceptLink) -> None:
        """Serve an accepted connection: find out what it is for, and run ``accept`` with the link if it is for one.

        The connection is closed when this returns.

        Called by: ``serve``, in a task for each connection.
        Raises: nothing for what a peer did; what ``accept`` raises.
        """

    async def __aenter__(self) -> Self:
        if self._nursery_manager is not None:
            raise TransportError("a transport is used once: make another")
        # All that are open, whoever opened them, in order.
        self._connections: dict[ConnectionT, None] = {}
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
        nursery, self._nursery = self._nursery, None
        nursery.cancel_scope.cancel()
        # What the block raised is not ours to wrap in a group.
        await self._nursery_manager.__aexit__(None, None, None)

    async def _watch(self, nursery: trio.Nursery) -> None:
        step_s = min(self._options.keepalive_time_s, self._options.keepalive_timeout_s) / 4
        while True:
            await trio.sleep(step_s)
            for connection in list(self._connections):
                connection.check_alive(nursery)

    @property
    def connection_count(self) -> int:
        """How many connections are open, those that wait for a next call included."""
        return 0 if self._nursery is None else len(self._connections)

    def _take_over(self, socket: SocketConnection, counters: Counters, *, is_client: bool) -> ConnectionT:
        if self._nursery is None:
            socket.close()
            raise TransportError("the transport is not open: use it inside its `async with` block")
        made = self.connection_class(
            socket,
            self._options,
            is_client=is_client,
            counters=counters,
            on_close=lambda: self._connections.pop(connection, None),
        )
        connection = cast(ConnectionT, made)
        self._connections[connection] = None
        return connection

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        """See ``Transport``."""
        # Of all that call: who they are is not known, and a server has no targets.
        counters = Counters()

        async def answer(socket: SocketConnection) -> None:
            connection = self._take_over(socket, counters, is_client=False)
            try:
                await self.answer(connection, accept)
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

    async def dial(self, address: str) -> ConnectionT:
        """Open a connection to an address, with the TLS handshake done.

        Cancellation: no connection is left.
        Raises: PeerUnreachable.
        """
        counters = self._ledger.of(address)
        try:
            socket = await dial(address, timeout_s=self._options.timeout_s, tls=self._options.tls)
        except BaseException:
            counters.connects_failed += 1
            raise
        counters.connects += 1
        return self._take_over(socket, counters, is_client=True)

    async def dial_and_greet(self, address: str, greet: Callable[[ConnectionT], Awaitable[None]]) -> ConnectionT:
        """Open a connection, and say on it what the peer has to hear and accept before it is of use.

        Args:
            address: Where.
            greet: Says it, and waits for the answer. It raises PeerUnreachable if the peer refuses.

        Cancellation: no connection is left.
        Raises: PeerUnreachable, also if all that takes longer than ``timeout``; what ``greet`` raises.
        """
        limit_s = self._options.timeout_s
        with trio.move_on_after(limit_s):
            connection = await self.dial(address)
            is_accepted = False
            try:
                await greet(connection)
                is_accepted = True
                return connection
            except LinkClosed as exc:
                raise PeerUnreachable(f"no connection to {address}: {exc}") from exc
            finally:
                if not is_accepted:
                    connection.close()
        raise PeerUnreachable(f"no connection to {address}: it did not answer within {limit_s:g} s")


class SocketServiceTransport(SocketTransport[ConnectionT], ServiceTransport):
    """The same, with calls of services: one at a time on each connection, which is then kept for the next."""

    # Names of services that no application may take.
    reserved: ClassVar[frozenset[str]] = frozenset()

    async def __aenter__(self) -> Self:
        self._idle: IdleConnections[ConnectionT] = IdleConnections()
        return await super().__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._idle.close()
        await super().__aexit__(exc_type, exc, traceback)

    # Made at the first use, for ``offer`` comes before the transport is entered.
    _offered: OfferedServices | None = None

    @property
    def services(self) -> OfferedServices:
        """What is answered here beside links."""
        if self._offered is None:
            self._offered = OfferedServices(self.reserved)
        return self._offered

    def offer(self, services: Sequence[Service]) -> None:
        """See ``ServiceTransport``."""
        self.services.offer(services)

    @abstractmethod
    async def dial_for_calls(self, address: str) -> ConnectionT:
        """Open a connection on which calls can be made.

        Cancellation: no connection is left.
        Raises: PeerUnreachable.
        """

    @abstractmethod
    async def ask(self, connection: ConnectionT, address: str, what: str, method: str, request: bytes) -> bytes:
        """Make a unary call on a connection that no other call uses; return the response.

        Sets ``connection.is_free`` once nothing more can come of it, so that another call may follow.

        Cancellation: the call may or may not be carried out.
        Raises: as ``ServiceTransport.call``; errors begin with ``what``.
        """

    @abstractmethod
    async def ask_stream(
        self, connection: ConnectionT, address: str, what: str, method: str, request: bytes
    ) -> trio.abc.ReceiveChannel[bytes]:
        """Send the request of a streaming call; return its responses to come.

        ``connection.is_free`` is set by their good end, if another call may then follow.

        Cancellation, Raises: as ``ask``.
        """

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        """See ``ServiceTransport``."""
        with self._ledger.of(address).counted():
            return await self._call(address, method, request)

    async def _call(self, address: str, method: str, request: bytes) -> bytes:
        what = f"{method} at {address}"
        is_sent = False
        with trio.move_on_after(self._options.timeout_s):
            connection = await self._for_call(address)
            try:
                is_sent = True
                return await self.ask(connection, address, what, method, request)
            finally:
                self._after_call(address, connection)
        if is_sent:
            raise PeerTimeout(f"{what}: no answer within {self._options.timeout_s:g} s")
        raise PeerUnreachable(f"{what}: no connection within {self._options.timeout_s:g} s")

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        """See ``ServiceTransport``."""
        with self._ledger.of(address).counted(is_stream=True):
            connection = await self._for_call(address)
            try:
                yield await self.ask_stream(connection, address, f"{method} at {address}", method, request)
            finally:
                self._after_call(address, connection)

    async def _for_call(self, address: str) -> ConnectionT:
        if self._nursery is None:
            raise TransportError("the transport is not open: use it inside its `async with` block")
        connection = self._idle.take(address) or await self.dial_for_calls(address)
        connection.is_free = False
        return connection

    def _after_call(self, address: str, connection: ConnectionT) -> None:
        """Keep a connection whose call has ended; close one on which something may still come."""
        if connection.is_free and connection.end_reason is None:
            self._idle.put(address, connection)
        else:
            connection.close()

"""GrpcTransport: what the node sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    ConfigError,
    Lane,
    Link,
    Service,
    ServiceTransport,
    SocketOptions,
    TransportError,
)
from clustercore_grpc.client import Client
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.server import RESERVED, Server
from clustercore_grpc.statistics import CallStatistics

__all__ = ["GrpcTransport"]


class GrpcTransport(ServiceTransport):
    """Carries messages over gRPC, so that any gRPC client can speak to a node.

    A link is one bidirectional stream ``clustercore.v1.Raft/Exchange`` on a TCP connection of its own: the lanes of a
    peer share nothing that could block. The unary RPCs of that service reach the node as links with one request.

    Args:
        listen: Where ``serve`` listens, as host:port; port 0 takes a free one.
        timeout: Limit in seconds for connecting, for a ``call``, and for the node to answer a unary Raft RPC.
        keepalive_time_ms: A connection on which nothing was read for so long is pinged ...
        keepalive_timeout_ms: ... and aborted if then nothing is read for so long.
        max_message_bytes: Longer messages are neither sent nor taken; it also bounds what a peer can make us hold.
        token: A secret that all nodes and clients of the cluster share, told as ``authorization: Bearer TOKEN``. It
            goes over the wire as it is: use TLS.
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
        self._loop = SocketLoop()
        self._client = Client(self._loop, self._options)
        self._services: tuple[Service, ...] = ()
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        if self._nursery_manager is not None:
            raise TransportError("a transport is used once: make another")
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        try:
            self._nursery.start_soon(self._loop.run)
            await self._loop.wait_opened()
        except BaseException as exc:
            self._loop.stop()
            await self._nursery_manager.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._nursery_manager is not None
        assert self._nursery is not None
        self._client.abort("the transport closed")
        self._loop.stop()
        # Closing waits for the loop's last callbacks, which close the sockets: bounded, and due even if cancelled.
        self._nursery.cancel_scope.shield = True
        if self._nursery.cancel_scope.cancel_called:
            # The loop itself failed, and the exception at hand may be the nursery's own cancellation.
            await self._nursery_manager.__aexit__(exc_type, exc, traceback)
        else:
            # What the block raised is not ours to wrap in a group.
            await self._nursery_manager.__aexit__(None, None, None)

    def statistics(self) -> Mapping[str, CallStatistics]:
        """Return what was counted of each address that was dialled: of calls, and of all connections."""
        return self._client.ledger.snapshot()

    @property
    def connection_count(self) -> int:
        """How many dialled connections are open, those that wait for a next call included."""
        return self._client.connection_count

    @property
    def max_message_bytes(self) -> int:
        return self._options.max_message_bytes

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        await Server(self._loop, self._options, accept, self._services).run(task_status=task_status)

    async def connect(self, address: str, lane: Lane) -> Link:
        return await self._client.connect(address)

    def offer(self, services: Sequence[Service]) -> None:
        for service in services:
            if service.name in RESERVED:
                raise ConfigError(f"the service name {service.name!r} is the node's own")
        self._services = tuple(services)

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        return await self._client.call(address, method, request)

    def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        return self._client.open_stream(address, method, request)

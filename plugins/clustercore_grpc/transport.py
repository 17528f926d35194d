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
    HostPortTransport,
    Lane,
    Link,
    Service,
    ServiceTransport,
    TransportError,
)
from clustercore_grpc.channel import ChannelState, PoolOptions
from clustercore_grpc.client import Client
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.server import RESERVED, Server

__all__ = ["GrpcTransport"]

# More is a fault of whoever set it.
_MAX_CONNECTIONS, _MAX_PENDING = 1000, 1_000_000


class GrpcTransport(HostPortTransport, ServiceTransport):
    """Carries messages over gRPC, so that any gRPC client can speak to a node.

    A link is one bidirectional stream ``clustercore.v1.Raft/Exchange`` on a TCP connection of its own: the lanes of a
    peer share nothing that could block. The unary RPCs of that service reach the node as links with one request.
    ``HostPortTransport`` has the other options; ``timeout`` bounds also the node's answer to a unary Raft RPC, and the
    token is told as ``authorization: Bearer TOKEN``.

    Args:
        max_connections: Calls to one address share a connection; when it carries as many as the peer allows, another is
            opened, up to so many.
        max_pending: So many calls to one address may wait for a connection or a place on one; QueueFull beyond that.
        wait_for_ready: Let calls wait, within ``timeout``, while an address cannot be connected to. Without, a call
            that comes between two attempts to connect fails at once; these are 0.1 s apart at first, each 1.6 times as
            long as the one before, and at most 3 s, until the peer is reached or calls us.

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
        max_connections: int = 4,
        max_pending: int = 1000,
        wait_for_ready: bool = False,
    ) -> None:
        super().__init__(
            listen,
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
        _check_count("max_connections", max_connections, _MAX_CONNECTIONS)
        _check_count("max_pending", max_pending, _MAX_PENDING)
        if not isinstance(wait_for_ready, bool):
            raise ConfigError(f"wait_for_ready = {wait_for_ready!r}: expected true or false")
        self._loop = SocketLoop()
        pool = PoolOptions(max_connections, max_pending, wait_for_ready)
        self._client = Client(self._loop, self._options, pool, self._ledger)
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

    @property
    def channel_states(self) -> Mapping[str, ChannelState]:
        """How things are with each address that calls are made to."""
        return self._client.states

    @property
    def connection_count(self) -> int:
        """How many dialled connections are open, those that wait for a next call included."""
        return self._client.connection_count

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        server = Server(
            self._loop,
            self._options,
            accept,
            self._services,
            cluster_fault=self.cluster_fault,
            on_peer=self._client.heard_from,
        )
        await server.run(task_status=task_status)

    async def connect(self, address: str, lane: Lane) -> Link:
        return await self._client.connect(address)

    def offer(self, services: Sequence[Service]) -> None:
        for service in services:
            if service.name in RESERVED:
                raise ConfigError(f"the service name {service.name!r} is the node's own")
        # As well as those offered before; one of the same name takes the place of the earlier one.
        by_name = {service.name: service for service in (*self._services, *services)}
        self._services = tuple(by_name.values())

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        return await self._client.call(address, method, request)

    def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        return self._client.open_stream(address, method, request)


def _check_count(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name} = {value!r}: expected a whole number from 1 to {most}")

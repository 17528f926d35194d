"""Asking a node for its status, from outside the cluster."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from clustercore.cli.exits import Interrupted
from clustercore.interfaces import (
    Lane,
    Link,
    LinkClosed,
    NodeStatus,
    PeerTimeout,
    StatusRequest,
    StatusResponse,
    Transport,
)
from clustercore.runtime.plugins import TRANSPORT, make_plugin

__all__ = ["StatusProbe", "open_transport"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@asynccontextmanager
async def open_transport(name: str) -> AsyncIterator[Transport]:
    """Open a transport to connect with; it serves nothing. A signal that ends commands ends the block.

    Both are opened here, for the order matters: whatever ends the block, the transport is left by a task that is not
    cancelled, and can close its connections in order.

    Raises: PluginError; ConfigError if the plugin needs options; in a group, Interrupted and what the block raises.
    """
    transport = make_plugin(TRANSPORT, name, {}, f"--transport {name}")
    async with transport, trio.open_nursery() as nursery:
        await nursery.start(_raise_on_signal)
        yield transport
        nursery.cancel_scope.cancel()


async def _raise_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            raise Interrupted(signal.Signals(number))


class StatusProbe:
    """Asks one node for its status, over a link that is kept while it works. Several tasks take turns."""

    def __init__(self, transport: Transport, address: str, *, timeout_s: float) -> None:
        self.address = address
        self._transport = transport
        self._timeout_s = timeout_s
        self._turn = trio.Lock()
        self._link: Link | None = None
        self._last_request_id = 0

    async def ask(self) -> NodeStatus:
        """Return the node's status.

        Cancellation: the link is closed.
        Raises: TransportError if the node cannot be reached or does not answer in time.
        """
        try:
            with trio.fail_after(self._timeout_s):
                async with self._turn:
                    return await self._ask()
        except trio.TooSlowError:
            raise PeerTimeout(f"{self.address} did not answer within {self._timeout_s:g} s") from None

    async def _ask(self) -> NodeStatus:
        kept = self._link is not None
        try:
            return await self._ask_once()
        except LinkClosed:
            # The link may have died long ago, unnoticed: only a fresh one says how the node is now.
            if not kept:
                raise
            return await self._ask_once()

    async def _ask_once(self) -> NodeStatus:
        link = self._link or await self._transport.connect(self.address, Lane.CONTROL)
        # Kept again only after an answer, so that a late answer to an abandoned question is never read as the next.
        self._link = None
        self._last_request_id += 1
        answered = False
        try:
            await link.send(StatusRequest(self._last_request_id))
            status = await self._receive(link)
            answered = True
        finally:
            if not answered:
                await link.aclose()
        self._link = link
        return status

    async def _receive(self, link: Link) -> NodeStatus:
        message = await link.receive()
        if isinstance(message, StatusResponse) and message.request_id == self._last_request_id:
            return message.status
        raise LinkClosed(f"{self.address} answered a status request with {type(message).__name__}")

    async def aclose(self) -> None:
        """Close the link, if there is one."""
        if self._link is not None:
            await self._link.aclose()
            self._link = None

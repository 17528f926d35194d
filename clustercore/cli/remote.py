"""Asking a node for its status, from outside the cluster."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from clustercore.cli.config import read_client_transport
from clustercore.cli.exits import Interrupted
from clustercore.interfaces import ConfigError, Message, NodeStatus, StatusRequest, StatusResponse, Transport
from clustercore.runtime.plugins import TRANSPORT, make_plugin
from clustercore.runtime.remote_node import RemoteNode

__all__ = ["StatusProbe", "check_address", "open_transport"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@asynccontextmanager
async def open_transport(name: str, *, nodes: Sequence[str] = (), cluster_id: str = "") -> AsyncIterator[Transport]:
    """Open a transport to connect with; it serves nothing. A signal that ends commands ends the block.

    Both are opened here, for the order matters: whatever ends the block, the transport is left by a task that is not
    cancelled, and can close its connections in order.

    Args:
        name: That of a plugin, or the path of a file that ends in ``.toml``: see ``read_client_transport``.
        nodes: Addresses that are to be asked.
        cluster_id: The cluster that they are to belong to; empty for any.

    Raises: PluginError; ConfigError if the plugin needs options, knows no ``cluster_id``, or an address is none of this
        transport; in a group, Interrupted and what the block raises.
    """
    options = {"cluster_id": cluster_id} if cluster_id else {}
    if name.endswith(".toml"):
        transport = read_client_transport(Path(name), options)
    else:
        transport = make_plugin(TRANSPORT, name, options, f"--transport {name}")
    for address in nodes:
        check_address(transport, "--node", address)
    async with transport, trio.open_nursery() as nursery:
        await nursery.start(_raise_on_signal)
        yield transport
        nursery.cancel_scope.cancel()


def check_address(transport: Transport, where: str, address: str) -> None:
    """Make sure that an address can be one of this transport. Raises: ConfigError, with where it was given."""
    try:
        transport.check_address(address)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


async def _raise_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            raise Interrupted(signal.Signals(number))


class StatusProbe:
    """Asks one node for its status, over a link that is kept while it works. Several tasks take turns."""

    def __init__(self, transport: Transport, address: str, *, timeout_s: float) -> None:
        self.address = address
        self._node = RemoteNode(transport, address, timeout_s=timeout_s)

    async def ask(self) -> NodeStatus:
        """Return the node's status.

        Cancellation: the link is closed.
        Raises: TransportError if the node cannot be reached or does not answer in time.
        """
        answer = await self._node.ask(StatusRequest, _is_status)
        assert isinstance(answer, StatusResponse)
        return answer.status

    async def aclose(self) -> None:
        """Close the link, if there is one."""
        await self._node.aclose()


def _is_status(answer: Message, number: int) -> bool:
    return isinstance(answer, StatusResponse) and answer.request_id == number

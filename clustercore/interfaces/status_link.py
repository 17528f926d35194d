"""The question how a node is, put to it by its own transport as if a peer had asked."""

from __future__ import annotations

import trio

from clustercore.interfaces.errors import LinkClosed, TransportError
from clustercore.interfaces.messages import Message, StatusRequest, StatusResponse
from clustercore.interfaces.transport import AcceptLink, Link
from clustercore.interfaces.values import NodeStatus

__all__ = ["StatusLink", "ask_status"]


async def ask_status(accept: AcceptLink, peer: str, *, timeout_s: float) -> NodeStatus | None:
    """Ask the node behind ``accept`` for its status, on behalf of ``peer``; None if it does not answer in time.

    Cancellation: nothing happened.
    """
    link = StatusLink(peer)
    with trio.move_on_after(timeout_s):
        await accept(link)
    return link.status


class StatusLink(Link):
    """The accepting side of a link that asks for the status, and ends with the answer."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._is_received = False
        self._ended = trio.Event()
        self.status: NodeStatus | None = None

    async def send(self, message: Message) -> None:
        """Take the answer, which ends the link. Raises: LinkClosed; TransportError if it is another message."""
        await trio.lowlevel.checkpoint()
        if self._ended.is_set():
            raise self._closed()
        if not isinstance(message, StatusResponse):
            raise TransportError(f"this link asks for the status; it takes no {type(message).__name__}")
        self.status = message.status
        self._ended.set()

    async def receive(self) -> Message:
        """Return the question, and wait after that. Raises: LinkClosed once it is answered."""
        await trio.lowlevel.checkpoint()
        if not self._is_received:
            self._is_received = True
            return StatusRequest()
        await self._ended.wait()
        raise self._closed()

    async def aclose(self) -> None:
        """End the link. Idempotent."""
        self._ended.set()
        await trio.lowlevel.checkpoint()

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"the status request of {self._peer} is answered")

"""Transport: how nodes reach each other.

A transport author writes two classes: a ``Link``, one two-way connection that carries whole messages, and a
``Transport`` that opens links and accepts them. Everything else is the node's: when to connect, how long to back off,
which message goes first, what to do when one is lost.

What a transport may do: lose, delay, repeat and reorder messages, and close a link at any time. Raft bears all four.
What it must not do: alter a message, deliver half of one, or invent one. A link that cannot promise that must close.

``clustercore.testing.conformance.TransportConformance`` and ``ServiceTransportConformance`` test all of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from types import TracebackType
from typing import Self

import attrs
import trio
import trio.abc

from clustercore.interfaces.errors import ConfigError
from clustercore.interfaces.messages import Message
from clustercore.interfaces.statistics import CallStatistics

__all__ = ["AcceptLink", "Lane", "Link", "Service", "ServiceTransport", "StreamHandler", "Transport", "UnaryHandler"]


class Lane(Enum):
    """What a link is for. A transport keeps the lanes of a peer from delaying each other."""

    # Votes, heartbeats, status: small and urgent.
    CONTROL = "control"
    # Log entries, snapshots, forwarded proposals: large, and able to wait.
    BULK = "bulk"


class Link(ABC):
    """One open connection that carries whole messages both ways.

    The dialling side sends requests and receives their responses; the accepting side the other way round. One task at a
    time sends and one receives, at the same time.
    """

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Hand a message to the connection. Returning promises nothing about its arrival.

        Waits while the connection's own buffer, which is bounded, is full: that is the back-pressure.

        Cancellation: the message was sent whole or not at all; if that cannot be told, the link closes.
        Raises: LinkClosed if the connection has ended; TransportError if this message cannot be carried because it is
            too large: the text names the limit, and the link goes on.
        """

    def send_nowait(self, message: Message) -> bool:
        """Hand a message to the connection if that needs no waiting; return whether it was handed over.

        False promises that nothing of it was sent, and says no more: whoever wants it sent calls ``send``, which waits,
        or tells by an error why the message cannot be sent. It is called in place of ``send`` and never while that
        waits, keeps the order of both, and saves the turn of a task. The default sends nothing.
        """
        return False

    @abstractmethod
    async def receive(self) -> Message:
        """Wait for the next message.

        Cancellation: no message is lost.
        Raises: LinkClosed when the connection has ended or what arrived is not a message.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once, without waiting for the other side. Idempotent.

        A ``send`` or ``receive`` under way raises LinkClosed. Closes even if cancelled.
        """

    async def __aenter__(self) -> Self:
        """Return the link itself."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the link."""
        await self.aclose()


AcceptLink = Callable[[Link], Awaitable[None]]


class Transport(ABC):
    """Opens links to other nodes and accepts theirs.

    Life: ``async with transport:`` holds what the transport needs (an event loop, TLS contexts), and ``serve`` and
    ``connect`` are used inside. A transport is used once. Its constructor's parameters are its options in a
    configuration file.
    """

    async def __aenter__(self) -> Self:
        """Make ready what ``serve`` and ``connect`` need. The default does nothing."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give back all resources. No task and no open connection is left. The default does nothing."""
        return None

    @property
    def max_message_bytes(self) -> int | None:
        """The largest encoded message that a link carries; None, the default, if there is no limit."""
        return None

    def check_address(self, address: str) -> None:
        """Make sure that a text can be where a node of this transport serves, before anybody relies on it.

        It says nothing of whether somebody serves there. The default takes everything but an empty text.

        Called by: whoever takes an address from a person: the command line, a change of the members.
        Raises: ConfigError, naming the text and what is allowed.
        """
        if not address:
            raise ConfigError("the address is empty; expected where a node serves")

    def name_cluster(self, cluster_id: str) -> None:
        """Take note of the cluster that the node here belongs to, to refuse those who say that they mean another.

        The default does nothing: links begin with a Hello, in which nodes tell each other. A transport that carries
        calls of services, which have none, may let its clients say whom they mean.

        Called by: the node, before ``serve`` if it knows, else when it learns.
        """
        return

    def statistics(self) -> Mapping[str, CallStatistics]:
        """Return what was counted of each address that was dialled; the default counts nothing."""
        return {}

    @abstractmethod
    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        """Listen, and run ``accept(link)`` in a task of its own for each link that a peer opens, until cancelled.

        Calls ``task_status.started(address)`` once peers can connect, with the address they are to use. A link is
        closed when its ``accept`` returns.

        Cancellation: the way to stop. The listener and every accepted link are closed before this returns, in bounded
        time, and no request is answered afterwards: a node that stopped must not go on voting.
        Raises: TransportError if it cannot listen.
        """

    @abstractmethod
    async def connect(self, address: str, lane: Lane) -> Link:
        """Open a link to the node that serves at ``address``.

        The caller bounds the time with a cancel scope, and closes the link.

        Cancellation: no connection is left.
        Raises: PeerUnreachable if no connection can be made, also because ``address`` is none: it is what a discovery
            told, and may be anything.
        """


UnaryHandler = Callable[[bytes], Awaitable[bytes]]
# Gets the request and a function that sends one response; returns to end the stream, is cancelled when the client
# leaves.
StreamHandler = Callable[[bytes, Callable[[bytes], Awaitable[None]]], Awaitable[None]]


@attrs.frozen
class Service:
    """An application's own requests, answered on the node's listener. Requests and responses are encoded messages."""

    # The full protobuf name of the service, as in "clustercore.v1.KeyValue".
    name: str
    # By method name. A handler raises ServiceError for a request it can never answer. Whatever else it raises ends this
    # one call, with LinkClosed at the caller, and is logged; the node goes on.
    unary: Mapping[str, UnaryHandler] = attrs.field(factory=dict)
    streams: Mapping[str, StreamHandler] = attrs.field(factory=dict)
    # The encoded google.protobuf.FileDescriptorProto of the file that describes it, which gRPC's reflection tells to
    # clients; empty if it is told nobody.
    descriptor: bytes = attrs.field(default=b"", repr=False)


class ServiceTransport(Transport):
    """A transport that can carry application services too."""

    @abstractmethod
    def offer(self, services: Sequence[Service]) -> None:
        """Answer these services as well, from the next ``serve`` on. Called before ``serve``."""

    @abstractmethod
    async def call(self, address: str, method: str, request: bytes) -> bytes:
        """Call a unary method, named as in "clustercore.v1.KeyValue/Put", of the node at ``address``.

        Cancellation: the call may or may not be carried out.
        Raises: PeerUnreachable if nothing was sent; PeerTimeout after the transport's own limit; ServiceError if the
            peer refuses the request as malformed or unknown; LinkClosed if the connection ended before the response.
        """

    @abstractmethod
    def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
        """Call a streaming method; inside the block the responses can be received. Leaving it ends the call.

        Raises: as ``call``. The channel's ``receive`` raises trio.EndOfChannel when the peer ended the stream, and
            LinkClosed when the connection did.
        """

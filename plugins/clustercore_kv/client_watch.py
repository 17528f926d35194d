"""A client's watch: one stream at a time, followed from node to node.

A transport's stream may hold cancel scopes, which must not be entered in one call of an iterator and left in another.
So one task owns the streams and hands batches to the iterator through a channel without buffer: a slow reader slows the
stream, and so the node, which holds a bounded history and says when it was too slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import trio

from clustercore.interfaces import (
    ClusterError,
    InvalidCommand,
    LinkClosed,
    MalformedMessage,
    PeerTimeout,
    PeerUnreachable,
    ServiceTransport,
    TransportError,
)
from clustercore_kv._proto.clustercore.v1 import KvErrorCode, WatchRequest
from clustercore_kv.errors import WatchFellBehind
from clustercore_kv.protocol import SERVICE, Failure, decode_watch_response
from clustercore_kv.route import Route
from clustercore_kv.values import KvEvent
from clustercore_kv.watch import EventBatch

__all__ = ["KeyValueWatch", "open_watch"]


class KeyValueWatch:
    """An async iterator of changes, in order. One task at a time iterates."""

    def __init__(self, follower: _Follower, batches: trio.MemoryReceiveChannel[EventBatch], revision: int) -> None:
        self._follower = follower
        self._batches = batches
        self._pending: deque[KvEvent] = deque()
        self._pending_revision = revision
        # Every change up to and including this one has been returned: a later watch can go on after it.
        self.revision = revision

    def __aiter__(self) -> Self:
        """Return the watch itself: iterating goes on where it stopped."""
        return self

    async def __anext__(self) -> KvEvent:
        """Wait for the next change.

        Cancellation: no change is lost.
        Raises: WatchFellBehind if changes may have been missed; ServiceError, TransportError. Then it has ended.
        """
        await trio.lowlevel.checkpoint()
        while not self._pending:
            try:
                batch = await self._batches.receive()
            except trio.EndOfChannel:
                raise self._follower.reason() from None
            self._pending.extend(batch.events)
            self._pending_revision = batch.revision
            if not batch.events:
                self.revision = batch.revision
        event = self._pending.popleft()
        self.revision = event.revision if self._pending else self._pending_revision
        return event


@asynccontextmanager
async def open_watch(
    transport: ServiceTransport, route: Route, prefix: str, after_revision: int | None
) -> AsyncIterator[KeyValueWatch]:
    """Start a watch and wait for its first answer; leaving the block ends it.

    Raises: WatchFellBehind, InvalidCommand, ServiceError, TransportError if it cannot start.
    """
    send, receive = trio.open_memory_channel[EventBatch](0)
    follower = _Follower(transport, route, prefix, after_revision, send)
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        try:
            yield KeyValueWatch(follower, receive, await follower.wait_started())
        except Exception as error:  # noqa: BLE001 - raised again outside the nursery, which would wrap it in a group
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


class _Follower:
    """Keeps a stream open, at one node after another, and passes on what it tells."""

    def __init__(
        self,
        transport: ServiceTransport,
        route: Route,
        prefix: str,
        after_revision: int | None,
        batches: trio.MemorySendChannel[EventBatch],
    ) -> None:
        self._transport = transport
        self._route = route
        self._prefix = prefix
        # Where the next stream begins; None until a node has said what "now" is.
        self._told = after_revision
        self._batches = batches
        self._started = trio.Event()
        self._reason: ClusterError | None = None

    async def run(self) -> None:
        """Follow until the watch cannot go on; ``reason`` then says why."""
        with self._batches:
            while self._reason is None:
                try:
                    self._reason = await self._follow_one()
                except (PeerUnreachable, PeerTimeout, LinkClosed) as error:
                    # Nothing is lost: the next stream begins where this one ended.
                    self._route.failed(str(error))
                except TransportError as error:
                    self._reason = error
                if self._reason is None:
                    await self._route.advance()
        self._started.set()

    async def wait_started(self) -> int:
        """Wait for the first answer; return the revision from which on changes are told. Raises: as ``reason``."""
        await self._started.wait()
        if self._told is None or self._reason is not None:
            raise self.reason()
        return self._told

    def reason(self) -> ClusterError:
        """Return why the watch ended."""
        return self._reason or LinkClosed("the watch was used after its block")

    async def _follow_one(self) -> ClusterError | None:
        """Follow one stream to its end; return why the watch ends, or None if another stream can go on.

        Nothing is raised inside the stream's block: a nursery in there would wrap it in a group.
        """
        request = bytes(WatchRequest(prefix=self._prefix, after_revision=self._told))
        async with self._transport.open_stream(self._route.address, f"{SERVICE}/Watch", request) as responses:
            while True:
                try:
                    told = decode_watch_response(await responses.receive())
                except trio.EndOfChannel:
                    self._route.failed("it ended the watch")
                    return None
                except (LinkClosed, PeerTimeout, MalformedMessage) as error:
                    self._route.failed(str(error))
                    return None
                except TransportError as error:
                    return error
                if isinstance(told, WatchFellBehind):
                    return told
                if isinstance(told, Failure):
                    self._route.failed(told.message)
                    return InvalidCommand(told.message) if told.code == KvErrorCode.INVALID else None
                await self._pass_on(*told)

    async def _pass_on(self, events: tuple[KvEvent, ...], revision: int) -> None:
        self._route.arrived()
        self._told = revision
        if self._started.is_set():
            await self._batches.send(EventBatch(events, revision))
            return
        self._started.set()
        if events:
            await self._batches.send(EventBatch(events, revision))

"""The links a node opens to its peers: one a lane, opened when there is something to send, opened again when lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random

import trio

from clustercore.interfaces.backoff import Backoff
from clustercore.interfaces.errors import PeerTimeout, TransportError
from clustercore.interfaces.messages import HelloResponse, Message
from clustercore.interfaces.transport import Lane, Link, Transport
from clustercore.raft.types import NodeId
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.introductions import Introductions, needed_version
from clustercore.runtime.outbox import Outbox

__all__ = ["PeerLane"]

logger = logging.getLogger("clustercore")

# gRPC's factor (its connection-backoff.md), with waits that suit a cluster better than its two minutes.
_BACKOFF_FACTOR = 1.6


class PeerLane:
    """One lane to one peer: a queue of messages, and the task that keeps a link open for it.

    While the peer cannot be reached, messages are dropped, not kept: by the time it is back they are out of date, and
    Raft sends what matters again.
    """

    def __init__(
        self,
        peer: NodeId,
        lane: Lane,
        *,
        introductions: Introductions,
        transport: Transport,
        addresses_of: Callable[[NodeId], Sequence[str]],
        on_message: Callable[[NodeId, str, Message], Awaitable[None]],
        on_lost: Callable[[NodeId, Lane], None],
        config: NodeConfig,
        rng: Random,
    ) -> None:
        """Prepare a lane; ``run`` makes it live. ``on_message`` is told from which storage of the peer a message is."""
        self.peer = peer
        self.lane = lane
        self.outbox = Outbox()
        self._introductions = introductions
        self._transport = transport
        self._addresses_of = addresses_of
        # How often the peer was not found: where it may be is tried in turn.
        self._misses = 0
        self._on_message = on_message
        self._on_lost = on_lost
        self._config = config
        self._backoff = Backoff(config.reconnect_min_s, _BACKOFF_FACTOR, config.reconnect_max_s, rng)
        # Set when the peer was heard, to end the wait for the next attempt.
        self._heard = trio.Event()

    def heard(self) -> None:
        """Call the peer at once when there is something to say, and back off from the start: it has just called us.

        Without, a node that returns would have to wait until the others try it again, and might call an election.
        """
        self._backoff.reset()
        self._heard.set()

    def close(self) -> None:
        """Drop what waits, and tell that it will not arrive. ``run`` has ended."""
        self._lost()

    async def run(self) -> None:
        """Send what is posted, over link after link, until cancelled."""
        while True:
            await self.outbox.wait()
            self._heard = trio.Event()
            try:
                link, version, incarnation = await self._connect()
            except TransportError as error:
                logger.debug("no %s link to %s: %s", self.lane.value, self.peer, error)
                self._misses += 1
                self._lost()
                with trio.move_on_after(self._backoff.draw()):
                    await self._heard.wait()
                self.outbox.drop_all()
                continue
            self._backoff.reset()
            try:
                async with link, trio.open_nursery() as nursery:
                    nursery.start_soon(self.outbox.send_all, link, partial(_is_understood, version))
                    nursery.start_soon(self._receive_all, link, incarnation)
            except* TransportError as group:
                logger.info("%s link to %s lost: %s", self.lane.value, self.peer, group.exceptions[0])
            self._lost()

    async def _connect(self) -> tuple[Link, int, str]:
        """Return a link to the peer, the version of the protocol to speak on it, and the peer's storage."""
        addresses = self._addresses_of(self.peer)
        if not addresses:
            raise TransportError(f"no address is known for node {self.peer!r}")
        address = addresses[self._misses % len(addresses)]
        with trio.move_on_after(self._config.connect_timeout_s):
            link = await self._transport.connect(address, self.lane)
            try:
                version, incarnation = await self._introduce(link, address)
            except BaseException:
                await link.aclose()
                raise
            return link, version, incarnation
        raise PeerTimeout(f"{self.peer!r} at {address} did not answer within {self._config.connect_timeout_s} s")

    async def _introduce(self, link: Link, address: str) -> tuple[int, str]:
        """Make sure that the peer is the one that is meant, before a word of it counts as that peer's."""
        await link.send(self._introductions.hello(self.peer))
        answer = await link.receive()
        if not isinstance(answer, HelloResponse):
            self._introductions.refuse(self.peer, f"{address} answers a Hello with {type(answer).__name__}")
        return self._introductions.check(self.peer, address, answer), answer.incarnation

    async def _receive_all(self, link: Link, incarnation: str) -> None:
        while True:
            message = await link.receive()
            if not self._introductions.is_storage_of(self.peer, incarnation):
                # What was still on its way when the peer came back without its disk, and was heard on another link.
                raise TransportError(f"node {self.peer!r} has another storage by now")
            await self._on_message(self.peer, incarnation, message)

    def _lost(self) -> None:
        self.outbox.drop_all()
        self._on_lost(self.peer, self.lane)


def _is_understood(version: int, message: Message) -> bool:
    return needed_version(message) <= version

"""Links and transports that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces import (
    AcceptLink,
    Hello,
    HelloResponse,
    Lane,
    Link,
    LinkClosed,
    Message,
    NodeId,
    PeerUnreachable,
    StorageIdentity,
    Transport,
)
from clustercore.runtime.introductions import Introductions


def introductions_of(
    node_id: str,
    *,
    incarnation: str = "first",
    starts: int = 1,
    cluster_id: str = "",
    on_identified: Callable[[NodeId, str], None] = lambda peer, incarnation: None,
) -> Introductions:
    """Return what speaks for a node."""
    identity = StorageIdentity(NodeId(node_id), incarnation, starts, cluster_id)
    return Introductions(identity, on_identified=on_identified, election_timeout_s=1.0)


class FakeLink(Link):
    """Keeps what is sent; receives what the test delivers. A Hello it answers itself, as the node that is meant."""

    def __init__(self, *, hello_response: Message | None = None) -> None:
        # What to answer a Hello with instead.
        self.hello_response = hello_response
        self.hellos: list[Hello] = []
        self.sent: list[Message] = []
        self.is_closed = False
        self._open = trio.Event()
        self._open.set()
        self._closes_after: int | None = None
        # Whether ``send_nowait`` sends.
        self.sends_nowait = False
        self._to_receiver, self._arrived = trio.open_memory_channel[Message](1000)

    def hold(self) -> None:
        """Let ``send`` wait, as a link whose peer has stopped reading."""
        self._open = trio.Event()

    def release(self) -> None:
        """End ``hold``."""
        self._open.set()

    def close_after(self, count: int) -> None:
        """Fail at the message after the next ``count``."""
        self._closes_after = len(self.sent) + count

    def deliver(self, message: Message) -> None:
        """Have the peer send a message."""
        self._to_receiver.send_nowait(message)

    def hang_up(self) -> None:
        """Have the peer close the link."""
        self._to_receiver.close()

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        await self._open.wait()
        if self.is_closed or len(self.sent) == self._closes_after:
            raise LinkClosed("the fake link is closed")
        if isinstance(message, Hello):
            self.hellos.append(message)
            self.deliver(self.hello_response or HelloResponse(message.peer_id))
        else:
            self.sent.append(message)

    def send_nowait(self, message: Message) -> bool:
        if self.sends_nowait and not self.is_closed:
            self.sent.append(message)
            return True
        return False

    async def receive(self) -> Message:
        try:
            return await self._arrived.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise LinkClosed("the fake link is closed") from error

    async def aclose(self) -> None:
        self.is_closed = True
        self._arrived.close()
        await trio.lowlevel.checkpoint()


class FakeTransport(Transport):
    """Connects as the test says: ``connect`` calls ``dial``, which returns a link or raises."""

    def __init__(self, dial: Callable[[str, Lane], Link] | None = None) -> None:
        self.dial = dial
        # When each attempt was made, in the run's time, and on which lane to which address.
        self.attempts: list[tuple[float, str, Lane]] = []

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("fake")
        await trio.sleep_forever()

    async def connect(self, address: str, lane: Lane) -> Link:
        await trio.lowlevel.checkpoint()
        self.attempts.append((trio.current_time(), address, lane))
        if self.dial is None:
            raise PeerUnreachable("the fake transport reaches nobody")
        return self.dial(address, lane)

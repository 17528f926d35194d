"""The rules of transports about serving, connecting, and stopping."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import (
    ConfigError,
    Lane,
    Link,
    LinkClosed,
    Message,
    PeerUnreachable,
    RequestVoteResponse,
    Term,
    TransportError,
)
from clustercore.testing.conformance.leaks import open_sockets
from clustercore.testing.conformance.links import (
    ask,
    cancel_after_turns,
    echo,
    flood,
    send_until_closed,
)
from clustercore.testing.conformance.messages import numbered
from clustercore.testing.conformance.transport_bench import STUCK_S, TransportBench

__all__ = ["ServingRules"]


class ServingRules(TransportBench):
    """A server is reached at its address until it stops, and then answers nothing and leaves nothing."""

    # --- Serving and connecting ---

    async def test_serves_many_links_at_once(self) -> None:
        """Each link has a task of its own, and its messages come back on it alone."""
        async with self._serving(self.make(), echo) as (address, _), self.make() as client:
            links = [await client.connect(address, Lane.CONTROL) for _ in range(5)]
            for number, link in enumerate(links):
                await link.send(numbered(number + 1))
            for number, link in reversed(list(enumerate(links))):
                assert await link.receive() == numbered(number + 1)
            for link in links:
                await link.aclose()

    async def test_address_is_the_one_to_connect_to(self) -> None:
        """``serve`` starts with an address that is at once good for ``connect``; each server has its own."""
        async with (
            self._serving(self.make(), echo) as (first, _),
            self._serving(self.make(), echo) as (second, _),
            self.make() as client,
        ):
            assert first != second
            for address in (first, second):
                async with await client.connect(address, Lane.BULK) as link:
                    assert await ask(link, numbered()) == numbered()

    async def test_connect_to_nobody_is_unreachable(self) -> None:
        """Where nobody serves, ``connect`` raises PeerUnreachable."""
        with trio.fail_after(self.limit_s):
            async with self.make() as client:
                with pytest.raises(PeerUnreachable):
                    await client.connect(self.nobody, Lane.CONTROL)

    async def test_connect_to_what_is_no_address_is_unreachable(self) -> None:
        """A text that is no address raises PeerUnreachable too: discovery may tell anything, and the node bears it."""
        with trio.fail_after(self.limit_s):
            async with self.make() as client:
                for text in self.no_addresses:
                    with pytest.raises(PeerUnreachable):
                        await client.connect(text, Lane.CONTROL)

    async def test_check_of_an_address_takes_what_serve_says(self) -> None:
        """``check_address`` takes the address that ``serve`` starts with, and refuses an empty one by ConfigError."""
        transport = self.make()
        async with self._serving(transport, echo) as (address, _), self.make() as client:
            for one in (transport, client):
                one.check_address(address)
                with pytest.raises(ConfigError):
                    one.check_address("")

    async def test_connect_after_the_server_stopped_is_unreachable(self) -> None:
        """An address is given back when ``serve`` ends."""
        async with self.make() as client:
            async with self._serving(self.make(), echo) as (address, _):
                pass
            with trio.fail_after(self.limit_s), pytest.raises(PeerUnreachable):
                await client.connect(address, Lane.CONTROL)

    async def test_connect_cancelled_leaves_no_connection(self) -> None:
        """However far ``connect`` came when it is cancelled, the server is left with no open link."""
        open_links = _OpenLinks()
        async with self._serving(self.make(), open_links.serve) as (address, _), self.make() as client:
            # Which of two tasks has its turn first is random: five times each.
            for turns in list(range(20)) * 5:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(cancel_after_turns, scope, turns)
                        async with await client.connect(address, Lane.CONTROL):
                            nursery.cancel_scope.cancel()
            # Those still on their way in are served, and end, before this one comes back.
            async with await client.connect(address, Lane.CONTROL) as link:
                assert await ask(link, numbered()) == numbered()
                await open_links.wait_for(1)

    async def test_serve_at_a_taken_address_is_an_error(self) -> None:
        """Where someone serves already, ``serve`` raises TransportError."""
        async with self._serving(self.make(), echo) as (address, _):
            second = self.make_at(address)
            assert second is not None
            async with second:
                started = False
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(second.serve, echo)
                        started = True
                        nursery.cancel_scope.cancel()
                except* TransportError:
                    pass
                assert not started, f"two serve at {address}"

    # --- Stopping ---

    async def test_serve_cancelled_closes_every_link(self) -> None:
        """When the server stops, a peer that waits on a link gets LinkClosed, on each, and can send no more."""
        async with self.make() as client:
            async with self._serving(self.make(), echo) as (address, stop):
                links = [await client.connect(address, lane) for lane in Lane]
                for link in links:
                    await ask(link, numbered())
                stop()
            with trio.fail_after(self.limit_s):
                for link in links:
                    with pytest.raises(LinkClosed):
                        await link.receive()
                    with pytest.raises(LinkClosed):
                        await send_until_closed(link)
                    await link.aclose()

    async def test_stopped_server_answers_nothing(self) -> None:
        """A request that is sent after ``serve`` ended reaches no handler."""
        received: list[Message] = []

        async def record(link: Link) -> None:
            while True:
                received.append(await link.receive())
                await link.send(RequestVoteResponse(Term(1), True))

        async with self.make() as client:
            async with self._serving(self.make(), record) as (address, stop):
                link = await client.connect(address, Lane.CONTROL)
                await ask(link, numbered(1))
                stop()
            with trio.fail_after(self.limit_s), pytest.raises(LinkClosed):
                await ask(link, numbered(2))
            await link.aclose()

        assert received == [numbered(1)]

    async def test_serve_stops_a_handler_that_does_nothing(self) -> None:
        """A server whose handlers neither receive nor send stops in bounded time too."""
        idle = trio.Event()

        async def ignore(link: Link) -> None:
            idle.set()
            await trio.sleep_forever()

        async with self.make() as client:
            async with self._serving(self.make(), ignore) as (address, stop):
                link = await client.connect(address, Lane.CONTROL)
                await link.send(numbered())
                await idle.wait()
                stop()
            await link.aclose()

    async def test_serve_stops_a_handler_that_cannot_send(self) -> None:
        """A server whose handler waits for a peer that reads nothing stops in bounded time too."""
        async with self.make() as client:
            async with self._serving(self.make(), flood) as (address, stop):
                link = await client.connect(address, Lane.BULK)
                await link.send(numbered())
                await trio.sleep(STUCK_S)
                stop()
            await link.aclose()

    async def test_leaves_no_open_link(self) -> None:
        """Leaving the transport's block closes the links that were dialled and not closed."""
        ended = trio.Event()

        async def wait_for_the_end(link: Link) -> None:
            await echo(link)
            ended.set()

        async with self._serving(self.make(), wait_for_the_end) as (address, _):
            async with self.make() as client:
                link = await client.connect(address, Lane.CONTROL)
                await ask(link, numbered())
            await ended.wait()
            with pytest.raises(LinkClosed):
                await link.receive()

    async def test_leaves_no_task_and_no_socket(self) -> None:
        """When server and client have left their blocks, no task and no socket of theirs is left."""

        async def use() -> None:
            async with self._linked(echo, Lane.BULK) as link:
                await ask(link, numbered())
            async with self.make() as client, self._serving(self.make(), echo) as (address, _):
                link = await client.connect(address, Lane.CONTROL)
                await ask(link, numbered())

        # What a library makes once and keeps for good is made now.
        await use()
        tasks, sockets = trio.lowlevel.current_statistics().tasks_living, open_sockets()
        await use()

        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_sockets() <= sockets


class _OpenLinks:
    """Counts the links that are being served."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = trio.Event()

    async def serve(self, link: Link) -> None:
        self._add(1)
        try:
            await echo(link)
        finally:
            self._add(-1)

    def _add(self, number: int) -> None:
        self._count += number
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, count: int) -> None:
        while self._count != count:
            await self._changed.wait()

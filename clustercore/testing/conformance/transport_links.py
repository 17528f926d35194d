"""The rules of links: closing, back-pressure, and what cancelling leaves."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    Lane,
    Link,
    LinkClosed,
    Message,
    RequestVoteRequest,
)
from clustercore.testing.conformance.links import (
    LARGE_BYTES,
    ask,
    cancel_after_turns,
    drain,
    echo,
    expect_closed,
    fill,
    read_nothing,
)
from clustercore.testing.conformance.messages import filled, numbered
from clustercore.testing.conformance.transport_bench import MANY, STUCK_S, TransportBench

__all__ = ["LinkRules"]


class LinkRules(TransportBench):
    """A link ends for both sides, at once, and never leaves a part of a message."""

    # --- Links ---

    async def test_link_closes_when_accept_returns(self) -> None:
        """The dialling side gets LinkClosed once the accepting side is done with the link."""

        async def hang_up(link: Link) -> None:
            await link.receive()

        async with self._linked(hang_up, Lane.CONTROL) as link:
            await link.send(numbered())
            with pytest.raises(LinkClosed):
                await link.receive()

    async def test_link_close_is_seen_by_the_accepting_side(self) -> None:
        """When the dialling side closes, the accepting side gets LinkClosed."""
        arrived, ended = trio.Event(), trio.Event()

        async def wait_for_the_end(link: Link) -> None:
            try:
                while True:
                    await link.receive()
                    arrived.set()
            except LinkClosed:
                ended.set()

        async with self._serving(self.make(), wait_for_the_end) as (address, _), self.make() as client:
            link = await client.connect(address, Lane.CONTROL)
            await link.send(numbered())
            # A link that closes at once may take with it what was sent, and so the other side's news of it.
            await arrived.wait()
            await link.aclose()
            await ended.wait()

    async def test_link_close_ends_a_receive_under_way(self) -> None:
        """A receive that waits raises LinkClosed when its own side closes; so does every later use but closing."""
        async with self._serving(self.make(), echo) as (address, _), self.make() as client:
            link = await client.connect(address, Lane.CONTROL)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, link.receive)
                await wait_all_tasks_blocked()
                await link.aclose()
            await link.aclose()

            with pytest.raises(LinkClosed):
                await link.send(numbered())
            with pytest.raises(LinkClosed):
                await link.receive()

    async def test_link_close_ends_a_send_under_way(self) -> None:
        """``aclose`` does not wait for a peer that reads nothing; a send that does raises LinkClosed."""
        async with self._linked(read_nothing, Lane.BULK) as link, trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, partial(fill, link))
            await trio.sleep(STUCK_S)
            await link.aclose()

    async def test_link_closed_by_the_peer_ends_a_send_under_way(self) -> None:
        """A send that waits raises LinkClosed when the other side closes."""
        hang_up = trio.Event()

        async def accept(link: Link) -> None:
            await hang_up.wait()

        async with self._linked(accept, Lane.BULK) as link, trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, partial(fill, link))
            await trio.sleep(STUCK_S)
            hang_up.set()

    async def test_link_closes_even_if_cancelled(self) -> None:
        """In a cancelled scope ``aclose`` closes all the same, for both sides."""
        ended = trio.Event()

        async def wait_for_the_end(link: Link) -> None:
            await echo(link)
            ended.set()

        async with self._serving(self.make(), wait_for_the_end) as (address, _), self.make() as client:
            link = await client.connect(address, Lane.CONTROL)
            await ask(link, numbered())
            with trio.CancelScope() as scope:
                scope.cancel()
                await link.aclose()
            with pytest.raises(LinkClosed):
                await link.send(numbered())
            await ended.wait()

    async def test_receive_cancelled_loses_no_message(self) -> None:
        """Messages arrive whole and once around receives that were cancelled before, while and after they came."""
        async with self._linked(echo, Lane.BULK) as link:
            with trio.move_on_after(0):
                await link.receive()
            received: list[Message] = []
            for number in range(1, 21):
                await link.send(numbered(number))
            attempts = 0
            while len(received) < 20:
                # At some turn of the event loop: before, while or after a message comes. Each attempt at a message gets
                # one turn more than the last, for a receive may take any number of them.
                turns = len(received) % 4 + attempts
                attempts += 1
                if attempts == 50:
                    # It is not a matter of turns: it is far away, or a cancelled receive took it along.
                    received.append(await link.receive())
                    attempts = 0
                    continue
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(cancel_after_turns, scope, turns)
                        received.append(await link.receive())
                        attempts = 0
                        nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

        terms = [message.term for message in received if isinstance(message, RequestVoteRequest)]
        assert sorted(terms) == list(range(1, 21))

    async def test_send_waits_when_nobody_receives(self) -> None:
        """The buffer is bounded: against a peer that reads nothing a sender stops, and goes on when it reads."""
        read, went_on = trio.Event(), trio.Event()
        large, sent = filled(1, LARGE_BYTES), 0

        async def read_late(link: Link) -> None:
            await read.wait()
            await drain(link)

        async def send_all(link: Link) -> None:
            nonlocal sent
            for _ in range(MANY):
                await link.send(large)
                sent += 1
                if read.is_set():
                    went_on.set()

        async with self._linked(read_late, Lane.BULK) as link, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, link)
            await trio.sleep(STUCK_S)
            held = sent
            assert held < MANY, "the buffer has no bound"
            read.set()
            await went_on.wait()
            nursery.cancel_scope.cancel()

    async def test_send_nowait_sends_a_message_or_says_that_it_did_not(self) -> None:
        """What ``send_nowait`` takes arrives once, among what ``send`` does; a closed link takes nothing."""
        async with self._linked(echo, Lane.CONTROL) as link:
            for number in range(1, 21):
                if number % 4 == 0 or not link.send_nowait(numbered(number)):
                    await link.send(numbered(number))
            received = [await link.receive() for _ in range(20)]
            await link.aclose()

            assert not link.send_nowait(numbered(21))

        terms = [message.term for message in received if isinstance(message, RequestVoteRequest)]
        if self.keeps_order:
            assert terms == list(range(1, 21))
        assert sorted(terms) == list(range(1, 21))

    async def test_send_nowait_takes_no_more_than_send_would(self) -> None:
        """Against a peer that reads nothing it stops, where ``send`` begins to wait."""
        large = filled(1, LARGE_BYTES)
        async with self._linked(read_nothing, Lane.BULK) as link:
            assert not all(link.send_nowait(large) for _ in range(MANY)), "the buffer has no bound"

    async def test_send_cancelled_is_whole_or_nothing(self) -> None:
        """What a cancelled send leaves is a whole message, or none and perhaps a closed link; never a part."""
        read, ended = trio.Event(), trio.Event()
        received: list[Message] = []
        last = numbered(MANY)

        async def read_late(link: Link) -> None:
            await read.wait()
            try:
                while last not in received[-1:]:
                    received.append(await link.receive())
            except LinkClosed:
                pass
            ended.set()
            await trio.sleep_forever()

        async with self._linked(read_late, Lane.BULK) as link:
            sent: list[Message] = []
            with trio.move_on_after(STUCK_S):
                while len(sent) < MANY:
                    sent.append(filled(len(sent), LARGE_BYTES))
                    await link.send(sent[-1])
            assert len(sent) < MANY, "the buffer has no bound"
            read.set()
            try:
                await link.send(last)
            except LinkClosed:
                await link.aclose()
            await ended.wait()

        assert all(message in sent for message in received if message != last)
        if last in received and self.keeps_order:
            # The link stayed open, so all arrived; of the cancelled one nobody knows.
            assert received[:-1] in (sent, sent[:-1])

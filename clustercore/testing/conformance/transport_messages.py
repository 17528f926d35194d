"""The rules of transports about what is carried, in what order, and on which lane."""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AcceptLink,
    ForwardProposals,
    Lane,
    Link,
    LinkClosed,
    Message,
    RequestVoteRequest,
    TransportError,
)
from clustercore.testing.conformance.links import (
    ask,
    echo,
    encodings,
    fill,
    flood,
    read_nothing,
)
from clustercore.testing.conformance.messages import REQUESTS, RESPONSES, filled, numbered
from clustercore.testing.conformance.transport_bench import STUCK_S, TransportBench

__all__ = ["MessageRules"]

SIZES_BYTES = (0, 1, 127, 128, 16_383, 16_384, 65_535, 65_536, 65_537, 300_000)
# No message of any transport: noise, zeros, a length beyond all bounds, another protocol's greeting, a cut-off frame.
NONSENSE = (bytes(range(256)), b"\0" * 64, b"\xff" * 64, b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x08half")


class MessageRules(TransportBench):
    """Messages arrive whole and in order; the lanes of a peer do not delay each other."""

    # --- Messages ---

    async def test_carries_every_message_unaltered(self) -> None:
        """Requests one way and responses the other arrive equal to what was sent, encodings of entries included."""
        for lane in Lane:
            received: list[Message] = []
            count = max(len(REQUESTS), len(RESPONSES))
            pairs = list(islice(zip(cycle(REQUESTS), cycle(RESPONSES), strict=False), count))

            async with self._linked(partial(_answer, pairs, received), lane) as link:
                responses = [await ask(link, request) for request, _ in pairs]

            requests = [request for request, _ in pairs]
            assert received == requests, lane
            assert responses == [response for _, response in pairs], lane
            assert encodings(received) == encodings(requests), lane

    async def test_carries_messages_of_any_size_whole(self) -> None:
        """A message arrives whole, whether it is empty or takes many packets."""
        async with self._linked(echo, Lane.BULK) as link:
            for number, size in enumerate(SIZES_BYTES, start=1):
                message = filled(number, size)
                assert await ask(link, message) == message, f"{size} bytes"

    async def test_keeps_the_order_of_a_link(self) -> None:
        """Messages of one link arrive once each, in the order of sending, more than any buffer holds."""
        count = 200

        async def send_all(link: Link) -> None:
            for number in range(1, count + 1):
                await link.send(numbered(number))

        async with self._linked(echo, Lane.BULK) as link, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, link)
            received = [await link.receive() for _ in range(count)]

        terms = [message.term for message in received if isinstance(message, RequestVoteRequest)]
        assert sorted(terms) == list(range(1, count + 1))
        if self.keeps_order:
            assert terms == sorted(terms)

    async def test_sends_and_receives_at_the_same_time(self) -> None:
        """On either side a send does not wait for the receive that is under way."""
        wanted = [filled(number, 20_000) for number in range(50)]

        async def send_all(link: Link) -> None:
            for message in wanted:
                await link.send(message)

        async def receive_all(link: Link) -> None:
            received = [await link.receive() for _ in wanted]
            assert sorted(received, key=_number) == wanted

        async def send_while_receiving(link: Link) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_all, link)
                await wait_all_tasks_blocked()
                await send_all(link)

        async def answer(link: Link) -> None:
            await receive_all(link)
            await send_all(link)

        async def accept(link: Link) -> None:
            await answer(link)
            await send_while_receiving(link)
            await link.send(numbered())
            await trio.sleep_forever()

        async with self._linked(accept, Lane.BULK) as link:
            await send_while_receiving(link)
            await answer(link)
            assert await link.receive() == numbered()

    async def test_refuses_a_message_that_is_too_large_and_goes_on(self) -> None:
        """A message beyond ``max_message_bytes`` raises TransportError with the limit in its text; the link goes on."""
        limit_bytes = self.make().max_message_bytes
        assert limit_bytes is not None
        assert limit_bytes > 0
        async with self._linked(echo, Lane.BULK) as link:
            with pytest.raises(TransportError) as caught:
                await link.send(filled(1, limit_bytes + 1))
            assert not isinstance(caught.value, LinkClosed)
            assert str(limit_bytes) in str(caught.value)
            assert await ask(link, numbered(2)) == numbered(2)

    async def test_takes_no_message_from_nonsense(self) -> None:
        """Bytes that are no message reach no handler as one: the link closes, and the others go on."""
        received: list[Message] = []

        async def record(link: Link) -> None:
            try:
                while True:
                    received.append(await link.receive())
                    await link.send(received[-1])
            except LinkClosed:
                return

        async with (
            self._serving(self.make(), record) as (address, _),
            self.make() as client,
            await client.connect(address, Lane.CONTROL) as link,
        ):
            for nonsense in NONSENSE:
                await self.send_nonsense(address, nonsense)
            assert received == []
            assert await ask(link, numbered()) == numbered()

    # --- Lanes ---

    async def test_full_bulk_lane_does_not_hold_up_control(self) -> None:
        """While a peer reads nothing from the bulk lane, the control lane to it answers, and another can be opened."""

        async def accept(link: Link) -> None:
            if await link.receive() == numbered(1):
                await read_nothing(link)
            await echo(link)

        await self._control_goes_on_while(accept, fill)

    async def test_unread_bulk_lane_does_not_hold_up_control(self) -> None:
        """While a peer's bulk lane is full of what was not read here, the control lane to it answers."""

        async def accept(link: Link) -> None:
            if await link.receive() == numbered(1):
                await flood(link)
            await echo(link)

        await self._control_goes_on_while(accept, read_nothing)

    async def _control_goes_on_while(self, accept: AcceptLink, stuck: AcceptLink) -> None:
        async with self._serving(self.make(), accept) as (address, _), self.make() as client:
            bulk = await client.connect(address, Lane.BULK)
            control = await client.connect(address, Lane.CONTROL)
            await control.send(numbered(2))
            for _ in range(2):
                await bulk.send(numbered(1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stuck, bulk)
                await trio.sleep(STUCK_S)
                for number in range(10):
                    assert await ask(control, numbered(number)) == numbered(number)
                async with await client.connect(address, Lane.CONTROL) as another:
                    await another.send(numbered(2))
                    assert await ask(another, numbered(3)) == numbered(3)
                nursery.cancel_scope.cancel()
            for link in (control, bulk):
                await link.aclose()


async def _answer(pairs: list[tuple[Message, Message]], received: list[Message], link: Link) -> None:
    for _, response in pairs:
        received.append(await link.receive())
        await link.send(response)
    await trio.sleep_forever()


def _number(message: Message) -> int:
    return message.request_id if isinstance(message, ForwardProposals) else -1

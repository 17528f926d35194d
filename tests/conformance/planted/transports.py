"""One faulty transport, at least, for each rule of the kit of transports."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any

import attrs
import trio

from clustercore.interfaces import (
    AcceptLink,
    AppendEntriesRequest,
    ConfigError,
    ForwardProposals,
    Lane,
    Link,
    LinkClosed,
    Message,
    PeerUnreachable,
    Round,
    ServiceTransport,
    TransportError,
)
from clustercore.testing.conformance.messages import numbered
from clustercore_memory import MemoryTransport
from tests.conformance.planted.proxies import ProxyKit, ProxyLink, ProxyTransport
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS"]

# Longer than any kit waits, and yet an end to what a kit cannot cancel.
LONG_S = 1000
FAULTS: list[Fault] = []


def plant(
    rule: str,
    what: str,
    *,
    dialled: type[ProxyLink] = ProxyLink,
    accepted: type[ProxyLink] = ProxyLink,
    transport: type[ProxyTransport] = ProxyTransport,
    kit: type[ProxyKit] = ProxyKit,
    expects: type[Exception] = AssertionError,
) -> None:
    """Add a fault to the table."""
    made = type("Planted", (transport,), {"dialled": dialled, "accepted": accepted})
    FAULTS.append(Fault(rule, what, type("TestPlanted", (kit,), {"transport": made}), expects))


# --- Messages --------------------------------------------------------------------------------------------------------


class ForgetsTheRound(ProxyLink):
    async def receive(self) -> Message:
        message = await self.inner.receive()
        return attrs.evolve(message, round=Round(0)) if isinstance(message, AppendEntriesRequest) else message


class CutsLargeOnes(ProxyLink):
    async def receive(self) -> Message:
        message = await self.inner.receive()
        if isinstance(message, ForwardProposals):
            return attrs.evolve(message, commands=tuple(command[:65_536] for command in message.commands))
        return message


class SwapsTwo(ProxyLink):
    async def send(self, message: Message) -> None:
        if message == numbered(10):
            await self.inner.send(numbered(11))
        elif message == numbered(11):
            await self.inner.send(numbered(10))
        else:
            await self.inner.send(message)


class RepeatsOne(ProxyLink):
    async def send(self, message: Message) -> None:
        await self.inner.send(message)
        if message == numbered(10):
            await self.inner.send(message)


class OneThingAtATime(ProxyLink):
    def __init__(self, inner: Link, transport: ProxyTransport) -> None:
        super().__init__(inner, transport)
        self.lock = trio.Lock()

    async def send(self, message: Message) -> None:
        async with self.lock:
            await self.inner.send(message)

    async def receive(self) -> Message:
        async with self.lock:
            return await self.inner.receive()


class SaysALimit(ProxyTransport):
    @property
    def max_message_bytes(self) -> int:
        return 1_000_000


def _is_too_large(message: Message) -> bool:
    return isinstance(message, ForwardProposals) and sum(map(len, message.commands)) > 1_000_000


class HidesTheLimit(ProxyLink):
    async def send(self, message: Message) -> None:
        if _is_too_large(message):
            raise TransportError("too large")
        await self.inner.send(message)


class ClosesWhenTooLarge(ProxyLink):
    async def send(self, message: Message) -> None:
        if _is_too_large(message):
            await self.inner.aclose()
            raise TransportError("more than 1000000 bytes")
        await self.inner.send(message)


class ReadsNonsense(ProxyKit):
    async def send_nonsense(self, address: str, nonsense: bytes) -> None:
        async with self.make() as client, await client.connect(address, Lane.CONTROL) as link:
            await link.send(numbered(len(nonsense)))
            await link.receive()


plant("test_carries_every_message_unaltered", "forgets a field", accepted=ForgetsTheRound)
plant("test_carries_messages_of_any_size_whole", "cuts large messages", accepted=CutsLargeOnes)
plant("test_keeps_the_order_of_a_link", "swaps two messages", dialled=SwapsTwo)
plant("test_keeps_the_order_of_a_link", "repeats a message", accepted=RepeatsOne)
plant("test_sends_and_receives_at_the_same_time", "makes a send wait for a receive", dialled=OneThingAtATime)
plant("test_sends_and_receives_at_the_same_time", "does so where it accepts", accepted=OneThingAtATime)
plant("test_refuses_a_message_that_is_too_large_and_goes_on", "takes messages beyond its limit", transport=SaysALimit)
plant(
    "test_refuses_a_message_that_is_too_large_and_goes_on",
    "does not name its limit",
    transport=SaysALimit,
    dialled=HidesTheLimit,
)
plant(
    "test_refuses_a_message_that_is_too_large_and_goes_on",
    "closes for a large message",
    transport=SaysALimit,
    dialled=ClosesWhenTooLarge,
)
plant("test_takes_no_message_from_nonsense", "reads a message out of noise", kit=ReadsNonsense)


# --- Lanes -----------------------------------------------------------------------------------------------------------


class SharesOnePipe(ProxyLink):
    async def send(self, message: Message) -> None:
        async with self.transport.lock:
            await self.inner.send(message)


plant("test_full_bulk_lane_does_not_hold_up_control", "has one pipe for both lanes", dialled=SharesOnePipe)
plant("test_unread_bulk_lane_does_not_hold_up_control", "answers through one pipe", accepted=SharesOnePipe)


# --- Serving and connecting ------------------------------------------------------------------------------------------


class OneLinkAtATime(ProxyTransport):
    async def handle(self, accept: AcceptLink, link: Link) -> None:
        async with self.lock:
            await accept(link)


class SaysAnotherAddress(ProxyTransport):
    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        async with trio.open_nursery() as nursery:
            address: str = await nursery.start(super().serve, accept)
            task_status.started(address + "0")


class LetsForeignErrorsOut(ProxyTransport):
    async def connect(self, address: str, lane: Lane) -> Link:
        try:
            return await super().connect(address, lane)
        except PeerUnreachable as error:
            raise ConnectionRefusedError(address) from error


class TakesNoAddress(ProxyTransport):
    def check_address(self, address: str) -> None:
        raise ConfigError(f"{address!r} is none")


class TakesAnyAddress(ProxyTransport):
    def check_address(self, address: str) -> None:
        return


class ParsesCarelessly(ProxyTransport):
    async def connect(self, address: str, lane: Lane) -> Link:
        if not address:
            raise ValueError("not enough values to unpack")
        return await super().connect(address, lane)


class DeadLink(ProxyLink):
    """A link that was never connected."""

    def __init__(self) -> None:
        pass

    async def send(self, message: Message) -> None:
        raise LinkClosed("never connected")

    async def receive(self) -> Message:
        raise LinkClosed("never connected")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ConnectsLazily(ProxyTransport):
    async def connect(self, address: str, lane: Lane) -> Link:
        try:
            return await super().connect(address, lane)
        except PeerUnreachable:
            return DeadLink()


class ForgetsACancelledConnect(ProxyTransport):
    async def connect(self, address: str, lane: Lane) -> Link:
        link = await super().connect(address, lane)
        await trio.lowlevel.checkpoint()
        return link


class SharesAddresses(ProxyKit):
    def make_at(self, address: str) -> ServiceTransport:
        if address in self.taken:
            return self.transport(MemoryTransport(self.network, address + " too"))
        self.taken.add(address)
        return super().make_at(address)

    def __init__(self) -> None:
        super().__init__()
        self.taken: set[str] = set()


plant("test_serves_many_links_at_once", "serves one link after the other", transport=OneLinkAtATime)
plant("test_address_is_the_one_to_connect_to", "says another address", transport=SaysAnotherAddress)
plant(
    "test_connect_to_nobody_is_unreachable", "lets a foreign error out", transport=LetsForeignErrorsOut, expects=OSError
)
plant("test_connect_to_nobody_is_unreachable", "connects at the first message", transport=ConnectsLazily)
plant(
    "test_connect_to_what_is_no_address_is_unreachable",
    "parses carelessly",
    transport=ParsesCarelessly,
    expects=ValueError,
)
plant("test_check_of_an_address_takes_what_serve_says", "refuses its own address", transport=TakesNoAddress)
plant("test_check_of_an_address_takes_what_serve_says", "takes any text", transport=TakesAnyAddress)
plant("test_connect_after_the_server_stopped_is_unreachable", "connects to nobody", transport=ConnectsLazily)
plant("test_connect_cancelled_leaves_no_connection", "forgets a link", transport=ForgetsACancelledConnect)
plant("test_serve_at_a_taken_address_is_an_error", "lets two serve at one address", kit=SharesAddresses)


# --- Stopping --------------------------------------------------------------------------------------------------------


class TellsNoEnd(ProxyLink):
    async def receive(self) -> Message:
        try:
            return await self.inner.receive()
        except LinkClosed:
            await trio.sleep_forever()

    async def send(self, message: Message) -> None:
        try:
            await self.inner.send(message)
        except LinkClosed:
            await trio.sleep_forever()


class GoesOnAnswering(ProxyTransport):
    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        async def go_on() -> None:
            async with trio.open_nursery() as nursery:
                address = await nursery.start(super(GoesOnAnswering, self).serve, accept)
                started.append(address)
                event.set()

        started: list[str] = []
        event = trio.Event()
        trio.lowlevel.spawn_system_task(go_on)
        await event.wait()
        task_status.started(started[0])
        await trio.sleep_forever()

    async def handle(self, accept: AcceptLink, link: Link) -> None:
        try:
            await accept(link)
        except LinkClosed:
            return


class WaitsForHandlers(ProxyTransport):
    async def handle(self, accept: AcceptLink, link: Link) -> None:
        with trio.move_on_after(LONG_S, shield=True):
            await accept(link)


class LingersInSend(ProxyLink):
    async def send(self, message: Message) -> None:
        try:
            await self.inner.send(message)
        finally:
            if message != numbered():
                with trio.move_on_after(LONG_S, shield=True):
                    await trio.sleep_forever()


class KeepsDialledLinks(ProxyTransport):
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class LeavesASocket(ProxyTransport):
    left: list[Any] = []  # noqa: RUF012 - shared by all, as a module's cache would be

    async def connect(self, address: str, lane: Lane) -> Link:
        self.left.extend(socket.socketpair())
        return await super().connect(address, lane)


class LeavesATask(ProxyTransport):
    async def connect(self, address: str, lane: Lane) -> Link:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        return await super().connect(address, lane)


plant("test_serve_cancelled_closes_every_link", "does not tell of the end", dialled=TellsNoEnd)
plant("test_stopped_server_answers_nothing", "goes on answering", transport=GoesOnAnswering)
plant("test_serve_stops_a_handler_that_does_nothing", "waits for its handlers", transport=WaitsForHandlers)
plant("test_serve_stops_a_handler_that_cannot_send", "lingers in a send", accepted=LingersInSend)
plant("test_leaves_no_open_link", "keeps links open", transport=KeepsDialledLinks)
plant("test_leaves_no_task_and_no_socket", "leaves a socket open", transport=LeavesASocket)
plant("test_leaves_no_task_and_no_socket", "leaves a task behind", transport=LeavesATask)


# --- Links -----------------------------------------------------------------------------------------------------------


class KeepsAcceptedLinks(ProxyTransport):
    async def handle(self, accept: AcceptLink, link: Link) -> None:
        await accept(link)
        await trio.sleep_forever()


class ClosesInNameOnly(ProxyLink):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ClosesOnce(ProxyLink):
    is_closed = False

    async def aclose(self) -> None:
        if self.is_closed:
            raise RuntimeError("closed twice")
        self.is_closed = True
        await self.inner.aclose()


class RaisesItsOwn(ProxyLink):
    async def receive(self) -> Message:
        try:
            return await self.inner.receive()
        except LinkClosed as error:
            raise trio.ClosedResourceError from error


class FlushesBeforeClosing(ProxyLink):
    async def send(self, message: Message) -> None:
        async with self.transport.lock:
            await self.inner.send(message)

    async def aclose(self) -> None:
        async with self.transport.lock:
            await self.inner.aclose()


class ClosesAfterACheckpoint(ProxyLink):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        await self.inner.aclose()


class ChecksInAfterReceiving(ProxyLink):
    async def receive(self) -> Message:
        message = await self.inner.receive()
        await trio.lowlevel.checkpoint()
        return message


class DropsWhatDoesNotFit(ProxyLink):
    async def send(self, message: Message) -> None:
        with trio.move_on_after(0):
            await self.inner.send(message)


class SaysThatItSent(ProxyLink):
    def send_nowait(self, message: Message) -> bool:
        return True


class LeavesHalf(ProxyLink):
    half: ForwardProposals | None = None

    async def send(self, message: Message) -> None:
        if self.half is not None:
            half, self.half = self.half, None
            await self.inner.send(half)
        try:
            await self.inner.send(message)
        except trio.Cancelled:
            if isinstance(message, ForwardProposals):
                self.half = attrs.evolve(message, commands=tuple(command[:1000] for command in message.commands))
            raise


plant("test_link_closes_when_accept_returns", "keeps the link of a handler that returned", transport=KeepsAcceptedLinks)
plant("test_link_close_is_seen_by_the_accepting_side", "closes in name only", dialled=ClosesInNameOnly)
plant("test_link_close_ends_a_receive_under_way", "lets a receive wait on", dialled=ClosesInNameOnly)
plant("test_link_close_ends_a_receive_under_way", "cannot be closed twice", dialled=ClosesOnce, expects=RuntimeError)
plant(
    "test_link_close_ends_a_receive_under_way",
    "raises what is of Trio",
    dialled=RaisesItsOwn,
    expects=trio.ClosedResourceError,
)
plant("test_link_close_ends_a_send_under_way", "flushes before it closes", dialled=FlushesBeforeClosing)
plant("test_link_closed_by_the_peer_ends_a_send_under_way", "lets a send wait on", dialled=TellsNoEnd)
plant("test_link_closes_even_if_cancelled", "is kept open by a cancellation", dialled=ClosesAfterACheckpoint)
plant("test_receive_cancelled_loses_no_message", "can be cancelled with a message", dialled=ChecksInAfterReceiving)
plant("test_send_waits_when_nobody_receives", "drops what does not fit", dialled=DropsWhatDoesNotFit)
plant(
    "test_send_nowait_sends_a_message_or_says_that_it_did_not", "says it sent what it did not", dialled=SaysThatItSent
)
plant("test_send_nowait_takes_no_more_than_send_would", "takes anything without waiting", dialled=SaysThatItSent)
plant("test_send_cancelled_is_whole_or_nothing", "goes on after half a message", dialled=LeavesHalf)

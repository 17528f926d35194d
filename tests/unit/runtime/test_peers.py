"""A lane to a peer: connecting, backing off, and what is dropped meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import Hello, HelloResponse, Lane, Link, Message, NodeId, PeerUnreachable, StatusRequest
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.introductions import Introductions
from clustercore.runtime.peers import PeerLane
from tests.snapshots import install_request, snapshot
from tests.unit.runtime.fakes import FakeLink, FakeTransport, introductions_of

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
CONFIG = NodeConfig(reconnect_min_s=0.1, reconnect_max_s=0.5, connect_timeout_s=2.0)


@attrs.define
class Bench:
    """A lane and what it told."""

    lane: PeerLane
    transport: FakeTransport
    received: list[tuple[NodeId, Message]]
    lost: list[tuple[NodeId, Lane]]
    introductions: Introductions


@asynccontextmanager
async def running(
    dial: Callable[[str, Lane], Link] | None = None,
    *,
    transport: FakeTransport | None = None,
    addresses: Sequence[str] = ("b:1",),
) -> AsyncIterator[Bench]:
    """Run a lane to "b" while the block lasts."""
    transport = transport or FakeTransport(dial)
    received: list[tuple[NodeId, Message]] = []
    lost: list[tuple[NodeId, Lane]] = []

    async def take(peer: NodeId, incarnation: str, message: Message) -> None:
        received.append((peer, message))

    introductions = introductions_of("a")
    lane = PeerLane(
        B,
        Lane.BULK,
        introductions=introductions,
        transport=transport,
        addresses_of=lambda node_id: addresses,
        on_message=take,
        on_lost=lambda peer, lane: lost.append((peer, lane)),
        config=CONFIG,
        rng=Random(1),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run)
        yield Bench(lane, transport, received, lost, introductions)
        nursery.cancel_scope.cancel()


async def test_nothing_is_opened_before_there_is_something_to_send(autojump_clock: MockClock) -> None:
    """An idle lane costs its peer no connection."""
    async with running() as bench:
        await trio.sleep(100)
        assert bench.transport.attempts == []


async def test_messages_go_over_one_link_and_answers_come_back() -> None:
    """What is posted is sent on the lane's link, and what arrives there is taken as the peer's."""
    link = FakeLink()
    async with running(lambda address, lane: link) as bench:
        for number in (1, 2):
            bench.lane.outbox.post(StatusRequest(number))
            await wait_all_tasks_blocked()
        link.deliver(StatusRequest(3))
        await wait_all_tasks_blocked()

        assert link.sent == [StatusRequest(1), StatusRequest(2)]
        assert bench.received == [(B, StatusRequest(3))]
        assert [(address, lane) for _, address, lane in bench.transport.attempts] == [("b:1", Lane.BULK)]
        assert bench.lost == []
    assert link.is_closed


async def test_word_of_a_storage_that_is_gone_does_not_count_issue_3() -> None:
    """It may still be on its way on one lane while the peer, with an empty disk, is back on the other.

    An acknowledgement was once taken for the new storage's: the leader believed it to hold what it had lost.
    """
    old, new = (FakeLink(hello_response=HelloResponse(B, incarnation=name)) for name in ("old", "new"))
    links = [old, new]
    async with running(lambda address, lane: links.pop(0)) as bench:
        bench.lane.outbox.post(StatusRequest(1))
        await wait_all_tasks_blocked()
        bench.introductions.check(B, "b:1", HelloResponse(B, incarnation="new"))
        old.deliver(StatusRequest(2))
        await wait_all_tasks_blocked()

        assert bench.received == []
        assert old.is_closed
        bench.lane.outbox.post(StatusRequest(3))
        await wait_all_tasks_blocked()
        new.deliver(StatusRequest(4))
        await wait_all_tasks_blocked()
        assert bench.received == [(B, StatusRequest(4))]


async def test_link_begins_with_who_calls_whom() -> None:
    """The peer learns who calls and whom it means, before anything else is sent."""
    link = FakeLink()
    async with running(lambda address, lane: link) as bench:
        bench.lane.outbox.post(StatusRequest(1))
        await wait_all_tasks_blocked()

        assert link.hellos == [Hello(A, B, incarnation="first", starts=1, election_timeout_s=1.0)]
        assert link.sent == [StatusRequest(1)]


@pytest.mark.parametrize(("version", "sent"), [(2, ["whole"]), (3, ["first", "whole", "last"])])
async def test_peer_is_sent_only_what_its_version_understands(version: int, sent: list[str]) -> None:
    """A node that was put back to the version before would take a part of a snapshot for all of it."""
    link = FakeLink(hello_response=HelloResponse(B, version, 2))
    dropped: list[str] = []
    chunks = {
        "first": install_request(snapshot(5), is_last=False),
        "whole": install_request(snapshot(5)),
        "last": install_request(snapshot(5), offset=5),
    }
    async with running(lambda address, lane: link) as bench:
        for name, chunk in chunks.items():
            bench.lane.outbox.post(chunk, on_dropped=partial(dropped.append, name))
        await wait_all_tasks_blocked()

        assert link.sent == [chunks[name] for name in sent]
        assert dropped == [name for name in chunks if name not in sent]


async def test_peer_is_looked_for_wherever_it_may_be(autojump_clock: MockClock) -> None:
    """What discovery says may be old, and so may what the members agreed on: where it is not, it is not asked again."""
    dialled: list[str] = []

    def dial(address: str, lane: Lane) -> Link:
        dialled.append(address)
        return FakeLink(hello_response=HelloResponse(B if address == "b:2" else C))

    async with running(dial, addresses=["b:1", "b:2"]) as bench:
        while len(dialled) < 2:
            bench.lane.outbox.post(StatusRequest(1))
            await trio.sleep(0.1)

    assert dialled == ["b:1", "b:2"]


@pytest.mark.parametrize("answer", [HelloResponse(C), StatusRequest(9)], ids=["another node", "no answer to Hello"])
async def test_address_of_another_node_is_as_good_as_none(
    answer: Message, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent to whoever is not the one that is meant, and nothing of theirs is taken for the peer's."""
    links: list[FakeLink] = []

    def dial(address: str, lane: Lane) -> Link:
        links.append(FakeLink(hello_response=answer))
        return links[-1]

    async with running(dial) as bench:
        for _ in range(50):
            bench.lane.outbox.post(StatusRequest(1))
            await trio.sleep(0.1)

        assert len(links) > 5
        assert all(link.sent == [] and link.is_closed for link in links)
        assert bench.received == []
        assert len(bench.lost) == len(links)
    assert caplog.text.count("a link with node b is refused: b:1") == 1


async def test_peer_that_does_not_introduce_itself_is_given_up(autojump_clock: MockClock) -> None:
    """The whole of connecting is bounded, and a link that came of it is closed."""
    link = FakeLink()
    link.hold()
    async with running(lambda address, lane: link) as bench:
        bench.lane.outbox.post(StatusRequest(1))
        await trio.sleep(2.01)

        assert bench.lost == [(B, Lane.BULK)]
        assert link.is_closed


async def test_attempts_back_off_to_the_longest_wait(autojump_clock: MockClock) -> None:
    """The waits grow by 1.6 from the shortest to the longest, each spread by a fifth, and are told as lost."""
    async with running() as bench:
        for _ in range(1000):
            bench.lane.outbox.post(StatusRequest())
            await trio.sleep(0.01)

        times = [time for time, _, _ in bench.transport.attempts]
        waits = [later - earlier for earlier, later in pairwise(times)]
        for number, wait_s in enumerate(waits):
            planned_s = min(0.1 * 1.6**number, 0.5)
            # The next message after the wait comes within 0.01 s.
            assert 0.8 * planned_s <= wait_s <= 1.2 * planned_s + 0.011
        assert len(waits) > 10
        assert len(bench.lost) == len(times)


async def test_backing_off_starts_anew_after_a_link(autojump_clock: MockClock) -> None:
    """A peer that was reached and lost is tried again after the shortest wait."""
    links = [FakeLink()]
    is_up = False

    def dial(address: str, lane: Lane) -> Link:
        if not is_up:
            raise PeerUnreachable("down")
        links.append(FakeLink())
        return links[-1]

    async with running(dial) as bench:
        bench.lane.outbox.post(StatusRequest())
        for _ in range(100):
            await trio.sleep(0.1)
            bench.lane.outbox.post(StatusRequest())
        is_up = True
        await trio.sleep(1)
        bench.lane.outbox.post(StatusRequest(7))
        await wait_all_tasks_blocked()
        assert links[-1].sent[-1] == StatusRequest(7)

        is_up = False
        links[-1].hang_up()
        await wait_all_tasks_blocked()
        first = len(bench.transport.attempts)
        for _ in range(30):
            bench.lane.outbox.post(StatusRequest())
            await trio.sleep(0.01)

        one, two = (time for time, _, _ in bench.transport.attempts[first:][:2])
        assert two - one <= 0.12 + 0.011


async def test_peer_that_calls_is_called_back_at_once(autojump_clock: MockClock) -> None:
    """It need not wait for the moment that was set before, and if it cannot be reached, the waits begin anew."""
    async with running() as bench:
        for _ in range(1000):
            bench.lane.outbox.post(StatusRequest())
            await trio.sleep(0.01)
        bench.lane.outbox.post(StatusRequest())
        before = len(bench.transport.attempts)

        bench.lane.heard()
        await wait_all_tasks_blocked()
        for _ in range(40):
            bench.lane.outbox.post(StatusRequest())
            await trio.sleep(0.01)

        times = [time for time, _, _ in bench.transport.attempts[before:]]
        assert times[0] == pytest.approx(10, abs=0.011)
        assert times[1] - times[0] <= 0.12 + 0.011


async def test_peer_that_calls_and_cannot_be_reached_is_not_called_without_end(autojump_clock: MockClock) -> None:
    """One word of it is good for one attempt, also when it comes during one."""
    calls = 0

    def dial(address: str, lane: Lane) -> Link:
        nonlocal calls
        calls += 1
        bench.lane.heard()
        raise PeerUnreachable("it hears nobody")

    async with running(dial) as bench:
        bench.lane.outbox.post(StatusRequest())
        await wait_all_tasks_blocked()
        assert calls == 1
        for _ in range(20):
            await trio.sleep(0.01)
            bench.lane.outbox.post(StatusRequest())
        assert calls <= 21


async def test_messages_to_a_peer_out_of_reach_are_dropped(autojump_clock: MockClock) -> None:
    """What was posted while the peer was away is out of date: it is dropped, and whoever posted it hears."""
    dropped: list[str] = []
    link = FakeLink()
    is_up = False

    def dial(address: str, lane: Lane) -> Link:
        if not is_up:
            raise PeerUnreachable("down")
        return link

    async with running(dial) as bench:
        bench.lane.outbox.post(StatusRequest(1), on_dropped=lambda: dropped.append("at the attempt"))
        await wait_all_tasks_blocked()
        bench.lane.outbox.post(StatusRequest(2), on_dropped=lambda: dropped.append("during the wait"))
        await trio.sleep(1)
        is_up = True
        bench.lane.outbox.post(StatusRequest(3))
        await wait_all_tasks_blocked()

        assert dropped == ["at the attempt", "during the wait"]
        assert link.sent == [StatusRequest(3)]


async def test_a_lost_link_is_told_and_opened_again_when_needed() -> None:
    """When a link ends, what waits is dropped, the loss is told once, and the next message opens another."""
    links: list[FakeLink] = []

    def dial(address: str, lane: Lane) -> Link:
        links.append(FakeLink())
        return links[-1]

    async with running(dial) as bench:
        bench.lane.outbox.post(StatusRequest(1))
        await wait_all_tasks_blocked()
        links[0].hang_up()
        await wait_all_tasks_blocked()
        assert bench.lost == [(B, Lane.BULK)]
        assert links[0].is_closed
        assert len(links) == 1

        bench.lane.outbox.post(StatusRequest(2))
        await wait_all_tasks_blocked()
        assert links[1].sent == [StatusRequest(2)]


async def test_a_link_that_fails_while_sending_is_lost() -> None:
    """An error of ``send`` ends the link as its end on the other side does."""
    links: list[FakeLink] = []

    def dial(address: str, lane: Lane) -> Link:
        links.append(FakeLink())
        links[-1].close_after(1)
        return links[-1]

    async with running(dial) as bench:
        for number in (1, 2):
            bench.lane.outbox.post(StatusRequest(number))
            await wait_all_tasks_blocked()

        assert bench.lost == [(B, Lane.BULK)]


class SilentTransport(FakeTransport):
    """Never answers an attempt."""

    async def connect(self, address: str, lane: Lane) -> Link:
        self.attempts.append((trio.current_time(), address, lane))
        await trio.sleep_forever()
        raise AssertionError("unreachable")


async def test_an_attempt_is_bounded_in_time(autojump_clock: MockClock) -> None:
    """A peer that does not answer an attempt is given up after the time for it, and tried again."""
    async with running(transport=SilentTransport()) as bench:
        bench.lane.outbox.post(StatusRequest())
        await trio.sleep(1.9)
        assert bench.lost == []
        await trio.sleep(0.2)
        assert bench.lost == [(B, Lane.BULK)]

        await trio.sleep(0.2)
        bench.lane.outbox.post(StatusRequest())
        await wait_all_tasks_blocked()
        assert len(bench.transport.attempts) == 2


async def test_a_peer_without_an_address_is_out_of_reach(autojump_clock: MockClock) -> None:
    """While discovery knows no address, messages are dropped and nothing is dialled."""
    async with running(addresses=()) as bench:
        bench.lane.outbox.post(StatusRequest())
        await trio.sleep(1)

        assert bench.transport.attempts == []
        assert bench.lost == [(B, Lane.BULK)]


async def test_a_bug_in_a_transport_is_not_swallowed() -> None:
    """Only TransportError means that the peer is out of reach; anything else ends the node."""

    def dial(address: str, lane: Lane) -> Link:
        raise KeyError("a bug")

    async def run() -> None:
        async with running(dial) as bench:
            bench.lane.outbox.post(StatusRequest())
            await trio.sleep_forever()

    with pytest.RaisesGroup(KeyError):
        await run()

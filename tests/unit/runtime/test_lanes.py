"""Lanes that come and go with the members."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import Lane, Link, Message, NodeId, StatusRequest
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.lanes import Lanes
from clustercore.runtime.peers import PeerLane
from tests.unit.runtime.fakes import FakeLink, FakeTransport, introductions_of

B, C = NodeId("b"), NodeId("c")
FAREWELL_S = 5.0


@attrs.define
class Bench:
    """Lanes, the links they opened and what was told of them."""

    lanes: Lanes
    nursery: trio.Nursery
    links: dict[tuple[str, Lane], list[FakeLink]]
    made: list[tuple[NodeId, Lane]]
    lost: list[tuple[NodeId, Lane]]

    @property
    def tasks(self) -> int:
        """How many tasks run below the block."""
        return sum(1 + sum(len(inner.child_tasks) for inner in task.child_nurseries) for task in self._roots())

    def _roots(self) -> list[trio.lowlevel.Task]:
        return list(self.nursery.child_tasks)


@asynccontextmanager
async def running(*peers: NodeId) -> AsyncIterator[Bench]:
    """Run lanes while the block lasts."""
    links: dict[tuple[str, Lane], list[FakeLink]] = {}
    made: list[tuple[NodeId, Lane]] = []
    lost: list[tuple[NodeId, Lane]] = []

    def dial(address: str, lane: Lane) -> Link:
        links.setdefault((address, lane), []).append(FakeLink())
        return links[address, lane][-1]

    async def take(peer: NodeId, incarnation: str, message: Message) -> None:
        await trio.lowlevel.checkpoint()

    def make(peer: NodeId, lane: Lane) -> PeerLane:
        made.append((peer, lane))
        return PeerLane(
            peer,
            lane,
            introductions=introductions_of("a"),
            transport=FakeTransport(dial),
            addresses_of=lambda node_id: [str(node_id)],
            on_message=take,
            on_lost=lambda *what: lost.append(what),
            config=NodeConfig(),
            rng=Random(1),
        )

    lanes = Lanes(make, farewell_s=FAREWELL_S)
    lanes.follow(peers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes.run)
        yield Bench(lanes, nursery, links, made, lost)
        nursery.cancel_scope.cancel()


async def test_each_peer_has_its_lanes() -> None:
    """Those that were there before the start, and those that come later; nobody else."""
    async with running(B) as bench:
        bench.lanes.follow([B, C])
        for peer in (B, C, NodeId("d")):
            bench.lanes.post(peer, Lane.CONTROL, StatusRequest(1))
        await wait_all_tasks_blocked()

        assert sorted(bench.made, key=str) == sorted(((peer, lane) for peer in (B, C) for lane in Lane), key=str)
        assert {key: links[0].sent for key, links in bench.links.items()} == {
            (B, Lane.CONTROL): [StatusRequest(1)],
            (C, Lane.CONTROL): [StatusRequest(1)],
        }
        assert bench.lanes.outbox_to(NodeId("d"), Lane.BULK) is None


async def test_peer_that_goes_hears_a_farewell_and_leaves_nothing(autojump_clock: MockClock) -> None:
    """What is sent in the moment after still arrives; then the link closes, and no task and no lane is left."""
    async with running(B, C) as bench:
        bench.lanes.post(B, Lane.BULK, StatusRequest(1))
        await wait_all_tasks_blocked()
        before = bench.tasks

        bench.lanes.follow([C])
        bench.lanes.post(B, Lane.BULK, StatusRequest(2))
        await trio.sleep(FAREWELL_S - 0.1)
        [link] = bench.links[B, Lane.BULK]
        assert (link.sent, link.is_closed) == ([StatusRequest(1), StatusRequest(2)], False)

        await trio.sleep(0.2)
        assert link.is_closed
        assert bench.lanes.outbox_to(B, Lane.BULK) is None
        assert bench.lost == [(B, Lane.BULK), (B, Lane.CONTROL)] or bench.lost == [(B, Lane.CONTROL), (B, Lane.BULK)]
        assert bench.tasks < before


async def test_peer_that_comes_back_at_once_keeps_its_lanes(autojump_clock: MockClock) -> None:
    """Removed and added again within the farewell, its links stay open."""
    async with running(B) as bench:
        bench.lanes.post(B, Lane.BULK, StatusRequest(1))
        await wait_all_tasks_blocked()

        bench.lanes.follow([])
        await trio.sleep(FAREWELL_S / 2)
        bench.lanes.follow([B])
        await trio.sleep(FAREWELL_S * 2)

        [link] = bench.links[B, Lane.BULK]
        assert not link.is_closed
        assert len(bench.made) == 2


async def test_farewell_is_not_put_off(autojump_clock: MockClock) -> None:
    """Further changes of the members give a former peer no more time."""
    async with running(B) as bench:
        bench.lanes.follow([])
        for _ in range(4):
            await trio.sleep(FAREWELL_S / 4)
            bench.lanes.follow([C])
        await trio.sleep(0.1)

        assert bench.lanes.outbox_to(B, Lane.BULK) is None


@pytest.mark.parametrize("turns", range(4))
async def test_peer_that_comes_back_while_its_lanes_end_gets_new_ones(turns: int, autojump_clock: MockClock) -> None:
    """In the very moment in which the old ones are cancelled, and the turns after it."""
    async with running(B) as bench:
        bench.lanes.follow([])
        await trio.sleep(FAREWELL_S)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        bench.lanes.follow([B])
        await trio.sleep(FAREWELL_S * 2)

        bench.lanes.post(B, Lane.BULK, StatusRequest(1))
        await wait_all_tasks_blocked()
        assert bench.links[B, Lane.BULK][-1].sent == [StatusRequest(1)]

"""A discovery on a fake Consul, with a clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import DiscoverySnapshot, Member, NodeId
from clustercore_consul import ConsulDiscovery
from tests.fake_consul import FakeConsul, instance
from tests.waiting import until_known

__all__ = ["HEALTH", "A", "B", "Opened", "opened"]

A, B = (Member(NodeId(name), f"host:{number}") for number, name in enumerate("ab", start=1))
HEALTH = "/v1/health/service/clustercore"


class Opened:
    """What a test has at hand."""

    def __init__(self, fake: FakeConsul, discovery: ConsulDiscovery, clock: MockClock) -> None:
        self.fake = fake
        self.discovery = discovery
        self.clock = clock

    async def until(self, *, is_stale: bool) -> DiscoverySnapshot:
        """Wait for the first snapshot that is stale, or not."""
        return await until_known(self.discovery, lambda snapshot: snapshot.is_stale is is_stale)

    async def waits(self) -> int:
        """Wait until the first answer is taken and the next question asked; return the version of what is known."""
        snapshot = await self.discovery.members()
        await self.fake.wait_asked(HEALTH, 2)
        return snapshot.version

    async def settle(self) -> None:
        """Let all that is under way come to rest: what one side sends is with the other at once."""
        await wait_all_tasks_blocked()

    async def jump(self, seconds: float) -> None:
        """Let time pass once nothing is left to do now, and everything be done that is due then."""
        await self.settle()
        self.clock.jump(seconds)
        await self.settle()

    def queries(self) -> list[dict[str, str]]:
        """Return the questions about the members so far."""
        return [heard.query for heard in self.fake.asked(HEALTH)]


@asynccontextmanager
async def opened(clock: MockClock, *node_ids: str, **options: Any) -> AsyncIterator[Opened]:
    """Open a discovery on a Consul that knows these nodes, at "host:1" and so on."""
    fake = FakeConsul()
    for number, node_id in enumerate(node_ids, start=1):
        fake.put(instance(node_id, f"host:{number}"))
    async with fake.running(), ConsulDiscovery(fake.url, **options) as discovery:
        yield Opened(fake, discovery, clock)

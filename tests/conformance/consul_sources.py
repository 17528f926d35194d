"""A Consul behind a discovery, as the kit breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from clustercore.testing.conformance import DiscoverySource
from clustercore_consul import ConsulDiscovery
from tests.fake_consul import FakeConsul, Reply, instance

__all__ = ["FakeConsulSource", "FakedConsul"]


class FakedConsul(ConsulDiscovery):
    """Discovery by a Consul of its own, which knows some members and lives as long as this does."""

    def __init__(self, members: Mapping[str, str]) -> None:
        self.fake = FakeConsul()
        for node_id, address in members.items():
            self.fake.put(instance(node_id, address))
        # It is as quick as it may be: the kit waits for what it finds out.
        super().__init__(self.fake.url, wait_s=1, timeout_s=1)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.fake.running())
        return await super().__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        async with self._stack:
            await super().__aexit__(exc_type, exc, traceback)


class FakeConsulSource(DiscoverySource):
    """The catalog, changed as other agents change it."""

    def __init__(self, fake: FakeConsul) -> None:
        self._fake = fake

    async def tell(self, members: Mapping[str, str]) -> None:
        self._fake.fault = None
        registrations = {f"clustercore-{node_id}": instance(node_id, members[node_id]) for node_id in members}
        for service_id in [name for _, name in self._fake.services if name not in registrations]:
            self._fake.drop(service_id)
        for registration in registrations.values():
            self._fake.put(registration)
        self._fake.wake()

    async def fail(self) -> None:
        self._fake.fault = Reply(500, raw=b"No cluster leader")
        self._fake.wake()

    async def talk_nonsense(self) -> None:
        nameless = instance("x", "nowhere:1")
        nameless["Meta"] = {"clustercore-node-id": "x"}
        self._fake.put(nameless | {"Port": 0})

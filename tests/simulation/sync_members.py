"""Three real nodes with a sync service each, for tests of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import attrs
import trio

from clustercore import Node
from clustercore.interfaces import NodeId
from clustercore.sync import EntityStore, HybridLogicalClock, StoreEvent, SyncService
from clustercore.sync.source import Source
from clustercore_memory import MemoryNetwork, MemoryRecords, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal
from tests.unit.sync.fleet import MISSION, UAV

__all__ = ["NAMES", "Member", "are_equal", "open_cluster"]

NAMES = ("a", "b", "c")


@attrs.define(eq=False)
class Member:
    """A running node, its store and its service."""

    node: Node
    store: EntityStore
    service: SyncService
    # What its store told operators.
    events: list[StoreEvent]
    stop: Callable[[], None]

    @property
    def source(self) -> Source:
        """Its answering side."""
        source = self.service._source
        assert source is not None
        return source


@asynccontextmanager
async def open_cluster(
    *, ahead_ms: Mapping[str, int] | None = None, **options: object
) -> AsyncIterator[dict[str, Member]]:
    """Three nodes with a store and a service each; one of them can be stopped.

    Args:
        ahead_ms: How far wall clocks are ahead, by node, at each moment that they are read.
        options: The services'.
    """
    network = MemoryNetwork()
    members: dict[str, Member] = {}
    async with trio.open_nursery() as nursery:
        for name in NAMES:
            members[name] = await nursery.start(_live, name, network, {} if ahead_ms is None else ahead_ms, options)
        yield members
        nursery.cancel_scope.cancel()


async def _live(
    name: str,
    network: MemoryNetwork,
    ahead_ms: Mapping[str, int],
    options: dict[str, object],
    *,
    task_status: trio.TaskStatus[Member],
) -> None:
    clock = HybridLogicalClock(lambda: 1_700_000_000_000 + int(trio.current_time() * 1000) + ahead_ms.get(name, 0))
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            events: list[StoreEvent] = []
            store = EntityStore(
                NodeId(name), [MISSION, UAV], MemoryRecords(), clock=clock, rng=Random(name), on_event=events.append
            )
            await stack.enter_async_context(store)
            service = SyncService(store, rng=Random(name), **options)  # type: ignore[arg-type]  # the service's own
            node = Node(
                name,
                machine=Journal(),
                transport=MemoryTransport(network, name),
                storage=MemoryStorage(),
                discovery=StaticDiscovery({each: each for each in NAMES}),
                companions=[service],
                rng=Random(name),
            )
            await stack.enter_async_context(node)
            task_status.started(Member(node, store, service, events, scope.cancel))
            await trio.sleep_forever()


def are_equal(members: dict[str, Member], names: str = "abc") -> bool:
    """Whether these members hold the same."""
    return len({members[name].store.canonical_bytes() for name in names}) == 1

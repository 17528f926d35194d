"""Two replicas that fetch from each other without nodes between them, for tests of the protocol."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import attrs

from clustercore.interfaces import NodeId
from clustercore.sync import EntityStore
from clustercore.sync.comparison import BucketsRequest, CompareRequest, FetchRequest
from clustercore.sync.fetching import Fetching, SessionResult
from clustercore.sync.messages import OpenRequest, PullRequest, PushRequest, PushResponse
from clustercore.sync.schedule import SyncConfig, SyncKind
from clustercore.sync.source import Source
from clustercore.sync.statistics import PeerStatistics, RepairedByFull
from clustercore.sync.trees import DigestTrees
from clustercore.sync.wire import SyncMessage
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import Wall, make_store

__all__ = ["Replica", "open_replica", "plain_config"]

# No two runs of a source draw the same.
_RUNS = count()

Call = Callable[[str, bytes], Awaitable[bytes]]


def plain_config(
    *, window_s: float = 0.0, max_batch_changes: int = 500, max_batch_bytes: int = 1024 * 1024
) -> SyncConfig:
    """A configuration without a window, unless one is given."""
    return SyncConfig(
        full_interval_s=math.inf,
        window_s=window_s,
        max_batch_changes=max_batch_changes,
        max_batch_bytes=max_batch_bytes,
    )


@attrs.define(eq=False)
class Replica:
    """A store, its answering side, and what it fetches from each other."""

    name: str
    store: EntityStore
    config: SyncConfig
    wall: Wall
    source: Source = attrs.field(init=False)
    trees: DigestTrees = attrs.field(init=False)
    fetching: dict[str, Fetching] = attrs.field(factory=dict)
    statistics: dict[str, PeerStatistics] = attrs.field(factory=dict)
    repaired: list[RepairedByFull] = attrs.field(factory=list)
    # The methods that it was asked, and the bytes of questions and answers.
    asked: list[str] = attrs.field(factory=list)
    answered_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what is in memory, as a process that starts anew."""
        self.trees = DigestTrees(self.store)
        self.source = Source(self.store, self.trees, self.config, Random(f"{self.name} {next(_RUNS)}"))
        self.fetching, self.statistics = {}, {}

    async def call(self, method: str, request: bytes) -> bytes:
        """Answer a question as the service does."""
        self.asked.append(method)
        handlers: Mapping[str, tuple[type[SyncMessage], Callable[..., Awaitable[SyncMessage]]]] = {
            "Open": (OpenRequest, self.source.open),
            "Pull": (PullRequest, self.source.pull),
            "Compare": (CompareRequest, self.source.compare),
            "Buckets": (BucketsRequest, self.source.buckets),
            "Fetch": (FetchRequest, self.source.fetch),
            "Push": (PushRequest, self._take_pushed),
        }
        kind, handler = handlers[method]
        response = (await handler(kind.decode(request))).encode()
        self.answered_bytes += len(request) + len(response)
        return response

    async def _take_pushed(self, request: PushRequest) -> SyncMessage:
        await self.store.apply(request.changes)
        return PushResponse()

    async def fetch_from(
        self, other: Replica, kind: SyncKind = SyncKind.INCREMENTAL, *, call: Call | None = None
    ) -> SessionResult:
        """Have one session."""
        if other.name not in self.fetching:
            self.statistics[other.name] = PeerStatistics(NodeId(other.name))
            self.fetching[other.name] = Fetching(
                NodeId(other.name),
                self.store,
                self.trees,
                self.config,
                self.statistics[other.name],
                self.source,
                kinds=(),
                rng=Random(7),
                on_repaired=self.repaired.append,
            )
        return await self.fetching[other.name].run(kind, call or other.call)


@asynccontextmanager
async def open_replica(
    name: str, *, records: MemoryRecords | None = None, config: SyncConfig | None = None, wall: Wall | None = None
) -> AsyncIterator[Replica]:
    """Open a store of missions and UAVs, and both sides of its sync."""
    wall = Wall() if wall is None else wall
    async with make_store(name, records=records, wall=wall) as store:
        yield Replica(name, store, config or plain_config(), wall)

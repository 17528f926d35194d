"""Sync services that reach each other over wires of a test's making, without nodes around them.

The services are the real ones, with their stores, their schedule and their sessions. Where each is reached, how long a
message takes and which one is lost is said by the test; time is virtual.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import attrs
import trio

from clustercore.interfaces import (
    AcceptLink,
    Lane,
    Link,
    LinkClosed,
    NodeId,
    NodeSite,
    NodeStopped,
    PeerUnreachable,
    Service,
    ServiceTransport,
)
from clustercore.sync import EntityStore, HybridLogicalClock, SyncConfig, SyncService
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV

__all__ = ["Line", "Member", "Sighting", "open_line"]

BEGIN_MS = 1_700_000_000_000


class SlowRecords(MemoryRecords):
    """A disk that takes its time for each commit."""

    def __init__(self, write_s: float) -> None:
        super().__init__()
        self._write_s = write_s

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self._write_s)
        await super().commit(changes)


@attrs.frozen
class Sighting:
    """An edit, and when it was durable where it was made."""

    kind: str
    entity_id: str
    group: str
    writer: str
    time: int
    durable_at: float


@attrs.define(eq=False)
class Member:
    """One store with its service, while it is up, and what it has not seen yet of the others' edits."""

    name: str
    records: MemoryRecords
    # Those that it reaches.
    neighbours: tuple[str, ...]
    store: EntityStore | None = None
    service: SyncService | None = None
    handlers: Mapping[str, Callable[[bytes], Any]] = attrs.field(factory=dict)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    awaited: list[Sighting] = attrs.field(factory=list)
    # How long each edit took to get here, with the edit.
    seen: list[tuple[float, Sighting]] = attrs.field(factory=list)

    def look(self) -> None:
        """Note which awaited edits are visible here by now, or overruled by a later one that is."""
        assert self.store is not None
        left = []
        for edit in self.awaited:
            change = self.store.state(edit.kind, edit.entity_id, edit.group)
            if change is not None and change.state.seen.get(edit.writer, -1) >= edit.time:
                self.seen.append((trio.current_time() - edit.durable_at, edit))
            else:
                left.append(edit)
        self.awaited[:] = left


class Line:
    """Some members, and the wires between them.

    Args:
        nursery: Where they run.
        config: That of all of them.
        seed: Decides what they draw.
        rtt_s: What a question and its answer take together.
        write_s: What a commit takes.
        options: More for each ``SyncService``.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        neighbours: Mapping[str, str],
        *,
        config: SyncConfig,
        seed: int,
        rtt_s: float = 0.0,
        write_s: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._nursery = nursery
        self._config = config
        self._rng = Random(seed)
        self._rtt_s = rtt_s
        self._options = options or {}
        self.members = {name: Member(name, SlowRecords(write_s), tuple(near)) for name, near in neighbours.items()}
        # Of the next call that a rule names, whether the request or the response is lost: caller, method, which.
        self.to_lose: tuple[str, str, str] | None = None
        # When it was lost.
        self.lost_at: float | None = None
        # Set, and replaced, each time that a question was answered, or met a peer that is down.
        self.asked = trio.Event()
        # Changes an answer on its way, where a test plants a fault.
        self.tamper: Callable[[str, bytes], bytes] = lambda method, response: response

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    # --- Members ---

    async def start(self, name: str) -> None:
        """Open a member's store and run its service."""
        await self._nursery.start(self._live, self.members[name])

    async def stop(self, name: str) -> None:
        """End a member, as a process that is killed; its disk stays."""
        member = self.members[name]
        member.scope.cancel()
        await member.ended.wait()

    async def _live(self, member: Member, *, task_status: trio.TaskStatus[None]) -> None:
        member.ended, name = trio.Event(), member.name
        clock = HybridLogicalClock(lambda: BEGIN_MS + int(trio.current_time() * 1000))
        try:
            with trio.CancelScope() as member.scope:
                async with EntityStore(NodeId(name), [MISSION, UAV], member.records, clock=clock) as store:
                    self._watch(member, store)
                    rng = Random(self._rng.random())
                    service = SyncService(store, config=self._config, rng=rng, **self._options)
                    node = cast("Any", _Handle(NodeId(name)))
                    offered: Sequence[Service] = service.services(node)
                    member.store, member.service = store, service
                    member.handlers = {method: handle for each in offered for method, handle in each.unary.items()}
                    near = {NodeId(other): other for other in member.neighbours}
                    task_status.started()
                    await service.run(NodeSite(node, _Wire(self, name), lambda: near))
        finally:
            member.store = member.service = None
            member.handlers = {}
            member.ended.set()

    def _watch(self, member: Member, store: EntityStore) -> None:
        """Look for awaited edits after each batch that was applied."""
        really_apply = store.apply

        async def apply(*args: Any, **kwargs: Any) -> Any:
            report = await really_apply(*args, **kwargs)
            member.look()
            return report

        store.apply = apply  # type: ignore[method-assign]  # watched from here on

    async def edit(self, name: str, make: Callable[[EntityStore], Any], *groups: tuple[str, str, str]) -> None:
        """Make an edit and, when it is durable, let all others await what it wrote in these groups."""
        store = self.members[name].store
        assert store is not None
        await make(store)
        for kind, entity_id, group in groups:
            change = store.state(kind, entity_id, group)
            assert change is not None
            (head,) = change.state.heads
            edit = Sighting(kind, entity_id, group, head.stamp.writer, head.stamp.time, trio.current_time())
            for other in self.members.values():
                if other.name != name:
                    other.awaited.append(edit)

    # --- Wires ---

    async def call(self, source: str, target: str, method: str, request: bytes) -> bytes:
        """Carry a question and its answer."""
        member, plain = self.members[target], method.rpartition("/")[2]
        lost = None
        if self.to_lose is not None and self.to_lose[:2] == (source, plain):
            lost, self.to_lose, self.lost_at = self.to_lose[2], None, trio.current_time()
        await trio.sleep(self._rtt_s / 2)
        handle = member.handlers.get(plain)
        if handle is None:
            self._tell_asked()
            raise PeerUnreachable(f"{target} is down")
        if lost != "request":
            try:
                response: bytes = self.tamper(plain, await handle(request))
            except NodeStopped as error:
                raise LinkClosed(f"{target} went down") from error
            self._tell_asked()
            await trio.sleep(self._rtt_s / 2)
            if lost is None:
                return response
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    def _tell_asked(self) -> None:
        asked, self.asked = self.asked, trio.Event()
        asked.set()


@asynccontextmanager
async def open_line(neighbours: Mapping[str, str], **options: Any) -> AsyncIterator[Line]:
    """Run members until the block ends. Each name is given with the names that it reaches."""
    async with trio.open_nursery() as nursery:
        line = Line(nursery, neighbours, **options)
        for name in neighbours:
            await line.start(name)
        yield line
        nursery.cancel_scope.cancel()


@attrs.frozen
class _Handle:
    """All that the service asks of its node."""

    node_id: NodeId


class _Wire(ServiceTransport):
    """One member's end of all wires. It carries calls, and nothing else."""

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self._name = name

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        return await self._line.call(self._name, address, method, request)

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        raise NotImplementedError

    async def connect(self, address: str, lane: Lane) -> Link:
        raise NotImplementedError

    def offer(self, services: Sequence[Service]) -> None:
        raise NotImplementedError

    def open_stream(self, address: str, method: str, request: bytes) -> Any:
        raise NotImplementedError

"""One faulty discovery, at least, for each rule of their kit."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, NodeId
from clustercore.testing.conformance import DiscoveryConformance
from clustercore_static import StaticDiscovery
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "DiscoveryKit"]

FAULTS: list[Fault] = []


class DiscoveryKit(DiscoveryConformance):
    """The kit as the author of such a discovery derives it."""

    discovery: ClassVar[type[StaticDiscovery]] = StaticDiscovery

    def make(self, members: Mapping[str, str]) -> Discovery:
        return self.discovery(members)


def plant(
    rule: str, what: str, expects: type[Exception] = AssertionError
) -> Callable[[type[StaticDiscovery]], type[StaticDiscovery]]:
    """Add a fault to the table."""

    def add(discovery: type[StaticDiscovery]) -> type[StaticDiscovery]:
        kit = type("TestPlanted", (DiscoveryKit,), {"discovery": discovery})
        FAULTS.append(Fault(f"test_{rule}", what, kit, expects))
        return discovery

    return add


@plant("members_are_sorted_by_id", "keeps the order it was given")
class KeepsTheOrder(StaticDiscovery):
    def _snapshot(self) -> DiscoverySnapshot:
        members = tuple(Member(node_id, address) for node_id, address in self._addresses.items())
        return attrs.evolve(super()._snapshot(), members=members)


@plant("members_are_sorted_by_id", "does not say who it is")
class SaysNotWhoItIs(StaticDiscovery):
    def _snapshot(self) -> DiscoverySnapshot:
        return attrs.evolve(super()._snapshot(), source="")


@plant("may_know_nobody", "waits for somebody")
class WaitsForSomebody(StaticDiscovery):
    async def members(self) -> DiscoverySnapshot:
        while not self._addresses:
            await self._changed.wait()
        return await super().members()


@plant("register_replaces_what_was_known", "keeps the first address")
class KeepsTheFirstAddress(StaticDiscovery):
    async def register(self, member: Member) -> None:
        await super().register(Member(member.node_id, self._addresses.get(member.node_id, member.address)))


@plant("register_and_deregister_are_idempotent", "cannot forget twice", KeyError)
class CannotForgetTwice(StaticDiscovery):
    async def deregister(self, node_id: NodeId) -> None:
        self._addresses[node_id]
        await super().deregister(node_id)


class Living(tuple[Member, ...]):
    """Members that change afterwards."""

    source: Any = None

    def __eq__(self, other: object) -> bool:
        return bool(self.source._snapshot().members == other)

    __hash__ = tuple.__hash__


@plant("snapshot_stays_as_it_was", "hands out the living table")
class HandsOutTheLivingTable(StaticDiscovery):
    async def members(self) -> DiscoverySnapshot:
        snapshot = await super().members()
        living = Living(snapshot.members)
        living.source = self
        return attrs.evolve(snapshot, members=living)


@plant("version_tells_snapshots_apart", "counts members for a version")
class CountsMembers(StaticDiscovery):
    def _snapshot(self) -> DiscoverySnapshot:
        return attrs.evolve(super()._snapshot(), version=len(self._addresses))


@plant("serves_several_tasks_at_once", "loses what happens during a change")
class LosesWhatHappensMeanwhile(StaticDiscovery):
    async def register(self, member: Member) -> None:
        before = dict(self._addresses)
        await super().register(member)
        self._addresses = before | {member.node_id: member.address}


@plant("changed_returns_at_once_if_there_is_news", "waits for the next change")
class WaitsForTheNext(StaticDiscovery):
    async def changed(self, since: int) -> DiscoverySnapshot:
        await self._changed.wait()
        return await super().changed(since)


@plant("changed_waits_and_skips_the_backlog", "does not wait")
class DoesNotWait(StaticDiscovery):
    async def changed(self, since: int) -> DiscoverySnapshot:
        return await self.members()


@plant("changed_tells_of_who_was_forgotten", "keeps quiet of who was forgotten")
class KeepsQuiet(StaticDiscovery):
    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()
        self._addresses.pop(node_id, None)


@plant("changed_cancelled_loses_nothing", "tells each version once")
class TellsOnce(StaticDiscovery):
    is_asked = False

    async def changed(self, since: int) -> DiscoverySnapshot:
        if self.is_asked:
            await trio.sleep_forever()
        self.is_asked = True
        return await super().changed(since)


@plant("register_cancelled_is_done_or_not", "forgets all while it registers")
class ForgetsMeanwhile(StaticDiscovery):
    async def register(self, member: Member) -> None:
        before, self._addresses = self._addresses, {}
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        self._addresses = before
        await super().register(member)


@plant("leaves_no_task_and_no_socket", "never ends its watcher")
class LeavesATask(StaticDiscovery):
    async def members(self) -> DiscoverySnapshot:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        return await super().members()


@plant("leaves_no_task_and_no_socket", "never closes its connection")
class LeavesASocket(StaticDiscovery):
    left: ClassVar[list[Any]] = []

    async def register(self, member: Member) -> None:
        self.left.extend(socket.socketpair())
        await super().register(member)

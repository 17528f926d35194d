"""One faulty discovery, at least, for each rule of their kit."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs
import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot, KnownMembers, Member, MemberMetadata, NodeId
from clustercore.testing.conformance import DiscoveryConformance, DiscoverySource
from clustercore_memory import MemoryDiscovery, MemoryRegistry
from tests.conformance.discovery_sources import MemorySource
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "DiscoveryKit"]

FAULTS: list[Fault] = []


class DiscoveryKit(DiscoveryConformance):
    """The kit as the author of such a discovery derives it."""

    discovery: ClassVar[type[MemoryDiscovery]] = MemoryDiscovery

    def make(self, members: Mapping[str, str]) -> Discovery:
        return self.discovery(MemoryRegistry(members))

    def source(self, discovery: Discovery) -> DiscoverySource:
        assert isinstance(discovery, MemoryDiscovery)
        return MemorySource(discovery)


def plant(
    rule: str, what: str, expects: type[Exception] = AssertionError
) -> Callable[[type[MemoryDiscovery]], type[MemoryDiscovery]]:
    """Add a fault to the table."""

    def add(discovery: type[MemoryDiscovery]) -> type[MemoryDiscovery]:
        kit = type("TestPlanted", (DiscoveryKit,), {"discovery": discovery})
        FAULTS.append(Fault(f"test_{rule}", what, kit, expects))
        return discovery

    return add


class Retold(MemoryDiscovery):
    """Tells each snapshot otherwise than it is."""

    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        raise NotImplementedError

    async def members(self) -> DiscoverySnapshot:
        return self.retell(await super().members())

    async def changed(self, since: int) -> DiscoverySnapshot:
        return self.retell(await super().changed(since))


@plant("members_are_sorted_by_id", "keeps the order it was given")
class KeepsTheOrder(Retold):
    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        return attrs.evolve(snapshot, members=tuple(self.registry._members.values()))


@plant("members_are_sorted_by_id", "does not say who it is")
class SaysNotWhoItIs(Retold):
    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        return attrs.evolve(snapshot, source="")


@plant("may_know_nobody", "waits for somebody")
class WaitsForSomebody(MemoryDiscovery):
    async def members(self) -> DiscoverySnapshot:
        snapshot = await super().members()
        while not snapshot.members:
            snapshot = await super().changed(snapshot.version)
        return snapshot


@plant("register_replaces_what_was_known", "keeps the first address")
class KeepsTheFirstAddress(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        address = (await self.members()).address_of(member.node_id) or member.address
        await super().register(attrs.evolve(member, address=address))


@plant("register_and_deregister_are_idempotent", "cannot forget twice", KeyError)
class CannotForgetTwice(MemoryDiscovery):
    async def deregister(self, node_id: NodeId) -> None:
        self.registry._members[node_id]
        await super().deregister(node_id)


@plant("metadata_comes_back", "drops tags that it does not know")
class DropsTags(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        await super().register(attrs.evolve(member, metadata=attrs.evolve(member.metadata, tags=())))


@plant("metadata_comes_back", "looks at the address alone")
class LooksAtTheAddressAlone(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        if (await self.members()).address_of(member.node_id) != member.address:
            await super().register(member)


@plant("deregistered_member_comes_back_as_it_was", "lets nobody come back")
class LetsNobodyComeBack(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        if not hasattr(self, "has_forgotten"):
            await super().register(member)

    async def deregister(self, node_id: NodeId) -> None:
        self.has_forgotten = True
        await super().deregister(node_id)


@plant("deregistered_member_comes_back_as_it_was", "marks who is not there")
class MarksWhoIsNotThere(MemoryDiscovery):
    gone: NodeId | None = None

    async def members(self) -> DiscoverySnapshot:
        snapshot = await super().members()
        return snapshot if self.gone is None else attrs.evolve(snapshot, withdrawn=frozenset({self.gone}))

    async def deregister(self, node_id: NodeId) -> None:
        self.gone = node_id
        await super().deregister(node_id)


@plant("tells_when_it_was_confirmed", "tells the monotonic time")
class TellsMonotonicTime(Retold):
    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        return attrs.evolve(snapshot, as_of=trio.current_time())


class Living(tuple[Member, ...]):
    """Members that change afterwards."""

    source: Any = None

    def __eq__(self, other: object) -> bool:
        return bool(self.source.registry.members == other)

    __hash__ = tuple.__hash__


@plant("snapshot_stays_as_it_was", "hands out the living table")
class HandsOutTheLivingTable(Retold):
    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        living = Living(snapshot.members)
        living.source = self
        return attrs.evolve(snapshot, members=living)


@plant("version_tells_snapshots_apart", "counts members for a version")
class CountsMembers(Retold):
    def retell(self, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
        return attrs.evolve(snapshot, version=len(snapshot.members))


@plant("serves_several_tasks_at_once", "loses what happens during a change")
class LosesWhatHappensMeanwhile(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        before = self.registry.members
        await super().register(member)
        self.registry.replace([*before, member])


@plant("changed_returns_at_once_if_there_is_news", "waits for the next change")
class WaitsForTheNext(MemoryDiscovery):
    async def changed(self, since: int) -> DiscoverySnapshot:
        return await super().changed((await super().members()).version)


@plant("changed_waits_and_skips_the_backlog", "does not wait")
class DoesNotWait(MemoryDiscovery):
    async def changed(self, since: int) -> DiscoverySnapshot:
        return await self.members()


@plant("changed_tells_of_who_was_forgotten", "keeps quiet of who was forgotten")
class KeepsQuiet(MemoryDiscovery):
    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()
        self.registry._members.pop(node_id, None)


@plant("changed_cancelled_loses_nothing", "tells each version once")
class TellsOnce(MemoryDiscovery):
    is_asked = False

    async def changed(self, since: int) -> DiscoverySnapshot:
        if self.is_asked:
            await trio.sleep_forever()
        self.is_asked = True
        return await super().changed(since)


class Backlog(MemoryDiscovery):
    """Remembers every snapshot, and each is told in its turn."""

    def __init__(self, registry: MemoryRegistry) -> None:
        super().__init__(registry)
        self.backlog: list[DiscoverySnapshot] = []

    def look(self) -> None:
        super().look()
        newest = self._known.newest
        if newest is not None and (not self.backlog or newest.version > self.backlog[-1].version):
            self.backlog.append(newest)


@plant("watch_yields_the_newest", "works off a backlog")
class WorksOffABacklog(Backlog):
    async def changed(self, since: int) -> DiscoverySnapshot:
        newest = await super().changed(since)
        return next((snapshot for snapshot in self.backlog if snapshot.version > since), newest)


@plant("source_that_changes_is_followed", "asks once")
class AsksOnce(MemoryDiscovery):
    has_asked = False

    def look(self) -> None:
        if not self.has_asked:
            super().look()
        self.has_asked = True


@plant("source_that_changes_is_followed", "only adds")
class OnlyAdds(MemoryDiscovery):
    def look(self) -> None:
        newest = self._known.newest
        told = () if newest is None else newest.members
        known = {member.node_id: member for member in (*told, *self.registry.members)}
        self._known.tell(known.values())


class Bookkeeping(MemoryDiscovery):
    """Keeps its own books, and keeps them wrong."""

    def __init__(self, registry: MemoryRegistry) -> None:
        super().__init__(registry)
        self._known = self.books()

    def books(self) -> KnownMembers:
        raise NotImplementedError


@plant("source_that_says_the_same_is_no_news", "takes every answer for news")
class TakesEveryAnswerForNews(Bookkeeping):
    class Books(KnownMembers):
        def tell(self, members: Iterable[Member], **how: Any) -> bool:
            self._newest = attrs.evolve(self._newest, source=f"{self._newest.source}+")
            return super().tell(members, **how)

    def books(self) -> KnownMembers:
        return self.Books("memory")


@plant("source_that_fails_keeps_its_last_members", "forgets all")
class ForgetsAll(Bookkeeping):
    class Books(KnownMembers):
        def fail(self, reason: str) -> None:
            self.tell((), is_empty_certain=True)

    def books(self) -> KnownMembers:
        return self.Books("memory")


@plant("source_that_fails_keeps_its_last_members", "does not say that it is old")
class SaysNotThatItIsOld(Bookkeeping):
    class Books(KnownMembers):
        def fail(self, reason: str) -> None:
            pass

    def books(self) -> KnownMembers:
        return self.Books("memory")


@plant("source_that_fails_keeps_its_last_members", "never asks again")
class NeverAsksAgain(Bookkeeping):
    class Books(KnownMembers):
        def tell(self, members: Iterable[Member], **how: Any) -> bool:
            return not self._newest.is_stale and super().tell(members, **how)

    def books(self) -> KnownMembers:
        return self.Books("memory")


@plant("source_that_talks_nonsense_keeps_its_last_members", "believes anything")
class BelievesAnything(MemoryDiscovery):
    def look(self) -> None:
        if self.fault.value == "nonsense":
            self._known.tell([Member(NodeId("x"), "there", MemberMetadata())])
        else:
            super().look()


@plant("source_that_empties_keeps_its_last_members", "believes that all are gone")
class BelievesThatAllAreGone(MemoryDiscovery):
    def look(self) -> None:
        if self.fault.value == "empty":
            self._known.tell((), is_empty_certain=True)
        else:
            super().look()


@plant("source_that_fails_lets_registrations_wait", "raises at whoever registers", OSError)
class RaisesAtWhoeverRegisters(MemoryDiscovery):
    async def _wait_for_the_registry(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault.value == "outage":
            raise OSError("no answer")


@plant("source_that_fails_lets_registrations_wait", "drops what it cannot tell now")
class DropsWhatItCannotTellNow(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        if self.fault.value != "outage":
            await super().register(member)


@plant("register_cancelled_is_done_or_not", "forgets all while it registers")
class ForgetsMeanwhile(MemoryDiscovery):
    async def register(self, member: Member) -> None:
        before = self.registry.members
        self.registry.replace({})
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        self.registry.replace(before)
        await super().register(member)


@plant("leaves_no_task_and_no_socket", "never ends its watcher")
class LeavesATask(MemoryDiscovery):
    async def members(self) -> DiscoverySnapshot:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        return await super().members()


@plant("leaves_no_task_and_no_socket", "never closes its connection")
class LeavesASocket(MemoryDiscovery):
    left: ClassVar[list[Any]] = []

    async def register(self, member: Member) -> None:
        self.left.extend(socket.socketpair())
        await super().register(member)

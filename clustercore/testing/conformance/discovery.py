"""The Discovery contract, rule by rule: see ``clustercore.interfaces.discovery``."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, MemberMetadata, NodeId
from clustercore.testing.conformance.base import Conformance
from clustercore.testing.conformance.leaks import open_sockets
from clustercore.testing.conformance.links import cancel_after_turns

__all__ = ["DiscoveryConformance", "DiscoverySource"]


class DiscoverySource(ABC):
    """What is behind a discovery: a file, a server. A rule changes it behind the discovery's back."""

    @abstractmethod
    async def tell(self, members: Mapping[str, str]) -> None:
        """Know these members from now on, and no others, and answer: their addresses by their ids."""

    @abstractmethod
    async def fail(self) -> None:
        """Do not answer any more, until ``tell``."""

    @abstractmethod
    async def talk_nonsense(self) -> None:
        """Answer something that cannot be right, until ``tell``."""


class DiscoveryConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` how the discovery is made, and in ``source`` what is behind it.

    Members of the rules have addresses like "host:1", at which nobody is; override ``address`` if they cannot.
    """

    def address(self, node_id: str, port: int) -> str:
        """Return the address at which a member of the rules is."""
        return f"host:{port}"

    def _at(self, **ports: int) -> dict[str, str]:
        return {node_id: self.address(node_id, port) for node_id, port in ports.items()}

    def _member(self, node_id: str, port: int) -> Member:
        return Member(NodeId(node_id), self.address(node_id, port))

    @property
    def a(self) -> Member:
        """The first of three members."""
        return self._member("a", 1)

    @property
    def b(self) -> Member:
        """The second of three members."""
        return self._member("b", 2)

    @property
    def c(self) -> Member:
        """The third of three members."""
        return self._member("c", 3)

    @abstractmethod
    def make(self, members: Mapping[str, str]) -> Discovery:
        """Make a discovery, on a source of its own, that knows these members: their addresses by their ids."""

    def source(self, discovery: Discovery) -> DiscoverySource:
        """Return what is behind a discovery of ``make``. Without this method, the rules about sources are left out."""
        raise NotImplementedError

    def left_out(self) -> dict[str, str]:
        """Leave out the rules about what is behind the discovery, if there is nothing."""
        reasons = super().left_out()
        if type(self).source is DiscoveryConformance.source:
            names = [name for name in dir(self) if name.startswith("test_source_")]
            reasons |= dict.fromkeys(names, "nothing is behind this discovery: the kit has no `source`")
        return reasons

    # --- What is known ---

    async def test_members_are_sorted_by_id(self) -> None:
        """Each member is there once, sorted by id, whatever the order they were given in; the source is named."""
        async with self._open(self._at(b=2, c=3, a=1)) as discovery:
            snapshot = await discovery.members()

        assert snapshot.members == (self.a, self.b, self.c)
        assert snapshot.address_of(self.b.node_id) == self.b.address
        assert snapshot.address_of(NodeId("x")) is None
        assert not snapshot.is_stale
        assert snapshot.source

    async def test_may_know_nobody(self) -> None:
        """A source without members is no error: there is a snapshot, and it is empty."""
        async with self._open({}) as discovery:
            assert (await discovery.members()).members == ()

    async def test_register_replaces_what_was_known(self) -> None:
        """A new id is added, a known one gets the new address, and each change has a larger version."""
        async with self._open(self._at(a=1)) as discovery:
            before = await discovery.members()
            await discovery.register(self.b)
            added = await discovery.members()
            await discovery.register(Member(self.a.node_id, "host:9"))
            moved = await discovery.members()

        assert before.version < added.version < moved.version
        assert added.members == (self.a, self.b)
        assert moved.members == (Member(self.a.node_id, "host:9"), self.b)

    async def test_register_and_deregister_are_idempotent(self) -> None:
        """Doing either twice is as doing it once; forgetting who is not known changes nothing."""
        async with self._open(self._at(a=1)) as discovery:
            await discovery.register(self.b)
            await discovery.register(self.b)
            assert (await discovery.members()).members == (self.a, self.b)

            await discovery.deregister(self.b.node_id)
            await discovery.deregister(self.b.node_id)
            await discovery.deregister(NodeId("never seen"))
            assert (await discovery.members()).in_service == (self.a,)

    async def test_metadata_comes_back(self) -> None:
        """What a member tells of itself is told again, tags that nobody knows included; to change it is a change."""
        metadata = MemberMetadata("cluster 1", "learner", 4, 2, {"zone": "north", "zweck": "Prüfung"})
        async with self._open(self._at(a=1)) as discovery:
            await discovery.register(attrs.evolve(self.b, metadata=metadata))
            before = await discovery.members()
            await discovery.register(attrs.evolve(self.b, metadata=attrs.evolve(metadata, role="voter")))
            after = await discovery.members()

        assert before.get(self.b.node_id) == attrs.evolve(self.b, metadata=metadata)
        assert after.get(self.b.node_id) == attrs.evolve(self.b, metadata=attrs.evolve(metadata, role="voter"))
        assert before.version < after.version

    async def test_deregistered_member_comes_back_as_it_was(self) -> None:
        """One that is forgotten or withdrawn is not in service; registered again, it is there as before."""
        async with self._open(self._at(a=1, b=2)) as discovery:
            before = await discovery.members()
            await discovery.deregister(self.a.node_id)
            without = await discovery.members()
            registration = before.get(self.a.node_id)
            assert registration is not None
            await discovery.register(registration)
            after = await discovery.members()

        assert without.in_service == (self.b,)
        assert without.withdrawn == {member.node_id for member in without.members} - {self.b.node_id}
        assert after.in_service == after.members == before.members
        assert before.version < without.version < after.version

    async def test_tells_when_it_was_confirmed(self) -> None:
        """What is not stale was confirmed at a time that is past, and not long ago."""
        began = time.time()
        async with self._open(self._at(a=1)) as discovery:
            snapshot = await discovery.members()

        # Clocks of files and of servers may be coarse, and a little off.
        assert began - 60 < snapshot.as_of < time.time() + 60

    async def test_snapshot_stays_as_it_was(self) -> None:
        """What ``members`` returned is of one moment: later changes make another snapshot."""
        async with self._open(self._at(a=1)) as discovery:
            before = await discovery.members()
            await discovery.register(self.b)
            await discovery.deregister(self.a.node_id)

        assert before.members == (self.a,)

    async def test_version_tells_snapshots_apart(self) -> None:
        """Snapshots of one version are equal; to forget a member makes a larger version, as to learn of one does."""
        async with self._open(self._at(a=1)) as discovery:
            versions = []
            changes = (partial(discovery.register, self.b), partial(discovery.deregister, self.a.node_id))
            for change in (*changes, partial(discovery.register, self.a)):
                await change()
                snapshot = await discovery.members()
                assert await discovery.members() == snapshot
                versions.append(snapshot.version)

        assert versions == sorted(set(versions))

    async def test_serves_several_tasks_at_once(self) -> None:
        """Changes that are made at the same time are all made."""
        many = [Member(NodeId(f"n{number}"), f"host:{number}") for number in range(10, 30)]
        async with self._open(self._at(a=1)) as discovery:
            async with trio.open_nursery() as nursery:
                for member in many:
                    nursery.start_soon(discovery.register, member)
                nursery.start_soon(discovery.deregister, self.a.node_id)
            assert (await discovery.members()).in_service == tuple(many)

    # --- Changes ---

    async def test_changed_returns_at_once_if_there_is_news(self) -> None:
        """A version below the newest gets the newest snapshot without waiting."""
        async with self._open(self._at(a=1)) as discovery:
            newest = await discovery.members()

            assert await discovery.changed(newest.version - 1) == newest

    async def test_changed_waits_and_skips_the_backlog(self) -> None:
        """It waits while there is nothing new; after several changes each waiter gets the newest alone."""
        received: list[DiscoverySnapshot] = []

        async def wait(discovery: Discovery, since: int) -> None:
            received.append(await discovery.changed(since))

        async with self._open(self._at(a=1)) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, discovery, since)
                nursery.start_soon(wait, discovery, since + 1)
                await wait_all_tasks_blocked()
                assert received == []

                await discovery.register(self.b)
                await discovery.register(self.c)

            newest = await discovery.members()
            assert [snapshot.version > since for snapshot in received] == [True, True]
            assert newest in received
            assert await discovery.changed(since) == newest

    async def test_changed_tells_of_who_was_forgotten(self) -> None:
        """A waiter wakes up for a member less as it does for one more."""
        async with self._open(self._at(a=1, b=2)) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovery.deregister, self.a.node_id)
                assert (await discovery.changed(since)).in_service == (self.b,)

    async def test_changed_cancelled_loses_nothing(self) -> None:
        """After a cancelled wait the next one returns what it would have."""
        async with self._open(self._at(a=1)) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovery.changed, since)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await discovery.register(self.b)

            assert (await discovery.changed(since)).address_of(self.b.node_id) == self.b.address

    async def test_watch_yields_the_newest(self) -> None:
        """What is known comes first; whoever was busy during several changes gets the newest alone."""
        async with self._open(self._at(a=1)) as discovery:
            seen = []
            async for snapshot in discovery.watch():
                seen.append(snapshot.in_service)
                if len(seen) == 2:
                    break
                await discovery.register(self.b)
                await discovery.register(self.c)
                await discovery.deregister(self.a.node_id)

        assert seen == [(self.a,), (self.b, self.c)]

    # --- What is behind it ---

    async def test_source_that_changes_is_followed(self) -> None:
        """Members that come, move and go elsewhere are learned without anybody asking for it."""
        async with self._open(self._at(a=1, b=2)) as discovery:
            since = await discovery.members()
            await self.source(discovery).tell(self._at(b=9, c=3))
            moved = await self._until(discovery, since, lambda newest: len(newest.members) == 2 and newest != since)

        assert {member.node_id: member.address for member in moved.members} == self._at(b=9, c=3)
        assert not moved.is_stale

    async def test_source_that_says_the_same_is_no_news(self) -> None:
        """To be told the same again wakes nobody: only what differs is a new version."""
        async with self._open(self._at(a=1)) as discovery:
            seen: list[DiscoverySnapshot] = []
            await discovery.members()
            async with trio.open_nursery() as nursery:

                async def follow() -> None:
                    async for snapshot in discovery.watch():
                        seen.append(snapshot)
                        if snapshot.address_of(self.b.node_id) is not None:
                            nursery.cancel_scope.cancel()

                nursery.start_soon(follow)
                await wait_all_tasks_blocked()
                for members in (self._at(a=1), self._at(a=1), self._at(a=1, b=2)):
                    await self.source(discovery).tell(members)
                    await wait_all_tasks_blocked()

        assert [snapshot.members for snapshot in seen] == [(self.a,), (self.a, self.b)]

    async def test_source_that_fails_keeps_its_last_members(self) -> None:
        """While it does not answer, what it told last holds, as stale and as old as it is; then it is asked again."""
        await self._check_that_members_stay(lambda source: source.fail())

    async def test_source_that_talks_nonsense_keeps_its_last_members(self) -> None:
        """An answer that cannot be right is none: what was told before holds, as stale."""
        await self._check_that_members_stay(lambda source: source.talk_nonsense())

    async def test_source_that_empties_keeps_its_last_members(self) -> None:
        """That there is suddenly nobody is taken for an accident: what was told before holds, as stale."""
        await self._check_that_members_stay(lambda source: source.tell({}))

    async def _check_that_members_stay(self, fail: Callable[[DiscoverySource], Awaitable[None]]) -> None:
        async with self._open(self._at(a=1, b=2)) as discovery:
            before = await discovery.members()
            source = self.source(discovery)
            await fail(source)
            stale = await self._until(discovery, before, lambda newest: newest.is_stale or newest != before)
            assert stale.members == before.members
            assert stale.is_stale
            assert stale.as_of <= time.time()
            assert await discovery.members() == stale

            await source.tell(self._at(a=1, c=3))
            after = await self._until(discovery, stale, lambda newest: not newest.is_stale)

        assert after.members == (self.a, self.c)
        assert after.as_of >= stale.as_of
        assert before.version < stale.version < after.version

    async def test_source_that_fails_lets_registrations_wait(self) -> None:
        """Whoever registers or deregisters meanwhile gets no error: it is done at once, or when it answers again."""
        async with self._open(self._at(a=1, b=2)) as discovery:
            before = await discovery.members()
            source = self.source(discovery)
            await source.fail()
            await self._until(discovery, before, lambda newest: newest.is_stale)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovery.register, self.c)
                nursery.start_soon(discovery.deregister, self.a.node_id)
                await wait_all_tasks_blocked()
                await source.tell(self._at(a=1, b=2))
            newest = await discovery.members()

            assert newest.get(self.c.node_id) == self.c
            assert self.a not in newest.in_service

    async def _until(
        self, discovery: Discovery, since: DiscoverySnapshot, holds: Callable[[DiscoverySnapshot], bool]
    ) -> DiscoverySnapshot:
        """Return the first snapshot for which something holds, from one that is known."""
        newest = since
        while not holds(newest):
            newest = await discovery.changed(newest.version)
        return newest

    # --- Cancellation, and the end ---

    async def test_register_cancelled_is_done_or_not(self) -> None:
        """Cancelled at any turn of the event loop, the member is known or not, and nothing else is touched."""
        for turns in range(6):
            async with self._open(self._at(a=1)) as discovery:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after_turns, nursery.cancel_scope, turns)
                    await discovery.register(self.b)
                assert (await discovery.members()).members in ((self.a,), (self.a, self.b)), (
                    f"cancelled after {turns} turns"
                )
                await discovery.register(self.b)
                assert (await discovery.members()).members == (self.a, self.b)

    async def test_leaves_no_task_and_no_socket(self) -> None:
        """When its block is left, by cancellation as well, no task and no socket of its own is left."""

        async def use() -> None:
            async with self._open(self._at(a=1)) as discovery:
                await discovery.register(self.b)
            with trio.CancelScope() as scope:
                async with self._open(self._at(a=1)) as discovery:
                    await discovery.members()
                    scope.cancel()
                    await discovery.changed(1 << 40)

        # What a library makes once and keeps for good is made now.
        await use()
        tasks, sockets = trio.lowlevel.current_statistics().tasks_living, open_sockets()
        await use()

        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_sockets() <= sockets

    @asynccontextmanager
    async def _open(self, members: Mapping[str, str]) -> AsyncIterator[Discovery]:
        with trio.fail_after(self.limit_s):
            async with self.make(members) as discovery:
                yield discovery

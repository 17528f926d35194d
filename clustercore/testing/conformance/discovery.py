"""The Discovery contract, rule by rule: see ``clustercore.interfaces.discovery``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, NodeId
from clustercore.testing.conformance.base import Conformance
from clustercore.testing.conformance.leaks import open_sockets
from clustercore.testing.conformance.links import cancel_after_turns

__all__ = ["DiscoveryConformance"]

A, B, C = (Member(NodeId(name), f"host:{number}") for number, name in enumerate("abc", start=1))


class DiscoveryConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` how the discovery is made.

    Members of the rules have addresses like "host:1", at which nobody is.
    """

    @abstractmethod
    def make(self, members: Mapping[str, str]) -> Discovery:
        """Make a discovery, on a source of its own, that knows these members: their addresses by their ids."""

    # --- What is known ---

    async def test_members_are_sorted_by_id(self) -> None:
        """Each member is there once, sorted by id, whatever the order they were given in; the source is named."""
        async with self._open({"b": "host:2", "c": "host:3", "a": "host:1"}) as discovery:
            snapshot = await discovery.members()

        assert snapshot.members == (A, B, C)
        assert snapshot.address_of(NodeId("b")) == "host:2"
        assert snapshot.address_of(NodeId("x")) is None
        assert not snapshot.is_stale
        assert snapshot.source

    async def test_may_know_nobody(self) -> None:
        """A source without members is no error: there is a snapshot, and it is empty."""
        async with self._open({}) as discovery:
            assert (await discovery.members()).members == ()

    async def test_register_replaces_what_was_known(self) -> None:
        """A new id is added, a known one gets the new address, and each change has a larger version."""
        async with self._open({"a": "host:1"}) as discovery:
            before = await discovery.members()
            await discovery.register(B)
            added = await discovery.members()
            await discovery.register(Member(A.node_id, "host:9"))
            moved = await discovery.members()

        assert before.version < added.version < moved.version
        assert added.members == (A, B)
        assert moved.members == (Member(A.node_id, "host:9"), B)

    async def test_register_and_deregister_are_idempotent(self) -> None:
        """Doing either twice is as doing it once; forgetting who is not known changes nothing."""
        async with self._open({"a": "host:1"}) as discovery:
            await discovery.register(B)
            await discovery.register(B)
            assert (await discovery.members()).members == (A, B)

            await discovery.deregister(B.node_id)
            await discovery.deregister(B.node_id)
            await discovery.deregister(NodeId("never seen"))
            assert (await discovery.members()).members == (A,)

    async def test_snapshot_stays_as_it_was(self) -> None:
        """What ``members`` returned is of one moment: later changes make another snapshot."""
        async with self._open({"a": "host:1"}) as discovery:
            before = await discovery.members()
            await discovery.register(B)
            await discovery.deregister(A.node_id)

        assert before.members == (A,)

    async def test_version_tells_snapshots_apart(self) -> None:
        """Snapshots of one version are equal; to forget a member makes a larger version, as to learn of one does."""
        async with self._open({"a": "host:1"}) as discovery:
            versions = []
            changes = (partial(discovery.register, B), partial(discovery.deregister, A.node_id))
            for change in (*changes, partial(discovery.register, A)):
                await change()
                snapshot = await discovery.members()
                assert await discovery.members() == snapshot
                versions.append(snapshot.version)

        assert versions == sorted(set(versions))

    async def test_serves_several_tasks_at_once(self) -> None:
        """Changes that are made at the same time are all made."""
        many = [Member(NodeId(f"n{number}"), f"host:{number}") for number in range(10, 30)]
        async with self._open({"a": "host:1"}) as discovery:
            async with trio.open_nursery() as nursery:
                for member in many:
                    nursery.start_soon(discovery.register, member)
                nursery.start_soon(discovery.deregister, A.node_id)
            assert (await discovery.members()).members == tuple(many)

    # --- Changes ---

    async def test_changed_returns_at_once_if_there_is_news(self) -> None:
        """A version below the newest gets the newest snapshot without waiting."""
        async with self._open({"a": "host:1"}) as discovery:
            newest = await discovery.members()

            assert await discovery.changed(newest.version - 1) == newest

    async def test_changed_waits_and_skips_the_backlog(self) -> None:
        """It waits while there is nothing new; after several changes each waiter gets the newest alone."""
        received: list[DiscoverySnapshot] = []

        async def wait(discovery: Discovery, since: int) -> None:
            received.append(await discovery.changed(since))

        async with self._open({"a": "host:1"}) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, discovery, since)
                nursery.start_soon(wait, discovery, since + 1)
                await wait_all_tasks_blocked()
                assert received == []

                await discovery.register(B)
                await discovery.register(C)

            newest = await discovery.members()
            assert [snapshot.version > since for snapshot in received] == [True, True]
            assert newest in received
            assert await discovery.changed(since) == newest

    async def test_changed_tells_of_who_was_forgotten(self) -> None:
        """A waiter wakes up for a member less as it does for one more."""
        async with self._open({"a": "host:1", "b": "host:2"}) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovery.deregister, A.node_id)
                assert (await discovery.changed(since)).members == (B,)

    async def test_changed_cancelled_loses_nothing(self) -> None:
        """After a cancelled wait the next one returns what it would have."""
        async with self._open({"a": "host:1"}) as discovery:
            since = (await discovery.members()).version
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovery.changed, since)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await discovery.register(B)

            assert (await discovery.changed(since)).address_of(NodeId("b")) == "host:2"

    # --- Cancellation, and the end ---

    async def test_register_cancelled_is_done_or_not(self) -> None:
        """Cancelled at any turn of the event loop, the member is known or not, and nothing else is touched."""
        for turns in range(6):
            async with self._open({"a": "host:1"}) as discovery:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after_turns, nursery.cancel_scope, turns)
                    await discovery.register(B)
                assert (await discovery.members()).members in ((A,), (A, B)), f"cancelled after {turns} turns"
                await discovery.register(B)
                assert (await discovery.members()).members == (A, B)

    async def test_leaves_no_task_and_no_socket(self) -> None:
        """When its block is left, by cancellation as well, no task and no socket of its own is left."""

        async def use() -> None:
            async with self._open({"a": "host:1"}) as discovery:
                await discovery.register(B)
            with trio.CancelScope() as scope:
                async with self._open({"a": "host:1"}) as discovery:
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

"""The Discovery contract, rule by rule, for every discovery that ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, NodeId
from clustercore_static import StaticDiscovery

Make = Callable[[Mapping[str, str]], Discovery]


def member(node_id: str, address: str) -> Member:
    """Return a member from plain strings."""
    return Member(NodeId(node_id), address)


@pytest.fixture(params=[StaticDiscovery], ids=["static"])
def make(request: pytest.FixtureRequest) -> Make:
    """Make a discovery that knows some members."""
    made: Make = request.param
    return made


async def test_discovery_members_are_sorted_by_id(make: Make) -> None:
    """Each member is there once, sorted by id, whatever the order they were given in."""
    async with make({"b": "host:2", "c": "host:3", "a": "host:1"}) as discovery:
        snapshot = await discovery.members()

    assert snapshot.members == (member("a", "host:1"), member("b", "host:2"), member("c", "host:3"))
    assert snapshot.address_of(NodeId("b")) == "host:2"
    assert snapshot.address_of(NodeId("x")) is None
    assert not snapshot.is_stale


async def test_discovery_register_replaces_what_was_known(make: Make) -> None:
    """A new id is added, a known one gets the new address, and each change has a larger version."""
    async with make({"a": "host:1"}) as discovery:
        before = await discovery.members()
        await discovery.register(member("b", "host:2"))
        added = await discovery.members()
        await discovery.register(member("a", "host:9"))
        moved = await discovery.members()

    assert before.version < added.version < moved.version
    assert added.members == (member("a", "host:1"), member("b", "host:2"))
    assert moved.members == (member("a", "host:9"), member("b", "host:2"))


async def test_discovery_register_and_deregister_are_idempotent(make: Make) -> None:
    """Doing either twice is as doing it once."""
    async with make({"a": "host:1"}) as discovery:
        await discovery.register(member("b", "host:2"))
        await discovery.register(member("b", "host:2"))
        assert len((await discovery.members()).members) == 2

        await discovery.deregister(NodeId("b"))
        await discovery.deregister(NodeId("b"))
        assert (await discovery.members()).members == (member("a", "host:1"),)


async def test_discovery_changed_returns_at_once_if_there_is_news(make: Make) -> None:
    """A version below the newest gets the newest snapshot without waiting."""
    async with make({"a": "host:1"}) as discovery:
        newest = await discovery.members()

        assert await discovery.changed(newest.version - 1) == newest


async def test_discovery_changed_waits_and_skips_the_backlog(make: Make) -> None:
    """It waits while there is nothing new; after several changes each waiter gets the newest alone."""
    received: list[DiscoverySnapshot] = []

    async def wait(discovery: Discovery, since: int) -> None:
        received.append(await discovery.changed(since))

    async with make({"a": "host:1"}) as discovery:
        since = (await discovery.members()).version
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, discovery, since)
            nursery.start_soon(wait, discovery, since + 1)
            await wait_all_tasks_blocked()
            assert received == []

            await discovery.register(member("b", "host:2"))
            await discovery.register(member("c", "host:3"))

        newest = await discovery.members()
        assert [snapshot.version > since for snapshot in received] == [True, True]
        assert newest in received
        assert await discovery.changed(since) == newest


async def test_discovery_changed_cancelled_loses_nothing(make: Make) -> None:
    """After a cancelled wait the next one returns what it would have."""
    async with make({"a": "host:1"}) as discovery:
        since = (await discovery.members()).version
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.changed, since)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await discovery.register(member("b", "host:2"))

        assert (await discovery.changed(since)).address_of(NodeId("b")) == "host:2"

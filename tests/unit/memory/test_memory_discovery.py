"""What only the discovery in memory does: nodes share a registry, and each sees it through a fault of its own."""

from __future__ import annotations

import pytest

from clustercore.interfaces import Member, NodeId
from clustercore_memory import MemoryDiscovery, MemoryRegistry, SourceFault

A, B = (Member(NodeId(name), f"{name}:1") for name in "ab")


async def test_nodes_find_each_other_in_one_registry() -> None:
    """What one registers the others learn; a discovery that has ended is told no more."""
    registry = MemoryRegistry()
    async with MemoryDiscovery(registry) as one, MemoryDiscovery(registry) as two:
        version = (await two.members()).version
        await one.register(A)
        assert (await two.changed(version)).members == (A,)
        await two.deregister(A.node_id)
        assert (await one.members()).members == ()

    registry.register(B)
    assert (await one.members()).members == ()


async def test_fault_is_seen_by_one_alone() -> None:
    """A registry that one node finds stale, another finds as it is."""
    registry = MemoryRegistry([A])
    async with MemoryDiscovery(registry) as one, MemoryDiscovery(registry) as two:
        one.fault = SourceFault.STALE
        registry.replace([B])

        assert ((await one.members()).members, (await one.members()).is_stale) == ((A,), False)
        assert (await two.members()).members == (B,)

        one.fault = SourceFault.NONE
        assert (await one.members()).members == (B,)


async def test_lie_is_told_as_the_truth() -> None:
    """An empty one as well, until the fault is over; a lie has to be said, not only named."""
    async with MemoryDiscovery(MemoryRegistry([A])) as discovery:
        for lie in ([B], []):
            discovery.lie(lie)
            snapshot = await discovery.members()
            assert (snapshot.members, snapshot.is_stale) == (tuple(lie), False)
        assert discovery.fault is SourceFault.LIES

        discovery.fault = SourceFault.NONE
        assert (await discovery.members()).members == (A,)
        with pytest.raises(ValueError, match="call lie"):
            discovery.fault = SourceFault.LIES

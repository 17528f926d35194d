"""The simulated machines' addresses, which everybody knows."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, NodeId

__all__ = ["SimulatedDiscovery"]


class SimulatedDiscovery(Discovery):
    """Knows the machines of a run for ever: each one's name is its address."""

    is_fixed = True

    def __init__(self, names: Iterable[str]) -> None:
        members = tuple(Member(NodeId(name), name) for name in sorted(names))
        self._snapshot = DiscoverySnapshot(version=1, members=members, source="simulation")

    async def register(self, member: Member) -> None:
        await trio.lowlevel.checkpoint()

    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()

    async def members(self) -> DiscoverySnapshot:
        await trio.lowlevel.checkpoint()
        return self._snapshot

    async def changed(self, since: int) -> DiscoverySnapshot:
        if since >= self._snapshot.version:
            await trio.sleep_forever()
        return await self.members()

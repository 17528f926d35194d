"""A discovery that lies: what a node is told by it may be stale, empty, repeated, of others, or plainly wrong."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot, Member, MemberMetadata, NodeId
from clustercore.testing.simulation import Chance

__all__ = ["LyingDiscovery", "World"]

# How long it says the same, on average, in seconds.
_MOOD_S = 6.0


class World:
    """What is true, and what may be told instead.

    Args:
        chance: Decides when which discovery lies, and how.
        others: Where the nodes of another cluster are.
    """

    def __init__(self, chance: Chance, others: Sequence[str]) -> None:
        self.chance = chance
        self.others = others
        self.registered: dict[NodeId, Member] = {}
        # From then on every discovery tells the truth.
        self.is_honest = False
        self.lies_told = 0

    def draw(self, last: tuple[Member, ...] | None) -> tuple[Member, ...] | None:
        """Return what to tell next, given what was told last; None for no answer at all."""
        truth = tuple(self.registered.values())
        mood = self.chance.below(10)
        if self.is_honest or mood < 3:
            return truth
        self.lies_told += 1
        match mood:
            case 3:
                return None
            case 4:
                return ()
            case 5:
                return last or ()
            case 6:
                return tuple(self.chance.some(truth, self.chance.below(len(truth) + 1)))
            case 7:
                return self._foreign()
            case 8:
                return self._shuffled(truth)
            case _:
                return tuple(self._with_other_metadata(member) for member in truth)

    def _foreign(self) -> tuple[Member, ...]:
        """The nodes of another cluster, under their own names or under ours, beside ours or instead of them."""
        names = [*self.others] if self.chance.happens(0.5) else sorted(self.registered)
        told = {NodeId(name): Member(NodeId(name), self.chance.choice(self.others)) for name in names}
        if self.chance.happens(0.5):
            told = {**told, **self.registered} if self.chance.happens(0.5) else {**self.registered, **told}
        return tuple(told.values())

    def _shuffled(self, truth: tuple[Member, ...]) -> tuple[Member, ...]:
        addresses = [member.address for member in truth] + ["nowhere"]
        self.chance.shuffle(addresses)
        return tuple(Member(member.node_id, addresses[number]) for number, member in enumerate(truth))

    def _with_other_metadata(self, member: Member) -> Member:
        cluster_id = self.chance.choice(["", "", "x-1", "a-1"])
        return Member(member.node_id, member.address, MemberMetadata(cluster_id, self.chance.choice(["", "voter"])))


class LyingDiscovery(Discovery):
    """What one node is told. It breaks the contract's promises about the source, and none about the snapshots."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: tuple[Member, ...] | None = None
        self._version = 0
        self._is_stale = False
        self._next_mood = 0.0

    async def register(self, member: Member) -> None:
        await trio.lowlevel.checkpoint()
        self._world.registered[member.node_id] = member

    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()
        self._world.registered.pop(node_id, None)

    async def members(self) -> DiscoverySnapshot:
        return await self.changed(0)

    async def changed(self, since: int) -> DiscoverySnapshot:
        while True:
            await trio.sleep_until(self._next_mood)
            self._look()
            if self._version > since:
                members = tuple(sorted(self._told or (), key=lambda member: member.node_id))
                return DiscoverySnapshot(self._version, members, "lies", self._is_stale)

    def _look(self) -> None:
        """Change its mind. A repeated word is told as news, as a source that flaps does."""
        honest = self._world.is_honest
        pause_s = 1.0 if honest else min(30.0, self._world.chance.exponential(_MOOD_S))
        self._next_mood = trio.current_time() + pause_s
        drawn = self._world.draw(self._told)
        self._is_stale = drawn is None
        self._told = self._told if drawn is None else drawn
        self._version += 1

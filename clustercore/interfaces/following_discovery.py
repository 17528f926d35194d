"""What discoveries that ask a source have in common, so that each of them says only how its source is asked."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import trio

from clustercore.interfaces.discovery import Discovery, DiscoverySnapshot, Member
from clustercore.interfaces.groups import background_tasks
from clustercore.interfaces.known_members import KnownMembers
from clustercore.raft.types import NodeId

__all__ = ["FollowingDiscovery"]


class FollowingDiscovery(Discovery):
    """A discovery that follows its source in a task of its own. What is left to say is ``follow``.

    ``_known`` is told what the source says, and answers ``members`` and ``changed``. ``register`` and ``deregister``
    are those of a source that can only be read: one that can be told overrides both, and ``is_read_only``. Tasks beside
    ``follow`` may be started in ``_nursery``; all of them are cancelled when the discovery is left.

    Args:
        source: The plugin's name, for the snapshots and logs.
    """

    is_read_only = True

    def __init__(self, source: str) -> None:
        self._known = KnownMembers(source)
        # While the discovery is entered.
        self._life: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def begin(self) -> None:
        """Make ready what ``follow`` needs. The default does nothing.

        Called by: ``__aenter__``, before there is a nursery. Raises: as ``__aenter__``.
        """

    @abstractmethod
    async def follow(self) -> None:
        """Ask the source again and again, and tell ``_known`` what it says, or that it says nothing of use.

        Cancellation: is how it ends. Called by: a task of its own, while the discovery is entered.
        Raises: nothing for what the source did; what it raises ends the node.
        """

    async def __aenter__(self) -> Self:
        await self.begin()
        self._life = background_tasks()
        self._nursery = await self._life.__aenter__()
        self._nursery.start_soon(self.follow)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._life is not None, "entered first"
        self._nursery = None
        await self._life.__aexit__(exc_type, exc, traceback)

    async def register(self, member: Member) -> None:
        """See ``Discovery``."""
        await trio.lowlevel.checkpoint()
        self._known.register(member)

    async def deregister(self, node_id: NodeId) -> None:
        """See ``Discovery``."""
        await trio.lowlevel.checkpoint()
        self._known.withdraw(node_id)

    async def members(self) -> DiscoverySnapshot:
        """See ``Discovery``."""
        return await self._known.members()

    async def changed(self, since: int) -> DiscoverySnapshot:
        """See ``Discovery``."""
        return await self._known.changed(since)

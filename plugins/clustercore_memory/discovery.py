"""The discovery contract within one process, with faults that a test dials in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from types import TracebackType
from typing import Self

import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot, KnownMembers, Member, NodeId

__all__ = ["MemoryDiscovery", "MemoryRegistry", "SourceFault"]


class SourceFault(Enum):
    """What may be wrong with the registry, as one node sees it."""

    # It answers.
    NONE = "none"
    # It does not answer. Whoever registers or deregisters waits.
    OUTAGE = "outage"
    # It answers what it knew when the fault began, and does not say that this is old.
    STALE = "stale"
    # It answers that there is nobody.
    EMPTY = "empty"
    # It answers what cannot be right: two addresses of one node.
    NONSENSE = "nonsense"
    # It answers something else than it knows: see ``MemoryDiscovery.lie``.
    LIES = "lies"


class MemoryRegistry:
    """Where the nodes of one process find each other: hand one registry to the discovery of each.

    Args:
        members: Who is known at first: addresses by node id, or whole members.
    """

    def __init__(self, members: Mapping[str, str] | Iterable[Member] = ()) -> None:
        self._members = _by_id(members)
        self._views: dict[MemoryDiscovery, None] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who is registered, sorted by id."""
        return tuple(self._members[node_id] for node_id in sorted(self._members))

    def replace(self, members: Mapping[str, str] | Iterable[Member]) -> None:
        """Know these members from now on, and no others."""
        self._members = _by_id(members)
        self._tell_all()

    def register(self, member: Member) -> None:
        """Know a member, replacing what was known under its id."""
        self._members[member.node_id] = member
        self._tell_all()

    def deregister(self, node_id: NodeId) -> None:
        """Forget a member."""
        self._members.pop(node_id, None)
        self._tell_all()

    def attach(self, view: MemoryDiscovery) -> None:
        """Tell a discovery of each change from now on."""
        self._views[view] = None

    def detach(self, view: MemoryDiscovery) -> None:
        """Tell a discovery nothing any more."""
        self._views.pop(view, None)

    def _tell_all(self) -> None:
        for view in list(self._views):
            view.look()


def _by_id(members: Mapping[str, str] | Iterable[Member]) -> dict[NodeId, Member]:
    if isinstance(members, Mapping):
        members = [Member(NodeId(node_id), address) for node_id, address in members.items()]
    return {member.node_id: member for member in members}


class MemoryDiscovery(Discovery):
    """Knows who is in a registry of this process; each node has a discovery of its own.

    Args:
        registry: Shared with the other nodes; one of its own by default.
    """

    def __init__(self, registry: MemoryRegistry | None = None) -> None:
        self.registry = registry if registry is not None else MemoryRegistry()
        self._known = KnownMembers("memory")
        self._fault = SourceFault.NONE
        # What it answers under the faults STALE and LIES.
        self._answer: tuple[Member, ...] = ()
        # Set, and replaced by a new one, when the fault changes.
        self._fault_changed = trio.Event()

    @property
    def fault(self) -> SourceFault:
        """What is wrong with the registry, as seen here. Set it; the others see what they saw."""
        return self._fault

    @fault.setter
    def fault(self, fault: SourceFault) -> None:
        if fault is SourceFault.LIES:
            raise ValueError("say what the lie is: call lie")
        self._set_fault(fault, self.registry.members)

    def lie(self, members: Mapping[str, str] | Iterable[Member]) -> None:
        """Answer this, whatever the registry knows, until ``fault`` is set to something else.

        An empty lie is believed, unlike SourceFault.EMPTY: it is told as the certain truth.
        """
        told = _by_id(members)
        self._set_fault(SourceFault.LIES, tuple(told.values()))

    def _set_fault(self, fault: SourceFault, answer: tuple[Member, ...]) -> None:
        self._fault, self._answer = fault, answer
        self._fault_changed.set()
        self._fault_changed = trio.Event()
        self.look()

    def look(self) -> None:
        """Ask the registry, through whatever fault there is. The registry calls this when it has changed."""
        match self._fault:
            case SourceFault.NONE:
                # Nobody is nobody here: the registry of one process does not lose members.
                self._known.tell(self.registry.members, is_empty_certain=True)
            case SourceFault.OUTAGE:
                self._known.fail("the registry does not answer")
            case SourceFault.EMPTY:
                self._known.tell(())
            case SourceFault.NONSENSE:
                self._known.tell([Member(NodeId("x"), "here"), Member(NodeId("x"), "there")])
            case SourceFault.STALE | SourceFault.LIES:
                self._known.tell(self._answer, is_empty_certain=True)

    async def __aenter__(self) -> Self:
        self.registry.attach(self)
        self.look()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.registry.detach(self)

    async def register(self, member: Member) -> None:
        await self._wait_for_the_registry()
        self.registry.register(member)
        # Under a fault its answers do not tell of it, and here it is known all the same.
        self._known.register(member)

    async def deregister(self, node_id: NodeId) -> None:
        await self._wait_for_the_registry()
        self.registry.deregister(node_id)
        self._known.forget(node_id)

    async def members(self) -> DiscoverySnapshot:
        return await self._known.members()

    async def changed(self, since: int) -> DiscoverySnapshot:
        return await self._known.changed(since)

    async def _wait_for_the_registry(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._fault is SourceFault.OUTAGE:
            await self._fault_changed.wait()

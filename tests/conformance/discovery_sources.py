"""What is behind the discoveries that ship, as their kit breaks it."""

from __future__ import annotations

from collections.abc import Mapping

from clustercore.testing.conformance import DiscoverySource
from clustercore_memory import MemoryDiscovery, SourceFault

__all__ = ["MemorySource"]


class MemorySource(DiscoverySource):
    """A registry within this process. It loses no members by accident, so that it is empty has to be a fault."""

    def __init__(self, discovery: MemoryDiscovery) -> None:
        self._discovery = discovery

    async def tell(self, members: Mapping[str, str]) -> None:
        if members:
            self._discovery.registry.replace(members)
            self._discovery.fault = SourceFault.NONE
        else:
            self._discovery.fault = SourceFault.EMPTY

    async def fail(self) -> None:
        self._discovery.fault = SourceFault.OUTAGE

    async def talk_nonsense(self) -> None:
        self._discovery.fault = SourceFault.NONSENSE

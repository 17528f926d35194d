"""Every discovery that ships keeps the Discovery contract."""

from __future__ import annotations

from collections.abc import Mapping

from clustercore.interfaces import Discovery
from clustercore.testing.conformance import DiscoveryConformance, DiscoverySource
from clustercore_memory import MemoryDiscovery, MemoryRegistry
from clustercore_static import StaticDiscovery
from tests.conformance.discovery_sources import MemorySource


class TestStatic(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return StaticDiscovery(members)


class TestMemory(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return MemoryDiscovery(MemoryRegistry(members))

    def source(self, discovery: Discovery) -> DiscoverySource:
        assert isinstance(discovery, MemoryDiscovery)
        return MemorySource(discovery)

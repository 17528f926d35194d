"""Every discovery that ships keeps the Discovery contract."""

from __future__ import annotations

from collections.abc import Mapping

from clustercore.interfaces import Discovery
from clustercore.testing.conformance import DiscoveryConformance
from clustercore_static import StaticDiscovery


class TestStatic(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return StaticDiscovery(members)

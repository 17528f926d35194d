"""Every discovery that ships keeps the Discovery contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from clustercore.interfaces import Discovery
from clustercore.testing.conformance import DiscoveryConformance, DiscoverySource
from clustercore_dns import DnsDiscovery
from clustercore_memory import MemoryDiscovery, MemoryRegistry
from clustercore_static import EnvironmentDiscovery, FileDiscovery, StaticDiscovery
from tests.conformance.consul_sources import FakeConsulSource, FakedConsul
from tests.conformance.discovery_sources import DnsSource, FileSource, MemorySource
from tests.scripted_dns import ScriptedDns


class TestStatic(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return StaticDiscovery(members)


class TestEnvironment(DiscoveryConformance):
    @pytest.fixture(autouse=True)
    def _keep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.environment = monkeypatch

    def make(self, members: Mapping[str, str]) -> Discovery:
        pairs = [f"{node_id}={address}" for node_id, address in members.items()]
        self.environment.setenv("CLUSTERCORE_MEMBERS", ",".join(pairs))
        return EnvironmentDiscovery()


class TestFile(DiscoveryConformance):
    @pytest.fixture(autouse=True)
    def _keep(self, tmp_path: Path) -> None:
        self.path = tmp_path / "members"

    def make(self, members: Mapping[str, str]) -> Discovery:
        FileSource(self.path).write("".join(f"{node_id} {address}\n" for node_id, address in members.items()))
        return FileDiscovery(self.path, interval_s=0.01)

    def source(self, discovery: Discovery) -> DiscoverySource:
        return FileSource(self.path)


class TestDns(DiscoveryConformance):
    @pytest.fixture(autouse=True)
    def _serve(self) -> Iterator[None]:
        with ScriptedDns() as self.server:
            yield

    def address(self, node_id: str, port: int) -> str:
        return f"{node_id}.example:{port}"

    def make(self, members: Mapping[str, str]) -> Discovery:
        DnsSource(self.server).set(members)
        return DnsDiscovery(DnsSource.SERVICE, server=self.server.address, timeout_s=0.3, min_interval_s=0.01)

    def source(self, discovery: Discovery) -> DiscoverySource:
        return DnsSource(self.server)


class TestMemory(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return MemoryDiscovery(MemoryRegistry(members))

    def source(self, discovery: Discovery) -> DiscoverySource:
        assert isinstance(discovery, MemoryDiscovery)
        return MemorySource(discovery)


@pytest.mark.slow
class TestConsul(DiscoveryConformance):
    def make(self, members: Mapping[str, str]) -> Discovery:
        return FakedConsul(members)

    def source(self, discovery: Discovery) -> DiscoverySource:
        assert isinstance(discovery, FakedConsul)
        return FakeConsulSource(discovery.fake)

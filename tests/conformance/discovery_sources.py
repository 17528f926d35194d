"""What is behind the discoveries that ship, as their kit breaks it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clustercore.testing.conformance import DiscoverySource
from clustercore_memory import MemoryDiscovery, SourceFault
from tests.scripted_dns import ScriptedDns

__all__ = ["DnsSource", "FileSource", "MemorySource"]


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


class FileSource(DiscoverySource):
    """A file, written as a careful editor does: beside the old one, and then put in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        """Replace the content."""
        beside = self._path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, self._path)

    async def tell(self, members: Mapping[str, str]) -> None:
        self.write("".join(f"{node_id} {address}\n" for node_id, address in members.items()))

    async def fail(self) -> None:
        self._path.unlink()

    async def talk_nonsense(self) -> None:
        self.write("a host:1\na host:2\n")


class DnsSource(DiscoverySource):
    """A name server that a test scripts."""

    SERVICE = "_raft._tcp.kv.example."

    def __init__(self, server: ScriptedDns) -> None:
        self._server = server

    def set(self, members: Mapping[str, str]) -> None:
        """Answer these."""
        places = [address.rpartition(":") for address in members.values()]
        self._server.tell_service(self.SERVICE, {f"{host}.": int(port) for host, _, port in places})

    async def tell(self, members: Mapping[str, str]) -> None:
        self.set(members)

    async def fail(self) -> None:
        self._server.script = None

    async def talk_nonsense(self) -> None:
        self._server.tell_service(self.SERVICE, {"a.one.example.": 1, "a.other.example.": 1})

"""The page of the Cluster Center: it is drawn whatever the servers are at."""

from importlib import import_module
from io import StringIO

import pytest
from rich.console import Console

from clustercore import ClusterHealth, Node
from clustercore.interfaces import NodeId
from clustercore.sync import EntityStore, SyncService
from clustercore_memory import MemoryNetwork, MemoryRecords, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.unit.repository import ROOT


async def test_server_whose_node_has_ended_before_the_rest_of_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is killed has a node that does not run for as long as its store takes to close."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    kinds, pages, servers = (import_module(f"cluster_center.{name}") for name in ("kinds", "page", "server"))
    found = StaticDiscovery({"a": "a"})
    server = servers.Server("a", "a", lambda: found)
    server.store = EntityStore(NodeId("a"), [kinds.MISSION, kinds.UAV], MemoryRecords())
    server.sync, server.health = SyncService(server.store), ClusterHealth(found)
    transport = MemoryTransport(MemoryNetwork(), "a")
    server.node = Node(
        "a", machine=servers.Ledger(), transport=transport, storage=MemoryStorage(), discovery=found, voters="a"
    )
    out = StringIO()
    console = Console(width=120, file=out)

    console.print(pages.Page([server]).render())

    (row,) = (line for line in out.getvalue().splitlines() if line.startswith("│ a "))
    assert row.split("│")[2].strip() == "off"

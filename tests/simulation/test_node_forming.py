"""A cluster stays the one it is: over snapshots, restarts and the loss of a minority."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest
import trio

from clustercore import Node
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, eventually, small_config

SMALL = small_config(snapshot_entries=5, snapshot_tail_entries=2)


@pytest.mark.slow
async def test_majority_that_restarts_from_snapshots_elects_a_leader(tmp_path: Path) -> None:
    """The entry that formed the cluster is gone from every log; a majority must do all the same."""
    network = MemoryNetwork()

    def node(name: str) -> Node:
        return Node(
            name,
            machine=Journal(),
            transport=MemoryTransport(network, name),
            storage=SqliteStorage(tmp_path / f"{name}.db"),
            discovery=StaticDiscovery({other: other for other in "abc"}),
            config=SMALL,
            rng=Random(name),
        )

    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(node(name)) for name in "abc"]
        for number in range(20):
            await nodes[0].propose(b"%d" % number)
        await eventually(lambda: min(one.status().first_log_index for one in nodes) > 1)

    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(node(name)) for name in "ab"]
        with trio.fail_after(60):
            await nodes[0].propose(b"without c")

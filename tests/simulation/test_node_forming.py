"""A cluster stays the one it is: over snapshots, restarts and the loss of a minority."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import pytest
import trio

from clustercore import Node
from clustercore.interfaces import OutcomeUnknown
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, eventually, small_config

SMALL = small_config(snapshot_entries=5, snapshot_tail_entries=2)


def member(network: MemoryNetwork, name: str, folder: Path, *, seed: str = "") -> Node:
    """A node of the cluster of a, b and c whose disks are in a folder."""
    return Node(
        name,
        machine=Journal(),
        transport=MemoryTransport(network, name),
        storage=SqliteStorage(folder / f"{name}.db"),
        discovery=StaticDiscovery({other: other for other in "abc"}),
        config=SMALL,
        rng=Random(name + seed),
    )


async def form_cluster(folder: Path) -> None:
    """Let a, b and c form a cluster, and stop them."""
    network = MemoryNetwork()
    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(member(network, name, folder, seed=folder.name)) for name in "abc"]
        await nodes[0].propose(folder.name.encode())
        await eventually(lambda: all(one.status().last_applied >= 2 for one in nodes))


async def cluster_id_of(folder: Path, name: str) -> str:
    """Return the cluster that a disk belongs to."""
    async with SqliteStorage(folder / f"{name}.db") as storage:
        identity = (await storage.load()).identity
    assert identity is not None
    return identity.cluster_id


@pytest.mark.slow
async def test_node_of_another_cluster_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two clusters of equal names: a node whose addresses lead to the other one's neither helps nor harms it."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        await form_cluster(folder)
    ids = [await cluster_id_of(folder, "a") for folder in folders]
    assert [await cluster_id_of(folder, name) for folder in folders for name in "bc"] == [*ids[:1] * 2, *ids[1:] * 2]
    assert len({"", *ids}) == 3

    network = MemoryNetwork()
    async with AsyncExitStack() as running:
        stranger = await running.enter_async_context(member(network, "c", folders[1]))
        nodes = [await running.enter_async_context(member(network, name, folders[0])) for name in "ab"]
        with trio.fail_after(60):
            await nodes[0].propose(b"without c")
            # Long enough for a node that hears nobody to stand a few times.
            await trio.sleep(10 * SMALL.raft.election_timeout_s)
        assert stranger.status().leader_id is None
        # Who does not belong there is told nothing about itself there.
        assert not stranger.status().is_removed
        # It is said once, not with each look, and to whoever asks for the status.
        complaint = f"it belongs to cluster {ids[1]}, and whom it asks to {ids[0]}"
        assert caplog.text.count(complaint) == 1
        assert complaint in stranger.status().waiting
        assert stranger.status().last_applied < nodes[0].status().last_applied
        assert re.search(r"node .c. belongs to cluster \w+, node .[ab]. to", caplog.text)


@pytest.mark.slow
async def test_newcomer_whom_nobody_added_is_told_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that takes itself for a member of a cluster that was formed without it says so, and changes nothing."""
    await form_cluster(tmp_path)
    cluster_id = await cluster_id_of(tmp_path, "a")
    network = MemoryNetwork()
    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(member(network, name, tmp_path)) for name in "abcd"]
        with trio.fail_after(60):
            await eventually(
                lambda: (
                    f"node d: it belongs to no cluster yet, and whom it asks to {cluster_id}; add it there"
                    in caplog.text
                )
            )
            members = await nodes[0].members.get()
        assert members.configuration.voters == set("abc")


@pytest.mark.slow
async def test_majority_that_restarts_from_snapshots_elects_a_leader(tmp_path: Path) -> None:
    """The entry that formed the cluster is gone from every log; a majority must do all the same."""
    network = MemoryNetwork()

    def node(name: str) -> Node:
        return member(network, name, tmp_path)

    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(node(name)) for name in "abc"]
        for number in range(20):
            # In real time: a machine that stands still for a second has another leader then.
            with suppress(OutcomeUnknown):
                await nodes[0].propose(b"%d" % number)
        await eventually(lambda: min(one.status().first_log_index for one in nodes) > 1)

    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(node(name)) for name in "ab"]
        with trio.fail_after(60):
            await nodes[0].propose(b"without c")

"""A node that loses its power, or its disk, at every boundary of every write; the cluster must lose nothing.

The runs are enumerated: the same seed takes the same steps up to the fault, so that boundary k of one run is boundary k
of the next, until a run ends without meeting it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from clustercore.interfaces import StorageError, StorageFull
from clustercore.testing.simulation.disk import Boundary, SimulatedCrash, Unsynced
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config
from tests.simulation.workload import Ledger, check_disks, client

CONFIG = small_config(snapshot_entries=5, snapshot_tail_entries=2)
# More writes than any of these runs makes.
MANY = 500
# Commands of each client.
COUNT = 8


def run_with_fault(
    plan: Callable[[SimulatedCluster], SimulatedNode], expected: type[BaseException], *, size: int, seed: int
) -> bool:
    """Run a cluster under load in which one node is to end by a fault, and comes back after a while.

    Returns: whether the run got as far as the fault.
    """

    async def main(cluster: SimulatedCluster) -> bool:
        ledger = Ledger()
        victim = plan(cluster)
        errors: list[BaseException | None] = []

        async def bring_back() -> None:
            await victim.ended.wait()
            errors.append(victim.error)
            check_disks(cluster, ledger)
            # Longer than an election: if it led, another does now.
            await trio.sleep(3)
            victim.disk.make_room()
            await cluster.start(victim.name)

        await cluster.start_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bring_back)
            async with trio.open_nursery() as clients:
                for name in cluster.names:
                    clients.start_soon(client, cluster, ledger, name, COUNT)
            await client(cluster, ledger, victim.name, 2, prefix="afterwards ")
            await eventually(lambda: len(cluster.on) == size)
            await cluster.converge()
            nursery.cancel_scope.cancel()

        ledger.check(cluster)
        check_disks(cluster, ledger)
        assert len(ledger.acknowledged) >= 2 + COUNT * (size - 1), "those that were not hit could not go on"
        # A crash at RETURNED is a cancellation: the node was told, and had no time to ask the disk again.
        assert all(error is None or type(error) is expected for error in errors)
        return bool(errors)

    return simulate(main, size=size, seed=seed, config=CONFIG)


def runs_until_missed(run: Callable[[int], bool]) -> int:
    """Run with the fault at 1, 2, 3, ... until it is not met any more; return how many met it."""
    for number in range(1, MANY * len(Boundary)):
        if not run(number):
            return number - 1
    raise AssertionError("the runs do not end")


def crash_at(boundary: int, name: str, unsynced: Unsynced = Unsynced.BY_SEED, *, size: int, seed: int) -> bool:
    """One run in which a machine loses its power at a boundary."""

    def plan(cluster: SimulatedCluster) -> SimulatedNode:
        cluster.plan_crash(name, boundary, unsynced=unsynced)
        return cluster[name]

    return run_with_fault(plan, SimulatedCrash, size=size, seed=seed)


@pytest.mark.parametrize("unsynced", Unsynced)
def test_node_alone_survives_a_crash_at_every_boundary(unsynced: Unsynced) -> None:
    """A cluster of one has only its own disk: whatever it acknowledged is there after each crash."""
    runs = runs_until_missed(lambda boundary: crash_at(boundary, "a", unsynced, size=1, seed=1))

    assert runs >= 5 * len(Boundary)


# With seed 1 "b" is the first leader.
@pytest.mark.slow
@pytest.mark.parametrize("unsynced", Unsynced)
@pytest.mark.parametrize("name", ["a", "b"])
def test_cluster_survives_a_crash_of_one_node_at_every_boundary(name: str, unsynced: Unsynced) -> None:
    """Leader or follower, wherever it is cut off: nothing acknowledged is lost, applied twice or different anywhere."""
    runs = runs_until_missed(lambda boundary: crash_at(boundary, name, unsynced, size=3, seed=1))

    assert runs >= 10 * len(Boundary)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("fault", ["full", "failing fsync"])
def test_cluster_survives_a_disk_that_fails_at_every_write(name: str, fault: str) -> None:
    """The node stops with its typed error and the others go on; with room again, or as the disk is, it comes back."""

    def run(write: int) -> bool:
        def plan(cluster: SimulatedCluster) -> SimulatedNode:
            disk = cluster[name].disk
            if fault == "full":
                disk.fill_at(write)
            else:
                disk.fail_fsync_at(write)
            return cluster[name]

        return run_with_fault(plan, StorageFull if fault == "full" else StorageError, size=3, seed=1)

    assert runs_until_missed(run) >= 10


@pytest.mark.slow
def test_all_nodes_lose_their_power_at_once() -> None:
    """What was acknowledged before a power cut of the whole cluster is there after it, whenever the cut comes."""
    for moment in range(30):

        async def main(cluster: SimulatedCluster, moment: int = moment) -> None:
            ledger = Ledger()
            await cluster.start_all()
            await cluster.leader()
            async with trio.open_nursery() as nursery:
                for name in cluster.names:
                    nursery.start_soon(client, cluster, ledger, name, 50)
                for _ in range(moment * 10):
                    await trio.lowlevel.checkpoint()
                for machine in list(cluster.on):
                    machine.disk.crash_now()
                check_disks(cluster, ledger)
                for machine in list(cluster.on):
                    await cluster.crash(machine.name)
                nursery.cancel_scope.cancel()
            await cluster.start_all()
            await client(cluster, ledger, "a", 1, prefix="afterwards ")
            await cluster.converge()
            ledger.check(cluster)

        simulate(main, seed=moment, config=CONFIG)

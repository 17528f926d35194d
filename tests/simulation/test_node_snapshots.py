"""Snapshots of real nodes: taken, sent, restored, and cut off in between."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import Applied
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config
from tests.simulation.disk import Boundary

SMALL = small_config(snapshot_entries=5, snapshot_tail_entries=2, max_append_entries=3, snapshot_timeout_s=2.0)


async def fill(machine: SimulatedNode, count: int, name: str = "x") -> list[tuple[bytes, Applied]]:
    """Propose commands one after the other and return what was acknowledged."""
    commands = [b"%s%d" % (name.encode(), number) for number in range(count)]
    return [(command, await machine.running.propose(command)) for command in commands]


async def check(cluster: SimulatedCluster, acknowledged: list[tuple[bytes, Applied]]) -> None:
    """Let the cluster agree, and find everything acknowledged on all nodes."""
    await cluster.converge()
    cluster.check_acknowledged(acknowledged, attempted=[command for command, _ in acknowledged])


def test_snapshots_keep_the_log_short_on_every_node() -> None:
    """However much is applied, the log holds no more than what came since the last snapshot, and its tail."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        acknowledged = await fill(await cluster.leader(), 50)
        await check(cluster, acknowledged)
        for machine in cluster.on:
            status = machine.running.status()
            assert status.last_log_index - status.first_log_index < 5 + 2
            assert len(machine.disk.synced.entries) <= 5 + 2
            assert machine.machine.restored == 0

    simulate(main, config=SMALL)


@pytest.mark.parametrize("size", [1, 3])
def test_restart_reads_snapshot_and_log(size: int) -> None:
    """A node that comes back has the snapshot's state at once, and the rest when it learns what is committed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        acknowledged = await fill(await cluster.leader(), 13)
        await check(cluster, acknowledged)
        for name in cluster.names:
            await cluster.stop(name)
        # A leader that stops hands over, and who takes over opens its term with a no-op.
        last_indexes = {name: cluster[name].disk.synced.entries[-1].index for name in cluster.names}
        assert min(last_indexes.values()) >= 14
        for name in cluster.names:
            machine = await cluster.start(name)
            assert machine.machine.restored == 1
            assert machine.running.status().last_applied == machine.disk.synced.snapshot.last_included_index  # type: ignore[union-attr]  # restored from it
            assert machine.running.status().last_log_index == last_indexes[name]

        acknowledged += await fill(await cluster.leader(), 3, "y")
        await check(cluster, acknowledged)

    simulate(main, size=size, config=SMALL)


@pytest.mark.parametrize("how", ["stopped", "isolated"])
def test_follower_that_was_away_gets_the_snapshot_and_then_entries(how: str) -> None:
    """What it lacks is no longer in any log: the snapshot comes first, then what follows it."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        away = (await cluster.followers())[0]
        acknowledged = await fill(leader, 3, "before")
        if how == "stopped":
            await cluster.stop(away.name)
        else:
            cluster.network.isolate(away.name)
        acknowledged += await fill(leader, 23, "meanwhile")
        if how == "stopped":
            await cluster.start(away.name)
        else:
            cluster.network.heal()

        acknowledged += await fill(await cluster.leader(), 2, "after")
        await check(cluster, acknowledged)
        assert away.machine.restored == 1
        assert {machine.machine.restored for machine in cluster.on if machine is not away} == {0}

    simulate(main, config=SMALL)


def test_follower_away_for_less_than_the_tail_needs_no_snapshot() -> None:
    """The tail that is kept behind a snapshot serves a follower that missed little."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        away = (await cluster.followers())[0]
        acknowledged = await fill(leader, 3, "before")
        await cluster.converge()
        await cluster.stop(away.name)
        acknowledged += await fill(leader, 9, "meanwhile")
        await cluster.start(away.name)
        await check(cluster, acknowledged)

        assert away.machine.restored == 0

    simulate(main, config=small_config(snapshot_entries=5, snapshot_tail_entries=20))


def test_snapshot_may_be_larger_than_a_batch_of_entries() -> None:
    """The limit for entries is not one for snapshots."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, away = await cluster.leader(), (await cluster.followers())[0]
        await cluster.stop(away.name)
        acknowledged = await fill(leader, 40, "x" * 100)
        await cluster.start(away.name)
        await check(cluster, acknowledged)

        assert away.machine.restored == 1
        assert len(away.disk.content.snapshot_data) > 10 * 200

    simulate(main, config=small_config(snapshot_entries=7, snapshot_tail_entries=0, max_append_bytes=200))


def test_snapshot_that_is_lost_on_the_way_is_sent_again() -> None:
    """Cuts at any moment of the transfer only delay it."""
    # Healed for so long, then cut again: somewhere in here each message of the transfer is lost.
    for heal_s in (0.0, 0.05, 0.1, 0.11, 0.15, 0.2, 0.3):

        async def main(cluster: SimulatedCluster, heal_s: float = heal_s) -> None:
            await cluster.start_all()
            leader, away = await cluster.leader(), (await cluster.followers())[0]
            cluster.network.isolate(away.name)
            acknowledged = await fill(leader, 23)
            cluster.network.heal()
            await trio.sleep(heal_s)
            cluster.network.isolate(away.name)
            acknowledged += await fill(await cluster.leader([name for name in "abc" if name != away.name]), 9, "y")
            await trio.sleep(5)
            cluster.network.heal()
            await check(cluster, acknowledged)

        simulate(main, config=SMALL)


def test_stalled_disk_of_a_follower_does_not_hold_up_the_cluster() -> None:
    """While a follower writes a snapshot for a minute it hears its leader, stands for no election, and catches up."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, away = await cluster.leader(), (await cluster.followers())[0]
        term = leader.running.status().term
        await cluster.stop(away.name)
        acknowledged = await fill(leader, 23)
        await cluster.start(away.name)
        with away.disk.stall():
            await trio.sleep(60)
            acknowledged += await fill(leader, 9, "y")
            assert away.machine.restored == 0
        await check(cluster, acknowledged)
        assert leader.running.status().term == term

    simulate(main, config=SMALL)


def test_restart_in_the_middle_of_an_install_at_every_boundary() -> None:
    """A follower that loses power while it stores the leader's snapshot comes back with the old state or the new."""
    crashes = 0
    for boundary in range(1, 200):

        async def main(cluster: SimulatedCluster, boundary: int = boundary) -> bool:
            await cluster.start_all()
            leader, away = await cluster.leader(), (await cluster.followers())[0]
            acknowledged = await fill(leader, 3, "before")
            await cluster.crash(away.name)
            acknowledged += await fill(leader, 12, "meanwhile")
            cluster.plan_crash(away.name, boundary)
            await cluster.start(away.name)
            acknowledged += await fill(leader, 5, "after")
            with trio.move_on_after(10):
                await away.ended.wait()
            crashed = away.disk.crashed
            if crashed:
                await cluster.start(away.name)
            await check(cluster, acknowledged)
            return crashed

        if not simulate(main, seed=1, config=SMALL):
            break
        crashes += 1
    # The snapshot and the entries after it, at least.
    assert crashes >= 2 * len(Boundary)


def test_all_nodes_restart_from_snapshots_of_different_ages() -> None:
    """Nodes that took their snapshots at different indexes agree after all of them lost power at once."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        acknowledged = await fill(await cluster.leader(), 12)
        away = (await cluster.followers())[0]
        await cluster.crash(away.name)
        acknowledged += await fill(cluster.on[0], 11, "meanwhile")
        await eventually(lambda: all(machine.running.status().last_applied == 24 for machine in cluster.on))
        for machine in list(cluster.on):
            await cluster.crash(machine.name)
        snapshots = [machine.disk.synced.snapshot for machine in cluster.machines.values()]
        assert len({taken.last_included_index for taken in snapshots if taken is not None}) == 2
        await cluster.start_all()
        await check(cluster, acknowledged)

    simulate(main, config=SMALL)

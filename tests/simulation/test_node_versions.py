"""A rolling upgrade of the application: a version of its commands is on when every member understands it."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import LogIndex, StateMachineError, VersionNotEnabled
from tests.simulation.cluster import Journal, SimulatedCluster, eventually, simulate, small_config


class NewJournal(Journal):
    """Understands a second version of commands, and writes down which one each had."""

    version = 2

    def apply_version(self, index: LogIndex, command: bytes, version: int) -> bytes:
        return self.apply(index, b"v%d %s" % (version, command) if version > 1 else command)


async def upgrade(cluster: SimulatedCluster, name: str) -> None:
    """Stop a node in order and start it with the new machine; whoever leads then is known."""
    cluster.make_machine = NewJournal
    await cluster.stop(name)
    await cluster.start(name)
    await cluster.converge()


def test_version_is_on_once_the_last_member_is_upgraded() -> None:
    """Before, a command of it is refused on every node; after, every node takes it, in a session or not."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.propose(b"old")
        for name in "abc":
            for machine in cluster.on:
                with pytest.raises(VersionNotEnabled) as caught:
                    await machine.running.propose(b"new", version=2)
                assert (caught.value.version, caught.value.enabled) == (2, 1)
            await upgrade(cluster, name)
        await eventually(lambda: {machine.running.command_version for machine in cluster.on} == {2})

        for machine in cluster.on:
            applied = await machine.running.propose(b"new", version=2)
            assert applied.result == b"%d:v2 new" % applied.index
            assert (await machine.running.propose(b"old")).result.endswith(b":old")
        async with cluster["b"].running.session() as session:
            assert (await session.propose(b"new", version=2)).result.endswith(b":v2 new")
        await cluster.converge()

    simulate(main)


@pytest.mark.parametrize("seed", range(3))
def test_version_is_on_once_the_last_old_member_is_removed(seed: int) -> None:
    """The leader looks anew when the members change (issue 3): nobody has to restart or to lead anew."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        cluster.make_machine = NewJournal
        await cluster.start("b")
        await cluster.start("c")
        leader = await cluster.leader()
        if leader is cluster["a"]:
            await leader.running.transfer_leadership()
            leader = await cluster.leader("bc")
        await leader.running.propose(b"old")
        await cluster.converge()
        term = leader.running.status().term
        assert leader.running.command_version == 1
        # So that no new Hello of it makes the leader look.
        await cluster.crash("a")

        await leader.running.members.remove("a")

        await eventually(lambda: [cluster[name].running.command_version for name in "bc"] == [2, 2])
        assert leader.running.status().term == term
        assert (await leader.running.propose(b"new", version=2)).result.endswith(b":v2 new")

    simulate(main, seed=seed)


def test_what_is_on_stays_on_through_restarts_and_snapshots() -> None:
    """All nodes lose their power; the version is in the snapshots."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.make_machine = NewJournal
        await cluster.start_all()
        await cluster.leader()
        await eventually(lambda: {machine.running.command_version for machine in cluster.on} == {2})
        for number in range(12):
            await cluster["a"].running.propose(b"%d" % number, version=2)
        await cluster.converge()
        for name in cluster.names:
            await cluster.crash(name)
        await cluster.start_all()

        assert {machine.running.command_version for machine in cluster.on} == {2}
        await cluster.converge()

    simulate(main, config=small_config(snapshot_entries=5, snapshot_tail_entries=2))


@pytest.mark.parametrize("snapshot_entries", [3, 1000])
def test_node_put_back_to_an_older_machine_halts(snapshot_entries: int) -> None:
    """It cannot follow the log, or the snapshot, and says what to do; the others go on."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.make_machine = NewJournal
        await cluster.start_all()
        await cluster.leader()
        await eventually(lambda: {machine.running.command_version for machine in cluster.on} == {2})
        for number in range(5):
            await cluster["a"].running.propose(b"%d" % number, version=2)
        await cluster.converge()
        await cluster.stop("c")
        cluster.make_machine = Journal
        await cluster.start("c")
        with trio.fail_after(10):
            await cluster["c"].ended.wait()

        error = cluster["c"].error
        assert isinstance(error, StateMachineError)
        assert "start the node with the newer machine" in str(error)
        assert (await cluster["a"].running.propose(b"on", version=2)).index > 0

    simulate(main, config=small_config(snapshot_entries=snapshot_entries, snapshot_tail_entries=1))

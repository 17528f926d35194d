"""Snapshots of real nodes: taken, sent, restored, and cut off in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from clustercore.interfaces import (
    Applied,
    InstallSnapshotRequest,
    NodeId,
    NodeStopped,
    ProposalError,
    StorageFull,
    StorageIdentity,
)
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects
from clustercore.raft.messages import RaftMessage
from clustercore.raft.progress import SnapshotTransfer
from clustercore.runtime.introductions import Introductions, ProtocolVersions
from clustercore.testing.simulation.disk import Boundary
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config

SMALL = small_config(snapshot_entries=5, snapshot_tail_entries=2, max_append_entries=3, snapshot_timeout_s=2.0)


# The same, with snapshots that take many chunks to send, and a disk that takes 20 ms for each: so a transfer lasts.
CHUNKED = small_config(
    snapshot_entries=5, snapshot_tail_entries=2, max_append_entries=3, snapshot_timeout_s=2.0, snapshot_chunk_bytes=40
)
WRITE_S = 0.02


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


# --- Chunk by chunk ---


async def begin_transfer(cluster: SimulatedCluster) -> tuple[SimulatedNode, SimulatedNode, list[tuple[bytes, Applied]]]:
    """Let a follower miss more than any log has, and come back; return the leader, it, and what was acknowledged."""
    await cluster.start_all()
    leader, away = await cluster.leader(), (await cluster.followers())[0]
    await cluster.stop(away.name)
    acknowledged = await fill(leader, 40, "meanwhile")
    await cluster.start(away.name)
    return leader, away, acknowledged


async def wait_under_way(leader: SimulatedNode, away: SimulatedNode, offset: int = 200) -> SnapshotTransfer:
    """Wait until so many bytes of a snapshot are on their way, and return how it stands."""
    await eventually(lambda: (sent := sending(leader, away)) is not None and sent.offset >= offset)
    found = sending(leader, away)
    assert found is not None
    return found


def sending(leader: SimulatedNode, away: SimulatedNode) -> SnapshotTransfer | None:
    """Return how a transfer stands, as its sender sees it."""
    assembly = leader.running._assembly
    assert assembly is not None
    progress = assembly.engine._core.state.progress.get(NodeId(away.name))
    return None if progress is None else progress.sending


def covered_by(machine: SimulatedNode) -> int:
    """Return how much of the log the snapshot on a disk covers."""
    stored = machine.disk.content.state.snapshot
    return 0 if stored is None else stored.last_included_index


def test_snapshot_that_is_sent_is_the_same_to_its_end() -> None:
    """The leader takes newer ones meanwhile; a slow follower gets the one it began with, and the entries after it."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, away, acknowledged = await begin_transfer(cluster)
        first = (await wait_under_way(leader, away)).metadata
        with away.disk.stall():
            acknowledged += await fill(leader, 12, "during")
            await eventually(lambda: covered_by(leader) > first.last_included_index)
        under_way = sending(leader, away)
        assert under_way is not None
        assert under_way.metadata == first

        await check(cluster, acknowledged)
        assert away.machine.restored == 1

    simulate(main, config=CHUNKED, write_s=WRITE_S)


def test_transfer_goes_on_where_it_stopped() -> None:
    """A cut in the middle costs no chunk that had arrived."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, away, acknowledged = await begin_transfer(cluster)
        before = (await wait_under_way(leader, away)).offset
        cluster.network.isolate(away.name)
        await trio.sleep(1)
        cluster.network.heal()
        offsets = []
        while not away.machine.restored:
            if (under_way := sending(leader, away)) is not None:
                offsets.append(under_way.offset)
            await trio.sleep(0.01)

        assert min(offsets) >= before
        await check(cluster, acknowledged)
        assert away.machine.restored == 1

    simulate(main, config=CHUNKED, write_s=WRITE_S)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["transfer", "crash"])
def test_leader_changes_while_it_sends_a_snapshot(how: str) -> None:
    """The next leader goes on with the same snapshot if it has it, or begins its own; what had arrived harms nobody."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, away, acknowledged = await begin_transfer(cluster)
        await wait_under_way(leader, away)
        if how == "transfer":
            [other] = [name for name in cluster.names if name not in (leader.name, away.name)]
            assert await leader.running.transfer_leadership(other) == other
        else:
            await cluster.crash(leader.name)
            await cluster.leader([machine.name for machine in cluster.on])
            await cluster.start(leader.name)
        acknowledged += await fill(await cluster.leader(), 3, "after")

        await check(cluster, acknowledged)
        assert away.machine.restored >= 1

    for seed in range(5):
        simulate(main, seed=seed, config=CHUNKED, write_s=WRITE_S)


def test_receiver_restarts_in_the_middle_of_a_transfer() -> None:
    """What had arrived is gone with its memory; the same snapshot is sent from the start, or a newer one."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, away, acknowledged = await begin_transfer(cluster)
        await wait_under_way(leader, away)
        await cluster.crash(away.name)
        acknowledged += await fill(leader, 7, "during")
        await cluster.start(away.name)

        await check(cluster, acknowledged)
        assert away.machine.restored == 1

    simulate(main, config=CHUNKED, write_s=WRITE_S)


@pytest.mark.slow
def test_old_leader_that_is_cut_off_does_not_spoil_the_transfer_of_the_new_one() -> None:
    """Chunks of two leaders meet at one follower: those of the older term count for nothing."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, away, acknowledged = await begin_transfer(cluster)
        await wait_under_way(leader, away)
        [other] = [name for name in cluster.names if name not in (leader.name, away.name)]
        # What the old leader has sent still arrives: a cut loses nothing that was read before.
        cluster.network.isolate(leader.name)
        new = await cluster.leader([other, away.name])
        await wait_under_way(new, away, 0)
        cluster.network.heal()

        acknowledged += await fill(new, 3, "new")
        await check(cluster, acknowledged)

    for seed in range(5):
        simulate(main, seed=seed, config=CHUNKED, write_s=WRITE_S)


@pytest.mark.slow
def test_receiver_loses_power_at_every_boundary_of_a_transfer() -> None:
    """Each chunk, the install and the entries after it: it comes back with its old state or the new, and catches up."""
    crashes = crash_at_every_boundary(lambda leader, away: away)
    # Ten chunks of the snapshot at the least.
    assert crashes >= 10 * len(Boundary)


@pytest.mark.slow
def test_sender_loses_power_at_every_boundary_of_a_transfer() -> None:
    """It takes snapshots of its own meanwhile; another leads, and goes on or begins anew."""
    crashes = crash_at_every_boundary(lambda leader, away: leader)
    assert crashes >= 10 * len(Boundary)


async def propose_until_it_ends(machine: SimulatedNode, commands: list[bytes]) -> list[tuple[bytes, Applied]]:
    """Propose commands one after the other, as long as the node lives, and return what was acknowledged."""
    node, acknowledged = machine.running, list[tuple[bytes, Applied]]()
    with suppress(ProposalError, NodeStopped):
        for command in commands:
            acknowledged.append((command, await node.propose(command)))
    return acknowledged


def crash_at_every_boundary(choose: Callable[[SimulatedNode, SimulatedNode], SimulatedNode]) -> int:
    """Run a transfer once for each boundary that the chosen disk passes in it; return how many there were."""
    for boundary in range(1, 400):

        async def main(cluster: SimulatedCluster, boundary: int = boundary) -> bool:
            leader, away, acknowledged = await begin_transfer(cluster)
            victim = choose(leader, away)
            cluster.plan_crash(victim.name, victim.disk.boundaries_seen + boundary)
            attempted = [b"during%d" % number for number in range(12)]
            answered = await propose_until_it_ends(leader, attempted)
            with trio.move_on_after(20):
                await victim.ended.wait()
            crashed = victim.disk.crashed
            if crashed:
                await cluster.start(victim.name)
            await cluster.converge()
            everything = [command for command, _ in acknowledged] + attempted
            cluster.check_acknowledged(acknowledged + answered, attempted=everything)
            return crashed

        if not simulate(main, seed=boundary, config=attrs.evolve(CHUNKED, snapshot_chunk_bytes=100)):
            return boundary - 1
    raise AssertionError("the run never ends before the crash")


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["leader", "follower"])
def test_disk_that_is_full_in_a_snapshot_stops_the_node_and_loses_nothing(whose: str) -> None:
    """The node leaves the others alone; with room again it comes back with its log, and takes the snapshot."""
    stopped = 0
    for write in range(1, 16):

        async def main(cluster: SimulatedCluster, write: int = write) -> bool:
            leader, away, acknowledged = await begin_transfer(cluster)
            victim = leader if whose == "leader" else away
            victim.disk.fill_at(victim.disk.writes_seen + write)
            attempted = [b"during%d" % number for number in range(12)]
            acknowledged += await propose_until_it_ends(leader, attempted)
            with trio.move_on_after(20):
                await victim.ended.wait()
            is_full = victim.ended.is_set()
            if is_full:
                assert isinstance(victim.error, StorageFull)
                victim.disk.make_room()
                await cluster.start(victim.name)
            await cluster.converge()
            everything = [b"meanwhile%d" % number for number in range(40)] + attempted
            cluster.check_acknowledged(acknowledged, attempted=everything)
            return is_full

        stopped += simulate(main, seed=write, config=CHUNKED)
    assert stopped == 15


def test_snapshots_are_taken_by_size_too() -> None:
    """A few large commands are as good a reason as many small ones."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        acknowledged = await fill(await cluster.leader(), 12, "x" * 300)
        await check(cluster, acknowledged)
        for machine in cluster.on:
            # After every third or fourth command.
            assert covered_by(machine) >= 8

    simulate(main, config=small_config(snapshot_bytes=1000, snapshot_tail_entries=0))


def test_node_of_protocol_version_2_gets_its_snapshot_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take a chunk for all of it. The others get theirs in chunks, and agree with it."""
    told: dict[NodeId, list[bool]] = {}
    receive = RaftCore.receive

    def noted(core: RaftCore, sender: NodeId, message: RaftMessage, now: float) -> Effects:
        if isinstance(message, InstallSnapshotRequest):
            told.setdefault(core.state.node_id, []).append(message.offset == 0 and message.is_last)
        return receive(core, sender, message, now)

    class OldAtC(Introductions):
        def __init__(self, identity: StorageIdentity, **rest: Any) -> None:
            super().__init__(identity, **rest, versions=ProtocolVersions(2, 2 if identity.node_id == "c" else 3))

    monkeypatch.setattr(RaftCore, "receive", noted)
    monkeypatch.setattr("clustercore.runtime.assembly.Introductions", OldAtC)

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        acknowledged = await fill(await cluster.leader(), 3, "before")
        for name in ("b", "c"):
            # One at a time, so that the others are a majority. One of the newer version leads.
            await cluster.stop(name)
            leader = await cluster.leader([machine.name for machine in cluster.on])
            if leader.name != "a":
                await leader.running.transfer_leadership("a")
            acknowledged += await fill(await cluster.leader(["a"]), 23, f"without {name}")
            await cluster.start(name)
            await check(cluster, acknowledged)

    simulate(main, config=CHUNKED)

    assert set(told) == {"b", "c"}
    assert told[NodeId("c")] == [True]
    assert told[NodeId("b")].count(False) > 5

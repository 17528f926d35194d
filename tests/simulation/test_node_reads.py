"""``Node.read`` on a cluster of real nodes in virtual time: what each consistency promises, and to whom."""

from __future__ import annotations

import math

import attrs
import pytest
import trio

from clustercore.interfaces import Consistency, InvalidCommand, NodeStopped, StateMachineError, TooStale
from clustercore.raft.config import RaftConfig
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, simulate, small_config

LINEARIZABLE, LEASE, STALE = Consistency.LINEARIZABLE, Consistency.LEASE, Consistency.STALE


async def others(cluster: SimulatedCluster, machine: SimulatedNode) -> list[SimulatedNode]:
    """Every other machine."""
    return [other for other in cluster.machines.values() if other is not machine]


def test_linearizable_read_sees_what_was_acknowledged_anywhere() -> None:
    """After a proposal on any node is answered, every node reads it, though it may not have applied it yet."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        for number in range(12):
            command = b"%d" % number
            await cluster["abc"[number % 3]].running.propose(command)
            for machine in cluster.on:
                result = await machine.running.read(b"")
                assert (result.value, result.consistency) == (command, LINEARIZABLE)
                assert result.index <= machine.running.status().last_applied

    simulate(main)


def test_linearizable_read_of_a_leader_that_was_cut_off_waits_for_the_truth() -> None:
    """A leader that does not know that it is replaced answers nothing, and when it is back, with the newest."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        await old.running.propose(b"old")
        cluster.network.isolate(old.name)
        answers: list[bytes] = []

        async def read() -> None:
            answers.append((await old.running.read(b"")).value)

        cluster.nursery.start_soon(read)
        new = await cluster.leader([machine.name for machine in await others(cluster, old)])
        await new.running.propose(b"new")
        await trio.sleep(5)
        assert answers == []

        cluster.network.heal()
        await cluster.converge()
        await trio.sleep(1)

        assert answers == [b"new"]

    simulate(main)


@pytest.mark.parametrize("seed", range(5))
def test_lease_read_is_never_older_than_what_another_leader_acknowledged(seed: int) -> None:
    """A leader that was cut off answers under its lease until another can lead, and not a moment longer."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        await old.running.propose(b"old")
        cluster.network.isolate(old.name)
        acknowledged = False
        under_lease = 0

        async def read_all_the_time() -> None:
            nonlocal under_lease
            while True:
                with trio.move_on_after(0.001):
                    result = await old.running.read(b"", consistency=LEASE)
                    assert not acknowledged, f"{result} after another leader acknowledged more"
                    assert result.consistency is LEASE
                    under_lease += 1
                await trio.sleep(0.004)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all_the_time)
            new = await cluster.leader([machine.name for machine in await others(cluster, old)])
            await new.running.propose(b"new")
            acknowledged = True
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert under_lease > 0

    simulate(main, seed=seed)


def test_lease_read_off_the_leader_is_linearizable() -> None:
    """A follower holds no lease; it asks, and the result says so."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        await trio.sleep(0.5)
        for machine in cluster.on:
            result = await machine.running.read(b"", consistency=LEASE)
            assert result.value == b"x"
            assert result.consistency is (LEASE if machine is leader else LINEARIZABLE)

    simulate(main)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 0.2])
def test_clock_step_voids_the_lease_until_the_next_round(step_s: float) -> None:
    """A machine that was suspended, or whose clock was set, asks its followers before it trusts a lease again."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        assert (await leader.running.read(b"", consistency=LEASE)).consistency is LEASE

        cluster.clock_step_s = step_s

        assert (await leader.running.read(b"", consistency=LEASE)).consistency is LINEARIZABLE
        await trio.sleep(0.5)
        assert (await leader.running.read(b"", consistency=LEASE)).consistency is LEASE

    simulate(main)


@pytest.mark.parametrize("seed", range(3))
def test_step_that_stays_unnoticed_is_within_every_lease(seed: int) -> None:
    """A machine that was suspended for a moment takes leases for younger than they are; each ends earlier by as much.

    What a lease leaves to the drift of the clocks is for that alone (issue 3).
    """
    step_s = 0.049

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        await trio.sleep(1)
        # Nothing that is sent from now on is answered.
        cluster.network.isolate(leader.name)
        cut_at = trio.current_time()
        cluster.clock_step_s = step_s
        under_lease: list[float] = []

        while trio.current_time() < cut_at + 2:
            with trio.move_on_after(0.001):
                await leader.running.read(b"", consistency=LEASE)
                under_lease.append(trio.current_time())
            await trio.sleep(0.001)

        raft = cluster.config.raft
        protected_until = cut_at + raft.election_timeout_s / (1 + raft.max_clock_drift)
        assert protected_until - 0.25 < under_lease[-1] < protected_until - step_s

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_followers_that_restart_with_a_shorter_timeout_keep_what_they_promised(seed: int) -> None:
    """They had promised the leader their protection for the time they were configured with then (issue 3)."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.config_of = lambda _: attrs.evolve(small_config(), raft=RaftConfig(election_timeout_s=4.0))
        await cluster.start_all()
        old = await cluster.leader()
        await old.running.propose(b"old")
        await trio.sleep(1)
        cluster.network.isolate(old.name)
        cluster.config_of = lambda _: attrs.evolve(small_config(), raft=RaftConfig(election_timeout_s=0.3))
        followers = [machine.name for machine in await others(cluster, old)]
        for name in followers:
            await cluster.crash(name)
            await cluster.start(name)
        started_at = trio.current_time()
        under_lease: list[float] = []

        async def read_all_the_time() -> None:
            while True:
                with trio.move_on_after(0.001):
                    result = await old.running.read(b"", consistency=LEASE)
                    assert result.consistency is LEASE
                    under_lease.append(trio.current_time())
                await trio.sleep(0.01)

        cluster.nursery.start_soon(read_all_the_time)
        await cluster.leader(followers)

        assert under_lease[-1] < trio.current_time()
        assert started_at + 4.0 <= trio.current_time() < started_at + 5.0
        # The promise is kept: from now on the shorter one counts.
        await trio.sleep(1)
        again = await cluster.leader(followers)
        await cluster.crash(again.name)
        await cluster.start(again.name)
        restarted_at = trio.current_time()
        await cluster.leader(followers)
        assert trio.current_time() < restarted_at + 2.0

    simulate(main, seed=seed)


def test_stale_read_says_how_stale() -> None:
    """The lag is below two heartbeats on a node in touch, grows on one that is cut off, and is infinite before any."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        assert (await cluster["a"].running.read(b"", consistency=STALE)).lag_s == math.inf
        await cluster.start("b")
        await cluster.start("c")
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        await cluster.converge()
        for machine in cluster.on:
            result = await machine.running.read(b"", consistency=STALE)
            assert (result.value, result.consistency) == (b"x", STALE)
            assert 0 <= result.lag_s <= 0.2

        (cut, _) = await others(cluster, leader)
        cluster.network.isolate(cut.name)
        await trio.sleep(10)

        assert 10 <= (await cut.running.read(b"", consistency=STALE)).lag_s <= 10.2

    simulate(main)


def test_stale_read_beyond_the_allowed_lag_is_refused() -> None:
    """``max_lag_s`` bounds it; the error says by how much it is missed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        (cut, _) = await others(cluster, leader)
        cluster.network.isolate(cut.name)
        await trio.sleep(10)

        with pytest.raises(TooStale, match="max_lag_s allows 5") as caught:
            await cut.running.read(b"", consistency=STALE, max_lag_s=5)

        assert caught.value.lag_s > 9.8
        assert caught.value.max_lag_s == 5

    simulate(main)


def test_deposed_leaders_stale_read_counts_from_its_last_majority() -> None:
    """A leader that nobody answers does not take its own word for fresh."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        await trio.sleep(1)
        cluster.network.isolate(leader.name)
        await trio.sleep(0.6)

        assert leader.running.status().leader_id == leader.name
        assert (await leader.running.read(b"", consistency=STALE)).lag_s >= 0.5

    simulate(main)


def test_read_without_a_leader_waits_and_can_be_cancelled() -> None:
    """It waits as long as the caller does; cancelled at any step it leaves nothing behind."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.wait_leader()
        await cluster.stop("b")
        await cluster.stop("c")
        node = cluster["a"].running
        for steps in range(8):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.read, b"")
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
        with trio.move_on_after(60) as waited:
            await node.read(b"")
        assert waited.cancelled_caught

        await cluster.start("b")
        await node.propose(b"x")
        assert (await node.read(b"")).value == b"x"

    simulate(main)


@pytest.mark.parametrize("consistency", [LINEARIZABLE, LEASE])
def test_stop_ends_a_read_that_waits(consistency: Consistency) -> None:
    """A read in another task ends with NodeStopped when the node stops, and so does one after it."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        node = cluster["a"].running
        errors: list[Exception] = []

        async def read() -> None:
            try:
                await node.read(b"", consistency=consistency)
            except NodeStopped as error:
                errors.append(error)

        cluster.nursery.start_soon(read)
        await trio.sleep(3)
        await cluster.stop("a")
        await trio.sleep(1)

        assert len(errors) == 1
        with pytest.raises(NodeStopped):
            await node.read(b"")

    simulate(main)


@pytest.mark.parametrize("consistency", list(Consistency))
def test_query_that_fails_fails_its_caller_only(consistency: Consistency) -> None:
    """A question that cannot be answered raises, typed, and the node goes on."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = (await cluster.leader()).running
        await node.propose(b"x")

        with pytest.raises(InvalidCommand):
            await node.read(b"invalid", consistency=consistency)
        with pytest.raises(StateMachineError, match="cannot answer"):
            await node.read(b"raise", consistency=consistency)

        assert (await node.read(b"", consistency=consistency)).value == b"x"

    simulate(main)


def test_reads_that_gather_share_a_round() -> None:
    """A thousand reads at once cost the leader a few rounds of heartbeats, not a thousand."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        before = leader.running._running().engine._core.state.last_round
        async with trio.open_nursery() as nursery:
            for machine in cluster.on:
                for _ in range(400):
                    nursery.start_soon(machine.running.read, b"")

        assert leader.running._running().engine._core.state.last_round - before <= 10

    simulate(main)


def test_new_leader_does_not_pass_for_fresh_before_it_knows_what_is_committed() -> None:
    """Just after a restart of all, nobody claims to have everything before the new leader's first entry commits."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await (await cluster.leader()).running.propose(b"x")
        await cluster.converge()
        for name in cluster.names:
            await cluster.crash(name)
        for name in cluster.names:
            await cluster.start(name)
        values: set[bytes] = set()
        for _ in range(3000):
            for machine in cluster.on:
                result = await machine.running.read(b"", consistency=STALE)
                if result.lag_s < math.inf:
                    values.add(result.value)
            await trio.sleep(0.001)

        assert values == {b"x"}

    simulate(main)


def test_cancelled_reads_leave_nothing_behind() -> None:
    """Without a leader, reads that their callers gave up take no memory."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        node = cluster["a"].running
        await trio.sleep(3)
        for _ in range(100):
            with trio.move_on_after(0.01):
                await node.read(b"")

        assert len(node._running().read_indexes._waiting) == 0

    simulate(main)

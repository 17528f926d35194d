"""``Node.leading()``: bodies of two nodes never overlap, whatever ends a leadership."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import ConfigError, NodeStopped
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate


class Turns:
    """Who leads when, from inside the bodies. A body takes ``cleanup_s`` to end."""

    def __init__(self, cleanup_s: float = 0.2) -> None:
        self.cleanup_s = cleanup_s
        self.running: list[tuple[str, int]] = []
        self.begun: list[tuple[str, int]] = []

    async def take(self, machine: SimulatedNode) -> None:
        """Lead whenever the machine does, until it stops."""
        node = machine.running
        while True:
            try:
                async with node.leading(cleanup_s=self.cleanup_s) as term:
                    assert self.running == [], f"{machine.name} begins in term {term} beside {self.running}"
                    assert not self.begun or self.begun[-1][1] < term, "a term was handed out twice, or fell"
                    self.begun.append((machine.name, term))
                    self.running.append((machine.name, term))
                    try:
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(self.cleanup_s * 0.99)
                        self.running.remove((machine.name, term))
            except NodeStopped:
                return


@pytest.mark.parametrize("seed", range(8))
def test_bodies_never_overlap_when_leaders_are_cut_off(seed: int) -> None:
    """The body of a leader that was cut off has ended, clean-up and all, before another's begins."""

    async def main(cluster: SimulatedCluster) -> None:
        turns = Turns()
        await cluster.start_all()
        for machine in cluster.on:
            cluster.nursery.start_soon(turns.take, machine)
        for _ in range(4):
            await eventually(lambda: turns.running)
            name = turns.running[0][0]
            cluster.network.isolate(name)
            await eventually(lambda name=name: turns.running and turns.running[0][0] != name)  # type: ignore[misc]  # the default binds the loop's name
            cluster.network.heal()
            await trio.sleep(cluster.rng.uniform(0, 3))

        assert len(turns.begun) >= 5

    simulate(main, seed=seed, size=3)


def test_transfer_waits_for_the_body_to_end() -> None:
    """The next leader is told to stand only when nothing runs in the name of the present one."""

    async def main(cluster: SimulatedCluster) -> None:
        turns = Turns()
        await cluster.start_all()
        for machine in cluster.on:
            cluster.nursery.start_soon(turns.take, machine)
        for _ in range(4):
            await eventually(lambda: turns.running)
            await cluster[turns.running[0][0]].running.transfer_leadership()

        await eventually(lambda: len(turns.begun) == 5)

    simulate(main)


def test_stop_and_crash_end_the_body() -> None:
    """A node that stops hands over after its body; one that loses power is outlived by nothing of it."""

    async def main(cluster: SimulatedCluster) -> None:
        turns = Turns()
        await cluster.start_all()
        for machine in cluster.on:
            cluster.nursery.start_soon(turns.take, machine)
        await eventually(lambda: turns.running)
        first = turns.running[0][0]
        await cluster.stop(first)

        await eventually(lambda: turns.running and turns.running[0][0] != first)

    simulate(main)


def test_body_that_ends_by_itself_leaves_the_block_normally() -> None:
    """Its own errors and its own end pass through; nothing is swallowed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = (await cluster.leader()).running
        async with leader.leading() as term:
            assert term == leader.status().term
        with pytest.raises(KeyError):
            async with leader.leading():
                raise KeyError("mine")
        with trio.move_on_after(1) as scope:
            async with leader.leading():
                await trio.sleep_forever()
        assert scope.cancelled_caught

    simulate(main)


def test_leading_on_a_follower_waits_until_it_leads() -> None:
    """It can be cancelled meanwhile, and begins when the node is elected."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        follower = (await cluster.followers())[0]
        with trio.move_on_after(30) as waited:
            async with follower.running.leading():
                raise AssertionError("it does not lead")
        assert waited.cancelled_caught

        leader = await cluster.leader()
        await leader.running.transfer_leadership(follower.name)
        async with follower.running.leading() as term:
            assert follower.running.status().term == term

    simulate(main)


def test_lone_node_keeps_leading() -> None:
    """With nobody to hear, its own heartbeats renew the lease."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        async with cluster["a"].running.leading():
            await trio.sleep(60)
        assert cluster["a"].running.status().term == 1

    simulate(main, size=1)


@pytest.mark.parametrize("cleanup_s", [-0.1, 0.75, 10])
def test_cleanup_that_leaves_nothing_of_a_lease_is_refused(cleanup_s: float) -> None:
    """The error names the value and what is allowed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start("a")
        with pytest.raises(ConfigError, match=rf"cleanup_s is {cleanup_s}; .* below 0\.709"):
            async with cluster["a"].running.leading(cleanup_s=cleanup_s):
                pass

    simulate(main, size=1)

"""Leaders that hand over, leaders that are cut off, and nodes that take one another for somebody else."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from random import Random

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore import Node, RaftConfig
from clustercore.interfaces import Applied, ConfigError, Lane, Link, NotLeader, OutcomeUnknown, Role, TransferFailed
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, SimulatedCluster, SimulatedNode, eventually, simulate, small_config

# What is shipped, in seconds.
ELECTION_TIMEOUT_S = 1.0
DISK_STALL_S = RaftConfig().disk_stall_s


async def start_with_leader(cluster: SimulatedCluster) -> tuple[SimulatedNode, list[SimulatedNode]]:
    """Start all, wait until they agree on a first command, and return the leader and the others."""
    await cluster.start_all()
    leader = await cluster.leader()
    await leader.running.propose(b"first")
    await cluster.converge()
    return leader, await cluster.followers()


# --- Transfers ---


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("place", [0, -1, None])
def test_transfer_hands_over_at_once(size: int, place: int | None) -> None:
    """The named follower, or the fittest, leads the next term without an election timeout's wait, and all follow it."""

    async def main(cluster: SimulatedCluster) -> None:
        old, followers = await start_with_leader(cluster)
        term, began_at = old.running.status().term, trio.current_time()
        target = None if place is None else followers[place].name

        successor = await old.running.transfer_leadership(target)

        assert successor in ([machine.name for machine in followers] if target is None else [target])
        assert trio.current_time() - began_at < ELECTION_TIMEOUT_S / 2
        new = await cluster.leader()
        assert (new.name, new.running.status().term) == (successor, term + 1)
        await old.running.propose(b"after")
        await cluster.converge()

    simulate(main, size=size)


def test_transfer_is_for_the_leader_and_to_another_voter() -> None:
    """A follower says who leads; a target that is no other voter is refused, naming those that are. Nothing changes."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, followers = await start_with_leader(cluster)
        term = leader.running.status().term

        with pytest.raises(NotLeader) as caught:
            await followers[0].running.transfer_leadership()
        assert (caught.value.node_id, caught.value.leader_id) == (followers[0].name, leader.name)
        for target in (leader.name, "nobody", ""):
            with pytest.raises(ConfigError, match=rf"target is '{target}'.*{followers[0].name}.*{followers[1].name}"):
                await leader.running.transfer_leadership(target)
        await trio.sleep(5)

        assert (await cluster.leader()) is leader
        assert leader.running.status().term == term

    simulate(main)


@pytest.mark.parametrize("how", ["stopped", "isolated"])
def test_transfer_to_a_node_that_is_down_fails_and_the_leader_goes_on(how: str) -> None:
    """Proposals wait while the transfer is tried, and succeed in the same term once it is given up."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, followers = await start_with_leader(cluster)
        term, away = leader.running.status().term, followers[0]
        if how == "stopped":
            await cluster.stop(away.name)
        else:
            cluster.network.isolate(away.name)
        # It lacks this, and so is not even told to stand.
        await leader.running.propose(b"missed")
        applied: list[Applied] = []

        async def propose() -> None:
            applied.append(await leader.running.propose(b"waits"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_failure, leader, away.name)
            await wait_all_tasks_blocked()
            nursery.start_soon(propose)
            await trio.sleep(ELECTION_TIMEOUT_S / 2)
            assert (applied, leader.running.status().pending_proposals) == ([], 1)

        assert [answer.term for answer in applied] == [term]
        status = leader.running.status()
        assert (status.role, status.term, status.pending_proposals) == (Role.LEADER, term, 0)

    simulate(main)


async def _expect_failure(leader: SimulatedNode, target: str) -> None:
    with pytest.raises(TransferFailed, match=f"'{target}' did not take over"):
        await leader.running.transfer_leadership(target)


def test_transfer_without_a_fit_follower_fails_at_once() -> None:
    """With no target named and nobody heard of lately, there is nobody to try."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, _ = await start_with_leader(cluster)
        cluster.network.isolate(leader.name)
        await trio.sleep(ELECTION_TIMEOUT_S / 2)
        began_at = trio.current_time()

        with pytest.raises(TransferFailed, match="no follower"):
            await leader.running.transfer_leadership()

        assert trio.current_time() == began_at

    simulate(main)


def test_proposals_on_a_leader_that_hands_over_are_the_next_ones() -> None:
    """What is proposed there meanwhile waits, without room in its log, and is applied in the term that follows."""

    async def main(cluster: SimulatedCluster) -> None:
        old, _ = await start_with_leader(cluster)
        status = old.running.status()
        applied: list[Applied] = []

        async def propose(number: int) -> None:
            applied.append(await old.running.propose(b"%d" % number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.running.transfer_leadership)
            await wait_all_tasks_blocked()
            for number in range(20):
                nursery.start_soon(propose, number)
            await wait_all_tasks_blocked()
            during = old.running.status()
            assert (during.role, during.last_log_index) == (Role.LEADER, status.last_log_index)
            assert during.pending_proposals == 20

        assert {answer.term for answer in applied} == {status.term + 1}
        await cluster.converge()
        assert len(old.machine.commands) == 1 + 20

    # The successor's vote for itself takes a while.
    simulate(main, write_s=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_proposals_on_every_node_outlive_transfers(seed: int) -> None:
    """While leaders hand over, what is proposed is refused nowhere, and nothing acknowledged is lost or done twice.

    The outcome of what was on its way to a leader, or in its log, when it fell may be unknown, as ever.
    """

    async def main(cluster: SimulatedCluster) -> None:
        await start_with_leader(cluster)
        acknowledged: list[tuple[bytes, Applied]] = []
        attempted = [b"first"]

        async def keep_proposing(name: str) -> None:
            for number in range(40):
                attempted.append(b"%s%d" % (name.encode(), number))
                command = attempted[-1]
                with suppress(OutcomeUnknown):
                    acknowledged.append((command, await cluster[name].running.propose(command)))
                await trio.sleep(cluster.rng.uniform(0, 0.05))

        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(keep_proposing, name)
            for _ in range(5):
                await (await cluster.leader()).running.transfer_leadership()
                # A new leader knows of no fit follower until it has been answered.
                await trio.sleep(0.1)
        await cluster.converge()

        # One of each client is open when a leader falls.
        assert len(acknowledged) >= 120 - 5 * 3
        cluster.check_acknowledged(acknowledged, attempted=attempted)

    # Writes that take a while leave proposals in the log and unanswered when the leader is to hand over.
    simulate(main, seed=seed, write_s=0.01)


def test_transfer_that_is_cancelled_goes_on_by_itself() -> None:
    """Whoever waits may give up at any step; the target takes over all the same, and the node stays usable."""
    for steps in range(12):

        async def main(cluster: SimulatedCluster, steps: int = steps) -> None:
            old, followers = await start_with_leader(cluster)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(old.running.transfer_leadership, followers[0].name)
                await _take_steps(steps)
                nursery.cancel_scope.cancel()

            await eventually(lambda: old.running.status().leader_id == followers[0].name)
            await old.running.propose(b"after")
            await cluster.converge()

        simulate(main, seed=steps)


async def _take_steps(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.cancel_shielded_checkpoint()


# --- Leaders that stop, or whose disks do ---


def next_leader_at(cluster: SimulatedCluster, steps: int) -> float:
    """Return when, after so many steps of the trace, a node began to lead."""
    return next(at for at, text in cluster.trace[steps:] if text.split()[1] == "leader")


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_leader_that_stops_hands_over_first(size: int, seed: int) -> None:
    """Nobody waits for an election timeout: the next one leads before the old one is gone."""

    async def main(cluster: SimulatedCluster) -> None:
        old, followers = await start_with_leader(cluster)
        stopped_at, steps = trio.current_time(), len(cluster.trace)

        await cluster.stop(old.name)

        assert old.error is None
        assert trio.current_time() - stopped_at < ELECTION_TIMEOUT_S / 2
        assert next_leader_at(cluster, steps) - stopped_at < ELECTION_TIMEOUT_S / 2
        assert {machine.running.status().leader_id for machine in followers} <= {machine.name for machine in followers}

    simulate(main, size=size, seed=seed)


def test_leader_that_stops_alone_does_not_wait_for_a_successor() -> None:
    """A follower that hears nothing is not waited for, and a node that leads nobody ends at once."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, _ = await start_with_leader(cluster)
        cluster.network.isolate(leader.name)
        await trio.sleep(ELECTION_TIMEOUT_S / 2)
        stopped_at = trio.current_time()
        await cluster.stop(leader.name)
        assert trio.current_time() == stopped_at

    simulate(main)


def test_leader_whose_disk_stalls_hands_over_while_its_heartbeats_go_on() -> None:
    """A stuck fsync keeps it from answering though it is heard: another leads soon, and answers what is proposed."""

    async def main(cluster: SimulatedCluster) -> None:
        old, followers = await start_with_leader(cluster)
        term = old.running.status().term
        with old.disk.stall():
            stalled_at, steps = trio.current_time(), len(cluster.trace)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_propose_anyhow, old.running)
                # Its heartbeats were heard until then: nobody else stood before it was told to.
                new = await cluster.leader([machine.name for machine in followers])
                assert DISK_STALL_S <= next_leader_at(cluster, steps) - stalled_at < DISK_STALL_S + 0.5
                assert new.running.status().term == term + 1
                assert not any("pre_candidate" in text for _, text in cluster.trace[steps:])
                with trio.fail_after(ELECTION_TIMEOUT_S):
                    await new.running.propose(b"during the stall")
                nursery.cancel_scope.cancel()
        await cluster.converge()
        assert b"during the stall" in old.machine.commands

    simulate(main)


async def _propose_anyhow(node: Node) -> None:
    with suppress(OutcomeUnknown):
        await node.propose(b"into the stall")


# --- Nodes that were cut off ---


@pytest.mark.parametrize("seed", range(5))
def test_node_that_was_cut_off_returns_without_an_election(seed: int) -> None:
    """However long it heard nobody, its return changes neither the term nor the leader (thesis §9.6)."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, followers = await start_with_leader(cluster)
        term = leader.running.status().term
        for away in followers:
            cluster.network.isolate(away.name)
            await trio.sleep(30)
            await leader.running.propose(b"without %s" % away.name.encode())
            cluster.network.heal()
            await cluster.converge()
            await trio.sleep(30)

            statuses = [machine.running.status() for machine in cluster.on]
            assert {(status.term, status.leader_id) for status in statuses} == {(term, leader.name)}

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_node_that_hears_only_one_follower_deposes_nobody(seed: int) -> None:
    """Cut off from the leader alone, a node asks those that hear the leader, and they protect it (thesis §4.2.3)."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, followers = await start_with_leader(cluster)
        term = leader.running.status().term
        away, *near = followers
        for _ in range(10):
            cluster.network.partition([away.name], [machine.name for machine in (leader, *near)])
            await trio.sleep(cluster.rng.uniform(1, 4))
            # Now it reaches the others and not the leader, for less than an election timeout of theirs.
            cluster.network.partition([leader.name], [machine.name for machine in (away, *near)])
            await trio.sleep(cluster.rng.uniform(0, 0.6))
            cluster.network.partition([away.name], [machine.name for machine in (leader, *near)])
            await trio.sleep(1)
        cluster.network.heal()
        await cluster.converge()

        assert (await cluster.leader()) is leader
        assert leader.running.status().term == term

    simulate(main, seed=seed, size=5)


# --- Addresses that lead to the wrong node ---


class MisledTransport(MemoryTransport):
    """Some addresses lead to another node than they say, as after a mistake in a table of names."""

    def __init__(self, network: MemoryNetwork, address: str, *, leads_to: dict[str, str]) -> None:
        super().__init__(network, address)
        self._leads_to = leads_to

    async def connect(self, address: str, lane: Lane) -> Link:
        return await super().connect(self._leads_to.get(address, address), lane)


def misled(network: MemoryNetwork, name: str, voters: str, leads_to: dict[str, str], seed: int) -> Node:
    """Return a node of a cluster for which some addresses lead to another node."""
    return Node(
        name,
        machine=Journal(),
        transport=MisledTransport(network, name, leads_to=leads_to),
        storage=MemoryStorage(),
        discovery=StaticDiscovery({voter: voter for voter in voters}),
        rng=Random(f"{seed}{name}"),
    )


async def leaders_seen(nodes: Iterable[Node], seconds: float) -> set[str]:
    """Return who led among these nodes at any time of a while."""
    seen: set[str] = set()

    async def watch(node: Node) -> None:
        async for change in node.role_changes():
            if change.role is Role.LEADER:
                seen.add(node.node_id)

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(watch, node)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_two_addresses_of_one_node_elect_no_minority(seed: int) -> None:
    """Two of five that run, each with three addresses that lead to the other, never count its vote for three."""

    async def main(cluster: SimulatedCluster) -> None:
        network = MemoryNetwork()
        a = misled(network, "a", "abcde", {"c": "b", "d": "b"}, seed)
        b = misled(network, "b", "abcde", {"c": "a", "d": "a"}, seed)
        async with a, b:
            assert await leaders_seen([a, b], 60) == set()
            assert (a.status().term, b.status().term) == (0, 0)

    simulate(main, seed=seed, is_watched=False)


@pytest.mark.parametrize("seed", range(5))
def test_wrong_address_keeps_nobody_else_from_leading(seed: int) -> None:
    """A majority that reaches one another elects a leader that commits, whatever answers at a wrong address."""

    async def main(cluster: SimulatedCluster) -> None:
        network = MemoryNetwork()
        # Everyone who looks for "c" comes to "b"; "c" itself finds its peers.
        a, b, c = (misled(network, name, "abc", {} if name == "c" else {"c": "b"}, seed) for name in "abc")
        async with a, b, c:
            with trio.fail_after(60):
                leader_id = await a.wait_leader()
                # On the leader itself: the others may not find it to pass a command on.
                applied = await {"a": a, "b": b, "c": c}[leader_id].propose(b"x", forward=False)
            assert applied.result.endswith(b"x")

    simulate(main, seed=seed, is_watched=False)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("write_s", [0.8, 1.5, 4.0])
def test_cluster_whose_disks_are_slower_than_an_election_elects_a_leader(seed: int, write_s: float) -> None:
    """A vote that takes several election timeouts to write ends no election, and the leader stays (issue 3)."""
    # Such disks are slow; they do not stall.
    config = attrs.evolve(small_config(), raft=RaftConfig(disk_stall_s=60.0))

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        term = leader.running.status().term

        await trio.sleep(20 * write_s)

        assert leader.running.status().role is Role.LEADER
        # A few tries at most, though two may well stand at once.
        assert leader.running.status().term == term <= 6

    simulate(main, seed=seed, write_s=write_s, config=config)


@pytest.mark.parametrize("is_leader", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_node_that_stops_in_order_answers_what_was_proposed_on_it(is_leader: bool, seed: int) -> None:
    """Whether it led, or had passed them on: whoever waits is told what became of them, not that nobody knows."""

    async def main(cluster: SimulatedCluster) -> None:
        leader, followers = await start_with_leader(cluster)
        machine = leader if is_leader else followers[0]
        applied: list[Applied] = []

        async def propose(command: bytes, node: Node) -> None:
            applied.append(await node.propose(command))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(propose, b"%d" % number, machine.running)
            await trio.sleep(0.004)
            assert applied == []
            await cluster.stop(machine.name)

        assert len(applied) == 10

    simulate(main, seed=seed, write_s=0.005)

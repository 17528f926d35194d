"""Elections, proposals and cuts in a cluster of real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    Applied,
    ClusterError,
    InvalidCommand,
    NodeId,
    NotLeader,
    OutcomeUnknown,
    Role,
    RoleChange,
)
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config


class Outcomes:
    """What became of proposals that run in tasks of their own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.applied: dict[bytes, Applied] = {}
        self.errors: dict[bytes, ClusterError] = {}
        self.cancelled: list[bytes] = []

    def propose(self, machine: SimulatedNode, *commands: bytes) -> None:
        """Propose each command in its own task."""
        for command in commands:
            self._nursery.start_soon(self._propose, machine, command)

    async def _propose(self, machine: SimulatedNode, command: bytes) -> None:
        try:
            self.applied[command] = await machine.running.propose(command)
        except ClusterError as error:
            self.errors[command] = error
        except trio.Cancelled:
            self.cancelled.append(command)
            raise

    @property
    def kinds(self) -> dict[bytes, type]:
        """The errors by type."""
        return {command: type(error) for command, error in self.errors.items()}


def others(cluster: SimulatedCluster, machine: SimulatedNode) -> list[str]:
    """The names of all other machines."""
    return [name for name in cluster.names if name != machine.name]


# --- Elections ---


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_election_gives_every_node_the_same_leader(size: int, seed: int) -> None:
    """Nodes that start together elect one leader, which all of them know."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()

        for machine in cluster.on:
            status = machine.running.status()
            assert await machine.running.wait_leader() == leader.name
            assert status.role is (Role.LEADER if machine is leader else Role.FOLLOWER)
            assert [peer.node_id for peer in status.peers] == others(cluster, machine)
        assert trio.current_time() < 10

    simulate(main, size=size, seed=seed)


@pytest.mark.parametrize("size", [3, 5])
def test_election_replaces_a_leader_that_is_gone(size: int) -> None:
    """While a majority is left, each leader that stops is followed by another, in a later term."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        terms = []
        for _ in range(size // 2):
            leader = await cluster.leader([machine.name for machine in cluster.on])
            terms.append(leader.running.status().term)
            await leader.running.propose(b"by %s" % leader.name.encode())
            await cluster.stop(leader.name)
        await cluster.followers()
        terms.append(cluster.on[0].running.status().term)

        assert terms == sorted(set(terms))
        await cluster.converge()
        assert len(cluster.on[0].machine.commands) == size // 2

    simulate(main, size=size)


def test_leader_keeps_its_office_while_it_is_heard() -> None:
    """Without faults nobody stands for election: a thousand heartbeats are one term."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        term = leader.running.status().term
        await trio.sleep(100)
        assert (await cluster.leader()).running.status().term == term

    simulate(main)


# --- Proposals ---


@pytest.mark.parametrize("size", [1, 3, 5])
def test_propose_on_any_node_returns_the_machines_result(size: int) -> None:
    """On the leader and, passed on, on each follower: the result is what ``apply`` returned at the index told."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        term = leader.running.status().term
        # The no-op of the term has index 1.
        for index, machine in enumerate(cluster.on, 2):
            applied = await machine.running.propose(b"from %s" % machine.name.encode())
            assert (applied.index, applied.term) == (index, term)
            assert applied.result == b"%d:from %s" % (index, machine.name.encode())
        await cluster.converge()
        assert leader.machine.commands == [b"from %s" % name.encode() for name in cluster.names]

    simulate(main, size=size)


def test_many_proposals_from_everywhere_are_applied_once_each() -> None:
    """Hundreds of proposals at once on all nodes: each is acknowledged at its own index, and all machines agree."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster.leader()
        commands = {name: [b"%s%d" % (name.encode(), number) for number in range(200)] for name in cluster.names}
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            for name in cluster.names:
                outcomes.propose(cluster[name], *commands[name])

        assert outcomes.errors == {}
        await cluster.converge()
        cluster.check_acknowledged(list(outcomes.applied.items()), attempted=[*chain(*commands.values())])
        assert len(cluster["a"].machine.lines) == 600

    simulate(main)


def test_propose_before_a_leader_is_known_waits_for_one() -> None:
    """A proposal on a node that has just started is not refused: it is done when there is a leader."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        assert cluster["a"].running.status().leader_id is None
        assert (await cluster["a"].running.propose(b"x")).result.endswith(b"x")

    simulate(main)


def test_propose_without_forwarding_names_the_leader() -> None:
    """``forward=False`` raises NotLeader off the leader, with the leader's id once it is known, and works on it."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        with pytest.raises(NotLeader) as caught:
            await cluster["a"].running.propose(b"too early", forward=False)
        assert (caught.value.node_id, caught.value.leader_id) == ("a", None)

        leader = await cluster.leader()
        for follower in await cluster.followers():
            with pytest.raises(NotLeader) as caught:
                await follower.running.propose(b"x", forward=False)
            assert (caught.value.node_id, caught.value.leader_id) == (follower.name, leader.name)
            assert follower.running.status().pending_proposals == 0

        await leader.running.propose(b"y", forward=False)
        await cluster.converge()
        assert leader.machine.commands == [b"y"]

    simulate(main)


def test_invalid_commands_are_refused_where_they_are_proposed() -> None:
    """What the machine refuses, or what exceeds the limit, never enters the log; the largest allowed does."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        last_index = leader.running.status().last_log_index
        for machine in cluster.on:
            with pytest.raises(InvalidCommand, match="anything but this"):
                await machine.running.propose(b"invalid")
            with pytest.raises(InvalidCommand, match="11 bytes; max_command_bytes allows 10"):
                await machine.running.propose(b"x" * 11)
        assert leader.running.status().last_log_index == last_index

        for number, machine in enumerate(cluster.on):
            await machine.running.propose(b"%d" % number * 10)

    simulate(main, config=small_config(max_command_bytes=10))


def test_status_follows_the_log_on_every_node() -> None:
    """Indexes and lag say what was appended, committed and applied, on the leader and on followers."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        for number in range(9):
            await leader.running.propose(b"%d" % number)
        await cluster.converge()
        # The followers' last answers.
        await trio.sleep(1)

        for machine in cluster.on:
            status = machine.running.status()
            assert (status.first_log_index, status.last_log_index) == (1, 10)
            assert (status.commit_index, status.last_applied) == (10, 10)
            assert status.pending_proposals == 0
            expected = (10, 11, 0) if machine is leader else (0, 0, 0)
            assert {(peer.match_index, peer.next_index, peer.lag) for peer in status.peers} == {expected}

    simulate(main)


# --- Back-pressure ---


@contextmanager
def stalled(*machines: SimulatedNode) -> Iterator[None]:
    """Hold the disks of several machines."""
    with ExitStack() as stack:
        for machine in machines:
            stack.enter_context(machine.disk.stall())
        yield


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_full_queue_makes_propose_wait(where: str) -> None:
    """Beyond the limit proposals wait, are counted, and go on in order of arrival when something is done."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        machine = leader if where == "leader" else (await cluster.followers())[0]
        await machine.running.propose(b"first")
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            with stalled(*cluster.on):
                for number in range(7):
                    outcomes.propose(machine, b"%d" % number)
                    await wait_all_tasks_blocked()
                await trio.sleep(0.1)
                assert machine.running.status().pending_proposals == 7
                assert leader.running.status().last_log_index == 2 + 3
                assert outcomes.applied == {}

        await cluster.converge()
        assert leader.machine.commands == [b"first", *(b"%d" % number for number in range(7))]
        assert machine.running.status().pending_proposals == 0

    simulate(main, config=small_config(max_pending_proposals=3))


# --- Cuts ---


def test_minority_never_commits_and_its_queued_proposal_can_be_withdrawn() -> None:
    """Cut off without a leader, a node keeps a proposal waiting; cancelled, it was certainly not done.

    It asks around, and starts no term: too few say that it could win (thesis §9.6).
    """

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        minority = [leader.name, (await cluster.followers())[0].name]
        majority = [name for name in cluster.names if name not in minority]
        cut_off = cluster[minority[1]]
        # Everyone knows of what is committed before the cut: the leader may tell it after that, too.
        await cluster.converge()
        await trio.sleep(0.5)
        before = cut_off.running.status().commit_index
        cluster.network.partition(minority, majority)
        await cluster.stop(leader.name)
        await eventually(lambda: cut_off.running.status().role is Role.PRE_CANDIDATE)
        term = cut_off.running.status().term

        with trio.move_on_after(30) as scope:
            await cut_off.running.propose(b"withdrawn")
        assert scope.cancelled_caught
        assert (cut_off.running.status().role, cut_off.running.status().term) == (Role.PRE_CANDIDATE, term)
        assert cut_off.running.status().commit_index == before
        assert cut_off.running.status().pending_proposals == 0
        await (await cluster.leader(majority)).running.propose(b"majority")

        cluster.network.heal()
        await cluster.start(leader.name)
        await cluster.converge()
        assert cut_off.machine.commands == [b"majority"]

    simulate(main, size=5)


def test_minority_leader_commits_nothing() -> None:
    """A leader cut off with a minority appends, never commits, and steps down after an election timeout.

    That ends what it had appended (CheckQuorum, thesis §6.2): the outcome is unknown. Later ones wait for a leader.
    """

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        before = leader.running.status().commit_index
        cluster.network.isolate(leader.name)
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            outcomes.propose(leader, b"x", b"y")
            with trio.move_on_after(0.5) as scope:
                await leader.running.propose(b"given up")
            assert scope.cancelled_caught
            # In the log, so that giving up waiting does not take it back; when their fate is known the count falls.
            status = leader.running.status()
            assert (status.role, status.pending_proposals, outcomes.errors) == (Role.LEADER, 3, {})
            await trio.sleep(60)

            assert outcomes.kinds == {b"x": OutcomeUnknown, b"y": OutcomeUnknown}
            assert leader.running.status().role is not Role.LEADER
            assert leader.running.status().pending_proposals == 0
            outcomes.propose(leader, b"queued")
            await trio.sleep(60)

            assert len(outcomes.errors) == 2
            assert leader.running.status().commit_index == before
            assert leader.running.status().pending_proposals == 1
            cluster.network.heal()
        assert list(outcomes.applied) == [b"queued"]
        await cluster.converge()
        assert leader.running.status().pending_proposals == 0
        assert leader.machine.commands == [b"queued"]

    simulate(main)


@pytest.mark.parametrize("seed", range(3))
def test_isolated_leader_ends_its_proposals_unknown_when_it_steps_down(seed: int) -> None:
    """What was in its log is unknown once it steps down, which it does before it hears of the later term.

    All agree after the heal, and nothing acknowledged is lost.
    """

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        acknowledged = [(b"before", await old.running.propose(b"before"))]
        cluster.network.isolate(old.name)
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            outcomes.propose(old, b"lost 1", b"lost 2")
            await wait_all_tasks_blocked()
            assert (old.running.status().pending_proposals, outcomes.errors) == (2, {})
            new = await cluster.leader(others(cluster, old))
            acknowledged.append((b"meanwhile", await new.running.propose(b"meanwhile")))
            await eventually(lambda: len(outcomes.errors) == 2)
            assert old.running.status().term < new.running.status().term
        assert outcomes.kinds == {b"lost 1": OutcomeUnknown, b"lost 2": OutcomeUnknown}
        cluster.network.heal()
        await cluster.converge()
        cluster.check_acknowledged(acknowledged, attempted=[b"before", b"meanwhile", b"lost 1", b"lost 2"])
        # No quorum had them: here they are certainly gone.
        assert old.machine.commands == [b"before", b"meanwhile"]

    simulate(main, seed=seed)


def test_proposals_forwarded_to_a_leader_that_vanishes_are_unknown() -> None:
    """A follower that sent proposals to a leader which is then cut off cannot tell; later ones reach the new leader."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        follower = (await cluster.followers())[0]
        await follower.running.propose(b"before")
        cluster.network.isolate(old.name)
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            outcomes.propose(follower, b"sent into the cut")
            await cluster.leader(others(cluster, old))
            outcomes.propose(follower, b"to the new leader")

        assert outcomes.kinds == {b"sent into the cut": OutcomeUnknown}
        assert list(outcomes.applied) == [b"to the new leader"]
        cluster.network.heal()
        await cluster.converge()

    simulate(main)


def test_two_nodes_that_disagree_on_who_leads_do_not_spin() -> None:
    """A follower that has not heard of its leader's fall asks it now and then, until it hears, and loses nothing."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        follower, successor = await cluster.followers()
        # The old leader hands over; the follower hears of it from nobody yet, nor does it after the next cut.
        cluster.network.isolate(follower.name)
        assert await old.running.transfer_leadership(successor.name) == successor.name
        cluster.network.partition([follower.name, old.name], [successor.name])
        assert (follower.running.status().leader_id, old.running.status().leader_id) == (old.name, successor.name)
        applied = await follower.running.propose(b"x")
        assert applied.result.endswith(b"x")

    simulate(main)


# --- Role changes ---


def test_role_changes_yield_the_newest_only() -> None:
    """A reader that slept through several terms sees just the last of them, then each change."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        changes = leader.running.role_changes()
        assert await anext(changes) == RoleChange(Role.LEADER, leader.running.status().term, NodeId(leader.name))

        cluster.network.isolate(leader.name)
        await cluster.leader(others(cluster, leader))
        cluster.network.heal()
        new = await cluster.leader()
        status = new.running.status()
        assert await anext(changes) == RoleChange(Role.FOLLOWER, status.term, NodeId(new.name))

        with trio.move_on_after(30) as scope:
            await anext(changes)
        assert scope.cancelled_caught, "nothing changed"

    simulate(main)


# --- Cancellation ---


def _cancelled_after(steps: int, *, on_leader: bool, seed: int) -> bool:
    """Cancel a proposal after so many turns of the scheduler; return whether it was answered before."""

    async def main(cluster: SimulatedCluster) -> bool:
        await cluster.start_all()
        leader = await cluster.leader()
        machine = leader if on_leader else (await cluster.followers())[0]
        async with trio.open_nursery() as nursery:
            outcomes = Outcomes(nursery)
            outcomes.propose(machine, b"filler")
            await wait_all_tasks_blocked()
            outcomes.propose(machine, b"x")
            for _ in range(steps):
                await trio.lowlevel.cancel_shielded_checkpoint()
            nursery.cancel_scope.cancel()
        answered = b"x" in outcomes.applied

        await machine.running.propose(b"afterwards")
        await cluster.converge()
        assert machine.running.status().pending_proposals == 0
        attempted = [b"filler", b"x", b"afterwards"]
        cluster.check_acknowledged(list(outcomes.applied.items()), attempted=attempted)
        return answered

    return simulate(main, seed=seed, config=small_config(max_pending_proposals=1))


@pytest.mark.parametrize("on_leader", [True, False])
def test_propose_can_be_cancelled_at_every_step(on_leader: bool) -> None:
    """Wherever a proposal is when it is cancelled, it is applied at most once and leaves no count behind."""
    for steps in range(400):
        if _cancelled_after(steps, on_leader=on_leader, seed=steps):
            break
    else:
        pytest.fail("the proposal was never answered")

    assert steps > 5

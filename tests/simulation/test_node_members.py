"""Changing the members of a cluster of real nodes, through ``node.members``."""

from __future__ import annotations

import pytest
import trio

from clustercore.interfaces import (
    ChangeRefusal,
    ChangeRefused,
    Configuration,
    InvalidChange,
    LogIndex,
    Members,
    NodeId,
    NodeStopped,
    OutcomeUnknown,
)
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config


def names_of(members: Members) -> tuple[str, str]:
    """Return the voters and the learners, by their names of one letter."""
    configuration = members.configuration
    return "".join(sorted(configuration.voters)), "".join(sorted(configuration.learners))


async def add_learners(cluster: SimulatedCluster, names: str) -> None:
    """Start strangers, and add them as learners that have the log."""
    for name in names:
        cluster.add_stranger(name)
        await cluster.start(name)
        await cluster["a"].running.members.add_learner(name, name)
    await cluster.converge()


async def others(cluster: SimulatedCluster) -> tuple[SimulatedNode, SimulatedNode, SimulatedNode]:
    """Return the leader of three and its followers."""
    leader = await cluster.leader("abc")
    first, second = (cluster[name] for name in "abc" if name != leader.name)
    return leader, first, second


# --- What it does ----------------------------------------------------------------------------------------------------


def test_added_node_votes_once_it_has_caught_up() -> None:
    """Whoever is asked, every node hears of it, and the new one holds all that was ever proposed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.propose(b"before")
        cluster.add_stranger("d")
        await cluster.start("d")

        members = await cluster["b"].running.members.add("d", "d")
        await cluster["d"].running.propose(b"after")

        assert members.is_settled
        assert names_of(members) == ("abcd", "")
        await cluster.converge()
        assert cluster["d"].machine.commands == [b"before", b"after"]
        for machine in cluster.on:
            assert names_of(await machine.running.members.get()) == ("abcd", "")

    simulate(main)


def test_learner_stays_one_until_it_is_promoted() -> None:
    """It has the log; the number of voters changes by promotion and demotion alone."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await add_learners(cluster, "d")
        handle = cluster["c"].running.members
        await trio.sleep(10)

        assert names_of(await handle.get()) == ("abc", "d")
        assert names_of(await handle.promote("d")) == ("abcd", "")
        assert names_of(await handle.demote("d")) == ("abc", "d")
        assert names_of(await handle.add_learner("d", promote=True)) == ("abc", "d")
        await eventually(lambda: "d" in cluster["a"].running.status().configuration.voters)
        assert names_of(await handle.remove("d")) == ("abc", "")

    simulate(main)


def test_members_carry_the_addresses_of_all() -> None:
    """With the first change the leader writes down where everybody is: a new node may have no discovery at all."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()

        await add_learners(cluster, "d")

        members = await cluster["d"].running.members.get()
        assert {server.node_id: server.address for server in members.configuration.servers} == {
            name: name for name in "abcd"
        }

    simulate(main)


def test_all_nodes_are_replaced_one_by_one() -> None:
    """Each replacement is one joint change, the leader's too; what was written is there in the end."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        for old, new, asked in zip("abc", "def", "cde", strict=True):
            cluster.add_stranger(new)
            await cluster.start(new)
            await cluster[asked].running.members.replace(old, new, new)
            await cluster[new].running.propose(new.encode())
            await cluster.stop(old)

        await cluster.converge()
        assert [machine.name for machine in cluster.on] == ["d", "e", "f"]
        assert cluster["f"].machine.commands == [b"d", b"e", b"f"]
        assert names_of(await cluster["d"].running.members.get()) == ("def", "")

    simulate(main)


def test_dead_member_is_replaced() -> None:
    """The number of voters never falls below what it was, though one of them is gone for good."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, dead, _ = await others(cluster)
        await cluster.crash(dead.name)
        cluster.add_stranger("d")
        await cluster.start("d")

        members = await leader.running.members.replace(dead.name, "d", "d")

        assert len(members.configuration.voters) == 3
        assert dead.name not in members.configuration.members
        # Done already.
        assert (await leader.running.members.replace(dead.name, "d", "d")).index == members.index

    simulate(main)


def test_target_is_applied_at_once() -> None:
    """Several voters come and go in one joint change, and the leader among them."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await add_learners(cluster, "def")

        members = await cluster["b"].running.members.apply(Configuration.of("def", learners="b"))

        assert names_of(members) == ("def", "b")
        await cluster.leader("bdef")
        await cluster["e"].running.propose(b"x")

    simulate(main)


def test_leader_that_is_removed_hands_over_and_says_that_it_is_removed() -> None:
    """Another leads at once, and the removed one disturbs nobody, before or after its restart."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, first, second = await others(cluster)

        members = await leader.running.members.remove(leader.name)

        assert leader.name not in members.configuration.members
        successor = await cluster.leader([first.name, second.name])
        term = successor.running.status().term
        await first.running.propose(b"without it")
        await leader.running.wait_removed()
        assert leader.running.status().is_removed
        await cluster.stop(leader.name)
        await cluster.start(leader.name)
        await trio.sleep(20)
        assert successor.running.status().term == term
        # It may come back.
        await first.running.members.add(leader.name)
        await cluster.converge()
        assert not leader.running.status().is_removed

    simulate(main)


def test_node_whose_disk_was_wiped_is_a_learner_until_it_has_caught_up() -> None:
    """Nobody has to do anything: it does not vote with an empty disk, and votes again when it has the log."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, wiped, other = await others(cluster)
        await leader.running.propose(b"x")
        await cluster.converge()
        await cluster.stop(wiped.name)
        cluster.wipe(wiped.name)
        before = leader.running.status().configuration_index

        await cluster.start(wiped.name)

        def is_voter_again() -> bool:
            status = leader.running.status()
            # One change made it a learner, and one a voter.
            return wiped.name in status.configuration.voters and status.configuration_index >= before + 2

        await eventually(is_voter_again)
        await cluster.converge()
        assert wiped.machine.commands == [b"x"]
        # Its vote counts: without it there would be no majority.
        await cluster.crash(other.name)
        await leader.running.propose(b"y")

    simulate(main)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_last_voter_stays() -> None:
    """A cluster without a voter could never agree on anything again."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        members = cluster["a"].running.members

        for call in (members.remove, members.demote):
            with pytest.raises(InvalidChange, match="the last voter"):
                await call("a")
        assert names_of(await members.get()) == ("a", "")

    simulate(main, size=1)


def test_node_that_has_not_caught_up_gets_no_vote() -> None:
    """Neither one that is no member, nor a learner that is not there."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        members = cluster["a"].running.members
        await members.add_learner("d", "d")

        for call in (members.promote("d"), members.apply(Configuration.of("abce"))):
            with pytest.raises(ChangeRefused) as refused:
                await call
            assert refused.value.reason is ChangeRefusal.NOT_CAUGHT_UP

    simulate(main)


def test_removal_that_would_leave_no_majority_is_refused() -> None:
    """With one of three dead, a living one must not go: two voters of whom one is dead decide nothing."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, dead, other = await others(cluster)
        await cluster.crash(dead.name)
        await trio.sleep(2)

        with pytest.raises(ChangeRefused, match="bring them back first, or remove those that are gone") as refused:
            await leader.running.members.remove(other.name)

        assert refused.value.reason is ChangeRefusal.NO_QUORUM
        assert names_of(await leader.running.members.remove(dead.name))[1] == ""
        await leader.running.propose(b"goes on")

    simulate(main)


def test_change_for_members_that_are_no_more_is_refused() -> None:
    """``expected_index`` is compared where the change is made."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        members = cluster["a"].running.members
        seen = await members.get()
        await members.add_learner("d", "d", expected_index=seen.index)

        with pytest.raises(ChangeRefused, match=f"not {seen.index}; look at them") as refused:
            await members.add_learner("e", "e", expected_index=seen.index)
        assert refused.value.reason is ChangeRefusal.CONFLICT
        # What holds already needs no change.
        assert names_of(await members.add_learner("d", "d", expected_index=seen.index)) == ("abc", "d")

    simulate(main)


def test_change_is_given_up_with_what_is_known() -> None:
    """Not done while no leader was asked; unknown once it may be in a log."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, first, second = await others(cluster)
        # The followers answer, but can write nothing down.
        with first.disk.stall(), second.disk.stall():
            with pytest.raises(OutcomeUnknown, match="may still be made: the change at index 2 is not"):
                await first.running.members.add_learner("d", "d", give_up_s=5)
            with pytest.raises(ChangeRefused, match="change at index 2 is not finished") as pending:
                await leader.running.members.add_learner("e", "e", give_up_s=5)
        cluster.network.isolate(first.name)
        await trio.sleep(10)
        with pytest.raises(ChangeRefused, match="knows no leader") as alone:
            await first.running.members.add_learner("e", "e", give_up_s=5)
        cluster.network.heal()

        assert [one.value.reason for one in (pending, alone)] == [
            ChangeRefusal.CHANGE_PENDING,
            ChangeRefusal.NOT_LEADER,
        ]
        assert names_of(await leader.running.members.get()) == ("abc", "d")

    simulate(main)


def test_promotion_that_is_given_up_may_still_come() -> None:
    """``add`` of a node that does not run says so, and the node votes when it is there."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        with pytest.raises(OutcomeUnknown, match=r"'d' is a learner that lacks \d+ entries"):
            await cluster["a"].running.members.add("d", "d", give_up_s=5)

        cluster.add_stranger("d")
        await cluster.start("d")

        await eventually(lambda: "d" in cluster["a"].running.status().configuration.voters)

    simulate(main)


def test_addition_that_is_taken_back_ends() -> None:
    """Whoever waits for a promotion hears that the learner was removed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()

        async def add() -> None:
            with pytest.raises(ChangeRefused, match="removed again"):
                await cluster["b"].running.members.add("d", "d")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            await eventually(lambda: "d" in cluster["a"].running.status().configuration.learners)
            await cluster["a"].running.members.remove("d")

    simulate(main)


def test_stopped_node_tells_nobody_of_the_members() -> None:
    """Who waits when the node stops is told what is known."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, first, second = await others(cluster)
        node = leader.running
        members = node.members

        async def change() -> None:
            with pytest.raises(OutcomeUnknown, match="may still be made"):
                await members.add_learner("d", "d")

        with first.disk.stall(), second.disk.stall():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                await eventually(lambda: leader.running.status().configuration.learners)
                await cluster.stop(leader.name)
        with pytest.raises(NodeStopped):
            await members.get()
        with pytest.raises(NodeStopped):
            _ = node.members

    simulate(main)


# --- Two at once, and faults -----------------------------------------------------------------------------------------


def test_two_operators_at_once_both_have_their_way() -> None:
    """Each change is worked out from the other's, wherever it is asked for."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()

        async with trio.open_nursery() as nursery:
            for number, name in enumerate("defg"):
                handle = cluster["abc"[number % 3]].running.members
                nursery.start_soon(handle.add_learner, name, name)

        members = await cluster["a"].running.members.get()
        assert names_of(members) == ("abc", "defg")
        async with trio.open_nursery() as nursery:
            for number, name in enumerate("defg"):
                nursery.start_soon(cluster["abc"[number % 3]].running.members.remove, name)
        assert names_of(await cluster["a"].running.members.get()) == ("abc", "")

    for seed in range(5):
        simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_leader_that_crashes_in_a_joint_change_leaves_it_to_the_next(seed: int) -> None:
    """Whoever asked for it, at another node, gets its answer: the change is finished, or was made anew."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await add_learners(cluster, "de")
        leader, first, second = await others(cluster)
        target = Configuration.of([first.name, "d", "e"])

        async def crash() -> None:
            await eventually(lambda: leader.running.status().configuration.is_joint)
            await cluster.crash(leader.name)

        cluster.network.partition([leader.name, first.name, second.name], ["d", "e"])
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                nursery.start_soon(heal_soon, cluster)
                members = await first.running.members.apply(target)

        assert members.configuration.voters == target.voters
        assert members.is_settled
        await first.running.propose(b"goes on")

    simulate(main, seed=seed, write_s=0.01)


async def heal_soon(cluster: SimulatedCluster) -> None:
    """Mend the network after a while."""
    await trio.sleep(3)
    cluster.network.heal()


@pytest.mark.parametrize("seed", range(10))
def test_leader_that_is_cut_off_in_a_change_loses_it_or_not(seed: int) -> None:
    """Its own caller, and another operator at the new leader, both get what they asked for in the end."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, first, second = await others(cluster)
        await leader.running.propose(b"x")
        cluster.network.isolate(leader.name)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leader.running.members.add_learner, "d", "d")
                nursery.start_soon(heal_soon, cluster)
                await trio.sleep(0.1)
                await first.running.members.add_learner("e", "e")

        members = await second.running.members.get()
        assert names_of(members) == ("abc", "de")
        await cluster.converge()

    simulate(main, seed=seed)


def test_learner_that_lags_is_promoted_only_when_it_does_not_any_more() -> None:
    """While it is cut off the voters are as they were, and serve."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        cluster.add_stranger("d")
        await cluster.start("d")
        cluster.network.isolate("d")
        leader = await cluster.leader("abc")
        await leader.running.members.add_learner("d", "d", promote=True)
        for number in range(50):
            await leader.running.propose(b"%d" % number)
            assert "d" in leader.running.status().configuration.learners

        cluster.network.heal()

        await eventually(lambda: "d" in leader.running.status().configuration.voters)
        await cluster.converge()
        assert len(cluster["d"].machine.commands) == 50

    simulate(main)


def test_index_of_the_members_is_that_of_their_entry() -> None:
    """It serves as a version: the same on every node."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.propose(b"x")
        members = await cluster["a"].running.members.add_learner("d", "d")
        await cluster.converge()

        assert {machine.running.status().configuration_index for machine in cluster.on} == {members.index}
        assert members.index == LogIndex(3)

    simulate(main)


def test_index_of_the_members_stays_when_the_entry_is_compacted() -> None:
    """Restarted from a snapshot, or given one, a node tells the same version: nobody's change is refused for that."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.members.add_learner("d", "d")
        index = (await cluster["a"].running.members.add_learner("e", "e")).index
        for number in range(30):
            await cluster["a"].running.propose(b"%d" % number)
        await cluster.converge()
        for name in "abc":
            await cluster.stop(name)
            await cluster.start(name)
        # It gets a snapshot, in which the entry is covered.
        cluster.add_stranger("d")
        await cluster.start("d")
        await cluster.converge()

        assert {machine.running.status().configuration_index for machine in cluster.on} == {index}
        assert min(machine.running.status().first_log_index for machine in cluster.on) > index
        members = await cluster["d"].running.members.remove("e", expected_index=index)
        assert names_of(members) == ("abc", "d")

    simulate(main, config=small_config(snapshot_entries=10, snapshot_tail_entries=2))


def test_storage_of_a_node_that_is_added_again_at_once_is_known_issue_3() -> None:
    """The links to it are still open, so it says no Hello again. A voter of unknown storage could lose it unseen."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, first, _ = await others(cluster)
        await leader.running.members.remove(first.name)

        members = await leader.running.members.add(first.name, first.name)

        voter = members.configuration.get(NodeId(first.name))
        assert voter is not None
        assert voter.is_voter
        assert voter.incarnation

    simulate(main)

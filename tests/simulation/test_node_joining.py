"""How a node comes to belong to a cluster, notices that it does not any more, and is found after it has moved."""

from __future__ import annotations

import pytest
import trio

from clustercore import Node
from clustercore.interfaces import ConfigError, NodeStopped
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, SimulatedCluster, eventually, simulate


def is_voter(cluster: SimulatedCluster, name: str) -> bool:
    """Whether a node votes, as every running one knows."""
    return all(name in machine.running.status().configuration.voters for machine in cluster.on)


def test_node_that_joins_becomes_a_voter_by_itself() -> None:
    """It needs one address of one member, and gets all others from the cluster."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.propose(b"before")
        cluster.add_stranger("d", join=["nobody", "b"])
        await cluster.start("d")

        await eventually(lambda: is_voter(cluster, "d"))

        await cluster["d"].running.propose(b"after")
        await cluster.converge()
        assert cluster["d"].machine.commands == [b"before", b"after"]
        # Started again it just goes on, even if whom it asked then is gone.
        index = cluster["a"].running.status().configuration_index
        await cluster.stop("d")
        cluster.strangers["d"] = ["nobody"]
        await cluster.start("d")
        await cluster["d"].running.propose(b"again")
        assert cluster["a"].running.status().configuration_index == index

    simulate(main)


def test_node_that_joins_waits_for_a_cluster_that_is_not_there_yet() -> None:
    """It asks again and again, and says why it does not work."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.add_stranger("d", join=["a", "b"])
        await cluster.start("d")
        await trio.sleep(30)
        assert cluster["d"].running.status().term == 0

        await cluster.start_all()

        await eventually(lambda: is_voter(cluster, "d"))

    simulate(main)


def test_two_nodes_of_one_name_cannot_both_belong() -> None:
    """The one that came later ends, and the error says what to do."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        cluster.add_stranger("d", join=["a"])
        await cluster.start("d")
        await eventually(lambda: is_voter(cluster, "d"))
        machine = cluster.add_stranger("d", join=["a"])
        cluster.addresses["d"] = "elsewhere"

        await cluster.start("d")
        await machine.ended.wait()

        assert isinstance(machine.error, ConfigError)
        assert (
            "node 'd' is a member already, and answers at 'd'; give this node, at 'elsewhere', an id of its own"
            in str(machine.error)
        )

    simulate(main, is_watched=False)


def test_node_at_an_address_of_another_cannot_be_added() -> None:
    """Two members at one address would be one node with two votes."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.members.add_learner("e", "there")
        machine = cluster.add_stranger("d", join=["a"])
        cluster.addresses["d"] = "there"

        await cluster.start("d")
        await machine.ended.wait()

        assert isinstance(machine.error, ConfigError)
        assert "'there' is the address of node 'e'" in str(machine.error)

    simulate(main)


def test_joining_node_whose_disk_was_wiped_joins_again() -> None:
    """At its old address it is a member still; at another one it says so. It votes only when it has the log again."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        cluster.add_stranger("d", join=["a"])
        await cluster.start("d")
        await eventually(lambda: is_voter(cluster, "d"))

        for address in ("d", "elsewhere"):
            await cluster.stop("d")
            index = cluster["a"].running.status().configuration_index
            cluster.wipe("d")
            cluster.addresses["d"] = address
            await cluster.start("d")
            await eventually(
                lambda: (
                    cluster["a"].running.status().configuration_index >= index + 2 and is_voter(cluster, "d")  # noqa: B023
                )
            )
        server = cluster["a"].running.status().configuration.get(cluster["d"].running.node_id)
        assert server is not None
        assert server.address == "elsewhere"

    simulate(main)


def test_member_that_has_moved_is_found_again() -> None:
    """Nobody's discovery knows where it is; it says so itself, since nobody calls it."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        cluster.add_stranger("d", join=["a"])
        await cluster.start("d")
        await eventually(lambda: is_voter(cluster, "d"))
        await cluster.stop("d")
        cluster.addresses["d"] = "elsewhere"

        await cluster.start("d")
        await cluster["a"].running.propose(b"x")

        await eventually(lambda: cluster["d"].machine.commands == [b"x"])
        server = (await cluster["a"].running.members.get()).configuration.get(cluster["d"].running.node_id)
        assert server is not None
        assert server.address == "elsewhere"

    simulate(main)


def test_founder_that_has_moved_is_found_where_discovery_does_not_say() -> None:
    """The others' discovery is fixed, and names the old address."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster["a"].running.propose(b"x")
        await cluster.stop("b")
        cluster.addresses["b"] = "elsewhere"

        await cluster.start("b")
        await cluster["a"].running.propose(b"y")

        await eventually(lambda: cluster["b"].machine.commands == [b"x", b"y"])

    simulate(main)


def test_node_that_listens_everywhere_tells_where_it_is() -> None:
    """What it listens at leads nowhere from elsewhere, so a node that joins must say more."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        machine = cluster.add_stranger("d", join=["a"])
        cluster.addresses["d"] = "0.0.0.0:7101"

        await cluster.start("d")

        assert isinstance(machine.error, ConfigError)
        assert "0.0.0.0:7101 is nowhere that others reach this node" in str(machine.error)

    simulate(main)


@pytest.mark.parametrize("role", ["voter", "learner"])
def test_removed_node_finds_out_and_can_come_back(role: str) -> None:
    """Nobody tells it, before or after a restart; it asks. It does not ask to be added again."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        cluster.add_stranger("d", join=["a"])
        await cluster.start("d")
        await eventually(lambda: is_voter(cluster, "d"))
        members = cluster["a"].running.members
        if role == "learner":
            await members.demote("d")
            await cluster.converge()

        removed = await members.remove("d")

        assert not cluster["d"].running.status().is_removed
        assert await cluster["d"].running.wait_removed() == removed.index
        assert cluster["d"].running.status().is_removed
        await cluster.stop("d")
        await cluster.start("d")
        await cluster["d"].running.wait_removed()
        term = cluster["a"].running.status().term
        await trio.sleep(60)
        assert cluster["a"].running.status().configuration_index == removed.index
        assert cluster["a"].running.status().term == term
        await members.add("d", "d")
        assert not cluster["d"].running.status().is_removed

    simulate(main)


def test_node_that_is_only_cut_off_is_not_removed() -> None:
    """Neither while nobody answers, nor when the others do."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster.leader()
        cluster.network.isolate("a")
        await trio.sleep(60)
        assert not cluster["a"].running.status().is_removed

        cluster.network.heal()
        await cluster.converge()
        assert not cluster["a"].running.status().is_removed

    simulate(main)


def test_stopped_node_is_not_removed() -> None:
    """Who waits for a removal when the node stops hears that."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = cluster["a"].running

        async def wait() -> None:
            with pytest.raises(NodeStopped, match="not removed until then"):
                await node.wait_removed()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            await cluster.stop("a")

    simulate(main)


def test_node_either_forms_a_cluster_or_joins_one() -> None:
    """Both at once would be two clusters of one name; and a string is no list of addresses."""

    def make(**how: object) -> Node:
        return Node(
            "a",
            machine=Journal(),
            transport=MemoryTransport(MemoryNetwork(), "a"),
            storage=MemoryStorage(),
            discovery=StaticDiscovery({}),
            **how,  # type: ignore[arg-type]
        )

    with pytest.raises(ConfigError, match="forms no cluster"):
        make(voters=["a"], join=True)
    with pytest.raises(ConfigError, match="must be a list of addresses, or True"):
        make(join="127.0.0.1:7101")
    make(join=True)

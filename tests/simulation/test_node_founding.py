"""A cluster that nobody named the voters of: one node founds it, the others are added, in whatever order they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
import trio

from clustercore import Founding, Node
from clustercore.interfaces import ConfigError, Member, MemberMetadata, NodeId, ProposalRefused, Role
from clustercore.runtime.founding import FoundingWatch, label_of
from clustercore_memory import (
    MemoryDiscovery,
    MemoryNetwork,
    MemoryRegistry,
    MemoryStorage,
    MemoryTransport,
    SourceFault,
)
from tests.simulation.cluster import Journal, SimulatedCluster, eventually, simulate

THREE = Founding(expect=3, founder="a")


def found_by(
    registry: MemoryRegistry, founding: Founding | Callable[[str], Founding] = THREE
) -> Callable[[str], Mapping[str, Any]]:
    """Let each machine's node find the others in one registry, where it registers itself."""

    def options(name: str) -> Mapping[str, Any]:
        chosen = founding if isinstance(founding, Founding) else founding(name)
        return {"discovery": MemoryDiscovery(registry), "voters": None, "join": False, "founding": chosen}

    return options


def voters_of(cluster: SimulatedCluster) -> set[frozenset[NodeId]]:
    """The voters, as each node that is on knows them."""
    return {machine.running.status().configuration.voters for machine in cluster.on}


def cluster_ids(cluster: SimulatedCluster) -> set[str]:
    """The clusters that nodes which are on belong to; empty for none."""
    return {machine.running.status().configuration.cluster_id for machine in cluster.on}


@pytest.mark.parametrize("order", list(permutations("abc")), ids="".join)
def test_three_nodes_form_one_cluster_in_any_order(order: tuple[str, ...]) -> None:
    """With pauses between them, and a fourth that comes later and is promoted as well."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry())
        for name in order:
            await cluster.start(name)
            await trio.sleep(20)
            if name != order[-1]:
                assert cluster_ids(cluster) == {""}
        await cluster.on[-1].running.propose(b"x")
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})

        await cluster.start("d")
        await eventually(lambda: voters_of(cluster) == {frozenset("abcd")})
        await cluster.converge()
        (cluster_id,) = cluster_ids(cluster)
        assert label_of(cluster_id) == "a"

    simulate(main, size=4)


def test_more_nodes_than_expected_may_come_at_once() -> None:
    """All belong to one cluster in the end, and all vote."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry())
        async with trio.open_nursery() as nursery:
            for name in "edcba":
                nursery.start_soon(cluster.start, name)
        await eventually(lambda: voters_of(cluster) == {frozenset("abcde")})
        await cluster.converge()

    simulate(main, size=5)


def test_nothing_is_acknowledged_before_all_first_voters_are_there() -> None:
    """Neither on the founder nor elsewhere, also after it was started again; a command waits, or is refused undone."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry(), lambda name: Founding(2 if name == "a" else 3, "a"))
        await cluster.start("a")
        await cluster.start("b")
        # The founder alone expects two. Then it expects three, as everybody should have done.
        await eventually(lambda: voters_of(cluster) == {frozenset("ab")})
        await cluster.stop("a")
        cluster.node_options = found_by(MemoryRegistry([Member(NodeId("b"), "b")]))
        await cluster.start("a")
        await cluster.leader()

        with trio.move_on_after(30) as waiting:
            await cluster["a"].running.propose(b"x")
        assert waiting.cancelled_caught
        with pytest.raises(ProposalRefused, match="nothing was done"):
            await cluster["b"].running.propose(b"y", give_up_s=5)

        await cluster.start("c")
        await cluster["b"].running.propose(b"z")
        assert cluster["b"].machine.commands[-1] == b"z"
        assert voters_of(cluster) == {frozenset("abc")}

    simulate(main)


def test_cluster_that_has_commands_takes_more_with_fewer_voters() -> None:
    """An operator may make it smaller than it began, and start its nodes as before."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry())
        await cluster.start_all()
        await cluster["a"].running.propose(b"x")
        await cluster["a"].running.members.remove("c")
        for name in "ab":
            await cluster.stop(name)
        for name in "ab":
            await cluster.start(name)

        await cluster["a"].running.propose(b"y")

    simulate(main)


@pytest.mark.parametrize("boundary", range(1, 16))
def test_founder_that_crashes_half_way_founds_one_cluster(boundary: int) -> None:
    """Wherever it loses its power while it founds, the others wait, and there is one cluster in the end."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry())
        cluster.plan_crash("a", boundary)
        await cluster.start("b")
        await cluster.start("c")
        await cluster.start("a")
        with trio.move_on_after(30):
            await cluster["a"].ended.wait()
        seen = cluster_ids(cluster) - {""}
        if cluster["a"].is_off:
            await cluster.start("a")
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})
        await cluster["b"].running.propose(b"x")
        assert seen <= cluster_ids(cluster)
        assert len(cluster_ids(cluster)) == 1

    simulate(main, seed=boundary, write_s=0.01)


def test_two_groups_that_see_nothing_of_each_other_do_not_both_form() -> None:
    """Each has as many nodes as are expected; only the founder's forms. The others join it when they see it."""

    async def main(cluster: SimulatedCluster) -> None:
        mine, theirs = MemoryRegistry(), MemoryRegistry()
        cluster.node_options = lambda name: found_by(mine if name in "abc" else theirs)(name)
        await cluster.start_all()
        await cluster["a"].running.propose(b"x")
        await trio.sleep(60)
        assert {cluster[name].running.status().configuration.cluster_id for name in "def"} == {""}

        theirs.register(Member(NodeId("b"), "b"))
        await eventually(lambda: voters_of(cluster) == {frozenset("abcdef")})

    simulate(main, size=6)


def test_nodes_that_disagree_on_the_founder_form_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Each finds too few that wait for it, and says who waits for whom."""
    caplog.set_level(logging.INFO, "clustercore")

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry(), lambda name: Founding(2, name))
        await cluster.start_all()
        await trio.sleep(60)
        assert cluster_ids(cluster) == {""}
        assert cluster["a"].running.status().waiting == text

    text = "founds a cluster of 2 once enough wait for it; now []; node b waits for b; node c waits for c"
    simulate(main)
    assert f"node a {text}" in caplog.text


def test_founder_that_never_comes_is_told_of_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """In the status at any time, and in the log at a slow pace: whoever looks hours later finds it there."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry(), lambda name: Founding(3, "nobody"))
        await cluster.start_all()
        await trio.sleep(400)
        for name, others in (("a", "b, c"), ("b", "a, c"), ("c", "a, b")):
            assert cluster[name].running.status().waiting == (
                f"waits for node nobody to found the cluster; it knows {others}"
            )

    simulate(main)
    # At once, and after 10, 30, 70, 150 and 310 s.
    assert caplog.messages.count("node a waits for node nobody to found the cluster; it knows b, c") == 6


def test_leader_that_takes_no_command_yet_says_how_many_voters_are_there() -> None:
    """Until as many are there as the cluster is to begin with."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry(), lambda name: Founding(2, "a"))
        for name in "ab":
            await cluster.start(name)
        await eventually(lambda: cluster["a"].running.status().role is Role.LEADER)
        assert cluster["a"].running.status().waiting == (
            "takes no command yet: 1 of the 2 voters that the cluster is to begin with are there"
        )

        await eventually(lambda: voters_of(cluster) == {frozenset("ab")})
        assert [cluster[name].running.status().waiting for name in "ab"] == ["", ""]

    simulate(main)


def test_founder_whose_disk_is_lost_joins_its_cluster() -> None:
    """It finds the others in the cluster, and forms none."""

    async def main(cluster: SimulatedCluster) -> None:
        cluster.node_options = found_by(MemoryRegistry())
        await cluster.start_all()
        await cluster["b"].running.propose(b"x")
        before = cluster_ids(cluster)
        await cluster.stop("a")
        cluster.wipe("a")
        await cluster.start("a")

        await eventually(lambda: cluster["a"].machine.commands == [b"x"])
        await cluster["a"].running.propose(b"y")
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})
        assert cluster_ids(cluster) == before

    simulate(main)


def test_founder_that_expects_nobody_else_waits_for_discovery_to_answer() -> None:
    """Its disk is lost, and others have the cluster by now: before it has heard of anybody, it founds no other."""

    async def main(cluster: SimulatedCluster) -> None:
        registry = MemoryRegistry()
        views = {name: MemoryDiscovery(registry) for name in cluster.names}
        cluster.node_options = lambda name: {"discovery": views[name], "founding": Founding(expect=1, founder="a")}
        await cluster.start_all()
        await cluster["a"].running.propose(b"x")
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})
        before = cluster_ids(cluster)
        await cluster.stop("a")
        cluster.wipe("a")
        views["a"] = MemoryDiscovery(registry)
        views["a"].fault = SourceFault.OUTAGE
        await cluster.start("a")
        await trio.sleep(60)
        assert cluster_ids(cluster) <= before | {""}

        views["a"].fault = SourceFault.NONE
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})
        await cluster["a"].running.propose(b"y")
        assert cluster_ids(cluster) == before

    simulate(main)


def test_word_of_a_cluster_keeps_a_lost_founder_from_founding(caplog: pytest.LogCaptureFixture) -> None:
    """Its members do not answer, and new nodes wait for it: it could found another, and rather waits."""
    caplog.set_level(logging.INFO, "clustercore")

    async def main(cluster: SimulatedCluster) -> None:
        registry = MemoryRegistry([Member(NodeId("old"), "nowhere", MemberMetadata("a-0123", "voter"))])
        cluster.node_options = found_by(registry)
        await cluster.start_all()
        await trio.sleep(60)
        assert cluster_ids(cluster) == {""}
        assert "node a founds no cluster: discovery has old in it already, and they do not answer" in caplog.text

        registry.deregister(NodeId("old"))
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})

    simulate(main)


def test_node_does_not_join_the_cluster_of_another_founder(caplog: pytest.LogCaptureFixture) -> None:
    """Discovery names its nodes; they are no cluster of this node's, and their word is not taken."""

    async def main(cluster: SimulatedCluster) -> None:
        registry, other = MemoryRegistry(), Founding(expect=2, founder="c", cluster="other")
        cluster.node_options = found_by(registry, lambda name: other if name in "cd" else Founding(2, "a"))
        cluster.outsiders |= {"c", "d"}
        for name in "cdb":
            await cluster.start(name)
        await cluster["c"].running.propose(b"theirs")
        await cluster["d"].running.members.add_learner("b", "b", promote=True)
        await trio.sleep(30)
        assert cluster["b"].running.status().configuration.cluster_id == ""
        assert "node 'b' waits for a cluster that 'a' founds, node 'c' belongs to other.c-" in caplog.text

        await cluster.start("a")
        await cluster["b"].running.propose(b"ours")
        await eventually(lambda: cluster["b"].machine.commands == [b"ours"])
        assert {label_of(one) for one in cluster_ids(cluster)} == {"a", "other.c"}

    simulate(main, size=4, is_watched=False)


def test_address_that_was_a_members_leads_to_no_other_cluster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the look and the request somebody else may have come to be there: the request is not made."""

    async def main(cluster: SimulatedCluster) -> None:
        other = Founding(expect=1, founder="c")
        cluster.node_options = found_by(MemoryRegistry(), lambda name: other if name == "c" else Founding(2, "a"))
        cluster.outsiders.add("c")
        await cluster.start("c")
        await cluster["c"].running.propose(b"theirs")

        async def look(self: FoundingWatch) -> bool:
            self.members_at = ("c",)
            return True

        monkeypatch.setattr(FoundingWatch, "look", look)
        await cluster.start("b")
        await trio.sleep(10)
        assert "node b: does not ask to be added to c-" in caplog.text
        assert "node b: the cluster has it among its members" not in caplog.text
        assert cluster["c"].running.status().configuration.members == {"c"}

    simulate(main, is_watched=False)


def test_discovery_that_does_not_answer_delays_and_forms_nothing() -> None:
    """Nobody finds anybody while it is down or empty; when it is back there is one cluster."""

    async def main(cluster: SimulatedCluster) -> None:
        registry = MemoryRegistry()
        views = {name: MemoryDiscovery(registry) for name in cluster.names}
        for view in views.values():
            view.fault = SourceFault.OUTAGE
        cluster.node_options = lambda name: {"discovery": views[name], "founding": THREE}
        await cluster.start_all()
        await trio.sleep(60)
        for view in views.values():
            view.lie({})
        await trio.sleep(60)
        assert cluster_ids(cluster) == {""}

        for view in views.values():
            view.fault = SourceFault.NONE
        await eventually(lambda: voters_of(cluster) == {frozenset("abc")})

    simulate(main)


@pytest.mark.parametrize(
    ("node_id", "founding", "label"),
    [
        ("n3", Founding(3), "n1"),
        ("kv-0", Founding(3), "kv-1"),
        ("node-0012", Founding(2), "node-0001"),
        ("7", Founding(2), "1"),
        ("alpha", Founding(3, "beta"), "beta"),
        ("alpha", Founding(1, "alpha"), "alpha"),
        ("n2", Founding(3, "n9", "shop"), "shop.n9"),
    ],
)
def test_founder_follows_from_the_configuration(node_id: str, founding: Founding, label: str) -> None:
    """By name, or as the one with the number 1."""
    assert founding.label(NodeId(node_id)) == label


@pytest.mark.parametrize(
    ("node_id", "founding", "message"),
    [
        ("alpha", Founding(3), "node_id 'alpha' does not end in a number; name the node that forms the cluster"),
        ("n1", Founding(1), "with expect = 1 it may be number 0 or number 1"),
    ],
)
def test_founder_that_does_not_follow_is_an_error(node_id: str, founding: Founding, message: str) -> None:
    """A node with such a configuration does not start."""
    with pytest.raises(ConfigError, match=message):
        make(node_id, founding=founding)


def test_founding_excludes_other_ways_to_belong() -> None:
    """And nobody can expect nobody."""
    for how in ({"voters": ["n1"]}, {"join": True}):
        with pytest.raises(ConfigError, match="founding is given, and so is voters or join"):
            make("n1", founding=Founding(3), **how)
    with pytest.raises(ConfigError, match="expect = 0 is not allowed"):
        Founding(0)


def make(node_id: str, **how: Any) -> Node:
    """A node that is not entered."""
    transport = MemoryTransport(MemoryNetwork(), node_id)
    parts: dict[str, Any] = {
        "machine": Journal(),
        "transport": transport,
        "storage": MemoryStorage(),
        "discovery": MemoryDiscovery(),
    }
    return Node(node_id, **parts, **how)

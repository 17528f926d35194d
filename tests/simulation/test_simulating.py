"""What a scenario of the simulator may do, and what the worlds that are drawn offer."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from clustercore.interfaces import Hello, LinkClosed, NodeHandle, NodeId, Service, ServiceError, TransportError
from clustercore.raft.config import RaftConfig
from clustercore.testing.simulation import QUIET, Chance, SimulatedNetwork, Simulation, draw_world, simulate
from clustercore.testing.simulation.map_machine import MapMachine


class Echo(MapMachine):
    """A map with a service of its own."""

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Offer it."""

        async def echo(request: bytes) -> bytes:
            if request == b"refused":
                raise ServiceError("never")
            if request == b"broken":
                raise RuntimeError("a bug in the handler")
            return node.node_id.encode() + b" heard " + request

        return [Service("test.Echo", {"Say": echo})]


def test_sim_call_reaches_the_services_of_a_machine() -> None:
    """On the machine that is named, or on any; errors are those of a transport."""
    heard: list[bytes] = []

    async def scenario(sim: Simulation[Echo]) -> None:
        heard.append(await sim.call("test.Echo/Say", b"this", on="b"))
        heard.extend([await sim.call("test.Echo/Say", b"that") for _ in range(20)])
        with pytest.raises(ServiceError, match="never"):
            await sim.call("test.Echo/Say", b"refused")
        with pytest.raises(ServiceError, match="Echo/Sing"):
            await sim.call("test.Echo/Sing", b"")
        with pytest.raises(LinkClosed, match="failed"):
            await sim.call("test.Echo/Say", b"broken")

    simulate(1, machine=Echo, scenario=scenario, world=QUIET)

    assert heard[0] == b"b heard this"
    assert set(heard[1:]) == {b"a heard that", b"b heard that", b"c heard that"}


def test_sim_call_meets_what_a_wire_meets() -> None:
    """A machine that is off, or stops meanwhile, is an error of the transport; the next call is a new one."""

    async def scenario(sim: Simulation[Echo]) -> None:
        # They end by switching everything on.
        await sim.faults_ended.wait()
        await sim.cluster.stop("a")
        with pytest.raises(TransportError):
            await sim.call("test.Echo/Say", b"this", on="a")
        await sim.cluster.start("a")
        assert await sim.call("test.Echo/Say", b"this", on="a") == b"a heard this"

    simulate(2, machine=Echo, scenario=scenario, world=QUIET)


def test_worlds_differ_in_what_their_members_do() -> None:
    """Each change of the members is drawn by some seeds, and is printed; never more machines than there are names."""
    worlds = [draw_world(seed) for seed in range(300)]
    changing = [world for world in worlds if world.changes]

    assert 0.3 < len(changing) / len(worlds) < 0.5
    assert {name for world in changing for name in world.changes} == {
        "read",
        "add",
        "add_learner",
        "promote",
        "demote",
        "remove",
        "replace",
        "apply",
        "move",
    }
    assert {world.strangers for world in changing} == {0, 1, 2, 3, 4}
    assert all(world.nodes + world.strangers <= 7 for world in worlds)
    assert all("changes={" in world.describe() for world in changing)


def test_worlds_hide_drift_within_what_leases_bear_and_beyond() -> None:
    """Where leases are used no two clocks differ by more than nodes are told that they may."""
    hiding = [world for seed in range(500) if (world := draw_world(seed)).hides_drift]
    bound = 1 + RaftConfig().max_clock_drift

    assert max(world.clock_spread for world in hiding if world.has_true_clocks) <= bound
    assert max(world.clock_spread for world in hiding if world.has_true_clocks) > 1.08
    assert max(world.clock_spread for world in hiding) > 2
    assert any(not world.faults.get("pause") and not world.has_true_clocks for world in hiding)
    assert not attrs.evolve(QUIET, clock_rates=(1.0, 1.2, 1.0), hides_drift=True).has_true_clocks
    assert attrs.evolve(QUIET, clock_rates=(1.0, 1.2, 1.0)).has_true_clocks


def test_hidden_rate_of_a_clock_is_told_nobody() -> None:
    """What a node tells in its own seconds the other takes for as many of its own."""
    network = SimulatedNetwork(Chance(1))
    hello = Hello(NodeId("a"), NodeId("b"), election_timeout_s=1.5)

    assert network.leave("a", "b", hello) is hello
    network.hidden_rates = {"a": 2.0, "b": 0.5}

    # The clock of a is fast, and its timeout half a second and a quarter long; that of b shows a quarter of it.
    said = network.leave("a", "b", attrs.evolve(hello, election_timeout_s=1.5 / 2.0))
    assert isinstance(said, Hello)
    assert said.election_timeout_s == 1.5 / 0.5

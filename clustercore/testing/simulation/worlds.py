"""The world of one run: everything about it that is drawn once, at its beginning, from its seed.

Worlds differ a lot, because each hides other bugs: with snapshots after three entries nothing is ever sent from a log,
with batches unbounded a term's first entry travels with its last, and a world that is too wild commits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.network import NetworkOptions

__all__ = ["QUIET", "SimulatedWorld", "draw_world"]


@attrs.frozen
class SimulatedWorld:
    """What stays the same in a run. ``draw_world`` draws one from a seed."""

    # Machines, from 1 to 7.
    nodes: int = 3
    # Limits of the nodes, small so that they are met (``NodeConfig``, ``RaftConfig``).
    snapshot_entries: int = 100_000
    snapshot_tail_entries: int = 10_000
    snapshot_chunk_bytes: int = 1024 * 1024
    max_append_entries: int = 1024
    max_inflight_appends: int = 4
    max_pending_proposals: int = 4096
    forward_timeout_s: float = 10.0
    snapshot_timeout_s: float = 10.0
    # How long a write to a disk takes, and the mean of what comes on top, in seconds.
    write_s: float = 0.0
    write_jitter_s: float = 0.0
    network: NetworkOptions = attrs.field(factory=NetworkOptions)
    # How fast each machine counts its timeouts: at 2 they run out in half the time.
    clock_rates: tuple[float, ...] = ()
    # How long nothing goes wrong at first, so that there is a cluster, in virtual seconds.
    calm_s: float = 0.0
    # How long there are faults after that; one comes after ``pause_s`` on the average.
    faults_s: float = 30.0
    pause_s: float = 1.0
    # Which faults there are (``clustercore.testing.simulation.faults``), each with its share.
    faults: Mapping[str, int] = attrs.field(factory=dict)

    @property
    def has_true_clocks(self) -> bool:
        """Whether leases may be relied on: no machine is suspended."""
        return not self.faults.get("pause")

    def config_of(self, name: str) -> NodeConfig:
        """Return the configuration of a node: the shipped timing at its own rate, and the limits of the world."""
        rate = self.clock_rates["abcdefg".index(name)] if self.clock_rates else 1.0
        shipped = RaftConfig()
        return NodeConfig(
            raft=RaftConfig(
                election_timeout_s=shipped.election_timeout_s / rate,
                heartbeat_interval_s=shipped.heartbeat_interval_s / rate,
                disk_stall_s=shipped.disk_stall_s / rate,
                snapshot_timeout_s=self.snapshot_timeout_s / rate,
                max_append_entries=self.max_append_entries,
                max_inflight_appends=self.max_inflight_appends,
            ),
            snapshot_entries=self.snapshot_entries,
            snapshot_tail_entries=self.snapshot_tail_entries,
            snapshot_chunk_bytes=self.snapshot_chunk_bytes,
            max_pending_proposals=self.max_pending_proposals,
            forward_timeout_s=self.forward_timeout_s / rate,
        )

    def describe(self) -> str:
        """Return everything that is not as it is by default, in one line."""
        standard = SimulatedWorld()
        parts = [
            f"{field.name}={value!r}"
            for field in attrs.fields(SimulatedWorld)
            if field.name != "network" and (value := getattr(self, field.name)) != getattr(standard, field.name)
        ]
        wires = [
            f"{field.name}={value!r}"
            for field in attrs.fields(NetworkOptions)
            if (value := getattr(self.network, field.name)) != getattr(standard.network, field.name)
        ]
        return " ".join([f"nodes={self.nodes}", *(part for part in parts if not part.startswith("nodes=")), *wires])


# A world without faults.
QUIET = SimulatedWorld(faults_s=0.0)


def draw_world(seed: int, *, nodes: int | None = None, faults_s: float | None = None) -> SimulatedWorld:
    """Draw a world.

    Args:
        seed: Decides everything that is not given.
        nodes: How many machines.
        faults_s: How long there are faults.
    """
    chance = Chance(f"{seed}/world")
    drawn_nodes = chance.choice([1, 2, 3, 3, 3, 4, 5, 5, 6, 7])
    world = SimulatedWorld(
        nodes=nodes if nodes is not None else drawn_nodes,
        snapshot_entries=chance.choice([3, 8, 50, 1000]),
        snapshot_tail_entries=chance.choice([0, 0, 3, 20]),
        snapshot_chunk_bytes=chance.choice([16, 200, 1024 * 1024]),
        max_append_entries=chance.choice([1, 2, 8, 1024]),
        max_inflight_appends=chance.choice([1, 2, 4, 16]),
        max_pending_proposals=chance.choice([1, 3, 100, 4096]),
        forward_timeout_s=chance.choice([0.5, 3.0, 10.0]),
        snapshot_timeout_s=chance.choice([2.0, 10.0]),
        write_s=chance.choice([0.0, 0.0, 0.001, 0.01, 0.1]),
        write_jitter_s=chance.choice([0.0, 0.002, 0.05]),
        network=_draw_network(chance),
        calm_s=chance.choice([0.0, 3.0, 3.0, 3.0]),
        faults_s=faults_s if faults_s is not None else chance.choice([20.0, 40.0, 60.0]),
        pause_s=chance.choice([0.3, 1.0, 1.0, 3.0]),
        faults=_draw_faults(chance),
    )
    spread = chance.choice([1.0, 1.0, 1.1, 2.0])
    # Between half and twice as fast at the most, and most of them alike.
    rates = tuple(round(spread ** chance.uniform(-1, 1), 3) for _ in range(world.nodes))
    return attrs.evolve(world, clock_rates=rates if spread > 1 else ())


def _draw_network(chance: Chance) -> NetworkOptions:
    is_lossy = chance.happens(0.4)
    return NetworkOptions(
        latency_s=chance.choice([0.0, 0.0005, 0.005, 0.03]),
        jitter_s=chance.choice([0.0, 0.0005, 0.01, 0.05]),
        is_ordered=chance.happens(0.7),
        lost=chance.choice([0.001, 0.02, 0.1]) if is_lossy else 0.0,
        repeated=chance.choice([0.0, 0.02, 0.1]) if is_lossy else 0.0,
        reset=chance.choice([0.0, 0.0, 0.001, 0.02]),
        is_silent=chance.happens(0.5),
    )


# Each fault with what it counts where it is drawn at all. What mends is always there.
_FAULTS = {
    "partition": 2,
    "isolate": 3,
    "one_way": 2,
    "bridge": 2,
    "clog": 2,
    "slow": 2,
    "crash": 3,
    "crash_at_a_write": 3,
    "crash_anywhere": 3,
    "power_cut": 2,
    "stop": 2,
    "stall": 2,
    "pause": 2,
    "clock_step": 1,
    "weather": 1,
    "transfer": 3,
    "fail_fsync": 1,
    "fill_disk": 1,
    "rot": 1,
    "lose_disk": 1,
}
# What mends, as parts of all that does harm: a cluster that is always broken shows nothing.
_MENDING = {"heal": 0.25, "start_one": 0.3, "rest": 0.15}


def _draw_faults(chance: Chance) -> dict[str, int]:
    share = chance.choice([0.3, 0.6, 1.0])
    drawn = {name: weight for name, weight in _FAULTS.items() if chance.happens(share)}
    harm = sum(drawn.values())
    return drawn | {name: max(1, round(part * harm)) for name, part in _MENDING.items()}

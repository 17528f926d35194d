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

__all__ = ["MAX_NODES", "NAMES", "QUIET", "SimulatedWorld", "draw_world"]

# The names of machines, in order, and so the most that there can be.
NAMES = "abcdefg"
MAX_NODES = len(NAMES)


@attrs.frozen
class SimulatedWorld:
    """What stays the same in a run. ``draw_world`` draws one from a seed."""

    # Machines that form the cluster, and those that wait to be added to it; together from 1 to 7.
    nodes: int = 3
    strangers: int = 0
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
    # Whether nobody tells how fast that is: then leases hold only if no two rates differ by more than the nodes allow
    # for (``RaftConfig.max_clock_drift``). Otherwise each node tells the others how long its timeouts are.
    hides_drift: bool = False
    # How long nothing goes wrong at first, so that there is a cluster, in virtual seconds.
    calm_s: float = 0.0
    # How long there are faults after that; one comes after ``pause_s`` on the average.
    faults_s: float = 30.0
    pause_s: float = 1.0
    # Which faults there are (``clustercore.testing.simulation.faults``), each with its share.
    faults: Mapping[str, int] = attrs.field(factory=dict)
    # Which changes of the members operators ask for (``clustercore.testing.simulation.operators``), each with its
    # share, and what passes between two, on the average, in virtual seconds. Without any there are no operators.
    changes: Mapping[str, int] = attrs.field(factory=dict)
    change_pause_s: float = 1.0

    @property
    def names(self) -> str:
        """The machines that form the cluster, a letter each."""
        return NAMES[: self.nodes]

    @property
    def all_names(self) -> str:
        """All machines."""
        return NAMES[: self.nodes + self.strangers]

    @property
    def clock_spread(self) -> float:
        """How many times as fast as the slowest clock the fastest one goes."""
        rates = self.clock_rates[: self.nodes + self.strangers] or (1.0,)
        return max(rates) / min(rates)

    @property
    def has_true_clocks(self) -> bool:
        """Whether leases may be relied on: no machine is suspended, and no clock runs faster than nodes allow for."""
        is_bounded = self.clock_spread <= 1 + RaftConfig().max_clock_drift
        return not self.faults.get("pause") and (is_bounded or not self.hides_drift)

    def config_of(self, name: str) -> NodeConfig:
        """Return the configuration of a node: the shipped timing at its own rate, and the limits of the world."""
        rate = self.clock_rates[NAMES.index(name)] if self.clock_rates else 1.0
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
    hides_drift = spread > 1 and chance.happens(0.5)
    if hides_drift and chance.happens(0.7):
        # Two clocks differ by its square: by just what leases bear.
        spread = 1.048
    # Between half and twice as fast at the most, and most of them alike.
    rates = tuple(round(spread ** chance.uniform(-1, 1), 3) for _ in range(MAX_NODES))
    world = attrs.evolve(world, clock_rates=rates if spread > 1 else (), hides_drift=hides_drift)
    return _with_changes(world, chance) if chance.happens(0.4) else world


# Each change with what it counts where it is drawn at all. Reading is always there.
_CHANGES = {"add": 4, "add_learner": 2, "promote": 2, "demote": 1, "remove": 3, "replace": 3, "apply": 1}


def _with_changes(world: SimulatedWorld, chance: Chance) -> SimulatedWorld:
    """Draw operators, and machines that they may add."""
    share = chance.choice([0.5, 1.0, 1.0])
    drawn = {name: weight for name, weight in _CHANGES.items() if chance.happens(share)}
    changing = attrs.evolve(
        world,
        strangers=min(chance.choice([1, 2, 3, 4]), MAX_NODES - world.nodes),
        changes=drawn | {"read": 1},
        change_pause_s=chance.choice([0.3, 1.0, 3.0]),
        # Whoever is outside may come back under its name with an empty disk.
        faults={**world.faults, "come_back": 2} if chance.happens(0.6) else world.faults,
    )
    if chance.happens(0.5):
        return changing
    # Whoever serves at another address after a start says so itself, and operators do, rightly or not.
    return attrs.evolve(changing, changes={**changing.changes, "move": 3}, faults={**changing.faults, "move_out": 3})


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
    "crash_after_promise": 2,
    "power_cut": 2,
    "stop": 2,
    "stall": 2,
    "pause": 2,
    "clock_step": 1,
    "weather": 1,
    "transfer": 3,
    "fail_fsync": 1,
    "fill_disk": 1,
    "slow_disk": 1,
    "flip_bit": 1,
    "misdirect": 1,
    "lose_disk": 1,
}
# What mends, as parts of all that does harm: a cluster that is always broken shows nothing.
_MENDING = {"heal": 0.25, "start_one": 0.3, "rest": 0.15}


def _draw_faults(chance: Chance) -> dict[str, int]:
    share = chance.choice([0.3, 0.6, 1.0])
    drawn = {name: weight for name, weight in _FAULTS.items() if chance.happens(share)}
    harm = sum(drawn.values())
    return drawn | {name: max(1, round(part * harm)) for name, part in _MENDING.items()}

"""What a seed draws for a run of the sync: the wires, the schedule, the clocks, and which faults come."""

from __future__ import annotations

import math

import attrs

from clustercore.sync import OffsetPolicy
from clustercore.sync.schedule import SyncConfig
from clustercore.testing.simulation import Chance, NetworkOptions

__all__ = ["FAULTS", "LOSSES", "SyncWorld", "draw_sync_world"]

# What may happen to a machine or between two, each drawn as often.
FAULTS = ("crash", "crash_anywhere", "crash_in_commit", "stop", "pause", "cut", "clock_step", "wipe", "put_back")
# Of these every world has one that loses what a machine knew, or none.
LOSSES = ("wipe", "put_back")

# Seconds that a clock is set by, either way.
CLOCK_STEP_S = 3600.0


@attrs.frozen(kw_only=True)
class SyncWorld:
    """Everything that decides a run, but for its chance."""

    nodes: int = 3
    network: NetworkOptions = attrs.field(factory=NetworkOptions)
    config: SyncConfig = attrs.field(factory=lambda: SyncConfig(full_interval_s=math.inf))
    # Machines' clocks say the time in steps of so many milliseconds: within one, all timestamps are equal.
    clock_grain_ms: int = 1
    policy: OffsetPolicy = OffsetPolicy.QUARANTINE
    # How long a commit takes.
    write_s: float = 0.0
    # Edits that each node makes, and of how many entities of each kind.
    edits: int = 40
    entities: int = 5
    # Entities that live and die once.
    deaths: int = 15
    # For how long there are edits and faults, in virtual seconds.
    faults_s: float = 30.0
    # Which, and the mean time between two of them.
    faults: tuple[str, ...] = ()
    every_s: float = 3.0

    def describe(self) -> str:
        """Return it in one line."""
        full = "off" if self.config.full_interval_s == math.inf else f"each {self.config.full_interval_s:g} s"
        network = self.network
        collects = "" if self.config.collect_interval_s == math.inf else "deletions collected, "
        return (
            f"{self.nodes} nodes, full sync {full}, window {self.config.window_s:g} s, {collects}batches of "
            f"{self.config.max_batch_changes}, calls lost {network.call_lost:.0%} and repeated "
            f"{network.call_repeated:.0%}, clocks in steps of {self.clock_grain_ms} ms, {self.policy.value}, "
            f"{self.edits} edits each, faults: {', '.join(self.faults) or 'none'}"
        )


def draw_sync_world(seed: int, *, full: bool | None = None) -> SyncWorld:
    """Return the world of a seed.

    Args:
        seed: Decides everything else.
        full: Whether full syncs are on; None: as the seed decides. Off, only the first session with a peer, and one
            after a loss, compares everything.
    """
    chance = Chance(f"{seed}/sync world")
    has_full = chance.happens(0.5) if full is None else full
    faults = [fault for fault in FAULTS if fault not in LOSSES and chance.happens(0.6)]
    if chance.happens(0.25):
        faults.append(chance.choice(LOSSES))
    # A clock that was set back lets a machine that forgot its writes make others under their very names.
    if "put_back" in faults and "clock_step" in faults:
        faults.remove("clock_step")
    window_s = chance.choice((0.0, 0.5, 1.0))
    # Drawn apart: what else a world is does not depend on it.
    collects = Chance(f"{seed}/sync collection").happens(0.5)
    config = SyncConfig(
        incremental_interval_s=2.0,
        full_interval_s=5.0 if has_full else math.inf,
        window_s=window_s,
        window_limit_s=6.0,
        max_batch_changes=chance.choice((1, 2, 5, 500)),
        max_batch_bytes=chance.choice((1024, 1024 * 1024)),
        call_timeout_s=1.0,
        collect_interval_s=2.0 if collects else math.inf,
        grace_s=Chance(f"{seed}/sync grace").choice((0.5, 3.0, 10.0)),
    )
    network = NetworkOptions(
        latency_s=chance.choice((0.0, 0.002, 0.05)),
        jitter_s=chance.choice((0.0, 0.01, 0.2)),
        call_lost=chance.choice((0.0, 0.05, 0.3)),
        call_repeated=chance.choice((0.0, 0.05, 0.3)),
    )
    return SyncWorld(
        nodes=chance.choice((2, 2, 3, 4)),
        network=network,
        config=config,
        clock_grain_ms=chance.choice((1, 100, 10_000)),
        policy=chance.choice(tuple(OffsetPolicy)),
        write_s=chance.choice((0.0, 0.001, 0.02, 0.3)),
        faults=tuple(faults),
        every_s=chance.choice((1.0, 3.0, 8.0)),
    )

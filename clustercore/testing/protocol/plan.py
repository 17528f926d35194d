"""The worlds that runs of the protocol level happen in: every option, and how a seed draws them.

A world that is too tame finds nothing, and one that is too wild commits nothing and finds nothing either. With batches
unbounded and a no-op always first the bug of Figure 8 cannot be seen at all. So every seed draws its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs

from clustercore.raft.config import RaftConfig

__all__ = ["CHAOS", "UNBOUNDED", "WorldPlan", "draw_plan", "plan_from"]

# More entries than any log of a run has.
UNBOUNDED = 10_000
# How wild the faults of a world may be: factors of how often each kind of fault is drawn.
CHAOS = {"tame": 0.25, "rough": 1.0, "wild": 2.5}
MAX_NODES = 9


@attrs.frozen(kw_only=True)
class WorldPlan:
    """All that a world of cores is built with. Every value can be written as JSON.

    Raises: ValueError if a value is out of range.
    """

    # Decides what the cores draw, and nothing else.
    seed: int = 0
    # Voters at first, named n1, n2, and so on.
    voters: int = 3
    # Nodes that run beside them and belong to no cluster until they are added.
    spares: int = 0
    # The cluster has no id at first: its first leader forms it, and names the storage of each voter.
    is_forming: bool = False
    # Entries and bytes of one AppendEntries, and how many requests are on their way to one follower.
    max_append_entries: int = UNBOUNDED
    max_append_bytes: int = 100_000
    max_inflight_appends: int = 4
    # A node takes a snapshot by itself once so many entries are applied since the last; 0 for never.
    snapshot_every: int = 0
    # Entries that the log keeps of what its snapshot covers.
    snapshot_tail: int = 0
    # Bytes of one chunk of a snapshot; the state of a machine is 8 bytes.
    chunk_bytes: int = 3
    # What a leader's log keeps for a follower that is sent a snapshot: by default everything.
    snapshot_hold_bytes: int = 1_000_000
    # Messages between two nodes arrive in the order in which they were sent, and once.
    has_ordered_links: bool = False
    # The place of a node whose disk is slow and finishes one write at a time, from 0; -1 for none.
    slow_disk: int = -1
    # How fast each node's clock runs, by place; those not named run at 1.
    clock_rates: tuple[float, ...] = ()
    # Voters may lose their disk, as long as what is committed survives, and members may come back with an empty one.
    loses_disks: bool = False
    # A name of CHAOS.
    chaos: str = "rough"

    def __attrs_post_init__(self) -> None:
        """Check what a world rests on."""
        if not (self.voters >= 1 and self.spares >= 0 and self.voters + self.spares <= MAX_NODES):
            raise ValueError(f"voters = {self.voters}, spares = {self.spares}; at least 1, and at most {MAX_NODES}")
        if self.chaos not in CHAOS:
            raise ValueError(f"chaos = {self.chaos!r} is not allowed; one of {', '.join(CHAOS)} is")
        if not all(0.5 <= rate <= 2 for rate in self.clock_rates):
            raise ValueError(f"clock_rates = {self.clock_rates} are not allowed; each is from 0.5 to 2")
        if self.loses_disks and not self.is_forming:
            raise ValueError("loses_disks needs is_forming: a disk is missed only if the cluster has named it")
        for name in (
            "max_append_entries",
            "max_append_bytes",
            "max_inflight_appends",
            "chunk_bytes",
            "snapshot_hold_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not allowed; at least 1 is")

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes, the voters first."""
        return tuple(f"n{number}" for number in range(1, self.voters + self.spares + 1))

    @property
    def has_sessions(self) -> bool:
        """Whether some commands are of sessions: in snapshots these take more than a few bytes, each a message then."""
        return self.chunk_bytes >= 100

    @property
    def max_clock_drift(self) -> float:
        """What the cores are told of the clocks; leases hold only if ``has_true_drift``."""
        return min(max(self._spread - 1, 0.0), 0.99)

    @property
    def has_true_drift(self) -> bool:
        """Whether no two clocks run apart by more than the cores are told."""
        return self._spread - 1 <= self.max_clock_drift

    @property
    def _spread(self) -> float:
        rates = [*self.clock_rates[: len(self.names)], *([1.0] if len(self.clock_rates) < len(self.names) else [])]
        return max(rates) / min(rates)

    def config(self) -> RaftConfig:
        """Return the numbers that the cores are run with."""
        return RaftConfig(
            max_append_entries=self.max_append_entries,
            max_append_bytes=self.max_append_bytes,
            max_inflight_appends=self.max_inflight_appends,
            snapshot_timeout_s=2.0,
            snapshot_hold_bytes=self.snapshot_hold_bytes,
            max_clock_drift=self.max_clock_drift,
        )

    def describe(self) -> str:
        """Return the world in one line, leaving out what is as usual."""
        usual = WorldPlan()
        values = attrs.asdict(self)
        shown = {name: value for name, value in values.items() if value != getattr(usual, name) or name == "voters"}
        return " ".join(f"{name}={_shown(value)}" for name, value in shown.items())


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def draw_plan(seed: int) -> WorldPlan:
    """Return the world of a seed."""
    rng = random.Random(seed)
    voters = rng.choice([1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7])
    has_members = rng.random() < 0.6
    is_forming = rng.random() < 0.4
    return WorldPlan(
        seed=seed,
        voters=voters,
        spares=rng.choice([1, 1, 2, 2]) if has_members else 0,
        is_forming=is_forming,
        max_append_entries=rng.choice([1, 1, 2, 8, UNBOUNDED]),
        max_append_bytes=rng.choice([1, 60, 100_000, 100_000]),
        max_inflight_appends=rng.choice([1, 2, 4, 8]),
        snapshot_every=rng.choice([0, 0, 3, 3, 5, 12, 40]),
        snapshot_tail=rng.choice([0, 0, 1, 3]),
        chunk_bytes=rng.choice([1, 3, 100]),
        snapshot_hold_bytes=rng.choice([60, 1_000_000, 1_000_000]),
        has_ordered_links=rng.random() < 0.25,
        slow_disk=rng.choice([-1, -1, -1, 0, 1, 2]),
        clock_rates=_draw_rates(rng, voters),
        loses_disks=is_forming and voters >= 3 and rng.random() < 0.6,
        chaos=rng.choice(["tame", "rough", "rough", "wild"]),
    )


def _draw_rates(rng: random.Random, voters: int) -> tuple[float, ...]:
    """Draw clocks that run alike, or apart by what leases allow for, or by up to a factor of four, which is more."""
    lowest, highest = rng.choice([(1.0, 1.0), (1.0, 1.0), (0.8, 1.25), (0.5, 2.0)])
    return tuple(round(rng.uniform(lowest, highest), 2) for _ in range(voters)) if lowest < highest else ()


def plan_from(options: Mapping[str, Any]) -> WorldPlan:
    """Return the world that ``attrs.asdict`` told of.

    Raises: ValueError if the options are of no world; the text names what is wrong.
    """
    fields = attrs.fields_dict(WorldPlan)
    unknown = sorted(options.keys() - fields.keys())
    if unknown:
        raise ValueError(f"a world has no {', '.join(unknown)}; it has {', '.join(fields)}")
    values = dict(options)
    if "clock_rates" in values:
        values["clock_rates"] = tuple(values["clock_rates"])
    return WorldPlan(**values)

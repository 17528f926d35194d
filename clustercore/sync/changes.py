"""What stores tell each other: changes, and what became of them."""

from __future__ import annotations

from enum import Enum

import attrs

from clustercore.interfaces import HybridTime
from clustercore.sync.writes import GroupState, Stamp, split_time

__all__ = ["ApplyReport", "Change", "Changes", "ClockTooFarAhead", "Corruption", "MergeOutcome", "ResolverFailed"]
__all__ += ["StoreEvent", "StoreWentBack", "ZombieRefused"]


@attrs.frozen
class Change:
    """The newest state of one group of one entity."""

    kind: str
    entity_id: str
    # "" for the group that holds an entity's tombstones.
    group: str
    state: GroupState
    # The number of the change in the store that tells of it; 0 where that does not matter.
    seq: int = 0

    @property
    def updated(self) -> HybridTime:
        """When the newest of its writes was made."""
        return split_time(max((head.stamp.time for head in self.state.heads), default=0))


@attrs.frozen
class Changes:
    """A part of a store's log of changes."""

    # By seq.
    changes: tuple[Change, ...]
    # Ask for the next part from here: everything up to it is in this part or the ones before, or was left out as asked.
    next_seq: int
    # Whether there is more now.
    has_more: bool
    # Whoever has not seen the changes up to here may lack deletions, and needs a full sync.
    floor: int
    # Numbers mean something only within one epoch.
    epoch: str


class MergeOutcome(Enum):
    """What became of a change that came."""

    # Nothing of this group was here.
    NEW = "new"
    # It is what is here.
    DUPLICATE = "duplicate"
    # Older than what is here.
    STALE = "stale"
    # Made in knowledge of what was here, and took its place.
    FAST_FORWARD = "fast-forward"
    # Met what was here; see the conflict log.
    CONCURRENT = "concurrent"
    # Waits: its time is too far ahead of this node's clock.
    HELD = "held"
    # Refused: the entity was deleted, and the tombstone collected.
    ZOMBIE = "zombie"
    # Refused: the kind is the Raft log's.
    REFUSED = "refused"


@attrs.frozen
class ApplyReport:
    """What became of the changes of one batch; durable when it is returned."""

    # In the order of the changes.
    outcomes: tuple[MergeOutcome, ...]
    # Conflicts that were met here for the first time.
    conflicts: int = 0
    # Deletions that were collected here, and that whoever sent the zombies should be told of.
    rebuttals: tuple[Change, ...] = ()

    def count(self, *outcomes: MergeOutcome) -> int:
        """Return how many changes had one of these outcomes."""
        return sum(outcome in outcomes for outcome in self.outcomes)


@attrs.frozen
class StoreEvent:
    """Something that operators should hear of."""

    kind: str
    entity_id: str
    group: str


@attrs.frozen
class ClockTooFarAhead(StoreEvent):
    """A write's time is further ahead of this node's clock than allowed; the policy says what became of it."""

    stamp: Stamp
    # By how much, in ms.
    ahead_ms: int


@attrs.frozen
class Corruption(StoreEvent):
    """Two different writes have one stamp: two nodes have one id, or one is broken. The larger bytes win."""

    stamp: Stamp


@attrs.frozen
class ResolverFailed(StoreEvent):
    """The group's conflict resolver raised; the last write holds."""

    error: Exception


@attrs.frozen
class StoreWentBack(StoreEvent):
    """A peer has writes of this node that its store does not know: an old copy was put back. It has a new epoch now."""

    stamp: Stamp


@attrs.frozen
class ZombieRefused(StoreEvent):
    """A peer has an entity that was deleted so long ago that the tombstone was collected; it was not taken."""

    stamps: tuple[Stamp, ...]

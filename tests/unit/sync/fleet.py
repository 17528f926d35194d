"""Kinds and stores for tests of sync."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from clustercore.interfaces import NodeId
from clustercore.sync import Change, EntityKind, EntityStore, FieldGroup, HybridLogicalClock, StoreEvent
from clustercore_lww import MaxResolver
from clustercore_memory import MemoryRecords

__all__ = ["MISSION", "UAV", "Mission", "Uav", "Wall", "exchange", "make_store"]


@attrs.frozen
class Mission:
    state: str
    progress: int
    name: str = ""
    updated_at: int = 0


@attrs.frozen
class Uav:
    status: str
    last_heartbeat: int = 0
    current_mission_id: str | None = None


MISSION = EntityKind(
    "mission",
    Mission,
    key_fields=("state", "progress", "updated_at"),
    groups={"progress": ("state", "progress")},
    updated_field="updated_at",
)
UAV = EntityKind(
    "uav",
    Uav,
    key_fields=("status", "last_heartbeat", "current_mission_id"),
    groups={
        "status": ["status"],
        "heartbeat": FieldGroup(("last_heartbeat",), MaxResolver(), is_background=True),
        "mission": ["current_mission_id"],
    },
)


class Wall:
    """A wall clock that stands until it is set."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def make_store(
    name: str,
    *,
    records: MemoryRecords | None = None,
    wall: Callable[[], int] | None = None,
    on_event: Callable[[StoreEvent], None] = lambda event: None,
) -> EntityStore:
    """Return a store of missions and UAVs, in memory, with a clock that stands unless another is given."""
    clock = HybridLogicalClock(Wall() if wall is None else wall)
    records = MemoryRecords() if records is None else records
    return EntityStore(NodeId(name), [MISSION, UAV], records, clock=clock, on_event=on_event)


async def exchange(*stores: EntityStore) -> None:
    """Bring all that each store has to each other one, twice, so that what was learned on the way gets everywhere."""
    for _ in range(2):
        for store in stores:
            for other in stores:
                if other is not store:
                    changes: tuple[Change, ...] = store.changes(0, 10**9).changes
                    await other.apply(changes, store.node_id)

"""What the servers keep in step: missions and UAVs."""

import attrs

from clustercore.sync import EntityKind, FieldGroup
from clustercore_lww import MaxResolver

# What operators may order, and how the mission ends then.
ORDERS = {"ABORT": "ABORTED", "RECALL": "RECALLED"}
ENDED = {"COMPLETED", *ORDERS.values()}


@attrs.frozen
class Mission:
    # PLANNED, RUNNING, or one of ENDED. In one group with progress: no mission is COMPLETED at 40 %.
    state: str = "PLANNED"
    progress: int = 0
    # One of ORDERS. Not in the group of what the scheduler reports: a report is no conflict with an order.
    order: str = ""
    area: str = ""
    updated_at: int = 0


@attrs.frozen
class Uav:
    status: str = "IDLE"
    last_heartbeat: int = 0
    current_mission_id: str | None = None
    model: str = ""
    serial: str = ""


MISSION = EntityKind(
    "mission",
    Mission,
    # Sent at once, also while the mission changes all the time; its area can wait.
    key_fields=("state", "progress", "order", "updated_at"),
    groups={"progress": ("state", "progress"), "order": ("order",)},
    updated_field="updated_at",
)
UAV = EntityKind(
    "uav",
    Uav,
    key_fields=("status", "last_heartbeat", "current_mission_id"),
    groups={
        # A UAV that flies flies for a mission: one cannot be without the other.
        "assignment": ("status", "current_mission_id"),
        "heartbeat": FieldGroup(("last_heartbeat",), MaxResolver(), is_background=True),
    },
)

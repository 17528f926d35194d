"""What the story promises, and whether it is kept."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from clustercore.sync import Conflict, ConflictClient

from .center import Center
from .fleet import Fleet
from .kinds import MISSION, UAV


@attrs.frozen
class Edit:
    """What a server acknowledged to an operator."""

    mission_id: str
    fields: Mapping[str, Any]


async def check(center: Center, fleet: Fleet, edits: Sequence[Edit], saved_bytes: int) -> dict[str, bool]:
    """Return the promises, and whether each is kept, when all servers are to hold the same."""
    logs = [await _read_log(center, server.client.address) for server in center.servers]
    client = center.servers[0].client
    missions, uavs = await client.ask("Read", kind=MISSION.name), await client.ask("Read", kind=UAV.name)
    schedulers = [told["schedulers"] for told in center.told]
    return {
        "all servers hold the same, to the last byte": len({server.held for server in center.servers} | {None}) == 2,
        "no acknowledged edit is lost": all(_is_kept(edit, missions[edit.mission_id], logs) for edit in edits),
        "no acknowledged heartbeat is lost": all(uavs[uav]["last_heartbeat"] >= at for uav, at in fleet.last.items()),
        "a conflict is decided alike wherever it was met": _are_alike(logs),
        "all servers agree on who scheduled, and it was more than one": (
            len(schedulers) == len(center.servers)
            and all(names == schedulers[0] for names in schedulers)
            and len(set(schedulers[0])) > 1
        ),
        "full syncs found nothing that increments had missed": center.total("repaired_by_full") == 0,
        "increments sent less than the whole": saved_bytes > 0,
    }


async def _read_log(center: Center, address: str) -> dict[str, Conflict]:
    conflicts, _, _ = await ConflictClient(center.transport, address).list(limit=500)
    return {conflict.conflict_id: conflict for conflict in conflicts}


def _is_kept(edit: Edit, held: Mapping[str, Any], logs: Sequence[Mapping[str, Conflict]]) -> bool:
    """Whether an edit holds, or each server's log says what it has lost to."""
    if all(held[field] == value for field, value in edit.fields.items()):
        return True
    return all(
        any(
            conflict.entity_id == edit.mission_id and json.loads(conflict.loser.value or b"null") == edit.fields
            for conflict in log.values()
        )
        for log in logs
    )


def _are_alike(logs: Sequence[Mapping[str, Conflict]]) -> bool:
    """Compare all but who noticed, and when."""
    decided: dict[str, Conflict] = {}
    for log in logs:
        for conflict_id, conflict in log.items():
            alike = attrs.evolve(conflict, node_id=conflict.winner.node_id, detected_at_ms=0)
            if decided.setdefault(conflict_id, alike) != alike:
                return False
    return True

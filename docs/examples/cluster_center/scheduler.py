"""The mission scheduler. All servers could do it; the one that leads does, and nobody else."""

import json
from collections.abc import Iterator

import trio

from clustercore import Node
from clustercore.interfaces import LogIndex, ProposalError, StateMachine
from clustercore.sync import EntityStore

from .kinds import ENDED, MISSION, ORDERS, UAV, Mission, Uav

# Slow enough for somebody who types orders: a mission takes 25 of these. The story has them shorter.
TICK_S = 5.0
PROGRESS = 4


class Ledger(StateMachine):
    """What the servers agree on by Raft: who took over the missions, one after the other."""

    def __init__(self) -> None:
        self.schedulers: list[str] = []

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.schedulers.append(command.decode())
        return b""

    def snapshot(self) -> bytes:
        return json.dumps(self.schedulers).encode()

    def restore(self, snapshot: bytes) -> None:
        self.schedulers = json.loads(snapshot)


async def schedule_missions(node: Node, store: EntityStore, tick_s: float = TICK_S) -> None:
    """Look after the missions whenever this server leads, and as long as it does."""
    while True:
        try:
            # The body is cancelled before another server can begin with its own.
            async with node.leading():
                await node.propose(node.node_id.encode())
                while True:
                    await assign(store)
                    await make_progress(store)
                    await release(store)
                    await trio.sleep(tick_s)
        except ProposalError:
            # Leadership was lost in the middle of it: whoever leads now proposes as well.
            continue


def missions(store: EntityStore) -> Iterator[tuple[str, Mission]]:
    for mission_id in sorted(store.ids(MISSION)):
        mission = store.get(MISSION, mission_id)
        if mission is not None:
            yield mission_id, mission


def uavs(store: EntityStore) -> Iterator[tuple[str, Uav]]:
    for uav_id in sorted(store.ids(UAV)):
        uav = store.get(UAV, uav_id)
        if uav is not None:
            yield uav_id, uav


async def assign(store: EntityStore) -> None:
    """Give each planned mission an idle UAV."""
    idle = (uav_id for uav_id, uav in uavs(store) if uav.status == "IDLE")
    for mission_id, mission in missions(store):
        if mission.state == "PLANNED" and (uav_id := next(idle, None)) is not None:
            await store.update(UAV, uav_id, status="FLYING", current_mission_id=mission_id)
            await store.update(MISSION, mission_id, state="RUNNING", progress=0)


async def make_progress(store: EntityStore) -> None:
    for mission_id, mission in missions(store):
        ordered = ORDERS.get(mission.order)
        if ordered is not None and mission.state not in ("COMPLETED", ordered):
            await store.update(MISSION, mission_id, state=ordered)
        elif mission.state == "RUNNING":
            progress = min(mission.progress + PROGRESS, 100)
            state = "COMPLETED" if progress == 100 else "RUNNING"
            await store.update(MISSION, mission_id, state=state, progress=progress)


async def release(store: EntityStore) -> None:
    """Call home the UAVs whose missions have ended."""
    flying = [(uav_id, uav.current_mission_id) for uav_id, uav in uavs(store) if uav.current_mission_id is not None]
    for uav_id, mission_id in flying:
        mission = store.get(MISSION, str(mission_id))
        if mission is not None and mission.state in ENDED:
            await store.update(UAV, uav_id, status="IDLE", current_mission_id=None)

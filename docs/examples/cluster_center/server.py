"""One server of the Cluster Center: a Raft node, the entities, their sync, and the health of the others."""

from collections.abc import Callable

import attrs
import trio

from clustercore import ClusterHealth, HealthConfig, Node
from clustercore.interfaces import Discovery, LogIndex, NodeId, NodeStopped, StateMachine, Term
from clustercore.sync import EntityStore, SyncConfig, SyncService
from clustercore_grpc import GrpcTransport
from clustercore_memory import MemoryRecords, MemoryStorage
from clustercore_retry import CategoryRetryPolicy

from .cable import Cable
from .kinds import MISSION, UAV

# The real system syncs every 30 seconds, and compares everything every 5 minutes; a story is shorter.
SYNC = SyncConfig(incremental_interval_s=3.0, full_interval_s=30.0, window_s=1.0, window_limit_s=6.0)
HEALTH = HealthConfig(check_interval=1.0, timeout=0.5)


class Ledger(StateMachine):
    """What the servers agree on by Raft: here, only how often a leader took over the missions."""

    takeovers = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.takeovers += 1
        return self.snapshot()

    def snapshot(self) -> bytes:
        return str(self.takeovers).encode()

    def restore(self, snapshot: bytes) -> None:
        self.takeovers = int(snapshot)


@attrs.define(eq=False)
class Server:
    """A machine: what is on its disks outlives the processes on it. A real one has SQLite there."""

    name: str
    address: str
    make_discovery: Callable[[], Discovery]
    storage: MemoryStorage = attrs.field(factory=MemoryStorage)
    records: MemoryRecords = attrs.field(factory=MemoryRecords)
    # Of the running process; None while it is off.
    node: Node | None = None
    store: EntityStore | None = None
    sync: SyncService | None = None
    health: ClusterHealth | None = None
    cable: Cable | None = None
    leads_in: Term | None = None
    _power: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _is_off: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Be on until ``kill``."""
        self._power, self._is_off = trio.CancelScope(), trio.Event()
        discovery = self.make_discovery()
        self.cable = Cable(GrpcTransport(self.address))
        self.health = ClusterHealth(discovery, HEALTH)
        try:
            with self._power:
                async with EntityStore(NodeId(self.name), [MISSION, UAV], self.records) as self.store:
                    self.sync = SyncService(self.store, config=SYNC, retry=CategoryRetryPolicy())
                    async with Node(
                        self.name,
                        machine=Ledger(),
                        transport=self.cable,
                        storage=self.storage,
                        discovery=discovery,
                        voters="abc",
                        companions=[self.sync, self.health],
                    ) as self.node:
                        task_status.started()
                        await self._schedule_missions(self.node, self.store)
        finally:
            self.node = self.store = self.sync = self.health = self.cable = self.leads_in = None
            self._is_off.set()

    async def kill(self) -> None:
        self._power.cancel()
        await self._is_off.wait()

    # --- The mission scheduler: on the leader only ---

    async def _schedule_missions(self, node: Node, store: EntityStore) -> None:
        while True:
            try:
                async with node.leading() as self.leads_in:
                    await node.propose(b"takeover")
                    await keep_assigning(store)
            finally:
                self.leads_in = None


async def keep_assigning(store: EntityStore) -> None:
    """Look after the missions, until cancelled: when another server leads."""
    while True:
        await assign_missions(store)
        await trio.sleep(0.5)


async def assign_missions(store: EntityStore) -> None:
    """Give each planned mission an idle UAV, and let those that run make progress."""
    idle = iter([uav_id for uav_id in sorted(store.ids(UAV)) if _is_idle(store, uav_id)])
    for mission_id in sorted(store.ids(MISSION)):
        mission = store.get(MISSION, mission_id)
        if mission is None:
            continue
        if mission.state == "PLANNED" and (uav_id := next(idle, None)) is not None:
            await store.update(MISSION, mission_id, state="RUNNING", progress=0)
            await store.update(UAV, uav_id, status="FLYING", current_mission_id=mission_id)
        elif mission.state == "RUNNING":
            progress = min(mission.progress + 5, 100)
            await store.update(
                MISSION, mission_id, state="COMPLETED" if progress == 100 else "RUNNING", progress=progress
            )
    for uav_id in sorted(store.ids(UAV)):
        uav = store.get(UAV, uav_id)
        if uav is not None and uav.current_mission_id is not None:
            flown = store.get(MISSION, uav.current_mission_id)
            if flown is not None and flown.state in ("COMPLETED", "ABORTED"):
                await store.update(UAV, uav_id, status="IDLE", current_mission_id=None)


def _is_idle(store: EntityStore, uav_id: str) -> bool:
    uav = store.get(UAV, uav_id)
    return uav is not None and uav.status == "IDLE"


async def edit(server: Server, mission_id: str, state: str, progress: int) -> None:
    """What an operator does at the server that is reached."""
    if server.store is None:
        raise NodeStopped(f"server {server.name} is off")
    await server.store.update(MISSION, mission_id, state=state, progress=progress)

"""One seed's run: writers at every node, faults, then peace, in which all replicas must become equal.

What must hold in the end:

* all replicas are equal, to the last byte;
* each holds, or has overruled, every edit that was acknowledged, unless the disk it was on was lost, or the edit lost
  to a deletion that was collected;
* no full sync has found anything that increments had missed;
* nobody knew a change that its own node has forgotten, unless a disk was lost: what leaves a node is on its disk;
* no answer left a gap behind the one before it;
* what a node's checkpoint covers it holds, at each of its starts;
* what was deleted in knowledge of all its edits stays away, also where the deletion is forgotten.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import itemgetter

import attrs
import trio

from clustercore.interfaces import ClusterError, NodeCompanion, NodeId
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.sync import LIFE_GROUP, EntityKind, EntityStore, HybridLogicalClock, StoreEvent, Write
from clustercore.sync.checkpoints import incoming_name, read_checkpoint
from clustercore.sync.life import outlives
from clustercore.sync.service import SyncService
from clustercore.sync.source import filter_hash
from clustercore.sync.statistics import RepairedByFull
from clustercore.testing.replicas.deaths import Deaths
from clustercore.testing.replicas.worlds import CLOCK_STEP_S, LOSSES, SyncWorld
from clustercore.testing.simulation import (
    Chance,
    NetworkOptions,
    Scheduler,
    SimulatedCluster,
    SimulatedCrash,
    SimulatedRecords,
    run_cluster,
)
from clustercore.testing.simulation.map_machine import MapMachine
from clustercore.testing.trace import Recorder
from clustercore.testing.violation import PropertyViolated

__all__ = ["JOB", "VEHICLE", "Job", "ReplicaRun", "Vehicle"]

# Raft has nothing to do here, and its heartbeats are most of what a run would cost.
_NODE_CONFIG = NodeConfig(raft=RaftConfig(heartbeat_interval_s=2.0, election_timeout_s=10.0))
# The time of day when a run begins, in seconds, so that a clock can be set back.
_BEGIN_S = 1_700_000_000
# Intervals in which replicas must become equal once there is peace.
_PATIENCE_INTERVALS = 60
# What tells that a node has forgotten something that another knows.
_WENT_BACK = ("store went back", "resync went_back", "resync receiver_went_back", "resync epoch")


@attrs.frozen
class Job:
    """An entity with fields that belong together, and others."""

    state: str = "new"
    progress: int = 0
    title: str = ""


@attrs.frozen
class Vehicle:
    """An entity that changes often."""

    status: str = "idle"
    seen_at: int = 0
    notes: str = ""


JOB = EntityKind("job", Job, key_fields=("state", "progress"), groups={"state": ("state", "progress")})
VEHICLE = EntityKind(
    "vehicle", Vehicle, key_fields=("status", "seen_at"), groups={"status": ["status"], "seen_at": ["seen_at"]}
)


@attrs.define(eq=False)
class ReplicaRun:
    """A run that can be made again. What it counts is of the last time."""

    seed: int
    world: SyncWorld
    # Is told of edits and faults, if there is one.
    recorder: Recorder | None = None
    coverage: Counter[str] = attrs.field(factory=Counter, init=False)
    simulated_s: float = attrs.field(default=0.0, init=False)
    steps: int = attrs.field(default=0, init=False)
    # The running store and service of each machine.
    stores: dict[str, EntityStore] = attrs.field(factory=dict, init=False)
    services: dict[str, SyncService] = attrs.field(factory=dict, init=False)
    records: dict[str, SimulatedRecords] = attrs.field(factory=dict, init=False)
    # What full syncs had to repair.
    repaired: list[RepairedByFull] = attrs.field(factory=list, init=False)
    # Acknowledged writes, by kind, entity, group, writer and time.
    _acknowledged: dict[tuple[str, str, str, str, int], Write] = attrs.field(factory=dict, init=False)
    _deaths: Deaths | None = attrs.field(default=None, init=False)
    _chance: Chance = attrs.field(factory=lambda: Chance(0), init=False)
    _furthest_s: float = attrs.field(default=0.0, init=False)
    _starts: int = attrs.field(default=0, init=False)

    def go(self) -> bytes:
        """Make the run; return what all replicas hold in the end.

        Raises: PropertyViolated, or what else breaks it, perhaps in groups.
        """
        self.__init__(self.seed, self.world, self.recorder)  # type: ignore[misc]  # as new: a run is made again from nothing
        self._chance = Chance(f"{self.seed}/sync")

        def make(nursery: trio.Nursery, scheduler: Scheduler) -> SimulatedCluster[MapMachine]:
            cluster = SimulatedCluster(
                nursery,
                scheduler,
                MapMachine,
                self.world.nodes,
                seed=self.seed,
                config=_NODE_CONFIG,
                network=self.world.network,
                recorder=self.recorder,
            )
            self._equip(cluster)
            return cluster

        return run_cluster(make, self._main, seed=self.seed)

    def _equip(self, cluster: SimulatedCluster[MapMachine]) -> None:
        for name in cluster.names:
            self.records[name] = SimulatedRecords(
                self._chance.part(f"records {name}"), _IsOff(cluster, name), self.world.write_s
            )

        @asynccontextmanager
        async def open_companions(name: str) -> AsyncIterator[Sequence[NodeCompanion]]:
            self._starts += 1
            chance = self._chance.part(f"start {self._starts}")
            grain_ms = self.world.clock_grain_ms
            clock = HybridLogicalClock(
                lambda: int((_BEGIN_S + cluster.time_of_day(name)) * 1000) // grain_ms * grain_ms,
                policy=self.world.policy,
            )
            records = self.records[name]
            async with EntityStore(
                NodeId(name), [JOB, VEHICLE], records, clock=clock, rng=chance, on_event=self._hear
            ) as store:
                self._check_checkpoints(store)
                service = SyncService(
                    store, config=self.world.config, rng=chance.part("service"), on_repaired=self.repaired.append
                )
                self.stores[name], self.services[name] = store, service
                try:
                    yield [service]
                finally:
                    self._count(service)
                    del self.stores[name], self.services[name]

        cluster.open_companions = open_companions

    def _check_checkpoints(self, store: EntityStore) -> None:
        """Make sure that a node which starts holds what its checkpoints say.

        At once, and not in the end: by then a later edit mostly has taken the place of one that was lost.
        """
        for name, source in self.stores.items():
            stored = read_checkpoint(store.checkpoint(incoming_name(NodeId(name), filter_hash(()))), store.epoch)
            if stored is None or stored.peer_epoch != source.epoch or set(self.world.faults) & set(LOSSES):
                continue
            self.coverage["checkpoints checked"] += 1
            for change in source.states():
                where = (change.kind, change.entity_id, change.group)
                here = store.state(*where)
                seen = {} if here is None else here.state.seen
                is_here = all(seen.get(head.stamp.writer, -1) >= head.stamp.time for head in change.state.heads)
                is_excused = store.is_held(*where) or store.collected(change.kind, change.entity_id) is not None
                if stored.cursor.covers(change.seq) and not is_here and not is_excused:
                    text = f"{store.node_id} is at {stored.cursor} of {name} and does not hold {change}"
                    raise PropertyViolated("a checkpoint covers what is held", text, node=store.node_id)

    def _hear(self, event: StoreEvent) -> None:
        self.coverage[re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower()] += 1

    def _count(self, service: SyncService) -> None:
        self.coverage["deletions collected"] += service.collection.collected
        for status in service.status().values():
            self.coverage.update({f"sessions {kind}": count for kind, count in status.sessions.items()})
            self.coverage.update({f"resync {reason}": count for reason, count in status.resyncs.items()})
            self.coverage["failed sessions"] += status.failures
            self.coverage["kept back"] += status.kept_back
            for name in ("applied", "duplicate", "stale", "held", "conflicts"):
                self.coverage[name] += getattr(status, name)

    # --- The run ---

    async def _main(self, cluster: SimulatedCluster[MapMachine]) -> bytes:
        try:
            await cluster.start_all()
            self._deaths = Deaths(
                self._chance.part("deaths"),
                JOB,
                lambda value: Job(value, 1, value),
                "title",
                self.stores,
                lambda name: cluster[name].process.inside(),
                self.coverage,
            )
            async with trio.open_nursery() as nursery:
                for name in cluster.names:
                    nursery.start_soon(self._write, cluster, name)
                nursery.start_soon(self._make_trouble, cluster)
                nursery.start_soon(self._deaths.run, self.world.deaths, self.world.faults_s / self.world.deaths)
            await self._make_peace(cluster)
            held = await self._wait_equal(cluster)
            for service in self.services.values():
                self._count(service)
            self._check(cluster)
            self.coverage["calls lost"], self.coverage["calls repeated"] = (
                cluster.network.lost,
                cluster.network.repeated,
            )
            return held
        finally:
            self.simulated_s, self.steps = trio.current_time(), cluster.scheduler.steps

    async def _write(self, cluster: SimulatedCluster[MapMachine], name: str) -> None:
        chance = self._chance.part(f"writer {name}")
        pause_s = self.world.faults_s / self.world.edits
        for number in range(self.world.edits):
            await trio.sleep(chance.exponential(pause_s))
            store = self.stores.get(name)
            if store is None or cluster[name].node is None:
                continue
            try:
                with cluster[name].process.inside():
                    cluster.note(f"{name} makes edit {number}")
                    await self._edit(store, chance, f"{name}{number}")
            except (ClusterError, SimulatedCrash):
                # The machine went off: nobody knows what became of the edit.
                self.coverage["edits of unknown outcome"] += 1

    async def _edit(self, store: EntityStore, chance: Chance, value: str) -> None:
        kind: EntityKind[Job] | EntityKind[Vehicle] = chance.choice((JOB, VEHICLE))
        entity_id = f"{chance.below(self.world.entities)}"
        if chance.happens(0.15):
            await store.delete(kind, entity_id)
        elif chance.happens(0.5):
            field = chance.choice(("state", "title") if kind is JOB else ("status", "seen_at", "notes"))
            await store.update(kind, entity_id, **{field: chance.below(1000) if field == "seen_at" else value})
        elif kind is JOB:
            await store.put(JOB, entity_id, Job(value, chance.below(100), chance.choice(("", value))))
        else:
            await store.put(VEHICLE, entity_id, Vehicle(value, chance.below(1000), chance.choice(("", value))))
        for change in store.states_of(kind.name, entity_id):
            for head in change.state.heads:
                # What is told is on disk; another's edit may have been staged since, and is not.
                if head.stamp.node_id == store.node_id and change.seq <= store.seq:
                    name = (change.kind, change.entity_id, change.group, head.stamp.writer, head.stamp.time)
                    self.coverage["acknowledged edits"] += name not in self._acknowledged
                    self._acknowledged[name] = head

    # --- Trouble ---

    async def _make_trouble(self, cluster: SimulatedCluster[MapMachine]) -> None:
        chance = self._chance.part("faults")
        backups: dict[str, dict[bytes, bytes]] = {}
        try:
            while self.world.faults and trio.current_time() < self.world.faults_s:
                await trio.sleep(chance.exponential(self.world.every_s))
                name = chance.choice(cluster.names)
                if name not in backups and chance.happens(0.5):
                    backups[name] = self.records[name].copy()
                await self._change_something(cluster, name, chance, backups)
        finally:
            # Writers stand still with their machines.
            for name in cluster.names:
                cluster.resume(name)

    async def _change_something(
        self,
        cluster: SimulatedCluster[MapMachine],
        name: str,
        chance: Chance,
        backups: dict[str, dict[bytes, bytes]],
    ) -> None:
        if cluster[name].node is None:
            cluster.resume(name)
            await cluster[name].ended.wait()
            await cluster.start(name)
        elif chance.happens(0.2):
            cluster.network.heal()
            cluster.resume(name)
        else:
            fault = chance.choice(self.world.faults)
            self.coverage[fault] += 1
            cluster.note(f"{fault} {name}")
            await self._break(cluster, name, fault, chance, backups)

    async def _break(
        self,
        cluster: SimulatedCluster[MapMachine],
        name: str,
        fault: str,
        chance: Chance,
        backups: dict[str, dict[bytes, bytes]],
    ) -> None:
        match fault:
            case "crash":
                cluster.crash_now(name, is_silent=chance.happens(0.5))
            case "crash_anywhere":
                cluster.plan_crash_after(name, 1 + chance.below(300), is_silent=chance.happens(0.5))
            case "crash_in_commit":
                is_silent = chance.happens(0.5)
                # Either any commit, or one that moves a checkpoint: what was fetched must be on disk with it.
                records, cut = self.records[name], partial(self._cut, cluster, name, is_silent)
                if chance.happens(0.7):
                    records.plan_crash(1, cut, _moves_checkpoint)
                else:
                    records.plan_crash(1 + chance.below(6), cut)
            case "stop":
                cluster.resume(name)
                await cluster.stop(name)
            case "pause":
                cluster.pause(name)
            case "cut":
                other = chance.choice(cluster.names)
                cluster.network.cut(name, other)
            case "clock_step":
                cluster[name].clock_step_s += chance.choice((-CLOCK_STEP_S, CLOCK_STEP_S))
                self._furthest_s = max(self._furthest_s, cluster[name].clock_step_s)
            case "wipe" | "put_back":
                await cluster.crash(name)
                self._lose(name, backups.get(name) if fault == "put_back" else {})
                await cluster.start(name)

    def _cut(self, cluster: SimulatedCluster[MapMachine], name: str, is_silent: bool) -> None:
        # Its node may have ended meanwhile, or be closing its store: then it has no power to lose.
        if cluster[name].node is not None and not cluster[name].disk.crashed:
            cluster.note(f"{name} loses its power in a commit")
            cluster.crash_now(name, is_silent=is_silent)

    def _lose(self, name: str, left: dict[bytes, bytes] | None) -> None:
        """Put something older on a machine's disk. What was acknowledged there may be lost, if nobody fetched it."""
        if left is None:
            return
        self.records[name].put_back(left)
        self._acknowledged = {
            write: head for write, head in self._acknowledged.items() if write[3].rpartition("#")[0] != name
        }
        assert self._deaths is not None
        self._deaths.lose(name)

    # --- Peace ---

    async def _make_peace(self, cluster: SimulatedCluster[MapMachine]) -> None:
        cluster.network.heal()
        cluster.network.options = NetworkOptions(latency_s=self.world.network.latency_s)
        for name in cluster.names:
            cluster[name].process.cancel_call()
            self.records[name].plan_crash(0, lambda: None)
            cluster.resume(name)
        # Everybody's clock is where the furthest ever was: nothing is of a time to come.
        for name in cluster.names:
            cluster[name].clock_step_s = self._furthest_s
            if cluster[name].node is None or cluster[name].disk.crashed:
                await cluster[name].ended.wait()
                await cluster.start(name)

    async def _wait_equal(self, cluster: SimulatedCluster[MapMachine]) -> bytes:
        for _ in range(_PATIENCE_INTERVALS):
            await trio.sleep(self.world.config.incremental_interval_s)
            found = {name: store.canonical_bytes() for name, store in self.stores.items()}
            if len(found) == self.world.nodes and len(set(found.values())) == 1 and not self._are_held():
                return found["a"]
        for name in cluster.names:
            if cluster[name].node is None:
                text = f"{name} ended with {cluster[name].error!r}, and nothing was done to it"
                raise PropertyViolated("a node runs on", text, node=name)
        sizes = {name: (len(store.canonical_bytes()), store.seq, store.held) for name, store in self.stores.items()}
        raise PropertyViolated(
            "replicas become equal", f"bytes, changes and held ones of each: {sizes}; {self._first_difference()}"
        )

    def _are_held(self) -> bool:
        return any(store.held for store in self.stores.values())

    def _first_difference(self) -> str:
        states = {
            name: {(change.kind, change.entity_id, change.group): change.state for change in store.states()}
            for name, store in self.stores.items()
        }
        for key in sorted(set().union(*states.values())):
            held = {name: state.get(key) for name, state in states.items()}
            if len({None if state is None else state.encoded for state in held.values()}) > 1:
                return f"{key}: {held}"
        return "what is held differs"

    def _check(self, cluster: SimulatedCluster[MapMachine]) -> None:
        collects = self.world.config.collect_interval_s < math.inf
        for name, store in self.stores.items():
            for (kind, entity_id, group, writer, time), head in sorted(self._acknowledged.items(), key=itemgetter(0)):
                change = store.state(kind, entity_id, group)
                known = -1 if change is None else change.state.seen.get(writer, -1)
                if known < time and not (collects and self._was_collected(kind, entity_id, group, head)):
                    text = f"{name} does not know the edit of {kind} {entity_id}, {group!r}, by {writer} at {time}"
                    raise PropertyViolated("no acknowledged edit is lost", text, node=name)
        assert self._deaths is not None
        self._deaths.check()
        went_back = [what for what in _WENT_BACK if self.coverage[what]]
        if went_back and not set(self.world.faults) & set(LOSSES):
            raise PropertyViolated("what is told is on disk", f"no disk was lost, and yet there were {went_back}")
        if self.coverage["resync gap"]:
            raise PropertyViolated("answers leave no gap", f"there were {self.coverage['resync gap']}")
        if self.repaired:
            raise PropertyViolated("increments miss nothing", f"full syncs repaired {self.repaired}")

    def _was_collected(self, kind: str, entity_id: str, group: str, write: Write) -> bool:
        """Whether a write went with a deletion that it did not outlive, or is such a deletion, by anybody's ledger."""
        for store in self.stores.values():
            collected = store.collected(kind, entity_id)
            # One that was collected is held again where another edit has outlived it.
            held = store.state(kind, entity_id, LIFE_GROUP)
            deletions = (*(collected.heads if collected else ()), *(held.state.heads if held else ()))
            if group != LIFE_GROUP and deletions and not outlives(write, deletions):
                return True
            if group == LIFE_GROUP and collected and write.stamp.time <= collected.seen.get(write.stamp.writer, -1):
                return True
        return False


def _moves_checkpoint(changes: Mapping[bytes, bytes | None]) -> bool:
    """Whether a commit keeps a checkpoint of what was fetched."""
    return any(key.startswith(b"cin/") for key in changes)


@attrs.frozen
class _IsOff:
    """Whether a machine has lost its power. Its disk is replaced when it starts again."""

    cluster: SimulatedCluster[MapMachine]
    name: str

    def __call__(self) -> bool:
        return self.cluster[self.name].disk.crashed

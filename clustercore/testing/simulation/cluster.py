"""A whole cluster of real nodes in one process, on simulated disks and a simulated network, in virtual time.

The nodes are the ones that ship: only the disk, the wires, the clock and chance are simulated, and one seed decides all
of them. The same seed takes the same steps, in any process and on any version of Python, as long as the code and Trio
are the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

import attrs
import trio

from clustercore.interfaces import (
    ClusterError,
    HardState,
    LogCorrupt,
    NodeCompanion,
    NodeId,
    Role,
    StateMachine,
)
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.node import Node
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.discovery import SimulatedDiscovery
from clustercore.testing.simulation.disk import SimulatedCrash, SimulatedDisk, SimulatedStorage, Unsynced
from clustercore.testing.simulation.network import NetworkOptions, SimulatedNetwork
from clustercore.testing.simulation.scheduler import Process, Scheduler
from clustercore.testing.simulation.transport import SimulatedTransport
from clustercore.testing.simulation.watching import Watch
from clustercore.testing.simulation.worlds import MAX_NODES, NAMES
from clustercore.testing.trace import Recorder
from clustercore.testing.violation import PropertyViolated

__all__ = ["SimulatedCluster", "SimulatedNode", "eventually"]

MachineT = TypeVar("MachineT", bound=StateMachine)

OpenCompanions = Callable[[str], AbstractAsyncContextManager[Sequence[NodeCompanion]]]

# Virtual seconds that a cluster gets to do what it must do in the end: dozens of elections.
PATIENCE_S = 120.0


class _WatchedStorage(SimulatedStorage):
    """Tells which term and vote are about to be durable."""

    def __init__(self, disk: SimulatedDisk, on_storing: Callable[[HardState], None]) -> None:
        super().__init__(disk)
        self._on_storing = on_storing

    async def save_hard_state(self, hard_state: HardState) -> None:
        """Tell what is to be saved."""
        self._on_storing(hard_state)
        await super().save_hard_state(hard_state)


@attrs.define(eq=False)
class SimulatedNode(Generic[MachineT]):
    """One machine of the cluster: its disk outlives the nodes that run on it, one after another."""

    name: str
    disk: SimulatedDisk
    # The state machine of the node that runs, or ran last.
    machine: MachineT
    process: Process
    # The running node; None while the machine is off or the node has ended.
    node: Node | None = None
    # Set to leave the node's block as its operator would.
    stop_asked: trio.Event = attrs.field(factory=trio.Event)
    # Cancelled when the power goes.
    power: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    # What left the node's block; None after a stop.
    error: BaseException | None = None
    # How often it lost its power, and how often its disk was replaced by an empty one.
    crashes: int = 0
    wipes: int = 0
    # What was added to its time of day, and how fast that goes.
    clock_step_s: float = 0.0
    clock_rate: float = 1.0

    @property
    def is_off(self) -> bool:
        """Whether a node can be started."""
        return self.node is None and self.ended.is_set()

    @property
    def running(self) -> Node:
        """The node, which is on."""
        assert self.node is not None, f"{self.name} is off"
        return self.node

    @property
    def lease_until(self) -> float:
        """Until when its node believes that no other can lead; minus infinity if it is off or does not know."""
        assembled = self.node._assembly if self.node is not None else None
        return assembled.lease_until() if assembled is not None else -math.inf


class SimulatedCluster(Generic[MachineT]):
    """Nodes "a", "b", ... on a network with faults, and what was seen of them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        scheduler: Scheduler,
        machine: Callable[[], MachineT],
        size: int = 3,
        *,
        seed: int = 0,
        config: NodeConfig | Callable[[str], NodeConfig] | None = None,
        write_s: float = 0,
        write_jitter_s: float = 0,
        network: NetworkOptions | None = None,
        recorder: Recorder | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Prepare the machines; ``start`` switches one on.

        Args:
            nursery: Where nodes and the network live.
            scheduler: What runs this run's tasks.
            machine: Makes the state machine of each node that starts.
            size: How many machines, from 1 to 7.
            seed: Decides everything.
            config: The nodes' configuration, or what makes it from a node's name.
            write_s, write_jitter_s: How long a write takes, in seconds, and the mean of what comes on top.
            network: How the wires are.
            recorder: Is told what is done to the cluster; what the nodes do it has to see for itself.
            watch: Checks what the nodes do; it sees their cores by itself, if it is ``watching``.
        """
        if not 1 <= size <= MAX_NODES:
            raise ValueError(f"size is {size}; it must be from 1 to {MAX_NODES}")
        self._recorder = recorder
        self._watch = watch
        self.nursery = nursery
        self.seed = seed
        self.rng = Chance(seed)
        # The configuration of the node of a name.
        chosen = config if config is not None else NodeConfig()
        self.config_of: Callable[[str], NodeConfig] = chosen if callable(chosen) else lambda _: chosen
        self.network = SimulatedNetwork(self.rng.part("network"), network)
        nursery.start_soon(self.network.run)
        if watch is not None:
            self.network.on_send = watch.released
        self.names = NAMES[:size]
        # What a node that is started from now on runs.
        self.make_machine = machine
        self.scheduler = scheduler
        self._write_s = write_s
        self._write_jitter_s = write_jitter_s
        self.machines = {name: self._new_machine(name) for name in self.names}
        # Machines whose nodes wait to be added, and whom they ask for it; None for nobody.
        self.strangers: dict[str, Sequence[str] | None] = {}
        # Where a machine serves, if it is not at its name.
        self.addresses: dict[str, str] = {}
        # Opens what runs beside the node of a machine that is started from now on, around the node's own block.
        self.open_companions: OpenCompanions = _no_companions
        # What the node of a machine that is started from now on is given beside, or instead of, what all are: how it
        # finds the others, and how it comes to belong to them.
        self.node_options: Callable[[str], Mapping[str, Any]] = lambda _: {}
        # Machines that belong to another cluster, with leaders and votes of its own.
        self.outsiders: set[str] = set()
        # Who was seen to lead each term, on any node.
        self.leaders: dict[int, str] = {}
        # Every step that says something about a run, to compare two runs.
        self.trace: list[tuple[float, str]] = []
        # What was added to every machine's time of day.
        self.clock_step_s = 0.0

    # --- Machines ---

    def _new_machine(self, name: str) -> SimulatedNode[MachineT]:
        disk = SimulatedDisk(seed=f"{self.seed}/{name}", write_s=self._write_s, jitter_s=self._write_jitter_s)
        new = SimulatedNode(name, disk, self.make_machine(), self.scheduler.process(name))
        new.ended.set()
        return new

    def add_stranger(self, name: str, *, join: Sequence[str] | None = None) -> SimulatedNode[MachineT]:
        """Set up a machine that is off, whose node waits to be added to the cluster, or asks to be.

        Nobody's discovery knows it.
        """
        self.strangers[name] = join
        self.machines[name] = self._new_machine(name)
        if self._watch is not None:
            self._watch.add(name)
        return self.machines[name]

    def __getitem__(self, name: str) -> SimulatedNode[MachineT]:
        return self.machines[name]

    @property
    def on(self) -> list[SimulatedNode[MachineT]]:
        """The machines that run a node now."""
        return [machine for machine in self.machines.values() if machine.node is not None]

    def address_of(self, name: str) -> str:
        """Return where a machine serves."""
        return self.addresses.get(name, name)

    def time_of_day(self, name: str) -> float:
        """Return what a machine's clock on the wall says, in seconds."""
        machine = self.machines[name]
        return trio.current_time() * machine.clock_rate + machine.clock_step_s + self.clock_step_s

    async def start_all(self) -> None:
        """Switch on every machine that is off."""
        for machine in self.machines.values():
            if machine.is_off:
                await self.start(machine.name)

    async def start(self, name: str) -> SimulatedNode[MachineT]:
        """Start a node on a machine, after a crash on what that left. Returns once it serves or has failed."""
        machine = self.machines[name]
        assert machine.is_off, f"{name} is on"
        if machine.disk.crashed:
            machine.disk = machine.disk.after_crash()
        machine.machine, machine.power = self.make_machine(), trio.CancelScope()
        machine.stop_asked, machine.ended, machine.error = trio.Event(), trio.Event(), None
        self.network.power_on(self.address_of(name))
        await self.nursery.start(self._live, machine)
        return machine

    def plan_crash(self, name: str, boundary: int, *, unsynced: Unsynced = Unsynced.BY_SEED) -> None:
        """Let a machine that is off lose its power at a boundary of its next run, or one that is on of this run."""
        machine = self.machines[name]
        if machine.disk.crashed:
            machine.disk = machine.disk.after_crash()
        machine.disk.crash_at(boundary, unsynced=unsynced, cut_power=lambda: self._cut_power(machine))

    def plan_crash_after(self, name: str, steps: int, *, is_silent: bool = False) -> None:
        """Let a machine that is on lose its power after so many steps of its tasks, wherever they are then."""
        machine = self.machines[name]
        machine.process.call_after(steps, lambda: self.crash_now(name, is_silent=is_silent))

    async def _live(self, machine: SimulatedNode[MachineT], *, task_status: trio.TaskStatus[None]) -> None:
        has_started = False
        try:
            with machine.process.inside(), machine.power:
                async with (
                    self.open_companions(machine.name) as companions,
                    self._make_node(machine, companions) as node,
                ):
                    machine.node, has_started = node, True
                    task_status.started()
                    try:
                        await machine.stop_asked.wait()
                    finally:
                        machine.node = None
        except* (ClusterError, SimulatedCrash) as group:
            machine.error = group.exceptions[0]
        finally:
            machine.process.cancel_call()
            machine.crashes += machine.disk.crashed
            machine.ended.set()
            if self._watch is not None:
                self._watch.ended(machine.name)
            if self._recorder is not None:
                self._recorder.crashed(NodeId(machine.name), is_orderly=not machine.disk.crashed)
        if not has_started:
            task_status.started()

    def _make_node(self, machine: SimulatedNode[MachineT], companions: Sequence[NodeCompanion]) -> Node:
        join = self.strangers.get(machine.name)
        options: dict[str, Any] = {
            "machine": machine.machine,
            "transport": SimulatedTransport(self.network, self.address_of(machine.name)),
            "storage": self._storage_of(machine),
            "discovery": SimulatedDiscovery(() if join is not None else self.names),
            "voters": () if machine.name in self.strangers and join is None else None,
            "join": False if join is None else join,
            "config": self.config_of(machine.name),
            "rng": Chance(self.rng.getrandbits(64)),
            "companions": companions,
            "wall_clock": lambda: self.time_of_day(machine.name),
        }
        return Node(machine.name, **options | dict(self.node_options(machine.name)))

    def _storage_of(self, machine: SimulatedNode[MachineT]) -> SimulatedStorage:
        watch = self._watch
        if watch is None:
            return SimulatedStorage(machine.disk)
        return _WatchedStorage(machine.disk, lambda hard_state: watch.storing(machine.name, hard_state))

    async def wait_off_or_on(self, name: str) -> None:
        """Wait while a machine is neither: its node is ending, after a crash or a stop."""
        if self.machines[name].node is None:
            await self.machines[name].ended.wait()

    async def stop(self, name: str) -> None:
        """Stop a node as its operator would."""
        machine = self.machines[name]
        machine.stop_asked.set()
        await machine.ended.wait()

    def crash_now(self, name: str, *, unsynced: Unsynced = Unsynced.BY_SEED, is_silent: bool = False) -> None:
        """Cut a machine's power at this moment; its tasks end soon after, and say nothing to anybody any more.

        Args:
            unsynced: What becomes of a write under way.
            is_silent: Nobody is told. Otherwise the other ends of its links are, as when only the process was killed.
        """
        machine = self.machines[name]
        machine.disk.crash_now(unsynced=unsynced)
        self._cut_power(machine, is_silent=is_silent)

    def _cut_power(self, machine: SimulatedNode[MachineT], *, is_silent: bool = False) -> None:
        if is_silent:
            self.network.power_off(self.address_of(machine.name))
        else:
            self.network.end_links(self.address_of(machine.name))
        if self._watch is not None:
            self._watch.ended(machine.name)
        machine.process.cancel_call()
        self.resume(machine.name)
        machine.power.cancel()

    async def crash(self, name: str, *, unsynced: Unsynced = Unsynced.BY_SEED, is_silent: bool = False) -> None:
        """Do as ``crash_now``, and wait until the tasks have ended."""
        self.crash_now(name, unsynced=unsynced, is_silent=is_silent)
        await self.machines[name].ended.wait()

    def pause(self, name: str) -> None:
        """Let a machine's process stand still, as SIGSTOP does; its clock goes on, and the kernel takes messages."""
        if not self.machines[name].process.is_stopped:
            self.machines[name].process.stop()
            if self._recorder is not None:
                self._recorder.paused(NodeId(name))

    def resume(self, name: str) -> None:
        """Let a machine's process go on."""
        if self.machines[name].process.is_stopped:
            self.machines[name].process.resume()
            if self._recorder is not None:
                self._recorder.resumed(NodeId(name))

    def wipe(self, name: str) -> None:
        """Put an empty disk into a machine that is off: all it ever promised is forgotten."""
        machine = self.machines[name]
        assert machine.is_off, f"{name} is on"
        if self._watch is not None:
            self._watch.lost_disk(name)
        machine.disk = machine.disk.empty()
        machine.wipes += 1

    # --- Use ---

    async def leader(self, among: Sequence[str] | None = None) -> SimulatedNode[MachineT]:
        """Wait for a node that leads the newest term known among the given ones, which follow it."""
        machines = [self.machines[name] for name in (among if among is not None else self.machines)]

        def find() -> list[SimulatedNode[MachineT]]:
            on = [machine for machine in machines if machine.node is not None]
            leaders = {machine.running.status().leader_id for machine in on}
            return [machine for machine in on if leaders == {machine.name}]

        await eventually(find)
        found = find()[0]
        self._check_was_noted(found)
        return found

    def _check_was_noted(self, leader: SimulatedNode[MachineT]) -> None:
        """Check that this leader's line in the log was read: without those lines nobody compares leaders of a term."""
        term = leader.running.status().term
        assert self.leaders.get(term) == leader.name, (
            f"{leader.name} leads term {term}, the leaders noted are {self.leaders}: does _RoleLog still know the line?"
        )

    async def followers(self) -> list[SimulatedNode[MachineT]]:
        """Wait for a leader and return the others that are on."""
        leader = await self.leader([machine.name for machine in self.on])
        return [machine for machine in self.on if machine is not leader]

    async def wait_agreed(self) -> None:
        """Wait until all nodes that are on have applied the same log to its end."""
        await eventually(self._agree)
        for machine in self.on:
            if machine.running.status().role is Role.LEADER:
                self._check_was_noted(machine)

    def _agree(self) -> bool:
        statuses = [machine.running.status() for machine in self.on]
        ends = {(status.last_log_index, status.last_applied, status.term) for status in statuses}
        return (
            len(ends) == 1
            and statuses[0].last_log_index == statuses[0].last_applied > 0
            and any(status.role is Role.LEADER for status in statuses)
        )

    # --- What was seen ---

    def note(self, text: str) -> None:
        """Add a step to the trace."""
        self.trace.append((trio.current_time(), text))
        if self._recorder is not None:
            self._recorder.noted(text)

    def note_role(self, name: str, role: str, term: int, leader_id: str | None) -> None:
        """Note what a node says of its role, each time it changes."""
        self.trace.append((trio.current_time(), f"{name} {role} {term} {leader_id}"))
        if name in self.outsiders:
            return
        if leader_id is not None and self.leaders.setdefault(term, leader_id) != leader_id:
            raise PropertyViolated(
                "election safety",
                f"term {term} has two leaders: {self.leaders[term]} and {leader_id}, says {name}",
                "Raft Figure 3, §5.2",
                name,
            )

    @contextmanager
    def watch_roles(self) -> Iterator[None]:
        """Note every change of role, from the line that a node logs of it: ``role_changes`` leaves some out."""
        handler = _RoleLog(self.note_role)
        logger = logging.getLogger("clustercore")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    def is_corrupt(self, name: str) -> bool:
        """Say whether a machine's node ended because its disk is damaged."""
        return isinstance(self.machines[name].error, LogCorrupt)


class _RoleLog(logging.Handler):
    def __init__(self, note_role: Callable[[str, str, int, str | None], None]) -> None:
        super().__init__()
        self._note_role = note_role

    def emit(self, record: logging.LogRecord) -> None:
        """Take what a node says of its role."""
        if record.msg == "node %s: %s in term %d, leader %s" and isinstance(record.args, tuple):
            self._note_role(*record.args)  # type: ignore[arg-type]  # the arguments of that very line


@asynccontextmanager
async def _no_companions(name: str) -> AsyncIterator[Sequence[NodeCompanion]]:
    """Open nothing."""
    yield ()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait, in virtual time, until a condition holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nodes have no event for each thing a run may ask of them
            await trio.sleep(0.05)

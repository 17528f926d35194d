"""A whole cluster of real nodes in one process, on simulated disks and a network that can be cut, in virtual time.

The nodes are the ones that ship: only the disk, the wires, the clock and chance are simulated, and one seed decides all
of them (``simulate``): the same seed takes the same steps, in any process, as long as the code, Python and Trio are the
same. Trio's scheduler draws its numbers where it likes, so another version of it may take other steps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TypeVar

import attrs
import trio
from trio._core import _run as trio_scheduler
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import (
    Applied,
    ClusterError,
    HardState,
    InvalidCommand,
    LogIndex,
    NodeId,
    Role,
    StateMachine,
    StoredState,
)
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.testing.trace import Recorder
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.disk import SimulatedCrash, SimulatedDisk, SimulatedStorage, Unsynced
from tests.simulation.node_trace import NodeTrace

__all__ = ["Journal", "SimulatedCluster", "SimulatedNode", "eventually", "simulate", "small_config"]

T = TypeVar("T")

# Virtual seconds that a cluster gets to do what it must do at the end of a test: dozens of elections.
PATIENCE_S = 120.0


class Journal(StateMachine):
    """Remembers every command and its index, and answers with both: two journals are equal if all that happened is."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        # How often the state was replaced by a snapshot.
        self.restored = 0

    @property
    def commands(self) -> list[bytes]:
        """What was applied, in order."""
        return [command for _, command in self.lines]

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        if command == b"raise":
            raise RuntimeError("the machine is broken")
        assert not self.lines or self.lines[-1][0] < index, "an index was applied twice, or out of order"
        self.lines.append((index, command))
        return b"%d:%s" % (index, command)

    def validate(self, command: bytes) -> None:
        if command == b"invalid":
            raise InvalidCommand("the journal takes anything but this")

    def query(self, query: bytes) -> bytes:
        """Return the last command that begins with the query, unless asked to fail."""
        if query == b"raise":
            raise RuntimeError("the machine cannot answer")
        if query == b"invalid":
            raise InvalidCommand("the journal answers anything but this")
        return next((command for _, command in reversed(self.lines) if command.startswith(query)), b"")

    def snapshot(self) -> bytes:
        return json.dumps([(index, command.decode()) for index, command in self.lines]).encode()

    def restore(self, snapshot: bytes) -> None:
        self.lines = [(index, command.encode()) for index, command in json.loads(snapshot)]
        self.restored += 1


def small_config(
    *,
    snapshot_entries: int = 100_000,
    snapshot_tail_entries: int = 10_000,
    max_pending_proposals: int = 4096,
    max_command_bytes: int = 1024,
    forward_timeout_s: float = 10.0,
    max_append_entries: int = 1024,
    max_append_bytes: int = 1024 * 1024,
    snapshot_timeout_s: float = 30.0,
    snapshot_bytes: int = 256 * 1024 * 1024,
    snapshot_chunk_bytes: int = 1024 * 1024,
) -> NodeConfig:
    """A configuration with the shipped timing, and the limits that tests like to shrink."""
    return NodeConfig(
        raft=RaftConfig(
            max_append_entries=max_append_entries,
            max_append_bytes=max_append_bytes,
            snapshot_timeout_s=snapshot_timeout_s,
        ),
        snapshot_entries=snapshot_entries,
        snapshot_bytes=snapshot_bytes,
        snapshot_chunk_bytes=snapshot_chunk_bytes,
        snapshot_tail_entries=snapshot_tail_entries,
        max_pending_proposals=max_pending_proposals,
        max_command_bytes=max_command_bytes,
        forward_timeout_s=forward_timeout_s,
    )


class _WatchedStorage(SimulatedStorage):
    """Tells which term and vote are durable, each time."""

    def __init__(self, disk: SimulatedDisk, on_vote: Callable[[HardState], None]) -> None:
        super().__init__(disk)
        self._on_vote = on_vote

    async def load(self) -> StoredState:
        stored = await super().load()
        self._on_vote(stored.hard_state)
        return stored

    async def save_hard_state(self, hard_state: HardState) -> None:
        await super().save_hard_state(hard_state)
        self._on_vote(hard_state)


@attrs.define(eq=False)
class SimulatedNode:
    """One machine of the cluster: its disk outlives the nodes that run on it, one after another."""

    name: str
    disk: SimulatedDisk
    machine: Journal = attrs.field(factory=Journal)
    # The running node; None while the machine is off or the node has ended.
    node: Node | None = None
    # Set to leave the node's block as its operator would.
    stop_asked: trio.Event = attrs.field(factory=trio.Event)
    # Cancelled when the power goes.
    power: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    # What left the node's block; None after a stop.
    error: BaseException | None = None
    # How often it lost its power.
    crashes: int = 0

    @property
    def is_off(self) -> bool:
        """Whether a node can be started."""
        return self.node is None and self.ended.is_set()

    @property
    def running(self) -> Node:
        """The node, which is on."""
        assert self.node is not None, f"{self.name} is off"
        return self.node


class SimulatedCluster:
    """Nodes "a", "b", ... on a network that can be cut, and what was seen of them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        size: int = 3,
        *,
        seed: int = 0,
        config: NodeConfig | None = None,
        write_s: float = 0,
        recorder: Recorder | None = None,
    ) -> None:
        """Prepare the machines; ``start`` switches one on."""
        self._recorder = recorder
        self.nursery = nursery
        self.seed = seed
        self.rng = Random(seed)
        self.config = config if config is not None else small_config()
        self.network = MemoryNetwork()
        self.names = "abcdefg"[:size]
        self._write_s = write_s
        self.machines = {name: SimulatedNode(name, SimulatedDisk(seed=seed, write_s=write_s)) for name in self.names}
        # Who was seen to lead each term, on any node.
        self.leaders: dict[int, str] = {}
        # Every vote that was durable, by voter and term.
        self.votes: dict[tuple[str, int], NodeId] = {}
        # Every step that says something about a run, to compare two runs.
        self.trace: list[tuple[float, str]] = []
        self.violations: list[str] = []
        # Machines whose nodes wait to be added, and whom they ask for it; None for nobody.
        self.strangers: dict[str, Sequence[str] | None] = {}
        # Where a machine serves, if it is not at its name.
        self.addresses: dict[str, str] = {}
        # What a node that is started from now on runs.
        self.make_machine: Callable[[], Journal] = Journal
        # What was added to every machine's time of day.
        self.clock_step_s = 0.0

    # --- Machines ---

    def __getitem__(self, name: str) -> SimulatedNode:
        return self.machines[name]

    @property
    def on(self) -> list[SimulatedNode]:
        """The machines that run a node now."""
        return [machine for machine in self.machines.values() if machine.node is not None]

    async def start_all(self) -> None:
        """Switch on every machine."""
        for name in self.names:
            await self.start(name)

    def add_stranger(self, name: str, *, join: Sequence[str] | None = None) -> SimulatedNode:
        """Set up a machine that is off, whose node waits to be added to the cluster, or asks to be.

        Nobody's discovery knows it.
        """
        self.strangers[name] = join
        self.machines[name] = SimulatedNode(name, SimulatedDisk(seed=self.seed, write_s=self._write_s))
        return self.machines[name]

    def wipe(self, name: str) -> None:
        """Put an empty disk into a machine that is off."""
        self.machines[name].disk = SimulatedDisk(seed=self.seed, write_s=self._write_s)

    async def start(self, name: str) -> SimulatedNode:
        """Start a node on a machine, after a crash on what that left. Returns once it serves or has failed."""
        machine = self.machines[name]
        assert machine.node is None
        if machine.disk.crashed:
            machine.disk = machine.disk.after_crash()
        machine.machine, machine.power = self.make_machine(), trio.CancelScope()
        machine.stop_asked, machine.ended, machine.error = trio.Event(), trio.Event(), None
        await self.nursery.start(self._live, machine)
        return machine

    def plan_crash(self, name: str, boundary: int, *, unsynced: Unsynced = Unsynced.BY_SEED) -> None:
        """Let a machine that is off lose its power at a boundary of its next run, or one that is on of this run."""
        machine = self.machines[name]
        if machine.disk.crashed:
            machine.disk = machine.disk.after_crash()
        machine.disk.crash_at(boundary, unsynced=unsynced, cut_power=lambda: machine.power.cancel())

    async def _live(self, machine: SimulatedNode, *, task_status: trio.TaskStatus[None]) -> None:
        join = self.strangers.get(machine.name)
        node = Node(
            machine.name,
            machine=machine.machine,
            transport=MemoryTransport(self.network, self.addresses.get(machine.name, machine.name)),
            storage=_WatchedStorage(machine.disk, lambda hard_state: self._note_vote(machine.name, hard_state)),
            discovery=StaticDiscovery({} if join is not None else {name: name for name in self.names}),
            voters=() if machine.name in self.strangers and join is None else None,
            join=False if join is None else join,
            config=self.config,
            rng=Random(self.rng.getrandbits(64)),
            wall_clock=lambda: trio.current_time() + self.clock_step_s,
        )
        has_started = False
        try:
            with machine.power:
                async with node:
                    machine.node, has_started = node, True
                    task_status.started()
                    try:
                        await machine.stop_asked.wait()
                    finally:
                        machine.node = None
        except* (ClusterError, SimulatedCrash) as group:
            machine.error = group.exceptions[0]
        finally:
            machine.crashes += machine.disk.crashed
            machine.ended.set()
            if self._recorder is not None:
                self._recorder.crashed(NodeId(machine.name), is_orderly=not machine.disk.crashed)
        if not has_started:
            task_status.started()

    async def stop(self, name: str) -> None:
        """Stop a node as its operator would."""
        machine = self.machines[name]
        machine.stop_asked.set()
        await machine.ended.wait()

    async def crash(self, name: str) -> None:
        """Cut a machine's power."""
        machine = self.machines[name]
        machine.disk.crash_now()
        machine.power.cancel()
        await machine.ended.wait()

    # --- Use ---

    async def leader(self, among: Sequence[str] | None = None) -> SimulatedNode:
        """Wait for a node that leads the newest term known among the given ones, which follow it."""
        machines = [self.machines[name] for name in (among if among is not None else self.machines)]

        def find() -> list[SimulatedNode]:
            on = [machine for machine in machines if machine.node is not None]
            leaders = {machine.running.status().leader_id for machine in on}
            return [machine for machine in on if leaders == {machine.name}]

        await eventually(find)
        found = find()[0]
        self._check_was_noted(found)
        return found

    def _check_was_noted(self, leader: SimulatedNode) -> None:
        """Check that this leader's line in the log was read: without those lines nobody compares leaders of a term."""
        term = leader.running.status().term
        assert self.leaders.get(term) == leader.name, (
            f"{leader.name} leads term {term}, the leaders noted are {self.leaders}: does _RoleLog still know the line?"
        )

    async def followers(self) -> list[SimulatedNode]:
        """Wait for a leader and return the others that are on."""
        leader = await self.leader([machine.name for machine in self.on])
        return [machine for machine in self.on if machine is not leader]

    async def converge(self) -> None:
        """Wait until all nodes that are on have applied the same log to its end."""
        await eventually(self._agree)
        for machine in self.on:
            if machine.running.status().role is Role.LEADER:
                self._check_was_noted(machine)
        self.check()

    def _agree(self) -> bool:
        statuses = [machine.running.status() for machine in self.on]
        ends = {(status.last_log_index, status.last_applied, status.term) for status in statuses}
        return len(ends) == 1 and statuses[0].last_log_index == statuses[0].last_applied > 0 and self._has_leader()

    def _has_leader(self) -> bool:
        return any(machine.running.status().role is Role.LEADER for machine in self.on)

    def check(self) -> None:
        """Check what must hold at any time between nodes that have applied the same log."""
        assert not self.violations, self.violations
        journals = [machine.machine.lines for machine in self.on]
        assert all(journal == journals[0] for journal in journals), f"machines differ: {journals}"

    def check_acknowledged(self, acknowledged: Sequence[tuple[bytes, Applied]], *, attempted: Sequence[bytes]) -> None:
        """Check that every acknowledged command was applied once, where it was said to be, and none out of nothing."""
        for machine in self.on:
            applied = machine.machine.commands
            assert len(applied) == len(set(applied)), f"{machine.name} applied a command twice: {applied}"
            assert set(applied) <= set(attempted), f"{machine.name} applied what nobody proposed"
            places = {command: index for index, command in machine.machine.lines}
            for command, answer in acknowledged:
                assert places.get(command) == answer.index, f"{machine.name} lost {command!r}, acknowledged {answer}"

    # --- What was seen ---

    def note(self, text: str) -> None:
        """Add a step to the trace."""
        self.trace.append((trio.current_time(), text))
        if self._recorder is not None:
            self._recorder.noted(text)

    def _note_vote(self, name: str, hard_state: HardState) -> None:
        if hard_state.voted_for is not None:
            voted_for = self.votes.setdefault((name, hard_state.current_term), hard_state.voted_for)
            if voted_for != hard_state.voted_for:
                self.violations.append(f"{name} voted for {voted_for} and {hard_state.voted_for} in one term")

    def note_role(self, name: str, role: str, term: int, leader_id: str | None) -> None:
        """Note what a node says of its role, each time it changes."""
        self.trace.append((trio.current_time(), f"{name} {role} {term} {leader_id}"))
        if leader_id is not None and self.leaders.setdefault(term, leader_id) != leader_id:
            self.violations.append(f"term {term} has two leaders: {self.leaders[term]} and {leader_id}, says {name}")

    @contextmanager
    def watch_roles(self) -> Iterator[None]:
        """Note every change of role, from the line that a node logs of it: ``role_changes`` leaves some out."""
        handler = _RoleLog(self)
        logger = logging.getLogger("clustercore")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


class _RoleLog(logging.Handler):
    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "node %s: %s in term %d, leader %s" and isinstance(record.args, tuple):
            self._cluster.note_role(*record.args)  # type: ignore[arg-type]  # the arguments of that very line


async def eventually(condition: Callable[[], object]) -> None:
    """Wait, in virtual time, until a condition holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nodes have no event for each thing a test may ask of them
            await trio.sleep(0.05)


def simulate(
    main: Callable[[SimulatedCluster], Awaitable[T]],
    *,
    size: int = 3,
    seed: int = 0,
    config: NodeConfig | None = None,
    write_s: float = 0,
    trace: NodeTrace | None = None,
) -> T:
    """Run ``main`` with a cluster whose nodes are off, in virtual time, every choice decided by the seed.

    A run that does not end within an hour of its own time is stuck, and fails. One that fails leaves its ``trace``, if
    one was to be kept.
    """
    recorder = trace.recorder if trace is not None else None

    async def run() -> T:
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(nursery, size, seed=seed, config=config, write_s=write_s, recorder=recorder)
            with cluster.watch_roles(), trio.fail_after(3600):
                result = await main(cluster)
            assert not cluster.violations, cluster.violations
            nursery.cancel_scope.cancel()
        return result

    with ExitStack() as stack:
        stack.enter_context(_seeded_scheduler(seed))
        if trace is not None:
            stack.enter_context(trace.recording())
        try:
            return trio.run(run, clock=MockClock(autojump_threshold=0))
        except Exception as error:
            if trace is not None:
                options = {"config": attrs.asdict(config or small_config()), "write_s": write_s}
                trace.keep(trace.header("abcdefg"[:size], seed, options), error)
            raise


@contextmanager
def _seeded_scheduler(seed: int) -> Iterator[None]:
    """Let the seed decide in which order Trio runs tasks that could run at once, as pytest-trio does for hypothesis."""
    was_deterministic = trio_scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_scheduler._r.getstate()
    vars(trio_scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    trio_scheduler._r.seed(seed)
    try:
        yield
    finally:
        vars(trio_scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = was_deterministic
        trio_scheduler._r.setstate(state)

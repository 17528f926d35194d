"""An application in the simulator: ``simulate`` runs a scenario of its clients while the cluster suffers faults.

A run has two phases. In the *safety* phase anything may happen that a cluster bears, and nothing wrong may be done. In
the *liveness* phase a majority by chance is mended, which must elect, serve and agree; then the others are, and must
catch up. In the end all state machines must be equal, and an idle cluster must fall quiet.

Long because ``Simulation``, which is most of it, is all that a scenario may do, each thing with its contract.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import attrs
import trio

from clustercore.interfaces import (
    Applied,
    Consistency,
    InvariantError,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
    ReadResult,
    Role,
    SessionExpired,
    SnapshotHandle,
    StateMachine,
    StateMachineError,
)
from clustercore.interfaces.groups import unwrap_group
from clustercore.runtime.node import Node
from clustercore.testing.history import HistoryRecorder
from clustercore.testing.simulation.addresses import Addresses
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.cluster import SimulatedCluster, SimulatedNode, eventually
from clustercore.testing.simulation.disks import check_disks
from clustercore.testing.simulation.faults import Faults
from clustercore.testing.simulation.network import NetworkOptions
from clustercore.testing.simulation.operators import Operators
from clustercore.testing.simulation.running import run_cluster
from clustercore.testing.simulation.scheduler import Scheduler
from clustercore.testing.simulation.transport import SimulatedTransport
from clustercore.testing.simulation.watching import Watch
from clustercore.testing.simulation.worlds import NAMES, SimulatedWorld, draw_world
from clustercore.testing.trace import Recorder, TraceHeader, Wiretap, keep_failure, trace_hash
from clustercore.testing.violation import PropertyViolated

__all__ = ["Simulation", "SimulationReport", "SimulationRun", "simulate"]

MachineT = TypeVar("MachineT", bound=StateMachine)

# How long a client waits before it tries again, in virtual seconds.
RETRY_S = 0.2
# How long one attempt may take before the client turns to another node.
PATIENCE_S = 5.0
# How long an idle cluster is watched, and how long it may take until then to end what is under way; and how long a
# session lives that nobody keeps alive.
QUIET_S = 5.0
SETTLING_S = 120.0
SESSION_TTL_S = 3600.0

# A node that ends with one of these was not killed by a fault.
_BUGS = (StateMachineError, InvariantError)


@attrs.frozen
class SimulationReport:
    """What a run did."""

    seed: int
    world: SimulatedWorld
    # How often what happened: elections, commits, snapshots that were restored, crashes, and each kind of fault.
    coverage: Counter[str]
    # Virtual seconds from start to end, and real ones.
    simulated_s: float
    seconds: float
    # Inputs of cores, and steps of tasks.
    inputs: int
    steps: int
    # Of all that was recorded; empty unless it was asked for.
    trace_hash: str = ""


class Simulation(Generic[MachineT]):
    """What a scenario is given: the cluster, as its clients and operators see it.

    Wherever a machine may be named (``on="a"``), it may be left out: then any that is on is taken, by chance.
    """

    def __init__(self, cluster: SimulatedCluster[MachineT], world: SimulatedWorld, watch: Watch, seed: int) -> None:
        """``simulate`` makes it."""
        self.cluster = cluster
        self.world = world
        self.seed = seed
        # For whatever the scenario draws.
        self.chance = Chance(f"{seed}/scenario")
        # What clients did, if the scenario records it; hand it to ``assert_linearizable``.
        self.history: HistoryRecorder[Any, Any] = HistoryRecorder()
        # Set when there are no more faults.
        self.faults_ended = trio.Event()
        self._watch = watch
        self._transport = SimulatedTransport(cluster.network, "client")

    # --- Clients ---

    def node(self, on: str | None = None) -> Node | None:
        """Return the running node of a machine; None while it, or every machine, is off."""
        if on is not None:
            return self.cluster[on].node
        running = self.cluster.on
        return self.chance.choice(running).node if running else None

    async def wait_node(self, on: str | None = None) -> Node:
        """Return the running node of a machine, waiting until it is on and not paused."""
        while True:
            node = self.node(on)
            if node is not None:
                process = self.cluster[node.node_id].process
                if not process.is_stopped:
                    return node
                await process.wait_running()
            else:
                await trio.sleep(RETRY_S)

    async def propose(self, command: bytes, *, on: str | None = None) -> Applied:
        """Propose a command, again and again as long as it is certain that nothing was done.

        Cancellation: the outcome is unknown.
        Raises: OutcomeUnknown, as ``Node.propose``, and InvalidCommand.
        """
        while True:
            node = await self.wait_node(on)
            try:
                with self.inside(node):
                    applied = await node.propose(command, give_up_s=PATIENCE_S)
            except (NodeStopped, NotLeader, ProposalRefused):
                await trio.sleep(RETRY_S)
            else:
                self._watch.check_acknowledged(applied, command)
                return applied

    async def propose_once(self, command: bytes) -> Applied:
        """Propose a command in a session, until it is applied, and only once whatever happens.

        Cancellation: the outcome is unknown.
        """
        while True:
            node = await self.wait_node()
            token = None
            try:
                with self.inside(node):
                    async with node.session(ttl_s=SESSION_TTL_S, give_up_s=PATIENCE_S) as session:
                        token = session.prepare()
                        applied = await session.propose(command, token=token)
                        self._watch.check_acknowledged(applied)
                        session.release(token)
                        return applied
            except (NodeStopped, NotLeader, ProposalRefused, OutcomeUnknown, SessionExpired):
                pass
            while token is not None:
                await trio.sleep(RETRY_S)
                node = await self.wait_node()
                try:
                    with self.inside(node):
                        found = await node.resolve(token, give_up_s=PATIENCE_S)
                except SessionExpired:
                    # Its session was never opened.
                    break
                except (NodeStopped, NotLeader, ProposalRefused, OutcomeUnknown):
                    continue
                if found is not None:
                    return found
                break
            await trio.sleep(RETRY_S)

    async def read(
        self, query: bytes, *, on: str | None = None, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> ReadResult:
        """Ask a state machine, again and again until a node answers.

        Cancellation: nothing happened.
        Raises: InvalidCommand, TooStale.
        """
        while True:
            node = await self.wait_node(on)
            # A node that is no member any more waits for a leader that it never hears of.
            with trio.move_on_after(PATIENCE_S):
                try:
                    with self.inside(node):
                        return await node.read(query, consistency=consistency)
                except NodeStopped:
                    pass
            await trio.sleep(RETRY_S)

    async def call(self, method: str, request: bytes, *, on: str | None = None) -> bytes:
        """Call a method of the state machine's own services, named as in "clustercore.v1.KeyValue/Put", over the wire.

        Cancellation: the call may or may not be carried out.
        Raises: TransportError, as ``ServiceTransport.call``; it is not tried again.
        """
        address = self.cluster.address_of(on if on is not None else self.chance.choice(self.cluster.names))
        return await self._transport.call(address, method, request)

    def inside(self, node: Node) -> Any:
        """Be inside a node's process for a block: what calls a node directly stands still and ends as that does."""
        return self.cluster[node.node_id].process.inside()

    # --- Checks ---

    def check_acknowledged(self, applied: Applied, command: bytes | None = None) -> None:
        """Check that what a client was told is what was applied; ``propose`` does so by itself.

        Raises: PropertyViolated.
        """
        self._watch.check_acknowledged(applied, command)

    def look(self) -> None:
        """Look at the whole cluster; ``simulate`` does so after each fault.

        Raises: PropertyViolated; what a node ended with, if no fault explains that.
        """
        machines = self.cluster.machines.values()
        for machine in machines:
            if isinstance(machine.error, _BUGS):
                raise machine.error
        check_disks(machine.disk.synced for machine in machines)

    async def check_live(self) -> None:
        """Mend a majority, which must serve and agree; then the others, which must catch up."""
        cluster = self.cluster
        majority = self._draw_majority()
        cluster.note(f"mend {majority}")
        self.mend_wires()
        if len(majority) < len(cluster.machines):
            cluster.network.partition(majority)
        await self._start(majority)
        await self._expect("a majority elects a leader", lambda: self._leads_among(majority))
        cluster.note("mend all")
        cluster.network.heal()
        await self._start(cluster.machines)
        await self._expect("the members are settled", lambda: self._settled_members() is not None)
        for name in sorted(cluster.machines.keys() - (self._settled_members() or set())):
            # It would wait, or ask around, for ever.
            await cluster.stop(name)
        await self._expect("everybody catches up", self._agrees)
        await self._check_quiet()

    def mend_wires(self) -> None:
        """Lose, repeat and reorder nothing any more; everything takes as long as before."""
        wires = self.world.network
        self.cluster.network.options = NetworkOptions(latency_s=wires.latency_s, jitter_s=wires.jitter_s)

    def _draw_majority(self) -> list[str]:
        """Return machines that must be able to elect a leader among themselves."""
        states = [state for state in map(self._watch.state_of, self.cluster.machines) if state is not None]
        newest = max(states, key=lambda state: state.commit_index)
        if newest.commit_index == 0:
            # A cluster that has not formed yet needs everybody (docs/explanation/divergence.md).
            return list(self.cluster.names)
        members = newest.configurations.at(newest.commit_index)
        if members.is_joint or any(state.configurations.latest_index > newest.commit_index for state in states):
            # Some may count others by now, and those may be needed.
            return list(self.cluster.machines)
        # Who lost a disk, and has not caught up, helps nobody to be elected.
        fit = sorted(name for name in members.voters if not self._watch.has_lost_disk(name))
        return sorted(self.chance.some(fit, len(members.voters) // 2 + 1))

    async def _start(self, names: Iterable[str]) -> None:
        for name in names:
            machine = self.cluster[name]
            self.cluster.resume(name)
            machine.disk.make_room()
            machine.disk.let_go()
            machine.disk.cancel_plans()
            machine.process.cancel_call()
            if machine.node is None:
                await machine.ended.wait()
                await self.cluster.start(name)
            if self.cluster.is_corrupt(name):
                self.cluster.wipe(name)
                await self.cluster.start(name)

    async def _expect(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            await eventually(condition)
        except trio.TooSlowError:
            statuses = [str(machine.running.status()) for machine in self.cluster.on]
            raise PropertyViolated("liveness", f"{what}, not in time: {statuses}") from None

    def _leads_among(self, names: Sequence[str]) -> bool:
        """Say whether one of them leads, and all of them that are members follow it."""
        on = [self.cluster[name] for name in names if self.cluster[name].node is not None]
        leader = self._leader_among(on)
        if leader is None or len(on) < len(names):
            return False
        members = leader.running.status().configuration.members
        statuses = [machine.running.status() for machine in on if machine.name in members]
        return (
            len({(status.term, status.leader_id, status.commit_index, status.last_log_index) for status in statuses})
            == 1
        )

    def _leader_among(self, machines: Iterable[SimulatedNode[MachineT]]) -> SimulatedNode[MachineT] | None:
        leaders = [machine for machine in machines if machine.running.status().role is Role.LEADER]
        return max(leaders, key=lambda machine: machine.running.status().term, default=None)

    def _settled_members(self) -> set[str] | None:
        """Return the members, once no change is under way and each of them knows that it is one; None until then."""
        self.look()
        leader = self._leader_among(self.cluster.on)
        state = self._watch.state_of(leader.name) if leader is not None else None
        if state is None or not state.is_configuration_committed:
            return None
        members = state.configuration
        names = set(map(str, members.members))
        # Whoever lost a disk votes again.
        is_known = all(self.cluster[name].node is not None and self._watch.is_member(name) for name in names)
        others = [self._watch.state_of(name) for name in names]
        return names if is_known and all(other and other.configuration == members for other in others) else None

    def _agrees(self) -> bool:
        self.look()
        statuses = [machine.running.status() for machine in self.cluster.on]
        return (
            {machine.name for machine in self.cluster.on} == self._settled_members()
            and len({(status.term, status.leader_id, status.last_log_index) for status in statuses}) == 1
            and all(status.last_applied == status.last_log_index > 0 for status in statuses)
        )

    async def _check_quiet(self) -> None:
        """An idle cluster elects nobody, appends nothing and writes nothing."""

        def picture() -> list[tuple[object, ...]]:
            return [
                (status.term, status.leader_id, status.last_log_index, machine.disk.writes_seen)
                for machine in self.cluster.on
                for status in [machine.running.status()]
            ]

        # A session that expires, or a snapshot under way, may still write something; on a slow disk for a while.
        before = picture()
        with trio.move_on_after(SETTLING_S):
            while True:
                await trio.sleep(QUIET_S)
                if (now := picture()) == before:
                    break
                before = now
        await trio.sleep(2 * QUIET_S)
        if picture() != before:
            raise PropertyViolated("an idle cluster falls quiet", f"{before} became {picture()}")

    async def check_alike(self, digest: Callable[[MachineT], object] | None) -> None:
        """Check that all state machines are equal."""
        digests: dict[str, object] = {}
        for machine in self.cluster.on:
            own = digest(machine.machine) if digest else await _snapshot_of(machine.machine)
            assembled = machine.running._assembly
            # With what clustercore keeps beside it: the sessions, and the version of commands.
            digests[machine.name] = own, assembled and assembled.replicated.preamble()
        if any(each != digests[self.cluster.on[0].name] for each in digests.values()):
            raise PropertyViolated("state machines are equal", f"after the same commands they differ: {digests}")


async def _snapshot_of(machine: StateMachine) -> bytes:
    taken = machine.snapshot()
    if isinstance(taken, bytes):
        return taken
    parts = taken.chunks() if isinstance(taken, SnapshotHandle) else taken
    try:
        if isinstance(parts, AsyncIterable):
            return b"".join([part async for part in parts])
        return b"".join(parts)
    finally:
        if isinstance(taken, SnapshotHandle):
            taken.close()


@attrs.define(eq=False)
class _Leadership:
    """Runs a body on every node that leads, and checks that no two do at once."""

    simulation: Simulation[Any]
    running: dict[str, int] = attrs.field(factory=dict)
    begun: int = 0

    async def run(self, name: str) -> None:
        """Lead whenever the machine does, until cancelled."""
        while True:
            node = await self.simulation.wait_node(name)
            try:
                with self.simulation.inside(node):
                    async with node.leading() as term:
                        if self.running:
                            text = f"{name} leads in term {term} beside {self.running}"
                            raise PropertyViolated("leading() bodies never overlap", text, "thesis §6.4.1", name)
                        self.running[name] = term
                        self.begun += 1
                        try:
                            await self.simulation.cluster[name].ended.wait()
                        finally:
                            del self.running[name]
            except NodeStopped:
                pass
            await trio.sleep(RETRY_S)


def simulate(
    seed: int,
    nodes: int | None = 3,
    *,
    machine: Callable[[], MachineT],
    scenario: Callable[[Simulation[MachineT]], Awaitable[None]],
    check: Callable[[Simulation[MachineT]], Awaitable[None]] | None = None,
    digest: Callable[[MachineT], object] | None = None,
    world: SimulatedWorld | None = None,
    name: str = "simulation",
    replay: str = "",
    with_hash: bool = False,
) -> SimulationReport:
    """Run a scenario on a cluster of real nodes under faults, everything decided by the seed.

    ::

        async def scenario(sim: Simulation[Counter]) -> None:
            for _ in range(20):
                await sim.propose_once(b"1")

        simulate(7, machine=Counter, scenario=scenario)

    Faults come while the scenario runs, for as long as the world says; then everything is mended, and the scenario goes
    on to its end without faults. A run that fails is made again with a trace, which is kept; the error says where, and
    how to repeat it.

    Args:
        seed: The same one takes the same steps, in any process and on any version of Python.
        nodes: How many machines, from 1 to 7; None leaves that to the seed too.
        machine: Makes a state machine in its initial state, such as its class.
        scenario: What the clients do.
        check: Called in the end, when all nodes are on and agree.
        digest: What must be equal on all nodes in the end; by default the bytes of their snapshots.
        world: Everything that the seed draws otherwise: limits, delays, faults. ``QUIET`` has no faults.
        name: Of the trace's file, and ``replay`` the command that is told, should the run fail.
        with_hash: Whether the report has the hash of everything that was recorded. That makes the run slower.

    Raises: PropertyViolated if the cluster broke a promise; whatever scenario and check raise.
    """
    drawn = world if world is not None else draw_world(seed, nodes=nodes)
    recorder = Recorder(trio.current_time) if with_hash else None
    run = SimulationRun(seed, drawn, machine, scenario, check, digest)
    header = TraceHeader("node", tuple(drawn.all_names), f"{name}-{seed}", seed, {"world": drawn.describe()}, replay)
    began_at = time.perf_counter()
    try:
        run.go(recorder)
    except Exception as group:  # noqa: BLE001 - raised below, without the groups of nurseries around it
        error = unwrap_group(group)
        error.add_note(f"seed {seed}: {drawn.describe()}")
        _keep_trace(run, f"{name}-{seed}", header, error)
        raise error from None
    seconds = time.perf_counter() - began_at
    found_hash = trace_hash(header, recorder.events) if recorder is not None else ""
    return SimulationReport(seed, drawn, run.coverage, run.simulated_s, seconds, run.inputs, run.steps, found_hash)


def _keep_trace(run: SimulationRun[Any], name: str, header: TraceHeader, error: Exception) -> None:
    """Make the run again, and keep the trace of it."""
    recorder = Recorder(trio.current_time)
    try:
        run.go(recorder)
    except Exception as again:  # noqa: BLE001 - the first error is being raised; this one is compared with it
        repeated = unwrap_group(again)
        if (type(repeated), str(repeated)) != (type(error), str(error)):
            error.add_note(f"made again, the run fails in another way: {repeated!r}. Something in it is not simulated")
    else:
        error.add_note("made again, the run does not fail. Something in it is not simulated: a clock, a file, chance")
    keep_failure(name, header, recorder.events, error)


@attrs.define(eq=False)
class SimulationRun(Generic[MachineT]):
    """One seed's run, which can be made again. What it counts is of the last time, up to the failure if there was one.

    Args:
        seed, world, machine, scenario, check, digest: As in ``simulate``.
    """

    seed: int
    world: SimulatedWorld
    machine: Callable[[], MachineT]
    scenario: Callable[[Simulation[MachineT]], Awaitable[None]]
    check: Callable[[Simulation[MachineT]], Awaitable[None]] | None = None
    digest: Callable[[MachineT], object] | None = None
    # See ``SimulationReport``.
    coverage: Counter[str] = attrs.field(factory=Counter, init=False)
    simulated_s: float = attrs.field(default=0.0, init=False)
    inputs: int = attrs.field(default=0, init=False)
    steps: int = attrs.field(default=0, init=False)

    def go(self, recorder: Recorder | None) -> None:
        """Make the run. Raises what breaks it, perhaps in groups."""
        clusters: list[SimulatedCluster[MachineT]] = []
        watch = Watch(
            self.world.names,
            lambda name: clusters[0][name].disk.synced,
            lambda name: clusters[0][name].lease_until,
            has_true_clocks=self.world.has_true_clocks,
        )

        def make(nursery: trio.Nursery, scheduler: Scheduler) -> SimulatedCluster[MachineT]:
            cluster = SimulatedCluster(
                nursery,
                scheduler,
                self.machine,
                self.world.nodes,
                seed=self.seed,
                config=self.world.config_of,
                write_s=self.world.write_s,
                write_jitter_s=self.world.write_jitter_s,
                network=self.world.network,
                recorder=recorder,
                watch=watch,
            )
            if self.world.hides_drift:
                cluster.network.hidden_rates = dict(zip(NAMES, self.world.clock_rates, strict=False))
            clusters.append(cluster)
            return cluster

        async def main(cluster: SimulatedCluster[MachineT]) -> None:
            simulation = Simulation(cluster, self.world, watch, self.seed)
            for name in self.world.all_names[self.world.nodes :]:
                cluster.add_stranger(name)
            addresses = Addresses(cluster, watch)
            faults = Faults(cluster, self.world, Chance(f"{self.seed}/faults"), simulation.look, watch, addresses)
            operators = Operators(cluster, self.world, Chance(f"{self.seed}/operators"), watch, addresses)
            leadership = _Leadership(simulation)
            try:
                await self._main(simulation, faults, operators, leadership)
            finally:
                self.simulated_s = trio.current_time()
                self.inputs, self.steps = watch.inputs, cluster.scheduler.steps
                self.coverage = Counter(_coverage(watch, cluster, leadership)) + faults.seen + operators.seen

        with watch.watching(Wiretap(recorder) if recorder is not None else None):
            run_cluster(make, main, seed=self.seed)

    async def _main(
        self, simulation: Simulation[MachineT], faults: Faults, operators: Operators, leadership: _Leadership
    ) -> None:
        await simulation.cluster.start_all()
        async with trio.open_nursery() as nursery:
            if self.world.has_true_clocks:
                for name in simulation.cluster.machines:
                    nursery.start_soon(leadership.run, name)
            async with trio.open_nursery() as trouble:
                trouble.start_soon(_run_faults, simulation, faults, operators)
                await self.scenario(simulation)
                trouble.cancel_scope.cancel()
            # A snapshot in chunks of a few bytes, of which every tenth is lost, takes longer than anybody waits.
            simulation.mend_wires()
            await operators.restore(is_required=True)
            await simulation.check_live()
            nursery.cancel_scope.cancel()
        if self.check is not None:
            await self.check(simulation)
        await simulation.check_alike(self.digest)
        simulation.look()


async def _run_faults(simulation: Simulation[Any], faults: Faults, operators: Operators) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operators.run)
        await faults.run()
        nursery.cancel_scope.cancel()
    await operators.restore(is_required=False)
    simulation.faults_ended.set()


def _coverage(watch: Watch, cluster: SimulatedCluster[Any], leadership: _Leadership) -> dict[str, int]:
    return {
        "elections": watch.elections,
        "commits": watch.commits,
        "restores": watch.restores,
        "crashes": sum(each.crashes for each in cluster.machines.values()),
        "leadings": leadership.begun,
        "lost": cluster.network.lost,
        "repeated": cluster.network.repeated,
        "resets": cluster.network.resets,
    }

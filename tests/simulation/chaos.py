"""Random faults for a simulated cluster, all decided by its seed: first the faults, then healing must converge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from random import Random

import attrs
import trio

from clustercore.testing.simulation.node_trace import NodeTrace
from tests.simulation.cluster import SimulatedCluster, simulate, small_config
from tests.simulation.workload import Ledger, check_disks, client

__all__ = ["Chaos", "converge", "run_chaos"]

# Virtual seconds of faults: dozens of elections.
FAULTS_S = 60.0


@attrs.define(eq=False)
class Chaos:
    """One run's faults."""

    cluster: SimulatedCluster
    ledger: Ledger
    rng: Random
    nursery: trio.Nursery

    async def run(self) -> None:
        """Do one thing after the other until the time is up, then mend everything."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self.partition,
            self.isolate,
            self.heal,
            self.crash,
            self.crash_at_a_write,
            self.stop,
            self.start_one,
            self.start_one,
            self.stall,
            self.rest,
        ]
        with trio.move_on_after(FAULTS_S):
            while True:
                await self.rng.choice(faults)()
                check_disks(self.cluster, self.ledger)
                await trio.sleep(self.rng.choice([0.0, 0.1, 1.0, 3.0]))
        self.cluster.network.heal()

    async def partition(self) -> None:
        """Cut the cluster in two."""
        names = list(self.cluster.names)
        self.rng.shuffle(names)
        cut = self.rng.randint(0, len(names))
        self.cluster.note(f"partition {names[:cut]}")
        self.cluster.network.partition(names[:cut], names[cut:])

    async def isolate(self) -> None:
        """Cut one machine off, most often the leader."""
        leaders = [machine.name for machine in self.cluster.on if machine.running.status().leader_id == machine.name]
        name = self.rng.choice(leaders * 3 + list(self.cluster.names))
        self.cluster.note(f"isolate {name}")
        self.cluster.network.isolate(name)

    async def heal(self) -> None:
        """Mend the network."""
        self.cluster.note("heal")
        self.cluster.network.heal()

    async def crash(self) -> None:
        """Cut the power of one machine, or of all."""
        on = self.cluster.on
        for machine in on if self.rng.random() < 0.1 else on[:1] and [self.rng.choice(on)]:
            self.cluster.note(f"crash {machine.name}")
            await self.cluster.crash(machine.name)

    async def crash_at_a_write(self) -> None:
        """Let a machine lose its power at one of its next boundaries."""
        if self.cluster.on:
            machine = self.rng.choice(self.cluster.on)
            self.cluster.note(f"crash {machine.name} soon")
            self.cluster.plan_crash(machine.name, machine.disk.boundaries_seen + self.rng.randint(1, 12))

    async def stop(self) -> None:
        """Stop one node as its operator would."""
        if self.cluster.on:
            machine = self.rng.choice(self.cluster.on)
            self.cluster.note(f"stop {machine.name}")
            await self.cluster.stop(machine.name)

    async def start_one(self) -> None:
        """Switch one machine on."""
        off = [machine for machine in self.cluster.machines.values() if machine.is_off]
        if off:
            machine = self.rng.choice(off)
            self.cluster.note(f"start {machine.name}")
            await self.cluster.start(machine.name)

    async def stall(self) -> None:
        """Hold some disks for a while."""
        with ExitStack() as stack:
            for machine in self.cluster.machines.values():
                if self.rng.random() < 0.4:
                    self.cluster.note(f"stall {machine.name}")
                    stack.enter_context(machine.disk.stall())
            await trio.sleep(self.rng.choice([0.1, 2.0, 8.0]))

    async def rest(self) -> None:
        """Mend everything, and let the cluster recover and work."""
        await self.heal()
        for machine in self.cluster.machines.values():
            if machine.is_off:
                await self.cluster.start(machine.name)
        await trio.sleep(5)


def run_chaos(seed: int, *, with_hash: bool = False) -> tuple[list[tuple[float, str]], Ledger]:
    """Run one seed; return what happened, ``with_hash`` the hash of all events last, and what clients were told.

    It raises what an invariant finds, and then leaves a trace.
    """
    rng = Random(seed)
    test = "tests/simulation/test_node_chaos.py::test_chaos_loses_nothing"
    trace = NodeTrace(f"chaos-{seed}", f"CHAOS_SEEDS={seed}-{seed} python -m pytest {test}")
    config = small_config(
        snapshot_entries=rng.choice([4, 20, 1000]),
        snapshot_tail_entries=rng.choice([0, 3]),
        max_pending_proposals=rng.choice([1, 3, 100]),
        max_append_entries=rng.choice([1, 3, 100]),
        forward_timeout_s=rng.choice([0.5, 10.0]),
        snapshot_timeout_s=1.0,
    )

    async def main(cluster: SimulatedCluster) -> tuple[list[tuple[float, str]], Ledger]:
        ledger = Ledger()
        await cluster.start_all()
        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                for number in range(3):
                    nursery.start_soon(_keep_proposing, cluster, ledger, name, f"{number}", rng.choice([0.2, 1.0]))
            await Chaos(cluster, ledger, rng, nursery).run()
            nursery.cancel_scope.cancel()
        for machine in cluster.machines.values():
            if machine.is_off or machine.node is None:
                await machine.ended.wait()
                await cluster.start(machine.name)
        await client(cluster, ledger, "a", 3, prefix="afterwards ")
        await converge(cluster)
        ledger.check(cluster)
        check_disks(cluster, ledger)
        _check_real_time_order(ledger)
        ledger.check_history()
        if with_hash:
            cluster.note(trace.hash(cluster.names, seed))
        return cluster.trace, ledger

    size, write_s = rng.choice([1, 3, 3, 5]), rng.choice([0.0, 0.01, 0.2])
    return simulate(main, size=size, seed=seed, config=config, write_s=write_s, trace=trace)


async def _keep_proposing(cluster: SimulatedCluster, ledger: Ledger, name: str, prefix: str, pause_s: float) -> None:
    await client(cluster, ledger, name, 1000, prefix=f"{prefix} ", pause_s=pause_s)


async def converge(cluster: SimulatedCluster) -> None:
    """Wait for agreement, bringing back what a crash that was planned still takes away."""
    while True:
        for machine in cluster.machines.values():
            if machine.is_off:
                await cluster.start(machine.name)
        await trio.sleep(5)
        if len(cluster.on) == len(cluster.names):
            break
    await cluster.converge()


def _check_real_time_order(ledger: Ledger) -> None:
    """One client's commands, proposed one after the other, are in the log in that order (linearizability of writes)."""
    last: dict[bytes, int] = {}
    for command, applied in ledger.acknowledged:
        who = command.rstrip(b"0123456789")
        assert applied.index > last.get(who, 0), f"{command!r} is at {applied.index}, before an earlier one"
        last[who] = applied.index

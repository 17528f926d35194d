"""Faults, one after the other, as a world and its seed decide.

What each may do is bounded by what the cluster promises to bear: which disks may be lost, or damaged, says the fault
atlas (``clustercore.testing.invariants.atlas``). So one good copy of everything that is committed is always left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import trio

from clustercore.interfaces import ClusterError, NodeId
from clustercore.testing.invariants import atlas
from clustercore.testing.simulation.addresses import Addresses
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.cluster import SimulatedCluster, SimulatedNode
from clustercore.testing.simulation.disk import SimulatedDisk, Unsynced
from clustercore.testing.simulation.watching import Watch
from clustercore.testing.simulation.worlds import SimulatedWorld

__all__ = ["Faults"]


@attrs.define(eq=False)
class Faults:
    """The faults of one run."""

    cluster: SimulatedCluster[Any]
    world: SimulatedWorld
    chance: Chance
    # Called after each fault, to look at the whole cluster.
    look: Callable[[], None]
    watch: Watch
    addresses: Addresses
    # How often each fault came.
    seen: Counter[str] = attrs.field(factory=Counter)

    async def run(self) -> None:
        """Do one thing after the other until the time is up, then mend everything and switch everything on."""
        names = sorted(self.world.faults)
        drawn = [name for name in names for _ in range(self.world.faults[name])]
        actions: dict[str, Callable[[], Awaitable[None]]] = {name: getattr(self, name) for name in names}
        await trio.sleep(self.world.calm_s)
        with trio.move_on_after(self.world.faults_s):
            while drawn:
                name = self.chance.choice(drawn)
                await actions[name]()
                self.look()
                await trio.sleep(self.chance.exponential(self.world.pause_s))
        self.mend_network()
        self.watch.cancel_calls()
        for machine in self.cluster.machines.values():
            self.cluster.resume(machine.name)
            machine.disk.let_go()
            # What is still planned would come later.
            machine.disk.cancel_plans()
            machine.process.cancel_call()
            await self.cluster.wait_off_or_on(machine.name)
            if self.watch.is_damaged(machine.name) and not machine.is_off:
                # A disk that was read through would show it.
                await self.cluster.crash(machine.name)
            if machine.is_off:
                await self.start(machine)

    def mend_network(self) -> None:
        """Mend the network, and give it back the wires of the world."""
        self.cluster.network.heal()
        self.cluster.network.options = self.world.network

    def _note(self, fault: str, what: object = "") -> None:
        self.seen[fault] += 1
        self.cluster.note(f"{fault} {what}".rstrip())

    def _draw_on(self) -> SimulatedNode[Any] | None:
        """Return a machine that is on, most often the leader."""
        on = self.cluster.on
        leaders = [machine for machine in on if machine.running.status().leader_id == machine.name]
        return self.chance.choice(leaders * len(on) + on) if on else None

    @property
    def _names(self) -> list[str]:
        return list(self.cluster.machines)

    def _draw_two(self) -> tuple[str, str] | None:
        names = self._names
        if len(names) < 2:
            return None
        one, other = self.chance.some(names, 2)
        return one, other

    # --- The network ---

    async def partition(self) -> None:
        """Cut the cluster in two, or move the cut."""
        names = self.chance.some(self._names, len(self._names))
        cut = self.chance.randint(0, len(names))
        self._note("partition", names[:cut])
        self.cluster.network.partition(names[:cut], names[cut:])

    async def isolate(self) -> None:
        """Cut one machine off."""
        machine = self._draw_on()
        if machine is not None:
            self._note("isolate", machine.name)
            self.cluster.network.isolate(machine.name)

    async def one_way(self) -> None:
        """Let nothing pass from some machine to another, or to all others, but the other way."""
        two = self._draw_two()
        if two is not None:
            source, target = two
            self._note("one_way", f"{source} {target}")
            for other in self._names if self.chance.happens(0.4) else target:
                if other != source:
                    self.cluster.network.cut(source, other)

    async def bridge(self) -> None:
        """Cut the cluster in two but for one machine that reaches both."""
        names = self.chance.some(self._names, len(self._names))
        half = len(names) // 2
        self._note("bridge", names)
        self.cluster.network.bridge(names[:half], names[half], names[half + 1 :])

    async def clog(self) -> None:
        """Let everything wait that goes from one machine to another."""
        two = self._draw_two()
        if two is not None:
            self._note("clog", f"{two[0]} {two[1]}")
            self.cluster.network.clog(*two)

    async def slow(self) -> None:
        """Make one machine's wires slow."""
        name = self.chance.choice(self._names)
        self._note("slow", name)
        self.cluster.network.slow_down(name, self.chance.choice([3.0, 30.0, 200.0]))

    async def weather(self) -> None:
        """Lose, repeat, reorder and reset more than the world does, for a while."""
        self._note("weather")
        self.cluster.network.options = attrs.evolve(
            self.world.network,
            is_ordered=False,
            lost=self.chance.choice([0.05, 0.3]),
            repeated=self.chance.choice([0.0, 0.2]),
            reset=self.chance.choice([0.0, 0.05]),
            jitter_s=self.chance.choice([0.01, 0.2]),
        )
        await trio.sleep(self.chance.choice([0.5, 3.0]))
        self.cluster.network.options = self.world.network

    async def heal(self) -> None:
        """Mend the network."""
        self._note("heal")
        self.mend_network()

    # --- Machines ---

    async def crash(self) -> None:
        """Kill the process of one machine, or of all: what it wrote stays, synced or not, or is kept in part."""
        machine = self._draw_on()
        on = self.cluster.on
        for victim in on if self.chance.happens(0.1) else on and [machine or on[0]]:
            unsynced = self.chance.choice([Unsynced.KEPT, Unsynced.BY_SEED])
            self._note("crash", f"{victim.name} {unsynced.value}")
            await self.cluster.crash(victim.name, unsynced=unsynced)

    async def power_cut(self) -> None:
        """Cut the power of one machine: what was not synced is lost in part or wholly, and nobody is told."""
        machine = self._draw_on()
        if machine is not None:
            unsynced = self.chance.choice([Unsynced.LOST, Unsynced.BY_SEED])
            self._note("power_cut", f"{machine.name} {unsynced.value}")
            await self.cluster.crash(machine.name, unsynced=unsynced, is_silent=True)

    async def crash_at_a_write(self) -> None:
        """Let a machine lose its power at one of its next boundaries: before, in or after a write."""
        machine = self._draw_on()
        if machine is not None:
            self._note("crash_at_a_write", machine.name)
            self.cluster.plan_crash(machine.name, machine.disk.boundaries_seen + self.chance.randint(1, 12))

    async def crash_anywhere(self) -> None:
        """Let a machine lose its power between two steps of its tasks, whichever they are."""
        machine = self._draw_on()
        if machine is not None:
            self._note("crash_anywhere", machine.name)
            is_silent = self.chance.happens(0.5)
            self.cluster.plan_crash_after(machine.name, self.chance.randint(1, 400), is_silent=is_silent)

    async def crash_after_promise(self) -> None:
        """Let a machine lose its power right after its next vote or acknowledgement has left."""
        machine = self._draw_on()
        if machine is not None:
            name, steps = machine.name, self.chance.randint(1, 4)
            self._note("crash_after_promise", name)
            self.watch.after_promise(name, lambda: self.cluster.plan_crash_after(name, steps))

    async def stop(self) -> None:
        """Stop one node as its operator would."""
        machine = self._draw_on()
        if machine is not None:
            self._note("stop", machine.name)
            await self.cluster.stop(machine.name)

    async def start_one(self) -> None:
        """Switch one machine on."""
        off = [machine for machine in self.cluster.machines.values() if machine.is_off]
        if off:
            await self.start(self.chance.choice(off))

    async def start(self, machine: SimulatedNode[Any]) -> None:
        """Switch a machine on, with room on its disk, or with an empty one if that is damaged."""
        self._note("start", machine.name)
        machine.disk.make_room()
        await self.cluster.start(machine.name)
        if machine.is_off and self.cluster.is_corrupt(machine.name):
            self._note("replace_disk", machine.name)
            self.cluster.wipe(machine.name)
            await self.cluster.start(machine.name)

    async def move_out(self) -> None:
        """Start a machine at another address than before: discovery does not hear of it, it has to say so itself."""
        machine = self.cluster[self.chance.choice(self._names)]
        if self.addresses.may_lose(machine.name):
            if machine.node is not None:
                await self.cluster.stop(machine.name)
            await self.cluster.wait_off_or_on(machine.name)
            place = self.addresses.other(machine.name)
            self._note("move_out", f"{machine.name} to {place}")
            self.cluster.addresses[machine.name] = place
            await self.start(machine)

    async def pause(self) -> None:
        """Let a process stand still for a while."""
        machine = self._draw_on()
        if machine is not None and machine.node is not None:
            self._note("pause", machine.name)
            self.cluster.pause(machine.name)
            await trio.sleep(self.chance.choice([0.2, 1.5, 6.0]))
            self.cluster.resume(machine.name)

    async def clock_step(self) -> None:
        """Set a machine's time of day to another, and let it run at another rate."""
        machine = self.chance.choice(list(self.cluster.machines.values()))
        self._note("clock_step", machine.name)
        machine.clock_step_s += self.chance.choice([-3600.0, -0.3, 0.3, 20.0])
        machine.clock_rate = self.chance.choice([1.0, 0.999, 1.001])

    async def transfer(self) -> None:
        """Have the leadership handed over: to the best, to anyone, or to a machine that is off."""
        machine = self._draw_on()
        if machine is not None and machine.running.status().leader_id == machine.name:
            target = self.chance.choice([None, *self._names])
            self._note("transfer", f"{machine.name} {target}")
            with suppress(ClusterError), trio.move_on_after(self.chance.choice([0.1, 3.0])), machine.process.inside():
                await machine.running.transfer_leadership(target)

    # --- Disks ---

    async def stall(self) -> None:
        """Hold some disks for a while."""
        stalled = [machine for machine in self.cluster.machines.values() if self.chance.happens(0.4)]
        self._note("stall", [machine.name for machine in stalled])
        disks = [machine.disk for machine in stalled]
        for disk in disks:
            disk.hold()
        try:
            await trio.sleep(self.chance.choice([0.1, 2.0, 8.0]))
        finally:
            for disk in disks:
                disk.let_go()

    async def fail_fsync(self) -> None:
        """Let one of a machine's next writes fail; its node stops."""
        machine = self._draw_on()
        if machine is not None:
            self._note("fail_fsync", machine.name)
            machine.disk.fail_fsync_at(machine.disk.writes_seen + self.chance.randint(1, 5))

    async def fill_disk(self) -> None:
        """Leave no room on a machine's disk, until it is started again; its node stops."""
        machine = self._draw_on()
        if machine is not None:
            self._note("fill_disk", machine.name)
            machine.disk.fill_at(machine.disk.writes_seen + self.chance.randint(1, 5))

    async def slow_disk(self) -> None:
        """Let every write of one machine take long for a while."""
        machine = self.chance.choice(list(self.cluster.machines.values()))
        self._note("slow_disk", machine.name)
        disk = machine.disk
        disk.slow_down(self.chance.choice([0.05, 0.3, 1.0]))
        try:
            await trio.sleep(self.chance.choice([1.0, 5.0]))
        finally:
            disk.slow_down(0.0)

    async def flip_bit(self) -> None:
        """Flip a bit of what is on a disk."""
        await self._damage(lambda disk: disk.flip_bit(), "flip_bit")

    async def misdirect(self) -> None:
        """Let a sector have been written over another one."""
        await self._damage(lambda disk: disk.misdirect(), "misdirect")

    async def _damage(self, harm: Callable[[SimulatedDisk], bool], fault: str) -> None:
        """Damage a disk: it is found out at once, by a crash and a start, or whenever somebody reads it."""
        machine = self._draw_on()
        if machine is not None and self._may_lose_disk(machine) and harm(machine.disk):
            self._note(fault, machine.name)
            self.watch.damaged(machine.name)
            if self.chance.happens(0.5):
                await self.cluster.crash(machine.name)

    def _may_lose_disk(self, machine: SimulatedNode[Any]) -> bool:
        return atlas.may_lose_disk(self.watch, NodeId(machine.name)) and not self.addresses.lost

    async def lose_disk(self) -> None:
        """Replace a machine's disk by an empty one."""
        machine = self._draw_on()
        if machine is not None and self._may_lose_disk(machine):
            self._note("lose_disk", machine.name)
            await self.cluster.crash(machine.name)
            self.cluster.wipe(machine.name)

    async def come_back(self) -> None:
        """Let a machine that is outside come back under its name with an empty disk: it waits to be added, or asks."""
        outside = atlas.outsiders(self.watch)
        if outside:
            machine = self.cluster[self.chance.choice(outside)]
            self._note("come_back", machine.name)
            self.cluster.resume(machine.name)
            if not machine.is_off:
                await self.cluster.crash(machine.name)
            self.cluster.wipe(machine.name)
            asked = self.chance.some(self._names, 2)
            self.cluster.strangers[machine.name] = asked if self.chance.happens(0.3) else None
            await self.start(machine)

    # --- Quiet ---

    async def rest(self) -> None:
        """Mend everything, and let the cluster recover and work."""
        self._note("rest")
        self.mend_network()
        for machine in self.cluster.machines.values():
            self.cluster.resume(machine.name)
            if machine.is_off:
                await self.start(machine)
        await trio.sleep(5)

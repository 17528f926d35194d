"""Those who change the members of a simulated cluster, while it works and while it suffers faults.

Operators ask any node that is on for any change that the interface has, sensible or not. What they are told must be
true, and never older than what any of them was told before. While a disk is lost, or a member is looked for where it
does not serve, they do as a manual would have it: they replace the one and move the other, or wait, and take no others
away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from clustercore.interfaces import (
    ChangeRefused,
    Configuration,
    InvalidChange,
    LogIndex,
    Members,
    MembersHandle,
    NodeId,
    NodeStopped,
    OutcomeUnknown,
)
from clustercore.raft.types import BEFORE_LOG
from clustercore.testing.invariants import atlas
from clustercore.testing.simulation.addresses import Addresses
from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.cluster import SimulatedCluster, SimulatedNode
from clustercore.testing.simulation.watching import Watch
from clustercore.testing.simulation.worlds import SimulatedWorld
from clustercore.testing.violation import PropertyViolated

__all__ = ["Operators"]

# Operators who work at the same time: enough that they meet.
OPERATORS = 2
# Virtual seconds that one attempt may take: a node that is no member has no leader that it could ask.
PATIENCE_S = 3.0
# The same for all attempts to have one of the first members back in the end: dozens of elections.
RESTORE_S = 120.0

_Change = Callable[[MembersHandle], Awaitable[Members]]


@attrs.define(eq=False)
class Operators:
    """What those who change the members of one run do, and were told."""

    cluster: SimulatedCluster[Any]
    world: SimulatedWorld
    chance: Chance
    watch: Watch
    addresses: Addresses
    # How often each change was asked for and how attempts ended.
    seen: Counter[str] = attrs.field(factory=Counter)
    # The highest index of members that anybody was told of: nobody is told less from then on.
    _known_index: LogIndex = BEFORE_LOG
    # Machines that left with what they have on their disks.
    _left: set[NodeId] = attrs.field(factory=set)

    async def run(self) -> None:
        """Ask for one change after the other, here and there, until cancelled."""
        if self.world.changes:
            await trio.sleep(self.world.calm_s)
            async with trio.open_nursery() as nursery:
                for _ in range(OPERATORS):
                    nursery.start_soon(self._keep_changing)

    async def _keep_changing(self) -> None:
        drawn = [name for name in sorted(self.world.changes) for _ in range(self.world.changes[name])]
        while True:
            await trio.sleep(self.chance.exponential(self.world.change_pause_s))
            machine = self._draw_machine()
            if machine is None:
                continue
            kind = self.chance.choice(drawn)
            give_up_s = self.chance.choice([0.5, PATIENCE_S, 10.0])
            change, text = self._choose(kind, give_up_s)
            await self._ask(machine, change, kind, text)

    def _draw_machine(self) -> SimulatedNode[Any] | None:
        """Return a machine that is on and does not stand still."""
        running = [machine for machine in self.cluster.on if not machine.process.is_stopped]
        return self.chance.choice(running) if running else None

    def _choose(self, kind: str, give_up_s: float) -> tuple[_Change, str]:
        one, other = self.chance.some(list(self.cluster.machines), 2)
        missing, lost = self._missing_a_disk(), self.addresses.lost
        if lost and kind != "read":
            lost_one = self.chance.choice(lost)
            place = self.cluster.address_of(lost_one)
            return self._moving(lost_one, place, force=self.chance.happens(0.5), give_up_s=give_up_s)
        if missing and kind != "read":
            # The only change that makes it better.
            kind, one = "replace", self.chance.choice(missing)
            other = self.chance.choice([name for name in self.cluster.machines if name != one])
        if kind == "move":
            return self._choose_move(one, other, give_up_s)
        place = self.cluster.address_of(one)
        choices: dict[str, tuple[_Change, str]] = {
            "read": (lambda members: members.get(give_up_s=give_up_s), ""),
            "add": (lambda members: members.add(one, place, give_up_s=give_up_s), one),
            "add_learner": (lambda members: members.add_learner(one, place, give_up_s=give_up_s), one),
            "promote": (lambda members: members.promote(one, give_up_s=give_up_s), one),
            "demote": (lambda members: members.demote(one, give_up_s=give_up_s), one),
            "remove": (lambda members: members.remove(one, give_up_s=give_up_s), one),
            "replace": (
                lambda members: members.replace(one, other, self.cluster.address_of(other), give_up_s=give_up_s),
                f"{one} by {other}",
            ),
            "apply": (lambda members: self._apply(members, give_up_s), ""),
        }
        change, text = choices[kind]
        return change, f"{kind} {text}".rstrip()

    def _choose_move(self, one: str, other: str, give_up_s: float) -> tuple[_Change, str]:
        """Move a machine to where it is, or to where another is or nobody, perhaps without a look there."""
        force, own_place = self.chance.happens(0.3), self.cluster.address_of(one)
        place = self.chance.choice([own_place, self.cluster.address_of(other), self.addresses.other(one)])
        if force and not self.addresses.may_lose(one):
            place = own_place
        return self._moving(one, place, force=force, give_up_s=give_up_s)

    def _moving(self, name: str, place: str, *, force: bool, give_up_s: float) -> tuple[_Change, str]:
        change: _Change = lambda members: members.move(name, place, force=force, give_up_s=give_up_s)  # noqa: E731
        return change, f"move {name} to {place}{' whatever is there' if force else ''}"

    def _missing_a_disk(self) -> list[str]:
        """Return the machines that lost a disk and are no members with the new one yet."""
        outside = atlas.outsiders(self.watch)
        return [name for name in self.cluster.machines if name not in outside and self.watch.has_lost_disk(name)]

    async def _apply(self, handle: MembersHandle, give_up_s: float) -> Members:
        """Ask for any voters among the members there are, if nobody changes these meanwhile."""
        found = await handle.get(give_up_s=give_up_s)
        names = sorted(found.configuration.members)
        voters = self.chance.some(names, self.chance.randint(1, len(names)))
        target = Configuration.of(voters, learners=set(names) - set(voters))
        return await handle.apply(target, expected_index=found.index, give_up_s=give_up_s)

    async def _ask(self, machine: SimulatedNode[Any], change: _Change, kind: str, text: str) -> None:
        before = self._known_index
        self.seen[f"members: {kind}"] += 1
        self.addresses.changing += 1
        self.cluster.note(f"{machine.name} is asked to {text}")
        try:
            with machine.process.inside():
                members = await change(machine.running.members)
        except (ChangeRefused, InvalidChange, OutcomeUnknown, NodeStopped) as error:
            end = {ChangeRefused: "refused", InvalidChange: "refused", OutcomeUnknown: "unknown"}.get(
                type(error), "stopped"
            )
        else:
            end = "done"
            self._check(members, before)
        finally:
            self.addresses.changing -= 1
        self.seen[f"member changes {end}"] += kind != "read"
        self.cluster.note(f"{machine.name}, asked to {text}: {end}")

    def _check(self, members: Members, before: LogIndex) -> None:
        """What is told is at least as new as all that was told before it was asked for."""
        if members.index < before:
            text = f"an operator was told of the members of index {members.index}, and before of those of {before}"
            raise PropertyViolated("operators are told the newest members", text, "thesis §4.1")
        if members.is_settled:
            self._known_index = max(self._known_index, members.index)
            belong = members.configuration.members
            self.seen["members back with their disks"] += len(self._left & belong)
            self._left -= belong
            was_member = {
                name for name in self.watch.nodes if self.watch.was_member(name) and not self.watch.has_lost_disk(name)
            }
            self._left |= was_member - belong

    async def restore(self, *, is_required: bool) -> None:
        """Have all the first members vote again, once there are no more faults: a scenario may name them.

        Args:
            is_required: Whether to raise PropertyViolated if that takes too long. While clients load the cluster to its
                limits a member may never catch up.
        """
        if not self.world.changes:
            return
        for name in self.cluster.names:
            with trio.move_on_after(RESTORE_S) as patience:
                while not await self._have_voter(name):  # noqa: ASYNC110 - it asks again, and each attempt waits
                    await trio.sleep(self.chance.choice([0.2, 1.0]))
            if patience.cancelled_caught and is_required:
                states = [str(machine.running.status()) for machine in self.cluster.on]
                raise PropertyViolated("liveness", f"{name} does not vote again, in time: {states}")

    async def _add_back(self, handle: MembersHandle, name: str) -> Members:
        """Have a machine vote, wherever the members look for it."""
        found = await handle.get(give_up_s=PATIENCE_S)
        place = "" if found.configuration.get(NodeId(name)) else self.cluster.address_of(name)
        return await handle.add(name, place, give_up_s=PATIENCE_S)

    async def _have_voter(self, name: str) -> bool:
        machine = self._draw_machine()
        if machine is not None:
            lost = self.addresses.lost
            if lost:
                place = self.cluster.address_of(lost[0])
                change, text = self._moving(lost[0], place, force=True, give_up_s=PATIENCE_S)
                await self._ask(machine, change, "move", text)
            else:
                await self._ask(machine, lambda members: self._add_back(members, name), "add", f"add {name}")
        return self.watch.is_full_member(name)

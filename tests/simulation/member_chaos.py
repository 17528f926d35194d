"""Random changes of the members under random faults, all decided by one seed; then healing must converge.

Three machines form the cluster, and four more wait to be added. Operators on any of them add, remove, promote, demote
and replace what they like, while clients write and machines fail. In the end everything is mended, whatever members are
left must agree, and what was told must have been true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import attrs
import trio

from clustercore.interfaces import (
    ChangeRefused,
    Configuration,
    InvalidChange,
    LogIndex,
    Members,
    MembersHandle,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
)
from clustercore.raft.types import BEFORE_LOG
from tests.simulation.chaos import Chaos
from tests.simulation.cluster import SimulatedCluster, eventually, simulate, small_config
from tests.simulation.workload import Ledger, propose

__all__ = ["run_member_chaos"]

STRANGERS = "defg"
FAULTS_S = 60.0
# Virtual seconds that a client or an operator waits: a node that is no member has no leader.
PATIENCE_S = 3.0


@attrs.define(eq=False)
class Operators:
    """What those who change the members do, and were told."""

    cluster: SimulatedCluster
    rng: Random
    # The highest index of members that anybody was told of: nobody is told less from then on.
    known_index: LogIndex = BEFORE_LOG
    # How each attempt ended.
    ends: dict[str, int] = attrs.field(factory=dict)

    async def keep_changing(self) -> None:
        """Ask for one change after the other, here and there."""
        while True:
            await trio.sleep(self.rng.choice([0.0, 0.3, 1.0]))
            if self.cluster.on:
                await self._change_once()

    async def _change_once(self) -> None:
        machine = self.rng.choice(self.cluster.on)
        name, call = self._choose()
        before = self.known_index
        self.cluster.note(f"{machine.name} is asked to {name}")
        try:
            members = await call(machine.running.members)
        except (ChangeRefused, InvalidChange, OutcomeUnknown, NodeStopped) as error:
            end = type(error).__name__
        else:
            end = "done"
            self._check(members, before)
        self.ends[end] = self.ends.get(end, 0) + 1
        self.cluster.note(f"{machine.name}, asked to {name}: {end}")

    def _choose(self) -> tuple[str, Callable[[MembersHandle], Awaitable[Members]]]:
        names = [*self.cluster.machines]
        one, other = self.rng.sample(names, 2)
        give_up_s = self.rng.choice([0.5, PATIENCE_S, 10.0])
        return self.rng.choice(
            [
                ("read", lambda members: members.get(give_up_s=give_up_s)),
                (f"add {one}", lambda members: members.add(one, one, give_up_s=give_up_s)),
                (f"add learner {one}", lambda members: members.add_learner(one, one, give_up_s=give_up_s)),
                (f"promote {one}", lambda members: members.promote(one, give_up_s=give_up_s)),
                (f"demote {one}", lambda members: members.demote(one, give_up_s=give_up_s)),
                (f"remove {one}", lambda members: members.remove(one, give_up_s=give_up_s)),
                (f"replace {one} by {other}", lambda members: members.replace(one, other, other, give_up_s=give_up_s)),
                ("apply", lambda members: self._apply(members, give_up_s)),
            ]
        )

    async def _apply(self, handle: MembersHandle, give_up_s: float) -> Members:
        """Ask for any voters among the members there are, if nobody changes these meanwhile."""
        found = await handle.get(give_up_s=give_up_s)
        names = sorted(found.configuration.members)
        voters = self.rng.sample(names, self.rng.randint(1, len(names)))
        target = Configuration.of(voters, learners=set(names) - set(voters))
        return await handle.apply(target, expected_index=found.index, give_up_s=give_up_s)

    def _check(self, members: Members, before: LogIndex) -> None:
        """What is told is at least as new as all that was told before it was asked for."""
        assert members.index >= before, f"{members} is older than index {before}, which was known"
        if members.is_settled:
            self.known_index = max(self.known_index, members.index)


async def keep_writing(cluster: SimulatedCluster, ledger: Ledger, rng: Random, client: str) -> None:
    """Propose one command after the other, each at any machine that is on, until it is done or its outcome unknown."""
    for number in range(100_000):
        command = f"{client} {number}".encode()
        ledger.attempted.append(command)
        await write(cluster, ledger, rng, client, command)
        await trio.sleep(rng.choice([0.05, 0.5]))


async def write(cluster: SimulatedCluster, ledger: Ledger, rng: Random, client: str, command: bytes) -> None:
    """Propose a command here and there until one node says what became of it."""
    while True:
        if cluster.on:
            node = rng.choice(cluster.on).running
            try:
                applied = await propose(ledger, node, f"{client} ", command, client=client, give_up_s=PATIENCE_S)
            except (OutcomeUnknown, trio.Cancelled) as error:
                ledger.unknown.append(command)
                if isinstance(error, trio.Cancelled):
                    raise
                return
            except (NodeStopped, NotLeader, ProposalRefused):
                pass
            else:
                ledger.acknowledged.append((command, applied))
                return
        await trio.sleep(0.2)


async def settle(cluster: SimulatedCluster) -> Members:
    """Mend everything; wait until the members are settled, and return them with only those still on."""
    cluster.network.heal()
    for machine in cluster.machines.values():
        # All lose their power at once, on or off, and with it what was planned for them.
        await cluster.crash(machine.name)
    for machine in cluster.machines.values():
        await cluster.start(machine.name)
    members = await _members(cluster)
    for name in cluster.machines:
        if name not in members.configuration.members:
            await cluster.stop(name)
    return members


async def _members(cluster: SimulatedCluster) -> Members:
    """Ask whoever knows a leader."""
    found: list[Members] = []

    async def ask(machine_name: str) -> None:
        found.append(await cluster[machine_name].running.members.get())

    with trio.fail_after(120):
        while not found or not found[-1].is_settled or found[-1].configuration.learners & _promoted(found[-1]):
            found.clear()
            async with trio.open_nursery() as nursery:
                for machine in cluster.on:
                    nursery.start_soon(ask, machine.name)
                await eventually(lambda: found)
                nursery.cancel_scope.cancel()
            await trio.sleep(0.5)
    return found[-1]


def _promoted(members: Members) -> set[str]:
    """The learners that will change the members once more."""
    return {server.node_id for server in members.configuration.servers if server.is_promoted}


def run_member_chaos(seed: int) -> tuple[Ledger, Operators]:
    """Run one seed; return what clients and operators were told. It raises what is found to be wrong."""
    rng = Random(seed)
    config = small_config(
        snapshot_entries=rng.choice([10, 50, 1000]),
        snapshot_tail_entries=rng.choice([0, 5]),
        max_append_entries=rng.choice([2, 100]),
        forward_timeout_s=rng.choice([0.5, 10.0]),
        snapshot_timeout_s=1.0,
    )

    async def main(cluster: SimulatedCluster) -> tuple[Ledger, Operators]:
        ledger, operators = Ledger(), Operators(cluster, rng)
        for name in STRANGERS:
            cluster.add_stranger(name)
        for name in cluster.machines:
            await cluster.start(name)
        await cluster.leader("abc")
        async with trio.open_nursery() as nursery:
            for client in ("one", "two", "three"):
                nursery.start_soon(keep_writing, cluster, ledger, rng, client)
            for _ in range(2):
                nursery.start_soon(operators.keep_changing)
            chaos = MemberChaos(cluster, ledger, rng, nursery)
            await chaos.run()
            nursery.cancel_scope.cancel()
        members = await settle(cluster)
        assert members.index >= operators.known_index
        last = b"afterwards"
        ledger.attempted.append(last)
        with trio.fail_after(60):
            await write(cluster, ledger, rng, "afterwards", last)
        await cluster.converge()
        assert {machine.name for machine in cluster.on} == members.configuration.members
        ledger.check(cluster)
        ledger.check_history()
        return ledger, operators

    return simulate(main, size=3, seed=seed, config=config, write_s=rng.choice([0.0, 0.01, 0.1]))


class MemberChaos(Chaos):
    """The faults of any cluster, on all machines, and not one after the other without a rest."""

    async def run(self) -> None:
        """Do one thing after the other, with time between them in which members can be changed."""
        faults: list[Callable[[], Awaitable[None]]] = [
            self.cut,
            self.isolate,
            self.heal,
            self.heal,
            self.crash,
            self.crash_at_a_write,
            self.stop,
            self.start_one,
            self.start_one,
            self.start_one,
            self.stall,
        ]
        with trio.move_on_after(FAULTS_S):
            while True:
                await self.rng.choice(faults)()
                await trio.sleep(self.rng.choice([0.1, 1.0, 3.0]))

    async def cut(self) -> None:
        """Cut all machines in two groups."""
        names = list(self.cluster.machines)
        self.rng.shuffle(names)
        place = self.rng.randint(1, len(names) - 1)
        self.cluster.note(f"cut {names[:place]}")
        self.cluster.network.partition(names[:place], names[place:])

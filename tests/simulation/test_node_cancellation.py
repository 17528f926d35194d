"""Every public await of a node, cancelled at every checkpoint it passes.

After each: no task of the call is left, nor anything that waits for it; the node goes on serving; and in the end no
command was applied twice, none that was acknowledged is missing, and what clients saw is linearizable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import attrs
import pytest
import trio

from clustercore.interfaces import Applied, Consistency, ProposalRefused
from clustercore.runtime.first_election import tell_who_is_missing
from clustercore.runtime.sessions import Session
from clustercore.testing import MapPut
from tests.simulation.cancelling import Attempt, Moment, cancel_at_every_checkpoint, running_tasks
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config
from tests.simulation.workload import Ledger, propose, read

# The key of all commands.
PREFIX = "k "

# Virtual seconds in which a call that was cancelled, or what it began that goes on by itself, has come to its end.
PATIENCE_S = 10.0

# The task that ends by itself some time after a cluster's first election.
WATCH_OF_FIRST_ELECTION = f"{tell_who_is_missing.__module__}.{tell_who_is_missing.__qualname__}"


@attrs.define(eq=False)
class Bench:
    """A cluster whose calls are cancelled, and what its clients know."""

    cluster: SimulatedCluster
    ledger: Ledger = attrs.field(factory=Ledger)
    _numbers: count[int] = attrs.field(factory=count)

    async def machine(self, *, leads: bool) -> SimulatedNode:
        """Wait for a leader, and return it or the first that follows it."""
        leader = await self.cluster.leader()
        return leader if leads else next(machine for machine in self.cluster.on if machine is not leader)

    def new_command(self) -> bytes:
        """Return a command that nobody proposed yet, and note that somebody will."""
        command = f"{PREFIX}{next(self._numbers)}".encode()
        self.ledger.attempted.append(command)
        return command

    async def propose(self, machine: SimulatedNode, *, give_up_s: float | None = None) -> None:
        """Propose a new command."""
        command = self.new_command()
        applied = await propose(self.ledger, machine.running, PREFIX, command, client=machine.name, give_up_s=give_up_s)
        self.ledger.acknowledged.append((command, applied))

    async def read(self, machine: SimulatedNode, consistency: Consistency = Consistency.LINEARIZABLE) -> None:
        """Read the newest command."""
        await read(self.ledger, machine.running, PREFIX, consistency, client=machine.name)

    async def cancel_everywhere(
        self,
        make_call: Callable[[], Awaitable[object]],
        moment: Moment,
        *,
        has_result: bool = False,
        then: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Cancel a call at every checkpoint, and look at what it leaves each time.

        A call that has a result returns it from its last checkpoint: cancelled then, it has it already. What is to be
        done after each attempt is done in ``then``.
        """
        tasks = running_tasks()

        async def look(attempt: Attempt) -> None:
            assert attempt.was_reached or not attempt.was_cancelled
            if then is not None:
                await then()
            # A transfer goes on without its caller, until it is given up after an election timeout.
            await trio.sleep(2 * self.cluster.config.raft.election_timeout_s)
            # A task that is left would run on: then they never are the same again.
            with trio.move_on_after(PATIENCE_S):
                await eventually(lambda: running_tasks() == tasks and self.is_idle())
            left, gone = running_tasks() - tasks, tasks - running_tasks()
            assert (left, gone) == (Counter(), Counter()), f"{attempt} changed the tasks that run"
            assert self.is_idle(), attempt
            await self.settle()

        attempts = await cancel_at_every_checkpoint(make_call, moment, look)
        assert attempts, "the call passes no checkpoint"
        if has_result and moment is Moment.GOING_ON:
            assert not attempts[-1].was_cancelled, f"{attempts[-1]} had its result, and lost it"

    def is_idle(self) -> bool:
        """Whether no node holds anything for a caller."""
        return all(
            assembly.proposals.pending == 0
            and not assembly.read_indexes._waiting
            and assembly.leaderships.is_empty
            and not (assembly.members_desk._open or assembly.members_desk._passed_on)
            for assembly in (machine.running._running() for machine in self.cluster.on)
        )

    async def connect(self) -> None:
        """Let every node lead once: a link is opened when it is first needed, and its tasks stay.

        And see the last of those that only look after the first election.
        """
        for machine in self.cluster.on:
            leader = await self.cluster.leader()
            if leader is not machine:
                await leader.running.transfer_leadership(machine.name)
            await self.settle()
        await eventually(lambda: WATCH_OF_FIRST_ELECTION not in running_tasks())

    async def settle(self) -> None:
        """See that every node serves, and let what goes on by itself come to its end."""
        await self.cluster.leader()
        for machine in self.cluster.on:
            with trio.fail_after(60):
                await self.propose(machine)
                await self.read(machine)
        await self.cluster.converge()

    def check(self) -> None:
        """Check what was applied, and what clients saw."""
        self.ledger.check(self.cluster)
        self.ledger.check_history()


def run(test: Callable[[Bench], Awaitable[None]], *, max_pending_proposals: int = 4096) -> None:
    """Run a test on three nodes."""

    async def main(cluster: SimulatedCluster) -> None:
        bench = Bench(cluster)
        await cluster.start_all()
        await bench.connect()
        await test(bench)
        bench.check()

    # Writes take time, so that a call also waits for disks.
    simulate(main, config=small_config(max_pending_proposals=max_pending_proposals), write_s=0.01)


moments = pytest.mark.parametrize("moment", list(Moment), ids=lambda moment: moment.name)
both = pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])


@pytest.mark.slow
@moments
@both
def test_cancelled_proposal_is_done_once_or_not_at_all(moment: Moment, leads: bool) -> None:
    """``propose``, on the leader and forwarded to it."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=leads)

        await bench.cancel_everywhere(lambda: bench.propose(machine), moment, has_result=True)

    run(test)


@pytest.mark.slow
@moments
@both
def test_cancelled_proposal_that_waited_for_room_leaves_its_place(moment: Moment, leads: bool) -> None:
    """``propose`` on a node that holds as many commands as it may, and lets this one in only later."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=leads)

        async def propose_second() -> None:
            bench.cluster.nursery.start_soon(bench.propose, machine)
            with trio.CancelScope(shield=True):
                # The first one is in after two, and the number must not depend on who runs first.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
            assert machine.running._running().proposals.pending == 1
            await bench.propose(machine)

        await bench.cancel_everywhere(propose_second, moment, has_result=True)

    run(test, max_pending_proposals=1)


@pytest.mark.slow
@moments
def test_cancelled_proposal_that_waits_for_a_leader_is_not_done(moment: Moment) -> None:
    """``propose`` on a node that knows no leader until it gives up."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=False)

        async def propose_alone() -> None:
            bench.cluster.network.isolate(machine.name)
            try:
                await eventually(lambda: machine.running.status().leader_id is None)
                with pytest.raises(ProposalRefused):
                    await bench.propose(machine, give_up_s=1)
            finally:
                bench.cluster.network.heal()

        await bench.cancel_everywhere(propose_alone, moment)

    run(test)


@pytest.mark.slow
@moments
@both
@pytest.mark.parametrize("consistency", list(Consistency), ids=lambda consistency: consistency.name)
def test_cancelled_read_changes_nothing(moment: Moment, leads: bool, consistency: Consistency) -> None:
    """``read``, of every consistency, on the leader and elsewhere."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=leads)

        async def read_it() -> None:
            if consistency is Consistency.STALE:
                # It promises less than linearizability, so it is no part of the history.
                await machine.running.read(PREFIX.encode(), consistency=consistency)
            else:
                await bench.read(machine, consistency)

        # The others may be cancelled before they look at all, at a checkpoint that waits for nothing.
        await bench.cancel_everywhere(read_it, moment, has_result=consistency is Consistency.LINEARIZABLE)

    run(test)


@pytest.mark.slow
@moments
def test_cancelled_leading_body_is_over(moment: Moment) -> None:
    """``leading``, waited for, run and left: no body is left to run, and the next one begins in a later turn."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=True)
        bodies = 0

        async def lead() -> None:
            nonlocal bodies
            async with machine.running.leading():
                assert bodies == 0
                bodies += 1
                try:
                    await bench.propose(machine)
                finally:
                    bodies -= 1

        await bench.cancel_everywhere(lead, moment)
        assert bodies == 0

    run(test)


@pytest.mark.slow
@moments
def test_cancelled_wait_to_lead_is_over(moment: Moment) -> None:
    """``leading`` on a node that leads only once another has handed over."""

    async def test(bench: Bench) -> None:
        async def lead_next() -> None:
            old, new = await bench.machine(leads=True), await bench.machine(leads=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(old.running.transfer_leadership, new.name)
                async with new.running.leading():
                    await bench.propose(new)

        await bench.cancel_everywhere(lead_next, moment)

    run(test)


@pytest.mark.slow
@moments
def test_cancelled_transfer_goes_on_by_itself(moment: Moment) -> None:
    """``transfer_leadership``: the cluster has one leader afterwards, the old or the new one, and serves."""

    async def test(bench: Bench) -> None:
        async def transfer() -> None:
            machine = await bench.machine(leads=True)
            await machine.running.transfer_leadership()

        await bench.cancel_everywhere(transfer, moment)

    run(test)


@pytest.mark.slow
@moments
def test_cancelled_wait_for_a_leader_is_over(moment: Moment) -> None:
    """``wait_leader``, on a node that knows none at first."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=False)

        async def wait() -> None:
            bench.cluster.network.isolate(machine.name)
            try:
                await eventually(lambda: machine.running.status().leader_id is None)
            finally:
                bench.cluster.network.heal()
            await machine.running.wait_leader()

        await bench.cancel_everywhere(wait, moment)

    run(test)


@pytest.mark.slow
@moments
@both
def test_cancelled_command_of_a_session_is_resolved(moment: Moment, leads: bool) -> None:
    """``Session.propose``: afterwards its token tells where it was applied, or that it never will be."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=leads)
        command = b""

        async def propose_in(session: Session) -> None:
            nonlocal command
            command = bench.new_command()
            with bench.ledger.recorder.record("session", MapPut(PREFIX, command.decode())) as pending:
                applied = await session.propose(command)
                pending.answer(None)
            bench.ledger.acknowledged.append((command, applied))

        async def resolve_in(session: Session) -> None:
            is_answered = any(command == answered for answered, _ in bench.ledger.acknowledged)
            # It has no token if it is answered, or if nothing was sent.
            tokens = session.unresolved
            assert len(tokens) <= (not is_answered)
            applied = await session.resolve(tokens[0]) if tokens else None
            if applied is not None:
                bench.ledger.acknowledged.append((command, applied))
            elif not is_answered:
                bench.ledger.refused.append(command)
            assert session.unresolved == ()

        async with machine.running.session() as session:
            await bench.cancel_everywhere(
                lambda: propose_in(session), moment, has_result=True, then=lambda: resolve_in(session)
            )

    run(test)


@pytest.mark.slow
@moments
@both
def test_cancelled_session_is_over(moment: Moment, leads: bool) -> None:
    """``session``, opened, used and left: nothing keeps it alive."""

    async def test(bench: Bench) -> None:
        machine = await bench.machine(leads=leads)

        async def use_session() -> None:
            async with machine.running.session() as session:
                await session.propose(bench.new_command())

        await bench.cancel_everywhere(use_session, moment)

    run(test)


@pytest.mark.slow
@moments
@pytest.mark.parametrize("was_proposed", [True, False])
def test_cancelled_resolve_can_be_repeated(moment: Moment, was_proposed: bool) -> None:
    """``Session.resolve`` and ``Node.resolve``, here and elsewhere: the answer is the same whoever asks, each time."""

    async def test(bench: Bench) -> None:
        machine, other = await bench.machine(leads=True), await bench.machine(leads=False)
        answers: list[Applied | None] = []
        async with machine.running.session() as session:
            token = session.prepare()
            applied = await session.propose(bench.new_command(), token=token) if was_proposed else None

            async def resolve() -> None:
                answers.append(await session.resolve(token))
                answers.append(await machine.running.resolve(token))
                answers.append(await other.running.resolve(token))

            await bench.cancel_everywhere(resolve, moment, has_result=True)
            session.release(token)

        assert set(answers) == {applied}

    run(test)

"""Every operation of ``node.members``, cancelled at every checkpoint it passes.

As in ``test_node_cancellation``: no task of the call is left, the node goes on serving, no command is applied twice and
what clients saw is linearizable. Besides, the members are either as before or as they were to be, on all nodes alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from clustercore.interfaces import ChangeRefusal, ChangeRefused, Configuration, Members, MembersHandle
from tests.simulation.cancelling import Moment
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, simulate
from tests.simulation.test_node_cancellation import Bench, both, moments

# Three voters, and a learner that has the log.
BASE = Configuration.of("abc", learners="d")

# Asks for a change that may involve a voter, which is not the node that is asked.
Call = Callable[[MembersHandle, str], Awaitable[Members]]
OPERATIONS: dict[str, tuple[Call, Callable[[str], Configuration]]] = {
    "get": (lambda members, _: members.get(), lambda _: BASE),
    "add_learner": (lambda members, _: members.add_learner("x", "x"), lambda _: Configuration.of("abc", learners="dx")),
    "add": (lambda members, _: members.add("d", "d"), lambda _: Configuration.of("abcd")),
    "promote": (lambda members, _: members.promote("d"), lambda _: Configuration.of("abcd")),
    "demote": (
        lambda members, voter: members.demote(voter),
        lambda voter: Configuration.of({*"abc"} - {voter}, learners=["d", voter]),
    ),
    "remove": (lambda members, _: members.remove("d"), lambda _: Configuration.of("abc")),
    "replace": (
        lambda members, voter: members.replace(voter, "d", "d"),
        lambda voter: Configuration.of({*"abcd"} - {voter}),
    ),
    "move": (lambda members, _: members.move("d", "elsewhere", force=True), lambda _: BASE),
    "apply": (
        lambda members, voter: members.apply(Configuration.of({*"abcd"} - {voter}, learners=[voter])),
        lambda voter: Configuration.of({*"abcd"} - {voter}, learners=[voter]),
    ),
}


def standings(configuration: Configuration) -> dict[str, bool]:
    """Who votes and who does not."""
    assert not configuration.is_joint
    return {server.node_id: server.is_voter for server in configuration.servers}


async def restore(members: MembersHandle) -> None:
    """Have the members be those of the beginning."""
    present = (await members.get()).configuration
    for server in BASE.servers:
        if present.get(server.node_id) is None:
            await members.add_learner(server.node_id, server.node_id)
    while True:
        try:
            await members.apply(BASE)
        except ChangeRefused as refused:
            # Who was out of it for a moment has to catch up again.
            if refused.reason is not ChangeRefusal.NOT_CAUGHT_UP:
                raise
            await trio.sleep(0.1)
        else:
            break
    await members.move("d", "d", force=True)


async def begin(bench: Bench) -> None:
    """Add the learner, with all the links that it will ever have."""
    cluster = bench.cluster
    cluster.add_stranger("d")
    await cluster.start("d")
    await cluster["a"].running.members.add("d", "d")
    await bench.connect()
    await restore(cluster["a"].running.members)
    await bench.settle()


@pytest.mark.slow
@moments
@both
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_cancelled_change_is_made_wholly_or_not_at_all(moment: Moment, leads: bool, name: str) -> None:
    """On the leader and elsewhere; whatever became of it, the next change finds members that all agree on."""
    call, changed = OPERATIONS[name]
    seen = set()

    async def main(cluster: SimulatedCluster) -> None:
        bench = Bench(cluster)
        await cluster.start_all()
        await bench.connect()
        await begin(bench)
        asked: SimulatedNode = await bench.machine(leads=leads)
        leader = await cluster.leader()
        voter = next(other for other in "abc" if other not in (asked.name, leader.name))

        async def look() -> None:
            members = await asked.running.members.get()
            while not members.is_settled:
                await trio.sleep(0.1)
                members = await asked.running.members.get()
            found = standings(members.configuration)
            steps = [standings(BASE), standings(changed(voter))]
            assert found in steps
            seen.add(steps.index(found))
            await restore(asked.running.members)

        # An addition asks until it sees the promotion, so it passes now fewer checkpoints and now more.
        await bench.cancel_everywhere(
            lambda: call(asked.running.members, voter), moment, has_result=name != "add", then=look
        )
        bench.check()
        assert standings((await asked.running.members.get()).configuration) == standings(BASE)

    simulate(main, write_s=0.01)
    # Some were cancelled early enough, and the last was not cancelled at all.
    assert seen == ({0} if standings(changed("c")) == standings(BASE) else {0, 1})

"""What a cluster costs that has nothing to do, in turns of Trio's scheduler: they are the same on every machine.

``benchmarks/idle_cost.py`` measures the processor time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import attrs
import trio
import trio.abc
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Hello,
    Lane,
    Link,
    LogIndex,
    NodeId,
    Round,
    Term,
)
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, SimulatedCluster, simulate

GROUPS = 200
# Heartbeats come when the test sends them, and never so late that a follower would stand.
LONG_S = 10_000.0

# The steps that a round of heartbeats takes on all three nodes together, by the function that a task runs: the lanes
# and the accepted links send in the same way, and all three engines have the same name.
PER_ROUND = {"run": 5, "send_all": 8, "_receive_all": 2, "_serve_link": 2}


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """Counts the steps of each kind of task."""

    of: Counter[str] = attrs.field(factory=Counter)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step, under the function that the task runs."""
        self.of[task.name.rpartition(".")[2]] += 1


async def steps_during(seconds: float) -> Counter[str]:
    """Return the steps that others take meanwhile."""
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(steps)
    return steps.of


def test_idle_cluster_takes_few_steps_and_only_for_heartbeats() -> None:
    """A round of heartbeats wakes each task that it passes through once, and nothing else wakes at all."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.running.propose(b"x")
        await cluster.converge()
        await trio.sleep(cluster.config.raft.election_timeout_s * 3)
        rounds = 100

        steps = await steps_during(rounds * cluster.config.raft.heartbeat_interval_s)

        # Two heartbeats and two answers, each sent in one step and a checkpoint, and received in one. An engine runs
        # once for each, or for both answers together; the leader's once more, to send.
        assert steps.keys() == PER_ROUND.keys()
        # A follower's timer rings in vain once in an election timeout at most, because each heartbeat moved it.
        raft = cluster.config.raft
        in_vain = 2 * rounds * raft.heartbeat_interval_s / raft.election_timeout_s
        for task, most in PER_ROUND.items():
            assert steps[task] <= rounds * most + (in_vain if task == "run" else 0), steps

    simulate(main)


async def beat(links: list[Link], number: int) -> None:
    """Send each group a heartbeat, and wait for the answers."""
    for link in links:
        await link.send(
            AppendEntriesRequest(Term(1), NodeId("leader"), LogIndex(0), Term(0), LogIndex(0), round=Round(number))
        )
    for link in links:
        assert isinstance(await link.receive(), AppendEntriesResponse)


async def test_followers_of_many_groups_cost_nothing_between_heartbeats(autojump_clock: MockClock) -> None:
    """Two hundred of them in one process take not a step, for as long as nothing arrives."""
    network = MemoryNetwork()
    config = NodeConfig(raft=RaftConfig(election_timeout_s=LONG_S, snapshot_timeout_s=LONG_S))
    links: list[Link] = []
    async with AsyncExitStack() as stack:
        for group in range(GROUPS):
            members = {"here": f"here-{group}", "leader": f"leader-{group}", "third": "nowhere"}
            node = Node(
                "here",
                machine=Journal(),
                transport=MemoryTransport(network, members["here"]),
                storage=MemoryStorage(),
                discovery=StaticDiscovery(members),
                config=config,
            )
            await stack.enter_async_context(node)
            link = await MemoryTransport(network, members["leader"]).connect(members["here"], Lane.CONTROL)
            await stack.enter_async_context(link)
            await link.send(Hello(NodeId("leader"), NodeId("here")))
            await link.receive()
            links.append(link)
        await beat(links, 1)
        await wait_all_tasks_blocked()

        quiet = await steps_during(LONG_S / 2)

        # The one step is this test's own.
        assert quiet.total() == 1, quiet
        await beat(links, 2)

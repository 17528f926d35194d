"""One run of a simulated cluster: the scheduler and the clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.cluster import SimulatedCluster
from clustercore.testing.simulation.scheduler import Scheduler, seeded_scheduler

__all__ = ["run_cluster"]

T = TypeVar("T")
ClusterT = TypeVar("ClusterT", bound=SimulatedCluster[Any])

# Virtual seconds after which a run is stuck.
MAX_RUN_S = 3600.0


def run_cluster(
    make: Callable[[trio.Nursery, Scheduler], ClusterT],
    main: Callable[[ClusterT], Awaitable[T]],
    *,
    seed: int = 0,
) -> T:
    """Run ``main`` with a cluster whose nodes are off, in virtual time, every choice decided by the seed.

    Args:
        make: Makes the cluster, given where its nodes live and what runs their tasks.
        main: The run; what it returns is returned. Nodes that are on when it ends are cancelled.
        seed: Decides in which order tasks run that could run at once; hand it to the cluster too.

    Raises: what the run does; trio.TooSlowError if it does not end within an hour of its own time.
    """

    async def run() -> T:
        async with trio.open_nursery() as nursery:
            cluster = make(nursery, scheduler)
            with cluster.watch_roles(), trio.fail_after(MAX_RUN_S):
                result = await main(cluster)
            nursery.cancel_scope.cancel()
        return result

    with seeded_scheduler(Chance(f"{seed}/scheduler")) as scheduler:
        return trio.run(run, clock=MockClock(autojump_threshold=0))

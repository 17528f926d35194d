"""Sessions under random faults: in the end each command was applied once, or never, as its client is told.

To repeat a failure: ``pytest "tests/simulation/test_session_chaos.py::test_chaos_applies_each_command_once[seed]"``.
"""

from __future__ import annotations

from random import Random

import attrs
import pytest
import trio

from clustercore.interfaces import (
    Applied,
    NodeStopped,
    OutcomeUnknown,
    ProposalRefused,
    SessionExpired,
    SessionToken,
)
from tests.simulation.chaos import Chaos, converge
from tests.simulation.cluster import SimulatedCluster, simulate, small_config
from tests.simulation.workload import Ledger


@attrs.define
class Told:
    """What the clients know."""

    ledger: Ledger = attrs.field(factory=Ledger)
    # Commands whose client was cut short, with their tokens.
    open_tokens: list[tuple[bytes, SessionToken]] = attrs.field(factory=list)


async def client(cluster: SimulatedCluster, told: Told, name: str) -> None:
    """Propose in one session after the other on the machine of this name, or on another while it is off."""
    number = 0
    while True:
        await trio.sleep(0.2)
        node = cluster[name].node or next((machine.node for machine in cluster.on), None)
        if node is None:
            continue
        try:
            async with node.session(ttl_s=600, give_up_s=5.0) as session:
                for _ in range(cluster.rng.randint(1, 20)):
                    number += 1
                    command = f"{name}{number}".encode()
                    told.ledger.attempted.append(command)
                    token = session.prepare()
                    told.open_tokens.append((command, token))
                    # Now and then its caller is impatient.
                    with trio.move_on_after(cluster.rng.choice([0.05, 1.0, 60.0])):
                        told.ledger.acknowledged.append((command, await session.propose(command, token=token)))
                        told.open_tokens.remove((command, token))
                        session.release(token)
                    # A cluster of one with a quick disk would never let time pass.
                    await trio.sleep(0.2)
        except (NodeStopped, OutcomeUnknown, ProposalRefused, SessionExpired):
            # Its node went, or nobody led. What was under way has its token in the list.
            pass


async def resolve_all(cluster: SimulatedCluster, told: Told) -> None:
    """Ask about every token that is left, and hold each answer against the machines."""
    node = cluster["a"].running
    for command, token in told.open_tokens:
        try:
            applied: Applied | None = await node.resolve(token)
        except SessionExpired:
            # It was closed: its client had an answer, or never sent the command.
            continue
        if applied is None:
            told.ledger.refused.append(command)
        else:
            told.ledger.acknowledged.append((command, applied))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_chaos_applies_each_command_once(seed: int) -> None:
    """Under cuts, crashes, stops and stuck disks, with snapshots small and often, and callers that give up."""
    rng = Random(seed)
    config = small_config(
        snapshot_entries=rng.choice([4, 20, 1000]),
        snapshot_tail_entries=rng.choice([0, 3]),
        forward_timeout_s=rng.choice([0.5, 10.0]),
        snapshot_timeout_s=1.0,
    )

    async def main(cluster: SimulatedCluster) -> None:
        told = Told()
        await cluster.start_all()
        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(client, cluster, told, name)
            await Chaos(cluster, told.ledger, rng, nursery).run()
            nursery.cancel_scope.cancel()
        for machine in cluster.machines.values():
            if machine.node is None:
                await machine.ended.wait()
                await cluster.start(machine.name)
        await converge(cluster)
        await resolve_all(cluster, told)
        await converge(cluster)
        told.ledger.check(cluster)
        tables = {
            machine.running._assembly.replicated.preamble() for machine in cluster.on if machine.running._assembly
        }
        assert len(tables) == 1
        assert len(told.ledger.acknowledged) > 3

    simulate(main, size=rng.choice([1, 3, 3, 5]), seed=seed, config=config, write_s=rng.choice([0.0, 0.01]))

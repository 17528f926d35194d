"""The clients of a campaign: they use the map machine in every way there is, and what they saw must be linearizable."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import attrs
import trio

from clustercore.interfaces import Consistency, NodeStopped, NotLeader, OutcomeUnknown, ProposalRefused, SessionExpired
from clustercore.testing.linearizability import Verdict, check_history
from clustercore.testing.models import (
    MapAppend,
    MapCompareAndSet,
    MapDelete,
    MapGet,
    MapInput,
    MapPut,
    key_value_model,
)
from clustercore.testing.report import describe_check
from clustercore.testing.simulation.map_machine import MapMachine, decode_output, encode_input
from clustercore.testing.simulation.simulating import Simulation
from clustercore.testing.violation import PropertyViolated

__all__ = ["MapClients"]

# Operations of all clients in a virtual second.
RATE = 20.0
# Calls of the model for one key; a history that takes more is left undecided, and counted.
MAX_STEPS = 300_000
# What each client does when everything is mended, and how often it tries: nothing is done outside the cluster.
LAST_OPERATIONS = 3
LAST_TRIES = 30


@attrs.define(eq=False)
class MapClients:
    """The scenario and the check of one campaign run.

    Args:
        rate: Operations of all clients in a virtual second, while the cluster is quick enough.
    """

    rate: float = RATE
    # What a campaign counts: how operations ended, and histories that were not decided.
    done: int = 0
    unknown: int = 0
    refused: int = 0
    undecided: int = 0

    async def scenario(self, sim: Simulation[MapMachine]) -> None:
        """Do this and that until the faults are over, and a little after."""
        count = sim.chance.choice([2, 5, 10])
        keys = [f"k{number}" for number in range(sim.chance.choice([1, 3, 8]))]
        uses_sessions = sim.chance.happens(0.5)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                is_in_session = uses_sessions and number % 2 == 0
                nursery.start_soon(self._client, sim, f"c{number}", keys, count / self.rate, is_in_session)

    async def _client(
        self, sim: Simulation[MapMachine], name: str, keys: list[str], pause_s: float, is_in_session: bool
    ) -> None:
        number = left = tries = 0
        # Most clients stay with one machine, as one would that runs beside it.
        home = sim.chance.choice([None, *sim.cluster.names])
        while not sim.faults_ended.is_set() or (left < LAST_OPERATIONS and tries < LAST_TRIES):
            number += 1
            is_last = sim.faults_ended.is_set()
            tries += is_last
            # Spells without a word: what an idle cluster does wrong shows only then.
            if sim.chance.happens(0.002):
                await trio.sleep(5.0)
            await trio.sleep(sim.chance.exponential(pause_s))
            input = _draw_input(sim, keys, f"{name}.{number}")
            is_done = False
            with trio.move_on_after(sim.chance.choice([0.3, 2.0, 10.0])):
                is_done = await self._do(sim, name, input, home, is_in_session)
            left += is_last and is_done

    async def _do(
        self, sim: Simulation[MapMachine], name: str, input: MapInput, home: str | None, is_in_session: bool
    ) -> bool:
        """Do one operation; return whether it is known to be done."""
        if home is not None and sim.node(home) is None:
            home = None
        node = await sim.wait_node(home)
        try:
            with sim.history.record(name, input, note=f"on {node.node_id}") as pending:
                if isinstance(input, MapGet):
                    kinds = [Consistency.LINEARIZABLE, Consistency.LEASE][: 2 if sim.world.has_true_clocks else 1]
                    with sim.inside(node):
                        result = await node.read(encode_input(input), consistency=sim.chance.choice(kinds))
                    pending.answer(decode_output(result.value))
                elif is_in_session:
                    applied = await sim.propose_once(encode_input(input))
                    pending.answer(decode_output(applied.result))
                else:
                    with sim.inside(node):
                        applied = await node.propose(encode_input(input), give_up_s=5.0)
                    sim.check_acknowledged(applied, encode_input(input))
                    pending.answer(decode_output(applied.result))
        except (NodeStopped, NotLeader, ProposalRefused):
            self.refused += 1
        except (OutcomeUnknown, SessionExpired):
            self.unknown += 1
        else:
            self.done += 1
            return True
        return False

    async def check(self, sim: Simulation[MapMachine]) -> None:
        """Read every key once more, then check the whole history."""
        inputs: set[str] = {operation.input.key for operation in sim.history.operations}
        for key in sorted(inputs):
            with suppress(NodeStopped), sim.history.record("in the end", MapGet(key)) as pending:
                pending.answer(decode_output((await sim.read(encode_input(MapGet(key)))).value))
        found: Any = check_history(key_value_model(), sim.history.operations, max_steps=MAX_STEPS)
        if found.verdict is Verdict.NOT_LINEARIZABLE:
            raise PropertyViolated("linearizability", describe_check(found), "Herlihy and Wing 1990")
        self.undecided += sum(part.verdict is Verdict.UNDECIDED for part in found.parts)


def _draw_input(sim: Simulation[MapMachine], keys: list[str], value: str) -> MapInput:
    key, kind = sim.chance.choice(keys), sim.chance.random()
    if kind < 0.5:
        return MapGet(key)
    if kind < 0.8:
        return MapPut(key, value)
    if kind < 0.88:
        return MapAppend(key, f"+{value}")
    if kind < 0.93:
        return MapDelete(key)
    machine = sim.cluster.on[0].machine if sim.cluster.on else None
    return MapCompareAndSet(key, machine.values.get(key) if machine is not None else None, value)

"""How long the checker of linearizability takes for a history of a key-value map.

    python benchmarks/linearizability.py [--operations 10000] [--clients 20] [--json FILE]

Each row is one kind of history, generated from a fixed seed: every client always has one operation under way, half of
them gets, the others puts of values that differ, appends, deletes and compare-and-sets. They take effect one at a
time at a random moment between call and return. "unknown" tells the client nothing of one write in twenty. "stale
read" makes one get, late in the history, answer what an earlier put has written and a later one replaced: no order
explains it, and to know that, all of them have to be excluded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

import attrs

from clustercore.testing import (
    MapAppend,
    MapCompareAndSet,
    MapDelete,
    MapGet,
    MapInput,
    MapOutput,
    MapPut,
    Operation,
    Outcome,
    check_history,
    key_value_model,
)

MapOperation = Operation[MapInput, MapOutput]


@attrs.frozen
class Case:
    """One kind of history."""

    name: str
    keys: int
    unknown_share: float = 0.0
    is_stale: bool = False


CASES = (
    Case("100 keys", 100),
    Case("10 keys", 10),
    Case("10 keys, unknown", 10, unknown_share=0.05),
    Case("10 keys, stale read", 10, is_stale=True),
    Case("10 keys, unknown, stale read", 10, unknown_share=0.05, is_stale=True),
    Case("1 key", 1),
    Case("1 key, unknown", 1, unknown_share=0.05),
    Case("1 key, stale read", 1, is_stale=True),
)


def draw_input(rng: Random, keys: int, number: int) -> MapInput:
    """Draw what a client asks."""
    key = f"k{rng.randrange(keys)}"
    kind = rng.random()
    if kind < 0.5:
        return MapGet(key)
    if kind < 0.8:
        return MapPut(key, f"v{number}")
    if kind < 0.85:
        return MapAppend(key, f"+{number}")
    if kind < 0.9:
        return MapDelete(key)
    return MapCompareAndSet(key, f"v{rng.randrange(number + 1)}", f"c{number}")


def make_history(case: Case, operations: int, clients: int, seed: int = 0) -> list[MapOperation]:
    """Return a history that is linearizable unless the case says otherwise."""
    rng = Random(seed)
    model = key_value_model()
    states: dict[str, str | None] = {}
    history: list[MapOperation] = []
    # Each client: when its operation is called, takes effect and returns. They are carried out by the second of these.
    free_at = [rng.random() for _ in range(clients)]
    planned: list[tuple[float, float, float, str]] = []
    for number in range(operations):
        client = number % clients
        called_at = free_at[client] + rng.expovariate(10)
        effect_at = called_at + rng.expovariate(1)
        free_at[client] = effect_at + rng.expovariate(1)
        planned.append((effect_at, called_at, free_at[client], f"c{client}"))
    for number, (_, called_at, returned_at, name) in enumerate(sorted(planned)):
        input = draw_input(rng, case.keys, number)
        state = states.get(input.key)
        is_unknown = rng.random() < case.unknown_share
        if is_unknown and rng.random() < 0.5:
            # It never takes effect.
            history.append(Operation.unknown(name, input, called_at))
            continue
        output = next(
            answer
            for answer in (state, None, True, False)
            if isinstance(model.step(state, input, answer), (str, type(None)))
        )
        stepped = model.step(state, input, output)
        assert isinstance(stepped, (str, type(None)))
        states[input.key] = stepped
        if is_unknown:
            history.append(Operation.unknown(name, input, called_at))
        else:
            history.append(Operation.answered(name, input, output, called_at, returned_at))
    return make_stale(history) if case.is_stale else history


def make_stale(history: list[MapOperation]) -> list[MapOperation]:
    """Let a late get answer what a put has written that was replaced, for certain, before the get was called."""
    for number in range(len(history) * 9 // 10, len(history)):
        operation = history[number]
        if isinstance(operation.input, MapGet) and operation.outcome is Outcome.ANSWERED:
            puts = [
                (earlier, earlier.input.value)
                for earlier in history[:number]
                if isinstance(earlier.input, MapPut)
                and earlier.input.key == operation.input.key
                and earlier.returned_at < operation.called_at
            ]
            if puts and puts[0][0].returned_at < puts[-1][0].called_at:
                history[number] = attrs.evolve(operation, output=puts[0][1])
                return history
    raise ValueError("no get in the last tenth of the history comes after two puts; ask for more operations")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, str | int | float]] = []
    print(f"{options.operations} operations of {options.clients} clients on a key-value map")
    print(f"{'history':32}{'verdict':20}{'steps':>12}{'seconds':>10}")
    for case in CASES:
        history = make_history(case, options.operations, options.clients)
        began_at = time.perf_counter()
        check = check_history(key_value_model(), history)
        seconds = time.perf_counter() - began_at
        steps = sum(part.steps for part in check.parts)
        print(f"{case.name:32}{check.verdict.value:20}{steps:12,}{seconds:10.2f}", flush=True)
        rows.append({"history": case.name, "verdict": check.verdict.value, "steps": steps, "seconds": seconds})
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The checker against histories that are right by the way they were made, and against one that tries all orders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random
from typing import TypeVar

import attrs
from hypothesis import given
from hypothesis import strategies as st

from clustercore.testing import (
    REFUSED,
    UNKNOWN,
    CounterAdd,
    CounterInput,
    CounterRead,
    MapAppend,
    MapCompareAndSet,
    MapDelete,
    MapGet,
    MapInput,
    MapOutput,
    MapPut,
    Model,
    Operation,
    Outcome,
    Verdict,
    check_history,
    counter_model,
    key_value_model,
    register_model,
)

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")

Map = Operation[MapInput, MapOutput]


def map_inputs(keys: Sequence[str], values: Sequence[str]) -> st.SearchStrategy[MapInput]:
    """Every operation of the map, on few keys and with few values, so that they meet."""
    key, value = st.sampled_from(keys), st.sampled_from(values)
    return st.one_of(
        st.builds(MapGet, key),
        st.builds(MapPut, key, value),
        st.builds(MapAppend, key, value),
        st.builds(MapDelete, key),
        st.builds(MapCompareAndSet, key, st.none() | value, value),
    )


def execute(inputs: Sequence[MapInput]) -> list[MapOutput]:
    """Return what a map answers to each input in turn: an implementation apart from the model."""
    values: dict[str, str] = {}
    outputs: list[MapOutput] = []
    for input in inputs:
        match input:
            case MapGet(key):
                outputs.append(values.get(key))
            case MapPut(key, value):
                values[key] = value
                outputs.append(None)
            case MapAppend(key, value):
                values[key] = values.get(key, "") + value
                outputs.append(None)
            case MapDelete(key):
                outputs.append(values.pop(key, None) is not None)
            case MapCompareAndSet(key, expected, value):
                outputs.append(values.get(key) == expected)
                if values.get(key) == expected:
                    values[key] = value
    return outputs


@st.composite
def executions(draw: st.DrawFn, keys: Sequence[str], values: Sequence[str], max_size: int) -> list[Map]:
    """Draw a history that is linearizable: each operation takes effect at a moment between its call and its return.

    Some are told to no one: of those, some take effect only after the history, or never.
    """
    inputs = draw(st.lists(map_inputs(keys, values), max_size=max_size))
    has_effect = [draw(st.integers(0, 9)) > 0 for _ in inputs]
    outputs = iter(execute([input for input, does in zip(inputs, has_effect, strict=True) if does]))
    history: list[Map] = []
    for place, (input, does) in enumerate(zip(inputs, has_effect, strict=True)):
        before, after = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        called_at, returned_at = 10 * place - before, 10 * place + after
        client = f"c{draw(st.integers(0, 4))}"
        if not does:
            history.append(Operation.unknown(client, input, called_at))
            continue
        output = next(outputs)
        if draw(st.integers(0, 9)) == 0:
            history.append(Operation.unknown(client, input, called_at))
        else:
            history.append(Operation.answered(client, input, output, called_at, returned_at))
    return history


def is_linearizable_by_trying_all(
    model: Model[State, Input, Output], history: Sequence[Operation[Input, Output]]
) -> bool:
    """Judge a history by its definition: some of the unknown operations, in any order that keeps to real time."""
    answered = [operation for operation in history if operation.outcome is Outcome.ANSWERED]
    unknown = [operation for operation in history if operation.outcome is Outcome.UNKNOWN]
    return any(
        is_legal(model, order) and keeps_real_time(order)
        for count in range(len(unknown) + 1)
        for some in combinations(unknown, count)
        for order in permutations([*answered, *some])
    )


def is_legal(model: Model[State, Input, Output], order: Sequence[Operation[Input, Output]]) -> bool:
    """Whether the model accepts an order, taking the whole history as one part."""
    state = model.initial_state
    for operation in order:
        output = operation.output if operation.outcome is Outcome.ANSWERED else UNKNOWN
        new_state = model.step(state, operation.input, output)  # type: ignore[arg-type]  # answered, so an Output
        if new_state is REFUSED:
            return False
        state = new_state
    return True


def keeps_real_time(order: Sequence[Operation[Input, Output]]) -> bool:
    """Whether nothing stands behind what was called after its return."""
    return not any(late.returned_at < early.called_at for early, late in combinations(order, 2))


@given(executions(keys="xyz", values="12", max_size=60))
def test_execution_is_linearizable(history: list[Map]) -> None:
    """What one map did, one operation after the other, is accepted, however clients overlap and whatever they miss."""
    check = check_history(key_value_model(), history)

    assert check.is_linearizable
    for part in check.parts:
        order = [placed.operation for placed in part.order]
        assert is_legal(key_value_model(), order)
        assert keeps_real_time(order)
        assert {id(operation) for operation in order} >= {
            id(operation) for operation in part.operations if operation.outcome is Outcome.ANSWERED
        }


@given(executions(keys="x", values="12", max_size=6), st.data())
def test_changed_history_is_judged_as_by_trying_all_orders(history: list[Map], data: st.DataObject) -> None:
    """With one answer changed, the checker and the definition agree; what it says of the failure is so."""
    answered = [number for number, operation in enumerate(history) if operation.outcome is Outcome.ANSWERED]
    if answered:
        changed = data.draw(st.sampled_from(answered))
        output = data.draw(st.sampled_from([None, True, False, "1", "2", "12", "21"]))
        history[changed] = attrs.evolve(history[changed], output=output)

    check = check_history(key_value_model(), history)

    assert check.is_linearizable is is_linearizable_by_trying_all(key_value_model(), history)
    for part in check.parts:
        assert is_legal(key_value_model(), [placed.operation for placed in part.order])
        assert keeps_real_time([placed.operation for placed in part.order])
        if part.stuck is not None:
            assert part.stuck in part.candidates


@st.composite
def counter_histories(draw: st.DrawFn) -> list[Operation[CounterInput, int]]:
    """Draw any history of a counter, most of them wrong: equal inputs, and states that differ by every operation."""
    history: list[Operation[CounterInput, int]] = []
    for number in range(draw(st.integers(0, 6))):
        inputs: list[CounterInput] = [CounterAdd(1), CounterAdd(2), CounterRead()]
        input = draw(st.sampled_from(inputs))
        called_at = draw(st.integers(0, 20))
        if draw(st.booleans()):
            history.append(Operation.unknown(f"c{number}", input, called_at))
        else:
            returned_at = called_at + draw(st.integers(0, 10))
            history.append(Operation.answered(f"c{number}", input, draw(st.integers(0, 5)), called_at, returned_at))
    return history


@given(executions(keys="x", values="1", max_size=7), st.booleans())
def test_execution_with_equal_writes_is_linearizable_issue_4(history: list[Map], names_reads: bool) -> None:
    """Where writes often write what is there already, each order is still tried; whether reads are known or not."""
    model = key_value_model() if names_reads else attrs.evolve(key_value_model(), is_read=None)

    assert check_history(model, history).is_linearizable


@given(counter_histories())
def test_counter_history_is_judged_as_by_trying_all_orders(history: list[Operation[CounterInput, int]]) -> None:
    """The checker and the definition agree where many operations are unknown and alike."""
    check = check_history(counter_model(), history)

    assert check.is_linearizable is is_linearizable_by_trying_all(counter_model(), history)


@given(
    st.lists(
        st.tuples(
            map_inputs("x", "12"),
            st.sampled_from([None, True, False, "1", "2", "11"]),
            st.integers(0, 20),
            st.integers(0, 10),
            st.integers(0, 2),
        ),
        max_size=6,
    )
)
def test_any_history_is_judged_as_by_trying_all_orders(
    rows: list[tuple[MapInput, MapOutput, int, int, int]],
) -> None:
    """The checker and the definition agree on histories that nobody executed."""
    history: list[Map] = [
        Operation.unknown("c", input, called_at)
        if kind == 0
        else Operation.answered("c", input, output, called_at, called_at + lasts)
        for input, output, called_at, lasts, kind in rows
    ]

    check = check_history(key_value_model(), history)

    assert check.is_linearizable is is_linearizable_by_trying_all(key_value_model(), history)


@given(executions(keys="x", values="12", max_size=8), st.randoms(use_true_random=False))
def test_verdict_does_not_depend_on_the_order_of_the_list(history: list[Map], rng: Random) -> None:
    """Shuffled, it is the same history."""
    shuffled = list(history)
    rng.shuffle(shuffled)

    assert check_history(key_value_model(), shuffled).verdict is check_history(key_value_model(), history).verdict


def test_empty_register_history_is_linearizable_by_both() -> None:
    """Where there is nothing, both checkers agree."""
    assert is_linearizable_by_trying_all(register_model(), [])
    assert check_history(register_model(), []).verdict is Verdict.LINEARIZABLE

"""Histories known good and known bad, one for each kind of anomaly, and what the checker says of them."""

from __future__ import annotations

import sys

import attrs
import pytest

from clustercore.testing import (
    REFUSED,
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
    QueueInput,
    QueuePop,
    QueuePush,
    Refusal,
    RegisterCompareAndSet,
    RegisterInput,
    RegisterOutput,
    RegisterRead,
    RegisterWrite,
    Unknown,
    Verdict,
    check_history,
    counter_model,
    key_value_model,
    queue_model,
    register_model,
)

Register = Operation[RegisterInput, RegisterOutput]
Map = Operation[MapInput, MapOutput]
Counter = Operation[CounterInput, int]
Queue = Operation[QueueInput, int | str | None]


def put(value: str, called_at: float, returned_at: float, client: str = "w") -> Map:
    """A put on the only key, answered."""
    return Operation.answered(client, MapPut("x", value), None, called_at, returned_at)


def delete(output: bool, called_at: float, returned_at: float) -> Map:
    """A delete of the only key, answered."""
    return Operation.answered("d", MapDelete("x"), output, called_at, returned_at)


def write(value: int, called_at: float, returned_at: float, client: str = "w") -> Register:
    """A write that was answered."""
    return Operation.answered(client, RegisterWrite(value), None, called_at, returned_at)


def maybe_write(value: int, called_at: float) -> Register:
    """A write whose outcome is unknown."""
    return Operation.unknown("u", RegisterWrite(value), called_at)


def read(value: int | None, called_at: float, returned_at: float, client: str = "r") -> Register:
    """A read that was answered."""
    return Operation.answered(client, RegisterRead(), value, called_at, returned_at)


def get(value: str | None, called_at: float, returned_at: float) -> Map:
    """A get of the key "k"."""
    return Operation.answered("g", MapGet("k"), value, called_at, returned_at)


def answered(input: MapInput, output: MapOutput, called_at: float, returned_at: float) -> Map:
    """Any operation of the map that was answered."""
    return Operation.answered("c", input, output, called_at, returned_at)


def verdict_of(*operations: Register) -> Verdict:
    """What the checker says of a history of a register."""
    return check_history(register_model(), operations).verdict


LINEARIZABLE, NOT_LINEARIZABLE = Verdict.LINEARIZABLE, Verdict.NOT_LINEARIZABLE


# --- Anomalies --------------------------------------------------------------------------------------------------------


def test_empty_history_is_linearizable() -> None:
    """Who does nothing does nothing wrong."""
    check = check_history(register_model(), [])

    assert check.is_linearizable
    assert check.parts == ()


def test_read_that_overlaps_a_write_may_see_either_value() -> None:
    """Between a write's call and its return, both the old and the new value are right."""
    for value in (1, 2):
        assert verdict_of(write(1, 0, 1), write(2, 2, 5), read(value, 3, 4)) is LINEARIZABLE


def test_stale_read_is_found() -> None:
    """A read that is called after a write has returned does not see the value before."""
    check = check_history(register_model(), [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)])

    assert check.verdict is NOT_LINEARIZABLE
    (part,) = check.parts
    assert part.stuck == read(1, 4, 5)
    assert [placed.operation for placed in part.order] == [write(1, 0, 1), write(2, 2, 3)]
    assert [placed.state for placed in part.order] == [1, 2]
    assert part.candidates == (read(1, 4, 5),)


def test_lost_update_is_found() -> None:
    """Of two compare-and-sets that expect one value, no two can succeed; nor is a successful one forgotten."""
    won: list[Register] = [
        Operation.answered(client, RegisterCompareAndSet(1, value), True, 2, 4)
        for client, value in (("a", 2), ("b", 3))
    ]
    first = won[0]

    assert verdict_of(write(1, 0, 1), *won) is NOT_LINEARIZABLE
    assert verdict_of(write(1, 0, 1), first, read(1, 5, 6)) is NOT_LINEARIZABLE
    assert verdict_of(write(1, 0, 1), first, read(2, 5, 6)) is LINEARIZABLE


def test_dirty_read_is_found() -> None:
    """What a write would have written that was certainly not done is never read."""
    refused: Register = Operation.not_done("w", RegisterWrite(2), 2, 5)

    assert verdict_of(write(1, 0, 1), refused, read(2, 3, 4)) is NOT_LINEARIZABLE
    assert verdict_of(write(1, 0, 1), refused, read(1, 3, 4)) is LINEARIZABLE


def test_value_out_of_nothing_is_found() -> None:
    """A value that nobody wrote is never read."""
    assert verdict_of(read(7, 0, 1)) is NOT_LINEARIZABLE
    assert verdict_of(read(None, 0, 1)) is LINEARIZABLE


def test_non_monotonic_read_is_found() -> None:
    """Once a read has returned the new value, one called after it does not return the old one, by any client."""
    writes = [write(1, 0, 1), write(2, 2, 9)]

    assert verdict_of(*writes, read(2, 3, 4, "a"), read(1, 5, 6, "b")) is NOT_LINEARIZABLE
    assert verdict_of(*writes, read(1, 3, 4, "a"), read(2, 5, 6, "b")) is LINEARIZABLE
    # They overlap, so either may have been first.
    assert verdict_of(*writes, read(2, 3, 5, "a"), read(1, 4, 6, "b")) is LINEARIZABLE


def test_double_apply_is_found() -> None:
    """One addition counts once, whether its client has heard of it or not."""
    add: Counter = Operation.answered("a", CounterAdd(1), 1, 0, 1)
    maybe: Counter = Operation.unknown("a", CounterAdd(1), 0)

    for operation in (add, maybe):
        for value, expected in ((1, LINEARIZABLE), (2, NOT_LINEARIZABLE)):
            seen: Counter = Operation.answered("b", CounterRead(), value, 2, 3)
            assert check_history(counter_model(), [operation, seen]).verdict is expected


def test_double_apply_of_an_append_is_found() -> None:
    """A value that was appended once stands there once."""
    once = [answered(MapAppend("k", "x"), None, 0, 1)]

    assert check_history(key_value_model(), [*once, get("x", 2, 3)]).verdict is LINEARIZABLE
    assert check_history(key_value_model(), [*once, get("xx", 2, 3)]).verdict is NOT_LINEARIZABLE


def test_reads_that_disagree_on_the_order_of_two_writes_are_found() -> None:
    """Two writes at once have one order, and it is the same for everyone."""
    writes = [write(1, 0, 1, "a"), write(2, 0, 1, "b")]

    assert verdict_of(*writes, read(1, 2, 3), read(2, 4, 5)) is NOT_LINEARIZABLE
    assert verdict_of(*writes, read(2, 2, 3), read(2, 4, 5)) is LINEARIZABLE


# --- Unknown outcomes -------------------------------------------------------------------------------------------------


def test_unknown_write_may_take_effect_late_or_never() -> None:
    """It may be seen long after its client gave up, or not at all."""
    known = [maybe_write(2, 0), write(1, 1, 2), read(1, 3, 4)]

    assert verdict_of(*known) is LINEARIZABLE
    assert verdict_of(*known, read(2, 100, 101)) is LINEARIZABLE
    assert verdict_of(*known, read(1, 100, 101)) is LINEARIZABLE


def test_unknown_write_takes_effect_once() -> None:
    """Its value does not come back after it was replaced."""
    assert (
        verdict_of(maybe_write(2, 0), write(1, 1, 2), read(2, 3, 4), write(3, 5, 6), read(2, 7, 8)) is NOT_LINEARIZABLE
    )


def test_unknown_write_does_not_take_effect_before_its_call() -> None:
    """It explains nothing that was over before."""
    assert verdict_of(write(1, 0, 1), read(2, 2, 3), maybe_write(2, 4)) is NOT_LINEARIZABLE


def test_unknown_writes_are_used_in_any_order_and_as_needed() -> None:
    """Of several, those that were seen took effect, when they were seen."""
    unknown = [maybe_write(value, 0) for value in range(1, 6)]
    seen = [read(value, 10 * place, 10 * place + 5) for place, value in enumerate((4, 2, 2, 5), start=1)]

    assert verdict_of(*unknown, *seen) is LINEARIZABLE
    assert verdict_of(*unknown, *seen, read(4, 100, 101)) is NOT_LINEARIZABLE


def test_equal_unknown_operations_are_each_used_once() -> None:
    """Three unknown additions explain a count of three, and not of four."""
    unknown: list[Counter] = [Operation.unknown(f"u{number}", CounterAdd(1), number) for number in range(3)]

    for value, expected in ((0, LINEARIZABLE), (3, LINEARIZABLE), (4, NOT_LINEARIZABLE)):
        seen: Counter = Operation.answered("r", CounterRead(), value, 10, 11)
        assert check_history(counter_model(), [*unknown, seen]).verdict is expected


def test_unknown_operation_on_which_another_depends_is_used() -> None:
    """An unknown write may be seen by nothing but an unknown compare-and-set, whose value then is read."""
    swap: Register = Operation.unknown("u", RegisterCompareAndSet(2, 3), 0)

    assert verdict_of(write(1, 0, 1), maybe_write(2, 0), swap, read(3, 2, 3)) is LINEARIZABLE
    assert verdict_of(write(1, 0, 1), swap, read(3, 2, 3)) is NOT_LINEARIZABLE


@pytest.mark.parametrize("is_good", [True, False])
def test_many_unknown_writes_are_no_burden(is_good: bool) -> None:
    """Without a rule for them, each would double the search."""
    operations = [maybe_write(-value, value) for value in range(1, 40)]
    operations += [write(value, 1000 + 2 * value, 1001 + 2 * value) for value in range(40)]
    operations.append(read(-7 if is_good else 7, 5000, 5001))

    check = check_history(register_model(), operations, max_steps=1_000_000)

    assert check.verdict is (LINEARIZABLE if is_good else NOT_LINEARIZABLE)


# --- Parts, budget, what is said --------------------------------------------------------------------------------------


def test_parts_are_judged_one_by_one() -> None:
    """The history is as bad as its worst key, and the others are told apart from it."""
    good = [answered(MapPut("good", "1"), None, 0, 1), answered(MapGet("good"), "1", 2, 3)]
    bad = [answered(MapPut("bad", "1"), None, 0, 1), answered(MapGet("bad"), None, 2, 3)]

    check = check_history(key_value_model(), [*good, *bad])

    assert check.verdict is NOT_LINEARIZABLE
    assert not check.is_linearizable
    assert [(part.partition, part.verdict) for part in check.parts] == [
        ("good", LINEARIZABLE),
        ("bad", NOT_LINEARIZABLE),
    ]


def test_spent_budget_is_undecided() -> None:
    """Without enough steps the verdict is neither of the two, and a larger budget finds it."""
    operations = [write(value, 0, 100, f"w{value}") for value in range(7)]
    operations.append(read(-1, 0, 100))

    few = check_history(register_model(), operations, max_steps=20)
    enough = check_history(register_model(), operations)

    assert few.verdict is Verdict.UNDECIDED
    assert few.parts[0].stuck is not None
    assert few.parts[0].steps < enough.parts[0].steps
    assert enough.verdict is NOT_LINEARIZABLE


def test_budget_below_one_step_is_refused() -> None:
    """The error names the value and the bound."""
    with pytest.raises(ValueError, match="max_steps is 0; it must be at least 1"):
        check_history(register_model(), [], max_steps=0)


def test_bad_part_beside_an_undecided_one_is_bad() -> None:
    """What is certain of one key is certain of the history."""
    hard: list[Map] = [Operation.answered(f"c{n}", MapPut("hard", f"{n}"), None, 0, 100) for n in range(7)]
    bad = [answered(MapGet("bad"), "x", 0, 1)]

    check = check_history(key_value_model(), [*hard, answered(MapGet("hard"), "x", 0, 100), *bad], max_steps=20)

    assert [part.verdict for part in check.parts] == [Verdict.UNDECIDED, NOT_LINEARIZABLE]
    assert check.verdict is NOT_LINEARIZABLE


def test_linearization_is_one() -> None:
    """The order given explains every answer, keeps to real time, and holds each answered operation once."""
    operations = [
        write(1, 0, 10, "a"),
        write(2, 1, 3, "b"),
        read(1, 2, 4),
        read(2, 5, 6),
        maybe_write(3, 7),
        read(3, 8, 9),
    ]

    (part,) = check_history(register_model(), operations).parts

    assert part.verdict is LINEARIZABLE
    assert part.stuck is None
    assert part.candidates == ()
    assert [placed.operation for placed in part.order] == [operations[number] for number in (0, 2, 1, 3, 4, 5)]
    assert part.final_state == 3


def test_long_history_needs_no_recursion() -> None:
    """Its length may be many times Python's limit on nested calls."""
    operations = [write(value, 2 * value, 2 * value + 1) for value in range(3 * sys.getrecursionlimit())]

    assert verdict_of(*operations) is LINEARIZABLE


def test_equal_times_overlap() -> None:
    """What returns at the very time at which another is called is not before it."""
    assert verdict_of(write(1, 0, 1), read(None, 1, 2)) is LINEARIZABLE
    assert verdict_of(write(1, 0, 1), read(None, 1.5, 2)) is NOT_LINEARIZABLE


def test_order_of_the_list_does_not_matter() -> None:
    """Operations have times; where they stand in the list says nothing."""
    operations = [write(1, 0, 1), write(2, 2, 3), read(2, 4, 5)]

    assert verdict_of(*operations[::-1]) is LINEARIZABLE


def test_map_operations_answer_as_a_map_does() -> None:
    """Each operation of the map, done one after the other."""
    steps: list[tuple[MapInput, MapOutput]] = [
        (MapGet("k"), None),
        (MapDelete("k"), False),
        (MapCompareAndSet("k", None, "a"), True),
        (MapCompareAndSet("k", "b", "c"), False),
        (MapAppend("k", "b"), None),
        (MapGet("k"), "ab"),
        (MapPut("k", "d"), None),
        (MapDelete("k"), True),
        (MapGet("k"), None),
        (MapAppend("k", "e"), None),
        (MapGet("k"), "e"),
    ]
    operations = [answered(input, output, 2 * place, 2 * place + 1) for place, (input, output) in enumerate(steps)]

    assert check_history(key_value_model(), operations).is_linearizable
    for place in range(len(steps)):
        wrong = [*operations]
        if not isinstance(steps[place][0], (MapPut, MapAppend)):
            wrong[place] = answered(steps[place][0], "wrong", 2 * place, 2 * place + 1)
            assert check_history(key_value_model(), wrong).verdict is NOT_LINEARIZABLE


def test_queue_is_first_in_first_out() -> None:
    """What overtakes is found."""
    pushes: list[Queue] = [
        Operation.answered("a", QueuePush(value), None, 2 * value, 2 * value + 1) for value in (1, 2)
    ]

    for values, expected in (
        ((1, 2, None), LINEARIZABLE),
        ((2, 1, None), NOT_LINEARIZABLE),
        ((1, 1), NOT_LINEARIZABLE),
    ):
        pops: list[Queue] = [
            Operation.answered("b", QueuePop(), value, 10 * n, 10 * n + 1) for n, value in enumerate(values, start=1)
        ]
        assert check_history(queue_model(), [*pushes, *pops]).verdict is expected


def test_model_may_allow_several_answers() -> None:
    """A model of the user's own: a counter whose reads may be one behind."""

    def step(state: int, input: CounterInput, output: int | Unknown) -> int | Refusal:
        if isinstance(input, CounterAdd):
            return state + input.amount
        return state if output in (state, state - 1) else REFUSED

    model: Model[int, CounterInput, int] = Model("lagging counter", 0, step)
    add: Counter = Operation.answered("a", CounterAdd(5), 0, 0, 1)

    for value, expected in ((5, LINEARIZABLE), (4, LINEARIZABLE), (3, NOT_LINEARIZABLE)):
        seen: Counter = Operation.answered("b", CounterRead(), value, 2, 3)
        assert check_history(model, [add, seen]).verdict is expected


def test_write_of_what_is_there_already_may_be_needed_later_issue_4() -> None:
    """A put that would change nothing now is not placed for good: only between the deletes does it explain both."""
    history = [put("1", 0, 3), delete(True, 1, 9), put("1", 2, 8, client="v"), delete(True, 7, 10)]

    assert check_history(key_value_model(), history).verdict is Verdict.LINEARIZABLE


def test_model_that_names_no_reads_is_judged_alike() -> None:
    """Without ``is_read`` the search takes longer, and says the same."""
    model = attrs.evolve(key_value_model(), is_read=None)
    good = [put("1", 0, 3), delete(True, 1, 9), put("1", 2, 8, client="v"), delete(True, 7, 10)]
    bad = [put("1", 0, 1), delete(True, 2, 3), delete(True, 4, 5)]

    assert check_history(model, good).verdict is Verdict.LINEARIZABLE
    assert check_history(model, bad).verdict is Verdict.NOT_LINEARIZABLE

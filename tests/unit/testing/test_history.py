"""Histories: how they are recorded, and how they are written and read back."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
import trio

from clustercore.interfaces import OutcomeUnknown, ProposalRefused
from clustercore.testing import (
    CounterAdd,
    CounterInput,
    HistoryRecorder,
    MapAppend,
    MapCompareAndSet,
    MapDelete,
    MapGet,
    MapInput,
    MapOutput,
    MapPut,
    Operation,
    Outcome,
    RegisterRead,
    RegisterWrite,
    counter_model,
    key_value_model,
    read_history,
    register_model,
    sequential_model,
    write_history,
)


def test_recorder_counts_events() -> None:
    """No two events are at one time, and operations stand in the order of their calls."""
    recorder: HistoryRecorder[MapInput, MapOutput] = HistoryRecorder()

    with recorder.record("a", MapPut("k", "1"), note="node x") as outer:
        with recorder.record("b", MapGet("k")) as inner:
            inner.answer("1")
        outer.answer(None)

    assert recorder.operations == (
        Operation.answered("a", MapPut("k", "1"), None, 1, 4, note="node x"),
        Operation.answered("b", MapGet("k"), "1", 2, 3),
    )


def test_recorder_takes_a_clock() -> None:
    """Times then are the clock's."""
    times = iter([10.0, 12.5])
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder(clock=lambda: next(times))

    with recorder.record("a", CounterAdd(1)) as pending:
        pending.answer(1)

    assert recorder.operations == (Operation.answered("a", CounterAdd(1), 1, 10.0, 12.5),)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ProposalRefused("no room"), Outcome.NOT_DONE),
        (OutcomeUnknown("the leader changed"), Outcome.UNKNOWN),
        (RuntimeError("who knows"), Outcome.UNKNOWN),
        (KeyboardInterrupt(), Outcome.UNKNOWN),
    ],
)
def test_recorder_knows_what_an_error_says(error: BaseException, outcome: Outcome) -> None:
    """The error leaves the block; the operation is not done if the error says so, otherwise unknown."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    with pytest.raises(type(error)), recorder.record("a", CounterAdd(1)):
        raise error

    (operation,) = recorder.operations
    assert operation.outcome is outcome
    assert operation.returned_at == (2 if outcome is Outcome.NOT_DONE else math.inf)
    assert operation.note == repr(error)


def test_recorder_takes_other_errors_for_not_done() -> None:
    """A client of the user's own has errors of its own."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    with pytest.raises(KeyError), recorder.record("a", CounterAdd(1), not_done=(KeyError,), note="first"):
        raise KeyError("x")

    assert recorder.operations == (Operation.not_done("a", CounterAdd(1), 1, 2, note="first, KeyError('x')"),)


def test_cancelled_operation_is_unknown() -> None:
    """A caller that is cancelled knows nothing."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    async def main() -> None:
        with trio.CancelScope() as scope, recorder.record("a", CounterAdd(1)):
            scope.cancel()
            await trio.lowlevel.checkpoint()

    trio.run(main)

    assert [operation.outcome for operation in recorder.operations] == [Outcome.UNKNOWN]


def test_error_after_the_answer_changes_nothing() -> None:
    """What was answered was done, whatever came then."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    def answer_and_raise() -> None:
        with recorder.record("a", CounterAdd(1)) as pending:
            pending.answer(1)
            raise ProposalRefused("something else")

    with pytest.raises(ProposalRefused):
        answer_and_raise()

    assert recorder.operations == (Operation.answered("a", CounterAdd(1), 1, 1, 2),)


def test_operation_under_way_is_unknown() -> None:
    """A history may be taken at any time."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    with recorder.record("a", CounterAdd(1)) as pending:
        assert recorder.operations == (Operation.unknown("a", CounterAdd(1), 1),)
        pending.answer(1)


def test_block_without_an_answer_is_a_mistake() -> None:
    """A block that ends well has its answer, and one only."""
    recorder: HistoryRecorder[CounterInput, int] = HistoryRecorder()

    with pytest.raises(RuntimeError, match="ended without an answer"), recorder.record("a", CounterAdd(1)):
        pass
    with recorder.record("a", CounterAdd(1)) as pending:
        pending.answer(1)
        with pytest.raises(RuntimeError, match="was answered already"):
            pending.answer(2)


@pytest.mark.parametrize(
    ("called_at", "returned_at", "outcome"),
    [
        (2, 1, Outcome.ANSWERED),
        (2, math.inf, Outcome.ANSWERED),
        (2, math.nan, Outcome.ANSWERED),
        (math.nan, 3, Outcome.ANSWERED),
        (-math.inf, 3, Outcome.NOT_DONE),
        (2, 3, Outcome.UNKNOWN),
        (math.inf, math.inf, Outcome.UNKNOWN),
    ],
)
def test_operation_with_impossible_times_is_refused(called_at: float, returned_at: float, outcome: Outcome) -> None:
    """An answer comes after its call; only what is unknown has no end."""
    with pytest.raises(ValueError, match="returns at"):
        Operation("a", CounterAdd(1), called_at, outcome, None, returned_at)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every class of the map's operations, every outcome, notes and times come back equal."""
    operations: list[Operation[MapInput, MapOutput]] = [
        Operation.answered("a", MapPut("k", "ä"), None, 1, 2.5, note="node x"),
        Operation.answered("a", MapGet("k"), "ä", 3, 4),
        Operation.answered("a", MapDelete("k"), True, 5, 6),
        Operation.not_done("b", MapAppend("k", "\n"), 7, 8),
        Operation.unknown("b", MapCompareAndSet("k", None, "1"), 9),
    ]

    write_history(tmp_path / "history.jsonl", operations)

    assert read_history(tmp_path / "history.jsonl", key_value_model()) == tuple(operations)
    assert len((tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()) == len(operations)


@attrs.frozen
class Move:
    amounts: tuple[int, ...]
    token: bytes


def test_user_classes_bytes_and_tuples_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A user's model names the classes of its operations, and that is all."""

    def apply(state: int, input: Move) -> tuple[int, bytes]:
        return state, input.token

    model = sequential_model("moves", 0, apply, value_classes=(Move,))
    operations = [Operation.answered("a", Move((1, 2), b"\xff\x00"), b"\xff\x00", 1, 2)]

    write_history(tmp_path / "history.jsonl", operations)

    assert read_history(tmp_path / "history.jsonl", model) == tuple(operations)


def test_value_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The error names it, and what was in the file stays."""
    path = tmp_path / "history.jsonl"
    write_history(path, [Operation.answered("a", RegisterRead(), 1, 1, 2)])
    before = path.read_bytes()

    for value in ([1], {"a": 1}, object()):
        with pytest.raises(TypeError, match="cannot be written"):
            write_history(path, [Operation.answered("a", RegisterRead(), value, 1, 2)])
    with pytest.raises(ValueError, match="JSON"):
        write_history(path, [Operation.answered("a", RegisterRead(), math.nan, 1, 2)])

    assert path.read_bytes() == before


def test_line_that_is_no_operation_is_refused(tmp_path: Path) -> None:
    """The error names the line."""
    path = tmp_path / "history.jsonl"
    write_history(path, [Operation.answered("a", RegisterWrite(1), None, 1, 2)])
    good = path.read_text(encoding="utf-8")

    for old, new in (
        ('"RegisterWrite"', '"MapGet"'),
        ('"RegisterWrite"', '"os"'),
        ('"value"', '"values"'),
        ('{"value": 1}', "1"),
        ('"answered"', '"perhaps"'),
        ('"called_at": 1', '"called_at": "1"'),
        ('"called_at": 1', '"called_at": true'),
        ('"returned_at": 2', '"returned_at": "2"'),
        ('"returned_at": 2', '"returned_at": 0'),
        ('"note"', '"notes"'),
        ("{", "["),
    ):
        assert old in good
        path.write_text(good + good.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ValueError, match=r"line 2 of .* is no operation of register"):
            read_history(path, register_model())


def test_history_of_another_model_is_refused(tmp_path: Path) -> None:
    """The classes of one model are none of another's."""
    write_history(tmp_path / "history.jsonl", [Operation.answered("a", RegisterWrite(1), None, 1, 2)])

    with pytest.raises(ValueError, match="'RegisterWrite' is none of the model's value_classes"):
        read_history(tmp_path / "history.jsonl", counter_model())

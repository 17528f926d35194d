"""Models: what a correct system answers if it does one operation after the other.

A model is a pure function over a state that is immutable and hashable. It is small, because it says nothing of nodes,
messages or time: the checker searches for one order of the operations that it accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Final, Generic, TypeAlias, TypeVar, assert_never

import attrs

__all__ = [
    "REFUSED",
    "UNKNOWN",
    "CounterAdd",
    "CounterInput",
    "CounterRead",
    "MapAppend",
    "MapCompareAndSet",
    "MapDelete",
    "MapGet",
    "MapInput",
    "MapOutput",
    "MapPut",
    "Model",
    "QueueInput",
    "QueuePop",
    "QueuePush",
    "Refusal",
    "RegisterCompareAndSet",
    "RegisterInput",
    "RegisterOutput",
    "RegisterRead",
    "RegisterWrite",
    "Unknown",
    "counter_model",
    "key_value_model",
    "queue_model",
    "register_model",
    "sequential_model",
]

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")


class Unknown(Enum):
    """The output of an operation that nobody got."""

    UNKNOWN = "unknown"


class Refusal(Enum):
    """What ``Model.step`` returns for an output that cannot be."""

    REFUSED = "refused"


UNKNOWN: Final = Unknown.UNKNOWN
REFUSED: Final = Refusal.REFUSED


@attrs.frozen
class Model(Generic[State, Input, Output]):
    """What a history is held against. ``sequential_model`` makes one from a function that gives the one right answer.

    All functions are pure: the checker calls them in any order and as often as it likes.
    """

    # For reports.
    name: str
    # The state before the first operation; each part has its own. Immutable, hashable, and equal exactly if no later
    # operation can tell the difference.
    initial_state: State
    # The state after an operation with this input gave this output, in this state; REFUSED if it cannot have given it.
    # With UNKNOWN for the output: the state after the operation took effect, whatever it would have answered.
    step: Callable[[State, Input, Output | Unknown], State | Refusal]
    # The part of the state that an input is about, as the key of a map. Parts must not touch each other: then each is
    # checked by itself, which is what makes long histories cheap (Herlihy and Wing 1990, Theorem 1: locality). None:
    # the state is one part.
    partition: Callable[[Input], Hashable] | None = None
    # For reports.
    describe_state: Callable[[State], str] = repr
    # For reports: the right answer, in words, where there is one.
    describe_answer: Callable[[State, Input], str] | None = None
    # The attrs classes among inputs and outputs, for ``read_history``; their names differ.
    value_classes: tuple[type, ...] = ()
    # Whether an operation with this input that gave this output leaves every state that accepts it as it is; with
    # UNKNOWN, whether one with this input does, whatever it would have answered. What is said to be a read, and is
    # none, makes verdicts wrong. None: no operation is known to be one, and long histories take longer.
    is_read: Callable[[Input, Output | Unknown], bool] | None = None


def sequential_model(
    name: str,
    initial_state: State,
    apply: Callable[[State, Input], tuple[State, Output]],
    *,
    partition: Callable[[Input], Hashable] | None = None,
    describe_state: Callable[[State], str] = repr,
    value_classes: tuple[type, ...] = (),
    is_read: Callable[[Input, Output | Unknown], bool] | None = None,
) -> Model[State, Input, Output]:
    """Make a model of a system that has one right answer in each state, as a state machine has.

    Args:
        name: For reports.
        initial_state: See ``Model.initial_state``.
        apply: Returns the state after an input, and its output. Pure: it returns a new state and leaves the old one.
        partition, describe_state, value_classes, is_read: See ``Model``.
    """

    def step(state: State, input: Input, output: Output | Unknown) -> State | Refusal:
        new_state, answer = apply(state, input)
        return new_state if output is UNKNOWN or output == answer else REFUSED

    def describe_answer(state: State, input: Input) -> str:
        return repr(apply(state, input)[1])

    return Model(name, initial_state, step, partition, describe_state, describe_answer, value_classes, is_read)


# --- Register ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class RegisterRead:
    """Answers with the value; None before the first write."""


@attrs.frozen
class RegisterWrite:
    """Sets the value. Answers with None."""

    value: int | str


@attrs.frozen
class RegisterCompareAndSet:
    """Sets the value if it is the expected one. Answers whether it was."""

    expected: int | str | None
    value: int | str


RegisterInput: TypeAlias = RegisterRead | RegisterWrite | RegisterCompareAndSet
RegisterOutput: TypeAlias = int | str | bool | None


def register_model() -> Model[int | str | None, RegisterInput, RegisterOutput]:
    """Return the model of one register, empty at first."""
    return sequential_model(
        "register",
        None,
        _apply_to_register,
        value_classes=(RegisterRead, RegisterWrite, RegisterCompareAndSet),
        is_read=_reads_register,
    )


def _reads_register(input: RegisterInput, output: RegisterOutput | Unknown) -> bool:
    # A refused compare-and-set says what the value is not.
    return isinstance(input, RegisterRead) or (isinstance(input, RegisterCompareAndSet) and output is False)


def _apply_to_register(state: int | str | None, input: RegisterInput) -> tuple[int | str | None, RegisterOutput]:
    if isinstance(input, RegisterRead):
        return state, state
    if isinstance(input, RegisterWrite):
        return input.value, None
    if isinstance(input, RegisterCompareAndSet):
        return (input.value, True) if state == input.expected else (state, False)
    assert_never(input)


# --- Map --------------------------------------------------------------------------------------------------------------


@attrs.frozen
class MapGet:
    """Answers with the value of a key; None if it has none."""

    key: str


@attrs.frozen
class MapPut:
    """Sets the value of a key. Answers with None."""

    key: str
    value: str


@attrs.frozen
class MapDelete:
    """Takes a key away. Answers whether it was there."""

    key: str


@attrs.frozen
class MapCompareAndSet:
    """Sets the value of a key if it is the expected one, None for a key that has none. Answers whether it was."""

    key: str
    expected: str | None
    value: str


@attrs.frozen
class MapAppend:
    """Appends to the value of a key, which is empty if it has none. Answers with None."""

    key: str
    value: str


MapInput: TypeAlias = MapGet | MapPut | MapDelete | MapCompareAndSet | MapAppend
MapOutput: TypeAlias = str | bool | None


def key_value_model() -> Model[str | None, MapInput, MapOutput]:
    """Return the model of a map from keys to strings, empty at first.

    Each key is a part, and its state is its value. An operation over several keys needs a model without parts.
    """
    return sequential_model(
        "key-value map",
        None,
        _apply_to_key,
        partition=lambda input: input.key,
        value_classes=(MapGet, MapPut, MapDelete, MapCompareAndSet, MapAppend),
        is_read=_reads_key,
    )


def _reads_key(input: MapInput, output: MapOutput | Unknown) -> bool:
    # What found nothing to do says what the value is not.
    return isinstance(input, MapGet) or (isinstance(input, (MapDelete, MapCompareAndSet)) and output is False)


def _apply_to_key(state: str | None, input: MapInput) -> tuple[str | None, MapOutput]:
    if isinstance(input, MapGet):
        return state, state
    if isinstance(input, MapPut):
        return input.value, None
    if isinstance(input, MapDelete):
        return None, state is not None
    if isinstance(input, MapCompareAndSet):
        return (input.value, True) if state == input.expected else (state, False)
    if isinstance(input, MapAppend):
        return (state or "") + input.value, None
    assert_never(input)


# --- Counter, queue ---------------------------------------------------------------------------------------------------


@attrs.frozen
class CounterAdd:
    """Adds to the count. Answers with the new one."""

    amount: int


@attrs.frozen
class CounterRead:
    """Answers with the count."""


CounterInput: TypeAlias = CounterAdd | CounterRead


def counter_model() -> Model[int, CounterInput, int]:
    """Return the model of a counter that starts at 0. It shows a command that is applied twice."""

    def apply(state: int, input: CounterInput) -> tuple[int, int]:
        count = state + input.amount if isinstance(input, CounterAdd) else state
        return count, count

    return sequential_model(
        "counter",
        0,
        apply,
        value_classes=(CounterAdd, CounterRead),
        is_read=lambda input, output: isinstance(input, CounterRead),
    )


@attrs.frozen
class QueuePush:
    """Adds a value at the end. Answers with None."""

    value: int | str


@attrs.frozen
class QueuePop:
    """Takes the first value away and answers with it; with None if there is none."""


QueueInput: TypeAlias = QueuePush | QueuePop


def queue_model() -> Model[tuple[int | str, ...], QueueInput, int | str | None]:
    """Return the model of a queue, first in and first out, empty at first."""

    def apply(state: tuple[int | str, ...], input: QueueInput) -> tuple[tuple[int | str, ...], int | str | None]:
        if isinstance(input, QueuePush):
            return (*state, input.value), None
        return (state[1:], state[0]) if state else (state, None)

    return sequential_model(
        "queue",
        (),
        apply,
        value_classes=(QueuePush, QueuePop),
        # Of an empty queue.
        is_read=lambda input, output: isinstance(input, QueuePop) and output is None,
    )

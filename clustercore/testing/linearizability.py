"""Is there one order of a history's operations that the model accepts, and that no client can tell from what it saw?

A history is linearizable (Herlihy and Wing 1990) if each operation can be placed at one moment between its call and its
return so that the model, taking them in that order, gives every output that clients got. Whether there is such an order
is found by search (`search`), one for each part of the state, as in Porcupine (Horn and Kroening 2015): an operation on
one key says nothing about another. A search that takes more steps than allowed ends undecided, which is neither of the
two answers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from enum import Enum
from typing import Generic, TypeVar, cast

import attrs

from clustercore.testing.history import Operation, Outcome
from clustercore.testing.models import UNKNOWN, Model
from clustercore.testing.search import Search

__all__ = ["HistoryCheck", "PartCheck", "PlacedOperation", "Verdict", "check_history"]

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")

# Calls of the model, for each part: some ten seconds. The search's memory grows with it, to a few hundred MiB.
MAX_STEPS = 10_000_000


class Verdict(Enum):
    """What is known of a history, or of a part of one."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    # The budget was spent before either was certain.
    UNDECIDED = "undecided"


@attrs.frozen
class PlacedOperation(Generic[State, Input, Output]):
    """An operation in the order that was found, and the state it left."""

    operation: Operation[Input, Output]
    state: State


@attrs.frozen
class PartCheck(Generic[State, Input, Output]):
    """What is known of one part of a history."""

    # What the model's partition returned; None if it has none.
    partition: Hashable
    verdict: Verdict
    # All of the part that may have had an effect, in the order of the calls.
    operations: tuple[Operation[Input, Output], ...]
    # A linearization if there is one, otherwise the order that got furthest: up to the latest return, and among those
    # the longest.
    order: tuple[PlacedOperation[State, Input, Output], ...]
    # The first to return of those that the order leaves out: it would have to come next at the latest. None if
    # LINEARIZABLE. No order gets past its return if NOT_LINEARIZABLE, so it is where clients could first have known.
    stuck: Operation[Input, Output] | None
    # How often the model was called.
    steps: int

    @property
    def final_state(self) -> State | None:
        """The state after ``order``; None if that is empty."""
        return self.order[-1].state if self.order else None

    @property
    def candidates(self) -> tuple[Operation[Input, Output], ...]:
        """What could come next by its times: everything that ``order`` leaves out and was called by ``stuck``'s return.

        The model refuses each of them, or nothing that follows gets past ``stuck``. Empty if LINEARIZABLE.
        """
        if self.stuck is None:
            return ()
        placed = {id(placed.operation) for placed in self.order}
        returned_at = self.stuck.returned_at
        return tuple(
            operation
            for operation in self.operations
            if id(operation) not in placed and operation.called_at <= returned_at
        )


@attrs.frozen
class HistoryCheck(Generic[State, Input, Output]):
    """What is known of a history."""

    model: Model[State, Input, Output]
    # In the order of each part's first call.
    parts: tuple[PartCheck[State, Input, Output], ...]

    @property
    def verdict(self) -> Verdict:
        """The history's: that of its worst part, since a history is linearizable exactly if all its parts are."""
        verdicts = {part.verdict for part in self.parts}
        for verdict in (Verdict.NOT_LINEARIZABLE, Verdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return Verdict.LINEARIZABLE

    @property
    def is_linearizable(self) -> bool:
        """Whether it is certain that the history is linearizable."""
        return self.verdict is Verdict.LINEARIZABLE


def check_history(
    model: Model[State, Input, Output],
    operations: Iterable[Operation[Input, Output]],
    *,
    max_steps: int = MAX_STEPS,
) -> HistoryCheck[State, Input, Output]:
    """Search each part of a history for a linearization.

    The same history gives the same result, order and steps included.

    Args:
        model: What a correct system does.
        operations: In any order. What is NOT_DONE is left out.
        max_steps: How often the model may be called for one part before that is UNDECIDED; at least 1.

    Raises: ValueError for ``max_steps`` below 1; whatever the model raises.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1")
    parts: dict[Hashable, list[Operation[Input, Output]]] = {}
    for operation in sorted(operations, key=lambda operation: operation.called_at):
        if operation.outcome is not Outcome.NOT_DONE:
            partition = model.partition(operation.input) if model.partition is not None else None
            parts.setdefault(partition, []).append(operation)
    return HistoryCheck(
        model, tuple(_check_part(model, partition, part, max_steps) for partition, part in parts.items())
    )


def _check_part(
    model: Model[State, Input, Output],
    partition: Hashable,
    operations: Sequence[Operation[Input, Output]],
    max_steps: int,
) -> PartCheck[State, Input, Output]:
    search = Search(model, operations, max_steps)
    is_decided = search.run()
    state = model.initial_state
    order: list[PlacedOperation[State, Input, Output]] = []
    for number in search.order:
        operation = search.answered[number] if number >= 0 else search.unknown[~number]
        output = cast(Output, operation.output) if number >= 0 else UNKNOWN
        state = cast(State, model.step(state, operation.input, output))
        order.append(PlacedOperation(operation, state))
    stuck = None if search.stuck is None else search.answered[search.stuck]
    if not is_decided:
        verdict = Verdict.UNDECIDED
    else:
        verdict = Verdict.LINEARIZABLE if stuck is None else Verdict.NOT_LINEARIZABLE
    return PartCheck(partition, verdict, tuple(operations), tuple(order), stuck, search.steps)

"""Histories: what clients asked of a system, what they were told, and when, as a checker needs to know it.

Nothing here knows a clock or a cluster. An operation's times are positions on any one line on which all clients agree:
the count of events that ``HistoryRecorder`` keeps by default, or a monotonic clock that all of them read. An operation
comes before another exactly if it returned *before* the other was called; at equal times the two overlap, which
forgives too much rather than accuse a system that did nothing wrong.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, cast

import attrs

from clustercore.interfaces.errors import InvalidCommand, NodeStopped, NotLeader, ProposalRefused, TooStale
from clustercore.testing.models import Model

__all__ = ["HistoryRecorder", "Operation", "Outcome", "PendingOperation", "read_history", "write_history"]

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")

# What the json module makes of a line.
_Json: TypeAlias = "bool | int | float | str | Sequence[_Json] | dict[str, _Json] | None"

# Errors of a node that say for certain that nothing was done (docs/reference/errors.md).
_NOT_DONE = (InvalidCommand, NodeStopped, NotLeader, ProposalRefused, TooStale)


class Outcome(Enum):
    """What a client knows of an operation in the end."""

    # It took effect once, between its call and its return, and gave its output.
    ANSWERED = "answered"
    # It never took and never takes effect; a checker leaves it out.
    NOT_DONE = "not done"
    # It takes effect once at any time after its call, even after the history's end, or never.
    UNKNOWN = "unknown"


@attrs.frozen
class Operation(Generic[Input, Output]):
    """One operation of one client. The three class methods make one of each outcome."""

    # Who asked. A client may have several operations under way.
    client: str
    input: Input
    # On the line of the history; finite.
    called_at: float
    outcome: Outcome
    # None unless ANSWERED; may be None then too.
    output: Output | None = None
    # Infinity if UNKNOWN: what gave up waiting for it did not end it. Otherwise finite and not below called_at.
    returned_at: float = math.inf
    # For people: the node asked, the error met. The checker does not read it.
    note: str = ""

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for times that no operation can have."""
        is_unknown = self.outcome is Outcome.UNKNOWN
        if not math.isfinite(self.called_at) or math.isfinite(self.returned_at) is is_unknown:
            raise ValueError(
                f"{self.input!r} of {self.client!r} is called at {self.called_at} and returns at {self.returned_at}; "
                f"both must be finite, except that what is {Outcome.UNKNOWN.value} returns at infinity"
            )
        if not self.called_at <= self.returned_at:
            raise ValueError(
                f"{self.input!r} of {self.client!r} returns at {self.returned_at}, before its call at {self.called_at}"
            )

    @classmethod
    def answered(
        cls, client: str, input: Input, output: Output, called_at: float, returned_at: float, *, note: str = ""
    ) -> Operation[Input, Output]:
        """Make an operation that gave an output. Raises ValueError if it returns before it is called."""
        return cls(client, input, called_at, Outcome.ANSWERED, output, returned_at, note)

    @classmethod
    def not_done(
        cls, client: str, input: Input, called_at: float, returned_at: float, *, note: str = ""
    ) -> Operation[Input, Output]:
        """Make an operation that certainly had no effect. Raises ValueError if it returns before it is called."""
        return cls(client, input, called_at, Outcome.NOT_DONE, None, returned_at, note)

    @classmethod
    def unknown(cls, client: str, input: Input, called_at: float, *, note: str = "") -> Operation[Input, Output]:
        """Make an operation that may take effect at any time after its call, or never."""
        return cls(client, input, called_at, Outcome.UNKNOWN, None, math.inf, note)


@attrs.define(eq=False)
class PendingOperation(Generic[Input, Output]):
    """An operation under way; ``HistoryRecorder.record`` hands it out."""

    client: str
    input: Input
    called_at: float
    # May be written until the operation's block ends.
    note: str
    _now: Callable[[], float]
    # None until the outcome is known.
    _ended: Operation[Input, Output] | None = None

    @property
    def operation(self) -> Operation[Input, Output]:
        """The operation as known now: UNKNOWN until it ended."""
        return self._ended or Operation.unknown(self.client, self.input, self.called_at, note=self.note)

    def answer(self, output: Output) -> None:
        """Note the output, now. Call it as soon as there is one, and once. Raises RuntimeError the second time."""
        if self._ended is not None:
            raise RuntimeError(f"{self.input!r} of {self.client!r} was answered already: {self._ended}")
        self._ended = Operation.answered(self.client, self.input, output, self.called_at, self._now(), note=self.note)

    def fail(self, error: BaseException, *, is_done: bool | None) -> None:
        """Note an error instead of an answer; ``is_done`` False says that nothing was done, None that nobody knows."""
        self.note = f"{self.note}, {error!r}" if self.note else repr(error)
        if self._ended is None and is_done is False:
            self._ended = Operation.not_done(self.client, self.input, self.called_at, self._now(), note=self.note)


class HistoryRecorder(Generic[Input, Output]):
    """Writes down what the clients of one process do, in the order in which it happens.

    It belongs to one thread. Operations that are still under way when the history is taken are UNKNOWN in it.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """Start an empty history.

        Args:
            clock: Where times come from, never falling. By default a count of events, which is exact within one thread:
                no two are at one time. Name one where histories of several processes are put together.
        """
        events = count(1)
        self._now: Callable[[], float] = clock if clock is not None else lambda: next(events)
        self._pending: list[PendingOperation[Input, Output]] = []

    @contextmanager
    def record(
        self,
        client: str,
        input: Input,
        *,
        not_done: tuple[type[BaseException], ...] = _NOT_DONE,
        note: str = "",
    ) -> Iterator[PendingOperation[Input, Output]]:
        """Record the operation that the block does: ``with recorder.record("c1", MapGet("x")) as pending: ...``.

        The call is when the block begins. The block hands its result to ``pending.answer``. An error leaves the block,
        and makes the operation NOT_DONE if it is one of ``not_done``, otherwise UNKNOWN; so does cancellation.

        Args:
            client: Who asks; a lane in the report.
            input: What the model's ``step`` takes.
            not_done: The errors that say for certain that nothing was done; by default those of a node's
                ``propose`` and ``read``.
            note: For people.

        Raises: RuntimeError if the block ends without an error and without an answer.
        """
        pending: PendingOperation[Input, Output] = PendingOperation(client, input, self._now(), note, self._now)
        self._pending.append(pending)
        try:
            yield pending
        except BaseException as error:
            pending.fail(error, is_done=False if isinstance(error, not_done) else None)
            raise
        if pending.operation.outcome is not Outcome.ANSWERED:
            raise RuntimeError(f"{input!r} of {client!r} ended without an answer; call answer(output) in its block")

    @property
    def operations(self) -> tuple[Operation[Input, Output], ...]:
        """The history so far, in the order of the calls."""
        return tuple(pending.operation for pending in self._pending)


# --- Files ------------------------------------------------------------------------------------------------------------


def write_history(path: str | Path, operations: Iterable[Operation[Input, Output]]) -> None:
    """Write a history as JSON lines, one operation a line, replacing the file.

    Inputs and outputs may be None, bool, int, float, str, bytes, tuples of these, and attrs classes with such fields.

    Raises: TypeError for any other value, ValueError for a float that is not finite; the file is left as it was.
    """
    lines = [json.dumps(_encode_operation(operation), allow_nan=False) for operation in operations]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_history(path: str | Path, model: Model[State, Input, Output]) -> tuple[Operation[Input, Output], ...]:
    """Read what ``write_history`` wrote.

    Args:
        path: The file.
        model: Whose inputs and outputs these are; its ``value_classes`` are the attrs classes that may occur.

    Raises: ValueError, naming the line, for one that is no operation, or that names another class.
    """
    classes = {value_class.__name__: value_class for value_class in model.value_classes}
    operations: list[Operation[Input, Output]] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            operations.append(_decode_operation(json.loads(line), classes))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {path} is no operation of {model.name}: {error!r}") from error
    return tuple(operations)


def _encode_operation(operation: Operation[Input, Output]) -> dict[str, _Json]:
    return {
        "client": operation.client,
        "input": _encode(operation.input),
        "called_at": operation.called_at,
        "outcome": operation.outcome.value,
        "output": _encode(operation.output),
        # JSON has no infinity.
        "returned_at": None if operation.outcome is Outcome.UNKNOWN else operation.returned_at,
        "note": operation.note,
    }


def _decode_operation(fields: dict[str, _Json], classes: dict[str, type]) -> Operation[Input, Output]:
    called_at, returned_at = fields["called_at"], fields["returned_at"]
    if isinstance(called_at, bool) or not isinstance(called_at, (int, float)):
        raise ValueError(f"called_at is {called_at!r}; it must be a number")
    if isinstance(returned_at, bool) or not isinstance(returned_at, (int, float, type(None))):
        raise ValueError(f"returned_at is {returned_at!r}; it must be a number, or null for an unknown outcome")
    return Operation(
        client=str(fields["client"]),
        # What the file holds is for the model to know; a value of another type is refused by no more than its step.
        input=cast(Input, _decode(fields["input"], classes)),
        called_at=called_at,
        outcome=Outcome(fields["outcome"]),
        output=cast("Output | None", _decode(fields["output"], classes)),
        returned_at=math.inf if returned_at is None else returned_at,
        note=str(fields["note"]),
    )


def _encode(value: object) -> _Json:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    value_class = type(value)
    if attrs.has(value_class):
        return {
            value_class.__name__: {
                field.name: _encode(getattr(value, field.name)) for field in attrs.fields(value_class)
            }
        }
    raise TypeError(f"{value!r} cannot be written; use None, bool, int, float, str, bytes, tuples and attrs classes")


def _decode(value: _Json, classes: dict[str, type]) -> object:
    if isinstance(value, dict):
        ((name, content),) = value.items()
        if name == "bytes":
            return base64.b64decode(str(content), validate=True)
        if name not in classes or not isinstance(content, dict):
            raise ValueError(f"{name!r} is none of the model's value_classes, {sorted(classes)}")
        return classes[name](**{field: _decode(item, classes) for field, item in content.items()})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_decode(item, classes) for item in value)
    return value

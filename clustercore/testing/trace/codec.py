"""Between events and lines of JSON. A line has one form only, so that equal traces are equal bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import TypeVar, cast, get_type_hints

import attrs

from clustercore.interfaces import ClusterError
from clustercore.testing.trace.events import EVENTS, EntryRef, Event, Scalar

__all__ = ["Refused", "TraceError", "canonical", "decode_event", "encode_event", "parse_line", "read_fields"]

T = TypeVar("T")


class TraceError(ClusterError, ValueError):
    """A trace cannot be read, or is of another version: the text names file, line, value and what is allowed."""


class Refused(ValueError):
    """A line is not what it should be. The reader adds which line of which file it is."""


def canonical(value: object) -> str:
    """Return the one line of JSON that stands for a value: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_line(line: str) -> Mapping[str, object]:
    """Return the object that a line holds.

    Raises: Refused if it holds none.
    """
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Refused(f"this is no JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise Refused("this is no JSON that anything here would write: it is nested too deeply") from error
    if not isinstance(value, dict):
        raise Refused(f"{_show(value)} is not allowed; a line must be an object")
    return value


def _no_constant(name: str) -> object:
    raise Refused(f"{name} is not allowed; numbers are finite")


def encode_event(event: Event) -> dict[str, object]:
    """Return what the line of an event holds. Fields that have their default are left out."""
    found: dict[str, object] = {"event": event.kind}
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, though its stub says function
            default = cast("Callable[[], object]", default.factory)()
        if value != default:
            found[field.name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if isinstance(value, EntryRef):
        return [value.index, value.term, value.kind, value.text]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def decode_event(fields: Mapping[str, object]) -> Event:
    """Return the event of a line.

    Raises: Refused, naming the field, its value and what is allowed.
    """
    kind = fields.get("event")
    if not isinstance(kind, str) or kind not in EVENTS:
        raise Refused(f"event = {_show(kind)} is not known; {_hint(kind, EVENTS)}known: {', '.join(EVENTS)}")
    try:
        return read_fields(EVENTS[kind], {name: value for name, value in fields.items() if name != "event"})
    except Refused as refused:
        raise Refused(f"{kind}: {refused}") from refused


# --- Fields by their annotations --------------------------------------------------------------------------------------


@attrs.frozen
class _Kind:
    """What a field takes: a check that returns the value or raises _Wrong, and the same in words."""

    read: Callable[[object], object]
    allowed: str


class _Wrong(Exception):
    """A value is not of its field's kind."""


def read_fields(record: type[T], fields: Mapping[str, object]) -> T:
    """Make a record of the trace from the fields of a line.

    Raises: Refused for a field that is unknown, missing, or has a value that it does not take.
    """
    kinds = _kinds_of(cast("type", record))
    required = _required_of(cast("type", record))
    for name in fields:
        if name not in kinds:
            raise Refused(f"{name} is not a known field; {_hint(name, kinds)}known: {', '.join(kinds)}")
    for name in required:
        if name not in fields:
            raise Refused(f"{name} is missing; it must be {kinds[name].allowed}")
    values = {}
    for name, value in fields.items():
        try:
            values[name] = kinds[name].read(value)
        except _Wrong:
            raise Refused(f"{name} = {_show(value)} is not allowed; it must be {kinds[name].allowed}") from None
    return record(**values)


@cache
def _kinds_of(record: type) -> dict[str, _Kind]:
    hints = get_type_hints(record)
    return {field.name: _KINDS[hints[field.name]] for field in attrs.fields(record)}


@cache
def _required_of(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(record) if field.default is attrs.NOTHING)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise _Wrong
    return value


def _integer(value: object) -> int:
    if type(value) is not int:
        raise _Wrong
    return value


def _seconds(value: object) -> float:
    if type(value) is float and math.isfinite(value) and value >= 0:
        return value
    return float(_count(value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong
    return value


def _entry(value: object) -> EntryRef:
    if not isinstance(value, list) or len(value) != 4:
        raise _Wrong
    return EntryRef(_count(value[0]), _count(value[1]), _text(value[2]), _text(value[3]))


def _scalars(value: object) -> dict[str, Scalar]:
    if not isinstance(value, dict) or not all(isinstance(item, Scalar) for item in value.values()):
        raise _Wrong
    return value


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Wrong
    return value


def _optional(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else read(value)


def _many(read: Callable[[object], object]) -> Callable[[object], object]:
    def read_all(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise _Wrong
        return tuple(read(item) for item in value)

    return read_all


_COUNT, _TEXT = "a whole number of at least 0", "a text"
_KINDS: Mapping[object, _Kind] = {
    int: _Kind(_count, _COUNT),
    int | None: _Kind(_optional(_integer), "a whole number or null"),
    float: _Kind(_seconds, "a finite number of at least 0"),
    bool: _Kind(_flag, "true or false"),
    str: _Kind(_text, _TEXT),
    str | None: _Kind(_optional(_text), "a text or null"),
    tuple[int, ...]: _Kind(_many(_count), "a list of whole numbers of at least 0"),
    tuple[str, ...]: _Kind(_many(_text), "a list of texts"),
    tuple[tuple[str, ...], ...]: _Kind(_many(_many(_text)), "a list of lists of texts"),
    tuple[EntryRef, ...]: _Kind(_many(_entry), "a list of entries, each [index, term, kind, text]"),
    Mapping[str, Scalar]: _Kind(_scalars, "an object of texts, numbers, true, false and null"),
    Mapping[str, object]: _Kind(_object, "an object"),
}


def _show(value: object) -> str:
    """Return a value as JSON, or the beginning of it."""
    text = canonical(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hint(name: object, known: Mapping[str, object] | Sequence[str]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""

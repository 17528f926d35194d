"""The types that options have: what sort each is, and how values and types are told to whoever wrote the file.

Errors about a configuration are made of these words. Nothing here changes a value; ``structure`` does.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from clustercore.runtime.options import options_of

__all__ = ["LISTS", "choices", "describe", "is_choice", "is_list", "is_mapping", "is_path", "is_record", "is_union"]
__all__ += ["members", "origin", "show", "suggest"]

# A value longer than this is cut in an error message, which is one line.
_SHOWN_CHARACTERS = 60
# What a TOML array becomes. The abstract kinds, which their readers do not change, get one that cannot change.
LISTS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Sequence: tuple,
    Iterable: tuple,
    Collection: tuple,
    AbstractSet: frozenset,
}
_MAPPINGS = frozenset({dict, Mapping, MutableMapping})
_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    bytes: "bytes, which a file cannot hold",
    datetime: "a date and time",
    date: "a date",
    time: "a time of day",
    Any: "any value",
}


# --- Sorts of types --------------------------------------------------------------------------------------------------


def origin(kind: Any) -> Any:
    """Return a type without its parameters: list for ``list[int]``."""
    return get_origin(kind) or kind


def is_path(kind: Any) -> bool:
    """Return whether values are paths."""
    bare = origin(kind)
    return isinstance(bare, type) and (bare is os.PathLike or issubclass(bare, PurePath))


def is_list(kind: Any) -> bool:
    """Return whether a file writes values as arrays."""
    return origin(kind) in LISTS


def is_mapping(kind: Any) -> bool:
    """Return whether a file writes values as tables with any keys."""
    return origin(kind) in _MAPPINGS


def is_record(kind: Any) -> bool:
    """Return whether a file writes values as tables whose keys are the fields of a class."""
    return isinstance(kind, type) and (attrs.has(kind) or dataclasses.is_dataclass(kind))


def is_choice(kind: Any) -> bool:
    """Return whether all values are known: of an enumeration, or a Literal."""
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def is_union(kind: Any) -> bool:
    """Return whether values are of one type among several."""
    return get_origin(kind) in (Union, types.UnionType)


def members(kind: Any) -> list[Any]:
    """Return the members of a union that a file can hold: TOML has no null."""
    return [member for member in get_args(kind) if member is not type(None)]


def choices(kind: Any) -> dict[Any, Any]:
    """Return the values of a choice, by how a file writes them."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {member.value: member for member in kind}
    return {value: value for value in get_args(kind)}


# --- Words -----------------------------------------------------------------------------------------------------------


def describe(kind: Any) -> str:
    """Say in words what a value of a type looks like in a file."""
    if kind in _WORDS:
        return _WORDS[kind]
    if hasattr(kind, "__supertype__"):
        return describe(kind.__supertype__)
    if get_origin(kind) is Annotated:
        return describe(get_args(kind)[0])
    if is_union(kind):
        return " or ".join(dict.fromkeys(map(describe, members(kind))))
    if is_choice(kind):
        return f"one of {', '.join(map(show, choices(kind)))}"
    return _describe_container(kind)


def _describe_container(kind: Any) -> str:
    arguments = [argument for argument in get_args(kind) if argument not in (Ellipsis, Any)]
    if is_path(kind):
        return "a path"
    if is_list(kind):
        return f"a list, each item {describe(arguments[0])}" if arguments else "a list"
    if is_mapping(kind):
        return f"a table, each value {describe(arguments[1])}" if len(arguments) > 1 else "a table"
    if is_record(kind):
        return f"a table of {', '.join(option.name for option in options_of(kind))}"
    return str(getattr(kind, "__qualname__", kind))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'? "`` if a known name is close to ``name``, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def show(value: object) -> str:
    """Return a value as a configuration file writes it, more or less, and not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."

"""From a table of a configuration file to the arguments of a constructor.

A constructor's parameters are its options: this module reads them from the signature, so that a plugin needs nothing
but a typed ``__init__`` (or attrs class) to be configurable. Values are structured by cattrs with hooks that refuse
what is not already of the right type: a port written as a string is a mistake to be named, not to be mended.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
import cattrs

from clustercore.interfaces import ClusterError, ConfigError, PluginError

__all__ = ["Option", "construct", "options_of", "read_options", "show", "suggest"]

T = TypeVar("T")

# A value longer than this is cut in an error message, which is one line.
_SHOWN_CHARACTERS = 60
# What a TOML array becomes. The abstract kinds, which their readers do not change, get one that cannot change.
_LISTS: dict[Any, Callable[[Iterable[Any]], Any]] = {
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


@attrs.frozen
class Option:
    """One thing that can be set in a table."""

    name: str
    # A type, or Any for a parameter without annotation.
    annotation: Any
    is_required: bool


def construct(
    factory: Callable[..., T],
    table: Mapping[str, object],
    where: str,
    *,
    folder: Path | None = None,
    given: Mapping[str, object] | None = None,
) -> T:
    """Call ``factory`` with a table's values as its arguments.

    Args:
        factory: A class or function. Its annotated parameters are the options.
        table: The values, as ``tomllib`` reads them.
        where: Names file and table in errors, as in ``node.toml: [transport]``.
        folder: What relative paths are relative to; None for the working directory.
        given: Further arguments, which the table may not set.

    Raises: ConfigError, naming the key, its value and what is allowed. PluginError if the factory raises something else
        than ConfigError or ValueError.
    """
    given = given or {}
    options = [option for option in options_of(factory) if option.name not in given]
    values = read_options(options, table, where, folder=folder, takes_any=_takes_any(factory))
    try:
        return factory(**values, **given)
    except ValueError as error:
        # ConfigError is one; constructors say which field is out of range, and what is allowed.
        raise ConfigError(f"{where}: {error}") from error
    except ClusterError:
        raise
    except Exception as error:
        raise PluginError(f"{where}: {_name(factory)} cannot be made: {type(error).__name__}: {error}") from error


def options_of(factory: Callable[..., object]) -> tuple[Option, ...]:
    """Return what can be set, in the order of the parameters.

    Raises: PluginError if an annotation cannot be resolved.
    """
    return tuple(
        Option(parameter.name, _resolve(factory, parameter), is_required=parameter.default is parameter.empty)
        for parameter in _parameters(factory)
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def read_options(
    options: Sequence[Option],
    table: Mapping[str, object],
    where: str,
    *,
    folder: Path | None = None,
    takes_any: bool = False,
) -> dict[str, Any]:
    """Check a table against the options and return its values by name, structured by their annotations.

    With ``takes_any``, keys that are no option are returned as they are. Options that are not in the table are not in
    the answer.

    Raises: ConfigError for the first key that is unknown, missing or of the wrong type.
    """
    try:
        return _read_table(options, table, _converter(folder or Path()), takes_any=takes_any)
    except _Refused as refused:
        raise ConfigError(f"{where}: {refused.path}{refused.complaint}") from refused


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


# --- What a constructor takes ----------------------------------------------------------------------------------------


def _parameters(factory: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise PluginError(f"the constructor of {_name(factory)} does not tell its parameters: {error}") from error


def _takes_any(factory: Callable[..., object]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(factory))


def _resolve(factory: Callable[..., object], parameter: inspect.Parameter) -> Any:
    """Return the parameter's type. One at a time: a name known only to type checkers spoils no other parameter."""
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, globalns=_namespace(factory), include_extras=True)[parameter.name]
    except Exception as error:
        raise PluginError(
            f"{_name(factory)}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be "
            f"resolved ({error}); import what it names outside `if TYPE_CHECKING`"
        ) from error


def _namespace(factory: Callable[..., object]) -> dict[str, Any]:
    """Return the globals in which the annotations were written: those of the class that defines the constructor."""
    if not isinstance(factory, type):
        return getattr(inspect.unwrap(factory), "__globals__", {})
    for base in factory.__mro__:
        for method in ("__init__", "__new__"):
            if method in vars(base):
                return vars(sys.modules[base.__module__])
    return {}


def _name(factory: Callable[..., object]) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', factory)}"


def _allowed(key: str, by_name: Mapping[str, Option]) -> str:
    if not by_name:
        return "no key is allowed here"
    return f"{suggest(key, by_name)}allowed: {', '.join(by_name)}"


# --- Values ----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A table or value is not what it should be. ``path`` is where, from the table being read."""

    def __init__(self, complaint: str, path: str = "") -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.path = path

    @classmethod
    def value(cls, value: object, kind: Any) -> Self:
        """Refuse a value that is not of a type."""
        return cls(f" = {show(value)} is not allowed; it must be {_describe(kind)}")


def _read_table(
    options: Sequence[Option], table: Mapping[str, object], converter: cattrs.Converter, *, takes_any: bool = False
) -> dict[str, Any]:
    by_name = {option.name: option for option in options}
    for key, value in table.items():
        if key not in by_name and not takes_any:
            raise _Refused(f" = {show(value)} is not a known key; {_allowed(key, by_name)}", key)
    for option in options:
        if option.is_required and option.name not in table:
            raise _Refused(f" is missing; it must be {_describe(option.annotation)}", option.name)
    return {
        key: _inside(key, converter, value, by_name[key].annotation) if key in by_name else value
        for key, value in table.items()
    }


def _inside(key: str, converter: cattrs.Converter, value: object, kind: Any) -> Any:
    """Structure a part of a larger value; what is refused in it gets the part's key before its own."""
    try:
        return converter.structure(value, kind)
    except _Refused as refused:
        dot = "." if refused.path and not refused.path.startswith("[") else ""
        raise _Refused(refused.complaint, f"{key}{dot}{refused.path}") from None
    except cattrs.StructureHandlerNotFoundError:
        raise _Refused(f" cannot be set in a file: it takes {_describe(kind)}", key) from None
    except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        # A type that cattrs knows and this module does not, or a nested class that refuses a value.
        raise _Refused(f" = {show(value)} is not allowed: {error}", key) from error


def _converter(folder: Path) -> cattrs.Converter:
    """Return a converter that refuses what it would have to guess at.

    cattrs asks the hooks for classes first, its own for Path and bytes among them; then the others, the last one first.
    """
    converter = cattrs.Converter()
    for kind in (str, int, bool, float, bytes, datetime, date, time):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(PurePath, partial(_path, folder))
    converter.register_structure_hook(Path, partial(_path, folder))
    converter.register_structure_hook_func(_is_path, partial(_path, folder))
    converter.register_structure_hook_func(_is_list, partial(_list, converter))
    converter.register_structure_hook_func(_is_mapping, partial(_mapping, converter))
    converter.register_structure_hook_func(_is_record, partial(_record, converter))
    converter.register_structure_hook_func(_is_choice, _one_of)
    converter.register_structure_hook_func(_is_union, partial(_first_that_fits, converter))
    return converter


def _exactly(value: object, kind: Any) -> object:
    """Accept a value only if it has the type already. A whole number is a number; true is not."""
    if _is_choice(kind):
        # An enumeration of strings or numbers is a string or number to cattrs.
        return _one_of(value, kind)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _Refused.value(value, kind)
    return value


def _path(folder: Path, value: object, kind: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Refused.value(value, kind)
    return folder / value


def _list(converter: cattrs.Converter, value: object, kind: Any) -> object:
    if not isinstance(value, list):
        raise _Refused.value(value, kind)
    kinds = _item_kinds(kind, len(value))
    if len(kinds) != len(value):
        raise _Refused(f" = {show(value)} is not allowed; it must have {len(kinds)} items")
    items = [_inside(f"[{i}]", converter, *pair) for i, pair in enumerate(zip(value, kinds, strict=True))]
    return _LISTS[_origin(kind)](items)


def _item_kinds(kind: Any, count: int) -> list[Any]:
    arguments = get_args(kind)
    if _origin(kind) is tuple and arguments and arguments[-1] is not Ellipsis:
        return list(arguments)
    return [arguments[0] if arguments else Any] * count


def _mapping(converter: cattrs.Converter, value: object, kind: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Refused.value(value, kind)
    item_kind = get_args(kind)[1] if get_args(kind) else Any
    return {key: _inside(key, converter, item, item_kind) for key, item in value.items()}


def _record(converter: cattrs.Converter, value: object, kind: Any) -> object:
    if not isinstance(value, Mapping):
        raise _Refused.value(value, kind)
    return kind(**_read_table(options_of(kind), value, converter))


def _one_of(value: object, kind: Any) -> object:
    for choice, meaning in _choices(kind).items():
        if type(choice) is type(value) and choice == value:
            return meaning
    raise _Refused.value(value, kind)


def _first_that_fits(converter: cattrs.Converter, value: object, kind: Any) -> object:
    """Take the members of a union in the order they are written, but a path before a plain string."""
    refusals = []
    for member in sorted(_members(kind), key=lambda member: not _is_path(member)):
        try:
            return converter.structure(value, member)
        except _Refused as refused:
            refusals.append(refused)
        except cattrs.StructureHandlerNotFoundError:
            continue
    # Of `list[str] | None` the list knows best what is wrong inside it.
    inner = [refused for refused in refusals if refused.path]
    raise inner[0] if len(inner) == 1 else _Refused.value(value, kind)


# --- Types -----------------------------------------------------------------------------------------------------------


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _is_path(kind: Any) -> bool:
    origin = _origin(kind)
    return isinstance(origin, type) and (origin is os.PathLike or issubclass(origin, PurePath))


def _is_list(kind: Any) -> bool:
    return _origin(kind) in _LISTS


def _is_mapping(kind: Any) -> bool:
    return _origin(kind) in _MAPPINGS


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (attrs.has(kind) or dataclasses.is_dataclass(kind))


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _members(kind: Any) -> list[Any]:
    """Return the members of a union that a file can hold: TOML has no null."""
    return [member for member in get_args(kind) if member is not type(None)]


def _choices(kind: Any) -> dict[Any, Any]:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {member.value: member for member in kind}
    return {value: value for value in get_args(kind)}


def _describe(kind: Any) -> str:
    """Say in words what a value of a type looks like in a file."""
    if kind in _WORDS:
        return _WORDS[kind]
    if hasattr(kind, "__supertype__"):
        return _describe(kind.__supertype__)
    if get_origin(kind) is Annotated:
        return _describe(get_args(kind)[0])
    if _is_union(kind):
        return " or ".join(dict.fromkeys(map(_describe, _members(kind))))
    if _is_choice(kind):
        return f"one of {', '.join(map(show, _choices(kind)))}"
    return _describe_container(kind)


def _describe_container(kind: Any) -> str:
    arguments = [argument for argument in get_args(kind) if argument not in (Ellipsis, Any)]
    if _is_path(kind):
        return "a path"
    if _is_list(kind):
        return f"a list, each item {_describe(arguments[0])}" if arguments else "a list"
    if _is_mapping(kind):
        return f"a table, each value {_describe(arguments[1])}" if len(arguments) > 1 else "a table"
    if _is_record(kind):
        return f"a table of {', '.join(option.name for option in options_of(kind))}"
    return str(getattr(kind, "__qualname__", kind))

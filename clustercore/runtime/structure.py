"""From a table of a configuration file to the arguments of a constructor.

Values are structured by cattrs with hooks that refuse what is not already of the right type: a port written as a
string is a mistake to be named, not to be mended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Self, TypeVar, get_args

import cattrs

from clustercore.interfaces import ClusterError, ConfigError, PluginError
from clustercore.runtime.kinds import (
    LISTS,
    choices,
    describe,
    is_choice,
    is_list,
    is_mapping,
    is_path,
    is_record,
    is_union,
    members,
    origin,
    show,
    suggest,
)
from clustercore.runtime.options import Option, name_of, options_of, takes_any

__all__ = ["construct", "read_options"]

T = TypeVar("T")


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
    values = read_options(options, table, where, folder=folder, takes_any=takes_any(factory))
    try:
        return factory(**values, **given)
    except ValueError as error:
        # ConfigError is one; constructors say which field is out of range, and what is allowed.
        raise ConfigError(f"{where}: {error}") from error
    except ClusterError:
        raise
    except Exception as error:
        raise PluginError(f"{where}: {name_of(factory)} cannot be made: {type(error).__name__}: {error}") from error


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


# --- Tables -----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A table or value is not what it should be. ``path`` is where, from the table being read."""

    def __init__(self, complaint: str, path: str = "") -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.path = path

    @classmethod
    def value(cls, value: object, kind: Any) -> Self:
        """Refuse a value that is not of a type."""
        return cls(f" = {show(value)} is not allowed; it must be {describe(kind)}")


def _read_table(
    options: Sequence[Option], table: Mapping[str, object], converter: cattrs.Converter, *, takes_any: bool = False
) -> dict[str, Any]:
    by_name = {option.name: option for option in options}
    for key, value in table.items():
        if key not in by_name and not takes_any:
            raise _Refused(f" = {show(value)} is not a known key; {_allowed(key, by_name)}", key)
    for option in options:
        if option.is_required and option.name not in table:
            raise _Refused(f" is missing; it must be {describe(option.annotation)}", option.name)
    return {
        key: _inside(key, converter, value, by_name[key].annotation) if key in by_name else value
        for key, value in table.items()
    }


def _allowed(key: str, by_name: Mapping[str, Option]) -> str:
    if not by_name:
        return "no key is allowed here"
    return f"{suggest(key, by_name)}allowed: {', '.join(by_name)}"


def _inside(key: str, converter: cattrs.Converter, value: object, kind: Any) -> Any:
    """Structure a part of a larger value; what is refused in it gets the part's key before its own."""
    try:
        return converter.structure(value, kind)
    except _Refused as refused:
        dot = "." if refused.path and not refused.path.startswith("[") else ""
        raise _Refused(refused.complaint, f"{key}{dot}{refused.path}") from None
    except cattrs.StructureHandlerNotFoundError:
        raise _Refused(f" cannot be set in a file: it takes {describe(kind)}", key) from None
    except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        # A type that cattrs knows and this module does not, or a nested class that refuses a value.
        raise _Refused(f" = {show(value)} is not allowed: {error}", key) from error


# --- Values -----------------------------------------------------------------------------------------------------------


def _converter(folder: Path) -> cattrs.Converter:
    """Return a converter that refuses what it would have to guess at.

    cattrs asks the hooks for classes first, its own for Path and bytes among them; then the others, the last one first.
    """
    converter = cattrs.Converter()
    for kind in (str, int, bool, float, bytes, datetime, date, time):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(PurePath, partial(_path, folder))
    converter.register_structure_hook(Path, partial(_path, folder))
    converter.register_structure_hook_func(is_path, partial(_path, folder))
    converter.register_structure_hook_func(is_list, partial(_list, converter))
    converter.register_structure_hook_func(is_mapping, partial(_mapping, converter))
    converter.register_structure_hook_func(is_record, partial(_record, converter))
    converter.register_structure_hook_func(is_choice, _one_of)
    converter.register_structure_hook_func(is_union, partial(_first_that_fits, converter))
    return converter


def _exactly(value: object, kind: Any) -> object:
    """Accept a value only if it has the type already. A whole number is a number; true is not."""
    if is_choice(kind):
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
    return LISTS[origin(kind)](items)


def _item_kinds(kind: Any, count: int) -> list[Any]:
    arguments = get_args(kind)
    if origin(kind) is tuple and arguments and arguments[-1] is not Ellipsis:
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
    for choice, meaning in choices(kind).items():
        if type(choice) is type(value) and choice == value:
            return meaning
    raise _Refused.value(value, kind)


def _first_that_fits(converter: cattrs.Converter, value: object, kind: Any) -> object:
    """Take the members of a union in the order they are written, but a path before a plain string."""
    refusals = []
    for member in sorted(members(kind), key=lambda member: not is_path(member)):
        try:
            return converter.structure(value, member)
        except _Refused as refused:
            refusals.append(refused)
        except cattrs.StructureHandlerNotFoundError:
            continue
    # Of `list[str] | None` the list knows best what is wrong inside it.
    inner = [refused for refused in refusals if refused.path]
    raise inner[0] if len(inner) == 1 else _Refused.value(value, kind)

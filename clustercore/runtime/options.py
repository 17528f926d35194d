"""What can be set: a constructor's parameters are its options.

A plugin needs nothing but a typed ``__init__`` (or attrs class) to be configurable. This module reads signatures and
no values; ``structure`` fills them in.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, get_type_hints

import attrs

from clustercore.interfaces import PluginError

__all__ = ["Option", "name_of", "options_of", "takes_any"]


@attrs.frozen
class Option:
    """One thing that can be set in a table."""

    name: str
    # A type, or Any for a parameter without annotation.
    annotation: Any
    is_required: bool


def options_of(factory: Callable[..., object]) -> tuple[Option, ...]:
    """Return what can be set, in the order of the parameters.

    Raises: PluginError if an annotation cannot be resolved.
    """
    return tuple(
        Option(parameter.name, _resolve(factory, parameter), is_required=parameter.default is parameter.empty)
        for parameter in _parameters(factory)
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def takes_any(factory: Callable[..., object]) -> bool:
    """Return whether it takes keys that are not options, by ``**``."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(factory))


def name_of(factory: Callable[..., object]) -> str:
    """Return the full name, for errors."""
    return f"{factory.__module__}.{getattr(factory, '__qualname__', factory)}"


def _parameters(factory: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise PluginError(f"the constructor of {name_of(factory)} does not tell its parameters: {error}") from error


def _resolve(factory: Callable[..., object], parameter: inspect.Parameter) -> Any:
    """Return the parameter's type. One at a time: a name known only to type checkers spoils no other parameter."""
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, globalns=_namespace(factory), include_extras=True)[parameter.name]
    except Exception as error:
        raise PluginError(
            f"{name_of(factory)}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be "
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

"""Finding plugins by name, and making them from a table of options.

A distribution registers a plugin in the entry-point group of its interface. Shipped plugins are found the same way and
have no other right. A plugin's constructor parameters are its options: see ``clustercore.runtime.options``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from clustercore.interfaces import (
    ConflictResolver,
    Discovery,
    PluginError,
    RetryPolicy,
    StateMachine,
    Storage,
    Transport,
)
from clustercore.runtime.kinds import suggest
from clustercore.runtime.structure import construct

__all__ = [
    "CONFLICT_RESOLVER",
    "DISCOVERY",
    "INTERFACES",
    "RETRY_POLICY",
    "STATE_MACHINE",
    "STORAGE",
    "TRANSPORT",
    "InstalledPlugin",
    "PluginInterface",
    "installed_plugins",
    "load_plugin",
    "make_plugin",
]

T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class PluginInterface(Generic[T_co]):
    """A kind of plugin: what it is called, where it is registered and what its classes derive from."""

    # As errors and tables name it.
    name: str
    # The entry-point group.
    group: str
    # Every plugin's class derives from it; None if that cannot be checked, as with a Protocol.
    base: type | None


TRANSPORT: PluginInterface[Transport] = PluginInterface("transport", "clustercore.transports", Transport)
STORAGE: PluginInterface[Storage] = PluginInterface("storage", "clustercore.storages", Storage)
DISCOVERY: PluginInterface[Discovery] = PluginInterface("discovery", "clustercore.discoveries", Discovery)
STATE_MACHINE: PluginInterface[StateMachine] = PluginInterface(
    "state machine", "clustercore.state_machines", StateMachine
)
RETRY_POLICY: PluginInterface[RetryPolicy] = PluginInterface("retry policy", "clustercore.retry_policies", RetryPolicy)
CONFLICT_RESOLVER: PluginInterface[ConflictResolver] = PluginInterface(
    "conflict resolver", "clustercore.conflict_resolvers", ConflictResolver
)

# What a node is made of, what its clients use, and what sync does.
INTERFACES: tuple[PluginInterface[object], ...] = (
    TRANSPORT,
    STORAGE,
    DISCOVERY,
    STATE_MACHINE,
    RETRY_POLICY,
    CONFLICT_RESOLVER,
)


@attrs.frozen
class InstalledPlugin:
    """A plugin that is registered; whether it can be imported is another question."""

    interface: str
    name: str
    # The distribution that registers it, and its version; "?" when its metadata does not say.
    distribution: str
    version: str
    # What is loaded, as in "clustercore_grpc:GrpcTransport".
    target: str


def installed_plugins(
    interfaces: Sequence[PluginInterface[object]] = INTERFACES,
) -> dict[str, tuple[InstalledPlugin, ...]]:
    """Return what is registered, by the interface's name, each sorted by the plugin's name. Imports none of it."""
    return {interface.name: _installed(interface) for interface in interfaces}


def load_plugin(interface: PluginInterface[T_co], name: str) -> type[T_co]:
    """Import a plugin's class.

    Raises: PluginError if no plugin has the name (the text lists those installed), two distributions claim it, it
        cannot be imported (the text names the extra to install, if that is missing) or is no class of the interface.
    """
    found = [entry for entry in entry_points(group=interface.group) if entry.name == name]
    if not found:
        raise PluginError(_unknown(interface, name))
    if len(found) > 1:
        owners = ", ".join(sorted(_about(entry.dist)[0] for entry in found))
        raise PluginError(
            f"more than one distribution has a {interface.name} {name!r}: {owners}; uninstall all but one"
        )
    loaded = _import(interface, found[0])
    if not isinstance(loaded, type) or (interface.base and not issubclass(loaded, interface.base)):
        wanted = interface.base.__name__ if interface.base else "class"
        raise PluginError(f"the {interface.name} {name!r} is {found[0].value}, which is no {wanted}")
    return loaded


def make_plugin(
    interface: PluginInterface[T_co],
    name: str,
    options: Mapping[str, object],
    where: str,
    *,
    folder: Path | None = None,
) -> T_co:
    """Import a plugin's class and call its constructor with the options.

    Args:
        interface: What kind of plugin.
        name: Its name in the entry-point group.
        options: The constructor's arguments, as ``tomllib`` reads them.
        where: Names file and table in errors, as in ``node.toml: [transport]``.
        folder: What relative paths among the options are relative to; None for the working directory.

    Raises: PluginError as ``load_plugin``; ConfigError, naming the key, the value and what is allowed.
    """
    try:
        plugin = load_plugin(interface, name)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error
    return construct(plugin, options, where, folder=folder)


# --- Looking up ------------------------------------------------------------------------------------------------------


def _installed(interface: PluginInterface[object]) -> tuple[InstalledPlugin, ...]:
    plugins = [
        InstalledPlugin(interface.name, entry.name, *_about(entry.dist), entry.value)
        for entry in entry_points(group=interface.group)
    ]
    return tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution)))


def _about(distribution: Distribution | None) -> tuple[str, str]:
    return ("?", "?") if distribution is None else (distribution.name, distribution.version)


def _unknown(interface: PluginInterface[object], name: str) -> str:
    names = sorted({entry.name for entry in entry_points(group=interface.group)})
    installed = f"installed: {', '.join(names)}" if names else f"none is registered in {interface.group!r}"
    return f"no {interface.name} is called {name!r}; {suggest(name, names)}{installed}"


# --- Importing -------------------------------------------------------------------------------------------------------


def _import(interface: PluginInterface[object], entry: EntryPoint) -> object:
    what = f"the {interface.name} {entry.name!r} ({entry.value}) cannot be loaded"
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise PluginError(f"{what}: {_what_to_install(entry, error.name or '?')}") from error
    except Exception as error:
        # Importing runs the plugin's code, which may raise anything.
        raise PluginError(f"{what}: {type(error).__name__}: {error}") from error


def _what_to_install(entry: EntryPoint, module: str) -> str:
    """Say which extra of the plugin's distribution brings a module that is missing."""
    missing = f"it needs the module {module!r}, which is not installed"
    extras = _extras_with(entry.dist, module) if entry.dist is not None else []
    if entry.dist is None or not extras:
        return missing
    # An extra called like the plugin is meant for it; several may bring the same library.
    extra = entry.name if entry.name in extras else extras[0]
    return f"{missing}; run: pip install {entry.dist.name}[{extra}]"


def _extras_with(distribution: Distribution, module: str) -> list[str]:
    wanted = _normalised(module.partition(".")[0])
    found = []
    for requirement in distribution.requires or ():
        required = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
        if required and extra and _normalised(required[0]) == wanted:
            found.append(extra[1])
    return found


def _normalised(name: str) -> str:
    """Return a distribution's name as PyPI compares it; modules are mostly called the same, with underscores."""
    return re.sub(r"[-_.]+", "-", name).lower()

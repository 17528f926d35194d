"""The configuration file of ``clustercore serve``: from TOML to a node that has not started.

Whatever is wrong with it is told in one line that names the file, the key, its value and what is allowed, before
anything is opened.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from clustercore.health.cluster_health import ClusterHealth
from clustercore.health.config import HealthConfig
from clustercore.interfaces import ConfigError, Discovery, StateMachine, Storage, Transport
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.founding import Founding
from clustercore.runtime.kinds import show
from clustercore.runtime.node import Node
from clustercore.runtime.plugins import DISCOVERY, STATE_MACHINE, STORAGE, TRANSPORT, PluginInterface, make_plugin
from clustercore.runtime.structure import construct

__all__ = ["NodeOverrides", "NodePlan", "read_client_transport", "read_node_plan", "read_toml"]

T = TypeVar("T")


@attrs.frozen
class NodePlan:
    """A node as its file describes it. Its plugins are made, and not yet entered: it is good for one start."""

    source: Path
    node_id: str
    transport: Transport
    storage: Storage
    discovery: Discovery
    machine: StateMachine
    # None: those that the discovery knows. Empty: this node waits to be added.
    voters: tuple[str, ...] | None
    # Whom to ask to be added, beside those that discovery knows; or whether to ask at all.
    join: bool | tuple[str, ...]
    # How the cluster comes to be, if one node founds it.
    founding: Founding | None
    # Where others reach the node, if the transport does not know.
    advertise: str | None
    config: NodeConfig
    # The health of the cluster's nodes, if the file has a table for it.
    health: ClusterHealth | None = None

    def joining(self, addresses: tuple[str, ...]) -> NodePlan:
        """Return the plan of a node that asks to be added, there and wherever its file says.

        Raises: ConfigError if the file says that it is to form a cluster.
        """
        if self.voters:
            raise ConfigError(f"{self.source}: voters is given, and so is --join; a node that joins forms no cluster")
        if self.founding is not None:
            raise ConfigError(f"{self.source}: a cluster is to be founded, and --join is given; leave one of them out")
        in_file = () if isinstance(self.join, bool) else self.join
        return attrs.evolve(self, voters=None, join=(*addresses, *in_file))

    def make_node(self) -> Node:
        """Return the node, ready for ``async with``.

        Raises: ConfigError, naming the file.
        """
        try:
            return Node(
                self.node_id,
                machine=self.machine,
                transport=self.transport,
                storage=self.storage,
                discovery=self.discovery,
                voters=self.voters,
                join=self.join,
                founding=self.founding,
                advertise=self.advertise,
                config=self.config,
                companions=() if self.health is None else (self.health,),
            )
        except ValueError as error:
            raise ConfigError(f"{self.source}: {error}") from error


@attrs.frozen
class _File:
    """The top level of the file: the keys and tables it may hold."""

    node_id: str
    transport: dict[str, Any]
    storage: dict[str, Any]
    discovery: dict[str, Any]
    machine: dict[str, Any]
    voters: tuple[str, ...] | None = None
    join: bool | tuple[str, ...] = False
    founding: dict[str, Any] | None = None
    advertise: str | None = None
    raft: dict[str, Any] = attrs.field(factory=dict)
    node: dict[str, Any] = attrs.field(factory=dict)
    health: dict[str, Any] | None = None

    def __attrs_post_init__(self) -> None:
        if not self.node_id:
            raise ValueError('node_id = "" is not allowed; it must be the name of this node, such as "n1"')
        if self.voters is not None and len(set(self.voters)) < len(self.voters):
            raise ValueError(
                f"voters = {show(list(self.voters))} is not allowed; it must be a list of node ids, each once"
            )
        if self.voters and self.node_id not in self.voters:
            raise ValueError(f"node_id = {show(self.node_id)} is not allowed; voters names {', '.join(self.voters)}")
        if self.voters is not None and self.join is not False:
            raise ValueError("voters and join are given both; a node that is to be added forms no cluster")
        if self.founding is not None and (self.voters is not None or self.join is not False):
            raise ValueError("founding is given, and so is voters or join; the founder alone forms the cluster")


@attrs.frozen
class NodeOverrides:
    """What the command line says in place of the file; None where it says nothing."""

    node_id: str | None = None
    advertise: str | None = None
    # The name of the plugin; what it needs to know is in the file's table, if that is for this plugin or for none.
    discovery: str | None = None
    expect: int | None = None
    founder: str | None = None

    def applied_to(self, table: Mapping[str, object]) -> dict[str, object]:
        """Return the file's top level with these in place."""
        told = dict(table)
        told |= {name: value for name in ("node_id", "advertise") if (value := getattr(self, name)) is not None}
        if self.discovery is not None:
            given = told.get("discovery")
            options = given if isinstance(given, dict) and given.get("plugin", self.discovery) == self.discovery else {}
            told["discovery"] = {**options, "plugin": self.discovery}
        founding = {name: value for name in ("expect", "founder") if (value := getattr(self, name)) is not None}
        if founding:
            given = told.get("founding", {})
            told["founding"] = {**given, **founding} if isinstance(given, dict) else given
        return told


def read_node_plan(path: Path, overrides: NodeOverrides | None = None) -> NodePlan:
    """Read a configuration file and make the plugins it names; what ``overrides`` say comes in place of the file's.

    Relative paths in it are relative to its folder.

    Raises: ConfigError if the file cannot be read or anything in it is wrong; PluginError if a plugin is not installed
        or cannot be loaded.
    """
    file = construct(_File, (overrides or NodeOverrides()).applied_to(read_toml(path)), str(path))
    discovery = _make(DISCOVERY, path, "discovery", file.discovery)
    return NodePlan(
        source=path,
        node_id=file.node_id,
        transport=_make(TRANSPORT, path, "transport", file.transport),
        storage=_make(STORAGE, path, "storage", file.storage),
        discovery=discovery,
        machine=_make(STATE_MACHINE, path, "machine", file.machine),
        voters=file.voters,
        join=file.join,
        founding=None if file.founding is None else construct(Founding, file.founding, f"{path}: [founding]"),
        advertise=file.advertise,
        config=_node_config(path, file),
        health=_cluster_health(path, file, discovery),
    )


def read_client_transport(path: Path, options: Mapping[str, object] | None = None) -> Transport:
    """Read the table ``[transport]`` of a node's file, or of one that has nothing else, and make what a client needs.

    It has the secrets and certificates of that node, and does not listen where the node does. ``options`` come in place
    of the file's.

    Raises: as ``read_node_plan``.
    """
    table = read_toml(path).get("transport")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: transport is missing; it must be a table")
    kept = {key: value for key, value in table.items() if key != "listen"}
    return _make(TRANSPORT, path, "transport", {**kept, **(options or {})})


def read_toml(path: Path) -> Mapping[str, object]:
    """Read a file of TOML. Raises: ConfigError, with its path and what is wrong."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: it must be UTF-8, and byte {error.start} is not") from error
    except tomllib.TOMLDecodeError as error:
        # The text ends in the line and column.
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def _make(interface: PluginInterface[T], path: Path, table_name: str, table: Mapping[str, object]) -> T:
    where = f"{path}: [{table_name}]"
    options = dict(table)
    name = options.pop("plugin", None)
    if name is None:
        raise ConfigError(f"{where}: plugin is missing; it must be the name of a {interface.name} plugin")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: plugin = {show(name)} is not allowed; it must be a string")
    return make_plugin(interface, name, options, where, folder=path.parent)


def _node_config(path: Path, file: _File) -> NodeConfig:
    # RaftConfig has its own table, so it is no key of [node].
    raft = construct(RaftConfig, file.raft, f"{path}: [raft]")
    return construct(NodeConfig, file.node, f"{path}: [node]", given={"raft": raft})


def _cluster_health(path: Path, file: _File, discovery: Discovery) -> ClusterHealth | None:
    """Return what watches the nodes, if there is a table for it, be it an empty one."""
    if file.health is None:
        return None
    return ClusterHealth(discovery, construct(HealthConfig, file.health, f"{path}: [health]"))

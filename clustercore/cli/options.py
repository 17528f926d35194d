"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["DEFAULT_NODE", "cluster_option", "json_option", "nodes_option", "timeout_option", "transport_option"]

F = TypeVar("F", bound=Callable[..., Any])

# Where the examples of the documentation serve.
DEFAULT_NODE = "127.0.0.1:7101"


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def nodes_option(function: F) -> F:
    """Add ``--node``, which may be repeated."""
    return click.option(
        "--node",
        "nodes",
        multiple=True,
        metavar="HOST:PORT",
        default=(DEFAULT_NODE,),
        show_default=True,
        envvar="CLUSTERCORE_NODES",
        help="Where a node serves; may be repeated. $CLUSTERCORE_NODES holds several, separated by spaces.",
    )(function)


def transport_option(function: F) -> F:
    """Add ``--transport``."""
    return click.option(
        "--transport",
        default="grpc",
        show_default=True,
        metavar="NAME|FILE.toml",
        envvar="CLUSTERCORE_TRANSPORT",
        help="The transport plugin the nodes use; `clustercore plugins` lists those installed. Or a node's file, whose "
        "[transport] is used: for a token, and for TLS.",
    )(function)


def cluster_option(function: F) -> F:
    """Add ``--cluster-id``."""
    return click.option(
        "--cluster-id",
        default="",
        metavar="ID",
        envvar="CLUSTERCORE_CLUSTER_ID",
        help="Speak to nodes of this cluster only; those of another refuse. `clustercore status --json` tells the id.",
    )(function)


def timeout_option(default_s: float) -> Callable[[F], F]:
    """Add ``--timeout``, in seconds."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help="Give up after so long.",
    )

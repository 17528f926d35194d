"""The transports that must keep the contract, each with what it takes to make several that can reach each other."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import attrs
import pytest

from clustercore.interfaces import ServiceTransport
from clustercore_memory import MemoryNetwork, MemoryTransport

__all__ = ["KINDS", "TransportKind"]


@attrs.frozen
class TransportKind:
    """How to test one transport."""

    name: str
    # Returns a function that makes another transport at each call; all of them can reach each other.
    create: Callable[[], Callable[[], ServiceTransport]]
    # An address at which nobody serves.
    nobody: str


def _create_memory() -> Callable[[], ServiceTransport]:
    network, numbers = MemoryNetwork(), itertools.count(1)
    return lambda: MemoryTransport(network, f"node-{next(numbers)}")


def _create_grpc() -> Callable[[], ServiceTransport]:
    from clustercore_grpc import GrpcTransport

    return lambda: GrpcTransport(listen="127.0.0.1:0")


_GRPC_IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("clustercore_grpc", "grpclib", "trio_asyncio"))

KINDS = [
    TransportKind("memory", _create_memory, "nobody"),
    pytest.param(
        # Port 1 is reserved, and nothing listens there.
        TransportKind("grpc", _create_grpc, "127.0.0.1:1"),
        marks=pytest.mark.skipif(not _GRPC_IS_INSTALLED, reason="needs the extra clustercore[grpc]"),
    ),
]

"""The storages that are held to a model, each with what it takes to open the same one again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from clustercore.interfaces import Storage
from clustercore.testing.simulation.disk import SimulatedDisk, SimulatedStorage
from clustercore_memory import MemoryStorage
from clustercore_sqlite import SqliteStorage

__all__ = ["KINDS", "StorageKind"]


@attrs.frozen
class StorageKind:
    """How to test one storage."""

    name: str
    # Gets an empty directory; returns a function that makes a storage over the same content each time.
    create: Callable[[Path], Callable[[], Storage]]


def _create_memory(directory: Path) -> Callable[[], Storage]:
    storage = MemoryStorage()
    return lambda: storage


def _create_sqlite(directory: Path) -> Callable[[], Storage]:
    return lambda: SqliteStorage(directory / "node.db")


def _create_simulated(directory: Path) -> Callable[[], Storage]:
    disk = SimulatedDisk()
    return lambda: SimulatedStorage(disk)


KINDS = [
    StorageKind("memory", _create_memory),
    StorageKind("simulated", _create_simulated),
    StorageKind("sqlite", _create_sqlite),
]

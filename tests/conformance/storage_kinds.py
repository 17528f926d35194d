"""The storages that must keep the contract, each with what it takes to open the same one again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from clustercore.interfaces import Entry, EntryKind, LogIndex, Storage, Term
from clustercore.testing.simulation.disk import SimulatedDisk, SimulatedStorage
from clustercore_memory import MemoryStorage
from clustercore_sqlite import SqliteStorage

__all__ = ["KINDS", "StorageKind", "command", "commands"]


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


def command(index: int, term: int = 1, data: bytes | None = None) -> Entry:
    """Return a command entry; without ``data`` its command says where it is from."""
    text = f"{index}@{term}".encode() if data is None else data
    return Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, text)


def commands(indexes: Iterable[int], term: int = 1) -> list[Entry]:
    """Return a command entry for each index."""
    return [command(index, term) for index in indexes]

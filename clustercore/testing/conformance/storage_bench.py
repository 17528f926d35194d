"""What the rules of storages need of a plugin."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from clustercore.interfaces import Entry, HardState, Storage, StoredState
from clustercore.testing.conformance.base import Conformance
from clustercore.testing.conformance.storage_values import Whole, save_snapshot

__all__ = ["Open", "StorageBench", "Write", "append", "case", "save", "save_hard_state", "state_after"]

# Makes a storage over the same content at each call.
Open = Callable[[], Storage]
Write = Callable[[Storage], Awaitable[None]]


class StorageBench(Conformance, ABC):
    """What the author of a storage says of it."""

    # Whether it keeps its content in files of the folder that ``make`` is given, and nowhere else.
    is_in_folder: ClassVar[bool] = True
    # Whether it makes its writes durable with ``os.fsync`` or ``os.fdatasync``, so that they can be watched. A library
    # in another language does it where nobody sees.
    syncs_in_python: ClassVar[bool] = True

    @abstractmethod
    def make(self, folder: Path) -> Storage:
        """Make a storage over the content of a folder, which is empty at first. For one folder it is the same content.

        It is not opened twice at a time, but for the rule that says what happens then.
        """

    def full_disk(self, folder: Path, storage: Storage) -> AbstractContextManager[None]:
        """Leave little room or none on the storage's disk while the block lasts.

        There is no way to do that to any storage. Override it: with a quota, a small file system, a limit of the
        library, or a fault in whatever writes the files.
        """
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _take_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def fresh(self) -> Open:
        """Return a function that makes storages over one content, which is empty yet."""
        folder = self.new_folder()
        return lambda: self.make(folder)

    def new_folder(self) -> Path:
        """Return a folder that is empty."""
        return Path(tempfile.mkdtemp(dir=self.folder))


@contextmanager
def case(**values: object) -> Iterator[None]:
    """Add to an error for which of several cases it came up."""
    try:
        yield
    except BaseException as error:
        error.add_note(", ".join(f"{name} = {value!r}" for name, value in values.items()))
        raise


async def state_after(open_storage: Open, *writes: Write) -> StoredState:
    """Carry out writes, close, open again and load."""
    async with open_storage() as storage:
        await storage.load()
        for write in writes:
            await write(storage)
    async with open_storage() as storage:
        return await storage.load()


def append(entries: list[Entry]) -> Write:
    """Return a write for ``state_after``."""
    return lambda storage: storage.append(entries)


def save_hard_state(hard_state: HardState) -> Write:
    """Return a write for ``state_after``."""
    return lambda storage: storage.save_hard_state(hard_state)


def save(taken: Whole, keep_from: int | None) -> Write:
    """Return a write for ``state_after``."""
    return lambda storage: save_snapshot(storage, taken, keep_from=keep_from)

"""Every storage that ships against a model: entries, snapshots under way, readers, and openings, in any order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clustercore.interfaces import Entry, InvariantError, LogIndex, SnapshotReader, Storage
from clustercore.testing.conformance.storage_values import commands
from tests.conformance.storage_kinds import KINDS, StorageKind
from tests.snapshots import Whole, snapshot

# What is done, and a number that says to what, or how much.
Step = tuple[str, int]
STEPS = ["append", "begin", "go on", "skip", "install", "keep a tail", "discard", "open", "read", "close", "open again"]


@attrs.define
class Model:
    """What a storage must hold."""

    entries: list[Entry] = attrs.field(factory=list)
    stored: Whole | None = None
    # The snapshots under way, by name, and how much of each was written; the newest last.
    drafts: dict[str, tuple[Whole, int]] = attrs.field(factory=dict)

    @property
    def covered(self) -> int:
        """What the stored snapshot covers."""
        return self.stored.metadata.last_included_index if self.stored is not None else 0

    @property
    def last(self) -> int:
        """The end of the log, or of the snapshot if that is later."""
        return max(self.covered, self.entries[-1].index if self.entries else 0)

    def pick(self, number: int) -> str | None:
        """Choose a snapshot under way."""
        return list(self.drafts)[number % len(self.drafts)] if self.drafts else None


@attrs.define
class Run:
    """One storage and its model, while a schedule is carried out."""

    storage: Storage
    model: Model = attrs.field(factory=Model)
    readers: list[tuple[SnapshotReader, Whole]] = attrs.field(factory=list)
    made: int = 0

    async def refused(self, call: Awaitable[object]) -> None:
        """See that a bug of the caller is told, and nothing else happens."""
        with pytest.raises(InvariantError):
            await call

    async def do(self, what: str, number: int) -> None:
        """Carry out one step on both."""
        model, storage = self.model, self.storage
        name = model.pick(number)
        match what:
            case "append":
                entries = commands(range(model.last + 1, model.last + 2 + number % 4))
                await storage.append(entries)
                model.entries += entries
            case "begin":
                await self.begin(number)
            case "go on" if name is not None:
                whole, written = model.drafts[name]
                if written < len(whole.data):
                    part = whole.data[written : written + 1 + number * 7 % 900]
                    await storage.write_snapshot_chunk(whole.metadata, written, part)
                    model.drafts[name] = whole, written + len(part)
            case "skip" if name is not None:
                whole, written = model.drafts[name]
                await self.refused(storage.write_snapshot_chunk(whole.metadata, written + 1 + number, b"x"))
            case "install" | "keep a tail" if name is not None:
                await self.install(name, tail=what == "keep a tail", number=number)
            case "discard" if name is not None:
                await storage.discard_snapshot(model.drafts.pop(name)[0].metadata.snapshot_id)
            case "open" if len(self.readers) < 3:
                reader = await storage.open_snapshot()
                assert (reader is None) == (model.stored is None)
                if reader is not None and model.stored is not None:
                    assert (reader.metadata, reader.size) == (model.stored.metadata, len(model.stored.data))
                    self.readers.append((reader, model.stored))
            case "read" if self.readers:
                reader, whole = self.readers[number % len(self.readers)]
                offset = number * 131 % (len(whole.data) + 1)
                part = await reader.read(offset, 1 + number)
                assert part == whole.data[offset : offset + len(part)]
                assert (part == b"") == (offset == len(whole.data))
                assert len(part) <= 1 + number
            case "close" if self.readers:
                await self.readers.pop(number % len(self.readers))[0].aclose()
            case _:
                pass

    async def begin(self, number: int) -> None:
        """Begin a snapshot, or one that was begun once more. At most two are under way."""
        model = self.model
        name = model.pick(number)
        if name is None or (len(model.drafts) < 2 and number % 3):
            self.made += 1
            index = max(1, model.last + number % 5 - 2)
            whole = snapshot(index, data=bytes([self.made]) * (number * 37 % 3000), name=f"{self.made}")
        else:
            whole = model.drafts[name][0]
        part = whole.data[: 1 + number]
        await self.storage.write_snapshot_chunk(whole.metadata, 0, part)
        model.drafts[whole.metadata.snapshot_id] = whole, len(part)

    async def install(self, name: str, *, tail: bool, number: int) -> None:
        """Install what was written of a snapshot, as if that were all of it."""
        model = self.model
        whole, written = model.drafts[name]
        covered = whole.metadata.last_included_index
        keep_from = max(1, covered + 1 - number % 4) if tail else None
        leaves_gap = keep_from is not None and keep_from <= model.last < covered
        call = self.storage.install_snapshot(
            whole.metadata, keep_from=None if keep_from is None else LogIndex(keep_from)
        )
        if covered <= model.covered or leaves_gap:
            await self.refused(call)
            return
        await call
        model.stored = Whole(whole.metadata, whole.data[:written])
        model.entries = [entry for entry in model.entries if keep_from is not None and entry.index >= keep_from]
        model.drafts = {
            other: draft for other, draft in model.drafts.items() if draft[0].metadata.last_included_index > covered
        }

    async def check(self) -> None:
        """Compare what is there."""
        state = await self.storage.load()
        assert state.entries == tuple(self.model.entries)
        assert state.snapshot == (None if self.model.stored is None else self.model.stored.metadata)


async def carry_out(make: Callable[[], Storage], steps: list[Step]) -> None:
    """Carry out a schedule, with an opening for each part of it that ends with "open again"."""
    model, made = Model(), 0
    rest = [*steps, ("open again", 0)]
    while rest:
        end = next(place for place, (what, _) in enumerate(rest) if what == "open again")
        now, rest = rest[:end], rest[end + 1 :]
        async with make() as storage:
            run = Run(storage, model, made=made)
            await run.check()
            for what, number in now:
                await run.do(what, number)
                await run.check()
            for reader, whole in run.readers:
                data = b""
                while part := await reader.read(len(data), 1000):
                    data += part
                assert data == whole.data
            made = run.made
        # What was not installed is forgotten.
        model.drafts.clear()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
# An example opens a file a few times: more of them would take minutes.
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1000)), max_size=40))
def test_storage_is_its_model(kind: StorageKind, steps: list[Step]) -> None:
    """Whatever is written, installed, dropped and read beside it, it holds what it must, now and when opened again."""
    folder = Path(tempfile.mkdtemp())
    try:
        trio.run(carry_out, kind.create(folder), steps)
    finally:
        shutil.rmtree(folder)

"""The key-value machine against a plain dict, and its watchers against the list of all changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from unittest.mock import patch

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clustercore.interfaces import LogIndex
from clustercore_kv import (
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KeyValueMachine,
    KvEvent,
    KvPair,
    Put,
    PutResult,
    Scan,
    ScanResult,
    Watcher,
    WatchFellBehind,
    decode_result,
    encode_command,
)
from clustercore_kv.snapshot import FrozenStore
from clustercore_kv.sorted_keys import SortedKeys
from tests.unit.kv.fakes import snapshot_of

# Few enough to meet again, and on both sides of where UTF-8 and other orders differ.
keys = st.sampled_from(["a", "a/", "a/b", "a/c", "b", "é", "￿", "\U00010000"])
values = st.binary(max_size=3)


def small_parts() -> AbstractContextManager[object]:
    """Let a part of a snapshot have one key, or two of the smallest."""
    return patch("clustercore_kv.snapshot._PART_BYTES", 60)


class KeyValueModel(RuleBasedStateMachine):
    """Two machines that apply the same log, one of which is restored from snapshots, and a dict beside them.

    The other one has snapshots taken that are read part by part while commands go on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.machine = KeyValueMachine()
        self.other = KeyValueMachine()
        self.index = 0
        self.model: dict[str, tuple[bytes, int]] = {}
        # Snapshots that are being read: what there was, the handle, and what was read.
        self.frozen: list[tuple[bytes, FrozenStore, Iterator[bytes], list[bytes]]] = []

    def apply(self, command: Command) -> object:
        """Apply a command on both, which must agree byte for byte, and return the result."""
        self.index += 1
        results = [node.apply(LogIndex(self.index), encode_command(command)) for node in (self.machine, self.other)]
        assert results[0] == results[1]
        return decode_result(results[0])

    @rule(skipped=st.integers(1, 3))
    def skip_indexes(self, skipped: int) -> None:
        """Entries without a command take indexes too."""
        self.index += skipped

    @rule(key=keys, value=values)
    def put(self, key: str, value: bytes) -> None:
        result = self.apply(Put(key, value))
        self.model[key] = (value, self.index)
        assert result == PutResult(self.index)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        result = self.apply(Delete(key))
        deleted = self.model.pop(key, None) is not None
        assert result == DeleteResult(deleted, self.index if deleted else 0)

    @rule(key=keys, value=values, guess=st.sampled_from(["absent", "value", "revision", "wrong"]), wrong=values)
    def cas(self, key: str, value: bytes, guess: str, wrong: bytes) -> None:
        held, revision = self.model.get(key, (None, 0))
        expected: bytes | int | None = {"absent": None, "value": held, "revision": revision, "wrong": wrong}[guess]
        matches = expected == revision if isinstance(expected, int) else expected == held
        result = self.apply(Cas(key, value, expected))
        if matches:
            self.model[key] = (value, self.index)
        assert result == (CasResult(True, self.index) if matches else CasResult(False, revision, held))

    @rule(key=keys)
    def get(self, key: str) -> None:
        value, revision = self.model.get(key, (None, 0))
        assert self.apply(Get(key)) == GetResult(value, revision, self.index)

    @rule(prefix=st.sampled_from(["", "a", "a/", "é", "z"]), limit=st.integers(0, 4), start_after=st.just("") | keys)
    def scan(self, prefix: str, limit: int, start_after: str) -> None:
        found = [
            KvPair(key, *self.model[key])
            for key in sorted(self.model, key=str.encode)
            if key.startswith(prefix) and (not start_after or key.encode() > start_after.encode())
        ]
        page = self.apply(Scan(prefix, limit, start_after))
        assert page == ScanResult(tuple(found[: limit or None]), 0 < limit < len(found), self.index)

    @rule()
    def restore_other(self) -> None:
        """A node gets the snapshot in place of its state, as a follower that was away."""
        self.other = KeyValueMachine()
        self.other.restore(snapshot_of(self.machine))

    @precondition(lambda self: len(self.frozen) < 3)
    @rule()
    def freeze(self) -> None:
        """Begin to take a snapshot, perhaps beside others."""
        expected, handle = snapshot_of(self.machine), self.machine.snapshot()
        self.frozen.append((expected, handle, iter(handle.chunks()), []))

    @precondition(lambda self: self.frozen)
    @rule(which=st.integers(0, 2))
    def read_frozen(self, which: int) -> None:
        """Read on; at the end it is the state of when it began, whatever was applied since."""
        expected, handle, parts, read = self.frozen[which % len(self.frozen)]
        with small_parts():
            part = next(parts, None)
        if part is not None:
            read.append(part)
            return
        assert b"".join(read) == expected
        handle.close()
        del self.frozen[which % len(self.frozen)]

    @precondition(lambda self: self.machine.applied_index == self.index)
    @invariant()
    def snapshots_are_equal(self) -> None:
        """Nodes with the same state make the same snapshot, restored or not."""
        assert snapshot_of(self.machine) == snapshot_of(self.other)


TestKeyValueModel = KeyValueModel.TestCase


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 7, 600, 2400]), st.sampled_from([1, 1200])), max_size=20),
    st.integers(0, 3000),
)
def test_kv_sorted_keys_are_a_sorted_set(steps: list[tuple[bool, int, int]], start: int) -> None:
    """Through splits and emptied blocks, the keys are those of a set, in order, from any start."""
    names = [f"{number:04d}" for number in range(0, 3000, 2)]
    sorted_keys, model = SortedKeys(), set(names)
    for name in names:
        sorted_keys.append(name)
    for add, number, width in steps:
        # Some runs of neighbours are as long as a block, which then fills and splits, or empties.
        for name in (f"{near:04d}" for near in range(number, number + width)):
            if add and name not in model:
                sorted_keys.add(name)
                model.add(name)
            elif not add and name in model:
                sorted_keys.remove(name)
                model.remove(name)

    first = f"{start:04d}"
    assert list(sorted_keys.iterate_from(first)) == sorted(name for name in model if name >= first)
    assert list(sorted_keys.iterate_from("")) == sorted(model)


@given(
    st.lists(st.tuples(keys, st.none() | values, st.booleans()), max_size=40),
    st.sampled_from(["", "a", "a/"]),
    st.none() | st.integers(0, 40),
    st.integers(1, 12),
)
def test_kv_watch_misses_nothing_in_silence(
    changes: list[tuple[str, bytes | None, bool]], prefix: str, after_revision: int | None, history_events: int
) -> None:
    """However slow a watcher and short the history, it is told every change in order, up to an error if there is one.

    Each change is a key, its value (None deletes it), and whether the watcher reads after it.
    """
    machine = KeyValueMachine(history_events=history_events)
    expected: list[KvEvent] = []

    async def watch_changes() -> tuple[list[KvEvent], bool]:
        watcher = machine.watch(prefix, after_revision)
        told: list[KvEvent] = []
        try:
            for key, value, reads in changes:
                existed = machine.get(key).value is not None
                index = LogIndex(machine.applied_index + 1)
                machine.apply(index, encode_command(Delete(key) if value is None else Put(key, value)))
                if (value is not None or existed) and key.startswith(prefix) and index > (after_revision or 0):
                    expected.append(KvEvent(key, value, index))
                if reads:
                    await read_all(watcher, told)
            await read_all(watcher, told)
        except WatchFellBehind:
            return told, True
        return told, False

    told, fell_behind = trio.run(watch_changes, clock=trio.testing.MockClock(autojump_threshold=0))

    assert told == expected[: len(told)]
    assert fell_behind or told == expected
    assert not fell_behind or len(changes) > history_events


async def read_all(watcher: Watcher, told: list[KvEvent]) -> None:
    """Read until the watcher waits: the clock jumps only when nothing else can happen."""
    with trio.move_on_after(1):
        while True:
            told.extend((await watcher.receive()).events)

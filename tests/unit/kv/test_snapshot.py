"""A snapshot of the store that is taken while commands go on, and one that comes in parts."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
import trio

from clustercore_kv import Delete, KeyValueMachine, MalformedSnapshot, Put
from clustercore_kv.store import Store
from clustercore_kv.view import StoreView
from tests.unit.kv.fakes import do, snapshot_of

# Every key counts for more, so a read returns one.
ONE = 1


def read_all(view: StoreView, max_bytes: int = ONE) -> dict[str, bytes]:
    """Read a view to its end."""
    read: dict[str, bytes] = {}
    while not view.is_read:
        read |= {key: value for key, (value, _) in view.read(max_bytes)}
    return read


def store_of(*keys: str) -> Store:
    """A store in which each key has its own name for a value, at revision 1."""
    store = Store()
    for key in keys:
        store.append(key, key.encode(), 1)
    return store


def test_view_has_what_was_there() -> None:
    """Changed, removed, added and added again: none of it shows, before or behind what was read."""
    store = store_of("b", "d", "f", "h")
    view = store.freeze()
    assert view.read(ONE) == [("b", (b"b", 1))]

    store.put("b", b"read already", 2)
    store.put("d", b"changed", 3)
    store.put("d", b"changed again", 4)
    store.delete("f")
    store.put("f", b"back", 5)
    store.delete("h")
    store.put("a", b"new, behind", 6)
    store.put("e", b"new, ahead", 7)
    store.put("g", b"new and gone", 8)
    store.delete("g")

    assert view.count == 4
    assert read_all(view) == {"d": b"d", "f": b"f", "h": b"h"}


def test_view_of_nothing_is_read_at_once() -> None:
    """What comes later is not in it."""
    store = Store()
    view = store.freeze()
    store.put("", b"the first key of all", 1)

    assert view.read(ONE) == []
    assert view.is_read or view.read(ONE) == []
    assert view.is_read


def test_views_of_different_times_do_not_touch_each_other() -> None:
    """Each has its own moment."""
    store = store_of("k")
    before = store.freeze()
    store.put("k", b"second", 2)
    after = store.freeze()
    store.delete("k")

    assert read_all(after) == {"k": b"second"}
    assert read_all(before) == {"k": b"k"}


def test_store_keeps_nothing_for_a_view_that_is_read_or_let_go() -> None:
    """What is overwritten behind the reader, or after the end, is free at once."""
    store = store_of("a", "b")
    view = store.freeze()
    view.read(ONE)
    store.put("a", b"new", 2)
    assert view._old == {}

    store.put("b", b"new", 3)
    assert view._old == {"b": (b"b", 1)}

    store.thaw(view)
    store.put("a", b"newer", 4)
    assert view._old == {"b": (b"b", 1)}


def test_view_reads_no_more_at_once_than_it_is_asked_for() -> None:
    """Keys that came since count too: passing over a million of them is not one read."""
    store = store_of("z")
    view = store.freeze()
    for number in range(1000):
        store.put(f"{number:04d}", b"", 2)

    assert view.read(4800) == []
    assert not view.is_read
    assert read_all(view, 4800) == {"z": b"z"}


def test_snapshot_is_made_in_small_parts() -> None:
    """None takes long to make, however many keys there are."""
    machine = KeyValueMachine()
    for number in range(5000):
        do(machine, Put(f"{number:06d}", b"x" * 100))

    with closing(machine.snapshot()) as handle:
        sizes = [len(part) for part in handle.chunks()]

    assert max(sizes) < 40_000
    assert len(sizes) > 15


def test_snapshot_takes_no_memory_for_what_does_not_change() -> None:
    """The parts are made one at a time, from the entries that are there."""
    machine = KeyValueMachine()
    for number in range(1000):
        do(machine, Put(f"{number:06d}", b"%d" % number * 2000))
    tracemalloc.start()
    try:
        with closing(machine.snapshot()) as handle:
            total = sum(len(part) for part in handle.chunks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert total > 5_000_000
    assert peak < 300_000


@pytest.mark.parametrize("size", [1, 7, 100, 1_000_000])
async def test_snapshot_is_restored_from_parts(size: int) -> None:
    """Wherever they are cut, and in values that are larger than a part."""
    machine = KeyValueMachine()
    for key, value in {"a": b"", "b": b"x" * 150_000, "ü": b"y"}.items():
        do(machine, Put(key, value))
    do(machine, Delete("a"))
    whole = snapshot_of(machine)
    if size == 1:
        machine = KeyValueMachine()
        do(machine, Put("k", b"v"))
        whole = snapshot_of(machine)
    other = KeyValueMachine()

    await other.restore_chunks(cut(whole, size))

    assert snapshot_of(other) == whole
    assert other.scan() == machine.scan()


async def test_restore_leaves_the_old_state_until_it_is_done() -> None:
    """Who asks meanwhile is answered by that; and a snapshot that breaks off changes nothing."""
    machine, donor = KeyValueMachine(), KeyValueMachine()
    do(machine, Put("old", b"1"))
    for number in range(100):
        do(donor, Put(f"{number}", b"x" * 1000))
    whole = snapshot_of(donor)
    seen: list[bytes | None] = []

    async def parts() -> AsyncIterator[bytes]:
        async for part in cut(whole[:-1], 10_000):
            seen.append(machine.get("old").value)
            yield part

    with pytest.raises(MalformedSnapshot, match="3 bytes follow"):
        await machine.restore_chunks(parts())

    assert set(seen) == {b"1"}
    assert machine.scan().pairs[0].key == "old"


async def cut(whole: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield bytes in parts."""
    for start in range(0, len(whole), size):
        await trio.lowlevel.checkpoint()
        yield whole[start : start + size]

"""The key-value machine: commands, limits, pages and snapshots."""

from __future__ import annotations

import struct
import zlib

import pytest

from clustercore.interfaces import InvalidCommand, LogIndex
from clustercore_kv import (
    MAX_KEY_BYTES,
    MAX_SCAN_BYTES,
    MAX_SCAN_PAIRS,
    MAX_VALUE_BYTES,
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KeyValueMachine,
    KvPair,
    MalformedSnapshot,
    Put,
    PutResult,
    Refused,
    Scan,
    ScanResult,
    decode_result,
    encode_command,
)
from tests.unit.kv.fakes import do, snapshot_of


def machine_with(*keys: str) -> KeyValueMachine:
    """Return a machine that holds these keys, put in this order from index 1 on; each value is the key's name."""
    machine = KeyValueMachine()
    for key in keys:
        do(machine, Put(key, key.encode()))
    return machine


def test_put_sets_value_and_revision() -> None:
    """A put is answered with its log index, which is the key's revision from then on."""
    machine = KeyValueMachine()

    assert do(machine, Put("k", b"v"), 7) == PutResult(7)
    assert do(machine, Get("k"), 9) == GetResult(b"v", 7, 9)


def test_get_of_absent_key_has_no_value() -> None:
    """An absent key has no value and revision 0, which an empty value is told from."""
    machine = machine_with("k")
    do(machine, Put("empty", b""))

    assert do(machine, Get("absent")) == GetResult(None, 0, 3)
    assert do(machine, Get("empty")) == GetResult(b"", 2, 4)


def test_delete_removes_key_once() -> None:
    """A delete removes the key; a second one finds nothing and changes nothing."""
    machine = machine_with("k")

    assert do(machine, Delete("k")) == DeleteResult(True, 2)
    assert do(machine, Delete("k")) == DeleteResult(False, 0)
    assert machine.get("k") == GetResult(None, 0, 3)
    assert machine.scan() == ScanResult((), False, 3)


@pytest.mark.parametrize("expected", [b"k", 1])
def test_cas_swaps_when_as_expected(expected: bytes | int) -> None:
    """A cas sets the value if the key has the value, or the revision, that is expected."""
    machine = machine_with("k")

    assert do(machine, Cas("k", b"new", expected)) == CasResult(True, 2)
    assert machine.get("k") == GetResult(b"new", 2, 2)


@pytest.mark.parametrize("expected", [None, b"", b"other", 0, 2])
def test_cas_refuses_when_not_as_expected(expected: bytes | int | None) -> None:
    """A cas that finds something else changes nothing and says what is there."""
    machine = machine_with("k")

    assert do(machine, Cas("k", b"new", expected)) == CasResult(False, 1, b"k")
    assert machine.get("k") == GetResult(b"k", 1, 2)


@pytest.mark.parametrize("expected", [None, 0])
def test_cas_creates_absent_key(expected: int | None) -> None:
    """Expecting absence, or revision 0, sets a key that does not exist."""
    machine = KeyValueMachine()

    assert do(machine, Cas("k", b"new", expected)) == CasResult(True, 1)


@pytest.mark.parametrize("expected", [b"", b"v", 5])
def test_cas_of_absent_key_refuses_other_expectations(expected: bytes | int) -> None:
    """An absent key has no value, not even an empty one, and no revision above 0."""
    machine = KeyValueMachine()

    assert do(machine, Cas("k", b"new", expected)) == CasResult(False, 0, None)
    assert machine.scan() == ScanResult((), False, 1)


def test_cas_by_revision_sees_same_value_written_again() -> None:
    """A revision tells a value from the same value written again, which a comparison of values cannot."""
    machine = machine_with("k", "k")

    assert do(machine, Cas("k", b"new", 1)) == CasResult(False, 2, b"k")
    assert do(machine, Cas("k", b"new", b"k")) == CasResult(True, 4)


def test_scan_orders_keys_by_their_bytes() -> None:
    """Keys come in the order of their UTF-8 bytes, whatever the order in which they were put."""
    keys = ["b", "a", "\U0001f600", "é", "￿", "ab", "Z"]
    machine = machine_with(*keys)

    assert [pair.key for pair in machine.scan().pairs] == sorted(keys, key=str.encode)


def test_scan_returns_keys_of_prefix_only() -> None:
    """A scan returns exactly the keys that start with its prefix, the prefix itself among them."""
    machine = machine_with("a", "a/1", "a/2", "a0", "b", "")

    pairs = (KvPair("a/1", b"a/1", 2), KvPair("a/2", b"a/2", 3))
    assert [pair.key for pair in machine.scan().pairs] == ["", "a", "a/1", "a/2", "a0", "b"]
    assert do(machine, Scan("a/")) == ScanResult(pairs, False, 7)
    assert [pair.key for pair in machine.scan("a").pairs] == ["a", "a/1", "a/2", "a0"]
    assert [pair.key for pair in machine.scan("a", start_after="a/1").pairs] == ["a/2", "a0"]
    assert machine.scan("a", start_after="b").pairs == ()
    assert [pair.key for pair in machine.scan("b", start_after="a").pairs] == ["b"]


def test_scan_pages_cover_all_keys_once() -> None:
    """Pages, each after the last key of the one before, hold every key once, and only the last has no more."""
    keys = [f"k{number:03d}" for number in range(10)]
    machine = machine_with(*keys)

    pages = [machine.scan("k", 4)]
    while pages[-1].more:
        pages.append(machine.scan("k", 4, pages[-1].pairs[-1].key))

    assert [len(page.pairs) for page in pages] == [4, 4, 2]
    assert [pair.key for page in pages for pair in page.pairs] == keys


def test_scan_page_that_ends_exactly_has_no_more() -> None:
    """A page that is full with the last key does not promise another."""
    assert not machine_with("a", "b").scan(limit=2).more


def test_scan_page_is_bounded_in_bytes() -> None:
    """A page ends before it exceeds its bytes, but holds one pair however large it is."""
    machine = KeyValueMachine()
    for key in ("a", "b", "c"):
        do(machine, Put(key, b"x" * (MAX_SCAN_BYTES // 2)))
    do(machine, Put("d", b"x" * MAX_VALUE_BYTES))

    assert [pair.key for pair in machine.scan().pairs] == ["a"]
    assert [pair.key for pair in machine.scan("d").pairs] == ["d"]


def test_apply_answers_what_is_no_command() -> None:
    """Bytes that are no command are answered with a refusal; the state stays, and the index counts."""
    machine = machine_with("k")

    result = decode_result(machine.apply(LogIndex(2), b"\xff\xff"))

    assert isinstance(result, Refused)
    assert machine.scan() == ScanResult((KvPair("k", b"k", 1),), False, 2)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Put("", b""), "key is empty"),
        (Put("k" * (MAX_KEY_BYTES + 1), b""), "key .* has 1025 bytes; at most 1024"),
        (Put("é" * (MAX_KEY_BYTES // 2 + 1), b""), "key .* has 1026 bytes; at most 1024"),
        (Put("k", b"v" * (MAX_VALUE_BYTES + 1)), "value has 1048577 bytes; at most 1048576"),
        (Cas("k", b"v" * (MAX_VALUE_BYTES + 1), None), "value has 1048577 bytes"),
        (Cas("k", b"v", b"v" * (MAX_VALUE_BYTES + 1)), "expected value has 1048577 bytes"),
        (Get(""), "key is empty"),
        (Delete(""), "key is empty"),
        (Scan("p" * (MAX_KEY_BYTES + 1)), "prefix .* has 1025 bytes"),
        (Scan(start_after="p" * (MAX_KEY_BYTES + 1)), "start_after .* has 1025 bytes"),
        (Scan(limit=MAX_SCAN_PAIRS + 1), "limit is 10001; 1 to 10000"),
    ],
)
def test_validate_names_limit_and_size(command: Command, message: str) -> None:
    """A command beyond a limit is refused before it is proposed, with the limit and the size in the text."""
    with pytest.raises(InvalidCommand, match=message):
        KeyValueMachine().validate(encode_command(command))


@pytest.mark.parametrize(
    "command",
    [
        Put("k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES),
        Cas("k", b"", 0),
        Get("é" * (MAX_KEY_BYTES // 2)),
        Delete("k"),
        Scan(),
        Scan("p", MAX_SCAN_PAIRS, "q"),
    ],
)
def test_validate_allows_up_to_the_limits(command: Command) -> None:
    """A command at a limit is allowed."""
    KeyValueMachine().validate(encode_command(command))


def test_validate_refuses_what_is_no_command() -> None:
    """Bytes that are no command are refused before they are proposed."""
    with pytest.raises(InvalidCommand, match="not a KvCommand"):
        KeyValueMachine().validate(b"hello")


def test_snapshot_restores_everything() -> None:
    """A restored machine has the same keys, values, revisions and index, and makes the same snapshot."""
    machine = machine_with("b", "a", "é", "gone", "a")
    do(machine, Delete("gone"))
    do(machine, Get("a"))

    other = machine_with("overwritten")
    other.restore(snapshot_of(machine))

    assert other.scan() == machine.scan()
    assert other.applied_index == 7
    assert snapshot_of(other) == snapshot_of(machine)


def test_snapshot_of_nothing_restores_nothing() -> None:
    """The snapshot of an empty machine empties another."""
    machine = machine_with("k")

    machine.restore(snapshot_of(KeyValueMachine()))

    assert machine.scan() == ScanResult((), False, 0)


def test_snapshot_keeps_its_bytes() -> None:
    """The layout on disk is the one that existing snapshots have."""
    machine = machine_with("k")
    do(machine, Get("k"))

    body = "43434b5600000001000000000000000200000000000000010000000000000001"
    body += "000000010000000100000000000000016b6b"

    assert snapshot_of(machine).hex() == body + f"{zlib.crc32(bytes.fromhex(body)):08x}"


def test_damaged_snapshot_changes_nothing() -> None:
    """Any byte that is altered, and any cut, is found; the state is as before."""
    snapshot = snapshot_of(machine_with("key", "other"))
    machine = machine_with("kept")
    damaged = [snapshot[:at] + bytes([snapshot[at] ^ 0x10]) + snapshot[at + 1 :] for at in range(len(snapshot))]
    cut = [snapshot[:length] for length in range(len(snapshot))]

    for data in damaged + cut:
        with pytest.raises(MalformedSnapshot):
            machine.restore(data)

    assert machine.scan() == machine_with("kept").scan()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (struct.pack(">4sIQQQ", b"CCKV", 2, 0, 0, 0), "of version 2; this program reads version 1"),
        (struct.pack(">4sIQQQ", b"CCKV", 1, 0, 0, 1), "ends in key 0, or before it; it must have 1 keys"),
        (
            struct.pack(">4sIQQQ", b"CCKV", 1, 0, 0, 0) + b"rest",
            "8 bytes follow the snapshot's 0 keys; there must be 4",
        ),
        (struct.pack(">4sIQQQIIQ", b"CCKV", 1, 0, 0, 1, 1, 0, 1) + b"\xff", "cannot be read"),
        (struct.pack(">4sIQQQ", b"CCKV", 1, 0, 0, 2) + struct.pack(">IIQ1s", 1, 0, 1, b"k") * 2, "not in order"),
    ],
)
def test_snapshot_of_other_layout_says_so(body: bytes, message: str) -> None:
    """A snapshot whose check is right but whose layout is not is refused, with what is wrong."""
    with pytest.raises(MalformedSnapshot, match=message):
        KeyValueMachine().restore(body + struct.pack(">I", zlib.crc32(body)))

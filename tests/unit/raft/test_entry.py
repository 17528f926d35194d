"""The one encoding of an entry."""

import pytest

from clustercore.raft.entry import Entry, EntryKind, MalformedEntry, decode_entry
from clustercore.raft.types import LogIndex, Term

# index 3, term 2, COMMAND, b"hi", in the order and form that clustercore writes.
INDEX = bytes.fromhex("09 0300000000000000")
TERM = bytes.fromhex("11 0200000000000000")
KIND = bytes.fromhex("18 02")
COMMAND = bytes.fromhex("22 02") + b"hi"
CANONICAL = INDEX + TERM + KIND + COMMAND
ENTRY = Entry.create(LogIndex(3), Term(2), EntryKind.COMMAND, b"hi")


def test_encoding_is_the_protobuf_message_in_field_order() -> None:
    """The bytes on disk and wire are fixed: they are read by other versions and other programs."""
    assert ENTRY.encoded == CANONICAL


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 16_383, 16_384, 300_000])
@pytest.mark.parametrize("kind", list(EntryKind))
def test_entry_of_any_length_survives_its_encoding(kind: EntryKind, length: int) -> None:
    """Decoding gives back the entry and keeps the very bytes, also where the length takes more bytes."""
    entry = Entry.create(LogIndex(2**40), Term(7), kind, b"x" * length)

    decoded = decode_entry(entry.encoded)

    assert decoded == entry
    assert decoded.encoded == entry.encoded


def test_entries_are_equal_by_content() -> None:
    """Index, term, kind and command make an entry; the encoding follows from them."""
    assert decode_entry(CANONICAL) == ENTRY
    assert Entry.create(LogIndex(3), Term(2), EntryKind.NO_OP, b"hi") != ENTRY


@pytest.mark.parametrize(
    "encoded",
    [
        COMMAND + KIND + TERM + INDEX,
        CANONICAL + bytes.fromhex("28 01"),
        CANONICAL + bytes.fromhex("2a 03") + b"abc",
        CANONICAL + bytes.fromhex("2d 00000000"),
        CANONICAL + bytes.fromhex("29 0000000000000000"),
        CANONICAL + bytes.fromhex("08 07"),
        bytes.fromhex("09 0900000000000000") + CANONICAL,
        INDEX + TERM + bytes.fromhex("18 82 00") + COMMAND,
        INDEX + TERM + KIND + bytes.fromhex("22 82 00") + b"hi",
        INDEX + TERM + KIND + bytes.fromhex("22 82 80 00") + b"hi",
    ],
    ids=[
        "other order",
        "unknown varint",
        "unknown bytes",
        "unknown fixed32",
        "unknown fixed64",
        "known number of other type",
        "a field twice",
        "long kind",
        "long length",
        "longer length",
    ],
)
def test_foreign_encoding_is_read_and_made_canonical(encoded: bytes) -> None:
    """Any protobuf form of the message is accepted; what is kept, and stored, is the one form."""
    decoded = decode_entry(encoded)

    assert decoded == ENTRY
    assert decoded.encoded == CANONICAL


def test_absent_command_is_empty() -> None:
    """A protobuf writer omits empty fields."""
    decoded = decode_entry(INDEX + TERM + bytes.fromhex("18 01"))

    assert decoded == Entry.create(LogIndex(3), Term(2), EntryKind.NO_OP)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "index 0 and term 0|kind 0"),
        (TERM + KIND, "index 0"),
        (INDEX + KIND, "term 0"),
        (INDEX + TERM, "kind 0 is unknown"),
        (INDEX + TERM + bytes.fromhex("18 07") + COMMAND, "kind 7 is unknown"),
        (bytes.fromhex("09 0000000000000000") + TERM + KIND + COMMAND, "index 0"),
        (INDEX + bytes.fromhex("11 0000000000000000") + KIND + COMMAND, "term 0"),
        (CANONICAL[:-1], "field 4 wants 2 bytes"),
        (INDEX[:5], "field 1 wants 8 bytes"),
        (CANONICAL + b"\x0b", "wire type 3"),
        (CANONICAL + b"\x80", "cut off"),
        (INDEX + TERM + KIND + bytes.fromhex("22 80"), "cut off"),
        (CANONICAL + b"\x18" + b"\x80" * 10 + b"\x01", "longer than 10"),
    ],
)
def test_malformed_entry_is_refused_with_the_reason(encoded: bytes, reason: str) -> None:
    """What is no entry raises MalformedEntry, and the text says why."""
    with pytest.raises(MalformedEntry, match=reason):
        decode_entry(encoded)

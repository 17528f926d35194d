"""Commands on disk: what their bytes are, and which bytes are no command."""

from __future__ import annotations

import pytest

from clustercore.interfaces import MalformedMessage
from clustercore_kv import (
    Cas,
    Command,
    Delete,
    Get,
    Put,
    PutResult,
    Refused,
    Scan,
    decode_result,
    encode_command,
)
from clustercore_kv.codec import decode_command, encode_result, split_result

# These bytes are in logs: a change that breaks this table cannot read them any more.
ON_DISK = [
    (Put("k", b"v"), "0a060a016b120176"),
    (Put("k", b""), "0a030a016b"),
    (Delete("k"), "12030a016b"),
    (Cas("k", b"v", None), "1a080a016b1201761801"),
    (Cas("k", b"v", b""), "1a080a016b1201762200"),
    (Cas("k", b"v", b"w"), "1a090a016b120176220177"),
    (Cas("k", b"v", 0), "1a080a016b1201762800"),
    (Cas("k", b"v", 300), "1a090a016b12017628ac02"),
    (Get("k"), "22030a016b"),
    (Scan(), "2a00"),
    (Scan("p", 5, "q"), "2a080a017010051a0171"),
]


@pytest.mark.parametrize(("command", "encoded"), ON_DISK)
def test_commands_keep_their_bytes(command: Command, encoded: str) -> None:
    """Every command has the bytes that it has in existing logs, and they read back as that command."""
    assert encode_command(command).hex() == encoded
    assert decode_command(bytes.fromhex(encoded)) == command


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "ends before its content"),
        ("0a", "ends before its content"),
        ("0a060a016b1201", "announces"),
        ("0a060a016b12017600", "announces"),
        ("32030a016b", "no operation known"),
        ("0a050a016b1801", "does not know: tag 0x18"),
        ("0a030a01ff", "not UTF-8"),
        ("1a060a016b120176", "0 expectations"),
        ("1a0a0a016b12017618012800", "2 expectations"),
        ("1a080a016b1201761800", "expected_absent=false"),
    ],
)
def test_bytes_that_are_no_command_are_refused(data: str, message: str) -> None:
    """A command that is cut short, unknown or ambiguous is refused: no node may guess what another one reads."""
    with pytest.raises(MalformedMessage, match=message):
        decode_command(bytes.fromhex(data))


def test_results_pass_over_what_is_new() -> None:
    """A result of a newer node, with a field more, reads as what this version knows of it."""
    newer = bytes.fromhex("0a05" + "0807" + "7a0178")

    assert decode_result(newer) == PutResult(7)


def test_results_of_unknown_kind_are_refused() -> None:
    """A result that no command of this version has is an error, not an empty result."""
    with pytest.raises(MalformedMessage, match="none known"):
        decode_result(bytes.fromhex("3200"))


def test_split_result_tells_refusals_from_results() -> None:
    """The inside of a result is passed on unread, except that a refusal is no result."""
    assert split_result(encode_result(PutResult(7))) == b"\x08\x07"
    assert split_result(encode_result(Refused("why"))) == Refused("why")

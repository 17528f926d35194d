"""Commands and results as KvCommand and KvResult, by hand; ``wire`` says why.

A command is read strictly: exactly one operation, no field that is not known. It comes from the log, where a node that
passed over what it does not know would disagree with the nodes that do. Everything else comes from a peer of perhaps
another version, so what is new in it is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clustercore.interfaces import MalformedMessage, encode_varint
from clustercore_kv.values import (
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KvPair,
    Put,
    PutResult,
    Refused,
    Result,
    Scan,
    ScanResult,
)
from clustercore_kv.wire import bytes_field, bytes_tag, read_fields, read_varint, varint_field, varint_tag

__all__ = [
    "Fields",
    "decode_cas_result",
    "decode_command",
    "decode_delete_result",
    "decode_get_result",
    "decode_put_result",
    "decode_result",
    "decode_scan_result",
    "encode_command",
    "encode_get_result",
    "encode_result",
    "encode_scan_result",
    "get_text",
    "read_only_field",
    "split_result",
    "take_cas",
    "take_delete",
    "take_get",
    "take_put",
    "take_scan",
]

# KvCommand, and KvResult with the same numbers: each operation's tag.
_PUT, _DELETE, _CAS, _GET, _SCAN = (bytes_tag(number) for number in range(1, 6))
_REFUSED = bytes_tag(15)

# KvPut, KvDelete, KvCas, KvGet and KvPair begin alike.
_KEY, _VALUE = bytes_tag(1), bytes_tag(2)
_CAS_ABSENT, _CAS_VALUE, _CAS_REVISION = varint_tag(3), bytes_tag(4), varint_tag(5)
_PREFIX, _LIMIT, _START_AFTER = bytes_tag(1), varint_tag(2), bytes_tag(3)

_PUT_REVISION = varint_tag(1)
_DELETED, _DELETE_REVISION = varint_tag(1), varint_tag(2)
_SWAPPED, _SWAP_REVISION, _SWAP_VALUE = varint_tag(1), varint_tag(2), bytes_tag(3)
_GET_VALUE, _GET_REVISION, _GET_APPLIED = bytes_tag(1), varint_tag(2), varint_tag(3)
_PAIR_REVISION = varint_tag(3)
_PAIRS, _MORE, _SCAN_APPLIED = bytes_tag(1), varint_tag(2), varint_tag(3)

Fields = dict[int, Any]


def encode_command(command: Command) -> bytes:
    """Return the KvCommand to propose.

    Raises: UnicodeEncodeError for a key with a lone surrogate; ``limits.check_command`` finds it first.
    """
    match command:
        case Put(key, value):
            return bytes_field(_PUT, _text(_KEY, key) + _content(_VALUE, value))
        case Delete(key):
            return bytes_field(_DELETE, _text(_KEY, key))
        case Cas(key, value, expected):
            return bytes_field(_CAS, _text(_KEY, key) + _content(_VALUE, value) + _encode_expected(expected))
        case Get(key):
            return bytes_field(_GET, _text(_KEY, key))
        case Scan(prefix, limit, start_after):
            body = _text(_PREFIX, prefix) + varint_field(_LIMIT, limit) + _text(_START_AFTER, start_after)
            return bytes_field(_SCAN, body)


def decode_command(data: bytes) -> Command:
    """Read a KvCommand. Raises: MalformedMessage if it is none, or has a field that is not known."""
    tag, position = read_only_field(data)
    decode = _COMMANDS.get(tag)
    if decode is None:
        raise MalformedMessage(f"a command's tag is {tag:#x}: no operation known to this version")
    fields = dict(read_fields(data, position))
    try:
        command = decode(fields)
    except UnicodeDecodeError:
        raise MalformedMessage("a command's key is not UTF-8") from None
    if fields:
        raise MalformedMessage(f"a command has a field that this version does not know: tag {min(fields):#x}")
    return command


def encode_result(result: Result) -> bytes:
    """Return the KvResult of a command."""
    match result:
        case PutResult(revision):
            return bytes_field(_PUT, varint_field(_PUT_REVISION, revision))
        case GetResult():
            return bytes_field(_GET, encode_get_result(result))
        case DeleteResult(deleted, revision):
            return bytes_field(_DELETE, varint_field(_DELETED, deleted) + varint_field(_DELETE_REVISION, revision))
        case CasResult(swapped, revision, value):
            body = varint_field(_SWAPPED, swapped) + varint_field(_SWAP_REVISION, revision)
            return bytes_field(_CAS, body if value is None else body + bytes_field(_SWAP_VALUE, value))
        case ScanResult():
            return bytes_field(_SCAN, encode_scan_result(result))
        case Refused(message):
            return bytes_field(_REFUSED, message.encode())


def encode_get_result(result: GetResult) -> bytes:
    """Return the GetResult message alone."""
    body = b"" if result.value is None else bytes_field(_GET_VALUE, result.value)
    return body + varint_field(_GET_REVISION, result.revision) + varint_field(_GET_APPLIED, result.applied_index)


def encode_scan_result(result: ScanResult) -> bytes:
    """Return the ScanResult message alone."""
    pairs = b"".join([bytes_field(_PAIRS, _encode_pair(pair)) for pair in result.pairs])
    return pairs + varint_field(_MORE, result.more) + varint_field(_SCAN_APPLIED, result.applied_index)


def decode_result(data: bytes) -> Result:
    """Read a KvResult, such as ``Applied.result`` of a proposed command. Raises: MalformedMessage."""
    tag, position = read_only_field(data)
    if tag == _REFUSED:
        return _decode_refused(data, position)
    decode = _RESULTS.get(tag)
    if decode is None:
        raise MalformedMessage(f"a result's tag is {tag:#x}: none known to this version")
    return decode(data[position:])


def split_result(data: bytes) -> bytes | Refused:
    """Return the PutResult, GetResult, ... inside a KvResult, still encoded. Raises: MalformedMessage."""
    tag, position = read_only_field(data)
    return _decode_refused(data, position) if tag == _REFUSED else data[position:]


def decode_put_result(data: bytes) -> PutResult:
    """Read a PutResult. Raises: MalformedMessage."""
    return PutResult(dict(read_fields(data)).get(_PUT_REVISION, 0))


def decode_delete_result(data: bytes) -> DeleteResult:
    """Read a DeleteResult. Raises: MalformedMessage."""
    fields = dict(read_fields(data))
    return DeleteResult(bool(fields.get(_DELETED, 0)), fields.get(_DELETE_REVISION, 0))


def decode_cas_result(data: bytes) -> CasResult:
    """Read a CasResult. Raises: MalformedMessage."""
    fields = dict(read_fields(data))
    return CasResult(bool(fields.get(_SWAPPED, 0)), fields.get(_SWAP_REVISION, 0), fields.get(_SWAP_VALUE))


def decode_get_result(data: bytes) -> GetResult:
    """Read a GetResult. Raises: MalformedMessage."""
    fields = dict(read_fields(data))
    return GetResult(fields.get(_GET_VALUE), fields.get(_GET_REVISION, 0), fields.get(_GET_APPLIED, 0))


def decode_scan_result(data: bytes) -> ScanResult:
    """Read a ScanResult. Raises: MalformedMessage."""
    pairs: list[KvPair] = []
    more, applied_index = False, 0
    for tag, content in read_fields(data):
        if tag == _PAIRS:
            pairs.append(_decode_pair(dict(read_fields(content))))
        elif tag == _MORE:
            more = bool(content)
        elif tag == _SCAN_APPLIED:
            applied_index = content
    return ScanResult(tuple(pairs), more, applied_index)


# --- Fields --------------------------------------------------------------------------------------------------


def _text(tag: int, text: str) -> bytes:
    return _content(tag, text.encode())


def _content(tag: int, content: bytes) -> bytes:
    """Encode a field that is left out when it is empty, as proto3 does."""
    return bytes_field(tag, content) if content else b""


def read_only_field(data: bytes) -> tuple[int, int]:
    """Return the tag of the one field that fills ``data``, and where its content begins."""
    try:
        length, position = read_varint(data, 1)
    except IndexError:
        raise MalformedMessage("the message ends before its content") from None
    if position + length != len(data):
        raise MalformedMessage(f"the message has {len(data)} bytes, but announces {position + length}")
    return data[0], position


# --- Commands: each decoder takes the fields it knows out of the dict ----------------------------------------


def take_put(fields: Fields) -> Put:
    """Take out the fields of a KvPut, or a PutRequest. Raises: MalformedMessage, UnicodeDecodeError."""
    return Put(_pop_text(fields, _KEY), fields.pop(_VALUE, b""))


def take_delete(fields: Fields) -> Delete:
    """Take out the fields of a KvDelete, or a DeleteRequest. Raises: MalformedMessage, UnicodeDecodeError."""
    return Delete(_pop_text(fields, _KEY))


def take_cas(fields: Fields) -> Cas:
    """Take out the fields of a KvCas, or a CasRequest. Raises: MalformedMessage, UnicodeDecodeError."""
    return Cas(_pop_text(fields, _KEY), fields.pop(_VALUE, b""), _pop_expected(fields))


def take_get(fields: Fields) -> Get:
    """Take out the fields of a KvGet, or a GetRequest. Raises: MalformedMessage, UnicodeDecodeError."""
    return Get(_pop_text(fields, _KEY))


def take_scan(fields: Fields) -> Scan:
    """Take out the fields of a KvScan, or a ScanRequest. Raises: MalformedMessage, UnicodeDecodeError."""
    return Scan(_pop_text(fields, _PREFIX), fields.pop(_LIMIT, 0), _pop_text(fields, _START_AFTER))


def _pop_text(fields: Fields, tag: int) -> str:
    content: bytes = fields.pop(tag, b"")
    return content.decode()


def _encode_expected(expected: bytes | int | None) -> bytes:
    """Encode one of the alternatives, which is told even when it is 0 or empty."""
    if expected is None:
        return b"%c\x01" % _CAS_ABSENT
    if isinstance(expected, bytes):
        return bytes_field(_CAS_VALUE, expected)
    return b"%c%b" % (_CAS_REVISION, encode_varint(expected))


def _pop_expected(fields: Fields) -> bytes | int | None:
    given = [tag for tag in (_CAS_ABSENT, _CAS_VALUE, _CAS_REVISION) if tag in fields]
    if len(given) != 1:
        raise MalformedMessage(f"a cas has {len(given)} expectations; it must have exactly one")
    content: bytes | int = fields.pop(given[0])
    if given[0] != _CAS_ABSENT:
        return content
    if content != 1:
        raise MalformedMessage("a cas has expected_absent=false, which says nothing")
    return None


_COMMANDS: dict[int, Callable[[Fields], Command]] = {
    _PUT: take_put,
    _DELETE: take_delete,
    _CAS: take_cas,
    _GET: take_get,
    _SCAN: take_scan,
}


# --- Results -----------------------------------------------------------------------------------------------

_RESULTS: dict[int, Callable[[bytes], Result]] = {
    _PUT: decode_put_result,
    _DELETE: decode_delete_result,
    _CAS: decode_cas_result,
    _GET: decode_get_result,
    _SCAN: decode_scan_result,
}


def _decode_refused(data: bytes, position: int) -> Refused:
    return Refused(data[position:].decode(errors="replace"))


def _encode_pair(pair: KvPair) -> bytes:
    return _text(_KEY, pair.key) + _content(_VALUE, pair.value) + varint_field(_PAIR_REVISION, pair.revision)


def _decode_pair(fields: Fields) -> KvPair:
    return KvPair(get_text(fields, _KEY), fields.get(_VALUE, b""), fields.get(_PAIR_REVISION, 0))


def get_text(fields: Fields, tag: int) -> str:
    """Return a field that is text, "" if it is not there. Raises: MalformedMessage if it is not UTF-8."""
    content: bytes = fields.get(tag, b"")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("a key is not UTF-8") from None

"""The hot half of the wire format, by hand: Envelope, AppendEntriesRequest and AppendEntriesResponse.

Protobuf objects cost microseconds an entry; a leader sends tens of thousands of entries a second. An entry is already
encoded when it gets here, and protobuf's ``repeated`` message fields are plain concatenation, so a request is a short
header followed, for each entry, by a tag, a length and the entry's own bytes (Protocol Buffers documentation,
"Encoding"). The result is what any protobuf library writes and reads; a test holds it against two of them.

Reading is strict where protobuf is: a length that runs past the end, a cut-off varint or an unknown wire type makes the
whole message malformed. Unknown fields are passed over, and fields may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator

from clustercore.interfaces.errors import MalformedMessage
from clustercore.raft.entry import MalformedEntry, decode_entry
from clustercore.raft.messages import AppendEntriesRequest, AppendEntriesResponse
from clustercore.raft.protobuf import (
    VARINT,
    MalformedBytes,
    bytes_field,
    content_length,
    decode_varint,
    encode_varint,
    read_fields,
)
from clustercore.raft.types import LogIndex, NodeId, Round, Term

# What else is here is for ``codec`` and ``wire_snapshot``.
__all__ = ["encode_field", "encode_varint", "split_fields"]

_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))

# Tags of AppendEntriesRequest; those of the response are all varints and counted up from 1.
_TERM, _LEADER_ID, _PREV_LOG_INDEX, _PREV_LOG_TERM, _LEADER_COMMIT, _ENTRIES = 0x08, 0x12, 0x18, 0x20, 0x28, 0x32
_ROUND, _ANSWERED_ROUND = 0x38, 0x40
_ENTRIES_TAG = bytes([_ENTRIES])


# --- Fields --------------------------------------------------------------------------------------------------------


def encode_field(number: int, payload: bytes) -> bytes:
    """Encode a field that holds a message, a string or bytes."""
    return bytes_field(number, payload)


def split_fields(data: bytes, position: int = 0) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field number, wire type, value) of each field, in order; varints as numbers, all else as bytes.

    Raises: MalformedMessage when the iterator comes to something that is no field.
    """
    try:
        yield from read_fields(data, position)
    except MalformedBytes as exc:
        raise MalformedMessage(str(exc)) from None


# --- AppendEntriesRequest ------------------------------------------------------------------------------------------


def encode_append_entries_request(message: AppendEntriesRequest) -> bytes:
    """Encode a request; its entries are copied, not encoded again."""
    parts = [
        _number(_TERM, message.term),
        encode_field(_LEADER_ID >> 3, message.leader_id.encode()) if message.leader_id else b"",
        _number(_PREV_LOG_INDEX, message.prev_log_index),
        _number(_PREV_LOG_TERM, message.prev_log_term),
        _number(_LEADER_COMMIT, message.leader_commit),
    ]
    for entry in message.entries:
        encoded = entry.encoded
        parts += (_ENTRIES_TAG, encode_varint(len(encoded)), encoded)
    parts += (_number(_ROUND, message.round), _number(_ANSWERED_ROUND, message.answered_round))
    return b"".join(parts)


def decode_append_entries_request(data: bytes, position: int = 0) -> AppendEntriesRequest:
    """Read a request that starts at ``position`` and goes to the end of ``data``.

    Raises: MalformedMessage if it is none, an entry in it is malformed, or its entries do not follow one another.
    """
    numbers = {_TERM: 0, _PREV_LOG_INDEX: 0, _PREV_LOG_TERM: 0, _LEADER_COMMIT: 0, _ROUND: 0, _ANSWERED_ROUND: 0}
    leader_id = b""
    entries = []
    end = len(data)
    try:
        while position < end:
            tag = data[position]
            if tag == _ENTRIES:
                length, position = decode_varint(data, position + 1)
                stop = position + length
                # decode_entry would refuse a slice cut short by the end of the data, or else read less than was sent.
                if stop > end:
                    raise MalformedMessage(f"an entry wants {length} bytes, {end - position} are left")
                entries.append(decode_entry(data[position:stop]))
                position = stop
            elif tag in numbers:
                numbers[tag], position = decode_varint(data, position + 1)
            elif tag == _LEADER_ID:
                leader_id, position = _decode_bytes(data, position)
            else:
                position = _skip_field(data, position)
    except MalformedBytes as exc:
        raise MalformedMessage(f"AppendEntriesRequest: {exc}") from None
    except MalformedEntry as exc:
        raise MalformedMessage(f"AppendEntriesRequest holds a malformed entry: {exc}") from exc
    expected = numbers[_PREV_LOG_INDEX]
    for entry in entries:
        expected += 1
        if entry.index != expected:
            raise MalformedMessage(f"AppendEntriesRequest has entry {entry.index} where {expected} must follow")
    return AppendEntriesRequest(
        term=Term(numbers[_TERM]),
        leader_id=NodeId(_text(leader_id)),
        prev_log_index=LogIndex(numbers[_PREV_LOG_INDEX]),
        prev_log_term=Term(numbers[_PREV_LOG_TERM]),
        leader_commit=LogIndex(numbers[_LEADER_COMMIT]),
        entries=tuple(entries),
        round=Round(numbers[_ROUND]),
        answered_round=Round(numbers[_ANSWERED_ROUND]),
    )


def _number(tag: int, value: int) -> bytes:
    # Proto3 leaves out a number that is 0.
    return _ONE_BYTE[tag] + encode_varint(value) if value else b""


def _decode_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    """Read the field with a one-byte tag at ``position``."""
    length, start = decode_varint(data, position + 1)
    stop = start + length
    if stop > len(data):
        raise MalformedMessage(f"field at byte {position} wants {length} bytes, {len(data) - start} are left")
    return data[start:stop], stop


def _skip_field(data: bytes, position: int) -> int:
    """Return the position after the unknown field at ``position``."""
    start = position
    tag, position = decode_varint(data, position)
    if tag >> 3 == 0:
        raise MalformedMessage(f"field number 0 at byte {start}")
    if tag & 7 == VARINT:
        return decode_varint(data, position)[1]
    length, position = content_length(data, position, tag & 7)
    if position + length > len(data):
        raise MalformedMessage(f"field at byte {start} is cut off")
    return position + length


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError as exc:
        raise MalformedMessage(f"a string is not UTF-8: {exc}") from exc


# --- AppendEntriesResponse -----------------------------------------------------------------------------------------


def encode_append_entries_response(message: AppendEntriesResponse) -> bytes:
    """Encode a response."""
    values = (
        message.term,
        message.success,
        message.prev_log_index,
        message.match_index,
        message.conflict_term,
        message.conflict_index,
        message.round,
    )
    return b"".join([_number(number << 3, value) for number, value in enumerate(values, 1)])


def decode_append_entries_response(data: bytes, position: int = 0) -> AppendEntriesResponse:
    """Read a response that starts at ``position`` and goes to the end of ``data``.

    Raises: MalformedMessage if it is none.
    """
    values = [0] * 8
    end = len(data)
    try:
        while position < end:
            tag = data[position]
            if tag & 7 == VARINT and tag < 0x40 and tag >> 3:
                values[tag >> 3], position = decode_varint(data, position + 1)
            else:
                position = _skip_field(data, position)
    except MalformedBytes as exc:
        raise MalformedMessage(f"AppendEntriesResponse: {exc}") from None
    return AppendEntriesResponse(
        term=Term(values[1]),
        success=bool(values[2]),
        prev_log_index=LogIndex(values[3]),
        match_index=LogIndex(values[4]),
        conflict_term=Term(values[5]),
        conflict_index=LogIndex(values[6]),
        round=Round(values[7]),
    )

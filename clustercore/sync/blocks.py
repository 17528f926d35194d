"""Blocks: the bytes of many changes, compressed where that makes them smaller.

Heartbeats of a fleet look much alike: what is said of each is a few bytes. A block is an encoded ``ChangeBlock`` of
``protos/clustercore/v1/sync.proto``, behind a byte that says whether it is compressed; see
docs/reference/entity-formats.md, section "Blocks of changes".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from clustercore.interfaces import MalformedMessage
from clustercore.raft.protobuf import BYTES, VARINT, MalformedBytes, bytes_field, read_fields, varint_field
from clustercore.sync.changes import Change
from clustercore.sync.kinds import MAX_NAME_BYTES
from clustercore.sync.writes import decode_group_state

__all__ = ["MAX_BLOCK_BYTES", "decode_block", "encode_block", "sealed"]

# What a block may hold once it is no longer compressed: far above a batch, for one record that is larger than that.
MAX_BLOCK_BYTES = 64 * 1024 * 1024
# Below this many bytes there is nothing to be gained.
_COMPRESS_FROM_BYTES = 128
_COMPRESSION_LEVEL = 6

_PLAIN, _COMPRESSED = b"\0", b"\1"

# The field of ChangeBlock, and those of Change.
_CHANGES = 1
_KIND, _ENTITY_ID, _GROUP, _STATE, _SEQ_STEP = 1, 2, 3, 4, 5
_NAMES = (_KIND, _ENTITY_ID, _GROUP)
_WIRE_TYPES = {_KIND: BYTES, _ENTITY_ID: BYTES, _GROUP: BYTES, _STATE: BYTES, _SEQ_STEP: VARINT}


def encode_block(changes: Iterable[Change]) -> bytes:
    """Return the bytes of some changes, b"" of none. A kind or group that is that of the one before is not repeated."""
    parts: list[bytes] = []
    kind = group = None
    seq = 0
    for change in changes:
        fields = b"" if change.kind == kind else bytes_field(_KIND, change.kind.encode())
        fields += bytes_field(_ENTITY_ID, change.entity_id.encode())
        is_same_group = change.kind == kind and change.group == group
        fields += b"" if is_same_group else bytes_field(_GROUP, change.group.encode())
        fields += bytes_field(_STATE, change.state.encoded)
        # Mostly they are in order, and close.
        fields += varint_field(_SEQ_STEP, _zigzag(change.seq - seq))
        parts.append(bytes_field(_CHANGES, fields))
        kind, group, seq = change.kind, change.group, change.seq
    return sealed(b"".join(parts)) if parts else b""


def sealed(data: bytes) -> bytes:
    """Return a block's bytes for the wire: a byte 1 and it compressed, or a byte 0 and it as it is."""
    if len(data) >= _COMPRESS_FROM_BYTES:
        compressed = zlib.compress(data, _COMPRESSION_LEVEL)
        if len(compressed) < len(data):
            return _COMPRESSED + compressed
    return _PLAIN + data


def decode_block(block: bytes) -> tuple[Change, ...]:
    """Read what ``encode_block`` wrote.

    Raises: MalformedMessage.
    """
    if not block:
        return ()
    try:
        return tuple(_read_changes(_unsealed(block)))
    except (MalformedBytes, UnicodeDecodeError) as error:
        raise MalformedMessage(f"a block of {len(block)} bytes cannot be read: {error}") from error


def _unsealed(block: bytes) -> bytes:
    if block[:1] == _PLAIN:
        return block[1:]
    if block[:1] != _COMPRESSED:
        raise MalformedMessage(f"a block begins with {block[:1]!r}, which this version does not know")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(block[1:], MAX_BLOCK_BYTES)
    except zlib.error as error:
        raise MalformedMessage(f"a block cannot be decompressed: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise MalformedMessage(f"a block is cut off, or larger than {MAX_BLOCK_BYTES} bytes")
    return data


def _read_changes(data: bytes) -> Iterator[Change]:
    kind: str | None = None
    group: str | None = None
    seq = 0
    for number, wire_type, encoded in read_fields(data):
        if number != _CHANGES:
            continue
        if not isinstance(encoded, bytes) or wire_type != BYTES:
            raise MalformedMessage(f"a change has wire type {wire_type}")
        entity_id, state = "", b""
        for field, field_type, value in read_fields(encoded):
            if field in _WIRE_TYPES and field_type != _WIRE_TYPES[field]:
                raise MalformedMessage(f"field {field} of a change has wire type {field_type}")
            if field in _NAMES and isinstance(value, bytes) and len(value) > MAX_NAME_BYTES:
                # No record could have it, and no store takes it.
                raise MalformedMessage(f"field {field} of a change has {len(value)} bytes; at most {MAX_NAME_BYTES}")
            if isinstance(value, int):
                seq += (value >> 1 ^ -(value & 1)) if field == _SEQ_STEP else 0
            elif field == _KIND:
                kind = value.decode()
            elif field == _ENTITY_ID:
                entity_id = value.decode()
            elif field == _GROUP:
                group = value.decode()
            elif field == _STATE:
                state = value
        if kind is None or not entity_id or group is None or not state or seq < 0:
            raise MalformedMessage("a change does not say of which entity and group it is, or in which state")
        yield Change(kind, entity_id, group, decode_group_state(state), seq)


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1

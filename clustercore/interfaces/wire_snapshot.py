"""InstallSnapshotRequest by hand: its members are encoded as in the log, and its chunk is copied once.

Only ``codec`` uses this.
"""

from __future__ import annotations

import zlib

from clustercore.interfaces.errors import MalformedMessage
from clustercore.interfaces.wire import encode_field, encode_varint, split_fields
from clustercore.raft.configuration import MalformedConfiguration, decode_configuration, encode_configuration
from clustercore.raft.messages import InstallSnapshotRequest
from clustercore.raft.protobuf import BYTES, VARINT
from clustercore.raft.types import LogIndex, NodeId, SnapshotId, SnapshotMetadata, Term

# All of it is for ``codec``.
__all__: list[str] = []

# Field numbers of the schema, by wire type.
_TERM, _INDEX, _INDEX_TERM, _OFFSET, _CHECKSUM, _IS_LAST = 1, 3, 4, 8, 9, 10
_LEADER_ID, _DATA, _CONFIGURATION, _SNAPSHOT_ID = 2, 5, 6, 7


def encode_install_snapshot_request(message: InstallSnapshotRequest) -> bytes:
    """Encode a request. As in any proto3 message, what is 0 or empty is left out."""
    metadata = message.metadata
    numbers = {
        _TERM: message.term,
        _INDEX: metadata.last_included_index,
        _INDEX_TERM: metadata.last_included_term,
        _OFFSET: message.offset,
        _CHECKSUM: message.checksum,
        _IS_LAST: int(message.is_last),
    }
    texts = {
        _LEADER_ID: message.leader_id.encode(),
        _SNAPSHOT_ID: metadata.snapshot_id.encode(),
        _CONFIGURATION: encode_configuration(metadata.configuration),
        _DATA: message.data,
    }
    parts = [encode_varint(number << 3 | VARINT) + encode_varint(value) for number, value in numbers.items() if value]
    parts += [encode_field(number, value) for number, value in texts.items() if value]
    return b"".join(parts)


def decode_install_snapshot_request(data: bytes) -> InstallSnapshotRequest:
    """Read what any protobuf writer made.

    A request without a snapshot's name is of protocol version 2, and is read as the only chunk of a snapshot. It gets a
    name that others with other bytes do not have.

    Raises: MalformedMessage if it is no such request.
    """
    numbers = dict.fromkeys((_TERM, _INDEX, _INDEX_TERM, _OFFSET, _CHECKSUM, _IS_LAST), 0)
    texts = dict.fromkeys((_LEADER_ID, _DATA, _CONFIGURATION, _SNAPSHOT_ID), b"")
    for number, wire_type, value in split_fields(data):
        if number in numbers and wire_type == VARINT and isinstance(value, int):
            numbers[number] = value
        elif number in texts and wire_type == BYTES and isinstance(value, bytes):
            # Parts of one message are merged, which is concatenation; of anything else the last one counts.
            texts[number] = texts[number] + value if number == _CONFIGURATION else value
    if not texts[_SNAPSHOT_ID]:
        checksum = zlib.crc32(texts[_DATA])
        texts[_SNAPSHOT_ID] = f"whole-{numbers[_INDEX]}-{numbers[_INDEX_TERM]}-{checksum:08x}".encode()
        numbers |= {_OFFSET: 0, _CHECKSUM: checksum, _IS_LAST: 1}
    try:
        metadata = SnapshotMetadata(
            LogIndex(numbers[_INDEX]),
            Term(numbers[_INDEX_TERM]),
            decode_configuration(texts[_CONFIGURATION]),
            SnapshotId(texts[_SNAPSHOT_ID].decode()),
        )
        leader_id = NodeId(texts[_LEADER_ID].decode())
    except (MalformedConfiguration, UnicodeDecodeError) as exc:
        raise MalformedMessage(f"InstallSnapshotRequest cannot be read: {exc}") from exc
    return InstallSnapshotRequest(
        term=Term(numbers[_TERM]),
        leader_id=leader_id,
        metadata=metadata,
        offset=numbers[_OFFSET],
        data=texts[_DATA],
        checksum=numbers[_CHECKSUM],
        is_last=bool(numbers[_IS_LAST]),
    )

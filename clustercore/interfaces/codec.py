"""From messages to the bytes of ``protos/clustercore/v1/raft.proto``, and back: what most transports send.

``encode_message`` gives an ``Envelope``, which says itself what it holds; ``encode_body`` leaves that to whoever
carries it. Neither encodes an entry again: those bytes were made when it was proposed, and are copied. What nodes say
most often, AppendEntries and its answer, is encoded by hand in ``wire``, and what is large, InstallSnapshot, in
``wire_snapshot``; of all else the table below says what is in it, in the words of the schema.
``tests/unit/interfaces/test_codec.py`` holds the table against the schema, and the bytes against Google's protobuf.

Reading is strict: bytes that are cut off, a field of another type than the schema's, or a value no message may have
make a ``MalformedMessage``. Fields the schema does not have are passed over, so that a newer node may add one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs

from clustercore.interfaces.errors import MalformedMessage
from clustercore.interfaces.members import Members
from clustercore.interfaces.messages import (
    ChangeMembers,
    ForwardFailure,
    ForwardProposals,
    Hello,
    HelloResponse,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    StatusRequest,
    StatusResponse,
)
from clustercore.interfaces.values import NodeHealth, NodeStatus, PeerStatus
from clustercore.interfaces.wire import (
    decode_append_entries_request,
    decode_append_entries_response,
    encode_append_entries_request,
    encode_append_entries_response,
    encode_field,
    encode_varint,
    split_fields,
)
from clustercore.interfaces.wire_snapshot import decode_install_snapshot_request, encode_install_snapshot_request
from clustercore.raft.configuration import decode_configuration, encode_configuration
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from clustercore.raft.protobuf import BYTES, FIXED64, VARINT
from clustercore.raft.types import ChangeRefusal, Configuration, Role

__all__ = ["decode_body", "decode_message", "encode_body", "encode_message"]


# --- Kinds of fields -------------------------------------------------------------------------------------------------


@attrs.frozen
class _Kind:
    """How values of one kind are written into a field, and read from it."""

    wire_type: int
    # Returns what stands behind the tag: a number, or bytes that get a length.
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    # The value of an absent field. One that equals it is not written, as proto3 does it.
    default: Any
    is_repeated: bool = False


def _same(value: Any) -> Any:
    return value


def _read_text(value: bytes) -> str:
    return value.decode()


_NUMBER = _Kind(VARINT, _same, _same, 0)
_FLAG = _Kind(VARINT, int, bool, False)
_REAL = _Kind(FIXED64, struct.Struct("<d").pack, lambda data: struct.unpack("<d", data)[0], 0.0)
_TEXT = _Kind(BYTES, str.encode, _read_text, "")
# Text whose absence is told from an empty one.
_MAYBE_TEXT = _Kind(BYTES, str.encode, _read_text, None)
_DATA = _Kind(BYTES, _same, _same, b"")
_CONFIGURATION = _Kind(BYTES, encode_configuration, decode_configuration, Configuration())
_MANY_DATA = _Kind(BYTES, _same, _same, (), is_repeated=True)


def _choice(numbers: Mapping[Any, int], unknown: Enum | None = None) -> _Kind:
    """Make the kind of an enum. A number that is not known is read as ``unknown``, or malformed if that is None."""
    members = {number: member for member, number in numbers.items()}

    def read(number: int) -> Any:
        member = members.get(number, unknown)
        if member is None:
            raise MalformedMessage(f"{number} is unknown; this version knows {sorted(members)}")
        return member

    # 0 stands for "unspecified": it is read like any other number that is not known, also where it is left out.
    return _Kind(VARINT, numbers.__getitem__, read, _UNSPECIFIED)


_UNSPECIFIED = object()

# A failure this version does not know promises nothing.
_FAILURE = _choice(
    {
        ForwardFailure.NOT_LEADER: 1,
        ForwardFailure.REFUSED: 2,
        ForwardFailure.UNKNOWN: 3,
        ForwardFailure.NO_RESULT: 4,
    },
    ForwardFailure.UNKNOWN,
)
# A reason this version does not know is one for which trying again may help.
_REFUSAL = _choice(
    {
        ChangeRefusal.NOT_LEADER: 1,
        ChangeRefusal.TRANSFERRING: 2,
        ChangeRefusal.CHANGE_PENDING: 3,
        ChangeRefusal.TERM_NOT_COMMITTED: 4,
        ChangeRefusal.INVALID: 5,
        ChangeRefusal.UNCHANGED: 6,
        ChangeRefusal.NOT_CAUGHT_UP: 7,
        ChangeRefusal.NO_QUORUM: 8,
        ChangeRefusal.CONFLICT: 9,
        ChangeRefusal.UNSUPPORTED: 10,
        ChangeRefusal.NOT_THERE: 11,
    },
    ChangeRefusal.CHANGE_PENDING,
)
_ROLE = _choice({Role.FOLLOWER: 1, Role.CANDIDATE: 2, Role.LEADER: 3, Role.PRE_CANDIDATE: 4})

# --- The schema ------------------------------------------------------------------------------------------------------

_Fields = tuple[tuple[int, str, _Kind], ...]


def _fields(first: int = 1, /, **kinds: _Kind) -> _Fields:
    """Name the fields of a message in the order of their numbers."""
    return tuple((number, name, kind) for number, (name, kind) in enumerate(kinds.items(), first))


_PEER_STATUS = _fields(node_id=_TEXT, match_index=_NUMBER, next_index=_NUMBER, lag=_NUMBER, is_heard=_FLAG)
_PEERS = _Kind(
    BYTES,
    lambda peer: _encode(_PEER_STATUS, peer),
    lambda data: PeerStatus(**_decode("PeerStatus", _PEER_STATUS, data)),
    (),
    is_repeated=True,
)
_HEALTH_FIELDS = _fields(
    not_serving=_TEXT,
    degraded=_TEXT,
    loop_lag_s=_REAL,
    write_age_s=_REAL,
    write_wait_s=_REAL,
    apply_lag=_NUMBER,
    lag_s=_REAL,
)
_HEALTH = _Kind(
    BYTES,
    lambda health: _encode(_HEALTH_FIELDS, health),
    lambda data: NodeHealth(**_decode("NodeHealth", _HEALTH_FIELDS, data)),
    NodeHealth(),
)
_INTRODUCTION = {
    "protocol_version": _NUMBER,
    "oldest_protocol_version": _NUMBER,
    "cluster_id": _TEXT,
    "incarnation": _TEXT,
    "starts": _NUMBER,
    "command_version": _NUMBER,
}
_SCHEMA: dict[type[Message], _Fields] = {
    PreVoteRequest: _fields(term=_NUMBER, candidate_id=_TEXT, last_log_index=_NUMBER, last_log_term=_NUMBER),
    PreVoteResponse: _fields(term=_NUMBER, candidate_term=_NUMBER, vote_granted=_FLAG),
    RequestVoteRequest: _fields(
        term=_NUMBER, candidate_id=_TEXT, last_log_index=_NUMBER, last_log_term=_NUMBER, is_leadership_transfer=_FLAG
    ),
    RequestVoteResponse: _fields(term=_NUMBER, vote_granted=_FLAG),
    InstallSnapshotResponse: _fields(term=_NUMBER, match_index=_NUMBER, snapshot_id=_TEXT, next_offset=_NUMBER),
    TimeoutNowRequest: _fields(term=_NUMBER, leader_id=_TEXT, round=_NUMBER),
    TimeoutNowResponse: _fields(term=_NUMBER, round=_NUMBER),
    Hello: _fields(node_id=_TEXT, peer_id=_TEXT, **_INTRODUCTION, election_timeout_s=_REAL),
    HelloResponse: _fields(node_id=_TEXT, **_INTRODUCTION, refusal=_TEXT, election_timeout_s=_REAL),
    ForwardProposals: _fields(request_id=_NUMBER, commands=_MANY_DATA, kinds=_DATA),
    ProposalsApplied: _fields(request_id=_NUMBER, term=_NUMBER, first_index=_NUMBER, results=_MANY_DATA),
    ProposalsFailed: _fields(request_id=_NUMBER, failure=_FAILURE, leader_id=_MAYBE_TEXT, detail=_TEXT),
    ReadIndexRequest: _fields(request_id=_NUMBER),
    ReadIndexReady: _fields(request_id=_NUMBER, read_index=_NUMBER),
    ReadIndexRefused: _fields(request_id=_NUMBER, leader_id=_MAYBE_TEXT),
    StatusRequest: _fields(request_id=_NUMBER),
    StatusResponse: _fields(request_id=_NUMBER),
    MembersRequest: _fields(request_id=_NUMBER, is_settled=_FLAG, is_forwarded=_FLAG),
    ChangeMembers: _fields(
        term=_NUMBER,
        expected_index=_NUMBER,
        target=_CONFIGURATION,
        request_id=_NUMBER,
        is_forwarded=_FLAG,
        is_forced=_FLAG,
    ),
    MembersResponse: _fields(request_id=_NUMBER),
    MembersFailed: _fields(request_id=_NUMBER, reason=_REFUSAL, detail=_TEXT, leader_id=_MAYBE_TEXT, may_be_done=_FLAG),
}


@attrs.frozen
class _Flat:
    """A field of a message whose own fields stand in the message itself, behind the others."""

    name: str
    value_type: type[Any]
    fields: _Fields


_FLAT: dict[type[Message], _Flat] = {
    StatusResponse: _Flat(
        "status",
        NodeStatus,
        _fields(
            2,
            node_id=_TEXT,
            role=_ROLE,
            term=_NUMBER,
            leader_id=_MAYBE_TEXT,
            commit_index=_NUMBER,
            last_applied=_NUMBER,
            first_log_index=_NUMBER,
            last_log_index=_NUMBER,
            pending_proposals=_NUMBER,
            peers=_PEERS,
            configuration=_CONFIGURATION,
            configuration_index=_NUMBER,
            is_removed=_FLAG,
            founding=_TEXT,
            health=_HEALTH,
            waiting=_TEXT,
        ),
    ),
    MembersResponse: _Flat(
        "members",
        Members,
        _fields(
            2,
            configuration=_CONFIGURATION,
            index=_NUMBER,
            is_committed=_FLAG,
            term=_NUMBER,
            leader_id=_MAYBE_TEXT,
            peers=_PEERS,
        ),
    ),
}

# The field of Envelope that carries each message.
MESSAGE_NUMBERS: dict[type[Message], int] = {
    RequestVoteRequest: 1,
    RequestVoteResponse: 2,
    AppendEntriesRequest: 3,
    AppendEntriesResponse: 4,
    InstallSnapshotRequest: 5,
    InstallSnapshotResponse: 6,
    ForwardProposals: 7,
    ProposalsApplied: 8,
    ProposalsFailed: 9,
    StatusRequest: 10,
    StatusResponse: 11,
    PreVoteRequest: 12,
    PreVoteResponse: 13,
    TimeoutNowRequest: 14,
    TimeoutNowResponse: 15,
    ReadIndexRequest: 16,
    ReadIndexReady: 17,
    ReadIndexRefused: 18,
    Hello: 19,
    HelloResponse: 20,
    MembersRequest: 21,
    ChangeMembers: 22,
    MembersResponse: 23,
    MembersFailed: 24,
}
_MESSAGE_TYPES = {number: message_type for message_type, number in MESSAGE_NUMBERS.items()}
# The tags of one byte, which begin an envelope. Behind one, a length below 128 is one byte too.
_SHORT_TAGS = frozenset(number << 3 | BYTES for number in _MESSAGE_TYPES if number < 16)


# --- Messages --------------------------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """Return the ``Envelope`` that holds a message.

    Raises: OverflowError if a number in it is negative or has more than 64 bits.
    """
    return encode_field(MESSAGE_NUMBERS[type(message)], encode_body(message))


def decode_message(data: bytes) -> Message:
    """Read what ``encode_message``, or any protobuf writer, made.

    Raises: MalformedMessage if it is no envelope, or holds nothing that this version knows.
    """
    if 2 <= len(data) < 130 and data[1] == len(data) - 2 and data[0] in _SHORT_TAGS:
        # One short message and nothing else, as almost every one is.
        return decode_body(_MESSAGE_TYPES[data[0] >> 3], data[2:])
    found: int | None = None
    body = b""
    for number, wire_type, value in split_fields(data):
        if number not in _MESSAGE_TYPES or wire_type != BYTES or not isinstance(value, bytes):
            continue
        # In a oneof the last one counts; parts of one message are merged, which is concatenation.
        body = body + value if number == found else value
        found = number
    if found is None:
        raise MalformedMessage("the envelope holds no message this version knows")
    return decode_body(_MESSAGE_TYPES[found], body)


def encode_body(message: Message) -> bytes:
    """Return a message without its envelope.

    Raises: OverflowError if a number in it is negative or has more than 64 bits.
    """
    match message:
        case AppendEntriesRequest():
            return encode_append_entries_request(message)
        case AppendEntriesResponse():
            return encode_append_entries_response(message)
        case InstallSnapshotRequest():
            return encode_install_snapshot_request(message)
    encoded = _encode(_SCHEMA[type(message)], message)
    flat = _FLAT.get(type(message))
    return encoded if flat is None else encoded + _encode(flat.fields, getattr(message, flat.name))


def decode_body(message_type: type[Message], data: bytes) -> Message:
    """Read a message without its envelope.

    Raises: MalformedMessage if the bytes are no such message.
    """
    if message_type is AppendEntriesRequest:
        return decode_append_entries_request(data)
    if message_type is AppendEntriesResponse:
        return decode_append_entries_response(data)
    if message_type is InstallSnapshotRequest:
        return decode_install_snapshot_request(data)
    name = message_type.__name__
    values = _decode(name, _SCHEMA[message_type], data)
    flat = _FLAT.get(message_type)
    if flat is not None:
        values[flat.name] = flat.value_type(**_decode(name, flat.fields, data))
    if message_type is ForwardProposals and not values["commands"]:
        raise MalformedMessage("ForwardProposals holds no command")
    message: Message = message_type(**values)
    return message


def _encode(fields: _Fields, holder: Any) -> bytes:
    parts: list[bytes] = []
    for number, name, kind in fields:
        value = getattr(holder, name)
        if kind.is_repeated:
            parts += [encode_field(number, kind.write(item)) for item in value]
        elif value == kind.default:
            continue
        elif kind.wire_type == VARINT:
            parts.append(encode_varint(number << 3 | VARINT) + encode_varint(kind.write(value)))
        elif kind.wire_type == BYTES:
            parts.append(encode_field(number, kind.write(value)))
        else:
            parts.append(encode_varint(number << 3 | kind.wire_type) + kind.write(value))
    return b"".join(parts)


def _decode(what: str, fields: _Fields, data: bytes) -> dict[str, Any]:
    """Return the values of all fields by name."""
    known = {number: (name, kind) for number, name, kind in fields}
    values: dict[str, Any] = {}
    for number, wire_type, value in split_fields(data):
        if number not in known:
            continue
        name, kind = known[number]
        if wire_type != kind.wire_type:
            raise MalformedMessage(f"{what}.{name} comes as wire type {wire_type}, not {kind.wire_type}")
        try:
            read = kind.read(value)
        except ValueError as exc:
            raise MalformedMessage(f"{what}.{name}: {exc}") from exc
        if kind.is_repeated:
            values.setdefault(name, []).append(read)
        else:
            values[name] = read
    for _, name, kind in fields:
        if name not in values:
            values[name] = kind.read(0) if kind.default is _UNSPECIFIED else kind.default
        elif kind.is_repeated:
            values[name] = tuple(values[name])
    return values

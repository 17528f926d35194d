"""From the messages of ``clustercore.interfaces`` to the bytes of ``protos/clustercore/v1/raft.proto``, and back.

AppendEntries and InstallSnapshot take the way by hand (``wire``, ``wire_snapshot``), everything else goes through the
generated classes. The outer Envelope is always split by hand: it is one field, and betterproto2 neither joins a message
that comes in two parts nor notices one that is cut off, so what it gets to read is checked here first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import betterproto2

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    ForwardFailure,
    ForwardProposals,
    Hello,
    HelloResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogIndex,
    MalformedConfiguration,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    NodeId,
    NodeStatus,
    PeerStatus,
    PreVoteRequest,
    PreVoteResponse,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    StatusRequest,
    StatusResponse,
    Term,
    TimeoutNowRequest,
    TimeoutNowResponse,
    decode_configuration,
    encode_configuration,
)
from clustercore_grpc._proto.clustercore import v1
from clustercore_grpc.wire import (
    BYTES,
    MalformedMessage,
    decode_append_entries_request,
    decode_append_entries_response,
    encode_append_entries_request,
    encode_append_entries_response,
    encode_field,
    split_fields,
)
from clustercore_grpc.wire_snapshot import decode_install_snapshot_request, encode_install_snapshot_request

__all__ = ["RPCS", "decode_body", "decode_envelope", "encode_body", "encode_envelope"]

# The unary RPCs of clustercore.v1.Raft: what each takes and what answers it.
RPCS: dict[str, tuple[type[Message], type[Message]]] = {
    "RequestVote": (RequestVoteRequest, RequestVoteResponse),
    "AppendEntries": (AppendEntriesRequest, AppendEntriesResponse),
    "InstallSnapshot": (InstallSnapshotRequest, InstallSnapshotResponse),
    "Status": (StatusRequest, StatusResponse),
}

# The field of Envelope that carries each message.
_FIELD_NUMBERS: dict[type[Message], int] = {
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
_MESSAGE_TYPES = {number: message_type for message_type, number in _FIELD_NUMBERS.items()}

# Messages whose generated class has the same fields under the same names.
_PLAIN: dict[type[Message], type[Any]] = {
    RequestVoteRequest: v1.RequestVoteRequest,
    RequestVoteResponse: v1.RequestVoteResponse,
    PreVoteRequest: v1.PreVoteRequest,
    PreVoteResponse: v1.PreVoteResponse,
    InstallSnapshotResponse: v1.InstallSnapshotResponse,
    TimeoutNowRequest: v1.TimeoutNowRequest,
    TimeoutNowResponse: v1.TimeoutNowResponse,
    ForwardProposals: v1.ForwardProposals,
    ProposalsApplied: v1.ProposalsApplied,
    StatusRequest: v1.StatusRequest,
    Hello: v1.Hello,
    HelloResponse: v1.HelloResponse,
    ReadIndexRequest: v1.ReadIndexRequest,
    ReadIndexReady: v1.ReadIndexReady,
    ReadIndexRefused: v1.ReadIndexRefused,
    MembersRequest: v1.MembersRequest,
}
_PLAIN_FIELDS = {message_type: tuple(field.name for field in attrs.fields(message_type)) for message_type in _PLAIN}

_FAILURES = {failure: v1.ForwardFailure[failure.name] for failure in ForwardFailure}
# A failure this version does not know promises nothing.
_FAILURES_READ = {int(wire): failure for failure, wire in _FAILURES.items()}

_REFUSALS = {refusal: v1.ChangeRefusal[refusal.name] for refusal in ChangeRefusal}
_REFUSALS_READ = {int(wire): refusal for refusal, wire in _REFUSALS.items()}

_ROLES = {role: v1.Role[role.name] for role in Role}
_ROLES_READ = {int(wire): role for role, wire in _ROLES.items()}


def encode_envelope(message: Message) -> bytes:
    """Encode a message as it travels on ``Raft/Exchange``.

    Raises: OverflowError if a number in it does not fit the wire format.
    """
    return encode_field(_FIELD_NUMBERS[type(message)], encode_body(message))


def decode_envelope(data: bytes) -> Message:
    """Read what ``encode_envelope``, or any protobuf writer, made.

    Raises: MalformedMessage if it is no envelope, or holds nothing that this version knows.
    """
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
    """Encode a message without its envelope, as in a unary RPC."""
    message_type = type(message)
    if message_type in _PLAIN:
        return _encode_plain(message)
    return _ENCODERS[message_type](message)


def decode_body(message_type: type[Message], data: bytes) -> Message:
    """Read a message without its envelope.

    Raises: MalformedMessage if the bytes are no such message.
    """
    if message_type in _PLAIN:
        return _read_plain(message_type, data)
    return _DECODERS[message_type](data)


# --- Out -----------------------------------------------------------------------------------------------------------


def _encode_plain(message: Message) -> bytes:
    message_type = type(message)
    values = {name: getattr(message, name) for name in _PLAIN_FIELDS[message_type]}
    return bytes(_PLAIN[message_type](**values))


def _proposals_failed(message: ProposalsFailed) -> bytes:
    return bytes(
        v1.ProposalsFailed(
            request_id=message.request_id,
            failure=_FAILURES[message.failure],
            leader_id=message.leader_id,
            detail=message.detail,
        )
    )


def _status_response(message: StatusResponse) -> bytes:
    status = message.status
    return bytes(
        v1.StatusResponse(
            request_id=message.request_id,
            node_id=status.node_id,
            role=_ROLES[status.role],
            term=status.term,
            leader_id=status.leader_id,
            commit_index=status.commit_index,
            last_applied=status.last_applied,
            first_log_index=status.first_log_index,
            last_log_index=status.last_log_index,
            pending_proposals=status.pending_proposals,
            peers=_peers(status.peers),
            configuration=encode_configuration(status.configuration),
            configuration_index=status.configuration_index,
            is_removed=status.is_removed,
        )
    )


def _peers(peers: Sequence[PeerStatus]) -> list[v1.PeerStatus]:
    return [
        v1.PeerStatus(
            node_id=peer.node_id,
            match_index=peer.match_index,
            next_index=peer.next_index,
            lag=peer.lag,
            is_heard=peer.is_heard,
        )
        for peer in peers
    ]


def _change_members(message: ChangeMembers) -> bytes:
    return bytes(
        v1.ChangeMembers(
            term=message.term,
            expected_index=message.expected_index,
            target=encode_configuration(message.target),
            request_id=message.request_id,
            is_forwarded=message.is_forwarded,
        )
    )


def _members_response(message: MembersResponse) -> bytes:
    members = message.members
    return bytes(
        v1.MembersResponse(
            request_id=message.request_id,
            configuration=encode_configuration(members.configuration),
            index=members.index,
            is_committed=members.is_committed,
            term=members.term,
            leader_id=members.leader_id,
            peers=_peers(members.peers),
        )
    )


def _members_failed(message: MembersFailed) -> bytes:
    return bytes(
        v1.MembersFailed(
            request_id=message.request_id,
            reason=_REFUSALS[message.reason],
            detail=message.detail,
            leader_id=message.leader_id,
            may_be_done=message.may_be_done,
        )
    )


# --- In ------------------------------------------------------------------------------------------------------------


def _parse(message_type: type[Any], data: bytes) -> Any:
    """Let betterproto2 read ``data``.

    It would accept a field that is cut off, so the outer structure is checked first; and one of another wire type, say
    a number where text belongs, so the values are checked afterwards.
    """
    for _ in split_fields(data):
        pass
    try:
        wire = message_type.parse(data)
    except Exception as exc:
        # What betterproto2 raises for bytes it cannot read depends on where it stumbles, and is not documented.
        raise MalformedMessage(f"{message_type.__name__} cannot be read: {exc!r}") from exc
    _check_types(wire)
    return wire


def _check_types(wire: Any) -> None:
    for name, default in vars(type(wire)()).items():
        value = getattr(wire, name)
        if isinstance(default, list):
            # What repeats in this schema is bytes or messages.
            for item in value:
                if isinstance(item, betterproto2.Message):
                    _check_types(item)
                elif not isinstance(item, bytes):
                    raise MalformedMessage(f"{type(wire).__name__}.{name} holds {item!r}, not bytes")
            continue
        # What can be absent in this schema is text.
        expected = (str, type(None)) if default is None else (int if isinstance(default, int) else type(default))
        if not isinstance(value, expected):
            raise MalformedMessage(f"{type(wire).__name__}.{name} is {value!r}, not of type {expected}")


def _read_plain(message_type: type[Any], data: bytes) -> Message:
    wire = _parse(_PLAIN[message_type], data)
    values = {name: getattr(wire, name) for name in _PLAIN_FIELDS[message_type]}
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    message: Message = message_type(**frozen)
    if isinstance(message, ForwardProposals) and not message.commands:
        raise MalformedMessage("ForwardProposals holds no command")
    return message


def _read_proposals_failed(data: bytes) -> Message:
    wire = _parse(v1.ProposalsFailed, data)
    return ProposalsFailed(
        request_id=wire.request_id,
        failure=_FAILURES_READ.get(int(wire.failure), ForwardFailure.UNKNOWN),
        leader_id=_node_id(wire.leader_id),
        detail=wire.detail,
    )


def _read_status_response(data: bytes) -> Message:
    wire = _parse(v1.StatusResponse, data)
    role = _ROLES_READ.get(int(wire.role))
    if role is None:
        raise MalformedMessage(f"role {int(wire.role)} is unknown; this version knows {sorted(_ROLES_READ)}")
    status = NodeStatus(
        node_id=NodeId(wire.node_id),
        role=role,
        term=Term(wire.term),
        leader_id=_node_id(wire.leader_id),
        commit_index=LogIndex(wire.commit_index),
        last_applied=LogIndex(wire.last_applied),
        first_log_index=LogIndex(wire.first_log_index),
        last_log_index=LogIndex(wire.last_log_index),
        pending_proposals=wire.pending_proposals,
        peers=_read_peers(wire.peers),
        configuration=_configuration(StatusResponse, wire.configuration),
        configuration_index=LogIndex(wire.configuration_index),
        is_removed=wire.is_removed,
    )
    return StatusResponse(status=status, request_id=wire.request_id)


def _read_peers(peers: Sequence[v1.PeerStatus]) -> tuple[PeerStatus, ...]:
    return tuple(
        PeerStatus(
            node_id=NodeId(peer.node_id),
            match_index=LogIndex(peer.match_index),
            next_index=LogIndex(peer.next_index),
            lag=peer.lag,
            is_heard=peer.is_heard,
        )
        for peer in peers
    )


def _read_change_members(data: bytes) -> Message:
    wire = _parse(v1.ChangeMembers, data)
    return ChangeMembers(
        term=Term(wire.term),
        expected_index=LogIndex(wire.expected_index),
        target=_configuration(ChangeMembers, wire.target),
        request_id=wire.request_id,
        is_forwarded=wire.is_forwarded,
    )


def _read_members_response(data: bytes) -> Message:
    wire = _parse(v1.MembersResponse, data)
    members = Members(
        configuration=_configuration(MembersResponse, wire.configuration),
        index=LogIndex(wire.index),
        is_committed=wire.is_committed,
        term=Term(wire.term),
        leader_id=_node_id(wire.leader_id),
        peers=_read_peers(wire.peers),
    )
    return MembersResponse(request_id=wire.request_id, members=members)


def _read_members_failed(data: bytes) -> Message:
    wire = _parse(v1.MembersFailed, data)
    # A reason that this version does not know is one for which trying again may help.
    return MembersFailed(
        request_id=wire.request_id,
        reason=_REFUSALS_READ.get(int(wire.reason), ChangeRefusal.CHANGE_PENDING),
        detail=wire.detail,
        leader_id=_node_id(wire.leader_id),
        may_be_done=wire.may_be_done,
    )


def _configuration(message_type: type[Message], encoded: bytes) -> Configuration:
    try:
        return decode_configuration(encoded)
    except MalformedConfiguration as exc:
        raise MalformedMessage(f"{message_type.__name__}: {exc}") from exc


def _node_id(text: str | None) -> NodeId | None:
    return None if text is None else NodeId(text)


# Each function takes exactly the type it stands beside, which a dict cannot say.
_ENCODERS: dict[type[Message], Callable[[Any], bytes]] = {
    AppendEntriesRequest: encode_append_entries_request,
    AppendEntriesResponse: encode_append_entries_response,
    InstallSnapshotRequest: encode_install_snapshot_request,
    ProposalsFailed: _proposals_failed,
    StatusResponse: _status_response,
    ChangeMembers: _change_members,
    MembersResponse: _members_response,
    MembersFailed: _members_failed,
}

_DECODERS: dict[type[Message], Callable[[bytes], Message]] = {
    AppendEntriesRequest: decode_append_entries_request,
    AppendEntriesResponse: decode_append_entries_response,
    InstallSnapshotRequest: decode_install_snapshot_request,
    ProposalsFailed: _read_proposals_failed,
    StatusResponse: _read_status_response,
    ChangeMembers: _read_change_members,
    MembersResponse: _read_members_response,
    MembersFailed: _read_members_failed,
}

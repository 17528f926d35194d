"""The codec by hand against two protobuf libraries, and against bytes that are no messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    Entry,
    EntryKind,
    ForwardFailure,
    ForwardProposals,
    Hello,
    HelloResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    LogIndex,
    MalformedMessage,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    NodeHealth,
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
    Round,
    Server,
    SnapshotId,
    SnapshotMetadata,
    StatusRequest,
    StatusResponse,
    Term,
    TimeoutNowRequest,
    TimeoutNowResponse,
    codec,
    decode_body,
    decode_message,
    encode_message,
    wire,
)
from clustercore.raft import protobuf
from clustercore_grpc._proto.clustercore import v1

PROTOS = Path(__file__).parents[3] / "protos"

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
terms = numbers.map(Term)
indexes = numbers.map(LogIndex)
node_ids = st.text(max_size=20).map(NodeId)
maybe_node_ids = st.none() | node_ids


@st.composite
def append_entries_requests(draw: st.DrawFn) -> AppendEntriesRequest:
    """Any request whose entries follow one another."""
    prev_log_index = draw(st.one_of(st.integers(0, 300), st.integers(0, 2**62)))
    drawn = draw(st.lists(st.tuples(st.integers(1, 2**64 - 1), st.sampled_from(EntryKind), st.binary(max_size=200))))
    entries = tuple(
        Entry.create(LogIndex(prev_log_index + number), Term(term), kind, command)
        for number, (term, kind, command) in enumerate(drawn, 1)
    )
    return AppendEntriesRequest(
        draw(terms), draw(node_ids), LogIndex(prev_log_index), draw(terms), draw(indexes), entries
    )


append_entries_responses = st.builds(AppendEntriesResponse, terms, st.booleans(), indexes, indexes, terms, indexes)
peers = st.lists(st.builds(PeerStatus, node_ids, indexes, indexes, numbers, st.booleans()), max_size=3).map(tuple)
servers = st.builds(
    Server,
    st.text(min_size=1, max_size=9).map(NodeId),
    st.booleans(),
    st.booleans(),
    st.text(max_size=9),
    st.text(max_size=9),
)
configurations = st.builds(
    Configuration.with_servers,
    st.lists(servers, max_size=3, unique_by=lambda server: server.node_id),
    old_voters=st.frozensets(st.text(min_size=1, max_size=9).map(NodeId), max_size=3),
    cluster_id=st.text(max_size=9),
)
seconds = st.floats(allow_nan=False, allow_infinity=False)
statuses = st.builds(
    NodeStatus,
    node_id=node_ids,
    role=st.sampled_from(Role),
    term=terms,
    leader_id=maybe_node_ids,
    commit_index=indexes,
    last_applied=indexes,
    first_log_index=indexes,
    last_log_index=indexes,
    pending_proposals=numbers,
    peers=peers,
    configuration=configurations,
    configuration_index=indexes,
    is_removed=st.booleans(),
    founding=st.text(max_size=8),
    health=st.builds(
        NodeHealth,
        not_serving=st.text(max_size=9),
        degraded=st.text(max_size=9),
        loop_lag_s=seconds,
        write_age_s=seconds,
        write_wait_s=seconds,
        apply_lag=numbers,
        lag_s=seconds,
    ),
)
members = st.builds(
    Members,
    configuration=configurations,
    index=indexes,
    is_committed=st.booleans(),
    term=terms,
    leader_id=maybe_node_ids,
    peers=peers,
)
byte_tuples = st.lists(st.binary(max_size=50), min_size=1, max_size=5).map(tuple)
messages: st.SearchStrategy[Message] = st.one_of(
    append_entries_requests(),
    append_entries_responses,
    st.builds(RequestVoteRequest, terms, node_ids, indexes, terms),
    st.builds(RequestVoteResponse, terms, st.booleans()),
    st.builds(
        InstallSnapshotRequest,
        terms,
        node_ids,
        st.builds(SnapshotMetadata, indexes, terms, configurations, st.text(min_size=1, max_size=20).map(SnapshotId)),
        numbers,
        st.binary(max_size=300),
        numbers,
        st.booleans(),
    ),
    st.builds(InstallSnapshotResponse, terms, indexes, st.text(max_size=20).map(SnapshotId), numbers),
    st.builds(ForwardProposals, numbers, byte_tuples),
    st.builds(ProposalsApplied, numbers, terms, indexes, byte_tuples),
    st.builds(ProposalsFailed, numbers, st.sampled_from(ForwardFailure), maybe_node_ids, st.text(max_size=50)),
    st.builds(StatusRequest, numbers),
    st.builds(StatusResponse, statuses, numbers),
    st.builds(MembersRequest, numbers, st.booleans(), st.booleans()),
    st.builds(ChangeMembers, terms, indexes, configurations, numbers, st.booleans()),
    st.builds(MembersResponse, numbers, members),
    st.builds(
        MembersFailed,
        numbers,
        st.sampled_from(ChangeRefusal),
        st.text(max_size=50),
        maybe_node_ids,
        st.booleans(),
    ),
    st.builds(PreVoteRequest, terms, node_ids, indexes, terms),
    st.builds(PreVoteResponse, terms, terms, st.booleans()),
    st.builds(TimeoutNowRequest, terms, node_ids, numbers.map(Round)),
    st.builds(TimeoutNowResponse, terms, numbers.map(Round)),
    st.builds(ReadIndexRequest, numbers),
    st.builds(ReadIndexReady, numbers, indexes),
    st.builds(ReadIndexRefused, numbers, maybe_node_ids),
    st.builds(
        Hello, node_ids, node_ids, numbers, numbers, st.text(), st.text(), numbers, numbers, st.floats(allow_nan=False)
    ),
    st.builds(
        HelloResponse,
        *(node_ids, numbers, numbers, st.text(), st.text(), numbers, numbers, st.text(), st.floats(allow_nan=False)),
    ),
)


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Google's class for a message of raft.proto, by name, in a descriptor pool of its own."""
    path = tmp_path_factory.mktemp("descriptors") / "raft.binpb"
    source = "clustercore/v1/raft.proto"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTOS}",
        f"--descriptor_set_out={path}",
        source,
    ]
    subprocess.run(command, check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"clustercore.v1.{name}"))


def test_schema_is_that_of_raft_proto(google: Any) -> None:
    """Every message that nodes exchange has its number in Envelope, and its fields theirs, by name and type."""
    of_envelope = {field.message_type.name: field.number for field in google("Envelope").DESCRIPTOR.fields}
    assert {kind.__name__: number for kind, number in codec.MESSAGE_NUMBERS.items()} == of_envelope
    assert set(codec.MESSAGE_NUMBERS) == set(get_args(Message))

    by_hand = {AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest}
    assert set(codec._SCHEMA) | by_hand == set(codec.MESSAGE_NUMBERS)
    fields = {kind.__name__: fields for kind, fields in codec._SCHEMA.items()}
    fields |= {"PeerStatus": codec._PEER_STATUS, "NodeHealth": codec._HEALTH_FIELDS}
    for kind, flat in codec._FLAT.items():
        fields[kind.__name__] += flat.fields
    for name, ours in fields.items():
        theirs = [(field.number, field.name, _kind_of(field)) for field in google(name).DESCRIPTOR.fields]
        assert [(number, name, _kind_name(kind)) for number, name, kind in ours] == theirs


def _kind_of(field: Any) -> str:
    """Name the kind of a field of the schema as ``codec`` does."""
    names = {
        field.TYPE_UINT64: "number",
        field.TYPE_BOOL: "flag",
        field.TYPE_DOUBLE: "real",
        field.TYPE_STRING: "maybe text" if field.has_presence else "text",
        field.TYPE_BYTES: "many data" if field.is_repeated else "data",
        field.TYPE_MESSAGE: "peers" if field.is_repeated else "health",
        field.TYPE_ENUM: "choice",
    }
    return names[field.type]


def _kind_name(kind: Any) -> str:
    named = {"number": codec._NUMBER, "flag": codec._FLAG, "real": codec._REAL, "text": codec._TEXT}
    named |= {"maybe text": codec._MAYBE_TEXT, "data": codec._DATA, "many data": codec._MANY_DATA}
    named |= {"peers": codec._PEERS, "health": codec._HEALTH}
    if kind is codec._CONFIGURATION:
        return "data"
    return next((name for name, known in named.items() if known is kind), "choice")


@given(message=messages)
def test_envelope_round_trip(message: Message) -> None:
    """Every message comes back from its encoding as it was."""
    assert decode_message(encode_message(message)) == message


@given(message=messages)
def test_envelope_is_what_both_libraries_write(google: Any, message: Message) -> None:
    """betterproto2 and google.protobuf read our envelope, and what they write of it we read as the same message."""
    encoded = encode_message(message)

    by_betterproto2 = bytes(v1.Envelope.parse(encoded))
    parsed = google("Envelope").FromString(encoded)
    by_google = parsed.SerializeToString(deterministic=True)

    assert len(parsed.ListFields()) == 1
    assert decode_message(by_betterproto2) == message
    assert decode_message(by_google) == message
    assert encode_message(decode_message(by_google)) == encoded


@given(message=append_entries_requests())
def test_append_entries_request_fields_agree(google: Any, message: AppendEntriesRequest) -> None:
    """Each field that google.protobuf reads from our encoding has our value."""
    parsed = google("AppendEntriesRequest").FromString(wire.encode_append_entries_request(message))

    assert (parsed.term, parsed.leader_id) == (message.term, message.leader_id)
    assert (parsed.prev_log_index, parsed.prev_log_term) == (message.prev_log_index, message.prev_log_term)
    assert parsed.leader_commit == message.leader_commit
    assert [(e.index, e.term, e.kind, e.command) for e in parsed.entries] == [
        (e.index, e.term, e.kind, e.command) for e in message.entries
    ]


def _field_bytes(number: int, wire_type: int, value: int | bytes) -> bytes:
    tag = wire.encode_varint(number << 3 | wire_type)
    if isinstance(value, int):
        return tag + wire.encode_varint(value)
    return tag + (wire.encode_varint(len(value)) if wire_type == protobuf.BYTES else b"") + value


unknown_fields = st.one_of(
    st.tuples(st.integers(16, 5000), st.just(0), numbers),
    st.tuples(st.integers(16, 5000), st.just(1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.integers(16, 5000), st.just(2), st.binary(max_size=20)),
    st.tuples(st.integers(16, 5000), st.just(5), st.binary(min_size=4, max_size=4)),
)


@given(message=append_entries_requests(), unknown=st.lists(unknown_fields, max_size=4), random=st.randoms())
def test_append_entries_request_in_any_order_with_unknown_fields(
    google: Any, message: AppendEntriesRequest, unknown: list[tuple[int, int, int | bytes]], random: Any
) -> None:
    """Fields may come in any order among unknown ones; only the order of the entries counts."""
    fields = list(wire.split_fields(wire.encode_append_entries_request(message)))
    entries = iter([field for field in fields if field[0] == 6])
    shuffled = [*fields, *unknown]
    random.shuffle(shuffled)

    data = b"".join(_field_bytes(*(next(entries) if field[0] == 6 else field)) for field in shuffled)

    assert wire.decode_append_entries_request(data) == message
    assert len(google("AppendEntriesRequest").FromString(data).entries) == len(message.entries)


@given(message=append_entries_responses, unknown=st.lists(unknown_fields, max_size=4), random=st.randoms())
def test_append_entries_response_in_any_order_with_unknown_fields(
    message: AppendEntriesResponse, unknown: list[tuple[int, int, int | bytes]], random: Any
) -> None:
    """The same holds for the response."""
    shuffled = [*wire.split_fields(wire.encode_append_entries_response(message)), *unknown]
    random.shuffle(shuffled)

    assert wire.decode_append_entries_response(b"".join(_field_bytes(*field) for field in shuffled)) == message


@given(message=append_entries_requests(), at=st.floats(0, 1))
def test_envelope_in_two_parts_is_merged(google: Any, message: AppendEntriesRequest, at: float) -> None:
    """A message that comes as two fields of the envelope is their merge, as protobuf prescribes."""
    fields = [_field_bytes(*field) for field in wire.split_fields(wire.encode_append_entries_request(message))]
    cut = round(at * len(fields))
    parts = (b"".join(fields[:cut]), b"".join(fields[cut:]))

    data = b"".join(wire.encode_field(3, part) for part in parts)

    assert decode_message(data) == message
    assert len(google("Envelope").FromString(data).append_entries_request.entries) == len(message.entries)


def test_envelope_with_two_messages_holds_the_last() -> None:
    """Of two fields of a oneof the last one counts."""
    first, last = StatusRequest(5), RequestVoteResponse(Term(3), True)

    assert decode_message(encode_message(first) + encode_message(last)) == last


@pytest.mark.parametrize("size", range(118, 136))
def test_envelope_is_read_alike_at_every_length(size: int) -> None:
    """Where a length begins to take two bytes, what looks like a short message is none, also before another field."""
    message = HelloResponse(NodeId("n" * size))
    short = ProposalsFailed(1, ForwardFailure.REFUSED, None, "d" * size)
    # A field that no version knows.
    unknown = wire.encode_field(99, b"unknown")

    for one in (message, short):
        assert decode_message(encode_message(one)) == one
        assert decode_message(encode_message(one) + unknown) == one
        assert decode_message(unknown + encode_message(one)) == one


@given(message=messages, keep=st.floats(0, 1, exclude_max=True))
def test_envelope_cut_short_is_malformed(message: Message, keep: float) -> None:
    """No part of an envelope passes for a message."""
    encoded = encode_message(message)

    with pytest.raises(MalformedMessage):
        decode_message(encoded[: int(keep * len(encoded))])


@given(data=st.binary(max_size=300), field=st.none() | st.integers(1, 11))
def test_random_bytes_are_a_message_or_malformed(data: bytes, field: int | None) -> None:
    """Whatever comes in, nothing but MalformedMessage is raised, and what is read can be written again."""
    try:
        message = decode_message(data if field is None else wire.encode_field(field, data))
    except MalformedMessage:
        return

    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize(
    ("message_type", "data"),
    [
        (RequestVoteRequest, b"\x10\x00"),
        (ForwardProposals, b"\x10\x01"),
        (ProposalsFailed, b"\x18\x01"),
        (StatusResponse, wire.encode_field(11, b"\x08\x01")),
    ],
    ids=["text", "repeated bytes", "optional text", "nested"],
)
def test_number_where_text_or_bytes_belong_is_malformed(message_type: type[Message], data: bytes) -> None:
    """A field of another wire type is refused; betterproto2 alone would hand on the number."""
    with pytest.raises(MalformedMessage):
        decode_body(message_type, data)


@given(message=messages, noise=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3))
def test_flipped_bytes_are_a_message_or_malformed(message: Message, noise: list[tuple[float, int]]) -> None:
    """The same for messages that were damaged."""
    data = bytearray(encode_message(message))
    for at, value in noise:
        data[int(at * len(data))] = value
    try:
        decode_message(bytes(data))
    except MalformedMessage:
        return


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no message"),
        (b"\x1a\x05\x08", "wants 5 bytes"),
        (b"\x1a\x80", "cut off"),
        (b"\x03\x00", "field number 0"),
        (b"\x0b\x00", "wire type 3"),
        (b"\x1a" + b"\xff" * 11, "longer than 10 bytes"),
        (b"\x1a\x04\x32\x02\x08\x01", "malformed entry"),
        (b"\x1a\x02\x32\x09", "an entry wants 9 bytes"),
        (b"\x1a\x03\x12\x01\xff", "not UTF-8"),
        (b"\x1a\x02\x12\x07", "wants 7 bytes"),
        (b"\x1a\x02\x00\x00", "field number 0"),
        (b"\x1a\x02\x7a\x09", "cut off"),
        (b"\x1a\x02\x7f\x09", "wire type 7"),
        (b"\x3a\x02\x08\x01", "no command"),
        (b"\x5a\x02\x18\x09", "role: 9 is unknown"),
    ],
)
def test_malformed_bytes_are_named(data: bytes, said: str) -> None:
    """The error says what is wrong with the bytes."""
    with pytest.raises(MalformedMessage, match=said):
        decode_message(data)


def test_entries_out_of_sequence_are_malformed() -> None:
    """Entries that do not follow prev_log_index are no AppendEntriesRequest."""
    entry = Entry.create(LogIndex(7), Term(1), EntryKind.NO_OP)
    message = AppendEntriesRequest(Term(1), NodeId("a"), LogIndex(5), Term(1), LogIndex(0), (entry,))

    with pytest.raises(MalformedMessage, match="entry 7 where 6 must follow"):
        decode_message(encode_message(message))


@pytest.mark.parametrize("value", [-1, 2**64])
def test_number_out_of_range_is_not_encoded(value: int) -> None:
    """A number that is no uint64 is an error, not other bytes."""
    with pytest.raises(OverflowError):
        wire.encode_varint(value)


def test_unknown_failure_promises_nothing() -> None:
    """A failure that a newer version may send is read as: may still be done."""
    data = wire.encode_field(9, bytes(v1.ProposalsFailed(request_id=4, failure=v1.ForwardFailure(77))))

    message = decode_message(data)

    assert message == ProposalsFailed(4, ForwardFailure.UNKNOWN, None, "")

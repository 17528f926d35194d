"""The sync's messages by hand and Google's protobuf, with the schema in protos/, say the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import MalformedMessage, NodeHandle, NodeId
from clustercore.sync import Change, ConflictDesk, ConflictLog, EntityStore, GroupState, Stamp, SyncService, Write
from clustercore.sync._proto import conflicts as conflicts_proto
from clustercore.sync._proto import sync as sync_proto
from clustercore.sync.blocks import decode_block, encode_block
from clustercore.sync.checkpoints import MAX_KEPT_BACK, Cursor, decode_cursor
from clustercore.sync.comparison import (
    BucketsRequest,
    BucketsResponse,
    CompareRequest,
    CompareResponse,
    FetchRequest,
    FetchResponse,
    LeafStamps,
    Place,
)
from clustercore.sync.digests import BUCKETS, LEAVES, ROOT_BYTES, SHORT_BYTES, SPLIT, STAMP_BYTES
from clustercore.sync.messages import (
    OpenRequest,
    OpenResponse,
    PullRequest,
    PullResponse,
    PushRequest,
    PushResponse,
    Resync,
    ResyncReason,
    SyncSession,
)
from clustercore.sync.wire import SyncMessage
from clustercore_memory import MemoryRecords

POOL = descriptor_pool.DescriptorPool()
for encoded in (sync_proto.FILE_DESCRIPTOR, conflicts_proto.FILE_DESCRIPTOR):
    POOL.Add(descriptor_pb2.FileDescriptorProto.FromString(encoded))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = texts.filter(bool)
numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**63))
limits = st.one_of(st.integers(1, 300), st.integers(1, 2**63))
blobs = st.binary(max_size=12)
salts = st.binary(min_size=1, max_size=64)
reasons = st.sampled_from(ResyncReason)


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    """Any cursor."""
    seq = draw(numbers)
    kept_back = draw(st.sets(st.integers(1, seq), max_size=8)) if seq else set()
    return Cursor(seq, tuple(sorted(kept_back)))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change of one of a few kinds and groups, so that neighbours share them."""
    kind, group = draw(st.sampled_from(["uav", "mission", "ä"])), draw(st.sampled_from(["", "status", "key"]))
    stamp = Stamp(draw(st.integers(1, 9)), draw(st.integers(1, 2**63)), "a#1")
    state = GroupState.of(Write(stamp, None, (), draw(st.none() | st.binary(max_size=40))))
    return Change(kind, draw(names), group, state, draw(st.integers(0, 2**62)))


many_changes = st.lists(changes(), max_size=6).map(tuple)


def digests(size: int) -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    """Digests by kind."""
    by_name = st.dictionaries(texts, st.binary(min_size=size, max_size=size), max_size=3)
    return by_name.map(lambda found: tuple(found.items()))


def rows(size: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Pieces of one size."""
    return st.lists(st.binary(min_size=size, max_size=size), max_size=3).map(tuple)


leaves = st.builds(LeafStamps, st.integers(0, LEAVES - 1), rows(STAMP_BYTES))
STRATEGIES: dict[type[SyncMessage], st.SearchStrategy[Any]] = {
    OpenRequest: st.builds(
        OpenRequest,
        node_id=texts.map(NodeId),
        epoch=texts,
        kinds=st.lists(texts, max_size=3).map(tuple),
        source_epoch=texts,
        cursor=cursors(),
        session_id=blobs,
    ),
    OpenResponse: st.builds(
        OpenResponse,
        session_id=blobs,
        epoch=texts,
        reason=reasons,
        known_epoch=texts,
        known_session_id=blobs,
        known_seq=numbers,
        wall_ms=numbers,
    ),
    PullRequest: st.builds(PullRequest, session_id=blobs, cursor=cursors(), max_changes=limits, max_bytes=limits),
    PullResponse: st.builds(
        PullResponse,
        start=cursors(),
        end=st.none() | cursors(),
        changes=many_changes,
        behind=numbers,
        has_more=st.booleans(),
        wall_ms=numbers,
    ),
    CompareRequest: st.builds(CompareRequest, session_id=blobs, salt=salts, roots=digests(ROOT_BYTES)),
    CompareResponse: st.builds(CompareResponse, seq=numbers, buckets=digests(BUCKETS * SHORT_BYTES), wall_ms=numbers),
    BucketsRequest: st.builds(
        BucketsRequest,
        session_id=blobs,
        salt=salts,
        kind=texts,
        buckets=st.lists(st.integers(0, BUCKETS - 1), unique=True, max_size=9).map(tuple),
    ),
    BucketsResponse: st.builds(BucketsResponse, rows(SPLIT * SHORT_BYTES)),
    FetchRequest: st.builds(
        FetchRequest,
        session_id=blobs,
        salt=salts,
        kind=texts,
        leaves=st.lists(leaves, max_size=3).map(tuple),
        after=st.none() | st.builds(Place, texts, texts),
        max_changes=limits,
        max_bytes=limits,
    ),
    LeafStamps: leaves,
    Place: st.builds(Place, texts, texts),
    FetchResponse: st.builds(FetchResponse, changes=many_changes, done=numbers, seq=numbers, wall_ms=numbers),
    PushRequest: st.builds(
        PushRequest,
        node_id=texts.map(NodeId),
        changes=many_changes,
        session=st.sampled_from(SyncSession),
        kinds=st.lists(texts, max_size=3).map(tuple),
    ),
    PushResponse: st.builds(PushResponse, applied=numbers, duplicate=numbers, stale=numbers, rebuttals=many_changes),
}
# All that the services look at.
NODE = cast(NodeHandle, SimpleNamespace(node_id="a"))
EACH_MESSAGE = pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
# Of answers in a session, the field that stands instead of one.
RESYNC = (15, "resync", "ResyncReason")
IN_A_SESSION = (PullResponse, CompareResponse, BucketsResponse, FetchResponse)


def google(name: str) -> Any:
    """Google's class for a message."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"clustercore.v1.{name}"))


# --- The schema ------------------------------------------------------------------------------------------------------


def _kind_of(field: Any) -> str:
    """Say what a field of the schema is, as the schema says it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"map<{_kind_of(entry['key'])}, {_kind_of(entry['value'])}>"
    names = {field.TYPE_UINT64: "uint64", field.TYPE_SINT64: "sint64", field.TYPE_BOOL: "bool"}
    names |= {field.TYPE_STRING: "string", field.TYPE_BYTES: "bytes"}
    named = field.message_type or field.enum_type
    return ("repeated " if field.is_repeated else "") + (named.name if named is not None else names[field.type])


@EACH_MESSAGE
def test_tables_are_the_schema(kind: type[SyncMessage]) -> None:
    """Each field has its number, name and type in both, and stands in the order of the numbers."""
    described = [(field.number, field.name, _kind_of(field)) for field in google(kind.__name__).DESCRIPTOR.fields]
    table = [(field.number, field.name, field.kind.name) for field in kind.SCHEMA]

    assert table + [RESYNC] * (kind in IN_A_SESSION) == described
    (field,) = Resync.SCHEMA
    assert (field.number, field.kind.name) == (RESYNC[0], RESYNC[2])


def test_every_message_of_the_schema_has_a_table() -> None:
    """But for the cursor and what is in a block, which have their own writers."""
    described = set(POOL.FindFileByName("clustercore/v1/sync.proto").message_types_by_name)

    assert described == {kind.__name__ for kind in STRATEGIES} | {"Cursor", "ChangeBlock", "Change"}


@pytest.mark.parametrize(("enum", "prefix"), [(ResyncReason, "RESYNC_REASON_"), (SyncSession, "SYNC_SESSION_")])
def test_enums_are_the_schema(enum: type[IntEnum], prefix: str) -> None:
    """Each value has its name and number in both."""
    described = POOL.FindEnumTypeByName(f"clustercore.v1.{enum.__name__}").values_by_name

    assert {name: value.number for name, value in described.items()} == {f"{prefix}{each.name}": each for each in enum}


async def test_sync_is_the_service_of_the_schema() -> None:
    """It has its methods, and tells its descriptor to whoever asks for it."""
    async with EntityStore(NodeId("a"), [], MemoryRecords()) as store:
        (service,) = SyncService(store).services(NODE)
    described = POOL.FindServiceByName(service.name)

    assert service.descriptor == sync_proto.FILE_DESCRIPTOR
    assert [method.name for method in described.methods] == list(service.unary)
    for method in described.methods:
        assert (method.input_type.name, method.output_type.name) == (f"{method.name}Request", f"{method.name}Response")


def test_conflicts_are_asked_as_the_schema_says() -> None:
    """The service has its methods, and the one field."""

    async def restore(conflict_id: str) -> bool:
        raise AssertionError("nothing is restored here")

    (service,) = ConflictDesk(ConflictLog(), restore).services(NODE)
    described = POOL.FindServiceByName(service.name)

    assert service.descriptor == conflicts_proto.FILE_DESCRIPTOR
    assert [method.name for method in described.methods] == list(service.unary)
    assert {(method.input_type.name, method.output_type.name) for method in described.methods} == {
        ("ConflictsMessage", "ConflictsMessage")
    }
    assert [(field.number, _kind_of(field)) for field in google("ConflictsMessage").DESCRIPTOR.fields] == [(1, "bytes")]


# --- The bytes -------------------------------------------------------------------------------------------------------


def _fill(target: Any, message: SyncMessage) -> Any:
    """Put what a message says into one of Google's, by names alone."""
    for _, name, kind in message.SCHEMA:
        value = getattr(message, name)
        if value is None:
            continue
        if kind.name.startswith("map"):
            getattr(target, name).update(dict(value))
        elif isinstance(value, Cursor):
            _fill_cursor(getattr(target, name), value, is_present=name == "end")
        elif isinstance(value, SyncMessage):
            getattr(target, name).SetInParent()
            _fill(getattr(target, name), value)
        elif isinstance(value, tuple) and value and isinstance(value[0], SyncMessage):
            for each in value:
                _fill(getattr(target, name).add(), each)
        elif kind.name == "bytes" and isinstance(value, tuple):
            is_block = bool(value) and isinstance(value[0], Change)
            setattr(target, name, encode_block(value) if is_block else b"".join(value))
        elif isinstance(value, tuple):
            getattr(target, name).extend(value)
        else:
            setattr(target, name, value)
    return target


def _fill_cursor(target: Any, cursor: Cursor, *, is_present: bool) -> None:
    if is_present:
        target.SetInParent()
    if cursor.seq:
        target.seq = cursor.seq
    if cursor.kept_back:
        target.kept_back.extend(_steps(cursor))


def _steps(cursor: Cursor) -> list[int]:
    return [seq - before for before, seq in zip((0, *cursor.kept_back), cursor.kept_back, strict=False)]


def _in_order(message: SyncMessage) -> dict[str, Any]:
    pairs = [(field, getattr(message, field.name)) for field in message.SCHEMA]
    return {field.name: dict(found) if field.kind.name.startswith("map") else found for field, found in pairs}


@EACH_MESSAGE
@given(data=st.data())
def test_messages_have_the_bytes_of_the_generated_code(kind: type[SyncMessage], data: st.DataObject) -> None:
    """A message has the bytes that protobuf gives it, and each reads what the other wrote."""
    message = data.draw(STRATEGIES[kind])
    built = _fill(google(kind.__name__)(), message)
    written = built.SerializeToString(deterministic=True)

    # The entries of a map have no order.
    assert message.encode() == written or kind in (CompareRequest, CompareResponse)
    assert _in_order(kind.decode(written)) == _in_order(message)
    assert google(kind.__name__).FromString(message.encode()) == built


@given(reason=reasons)
def test_resync_is_read_from_every_answer(reason: ResyncReason) -> None:
    """It is one field of the answer, and alone."""
    for kind in IN_A_SESSION:
        answer = google(kind.__name__)(resync=reason)

        assert Resync.decode(answer.SerializeToString()) == Resync(reason)
        assert google(kind.__name__).FromString(Resync(reason).encode()) == answer


@given(cursor=cursors())
def test_numbers_are_read_packed_and_one_by_one(cursor: Cursor) -> None:
    """Both are protobuf, and a reader takes what it gets."""
    # Each by a message that has it alone: one after another, they are as if they had been written one by one.
    one_by_one = google("Cursor")(seq=cursor.seq).SerializeToString() + b"".join(
        b"\x10" + google("PullResponse")(behind=step).SerializeToString()[1:] for step in _steps(cursor)
    )
    buckets = google("BucketsRequest")(salt=b"s", buckets=[7, 200]).SerializeToString()

    assert google("Cursor").FromString(one_by_one).kept_back == _steps(cursor)
    assert decode_cursor(one_by_one) == cursor
    assert BucketsRequest.decode(buckets + b"\x20\x09\x20\x0a").buckets == (7, 200, 9, 10)


# --- Blocks ----------------------------------------------------------------------------------------------------------


@given(many_changes)
def test_block_is_read_by_what_the_reference_says(told: tuple[Change, ...]) -> None:
    """With a decompressor, the generated classes and the rules for what is left out."""
    block = encode_block(told)
    plain = zlib.decompress(block[1:]) if block[:1] == b"\1" else block[1:]
    read: list[tuple[str, str, str, bytes, int]] = []
    kind = group = ""
    seq = 0
    for each in google("ChangeBlock").FromString(plain).changes:
        kind = each.kind if each.HasField("kind") else kind
        group = each.group if each.HasField("group") else group
        seq += each.seq_step
        read.append((kind, each.entity_id, group, each.state, seq))

    assert read == [(each.kind, each.entity_id, each.group, each.state.encoded, each.seq) for each in told]


@given(told=many_changes, is_compressed=st.booleans())
def test_block_of_generated_code_is_read(told: tuple[Change, ...], is_compressed: bool) -> None:
    """One that leaves nothing out, and is compressed or not as its writer likes."""
    built = google("ChangeBlock")()
    seq = 0
    for each in told:
        state, step = each.state.encoded, each.seq - seq
        built.changes.add(kind=each.kind, entity_id=each.entity_id, group=each.group, state=state, seq_step=step)
        seq = each.seq
    data = built.SerializeToString()

    assert decode_block(b"\1" + zlib.compress(data, 1) if is_compressed else b"\0" + data) == told


# --- Damage ----------------------------------------------------------------------------------------------------------


@EACH_MESSAGE
def test_field_of_another_type_is_malformed(kind: type[SyncMessage]) -> None:
    """Each field of each message, written as what it is not: eight fixed bytes."""
    for field in kind.SCHEMA:
        tag = field.number << 3 | 1
        with pytest.raises(MalformedMessage, match="wire type 1"):
            kind.decode(bytes([tag]) + bytes(8))


BAD: list[tuple[str, Callable[[], bytes]]] = [
    ("salt has 0", lambda: google("CompareRequest")().SerializeToString()),
    ("salt has 65", lambda: google("CompareRequest")(salt=bytes(65)).SerializeToString()),
    ("must have 16", lambda: google("CompareRequest")(salt=b"s", roots={"uav": b"short"}).SerializeToString()),
    ("of 1 buckets", lambda: google("BucketsRequest")(salt=b"s", buckets=[BUCKETS]).SerializeToString()),
    ("of 2 buckets", lambda: google("BucketsRequest")(salt=b"s", buckets=[7, 7]).SerializeToString()),
    ("beyond", lambda: google("FetchRequest")(salt=b"s", leaves=[{"leaf": LEAVES}]).SerializeToString()),
    ("pieces of 6", lambda: google("FetchRequest")(salt=b"s", leaves=[{"stamps": b"12345"}]).SerializeToString()),
    ("cursor at 4", lambda: google("PullRequest")(cursor={"seq": 4, "kept_back": [5]}).SerializeToString()),
    ("keeps back", lambda: google("PullRequest")(cursor={"seq": 9999, "kept_back": [1] * 1025}).SerializeToString()),
]


@pytest.mark.parametrize(("words", "make"), BAD, ids=[words for words, _ in BAD])
def test_value_that_no_message_may_have_is_malformed(words: str, make: Callable[[], bytes]) -> None:
    """What protobuf allows, and the schema's words do not."""
    kinds = {"CompareRequest", "BucketsRequest", "FetchRequest", "PullRequest"}
    encoded = make()
    failures = []
    for kind in STRATEGIES:
        if kind.__name__ in kinds:
            try:
                kind.decode(encoded)
            except MalformedMessage as error:
                failures.append(str(error))

    assert any(words in failure for failure in failures)
    assert MAX_KEPT_BACK == 1024


def test_what_a_newer_version_says_has_its_place() -> None:
    """A reason that is not known is one; a session that is not known is none; a limit of 0 is 1."""
    newer = google("OpenResponse")(session_id=b"1")
    asked = PushRequest.decode(google("PushRequest")(node_id="a").SerializeToString() + b"\x18\x07")

    assert OpenResponse.decode(newer.SerializeToString() + b"\x18\x0c").reason is ResyncReason.OTHER
    assert asked.session is SyncSession.NONE
    assert PullRequest.decode(b"").max_changes == 1

"""The codec by hand and the code generated from kv.proto say the same, byte for byte."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import LogIndex, MalformedMessage, ServiceError
from clustercore_kv import (
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KeyValueMachine,
    KvEvent,
    KvPair,
    Put,
    PutResult,
    Refused,
    Result,
    Scan,
    ScanResult,
    WatchFellBehind,
    decode_result,
    encode_command,
    protocol,
)
from clustercore_kv._proto.clustercore import v1
from clustercore_kv.codec import decode_command, encode_result

texts = st.text(max_size=20)
values = st.binary(max_size=200)
numbers = st.integers(0, 2**64 - 1)
expectations = st.one_of(st.none(), values, numbers)

commands = st.one_of(
    st.builds(Put, texts, values),
    st.builds(Delete, texts),
    st.builds(Cas, texts, values, expectations),
    st.builds(Get, texts),
    st.builds(Scan, texts, st.integers(0, 2**32 - 1), texts),
)
pairs = st.builds(KvPair, texts, values, numbers)
results = st.one_of(
    st.builds(PutResult, numbers),
    st.builds(DeleteResult, st.booleans(), numbers),
    st.builds(CasResult, st.booleans(), numbers, st.none() | values),
    st.builds(GetResult, st.none() | values, numbers, numbers),
    st.builds(ScanResult, st.lists(pairs, max_size=4).map(tuple), st.booleans(), numbers),
    st.builds(Refused, texts),
)
events = st.lists(st.builds(KvEvent, texts, st.none() | values, numbers), max_size=4).map(tuple)


def generated_command(command: Command) -> v1.KvCommand:
    """Build the same command with the generated classes."""
    match command:
        case Put(key, value):
            return v1.KvCommand(put=v1.KvPut(key=key, value=value))
        case Delete(key):
            return v1.KvCommand(delete=v1.KvDelete(key=key))
        case Cas(key, value, expected):
            cas = v1.KvCas(key=key, value=value)
            if expected is None:
                cas.expected_absent = True
            elif isinstance(expected, bytes):
                cas.expected_value = expected
            else:
                cas.expected_revision = expected
            return v1.KvCommand(cas=cas)
        case Get(key):
            return v1.KvCommand(get=v1.KvGet(key=key))
        case Scan(prefix, limit, start_after):
            return v1.KvCommand(scan=v1.KvScan(prefix=prefix, limit=limit, start_after=start_after))


def generated_result(result: Result) -> v1.KvResult:
    """Build the same result with the generated classes."""
    match result:
        case PutResult(revision):
            return v1.KvResult(put=v1.PutResult(revision=revision))
        case DeleteResult(deleted, revision):
            return v1.KvResult(delete=v1.DeleteResult(deleted=deleted, revision=revision))
        case CasResult(swapped, revision, value):
            return v1.KvResult(cas=v1.CasResult(swapped=swapped, revision=revision, value=value))
        case GetResult(value, revision, applied_index):
            return v1.KvResult(get=v1.GetResult(value=value, revision=revision, applied_index=applied_index))
        case ScanResult(found, more, applied_index):
            page = [v1.KvPair(key=pair.key, value=pair.value, revision=pair.revision) for pair in found]
            return v1.KvResult(scan=v1.ScanResult(pairs=page, more=more, applied_index=applied_index))
        case Refused(message):
            return v1.KvResult(refused=message)


@given(commands)
def test_kv_commands_are_those_of_the_generated_code(command: Command) -> None:
    """A command has the bytes that protobuf gives it, and each reads what the other wrote."""
    encoded = encode_command(command)

    assert encoded == bytes(generated_command(command))
    assert decode_command(encoded) == command
    assert v1.KvCommand.parse(encoded) == generated_command(command)


@given(results)
def test_kv_results_are_those_of_the_generated_code(result: Result) -> None:
    """A result has the bytes that protobuf gives it, and each reads what the other wrote."""
    encoded = encode_result(result)

    assert encoded == bytes(generated_result(result))
    assert decode_result(encoded) == result
    assert v1.KvResult.parse(encoded) == generated_result(result)


@given(texts, values, expectations, st.booleans(), st.integers(0, 2**32 - 1), texts, st.none() | numbers)
def test_kv_requests_are_read_as_generated(
    key: str,
    value: bytes,
    expected: bytes | int | None,
    local: bool,
    limit: int,
    start_after: str,
    after_revision: int | None,
) -> None:
    """The node reads from the generated requests what a client put into them."""
    cas = generated_command(Cas(key, value, expected)).cas
    assert cas is not None
    scan = v1.ScanRequest(prefix=key, limit=limit, start_after=start_after, local=local)

    assert protocol.decode_put_request(bytes(v1.PutRequest(key=key, value=value))) == Put(key, value)
    assert protocol.decode_delete_request(bytes(v1.DeleteRequest(key=key))) == Delete(key)
    assert protocol.decode_cas_request(bytes(cas)) == Cas(key, value, expected)
    assert protocol.decode_get_request(bytes(v1.GetRequest(key=key, local=local))) == (Get(key), local)
    assert protocol.decode_scan_request(bytes(scan)) == (Scan(key, limit, start_after), local)
    watch = protocol.decode_watch_request(bytes(v1.WatchRequest(prefix=key, after_revision=after_revision)))
    assert watch == protocol.WatchFrom(key, after_revision)


@given(events, numbers, st.sampled_from(list(v1.KvErrorCode)), texts, st.none() | texts)
def test_kv_responses_are_those_of_the_generated_code(
    told: tuple[KvEvent, ...], revision: int, code: v1.KvErrorCode, message: str, leader_id: str | None
) -> None:
    """What a node answers reads the same for our client and for one with generated code."""
    failure = protocol.Failure(code, message, leader_id)
    behind = protocol.encode_fell_behind_response(WatchFellBehind(revision, 5))
    generated = [
        v1.KvEvent(
            kind=v1.KvEventKind.DELETE if event.value is None else v1.KvEventKind.PUT,
            key=event.key,
            value=event.value or b"",
            revision=event.revision,
        )
        for event in told
    ]

    encoded = protocol.encode_events_response(told, revision)
    assert v1.WatchResponse.parse(encoded) == v1.WatchResponse(events=v1.KvEvents(events=generated, revision=revision))
    assert protocol.decode_watch_response(encoded) == (told, revision)
    for decode in (protocol.decode_unary_response, protocol.decode_watch_response):
        assert decode(protocol.encode_failure_response(failure)) == failure
    decoded = protocol.decode_watch_response(behind)
    assert isinstance(decoded, WatchFellBehind)
    assert (decoded.revision, decoded.oldest_revision) == (revision, 5)


def damaged(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return any bytes, and good ones with one byte replaced and the end cut."""

    def damage(data: bytes, at: int, byte: int, cut: int) -> bytes:
        altered = bytearray(data)
        if altered:
            altered[at % len(altered)] = byte
        return bytes(altered[: max(0, len(altered) - cut)])

    nearly = st.builds(damage, good, st.integers(0, 1000), st.integers(0, 255), st.integers(0, 3))
    return st.binary(max_size=40) | nearly


@given(damaged(commands.map(encode_command)))
def test_kv_machine_bears_any_bytes(data: bytes) -> None:
    """Whatever is in the log, apply answers: it never raises, and refuses exactly what validate finds malformed."""
    machine = KeyValueMachine()

    result = decode_result(machine.apply(LogIndex(1), data))

    try:
        decode_command(data)
    except MalformedMessage:
        assert isinstance(result, Refused)
    else:
        assert not isinstance(result, Refused)


@given(damaged(results.map(encode_result)))
def test_kv_reader_raises_nothing_else(data: bytes) -> None:
    """Whatever a peer sends, a reader returns a value or raises the one error that it says."""
    with suppress(MalformedMessage):
        decode_result(data)
    with suppress(MalformedMessage):
        protocol.decode_unary_response(data)
    with suppress(MalformedMessage):
        protocol.decode_watch_response(data)
    for decode in (
        protocol.decode_put_request,
        protocol.decode_delete_request,
        protocol.decode_cas_request,
        protocol.decode_get_request,
        protocol.decode_scan_request,
        protocol.decode_watch_request,
    ):
        with suppress(ServiceError):
            decode(data)

"""What clients and nodes say to each other: the requests, responses and events of kv.proto.

Every response has an error as field 1 or what was asked for as field 2; that of Watch can have a field 3. Generated
code writes what is small. Everything is read by ``wire``: the generated reader takes a field that is cut short, or of
another type, for a good one, and whatever is on the other side may send those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs

from clustercore.interfaces import MalformedMessage, ServiceError
from clustercore_kv._proto.clustercore.v1 import KvError, KvErrorCode, KvFellBehind, WatchResponse
from clustercore_kv.codec import Fields, get_text, read_only_field, take_cas, take_delete, take_get, take_put, take_scan
from clustercore_kv.errors import WatchFellBehind
from clustercore_kv.values import Cas, Delete, Get, KvEvent, Put, Scan
from clustercore_kv.wire import bytes_field, bytes_tag, read_fields, varint_field, varint_tag

__all__ = [
    "SERVICE",
    "Failure",
    "WatchFrom",
    "decode_cas_request",
    "decode_delete_request",
    "decode_get_request",
    "decode_put_request",
    "decode_scan_request",
    "decode_unary_response",
    "decode_watch_request",
    "decode_watch_response",
    "encode_events_response",
    "encode_failure_response",
    "encode_fell_behind_response",
    "encode_result_response",
]

SERVICE = "clustercore.v1.KeyValue"

_ERROR, _RESULT, _FELL_BEHIND = bytes_tag(1), bytes_tag(2), bytes_tag(3)
_ERROR_CODE, _ERROR_MESSAGE, _ERROR_LEADER = varint_tag(1), bytes_tag(2), bytes_tag(3)
_GET_LOCAL, _SCAN_LOCAL = varint_tag(2), varint_tag(4)
_WATCH_PREFIX, _WATCH_AFTER = bytes_tag(1), varint_tag(2)
_EVENTS, _EVENTS_REVISION = bytes_tag(1), varint_tag(2)
_EVENT_KIND, _EVENT_KEY, _EVENT_VALUE, _EVENT_REVISION = varint_tag(1), bytes_tag(2), bytes_tag(3), varint_tag(4)
_EVENT_IS_PUT, _EVENT_IS_DELETE = 1, 2
_BEHIND_REVISION, _BEHIND_OLDEST = varint_tag(1), varint_tag(2)

_T = TypeVar("_T")


@attrs.frozen
class Failure:
    """Why a request has no result: a KvError."""

    # One that this version does not know, of a newer node, is the plain number.
    code: KvErrorCode | int
    message: str
    leader_id: str | None = None


@attrs.frozen
class WatchFrom:
    """What a client wants to watch."""

    prefix: str
    # None: from now on.
    after_revision: int | None


# --- Requests: how the node reads them ---------------------------------------------------------------------------


def decode_put_request(data: bytes) -> Put:
    """Read a PutRequest. Raises: ServiceError."""
    return _read_request("PutRequest", data, take_put)


def decode_delete_request(data: bytes) -> Delete:
    """Read a DeleteRequest. Raises: ServiceError."""
    return _read_request("DeleteRequest", data, take_delete)


def decode_cas_request(data: bytes) -> Cas:
    """Read a CasRequest. Raises: ServiceError."""
    return _read_request("CasRequest", data, take_cas)


def decode_get_request(data: bytes) -> tuple[Get, bool]:
    """Read a GetRequest: the command, and whether the read is to be local. Raises: ServiceError."""
    return _read_request("GetRequest", data, lambda fields: (take_get(fields), bool(fields.get(_GET_LOCAL, 0))))


def decode_scan_request(data: bytes) -> tuple[Scan, bool]:
    """Read a ScanRequest: the command, and whether the read is to be local. Raises: ServiceError."""
    return _read_request("ScanRequest", data, lambda fields: (take_scan(fields), bool(fields.get(_SCAN_LOCAL, 0))))


def decode_watch_request(data: bytes) -> WatchFrom:
    """Read a WatchRequest. Raises: ServiceError."""
    return _read_request(
        "WatchRequest", data, lambda fields: WatchFrom(get_text(fields, _WATCH_PREFIX), fields.get(_WATCH_AFTER))
    )


def _read_request(name: str, data: bytes, take: Callable[[Fields], _T]) -> _T:
    try:
        return take(dict(read_fields(data)))
    except (MalformedMessage, UnicodeDecodeError) as error:
        raise ServiceError(f"the request is no {SERVICE} {name}: {error}") from error


# --- Responses: how the node writes them -------------------------------------------------------------------------


def encode_result_response(result: bytes) -> bytes:
    """Return the response that has this encoded PutResult, GetResult, ... ."""
    return bytes_field(_RESULT, result)


def encode_failure_response(failure: Failure) -> bytes:
    """Return the response, of any method, that says why there is no result."""
    code = KvErrorCode(failure.code)
    return bytes_field(_ERROR, bytes(KvError(code=code, message=failure.message, leader_id=failure.leader_id)))


def encode_events_response(events: Iterable[KvEvent], revision: int) -> bytes:
    """Return the WatchResponse that tells these events, and that all up to ``revision`` have been told."""
    encoded = [bytes_field(_EVENTS, _encode_event(event)) for event in events]
    return bytes_field(_RESULT, b"".join(encoded) + varint_field(_EVENTS_REVISION, revision))


def encode_fell_behind_response(error: WatchFellBehind) -> bytes:
    """Return the WatchResponse that ends a watch which may have missed changes."""
    fell_behind = KvFellBehind(revision=error.revision, oldest_revision=error.oldest_revision)
    return bytes(WatchResponse(fell_behind=fell_behind))


def _encode_event(event: KvEvent) -> bytes:
    kind = _EVENT_IS_DELETE if event.value is None else _EVENT_IS_PUT
    value = bytes_field(_EVENT_VALUE, event.value) if event.value else b""
    return (
        varint_field(_EVENT_KIND, kind)
        + bytes_field(_EVENT_KEY, event.key.encode())
        + value
        + varint_field(_EVENT_REVISION, event.revision)
    )


# --- Responses: how the client reads them ------------------------------------------------------------------------


def decode_unary_response(data: bytes) -> bytes | Failure:
    """Return the result in a response, still encoded, or why there is none. Raises: MalformedMessage."""
    tag, position = read_only_field(data)
    if tag == _RESULT:
        return data[position:]
    if tag == _ERROR:
        return _decode_failure(data[position:])
    raise MalformedMessage(f"a response has the tag {tag:#x}: neither an error nor a result")


def decode_watch_response(data: bytes) -> tuple[tuple[KvEvent, ...], int] | WatchFellBehind | Failure:
    """Return the events in a WatchResponse and the revision told, or why there are none. Raises: MalformedMessage."""
    tag, position = read_only_field(data)
    if tag == _RESULT:
        return _decode_events(read_fields(data, position))
    if tag == _FELL_BEHIND:
        fields = dict(read_fields(data, position))
        return WatchFellBehind(fields.get(_BEHIND_REVISION, 0), fields.get(_BEHIND_OLDEST, 0))
    if tag == _ERROR:
        return _decode_failure(data[position:])
    raise MalformedMessage(f"a WatchResponse has the tag {tag:#x}, which this version does not know")


def _decode_failure(data: bytes) -> Failure:
    fields = dict(read_fields(data))
    leader_id = get_text(fields, _ERROR_LEADER) if _ERROR_LEADER in fields else None
    return Failure(fields.get(_ERROR_CODE, 0), get_text(fields, _ERROR_MESSAGE), leader_id)


def _decode_events(fields: Iterable[tuple[int, bytes | int]]) -> tuple[tuple[KvEvent, ...], int]:
    events: list[KvEvent] = []
    revision = 0
    for tag, content in fields:
        if isinstance(content, int):
            revision = content if tag == _EVENTS_REVISION else revision
        elif tag == _EVENTS:
            events.append(_decode_event(dict(read_fields(content))))
    return tuple(events), revision


def _decode_event(fields: Fields) -> KvEvent:
    kind = fields.get(_EVENT_KIND, 0)
    if kind not in (_EVENT_IS_PUT, _EVENT_IS_DELETE):
        raise MalformedMessage(f"an event is of kind {kind}, which this version does not know")
    value = fields.get(_EVENT_VALUE, b"") if kind == _EVENT_IS_PUT else None
    return KvEvent(get_text(fields, _EVENT_KEY), value, fields.get(_EVENT_REVISION, 0))

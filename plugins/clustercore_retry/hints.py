"""When a server says to come back: Retry-After, gRPC's pushback and RetryInfo, ``retry_after_s`` of any error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from clustercore_retry.reading import read

__all__ = ["hint_of", "parse_pushback", "parse_retry_after"]

_RETRY_INFO = b"google.rpc.RetryInfo"


def hint_of(error: BaseException, response: object) -> float | None:
    """Return how long to wait by the server's word, in seconds; infinite: never again; None: it does not say."""
    own = read(error, "retry_after_s")
    if isinstance(own, int | float) and not isinstance(own, bool) and own >= 0:
        return float(own)
    for name, value in _trailers(error):
        if name == "grpc-retry-pushback-ms":
            return parse_pushback(value)
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            found = _retry_info(value)
            if found is not None:
                return found
    if (from_details := _detailed(read(error, "details"))) is not None:
        return from_details
    headers = read(response, "headers")
    return _header_hint(headers if headers is not None else read(error, "headers"))


def parse_pushback(value: object) -> float:
    """Return ``grpc-retry-pushback-ms`` in seconds. Negative or unreadable: not to retry (gRFC A6)."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    digits = text.strip()
    return int(digits) / 1000 if digits.isascii() and digits.isdigit() and len(digits) <= 10 else math.inf


def parse_retry_after(value: str, date: str | None = None) -> float | None:
    """Return an HTTP ``Retry-After`` in seconds from now, at least 0: a number of seconds or a date (RFC 9110 §10.2.3).

    Args:
        value: The header's.
        date: That of the ``Date`` header, which spares a date from the difference of two clocks.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 10 else math.inf
    until = _parse_date(text)
    if until is None:
        return None
    since = _parse_date(date) if date is not None else None
    start = since.timestamp() if since is not None else time.time()
    return max(0.0, until.timestamp() - start)


def _parse_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # "-0000" and no zone at all leave it without one; HTTP's dates are in GMT.
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _header_hint(headers: object) -> float | None:
    if not isinstance(headers, Mapping):
        # email.message.Message, as urllib has it, is none by type but has the method.
        items = read(headers, "items", call=True)
        if not isinstance(items, Iterable):
            return None
        headers = dict(_pairs(items))
    fields = {str(name).lower(): str(value) for name, value in headers.items()}
    value = fields.get("retry-after")
    return None if value is None else parse_retry_after(value, fields.get("date"))


def _trailers(error: BaseException) -> Iterator[tuple[str, object]]:
    metadata = read(error, "trailing_metadata", call=True)
    if isinstance(metadata, Mapping):
        metadata = metadata.items()
    if isinstance(metadata, Iterable):
        yield from _pairs(metadata)


def _pairs(items: Iterable[object]) -> Iterator[tuple[str, object]]:
    for item in items:
        if isinstance(item, tuple) and len(item) == 2:
            yield str(item[0]).lower(), item[1]


# --- google.rpc.RetryInfo --------------------------------------------------------------------------------------------


def _detailed(details: object) -> float | None:
    """Find a RetryInfo among decoded details, as grpclib gives them: whatever class has its field."""
    if not isinstance(details, list | tuple):
        return None
    for detail in details:
        delay = read(detail, "retry_delay")
        if isinstance(delay, timedelta):
            return max(0.0, delay.total_seconds())
        seconds, nanos = read(delay, "seconds"), read(delay, "nanos")
        if isinstance(seconds, int) and isinstance(nanos, int):
            return max(0.0, seconds + nanos / 1e9)
    return None


def _retry_info(data: bytes) -> float | None:
    """Find a RetryInfo in an encoded google.rpc.Status: details = 3, each an Any of type_url = 1 and value = 2."""
    for number, detail in _fields(data):
        if number != 3 or not isinstance(detail, bytes):
            continue
        packed = dict(_fields(detail))
        kind, value = packed.get(1), packed.get(2, b"")
        if isinstance(kind, bytes) and kind.endswith(_RETRY_INFO) and isinstance(value, bytes):
            # retry_delay = 1 is a Duration: seconds = 1, nanos = 2.
            delay = dict(_fields(value)).get(1, b"")
            parts = dict(_fields(delay)) if isinstance(delay, bytes) else {}
            seconds, nanos = parts.get(1, 0), parts.get(2, 0)
            if isinstance(seconds, int) and isinstance(nanos, int) and seconds < 1 << 63:
                return seconds + nanos / 1e9
    return None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a protobuf message's fields, numbers and what has a length; ends at the first thing that is neither."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value, position = _varint(data, position)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2 and position + value <= len(data):
            yield key >> 3, data[position : position + value]
            position += value
        else:
            return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, position

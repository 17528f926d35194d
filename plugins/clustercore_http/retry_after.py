"""When to come back (RFC 9110 §10.2.3), said by a server and read by a client."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

__all__ = ["read_retry_after", "show_retry_after"]

# More seconds than any program runs: as good as never, and a number that every client reads.
_NEVER_S = 10**9


def show_retry_after(retry_after_s: float | None) -> list[tuple[str, str]]:
    """Return the header that says so; none if there is nothing to say."""
    if retry_after_s is None:
        return []
    return [("Retry-After", str(min(math.ceil(retry_after_s) if math.isfinite(retry_after_s) else _NEVER_S, _NEVER_S)))]


def read_retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return how long to wait by the headers of a response, in seconds; None if they do not say."""
    fields = {name.lower(): value.decode("latin-1").strip() for name, value in headers}
    text = fields.get(b"retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < len(str(_NEVER_S)) else math.inf
    until = _timestamp(text)
    if until is None:
        return None
    now = _timestamp(fields.get(b"date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

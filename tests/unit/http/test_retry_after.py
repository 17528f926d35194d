"""Retry-After, said and read (RFC 9110 §10.2.3)."""

from __future__ import annotations

import math
import time
from email.utils import formatdate

import pytest

pytest.importorskip("h11", reason="needs the extra clustercore[http]")

from clustercore_http.retry_after import read_retry_after, show_retry_after


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0.0),
        (b" 120 ", 120.0),
        (b"1000000000", math.inf),
        (b"9" * 400, math.inf),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"soon", None),
        (b"Fri, 99 Foo 2026", None),
    ],
)
def test_seconds_are_read_and_nonsense_says_nothing(value: bytes, expected: float | None) -> None:
    """A number too large for any program to wait is for ever."""
    assert read_retry_after([(b"Retry-After", value)]) == expected


def test_missing_header_says_nothing() -> None:
    """None, not 0."""
    assert read_retry_after([(b"server", b"x")]) is None


def test_date_counts_from_the_servers_own_clock_if_it_tells_it() -> None:
    """Two clocks may differ by more than the wait."""
    base = 1_700_000_000
    headers = [
        (b"date", formatdate(base, usegmt=True).encode()),
        (b"retry-after", formatdate(base + 30, usegmt=True).encode()),
    ]

    assert read_retry_after(headers) == 30.0
    assert read_retry_after([headers[0], (b"retry-after", formatdate(base - 30, usegmt=True).encode())]) == 0.0
    from_now = read_retry_after([(b"retry-after", formatdate(time.time() + 100, usegmt=True).encode())])
    assert from_now is not None
    assert 90 < from_now <= 100


@pytest.mark.parametrize(
    ("retry_after_s", "expected"), [(0.0, "0"), (0.2, "1"), (2.0, "2"), (1e30, "1000000000"), (math.inf, "1000000000")]
)
def test_wait_is_said_in_whole_seconds_rounded_up(retry_after_s: float, expected: str) -> None:
    """To come back too early would be for nothing."""
    assert show_retry_after(retry_after_s) == [("Retry-After", expected)]


def test_nothing_to_say_is_no_header() -> None:
    """An empty list."""
    assert show_retry_after(None) == []

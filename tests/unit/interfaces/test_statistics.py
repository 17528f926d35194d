"""What is counted of each target."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import Counters, Ledger, LinkClosed, PeerTimeout


async def test_request_is_counted_by_how_it_ends(autojump_clock: MockClock) -> None:
    """Well, by an error of its own name, or given up by its caller; and how long it took if it was answered."""
    counters = Counters()
    with counters.counted():
        await trio.sleep(2)
    for error in (PeerTimeout("late"), LinkClosed("gone"), PeerTimeout("late")):
        with pytest.raises(type(error)), counters.counted():
            raise error
    with trio.move_on_after(1), counters.counted():
        await trio.sleep(9)

    told = counters.snapshot()

    assert (told.requests, told.ok, told.failed, told.cancelled) == (5, 1, {"PeerTimeout": 2, "LinkClosed": 1}, 1)
    assert told.in_flight == 0
    assert told.latency_p50_s == told.latency_p99_s == 2
    assert told.success_rate == 1 / 4
    assert told.timeout_rate == 2 / 4
    assert json.loads(json.dumps(told.as_json()))["success_rate"] == 1 / 4


async def test_stream_is_a_request_without_a_latency(autojump_clock: MockClock) -> None:
    """How long one lasts says nothing of how fast a peer answers."""
    counters = Counters()
    with counters.counted(is_stream=True):
        assert counters.snapshot().in_flight == 1
        await trio.sleep(1000)

    told = counters.snapshot()

    assert (told.requests, told.streams, told.ok, told.latency_p50_s) == (1, 1, 1, None)


def test_percentiles_are_of_the_recent_past() -> None:
    """Of the last thousand."""
    counters = Counters()
    counters.latencies_s.extend([100.0] * 1000)
    counters.latencies_s.extend(number / 1000 for number in range(1000))

    told = counters.snapshot()

    assert (told.latency_p50_s, told.latency_p95_s, told.latency_p99_s) == (0.499, 0.949, 0.989)


def test_nothing_counted_has_no_rates() -> None:
    """No rate is told of nothing."""
    told = Counters().snapshot()

    assert told.success_rate is told.timeout_rate is told.latency_p50_s is None


def test_ledger_forgets_the_target_not_asked_for_longest() -> None:
    """However many targets there are."""
    ledger = Ledger()
    for number in range(256):
        ledger.of(f"n{number}").requests = number
    ledger.of("n0")
    ledger.of("another")

    told = ledger.snapshot()

    assert len(told) == 256
    assert "n1" not in told
    assert told["n255"].requests == 255

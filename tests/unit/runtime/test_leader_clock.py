"""How long a node has led, as it stamps it."""

from __future__ import annotations

from clustercore.runtime.leader_clock import LeaderClock


def test_clock_counts_from_the_beginning_of_a_leadership() -> None:
    """In milliseconds, and from 0 again with the next one."""
    clock = LeaderClock(max_tick_s=1.0)
    clock.start(100.0)
    assert clock.led_ms(100.0) == 0
    clock.tick(100.25)
    assert clock.led_ms(100.5) == 500

    clock.start(107.0)

    assert clock.led_ms(107.125) == 125


def test_pause_of_the_leader_does_not_count() -> None:
    """Of an hour in which the process was stopped one tick counts, and then the clock goes on."""
    clock = LeaderClock(max_tick_s=1.0)
    clock.start(0.0)
    clock.tick(0.5)
    clock.tick(3600.0)

    assert clock.led_ms(3600.25) == 1750

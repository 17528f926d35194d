"""When sessions are due, by the monotonic clock."""

from __future__ import annotations

import math
from random import Random

import pytest

from clustercore.interfaces import ConfigError
from clustercore.sync.schedule import PeerSchedule, SyncConfig, SyncKind


def run(schedule: PeerSchedule, until: float, lasts_s: float = 0.0) -> list[tuple[float, SyncKind]]:
    """Take every session that is due; each takes so long."""
    found: list[tuple[float, SyncKind]] = []
    now = 0.0
    while (now := max(now, schedule.due_at)) < until:
        found.append((now, schedule.take(now)))
        now += lasts_s
    return found


@pytest.mark.parametrize("seed", range(20))
def test_incremental_each_half_minute_and_full_each_five(seed: int) -> None:
    """The first is full and at once; of an hour's sessions every tenth is; none drifts away from its slot."""
    found = run(PeerSchedule(SyncConfig(), Random(seed), 0.0, is_first=True), 3600)

    assert found[0] == (0.0, SyncKind.FULL)
    assert len(found) in (120, 121)
    assert all(abs(at - 30 * slot) <= 3.0 for slot, (at, _) in enumerate(found))
    assert [slot for slot, (_, kind) in enumerate(found) if kind is SyncKind.FULL] == list(range(0, len(found), 10))


def test_peers_that_were_synced_before_are_staggered() -> None:
    """After a restart each has its own time within the first interval, and begins with an increment."""
    starts = [PeerSchedule(SyncConfig(), Random(seed), 100.0, is_first=False) for seed in range(50)]

    assert all(100.0 <= schedule.due_at < 130.0 for schedule in starts)
    assert len({round(schedule.due_at) for schedule in starts}) > 15
    assert starts[0].take(starts[0].due_at) is SyncKind.INCREMENTAL


def test_slots_that_a_long_session_passes_are_not_made_up_for() -> None:
    """After a session of seventy seconds the next is at the next slot, and there is one of it."""
    found = run(PeerSchedule(SyncConfig(jitter=0), Random(1), 0.0, is_first=True), 300, lasts_s=70)

    assert [at for at, _ in found] == [0.0, 70.0, 140.0, 210.0, 280.0]


def test_full_sync_that_failed_is_due_again_with_the_next_slot() -> None:
    """It takes the place of the increment."""
    schedule = PeerSchedule(SyncConfig(jitter=0), Random(1), 0.0, is_first=True)
    schedule.take(0.0)

    schedule.full_failed()

    assert schedule.take(schedule.due_at) is SyncKind.FULL
    assert schedule.take(schedule.due_at) is SyncKind.INCREMENTAL


def test_full_sync_can_be_turned_off() -> None:
    """Only the first is full."""
    found = run(PeerSchedule(SyncConfig(full_interval_s=math.inf), Random(1), 0.0, is_first=True), 3600)

    assert [kind for _, kind in found].count(SyncKind.FULL) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"incremental_interval_s": 0},
        {"full_interval_s": -1},
        {"jitter": 0.5},
        {"window_s": 61},
        {"max_batch_changes": 501},
        {"max_batch_changes": 0},
        {"max_batch_bytes": 2**20 + 1},
        {"call_timeout_s": 0},
        {"max_bytes_per_s": 0},
    ],
)
def test_value_out_of_range_is_named(options: dict[str, float]) -> None:
    """The error names the option and what it is."""
    (name,) = options

    with pytest.raises(ConfigError, match=name):
        SyncConfig(**options)  # type: ignore[arg-type]  # one option, of its own type

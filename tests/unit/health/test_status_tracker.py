"""What checks make of a node's status, and the damping of nodes that flap. No clock: the test says the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore import HealthConfig
from clustercore.health.history import History
from clustercore.health.own_score import FREEZES_AT, MAX_SCORE, OwnScore, Sign
from clustercore.health.tracker import StatusTracker
from clustercore.interfaces import CheckOutcome, CheckRecord, CheckResult
from tests.unit.health.fakes import DRAIN, FAIL, OK, UNKNOWN, WARN

BY_LETTER = {"o": OK, "w": WARN, "f": FAIL, "?": UNKNOWN, "d": DRAIN}


def statuses(letters: str, config: HealthConfig | None = None) -> str:
    """Return the first letter of the status after each check; "N" is unhealthy, "?" unknown."""
    tracker = StatusTracker(config or HealthConfig())
    shown = {"unknown": "?", "healthy": "H", "degraded": "D", "unhealthy": "N"}
    told = ""
    for letter in letters:
        tracker.take(BY_LETTER[letter])
        told += shown[tracker.status]
    return told


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        # The first good one is enough, failures need the threshold: a start takes nobody out.
        ("o", "H"),
        ("w", "D"),
        ("ff", "??"),
        ("fff", "??N"),
        # Exactly the N-th failure in a row, and any good one begins anew.
        ("offf", "HHHN"),
        ("offoffofff", "HHHHHHHHHN"),
        ("offwfff", "HHHDDDN"),
        # Two good ones in a row, and any failure begins anew.
        ("offfoo", "HHHNNH"),
        ("offfofoo", "HHHNNNNH"),
        ("offfow", "HHHNND"),
        # Warnings degrade by the threshold of failures; a mixture of both does, too.
        ("owww", "HHHD"),
        ("owwoww", "HHHHHH"),
        ("owwwoo", "HHHDDH"),
        ("owfw", "HHHD"),
        # The node's own word counts at once, and is taken back by the usual number of good ones.
        ("od", "HN"),
        ("odoo", "HNNH"),
        ("d", "N"),
        # Nobody knows it: that is not ill, and what was counted is void.
        ("o?", "H?"),
        ("off?ff", "HHH???"),
        ("fff?o", "??N?H"),
    ],
)
def test_checks_lead_to_a_status(checks: str, expected: str) -> None:
    """Each row: the checks, and the status after each."""
    assert statuses(checks) == expected


@given(st.text(alphabet="owf", max_size=60))
def test_unhealthy_is_exactly_a_run_of_failures_not_made_good(letters: str) -> None:
    """A node is unhealthy if and only if a run of failures of the threshold has no run of good ones after it."""
    config = HealthConfig()
    shown = statuses(letters, config)
    unhealthy = failures = successes = 0
    for letter, status in zip(letters, shown, strict=True):
        failures, successes = (failures + 1, 0) if letter == "f" else (0, successes + 1)
        if failures >= config.failure_threshold:
            unhealthy = 1
        elif successes >= config.success_threshold:
            unhealthy = 0
        assert (status == "N") == bool(unhealthy)


def turn(tracker: StatusTracker, results: Sequence[CheckResult], now: float) -> bool:
    """Take checks at one time; return whether the node has become a flapping one."""
    became = False
    for result in results:
        if tracker.take(result) is not None and tracker.note_change(now):
            became = True
    return became


def test_flapping_node_is_held_longer_each_time_and_forgiven() -> None:
    """Five turns within ten intervals are flapping: the hold grows with each turn to bad, is capped, and decays."""
    config = HealthConfig(jitter=0.0)
    tracker = StatusTracker(config)
    now = 0.0
    turn(tracker, [OK], now)
    became: list[float] = []
    holds: list[float] = []
    for number in range(40):
        now += 10
        if turn(tracker, [DRAIN] if number % 2 == 0 else [OK, OK], now):
            became.append(now)
        if tracker.is_held(now):
            holds.append(tracker.held_until - now)

    assert became == [50.0]
    assert holds[0] == config.flap_hold_s
    assert holds == sorted(holds)
    assert holds[-1] == config.max_flap_hold_s
    assert tracker.is_held(now + config.max_flap_hold_s - 1)
    assert not tracker.is_held(now + config.max_flap_hold_s)

    count = tracker.flap_count
    later = now + config.flap_window_s * (count + 1)
    assert not tracker.is_flapping(later)
    turn(tracker, [DRAIN], later)
    assert tracker.flap_count == 0


def test_slow_turns_are_no_flapping() -> None:
    """A node that turns four times in ten intervals gets its work back each time."""
    tracker = StatusTracker(HealthConfig(jitter=0.0))
    turn(tracker, [OK], 0.0)
    for number in range(20):
        now = 26.0 * (number + 1)
        assert not turn(tracker, [DRAIN] if number % 2 == 0 else [OK, OK], now)
        assert not tracker.is_held(now)


def test_own_score_rises_with_signs_and_falls_without() -> None:
    """Each sign of a round is one more, each round without is one less; it stays within its bounds."""
    own = OwnScore()
    own.end_round()
    assert own.score == 0
    own.note(Sign.ALL_FAIL)
    own.note(Sign.ALL_FAIL)
    own.note(Sign.DISCOVERY)
    own.end_round()
    assert (own.score, own.timeout_factor, own.is_frozen) == (2, 3, False)
    own.note(Sign.LOOP_LAG)
    own.end_round()
    assert own.score == FREEZES_AT
    assert own.is_frozen
    own.end_round()
    assert own.score == 2
    assert own.signs == frozenset()
    for _ in range(10):
        own.note(Sign.LOOP_LAG)
        own.end_round()
    assert own.score == MAX_SCORE


def test_percentiles_are_exact() -> None:
    """Percentiles are values that were measured, the smallest that so many do not exceed; failures are kept apart."""
    history = History()
    assert history.statistics().success_rate == 1.0
    for number in range(1, 101):
        failed = number % 10 == 0
        result = CheckResult(CheckOutcome.FAIL if failed else CheckOutcome.OK)
        history.add_check(CheckRecord(result, at=float(number), latency_s=2.0 if failed else number / 1000))

    told = history.statistics()
    assert (told.count, told.success_rate) == (100, 0.9)
    assert (told.failed.count, told.failed.min_s, told.failed.p50_s) == (10, 2.0, 2.0)
    good = sorted(number / 1000 for number in range(1, 101) if number % 10)
    assert (told.good.p50_s, told.good.p95_s, told.good.p99_s) == (good[44], good[85], good[89])
    assert (told.good.min_s, told.good.max_s) == (0.001, 0.099)
    assert told.good.mean_s == pytest.approx(sum(good) / 90)


def test_detail_is_cut() -> None:
    """What a check says takes no more than 4096 characters."""
    assert len(CheckResult(CheckOutcome.OK, "x" * 10_000).detail) == 4096

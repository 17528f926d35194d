"""The phi-accrual detector."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest
import trio
from trio.testing import MockClock

from clustercore import HealthChecker, HealthConfig, PhiAccrualProbe
from clustercore.interfaces import CheckOutcome, ConfigError, HealthStatus
from tests.unit.health.fakes import FakeProbe


async def beat_regularly(
    probe: PhiAccrualProbe, rng: Random, *, count: int, mean_s: float, spread_s: float
) -> list[float]:
    """Beat so often; return the intervals."""
    probe.beat()
    intervals = []
    for _ in range(count):
        interval = rng.gauss(mean_s, spread_s)
        await trio.sleep(interval)
        probe.beat()
        intervals.append(interval)
    return intervals


async def test_phi_is_what_the_normal_distribution_says(autojump_clock: MockClock) -> None:
    """Without a pause that is allowed, phi is -log10 of the probability of a later heartbeat."""
    probe = PhiAccrualProbe(acceptable_pause_s=0.0, min_deviation_s=0.001)
    intervals = await beat_regularly(probe, Random(1), count=1000, mean_s=1.0, spread_s=0.1)
    normal = statistics.NormalDist(statistics.fmean(intervals), statistics.pstdev(intervals))
    last = trio.current_time()

    for late_s in (0.9, 1.0, 1.1, 1.2, 1.3, 1.4):
        expected = -math.log10(1 - normal.cdf(late_s))
        assert probe.phi(last + late_s) == pytest.approx(expected, rel=1e-3)
    ahead = [probe.phi(last + tenth / 10) for tenth in range(100)]
    assert ahead == sorted(ahead)
    assert 0 <= ahead[0] < 1e-6
    assert ahead[-1] == 300.0


async def test_only_the_last_intervals_count(autojump_clock: MockClock) -> None:
    """Heartbeats that became rarer are what is expected, once as many as are kept came that way."""
    probe = PhiAccrualProbe(samples=50)
    await beat_regularly(probe, Random(2), count=50, mean_s=1.0, spread_s=0.05)
    assert probe.phi(trio.current_time() + 5.0) > 8
    await beat_regularly(probe, Random(3), count=60, mean_s=3.0, spread_s=0.05)

    assert probe.phi(trio.current_time() + 5.0) < 1


async def test_probe_turns_a_node_unhealthy_and_back(autojump_clock: MockClock) -> None:
    """Silence is found at the next check after phi reaches the threshold; heartbeats again, and it is well."""
    config = HealthConfig(check_interval=1.0, timeout=0.5, jitter=0.0)
    probe = PhiAccrualProbe()
    async with HealthChecker(config, rng=Random(4)) as checker:
        checker.start_monitoring("n", probe)
        checker.start_monitoring("other", FakeProbe())
        assert (await probe.check()).outcome is CheckOutcome.UNKNOWN
        await beat_regularly(probe, Random(5), count=100, mean_s=0.5, spread_s=0.02)
        assert checker.status("n") is HealthStatus.HEALTHY

        await trio.sleep(3)
        assert checker.status("n") is HealthStatus.HEALTHY
        await trio.sleep(3)
        assert checker.status("n") is HealthStatus.UNHEALTHY
        assert "8 is a failure" in checker.history("n").checks[-1].result.detail

        # The silence is no interval that would make it patient.
        await beat_regularly(probe, Random(6), count=10, mean_s=0.5, spread_s=0.02)
        assert checker.status("n") is HealthStatus.HEALTHY
        assert probe.phi(trio.current_time() + 6.0) > 8


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"min_deviation_s": 0}, {"acceptable_pause_s": -1}, {"samples": 0}]
)
def test_probe_refuses_what_makes_no_sense(wrong: dict[str, int]) -> None:
    """A number out of range is refused by name."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PhiAccrualProbe(**wrong)

"""The waits between attempts to connect."""

from __future__ import annotations

from random import Random

import pytest

from clustercore.interfaces import Backoff, ConfigError


def test_waits_grow_by_the_factor_to_the_longest_and_are_spread_by_a_fifth() -> None:
    """100 ms, times 1.6, at most 3 s, each from four to six fifths of that."""
    backoff = Backoff(0.1, 1.6, 3.0, Random(1))

    waits = [backoff.draw() for _ in range(10)]

    for wait, middle in zip(
        waits, [0.1, 0.16, 0.256, 0.4096, 0.65536, 1.048576, 1.6777216, 2.68435456, 3, 3], strict=True
    ):
        assert 0.8 * middle <= wait <= 1.2 * middle
    assert len({wait / middle for wait, middle in zip(waits[-2:], (3, 3), strict=True)}) == 2


def test_wait_that_was_asked_for_is_kept() -> None:
    """It is waited at least as long, and the waits grow on as they would have."""
    backoff = Backoff(1.0, 2.0, 100.0, Random(1))

    assert backoff.draw(30.0) == 30.0
    assert 1.6 <= backoff.draw(0.1) <= 2.4
    assert 3.2 <= backoff.draw() <= 4.8


def test_reset_begins_with_the_first_wait() -> None:
    """However long it was backed off."""
    backoff = Backoff(0.1, 1.6, 3.0, Random(1))
    for _ in range(1000):
        backoff.draw()

    backoff.reset()

    assert 0.08 <= backoff.draw() <= 0.12


@pytest.mark.parametrize(
    ("first_s", "factor", "max_s"), [(0, 1.6, 3), (0.1, 0.9, 3), (3, 1.6, 0.1), (0.1, 1.6, float("inf"))]
)
def test_waits_that_make_no_sense_are_refused(first_s: float, factor: float, max_s: float) -> None:
    """The error names all three."""
    with pytest.raises(ConfigError, match=f"from {first_s} s by {factor} to {max_s} s"):
        Backoff(first_s, factor, max_s)

"""Whole clusters under random faults, each run decided by its seed.

To repeat a failure: ``pytest "tests/simulation/test_node_chaos.py::test_chaos_loses_nothing[seed]"``. To look for new
ones: set ``CHAOS_SEEDS`` to a range, as in ``CHAOS_SEEDS=1000-2000``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.chaos import run_chaos


def seeds() -> range:
    """The seeds to run."""
    first, _, last = os.environ.get("CHAOS_SEEDS", "0-19").partition("-")
    return range(int(first), int(last) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds())
def test_chaos_loses_nothing(seed: int) -> None:
    """Under cuts, crashes, stops and stuck disks: one leader a term, one vote a term, nothing lost or done twice."""
    _, ledger = run_chaos(seed)

    # What was proposed after everything was mended, at least.
    assert len(ledger.acknowledged) >= 3


@pytest.mark.slow
def test_chaos_repeats_with_its_seed() -> None:
    """The same seed takes the same steps at the same times, in this process and in another with other hashes."""
    trace, _ = run_chaos(7, with_hash=True)
    assert run_chaos(7, with_hash=True)[0] == trace

    program = (
        "import sys; from tests.simulation.chaos import run_chaos; "
        "sys.stdout.write(repr(run_chaos(7, with_hash=True)[0]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output == repr(trace)

"""Clusters whose members change at random under random faults, each run decided by its seed.

To look for new failures: set ``MEMBER_CHAOS_SEEDS`` to a range, as in ``MEMBER_CHAOS_SEEDS=1000-2000``.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.member_chaos import run_member_chaos


def seeds() -> range:
    """The seeds to run."""
    first, _, last = os.environ.get("MEMBER_CHAOS_SEEDS", "0-9").partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds())
def test_members_change_under_faults_and_nothing_is_lost(seed: int) -> None:
    """What was acknowledged is there, once, on all who belong to the cluster; operators were told the truth."""
    ledger, operators = run_member_chaos(seed)

    assert len(ledger.acknowledged) >= 1
    assert sum(operators.ends.values()) >= 5


@pytest.mark.slow
def test_changes_succeed_and_fail_in_these_runs() -> None:
    """Runs in which nothing ever changed, or nothing was ever unknown, would find nothing."""
    ends: dict[str, int] = {}
    for seed in range(7):
        for end, count in run_member_chaos(seed)[1].ends.items():
            ends[end] = ends.get(end, 0) + count

    assert ends["done"] >= 20, ends
    assert ends["OutcomeUnknown"] >= 1, ends
    assert ends["ChangeRefused"] >= 5, ends

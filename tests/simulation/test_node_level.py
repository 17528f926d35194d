"""The node level of campaigns: seeds run clean, a broken node does not, and what is left of it can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustercore.testing.campaign import level_of, run_campaign
from clustercore.testing.simulation import draw_world
from clustercore.testing.simulation.level import NodeLevel
from clustercore.testing.trace import read_trace

pytestmark = pytest.mark.slow


def test_seeds_run_clean_and_repeat() -> None:
    """Each time with the same events and the same coverage."""
    level = level_of("node")
    assert isinstance(level, NodeLevel)

    found = run_campaign(level, range(6))
    first, again = run_campaign(level, [7]), run_campaign(level, [7])

    assert found.violated is None, found.failures
    assert found.coverage["operations"] > 100
    assert (first.events, first.coverage) == (again.events, again.coverage)


def test_trace_of_a_seed_can_be_read(tmp_path: Path) -> None:
    """It is of the same run."""
    level = NodeLevel()
    path = tmp_path / "seed.jsonl"

    result = level.trace(9, path)
    again = level.run(9)

    assert result.violated is None, result.text
    assert (result.events, result.coverage) == (again.events, again.coverage)
    trace = read_trace(path)
    assert trace.header.seed == 9
    assert {"sent", "delivered", "committed", "noted"} <= {event.kind for event in trace.events}


def test_members_change_under_faults_and_nothing_is_lost() -> None:
    """Of every kind some succeed, and are refused, and nobody knows of some; machines come back, either way."""
    seeds = [seed for seed in range(60) if draw_world(seed).changes]

    found = run_campaign(NodeLevel(), seeds[:12])

    assert found.violated is None, found.failures
    assert found.coverage["member changes done"] >= 30
    assert found.coverage["member changes refused"] >= 10
    assert found.coverage["member changes unknown"] >= 1
    assert found.coverage["members back with their disks"] >= 3
    assert found.coverage["come_back"] >= 1

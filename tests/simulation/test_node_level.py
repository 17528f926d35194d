"""The node level of campaigns: seeds run clean, a broken node does not, and what is left of it can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustercore.interfaces import LogIndex
from clustercore.runtime import applier, engine
from clustercore.testing.campaign import level_of, run_campaign
from clustercore.testing.simulation.level import NodeLevel
from clustercore.testing.trace import read_trace
from clustercore.testing.trace.events import Violated

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


def answers_before_it_is_durable(patch: pytest.MonkeyPatch) -> str:
    """Votes and acknowledgements leave at once."""
    patch.setattr(engine.Engine, "_leave", lambda self, after, leave: leave())
    return "durable before visible"


def reads_before_it_has_applied(patch: pytest.MonkeyPatch) -> str:
    """A node knows up to where it must have applied, and does not wait for it."""

    async def wait_for_nothing(self: applier.Applier, index: LogIndex) -> None:
        return None

    patch.setattr(applier.Applier, "wait_applied", wait_for_nothing)
    return "linearizability"


@pytest.mark.parametrize("break_it", [answers_before_it_is_durable, reads_before_it_has_applied])
def test_broken_node_is_found_by_the_property_it_breaks(
    break_it: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within a few seeds; made short, it breaks the same, and the trace ends there."""
    assert callable(break_it)
    expected = break_it(monkeypatch)
    monkeypatch.setattr("clustercore.testing.simulation.level.MAX_SHRINK_RUNS", 4)
    level = NodeLevel()

    found = run_campaign(level, range(40))

    assert found.violated == expected
    path = tmp_path / "short.jsonl"
    lines = level.shrink(found.failures[0].seed, path, lambda text: None)
    assert f"broken: {expected}" in lines
    assert isinstance(read_trace(path).events[-1], Violated)

"""Campaigns at the protocol level: clean on the core as it is, and not blind."""

from __future__ import annotations

import pytest
from hypothesis import settings

from clustercore.raft import commit, core, membership, replication, snapshots
from clustercore.raft.quorum import quorum_value
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex
from clustercore.testing.campaign import SeedResult, run_protocol_campaign
from clustercore.testing.protocol.coverage import EXPECTED
from clustercore.testing.protocol.runs import run_seed

# A thousand under the ``ci`` profile.
SEEDS = 1000 if settings.default is not None and settings.default.max_examples > 100 else 250


def told(failures: tuple[SeedResult, ...]) -> str:
    """Say which seeds failed, and how."""
    return "\n".join(f"seed {failed.seed}: {failed.violated}: {failed.text}" for failed in failures)


@pytest.mark.slow
def test_campaign_is_clean_and_reaches_what_it_is_to_test() -> None:
    """No seed breaks a property or exercises nothing; together they reach all that is expected of a campaign."""
    result = run_protocol_campaign(range(SEEDS), stops_at_failure=False)

    assert not result.failures, told(tuple(result.failures))
    assert [name for name in EXPECTED if not result.coverage.get(name)] == []
    assert result.events > 300 * SEEDS


@pytest.mark.parametrize(
    "seed",
    [
        # A learner was made the only voter before it knew that it was counted with the disk that it has.
        301901,
        # The quorum that was healed had a log in it which kept everybody from being elected: no fault of the core.
        303679,
        # The leader was deposed by a vote that was on its way when faults ended, and refused a read: no fault either.
        306522,
    ],
)
def test_seed_that_found_something_is_clean(seed: int) -> None:
    """Found by campaigns of a few thousand seeds."""
    run = run_seed(seed)

    assert run.error is None, run.error


@pytest.mark.slow
def test_seed_gives_the_same_run_each_time() -> None:
    """Nothing but the seed decides a run."""
    for seed in range(20):
        first, again = run_seed(seed), run_seed(seed)

        assert (first.plan, first.choices) == (again.plan, again.choices)
        assert (first.events, first.coverage) == (again.events, again.coverage)


def maybe_commit_anything(state: RaftState) -> bool:
    """Commit what a majority holds, of whichever term."""
    match_indexes = {peer: progress.match_index for peer, progress in state.progress.items()}
    match_indexes[state.node_id] = state.durable_index
    index = LogIndex(quorum_value(state.configuration, match_indexes))
    if index <= state.commit_index:
        return False
    commit.commit_up_to(state, index)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_campaign_finds_the_commit_rule_missing(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule of Raft §5.4.2 some seed breaks a property; where several work, it is the same one."""
    for module in (core, membership, replication, snapshots):
        monkeypatch.setattr(module, "maybe_commit", maybe_commit_anything)

    result = run_protocol_campaign(range(2000), jobs=jobs)

    assert result.violated == "committed survives elections"
    assert result.failures[0].seed == result.seeds - 1

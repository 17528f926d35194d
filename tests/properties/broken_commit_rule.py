"""The commit rule of Raft §5.4.2 left out, and what the invariants find: the schedule of Figure 8, and its trace.

python -m tests.properties.broken_commit_rule
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import attrs
import pytest

from clustercore.raft import commit, core, replication, snapshots
from clustercore.raft.quorum import quorum_value
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex
from clustercore.testing.trace import FailedRun, read_trace
from clustercore.testing.trace.events import Noted, Violated
from tests.properties.raft_schedules import random_schedule, run
from tests.properties.raft_trace import trace_failure

__all__ = ["break_commit_rule", "find"]

# Schedules tried. One in some dozens shows it.
MAX_SEEDS = 500
# Entries by themselves: in one message with the leader's own, those of earlier terms are never seen alone.
MAX_APPEND_ENTRIES = 1


def maybe_commit_anything(state: RaftState) -> bool:
    """Commit what a majority holds, of whichever term. ``commit.maybe_commit`` says why that is wrong."""
    match_indexes = {peer: progress.match_index for peer, progress in state.progress.items()}
    match_indexes[state.node_id] = state.durable_index
    index = LogIndex(quorum_value(state.configuration, match_indexes))
    if index <= state.commit_index:
        return False
    commit.commit_up_to(state, index)
    return True


def break_commit_rule(patch: pytest.MonkeyPatch) -> None:
    """Let every core commit by counting alone."""
    for module in (core, replication, snapshots):
        if hasattr(module, "maybe_commit"):
            patch.setattr(module, "maybe_commit", maybe_commit_anything)


def find(name: str) -> FailedRun | None:
    """Look for a schedule that breaks an invariant, make it short, and leave its trace; None if none does."""
    for seed in range(MAX_SEEDS):
        setup, steps = random_schedule(seed, length=2000)
        setup = attrs.evolve(setup, max_append_entries=MAX_APPEND_ENTRIES)
        try:
            run(setup, steps)
        except AssertionError as error:
            return trace_failure(setup, steps, error, name=name, shrink=True, heal=False)
    return None


def main(say: Callable[[str], object] = sys.stdout.write) -> int:
    """Break the rule, and say what comes of it; return an exit code."""
    with pytest.MonkeyPatch.context() as patch:
        break_commit_rule(patch)
        failed = find("broken-commit-rule")
    if failed is None:
        say(f"{MAX_SEEDS} schedules found nothing\n")
        return 1
    for event in read_trace(failed.path).events:
        if isinstance(event, Noted):
            say(f"{event.text}\n")
        elif isinstance(event, Violated):
            say(f"broken: {event.name}\n{event.text}\n")
    say(f"trace: {failed.path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The commit rule of Raft §5.4.2 left out, and what a campaign makes of it: the schedule of Figure 8, and its trace."""

from pathlib import Path

from clustercore.raft import commit, core, membership, replication, snapshots
from clustercore.raft.quorum import quorum_value
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex
from clustercore.testing.campaign import level_of, run_protocol_campaign


def commit_by_counting(state: RaftState) -> bool:
    # As `clustercore.raft.commit.maybe_commit`, but entries of any term are committed by counting who holds them.
    match_indexes = {peer: progress.match_index for peer, progress in state.progress.items()}
    match_indexes[state.node_id] = state.durable_index
    index = LogIndex(quorum_value(state.configuration, match_indexes))
    if index <= state.commit_index:
        return False
    commit.commit_up_to(state, index)
    return True


for module in (core, membership, replication, snapshots):
    module.maybe_commit = commit_by_counting  # type: ignore[attr-defined] # replacing what a module imported

found = run_protocol_campaign(range(2000))
print(f"{found.seeds} seeds, {found.events} events: {found.violated}")

trace = Path("broken-commit-rule.jsonl")
print("\n".join(level_of("protocol").shrink(found.failures[0].seed, trace, say=lambda text: None)))

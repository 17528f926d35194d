"""CheckQuorum (thesis §6.2): a leader that hears no majority within an election timeout steps down.

Its clients then look elsewhere, instead of waiting for a leader that the others may have replaced long ago. And because
it does, followers may protect a leader they hear: none of them waits for one that cannot serve.
"""

from __future__ import annotations

from clustercore.raft.quorum import VoteResult, vote_result
from clustercore.raft.roles import step_down
from clustercore.raft.state import RaftState

__all__ = ["maybe_step_down"]


def maybe_step_down(state: RaftState, now: float) -> bool:
    """As leader, step down if no majority answered within the last election timeout; return whether it did."""
    since = now - state.config.election_timeout_s
    heard = {peer: progress.last_contact > since for peer, progress in state.progress.items()}
    heard[state.node_id] = True
    if vote_result(state.configuration, heard) is VoteResult.WON:
        return False
    step_down(state, now)
    return True

"""CheckQuorum (thesis §6.2): a leader that hears no majority within an election timeout steps down.

Its clients then look elsewhere, instead of waiting for a leader that the others may have replaced long ago. And because
it does, followers may protect a leader they hear: none of them waits for one that cannot serve.
"""

from __future__ import annotations

from clustercore.raft.quorum import is_quorum
from clustercore.raft.roles import step_down
from clustercore.raft.state import RaftState
from clustercore.raft.types import Configuration

__all__ = ["hears_quorum_of", "maybe_step_down"]


def hears_quorum_of(state: RaftState, configuration: Configuration, now: float) -> bool:
    """Say whether a quorum of these members answered this leader within the last election timeout."""
    since = now - state.config.election_timeout_s
    heard = {peer for peer, progress in state.trusted_progress.items() if progress.last_contact > since}
    heard.add(state.node_id)
    return is_quorum(configuration, heard)


def maybe_step_down(state: RaftState, now: float) -> bool:
    """As leader, step down if no majority answered within the last election timeout; return whether it did."""
    if hears_quorum_of(state, state.configuration, now):
        return False
    step_down(state, now)
    return True

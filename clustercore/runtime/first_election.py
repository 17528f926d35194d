"""For whom a cluster waits that has had no leader yet.

Its first election needs every voter, so one that is missing keeps all of them waiting, for as long as it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from clustercore.raft.config import RaftConfig
from clustercore.raft.state import RaftState
from clustercore.raft.types import NodeId

__all__ = ["missing_for_first_election", "tell_who_is_missing"]

logger = logging.getLogger("clustercore")

# Elections take one or two timeouts. What is said again and again is said ever more seldom, at most once in so long.
_PATIENCE = 3
_MAX_PAUSE_S = 60.0


def missing_for_first_election(state: RaftState, introduction_of: Callable[[NodeId], object | None]) -> str:
    """Say for whom the first election waits; empty if the cluster is formed, or about to be, or not by this node.

    Args:
        state: The core's.
        introduction_of: What a node said of itself; None if it was not heard since this one started.
    """
    if state.configuration.is_formed or not state.may_stand or state.leader_id is not None:
        # A leader forms the cluster as soon as a majority has its first entry.
        return ""
    others = sorted(state.configuration.voters - {state.node_id})
    silent = [peer for peer in others if introduction_of(peer) is None]
    what = "waits for the first election, which needs every voter"
    if silent:
        return f"{what}: {', '.join(silent)} not heard of yet; start them, or correct their addresses"
    against = [peer for peer in others if state.votes.get(peer) is False]
    how = f"and {', '.join(against)} would not vote for it" if against else "and do not agree yet"
    return f"{what}: all were heard, {how}"


async def tell_who_is_missing(
    state: Callable[[], RaftState], introduction_of: Callable[[NodeId], object | None], config: RaftConfig
) -> None:
    """Log, sparsely, for whom the first election waits; return once the cluster is formed, or is none of this node's.

    Args:
        state: The core's.
        introduction_of: As for ``missing_for_first_election``.
        config: How long elections take.
    """
    pause_s = _PATIENCE * config.election_timeout_s
    while True:
        await trio.sleep(pause_s)
        now = state()
        if now.configuration.is_formed or not now.may_stand:
            return
        missing = missing_for_first_election(now, introduction_of)
        if missing:
            logger.warning("node %s %s", now.node_id, missing)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

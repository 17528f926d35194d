"""How a node is by its own measure: what it answers to whoever asks for its status.

That it answers at all says most: the answer is made in a turn of the engine, so a consensus loop that stands still
gives none (tikv/tikv#12398 is what happens otherwise). What is measured on top is what can go wrong while the loop
turns: a disk that keeps a write waiting, a state machine or a node that is far behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import trio

from clustercore.interfaces.values import NodeHealth
from clustercore.raft.config import RaftConfig
from clustercore.runtime.writer import Writer

__all__ = ["Vitals"]

# A disk that keeps a write waiting for ``disk_stall_s`` is slow; for so many times that, it is as good as gone.
_DEAD_DISK = 5
# A node that is behind its leader by so many election timeouts, or has heard none for so long, is behind.
_BEHIND = 3


class Vitals:
    """Measures one node."""

    def __init__(
        self,
        writer: Writer,
        config: RaftConfig,
        *,
        lag_s: Callable[[], float],
        complaints: Iterable[Callable[[], str]] = (),
    ) -> None:
        """Measure by the writer and by what others say.

        Args:
            writer: Writes the log.
            config: Says what is slow.
            lag_s: Returns how far the node is behind its leader, in seconds.
            complaints: Each returns what else is not as it should be; empty if all is.
        """
        self._writer = writer
        self._config = config
        self._lag_s = lag_s
        self._complaints = tuple(complaints)
        self._is_draining = False

    def drain(self) -> None:
        """Say from now on that the node is to get no work: it is about to stop."""
        self._is_draining = True

    def health(self, *, loop_lag_s: float, apply_lag: int) -> NodeHealth:
        """Return how the node is now.

        Args:
            loop_lag_s: How long the question waited for a turn of the consensus loop, in seconds.
            apply_lag: How many entries are committed and not applied here.
        """
        now = trio.current_time()
        lag_s = self._lag_s()
        wait_s = self._writer.wait_s(now)
        behind_s = _BEHIND * self._config.election_timeout_s
        not_serving = degraded = ""
        if self._is_draining:
            not_serving = "it is about to stop"
        elif wait_s > _DEAD_DISK * self._config.disk_stall_s:
            not_serving = f"the disk has kept a write waiting for {wait_s:.1f} s"
        elif wait_s > self._config.disk_stall_s:
            degraded = f"the disk has kept a write waiting for {wait_s:.1f} s"
        elif lag_s == math.inf:
            degraded = "it has heard no leader yet"
        elif lag_s > behind_s:
            degraded = f"it is {lag_s:.1f} s behind its leader, or has none"
        elif loop_lag_s > self._config.election_timeout_s / 2:
            degraded = f"its event loop was {loop_lag_s:.2f} s late"
        else:
            degraded = "; ".join(filter(None, [complaint() for complaint in self._complaints]))
        return NodeHealth(
            not_serving=not_serving,
            degraded=degraded,
            loop_lag_s=loop_lag_s,
            write_age_s=now - self._writer.durable_at,
            write_wait_s=wait_s,
            apply_lag=apply_lag,
            lag_s=-1.0 if lag_s == math.inf else lag_s,
        )

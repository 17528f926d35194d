"""Running a body only while this node leads (thesis §6.4.1).

A body begins once a majority has answered this leader in its term, and is cancelled before the last such answer is too
old: no follower that gave it helps to elect another leader for an election timeout, by its own clock. So two nodes'
bodies never overlap as long as no clock runs faster than another by more than ``max_clock_drift``, no machine is
suspended, and a body that is cancelled ends within the time it asked for. Where that is not enough, the term is the
fencing token: have whatever the body touches refuse a lower term than it has seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from clustercore.interfaces.errors import NodeStopped
from clustercore.raft.types import Term

__all__ = ["Leaderships"]


class Leaderships:
    """The bodies that run while this node leads."""

    def __init__(self, *, lease_until: Callable[[], float], term: Callable[[], Term]) -> None:
        """Nothing runs yet.

        Args:
            lease_until: Until when (Trio's clock) no other can lead; minus infinity if this node holds no lease.
            term: This node's term.
        """
        self._lease_until = lease_until
        self._term = term
        # The time each running body asked for to end in.
        self._bodies: dict[trio.CancelScope, float] = {}
        # Set when the last of them has ended; made anew with the first.
        self._ended = trio.Event()
        # Who waits for a lease.
        self._waiting = trio.lowlevel.ParkingLot()
        self._is_stopped = False

    @asynccontextmanager
    async def hold(self, cleanup_s: float) -> AsyncIterator[Term]:
        """Wait until this node holds a lease, then run the body for as long as it does.

        Raises: NodeStopped.
        """
        await trio.lowlevel.checkpoint()
        while self._lease_until() - cleanup_s <= trio.current_time():
            if self._is_stopped:
                raise NodeStopped("the node has stopped; it leads no more")
            await self._waiting.park()
        with trio.CancelScope(deadline=self._lease_until() - cleanup_s) as scope:
            if not self._bodies:
                self._ended = trio.Event()
            self._bodies[scope] = cleanup_s
            try:
                yield self._term()
            finally:
                del self._bodies[scope]
                if not self._bodies:
                    self._ended.set()

    def renew(self) -> None:
        """Look at the lease again: a majority may have answered."""
        if self._waiting:
            self._waiting.unpark_all()
        if self._bodies:
            until = self._lease_until()
            for scope, cleanup_s in self._bodies.items():
                scope.deadline = until - cleanup_s

    def end(self) -> None:
        """Cancel all bodies: this node leads no more, or is about to tell another to."""
        for scope in self._bodies:
            scope.cancel()

    async def wait_ended(self) -> None:
        """Wait until no body runs."""
        while self._bodies:
            await self._ended.wait()

    def stop(self) -> None:
        """Cancel all bodies and end every wait with NodeStopped."""
        self._is_stopped = True
        self.end()
        self._waiting.unpark_all()

    @property
    def is_empty(self) -> bool:
        """Whether no body runs."""
        return not self._bodies

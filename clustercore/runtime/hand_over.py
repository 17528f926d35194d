"""Handing over the leadership, as whoever asks for it sees it (thesis §3.10). The rules are the core's."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces.errors import NodeStopped, TransferFailed
from clustercore.raft.types import NodeId, TransferFailure

__all__ = ["HandOvers"]

logger = logging.getLogger("clustercore")


@attrs.define(eq=False)
class _Attempt:
    """One who waits for a transfer to end."""

    target: NodeId
    leader_id: NodeId | None = None
    failure: TransferFailure | None = None
    is_ended: trio.Event = attrs.field(factory=trio.Event)


class HandOvers:
    """Begins transfers and waits for their end."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        begin: Callable[[NodeId], None],
        best_successor: Callable[[], NodeId | None],
        limit_s: float,
    ) -> None:
        """Nothing is handed over yet.

        Args:
            node_id: This node.
            begin: Tells the core to hand over to a node.
            best_successor: Asks it whom to hand over to; None if this node does not lead or nobody is fit.
            limit_s: How long to wait for the core, which gives up after an election timeout itself.
        """
        self._node_id = node_id
        self._begin = begin
        self._best_successor = best_successor
        self._limit_s = limit_s
        self._attempts: list[_Attempt] = []
        self._is_stopped = False

    async def to(self, target: NodeId) -> NodeId:
        """Hand over to a node; return who leads then.

        Raises: TransferFailed; NodeStopped.
        """
        attempt = await self._attempt(target)
        if attempt.leader_id is None:
            raise self._failed(attempt)
        return attempt.leader_id

    async def to_best(self) -> NodeId:
        """Hand over to the best successor, or if that is lost or refuses to the next; return who leads then.

        Raises: TransferFailed; NodeStopped.
        """
        tried: list[_Attempt] = []
        while True:
            successor = self._best_successor()
            if successor is None and not tried:
                raise TransferFailed(
                    f"no follower of {self._node_id!r} is connected and up to date; it goes on leading"
                )
            if successor is None or successor in [attempt.target for attempt in tried]:
                raise self._failed(tried[-1])
            attempt = await self._attempt(successor)
            if attempt.leader_id is not None:
                return attempt.leader_id
            tried.append(attempt)
            if attempt.failure in (None, TransferFailure.TIMED_OUT):
                raise self._failed(attempt)

    async def leave(self) -> bool:
        """Hand over to whoever can take over, if this node leads; return whether another leads now."""
        if self._best_successor() is None:
            return False
        with trio.move_on_after(self._limit_s):
            try:
                await self.to_best()
            except TransferFailed as error:
                logger.info("node %s stops without handing over: %s", self._node_id, error)
            else:
                return True
        return False

    def given_up(self, target: NodeId, failure: TransferFailure) -> None:
        """Take from the core that it goes on leading."""
        for attempt in self._attempts:
            if attempt.target == target and not attempt.is_ended.is_set():
                attempt.failure = failure
                attempt.is_ended.set()

    def leader_known(self, leader_id: NodeId) -> None:
        """Take from the core that another node leads."""
        for attempt in self._attempts:
            if not attempt.is_ended.is_set():
                attempt.leader_id = leader_id
                attempt.is_ended.set()

    def stop(self) -> None:
        """End every wait with NodeStopped."""
        self._is_stopped = True
        for attempt in self._attempts:
            attempt.is_ended.set()

    async def _attempt(self, target: NodeId) -> _Attempt:
        attempt = _Attempt(target)
        self._attempts.append(attempt)
        try:
            self._begin(target)
            with trio.move_on_after(self._limit_s):
                await attempt.is_ended.wait()
        finally:
            self._attempts.remove(attempt)
        if self._is_stopped and attempt.leader_id is None:
            raise NodeStopped(f"node {self._node_id!r} has stopped; whether {target!r} takes over is not known here")
        return attempt

    def _failed(self, attempt: _Attempt) -> TransferFailed:
        if attempt.failure is None:
            # It stepped down, and nobody took its place yet.
            return TransferFailed(f"{self._node_id!r} does not lead any more, and no other leader is known yet")
        return TransferFailed(
            f"{self._node_id!r} goes on leading: the target {attempt.target!r} {attempt.failure.value}"
        )

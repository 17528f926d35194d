"""The lanes of a node: two to each peer, which come and go with the members."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import attrs
import trio

from clustercore.interfaces.messages import Message
from clustercore.interfaces.transport import Lane
from clustercore.raft.types import NodeId
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.peers import PeerLane

__all__ = ["Lanes"]


@attrs.define(eq=False)
class _Running:
    """A lane, and what ends its task."""

    lane: PeerLane
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Lanes:
    """Runs the lanes to those who are peers now.

    The lanes to one that is a peer no more go on for a moment, so that what is on its way arrives: perhaps the news
    that it was removed. Then their tasks end, their links close, and what still waits is dropped.
    """

    def __init__(self, make_lane: Callable[[NodeId, Lane], PeerLane], *, farewell_s: float) -> None:
        """Prepare; ``run`` makes it live.

        Args:
            make_lane: Makes the lane to a peer.
            farewell_s: How long the lanes to a former peer go on.
        """
        self._make_lane = make_lane
        self._farewell_s = farewell_s
        self._lanes: dict[tuple[NodeId, Lane], _Running] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Run all lanes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for running in list(self._lanes.values()):
                nursery.start_soon(self._run_lane, running)
            await trio.sleep_forever()

    def follow(self, peers: Collection[NodeId]) -> None:
        """Have lanes to these peers, and soon to no others."""
        for peer in peers:
            for lane in Lane:
                self._keep(peer, lane)
        for (peer, _), running in self._lanes.items():
            if peer not in peers and running.scope.deadline == math.inf:
                running.scope.deadline = trio.current_time() + self._farewell_s

    def post(self, peer: NodeId, lane: Lane, message: Message) -> None:
        """Queue a message, unless the peer is none any more: Raft sends what matters again."""
        outbox = self.outbox_to(peer, lane)
        if outbox is not None:
            outbox.post(message)

    def heard(self, peer: NodeId) -> None:
        """Take note that a peer has called: whoever it is to be called by need wait no longer."""
        for lane in Lane:
            running = self._lanes.get((peer, lane))
            if running is not None:
                running.lane.heard()

    def outbox_to(self, peer: NodeId, lane: Lane) -> Outbox | None:
        """Return the outbox of a lane; None if the node has no such peer."""
        running = self._lanes.get((peer, lane))
        return None if running is None else running.lane.outbox

    def _keep(self, peer: NodeId, lane: Lane) -> None:
        running = self._lanes.get((peer, lane))
        if running is not None and not running.scope.cancel_called:
            # It may have been leaving.
            running.scope.deadline = math.inf
            return
        running = self._lanes[peer, lane] = _Running(self._make_lane(peer, lane))
        if self._nursery is not None:
            self._nursery.start_soon(self._run_lane, running)

    async def _run_lane(self, running: _Running) -> None:
        lane = running.lane
        with running.scope:
            await lane.run()
        # Here only when its peer has gone: a lane does not end by itself, and a node that stops cancels this too.
        if self._lanes.get((lane.peer, lane.lane)) is running:
            del self._lanes[lane.peer, lane.lane]
        lane.close()

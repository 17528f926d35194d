"""Watching cores where they run: inside whole nodes, which know nothing of it.

A message is known again at its receiver by being the same object, so this serves simulations whose network hands
objects over, and never looks at the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from clustercore.interfaces import NodeId
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, Reply, Send
from clustercore.raft.messages import RaftMessage
from clustercore.raft.types import ReadId, WriteId
from clustercore.testing.trace.recorder import Recorder

__all__ = ["ObservedCore", "Wiretap"]

# Messages of one cluster that are remembered, to be known again when they arrive. Far more than can be under way.
MAX_REMEMBERED = 10_000


class Wiretap:
    """Numbers the messages between the nodes of one cluster, and makes its cores."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._messages = 0
        self._by_way: dict[tuple[int, NodeId, NodeId], deque[int]] = {}
        # Kept, so that no other object gets the identity of one that is still to arrive; the oldest are forgotten.
        self._remembered: deque[tuple[tuple[int, NodeId, NodeId], RaftMessage]] = deque()

    def make_core(self, **arguments: Any) -> ObservedCore:
        """Make a core with whatever arguments a RaftCore takes, which is its own affair."""
        return ObservedCore(self, **arguments)

    def sent(self, node: NodeId, to: NodeId, message: RaftMessage) -> int:
        """Tell that a message has left, and return its number."""
        self._messages += 1
        way = (id(message), node, to)
        self._by_way.setdefault(way, deque()).append(self._messages)
        self._remembered.append((way, message))
        if len(self._remembered) > MAX_REMEMBERED:
            forgotten, _ = self._remembered.popleft()
            self._by_way.pop(forgotten, None)
        self.recorder.sent(node, self._messages, to, message)
        return self._messages

    def delivered(self, node: NodeId, sender: NodeId, message: RaftMessage) -> None:
        """Tell that a message has arrived."""
        numbers = self._by_way.get((id(message), sender, node))
        # What a core did not send itself, as a snapshot that its node read for it, is told as sent when it arrives.
        number = numbers[0] if numbers else self.sent(sender, node, message)
        if numbers is not None and len(numbers) > 1:
            numbers.popleft()
        self.recorder.delivered(node, number, sender)


class ObservedCore(RaftCore):
    """A core that tells a wiretap of all that goes in and comes out. It does what a RaftCore does, to the letter."""

    def __init__(self, wiretap: Wiretap, **arguments: Any) -> None:
        """Start a core with whatever arguments a RaftCore takes."""
        super().__init__(**arguments)
        self._wiretap = wiretap
        self._recorder = wiretap.recorder
        # Who sent the request that is being answered.
        self._origin: NodeId | None = None
        # What waits for a write, as its node makes it wait.
        self._gated: list[tuple[WriteId, Callable[[], object]]] = []
        self._durable = WriteId(0)
        self._recorder.started(self.state.node_id, self.state)

    def receive(self, sender: NodeId, message: RaftMessage, now: float) -> Effects:
        """Tell of the message, then as RaftCore."""
        self._wiretap.delivered(self.state.node_id, sender, message)
        self._origin = sender
        return super().receive(sender, message, now)

    def read(self, read_ids: Sequence[ReadId], now: float) -> Effects:
        """Tell of the reads, then as RaftCore."""
        self._recorder.read_asked(self.state.node_id, read_ids)
        return super().read(read_ids, now)

    def storage_done(self, write_id: WriteId, now: float) -> Effects:
        """Tell what is durable and what may leave now, then as RaftCore."""
        for write in range(self._durable + 1, write_id + 1):
            self._recorder.durable(self.state.node_id, write)
        self._durable = max(self._durable, write_id)
        gated, self._gated = self._gated, []
        for after, leave in gated:
            if after <= write_id:
                leave()
            else:
                self._gated.append((after, leave))
        return super().storage_done(write_id, now)

    def _finish(self) -> Effects:
        effects = super()._finish()
        node = self.state.node_id
        self._recorder.acted(node, self.state, effects)
        for effect in effects:
            match effect:
                case Send(to=to, message=message, after=after):
                    self._leave(to, message, after)
                case Reply(message=message, after=after):
                    assert self._origin is not None, "a reply to no request"
                    self._leave(self._origin, message, after)
                case _:
                    pass
        return effects

    def _leave(self, to: NodeId, message: RaftMessage, after: WriteId | None) -> None:
        node = self.state.node_id
        if after is None:
            self._wiretap.sent(node, to, message)
        else:
            self._gated.append((after, lambda: self._wiretap.sent(node, to, message)))

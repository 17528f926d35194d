"""What is known of other nodes, by id: of all that matter, and of a bounded number of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from clustercore.raft.types import NodeId

__all__ = ["MAX_STRANGERS", "Remembered"]

V = TypeVar("V")

# Anybody who reaches the port can give any number of names. Far more than there are nodes at once on their way into a
# cluster, or just out of it.
MAX_STRANGERS = 256


class Remembered(Generic[V]):
    """Values by node id. Of strangers that are too many, those noted longest ago are forgotten."""

    def __init__(self, is_member: Callable[[NodeId], bool]) -> None:
        """Remember nothing yet; ``is_member`` says of whom nothing is to be forgotten."""
        self._is_member = is_member
        # In the order of noting.
        self._values: dict[NodeId, V] = {}

    def get(self, node_id: NodeId) -> V | None:
        """Return what was noted last; None if nothing was, or it is forgotten."""
        return self._values.get(node_id)

    def note(self, node_id: NodeId, value: V) -> None:
        """Note a value in place of the one before."""
        self._values.pop(node_id, None)
        self._values[node_id] = value
        if len(self._values) > MAX_STRANGERS:
            self._forget()

    def pop(self, node_id: NodeId) -> None:
        """Forget what was noted, if anything was."""
        self._values.pop(node_id, None)

    def all(self) -> dict[NodeId, V]:
        """Return all there is."""
        return dict(self._values)

    def _forget(self) -> None:
        strangers = [node_id for node_id in self._values if not self._is_member(node_id)]
        for node_id in strangers[: max(0, len(strangers) - MAX_STRANGERS)]:
            del self._values[node_id]

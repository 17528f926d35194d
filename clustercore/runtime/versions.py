"""When a version of the application's commands is switched on: once every member says that it understands it.

The leader knows what the members announce, and appends the entry that switches a version on. From then on it is on for
ever: a node that does not understand it, such as one put back to an older program, halts when it meets the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from clustercore.raft.types import NodeId
from clustercore.runtime.remembered import Remembered

__all__ = ["CommandVersions", "enabled_version"]


def enabled_version(announced: Mapping[NodeId, int], members: Iterable[NodeId]) -> int:
    """Return the highest version that every member announced; 0 if one has announced none, or there is no member."""
    return min((announced.get(member, 0) for member in members), default=0)


class CommandVersions:
    """What the members announced, and the leader's duty to switch on what all of them understand.

    It asks for a version again whenever something changes, until it is on: an entry may be lost with its leader, and
    a second one changes nothing.
    """

    def __init__(
        self,
        node_id: NodeId,
        own_version: int,
        *,
        members: Callable[[], Iterable[NodeId]],
        is_leader: Callable[[], bool],
        enabled: Callable[[], int],
        enable: Callable[[int], None],
    ) -> None:
        """Nobody but this node has announced anything yet.

        Args:
            node_id: This node.
            own_version: The newest version that its state machine understands.
            members: Everybody who applies the log, this node included.
            is_leader: Whether this node leads.
            enabled: The version that is on.
            enable: Has a version put into the log as soon as that is possible; 0 if none is to be any more.
        """
        self._announced = Remembered[int](lambda known: known in self._members())
        self._announced.note(node_id, own_version)
        self._members = members
        self._is_leader = is_leader
        self._enabled = enabled
        self._enable = enable

    def announce(self, node_id: NodeId, version: int) -> None:
        """Note what a member announced; the last word counts."""
        self._announced.note(node_id, version)
        self.look()

    def look(self) -> None:
        """Switch on what can be: this node has become the leader, or the members have changed.

        They count from when their change is in the log, before it is committed: the entry that switches a version on
        comes after it there, and is never applied without it.
        """
        if self._is_leader():
            version = enabled_version(self._announced.all(), self._members())
            # 0 takes back what was to be switched on and is not in the log yet.
            self._enable(version if version > self._enabled() else 0)

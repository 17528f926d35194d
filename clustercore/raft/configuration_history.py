"""The configurations in a log, by index.

A configuration counts from when its entry is in the log, committed or not (Raft §6, thesis §4.1): when the entry is cut
off, the one before counts again. So those are kept that may still be needed: the one that counts at the log's base, and
all after it. This file knows nothing of when a change is allowed; ``membership`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from clustercore.raft.configuration import configurations_in
from clustercore.raft.entry import Entry
from clustercore.raft.types import Configuration, LogIndex, NodeId, Server

__all__ = ["ConfigurationHistory"]


class ConfigurationHistory:
    """Configurations, ascending by the index from which each counts; there is always one."""

    def __init__(self, index: LogIndex, configuration: Configuration) -> None:
        """Start with what counts at ``index``, and does so until another is appended."""
        self._items = [(index, configuration)]

    @property
    def latest(self) -> Configuration:
        """The one that counts."""
        return self._items[-1][1]

    @property
    def latest_index(self) -> LogIndex:
        """The entry it came with; or the last one that a snapshot covers, if it came with that."""
        return self._items[-1][0]

    @property
    def previous(self) -> Configuration:
        """The one that counted before the latest, and would again without its entry; the latest if it is the first."""
        return self._items[-2:][0][1]

    def at(self, index: LogIndex) -> Configuration:
        """Return the one that counts after the entry ``index``; the oldest known if that is before all of them."""
        return next((known for since, known in reversed(self._items) if since <= index), self._items[0][1])

    def members_since(self, index: LogIndex) -> frozenset[NodeId]:
        """Return who is a member by the one that counts after the entry ``index``, or by any that came later.

        With the last committed entry for the index these are all that may turn out to be members, whichever of the
        later entries are cut off.
        """
        later = (configuration for since, configuration in self._items if since > index)
        return self.at(index).members.union(*(configuration.members for configuration in later))

    def newest_naming(self, node_id: NodeId) -> Server | None:
        """Return a node as the newest configuration has it that names it; None if none does.

        Once the cluster is formed, what a node was started with before does not count any more.
        """
        known = [configuration for _, configuration in self._items if configuration.is_formed is self.latest.is_formed]
        servers = (configuration.get(node_id) for configuration in reversed(known))
        return next((server for server in servers if server is not None), None)

    def append(self, entries: Sequence[Entry]) -> None:
        """Take up the configurations among entries that were added to the log.

        Raises: MalformedConfiguration if one cannot be read.
        """
        self._items += configurations_in(entries)

    def truncate_from(self, index: LogIndex) -> None:
        """Forget those that came with the entry at ``index`` or one after it, but never the first."""
        while len(self._items) > 1 and self._items[-1][0] >= index:
            self._items.pop()

    def compact(self, base_index: LogIndex) -> None:
        """Forget what counted only before ``base_index``."""
        while len(self._items) > 1 and self._items[1][0] <= base_index:
            del self._items[0]

    def start_from(self, base_index: LogIndex, configuration: Configuration) -> None:
        """Take a snapshot's word for what counts at ``base_index``, and keep what came after."""
        later = [item for item in self._items if item[0] > base_index]
        self.reset(base_index, configuration)
        self._items += later

    def reset(self, base_index: LogIndex, configuration: Configuration) -> None:
        """Forget all, and start again from a snapshot, which tells since when its members count.

        One that an older version took does not, or names nobody: then what is known to count there stays.
        """
        self.compact(base_index)
        since, known = self._items[0]
        configuration = configuration if configuration.servers else known
        if 0 < configuration.index <= base_index:
            since = configuration.index
        elif known != configuration or since > base_index:
            since = base_index
        self._items = [(since, configuration)]

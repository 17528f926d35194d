"""What is on a simulated disk, as the checks of both levels look at it (``clustercore.testing.invariants``)."""

from __future__ import annotations

from collections.abc import Callable

from clustercore.interfaces import Configuration, Entry, HardState, LogIndex, StoredState, Term
from clustercore.raft.configuration import configurations_in
from clustercore.raft.types import BEFORE_LOG, NO_TERM

__all__ = ["DiskView"]


class DiskView:
    """A disk as a check wants it.

    Args:
        stored: Returns what a power cut at this moment would leave for certain.
    """

    def __init__(self, stored: Callable[[], StoredState]) -> None:
        self._stored = stored
        # The log that members were found in last, and these.
        self._searched: tuple[Entry, ...] | None = None
        self._found: list[tuple[LogIndex, Configuration]] = []

    @property
    def hard_state(self) -> HardState:
        """The term and the vote."""
        return self._stored().hard_state

    @property
    def snapshot_index(self) -> LogIndex:
        """The last index that the snapshot covers; BEFORE_LOG without one."""
        snapshot = self._stored().snapshot
        return snapshot.last_included_index if snapshot is not None else BEFORE_LOG

    @property
    def last_index(self) -> LogIndex:
        """The last index stored, in the log or the snapshot."""
        entries = self._stored().entries
        return entries[-1].index if entries else self.snapshot_index

    @property
    def end(self) -> tuple[Term, LogIndex]:
        """What the stored log is compared by in an election (Raft §5.4.1)."""
        stored = self._stored()
        if stored.entries:
            return stored.entries[-1].term, stored.entries[-1].index
        if stored.snapshot is not None:
            return stored.snapshot.last_included_term, stored.snapshot.last_included_index
        return NO_TERM, BEFORE_LOG

    @property
    def configuration(self) -> Configuration | None:
        """The newest members that the disk names; None if it names none."""
        named = self.named_members
        return named[-1][1] if named else None

    @property
    def configuration_index(self) -> LogIndex:
        """The entry that named them; what the snapshot covers if it did, and BEFORE_LOG if nothing has."""
        named = self.named_members
        return named[-1][0] if named else BEFORE_LOG

    @property
    def named_members(self) -> list[tuple[LogIndex, Configuration]]:
        """The members that the disk names, ascending by index: the snapshot's first, if there is one."""
        stored = self._stored()
        if stored.entries is not self._searched:
            self._searched, self._found = stored.entries, configurations_in(stored.entries)
        if stored.snapshot is None:
            return self._found
        since = stored.snapshot.last_included_index
        return [(since, stored.snapshot.configuration), *(item for item in self._found if item[0] > since)]

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of a stored entry, or None if only a snapshot covers it, or nothing does."""
        stored = self._stored()
        entries, snapshot = stored.entries, stored.snapshot
        if entries:
            place = index - entries[0].index
            if 0 <= place < len(entries):
                return entries[place].term
        if snapshot is not None and index == snapshot.last_included_index:
            return snapshot.last_included_term
        return None

    def holds(self, index: LogIndex, term: Term) -> bool:
        """Say whether the entry ``index`` of ``term`` is stored, itself or within the snapshot."""
        snapshot = self._stored().snapshot
        return (snapshot is not None and index <= snapshot.last_included_index) or self.term_at(index) == term

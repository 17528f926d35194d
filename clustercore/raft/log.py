"""The log in memory: a run of entries after a base.

This file knows indexes and terms, and nothing of commitment, durability or messages. The base is the entry directly
before the first one held: BEFORE_LOG with NO_TERM, or the last entry that compaction dropped.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter

from clustercore.raft.entry import Entry
from clustercore.raft.errors import InvariantError
from clustercore.raft.types import BEFORE_LOG, NO_TERM, LogIndex, Term

__all__ = ["RaftLog"]

_term_of = attrgetter("term")


class RaftLog:
    """Entries ``first_index..last_index`` (both inclusive), with terms that never fall from one to the next."""

    def __init__(
        self, entries: Iterable[Entry] = (), *, base_index: LogIndex = BEFORE_LOG, base_term: Term = NO_TERM
    ) -> None:
        """Make a log that holds ``entries`` after the base."""
        self._base_index = base_index
        self._base_term = base_term
        self._entries: list[Entry] = []
        # Where each entry ends if all were laid end to end, in bytes from any fixed place: sizes without adding up.
        self._ends: list[int] = []
        # The same for the base.
        self._base_end = 0
        self.append(tuple(entries))

    @property
    def base_index(self) -> LogIndex:
        """The index before the first entry held: everything up to it is committed, or it is BEFORE_LOG."""
        return self._base_index

    @property
    def first_index(self) -> LogIndex:
        """The index of the first entry held; ``last_index + 1`` when none is."""
        return LogIndex(self._base_index + 1)

    @property
    def last_index(self) -> LogIndex:
        """The index of the last entry, or ``base_index`` when none is held."""
        return LogIndex(self._base_index + len(self._entries))

    @property
    def last_term(self) -> Term:
        """The term of the last entry, or that of the base."""
        return self._entries[-1].term if self._entries else self._base_term

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of an entry or of the base; None if the log does not know it."""
        if index == self._base_index:
            return self._base_term
        if self._base_index < index <= self.last_index:
            return self._entries[index - self._base_index - 1].term
        return None

    def is_up_to_date(self, last_log_index: LogIndex, last_log_term: Term) -> bool:
        """Say whether a log that ends so is at least as up to date as this one (Raft §5.4.1)."""
        return (last_log_term, last_log_index) >= (self.last_term, self.last_index)

    def slice(self, first: LogIndex, last: LogIndex) -> tuple[Entry, ...]:
        """Return the entries ``first..last``, both inclusive and both held."""
        if first <= self._base_index or last > self.last_index:
            raise InvariantError(f"entries {first}..{last} wanted, the log holds {self.first_index}..{self.last_index}")
        return tuple(self._entries[first - self._base_index - 1 : last - self._base_index])

    def batch(self, first: LogIndex, *, max_entries: int, max_bytes: int) -> tuple[Entry, ...]:
        """Return entries from ``first`` on, as many as fit both limits, but one at least if there is one."""
        start = first - self._base_index - 1
        end = min(start + max_entries, len(self._entries))
        fitting = bisect_right(self._ends, self._end_of(LogIndex(first - 1)) + max_bytes, start, end)
        return tuple(self._entries[start : max(fitting, min(start + 1, end))])

    def size_bytes(self, first: LogIndex, last: LogIndex) -> int:
        """Return how many bytes the encoded entries ``first..last`` take, both inclusive; none if first is above.

        Those from ``first`` on are held.
        """
        if first > last:
            return 0
        if first <= self._base_index:
            raise InvariantError(f"size of entries {first}..{last} wanted, the log begins at {self.first_index}")
        return self._end_of(last) - self._end_of(LogIndex(first - 1))

    def first_index_within(self, last: LogIndex, max_bytes: int) -> LogIndex:
        """Return the lowest index held from which on the entries up to ``last``, inclusive, fit into so many bytes.

        It is ``last + 1`` if not even that one does.
        """
        outside = bisect_left(self._ends, self._end_of(last) - max_bytes, 0, last - self._base_index)
        if self._base_end >= self._end_of(last) - max_bytes:
            return self.first_index
        return LogIndex(self._base_index + outside + 2)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that directly follow the last one."""
        if entries and entries[0].index != self.last_index + 1:
            raise InvariantError(f"entry {entries[0].index} appended to a log that ends at {self.last_index}")
        self._entries.extend(entries)
        end = self._ends[-1] if self._ends else self._base_end
        for entry in entries:
            end += len(entry.encoded)
            self._ends.append(end)

    def truncate_from(self, index: LogIndex) -> None:
        """Drop the entry at ``index`` and all after it."""
        if index <= self._base_index:
            raise InvariantError(f"entries from {index} on dropped, but the log up to {self._base_index} is committed")
        del self._entries[index - self._base_index - 1 :]
        del self._ends[index - self._base_index - 1 :]

    def first_index_of_term_at(self, index: LogIndex) -> LogIndex:
        """Return the first index held whose entry has the same term as the held one at ``index``."""
        term = self._entries[index - self._base_index - 1].term
        return LogIndex(self.first_index + bisect_left(self._entries, term, key=_term_of))

    def last_index_of_term(self, term: Term) -> LogIndex | None:
        """Return the last index, the base included, whose entry has this term; None if there is none."""
        after = bisect_right(self._entries, term, key=_term_of)
        candidate = LogIndex(self._base_index + after)
        return candidate if self.term_at(candidate) == term else None

    def compact(self, base_index: LogIndex) -> None:
        """Forget the entries up to and including ``base_index``, which is held or is the base already."""
        base_term = self.term_at(base_index)
        if base_term is None:
            raise InvariantError(
                f"log compacted up to {base_index}, but it holds {self.first_index}..{self.last_index}"
            )
        self._base_end = self._end_of(base_index)
        del self._entries[: base_index - self._base_index]
        del self._ends[: base_index - self._base_index]
        self._base_index, self._base_term = base_index, base_term

    def reset(self, base_index: LogIndex, base_term: Term) -> None:
        """Forget everything, and start again after the base."""
        self._entries.clear()
        self._ends.clear()
        self._base_end = 0
        self._base_index, self._base_term = base_index, base_term

    def _end_of(self, index: LogIndex) -> int:
        """Return where the entry at ``index``, which is held or is the base, ends."""
        return self._base_end if index == self._base_index else self._ends[index - self._base_index - 1]

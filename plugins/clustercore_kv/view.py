"""The store as it was at one moment, read in order of its keys while commands go on changing it: copy on write.

A view knows how far it was read. Whoever changes a key beyond that leaves the old entry with the view first; keys that
the reader has passed cost nothing any more. Entries are immutable, so an old one is kept by reference: a view takes as
much memory as what was overwritten since it was made, and nothing when nothing was.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING

from clustercore_kv.sorted_keys import SortedKeys

if TYPE_CHECKING:
    from clustercore_kv.store import Entry, Store

__all__ = ["StoreView"]

# What a key counts for in a read beside its bytes: the time it takes. 48 bytes of a large value are copied in no time.
_OVERHEAD_BYTES = 48


class StoreView:
    """What a store held when this was made. ``Store.freeze`` makes it, ``Store.thaw`` ends it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # How many keys there were.
        self.count = len(store)
        # Whether all of them have been read.
        self.is_read = False
        # Every key up to and including this one has been read; None before the first.
        self._read_up_to: str | None = None
        # Beyond that: what was there before its first change; None for a key that was not there.
        self._old: dict[str, Entry | None] = {}
        # The keys of _old that were there. The store may lack them now.
        self._old_keys = SortedKeys()

    def note_change(self, key: str, old: Entry | None) -> None:
        """Keep what a key holds, right before it is changed; None if it is absent. Only its first change counts."""
        if key in self._old or (self._read_up_to is not None and key <= self._read_up_to):
            return
        self._old[key] = old
        if old is not None:
            self._old_keys.add(key)

    def read(self, max_bytes: int) -> list[tuple[str, Entry]]:
        """Return the next keys and their entries, in order: as many as count for ``max_bytes``, or one more.

        There may be none although ``is_read`` is not set: keys that came later are passed over, and count.
        """
        read: list[tuple[str, Entry]] = []
        passed: list[str] = []
        size = 0
        for key in self._unread():
            entry = self._old[key] if key in self._old else self._store.get(key)
            passed.append(key)
            size += _OVERHEAD_BYTES
            if entry is not None:
                read.append((key, entry))
                size += len(key) + len(entry[0])
            if size >= max_bytes:
                break
        else:
            self.is_read = True
        if passed:
            self._read_up_to = passed[-1]
        for key in passed:
            if self._old.pop(key, None) is not None:
                self._old_keys.remove(key)
        return read

    def _unread(self) -> Iterator[str]:
        """Yield every key that was there and is not read, and some others, in order; nothing may change meanwhile."""
        last = self._read_up_to
        start = last or ""
        for key in merge(self._store.keys_from(start), self._old_keys.iterate_from(start)):
            if key != last:
                last = key
                yield key

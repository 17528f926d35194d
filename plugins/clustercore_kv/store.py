"""The key-value state itself: what a command changes and what a read sees. No bytes on a wire, no clients."""

from __future__ import annotations

from collections.abc import Iterator

from clustercore_kv.limits import DEFAULT_SCAN_PAIRS, MAX_SCAN_BYTES, MAX_SCAN_PAIRS
from clustercore_kv.sorted_keys import SortedKeys
from clustercore_kv.values import KvPair
from clustercore_kv.view import StoreView

__all__ = ["Entry", "Store"]

# A value and the revision of its last change. A tuple, because there may be millions and a value class takes twice as
# long to make.
Entry = tuple[bytes, int]


class Store:
    """Keys in order, each with a value and the revision of its last change."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        # The keys of _entries.
        self._keys = SortedKeys()
        # Those that are being read. One, as a rule, or none.
        self._views: list[StoreView] = []

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return a key's value and revision, or None if it is absent."""
        return self._entries.get(key)

    def put(self, key: str, value: bytes, revision: int) -> None:
        """Set a key's value."""
        old = self._entries.get(key)
        for view in self._views:
            view.note_change(key, old)
        if old is None:
            self._keys.add(key)
        self._entries[key] = (value, revision)

    def append(self, key: str, value: bytes, revision: int) -> None:
        """Set the value of a key that comes after all others. Nothing has frozen the store."""
        self._keys.append(key)
        self._entries[key] = (value, revision)

    def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""
        old = self._entries.pop(key, None)
        if old is None:
            return False
        for view in self._views:
            view.note_change(key, old)
        self._keys.remove(key)
        return True

    def scan(self, prefix: str, limit: int, start_after: str) -> tuple[tuple[KvPair, ...], bool]:
        """Return one page of the keys with a prefix, as ``Scan`` says, and whether there are more after it."""
        limit = min(limit or DEFAULT_SCAN_PAIRS, MAX_SCAN_PAIRS)
        pairs: list[KvPair] = []
        room = MAX_SCAN_BYTES
        for key in self._keys.iterate_from(max(prefix, start_after)):
            if key == start_after and key:
                continue
            if not key.startswith(prefix):
                break
            value, revision = self._entries[key]
            room -= len(key.encode()) + len(value)
            if pairs and (len(pairs) == limit or room < 0):
                return tuple(pairs), True
            pairs.append(KvPair(key, value, revision))
        return tuple(pairs), False

    def keys_from(self, start: str) -> Iterator[str]:
        """Yield each key from ``start`` on, inclusive, in order. Nothing may be changed meanwhile."""
        return self._keys.iterate_from(start)

    # --- The store as it was ---

    def freeze(self) -> StoreView:
        """Return the store as it is now, to be read while it changes: what is overwritten is kept until ``thaw``."""
        view = StoreView(self)
        self._views.append(view)
        return view

    def thaw(self, view: StoreView) -> None:
        """Remember nothing for a view any more; it must not be read again."""
        self._views.remove(view)

"""The key-value state itself: what a command changes and what a read sees. No bytes on a wire, no clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clustercore_kv.limits import DEFAULT_SCAN_PAIRS, MAX_SCAN_BYTES, MAX_SCAN_PAIRS
from clustercore_kv.sorted_keys import SortedKeys
from clustercore_kv.values import KvPair

__all__ = ["Store"]


class Store:
    """Keys in order, each with a value and the revision of its last change."""

    def __init__(self, pairs: Sequence[tuple[str, bytes, int]] = ()) -> None:
        """Hold ``pairs`` of key, value and revision, sorted by key and each key once."""
        # Tuples, because there may be millions and a value class takes twice as long to make.
        self._entries: dict[str, tuple[bytes, int]] = {key: (value, revision) for key, value, revision in pairs}
        # The keys of _entries.
        self._keys = SortedKeys([key for key, _, _ in pairs])

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._entries)

    def get(self, key: str) -> tuple[bytes, int] | None:
        """Return a key's value and revision, or None if it is absent."""
        return self._entries.get(key)

    def put(self, key: str, value: bytes, revision: int) -> None:
        """Set a key's value."""
        if key not in self._entries:
            self._keys.add(key)
        self._entries[key] = (value, revision)

    def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""
        if self._entries.pop(key, None) is None:
            return False
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

    def pairs(self) -> Iterator[tuple[str, bytes, int]]:
        """Yield every key, value and revision, sorted by key."""
        entries = self._entries
        return ((key, *entries[key]) for key in self._keys.iterate_from(""))

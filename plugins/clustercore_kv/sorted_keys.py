"""The keys of the store in order, for prefix scans.

One sorted list would move 4 MB for each new key among a million: 62 us each time, measured. Here the keys lie in blocks
of a few hundred, so a new key moves a few kilobytes, however many there are: 0.3 us. A third-party sorted list does the
same in the same way; it would be a dependency for these sixty lines.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

__all__ = ["SortedKeys"]

# A block is split in two when it would grow beyond this. Between 256 and 2,048 the time for a new key hardly differs.
_MAX_BLOCK_KEYS = 1024


class SortedKeys:
    """A set of strings in the order of their code points, which is the order of their UTF-8 bytes."""

    def __init__(self) -> None:
        # Sorted lists, none empty unless there is no key at all.
        self._blocks: list[list[str]] = [[]]
        # _lows[i] <= every key of _blocks[i] < _lows[i + 1]; _lows[0] is "", before every key.
        self._lows = [""]

    def add(self, key: str) -> None:
        """Add a key that is not there."""
        position = bisect_right(self._lows, key) - 1
        block = self._blocks[position]
        insort(block, key)
        if len(block) > _MAX_BLOCK_KEYS:
            half = len(block) // 2
            self._blocks.insert(position + 1, block[half:])
            self._lows.insert(position + 1, block[half])
            del block[half:]

    def append(self, key: str) -> None:
        """Add a key that comes after all others, in the time of a list's append."""
        block = self._blocks[-1]
        if len(block) < _MAX_BLOCK_KEYS // 2:
            block.append(key)
        else:
            self._blocks.append([key])
            self._lows.append(key)

    def remove(self, key: str) -> None:
        """Remove a key that is there."""
        position = bisect_right(self._lows, key) - 1
        block = self._blocks[position]
        del block[bisect_left(block, key)]
        if not block and len(self._blocks) > 1:
            del self._blocks[position]
            del self._lows[position]
            self._lows[0] = ""

    def iterate_from(self, start: str) -> Iterator[str]:
        """Yield each key from ``start`` on, inclusive, in order. No key may be added or removed meanwhile."""
        position = bisect_right(self._lows, start) - 1
        block = self._blocks[position]
        for index in range(bisect_left(block, start), len(block)):
            yield block[index]
        for later in self._blocks[position + 1 :]:
            yield from later

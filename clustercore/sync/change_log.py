"""The order in which the groups of a replica last changed, so that whatever changed since some moment is found at once.

It is kept in segments of bounded length, and a group that changes again leaves its old place at once. So neither a
change nor a look costs more the more groups there are, and nothing has to be tidied up in one go.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

__all__ = ["ChangeLog"]

# Places in a segment at most: what a look may have to skip, a few us. A million groups make some 10,000 segments.
SEGMENT = 128

# Kind and id of an entity, and the group.
Place = tuple[tuple[str, str], str]


class ChangeLog:
    """Which group changed last at which number."""

    def __init__(self) -> None:
        # Ascending by number, within each segment and from one to the next; none is empty. Two neighbours have more
        # than half of what one may have, but for the last.
        self._segments: list[dict[int, Place]] = []
        # Not above any number in the segment, and above all in the one before.
        self._firsts: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    def append(self, seq: int, place: Place) -> None:
        """Note that a group changed. The number is above all there are."""
        if not self._segments or len(self._segments[-1]) >= SEGMENT:
            self._segments.append({})
            self._firsts.append(seq)
        self._segments[-1][seq] = place

    def remove(self, seq: int) -> None:
        """Forget the change of a number, which must be there."""
        position = bisect_right(self._firsts, seq) - 1
        segment = self._segments[position]
        del segment[seq]
        if not segment:
            del self._segments[position], self._firsts[position]
            position -= 1
        for first in (position, position - 1):
            if 0 <= first < len(self._segments) - 1:
                self._merge(first)

    def _merge(self, first: int) -> None:
        """Make one of two neighbours that are half empty together."""
        one, other = self._segments[first : first + 2]
        if len(one) + len(other) <= SEGMENT // 2:
            # A new dictionary has no holes to be skipped.
            self._segments[first : first + 2] = [{**one, **other}]
            del self._firsts[first + 1]

    def since(self, seq: int) -> Iterator[tuple[int, Place]]:
        """Yield what changed after a number, in order. Change nothing meanwhile."""
        position = max(bisect_right(self._firsts, seq) - 1, 0)
        for segment in self._segments[position : position + 1]:
            for number, place in segment.items():
                if number > seq:
                    yield number, place
        for later in range(position + 1, len(self._segments)):
            yield from self._segments[later].items()

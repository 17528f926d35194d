"""The larger, or the smaller, of two integers: heartbeats, high-water marks, the earliest deadline."""

from __future__ import annotations

import json

from clustercore_lww.merging import MergingResolver
from clustercore_lww.reading import read_or_none

__all__ = ["MaxResolver", "MinResolver"]


class _NumberResolver(MergingResolver):
    # -1 turns the order around.
    _sign: int

    def read(self, value: bytes) -> int:
        """Return the number that a value stands for. Override it for another encoding than a JSON integer.

        Raises: ValueError if it is none. Then the value loses to every number, and is compared as bytes with others.
        """
        number = json.loads(value)
        if type(number) is not int:
            raise ValueError(f"{number!r} is no integer")
        return number

    def merge(self, one: bytes, other: bytes) -> bytes:
        return max(one, other, key=self._key)

    def _key(self, value: bytes) -> tuple[bool, int, bytes]:
        number = read_or_none(self.read, value)
        return (False, 0, value) if number is None else (True, self._sign * number, value)


class MaxResolver(_NumberResolver):
    """Keeps the larger of two integers."""

    rule = "max"
    _sign = 1


class MinResolver(_NumberResolver):
    """Keeps the smaller of two integers."""

    rule = "min"
    _sign = -1

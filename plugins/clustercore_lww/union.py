"""The union of two sets, each a JSON array."""

from __future__ import annotations

import json

from clustercore_lww.merging import MergingResolver
from clustercore_lww.reading import read_or_none

__all__ = ["UnionResolver"]


class UnionResolver(MergingResolver):
    """Keeps what is in either of two sets.

    A set is a JSON array; the union has each element once, in the order of their encodings. Nothing is ever taken out
    by a merge: an element that one side removed comes back if the other still has it.
    """

    rule = "union"

    def merge(self, one: bytes, other: bytes) -> bytes:
        mine, theirs = read_or_none(_read, one), read_or_none(_read, other)
        if mine is None and theirs is None:
            return max(one, other)
        return b"[" + b",".join(sorted((mine or set()) | (theirs or set()))) + b"]"


def _read(value: bytes) -> set[bytes]:
    """Return the elements, encoded in the one way that equal ones share."""
    elements = json.loads(value)
    if not isinstance(elements, list):
        raise ValueError("no array")
    return {
        json.dumps(element, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() for element in elements
    }

"""What all resolvers that merge have in common.

The product of three joins is a join: of stamps, where the later one counts; of being deleted, which nothing undoes; and
of values, which is each resolver's own.
"""

from __future__ import annotations

from abc import abstractmethod

from clustercore.interfaces import ConflictDecision, ConflictResolver, Edit

__all__ = ["MergingResolver"]


class MergingResolver(ConflictResolver):
    """Merges values; a tombstone wins over every value that it is concurrent with."""

    # As a decision names it.
    rule: str

    @abstractmethod
    def merge(self, one: bytes, other: bytes) -> bytes:
        """Return the value that two different ones make; commutative, associative and idempotent."""

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        if one == other:
            return ConflictDecision(one, "same")
        stamp = max(one.stamp, other.stamp)
        if one.value is None or other.value is None:
            return ConflictDecision(Edit(stamp, None), "tombstone")
        return ConflictDecision(Edit(stamp, self.merge(one.value, other.value)), self.rule)

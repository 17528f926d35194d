"""A user's own function as a resolver."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clustercore.interfaces import ConflictDecision, Edit
from clustercore_lww.last_write import LastWriteWins
from clustercore_lww.merging import MergingResolver

__all__ = ["FunctionResolver"]

log = logging.getLogger(__name__)


class FunctionResolver(MergingResolver):
    """Merges values with a function.

    The function is never asked about equal values, and gets the smaller bytes first: so it need not be commutative.
    That it is associative and pure, and that what it made absorbs what it was made of, is the function's duty;
    ``clustercore.testing.conformance.ConflictResolverConformance`` checks it.

    Args:
        function: Takes two different values and returns what they make together. If it raises, the last write wins
            instead, by the rule "fallback", and the error is logged.
        rule: As decisions name it.
    """

    def __init__(self, function: Callable[[bytes, bytes], bytes], rule: str = "function") -> None:
        self._function = function
        self.rule = rule
        self._fallback = LastWriteWins()

    def merge(self, one: bytes, other: bytes) -> bytes:
        return one if one == other else self._function(min(one, other), max(one, other))

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        try:
            return super().resolve(one, other)
        except Exception:
            # A bug in a function of the application; the sync goes on, and the log tells.
            log.exception("the function of the conflict resolver %r failed; the last write wins", self.rule)
            return ConflictDecision(self._fallback.resolve(one, other).winner, "fallback")

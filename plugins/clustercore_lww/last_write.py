"""The last write wins: one of two edits, as it is, by the first rule that tells them apart.

The rules are a total order of all edits, so whichever edits a replica has seen, in whatever order, it keeps their
maximum. They are ``clustercore.interfaces.LAST_WRITE_RULES``, since sync itself falls back on them.
"""

from __future__ import annotations

from clustercore.interfaces import LAST_WRITE_RULES, ConflictDecision, ConflictResolver, Edit, last_write

__all__ = ["LWW_RULES", "LastWriteWins"]

LWW_RULES = LAST_WRITE_RULES


class LastWriteWins(ConflictResolver):
    """Keeps the edit of the higher version; of equal ones the later, then a tombstone, then by node id, then by bytes.

    "Version first" means that of two branches the one with more edits wins, however old they are. The loser is lost to
    the replicas, so whoever calls this keeps it in a log.
    """

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        return last_write(one, other)

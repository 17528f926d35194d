"""The last write wins: one of two edits, as it is, by the first rule that tells them apart.

The rules are a total order of all edits, so whichever edits a replica has seen, in whatever order, it keeps their
maximum. All comparisons are of integers and of bytes: no float, no text in somebody's locale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clustercore.interfaces import ConflictDecision, ConflictResolver, Edit

__all__ = ["LWW_RULES", "LastWriteWins"]

# In the order in which they are asked: the name, and what is compared; the larger wins.
LWW_RULES: tuple[tuple[str, Callable[[Edit], Any]], ...] = (
    ("version", lambda edit: edit.stamp.version),
    ("timestamp", lambda edit: edit.stamp.time),
    # A deletion beats what was written at the very same moment, as in Cassandra (CASSANDRA-14592).
    ("tombstone", lambda edit: edit.is_tombstone),
    ("node id", lambda edit: edit.stamp.node_id.encode()),
    # Two values under one stamp: some node is broken, and yet the others must agree.
    ("bytes", lambda edit: edit.value or b""),
)


class LastWriteWins(ConflictResolver):
    """Keeps the edit of the higher version; of equal ones the later, then a tombstone, then by node id, then by bytes.

    "Version first" means that of two branches the one with more edits wins, however old they are. The loser is lost to
    the replicas, so whoever calls this keeps it in a log.
    """

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        for rule, measure in LWW_RULES:
            ours, theirs = measure(one), measure(other)
            if ours != theirs:
                return ConflictDecision(one if ours > theirs else other, rule)
        return ConflictDecision(one, "same")

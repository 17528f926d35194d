"""ConflictResolver: which of two edits holds, when neither was made in knowledge of the other.

Whoever compares replicas finds out by ancestry whether one edit was made on top of the other; then nothing is to be
decided. A resolver is asked only about *concurrent* edits, and its answer has to be the same on every node, whatever
the order in which the edits arrive and however often. So it is a function, and a join:

* commutative: the order of the two makes no difference;
* associative: nor does it matter which two of several are resolved first;
* idempotent: an edit resolved with itself, or with an edit it has won over, is what comes out again.

Then replicas that saw the same edits are equal to the last byte (Shapiro et al., "Conflict-free Replicated Data Types",
SSS 2011, section 2.2). ``clustercore.testing.conformance.ConflictResolverConformance`` checks it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import attrs

from clustercore.interfaces.errors import ConfigError
from clustercore.raft.types import NodeId, show_length

__all__ = [
    "LAST_WRITE_RULES",
    "ConflictDecision",
    "ConflictResolver",
    "Edit",
    "EditStamp",
    "HybridTime",
    "last_write",
]

# A hybrid time fits into 64 bits: milliseconds for 8,900 years, and a counter.
_MAX_PHYSICAL_MS = 2**48 - 1
_MAX_LOGICAL = 2**16 - 1


@attrs.frozen(order=True)
class HybridTime:
    """A reading of a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014).

    It follows the wall clock, and never precedes what the node that read it had heard of. Two integers, because floats
    lose the difference between neighbours.

    Raises: ConfigError if a part is out of range.
    """

    # Milliseconds since 1970-01-01 UTC, from 0 to 2**48 - 1.
    physical_ms: int
    # Tells readings of one millisecond apart, from 0 to 2**16 - 1.
    logical: int = 0

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.physical_ms <= _MAX_PHYSICAL_MS:
            raise ConfigError(f"physical_ms is {self.physical_ms}; it must be from 0 to {_MAX_PHYSICAL_MS}")
        if not 0 <= self.logical <= _MAX_LOGICAL:
            raise ConfigError(f"logical is {self.logical}; it must be from 0 to {_MAX_LOGICAL}")


@attrs.frozen(order=True)
class EditStamp:
    """When and where an edit was made. Ordered by version, then time, then the node's id.

    The ids are compared by code points, which is the order of their UTF-8 bytes.

    Raises: ConfigError if the version is below 1 or the id is empty.
    """

    # One more than that of the edit it was based on; 1 for the first.
    version: int
    time: HybridTime
    # Who made it. No two nodes have the same.
    node_id: NodeId

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        if self.version < 1:
            raise ConfigError(f"version is {self.version}; it must be at least 1")
        if not self.node_id:
            raise ConfigError("node_id is empty; an edit names the node that made it")


@attrs.frozen
class Edit:
    """One writer's value of one group of fields, or its deletion."""

    stamp: EditStamp
    # The canonical encoding: equal values have equal bytes. None if this edit is a tombstone: it deletes.
    value: bytes | None = attrs.field(repr=lambda value: "None" if value is None else show_length(value))

    @property
    def is_tombstone(self) -> bool:
        """Whether it deletes."""
        return self.value is None


@attrs.frozen
class ConflictDecision:
    """What holds, and why."""

    # One of the two edits, or one that was merged from both. Its stamp is the later of the two or, if one of the edits
    # wins as it is, that one's; the version is the higher of the two: a merge is no edit, and counts nothing up.
    winner: Edit
    # The rule that decided, in a word or two, for people and statistics. The same for both orders.
    rule: str


# The rules of the last write, in the order in which they are asked: the name, and what is compared; the larger wins.
# They are a total order of all edits, by integers and bytes only: no float, no text in somebody's locale.
LAST_WRITE_RULES: tuple[tuple[str, Callable[[Edit], Any]], ...] = (
    ("version", lambda edit: edit.stamp.version),
    ("timestamp", lambda edit: edit.stamp.time),
    # A deletion beats what was written at the very same moment, as in Cassandra (CASSANDRA-14592).
    ("tombstone", lambda edit: edit.is_tombstone),
    ("node id", lambda edit: edit.stamp.node_id.encode()),
    # Two values under one stamp: some node is broken, and yet the others must agree.
    ("bytes", lambda edit: edit.value or b""),
)


def last_write(one: Edit, other: Edit) -> ConflictDecision:
    """Return which of two edits the last-write rules prefer, as it is, and the first rule that tells them apart.

    What holds where no resolver is named, and where one fails. ``clustercore_lww`` has it as a ConflictResolver.
    """
    for rule, measure in LAST_WRITE_RULES:
        ours, theirs = measure(one), measure(other)
        if ours != theirs:
            return ConflictDecision(one if ours > theirs else other, rule)
    return ConflictDecision(one, "same")


class ConflictResolver(ABC):
    """Decides between concurrent edits of one group of fields.

    It holds no state that changes: no clock, randomness, I/O, or order of a set or of ``hash()``. Its constructor's
    parameters are its options in a configuration file.

    Called by: the sync of each node, in any task, as often as edits meet.
    """

    @abstractmethod
    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        """Return what holds of two edits, and the rule that says so.

        Commutative, associative and idempotent in ``winner``, for all edits: also tombstones, also two of the same
        stamp with different values, which a broken node may have made. What was deleted by both stays deleted.

        Raises: nothing. A value that cannot be read is compared as bytes.
        """

"""What must hold on the disks of a cluster at any moment, which may be the one of a power cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from clustercore.interfaces import StoredState
from clustercore.testing.violation import PropertyViolated

__all__ = ["check_disks"]


def check_disks(states: Iterable[StoredState]) -> None:
    """Check that each disk's log is sound, and that the logs match.

    Raises: PropertyViolated.
    """
    every = list(states)
    for state in every:
        _check_log(state)
    for one, other in combinations(every, 2):
        _check_match(one, other)


def _check_log(state: StoredState) -> None:
    if not state.entries:
        return
    covered = state.snapshot.last_included_index if state.snapshot is not None else 0
    first, last = state.entries[0], state.entries[-1]
    if last.index - first.index + 1 != len(state.entries) or first.index > covered + 1:
        raise PropertyViolated("recovery", f"a gap between {covered}, {first.index} and {last.index}")
    terms = [entry.term for entry in state.entries]
    if terms != sorted(terms):
        raise PropertyViolated("recovery", f"terms fall: {terms}")
    if last.term > state.hard_state.current_term:
        raise PropertyViolated("durable before visible", f"{last} is of a later term than the stored one")


def _check_match(one: StoredState, other: StoredState) -> None:
    """Two logs with an entry of the same index and term agree in all before it (Raft §5.3, Log Matching)."""
    if not one.entries or not other.entries:
        return
    first = max(one.entries[0].index, other.entries[0].index)
    last = min(one.entries[-1].index, other.entries[-1].index)
    if last < first:
        return
    ours = one.entries[first - one.entries[0].index : last + 1 - one.entries[0].index]
    theirs = other.entries[first - other.entries[0].index : last + 1 - other.entries[0].index]
    has_matched = False
    for our, their in zip(reversed(ours), reversed(theirs), strict=True):
        has_matched = has_matched or our.term == their.term
        if has_matched and our is not their and our != their:
            raise PropertyViolated("log matching", f"{our} and {their} come before an entry they share", "Raft §5.3")

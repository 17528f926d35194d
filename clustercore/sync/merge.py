"""What becomes of two states of one group that meet.

Of a write, each replica knows one of three things: nothing, that it is a head, or that it is overruled. ``join`` takes
for each write what the better informed of the two says; overruled beats head, head beats nothing. That is a maximum,
and so the join is commutative, associative and idempotent whatever the states are: replicas that were told of the same
writes hold the same bytes, in whatever order, grouping and repetition they were told. The argument in full is in
docs/explanation/convergence.md.

Which value readers see (``pick``) is a function of the heads, and has no part in that.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from enum import Enum
from itertools import combinations
from typing import Any

import attrs

from clustercore.interfaces import ConflictDecision, ConflictResolver, Edit, last_write
from clustercore.sync.writes import GroupState, Stamp, Write

__all__ = ["Joined", "Relation", "decide", "join", "join_heads", "pick", "precedence"]


class Relation(Enum):
    """How a state that came stands to the one that was here."""

    # There was nothing here.
    NEW = "new"
    # It is the one that is here.
    DUPLICATE = "duplicate"
    # All that is in it was overruled here, or is here beside more.
    STALE = "stale"
    # All that is here was known to those who made it.
    FAST_FORWARD = "fast-forward"
    # Edits that did not know each other have met.
    CONCURRENT = "concurrent"


@attrs.frozen
class Joined:
    """The outcome of a join."""

    state: GroupState
    relation: Relation
    # Pairs of heads that met here for the first time: conflicts.
    conflicts: tuple[tuple[Write, Write], ...] = ()
    # Pairs of different writes under one stamp: some node is broken, or two nodes have one id.
    corruptions: tuple[tuple[Write, Write], ...] = ()


def join(here: GroupState | None, came: GroupState) -> Joined:
    """Return what is known when both are. ``here`` and ``came`` are as they were."""
    if here is None:
        if len(came.heads) == 1:
            return Joined(came, Relation.NEW)
        return _describe(came, Relation.NEW, {_dot(head) for head in came.heads})
    mine, theirs = here.heads, came.heads
    if len(mine) == len(theirs) == 1:
        # What nearly always happens, told by two look-ups: whether each knew the other.
        one, other = mine[0].stamp, theirs[0].stamp
        theirs_is_news = other.time > here.seen.get(other.writer, -1)
        mine_is_news = one.time > came.seen.get(one.writer, -1)
        if theirs_is_news:
            return _meet(here, came) if mine_is_news else Joined(_state(theirs, here, came), Relation.FAST_FORWARD)
        if one.time == other.time and one.writer == other.writer:
            # Of a state that was read, the bytes are there: nothing is compared part by part.
            if here.encoded == came.encoded:
                return Joined(here, Relation.DUPLICATE)
        elif mine_is_news and _has_seen(here, came):
            return Joined(here, Relation.STALE)
    return join_heads(here, came)


def _meet(here: GroupState, came: GroupState) -> Joined:
    """Return the outcome for two single heads that did not know each other. They are of different writers."""
    mine, theirs = here.heads[0], came.heads[0]
    pair = (mine, theirs) if mine.stamp.writer < theirs.stamp.writer else (theirs, mine)
    conflicts = (pair,)
    corruptions = conflicts if mine.stamp.is_like(theirs.stamp) else ()
    return Joined(GroupState(pair, _seen_by_both(here, came)), Relation.CONCURRENT, conflicts, corruptions)


def join_heads(here: GroupState, came: GroupState) -> Joined:
    """Return what ``join`` does, for any number of heads. ``join`` has shorter ways to the same for what is common."""
    corruptions: list[tuple[Write, Write]] = []
    theirs = {_dot(head): head for head in came.heads}
    kept: dict[tuple[str, int], Write] = {}
    fresh: set[tuple[str, int]] = set()
    for head in here.heads:
        dot = _dot(head)
        twin = theirs.pop(dot, None)
        if twin is not None and twin != head:
            corruptions.append((head, twin))
            kept[dot] = max(head, twin, key=_bytes_of)
        elif twin is not None or head.stamp.time > came.seen.get(head.stamp.writer, -1):
            kept[dot] = head
    overruled = len(kept) < len(here.heads)
    for dot, head in theirs.items():
        if head.stamp.time > here.seen.get(head.stamp.writer, -1):
            kept[dot] = head
            fresh.add(dot)
    heads = tuple(kept[dot] for dot in sorted(kept))
    state = _state(heads, here, came)
    if state == here:
        relation = Relation.DUPLICATE if state == came else Relation.STALE
        return Joined(here, relation, (), tuple(corruptions))
    if fresh and len(heads) > len(fresh):
        relation = Relation.CONCURRENT
    elif fresh or overruled:
        relation = Relation.FAST_FORWARD
    else:
        relation = Relation.STALE
    return _describe(state, relation, fresh, tuple(corruptions))


def _has_seen(one: GroupState, other: GroupState) -> bool:
    """Whether one has seen each writer up to where the other has."""
    seen = one.seen
    return all(seen.get(writer, -1) >= time for writer, time in other.seen.items())


def _state(heads: tuple[Write, ...], here: GroupState, came: GroupState) -> GroupState:
    if heads is came.heads and _has_seen(came, here):
        # With the bytes that it was read from.
        return came
    return GroupState(heads, _seen_by_both(here, came))


def _seen_by_both(here: GroupState, came: GroupState) -> dict[str, int]:
    seen = dict(here.seen)
    for writer, time in came.seen.items():
        if seen.get(writer, -1) < time:
            seen[writer] = time
    return seen


def _describe(
    state: GroupState,
    relation: Relation,
    fresh: Set[tuple[str, int]],
    corruptions: tuple[tuple[Write, Write], ...] = (),
) -> Joined:
    """Return the outcome with the pairs that met. ``fresh`` are the dots of the heads that are new here."""
    if len(state.heads) == 1 or not fresh:
        return Joined(state, relation, (), corruptions)
    pairs = [pair for pair in combinations(state.heads, 2) if _dot(pair[0]) in fresh or _dot(pair[1]) in fresh]
    twins = [pair for pair in pairs if pair[0].stamp.is_like(pair[1].stamp)]
    return Joined(state, relation, tuple(pairs), (*corruptions, *twins))


def _dot(write: Write) -> tuple[str, int]:
    return write.stamp.writer, write.stamp.time


def _bytes_of(write: Write) -> bytes:
    return write.encoded


# --- What readers see ------------------------------------------------------------------------------------------------


def precedence(write: Write) -> tuple[int, int, bool, bytes, bytes, str]:
    """Return what the last-write rules compare of a write, in their order; the larger wins. Two are never equal."""
    stamp = write.stamp
    return stamp.version, stamp.time, write.value is None, stamp.node_id.encode(), write.value or b"", stamp.writer


def pick(
    heads: tuple[Write, ...],
    resolver: ConflictResolver | None = None,
    on_failure: Callable[[Exception], Any] | None = None,
) -> tuple[Stamp, bytes | None]:
    """Return the stamp and the value that heads have together.

    Args:
        heads: As in a state. They are handed to the resolver in their order, which is the same on all nodes, so its
            answer is too, even if it is no join.
        resolver: None for the last write.
        on_failure: Is told when the resolver raised, which its contract forbids. The last write then holds.
    """
    if len(heads) == 1:
        return heads[0].stamp, heads[0].value
    latest = max(heads, key=precedence)
    if resolver is None:
        return latest.stamp, latest.value
    try:
        edit = heads[0].edit
        for head in heads[1:]:
            edit = _resolve(resolver, edit, head.edit).winner
    except Exception as error:  # noqa: BLE001 - handed on; the application's function may raise anything
        if on_failure is not None:
            on_failure(error)
        return latest.stamp, latest.value
    return _stamp_of(edit, heads), edit.value


def _resolve(resolver: ConflictResolver, one: Edit, other: Edit) -> ConflictDecision:
    """Return what a resolver says. Raises: whatever it does, and TypeError if it says something else than it should."""
    decision: Any = resolver.resolve(one, other)
    if not isinstance(decision, ConflictDecision):
        raise TypeError(f"a resolver returned {decision!r}; it must return a ConflictDecision")
    rule: Any = decision.rule
    winner: Any = decision.winner
    if not (isinstance(rule, str) and isinstance(winner, Edit) and isinstance(winner.value, bytes | None)):
        raise TypeError(
            f"a resolver returned {decision!r}; its rule must be text, its winner an edit with bytes or None"
        )
    return decision


def _stamp_of(edit: Edit, heads: tuple[Write, ...]) -> Stamp:
    """Return the stamp of the head whose stamp a resolver's winner has; the latest, if it has none of them."""
    bearers = [head for head in heads if head.stamp.edit_stamp == edit.stamp]
    return max(bearers or heads, key=precedence).stamp


def decide(
    one: Edit,
    other: Edit,
    resolver: ConflictResolver | None,
    on_failure: Callable[[Exception], Any],
) -> ConflictDecision:
    """Return what holds of two edits, and by which rule; by the last-write rules if the resolver raises."""
    if resolver is None:
        return last_write(one, other)
    try:
        return _resolve(resolver, one, other)
    except Exception as error:  # noqa: BLE001 - handed on; the application's function may raise anything
        on_failure(error)
        return ConflictDecision(last_write(one, other).winner, "fallback")

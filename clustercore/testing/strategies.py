"""Hypothesis strategies for what Raft is made of: configurations, logs, and worlds with their schedules.

It needs ``hypothesis`` (the extra ``testing``). What it draws shrinks towards few nodes, short logs and schedules,
plain worlds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import hypothesis.strategies as st

from clustercore.interfaces import Configuration, Entry, EntryKind, LogIndex, NodeId, Server, Term
from clustercore.testing.protocol.choices import WEIGHTS, Choice, Kind
from clustercore.testing.protocol.plan import CHAOS, UNBOUNDED, WorldPlan

__all__ = ["choices", "configurations", "logs", "node_ids", "plans", "schedules"]

NAMES = tuple("abcdefg")
# Each kind of choice about as often as in a seeded schedule, the rare ones somewhat more.
_KINDS = [kind for kind, weight in WEIGHTS.items() for _ in range(math.ceil(weight))]


def node_ids(names: Sequence[str] = NAMES) -> st.SearchStrategy[NodeId]:
    """Draw the id of one of these nodes."""
    return st.sampled_from([NodeId(name) for name in names])


@st.composite
def configurations(
    draw: st.DrawFn,
    names: Sequence[str] = NAMES,
    *,
    max_voters: int = 5,
    may_be_joint: bool = True,
    cluster_id: str = "test",
) -> Configuration:
    """Draw members: one voter or more, learners beside them, and perhaps the voters that are being left.

    Args:
        draw: Given by Hypothesis.
        names: The nodes that may be members.
        max_voters: At most so many, and so many old ones.
        may_be_joint: Whether it may decide by two majorities.
        cluster_id: The cluster's, or empty for one that is not formed.
    """
    ids = [NodeId(name) for name in names]
    voters = draw(st.sets(st.sampled_from(ids), min_size=1, max_size=max_voters))
    old_voters = draw(st.sets(st.sampled_from(ids), max_size=max_voters)) if may_be_joint else set()
    learners = draw(st.sets(st.sampled_from(ids), max_size=2)) - voters
    servers = [Server(voter) for voter in voters]
    servers += [Server(learner, is_voter=False, is_promoted=draw(st.booleans())) for learner in sorted(learners)]
    return Configuration.with_servers(servers, old_voters=frozenset(old_voters), cluster_id=cluster_id)


@st.composite
def logs(draw: st.DrawFn, *, max_size: int = 10, max_term: int = 5, first_index: int = 1) -> list[Entry]:
    """Draw a log: consecutive entries, with terms that never fall, each a command or the no-op that opens a term.

    Two logs that are drawn so need not match: they may have different commands at one index and term.
    """
    terms = sorted(draw(st.lists(st.integers(1, max_term), max_size=max_size)))
    entries: list[Entry] = []
    for offset, term in enumerate(terms):
        kind = draw(st.sampled_from([EntryKind.COMMAND, EntryKind.NO_OP]))
        command = draw(st.binary(max_size=4)) if kind is EntryKind.COMMAND else b""
        entries.append(Entry.create(LogIndex(first_index + offset), Term(term), kind, command))
    return entries


@st.composite
def plans(draw: st.DrawFn, *, max_voters: int = 5, max_spares: int = 1) -> WorldPlan:
    """Draw a world of the protocol level."""
    voters = draw(st.sampled_from([count for count in (3, 1, 2, 4, 5, 6, 7) if count <= max_voters]))
    is_forming = draw(st.booleans())
    rates = st.lists(st.sampled_from([1.0, 0.5, 0.8, 1.25, 2.0]), max_size=voters)
    return WorldPlan(
        seed=draw(st.integers(0, 1000)),
        voters=voters,
        spares=draw(st.integers(0, max_spares)),
        is_forming=is_forming,
        max_append_entries=draw(st.sampled_from([1, 2, 8, UNBOUNDED])),
        max_append_bytes=draw(st.sampled_from([100_000, 1, 60])),
        max_inflight_appends=draw(st.integers(1, 4)),
        snapshot_every=draw(st.sampled_from([0, 3, 5])),
        snapshot_tail=draw(st.integers(0, 3)),
        chunk_bytes=draw(st.sampled_from([3, 1, 100])),
        snapshot_hold_bytes=draw(st.sampled_from([1_000_000, 60])),
        has_ordered_links=draw(st.booleans()),
        slow_disk=draw(st.integers(-1, 2)),
        clock_rates=tuple(draw(rates)),
        loses_disks=is_forming and voters >= 3 and draw(st.booleans()),
        chaos=draw(st.sampled_from(sorted(CHAOS))),
    )


def choices(kinds: Sequence[Kind] = _KINDS) -> st.SearchStrategy[Choice]:
    """Draw one choice of an adversary, of one of these kinds; one that is there more than once is drawn more often."""
    return st.tuples(st.sampled_from(kinds), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))


def schedules(*, max_size: int = 200, kinds: Sequence[Kind] = _KINDS) -> st.SearchStrategy[list[Choice]]:
    """Draw a schedule for ``clustercore.testing.protocol.runs.run_schedule``."""
    return st.lists(choices(kinds), max_size=max_size)

"""One faulty conflict resolver, at least, for each rule of their kit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs

from clustercore.interfaces import ConflictDecision, ConflictResolver, Edit, EditStamp
from clustercore.testing.conformance import ConflictResolverConformance
from clustercore_lww import LastWriteWins
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "ResolverKit"]

FAULTS: list[Fault] = []
Resolve = Callable[[Edit, Edit], ConflictDecision]
_COUNTER = itertools.count()


class ResolverKit(ConflictResolverConformance):
    """The kit as the author of such a resolver derives it."""

    def make(self) -> ConflictResolver:
        return LastWriteWins()


class FunctionOfTwo(ConflictResolver):
    """Makes a resolver of a function."""

    def __init__(self, function: Callable[[Edit, Edit], ConflictDecision]) -> None:
        self._function = function

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        return self._function(one, other)


def plant(rule: str, what: str, expects: type[Exception] = AssertionError) -> Callable[[Resolve], Resolve]:
    """Add a fault to the table."""

    def add(function: Callable[[Edit, Edit], ConflictDecision]) -> Callable[[Edit, Edit], ConflictDecision]:
        kit = type("TestPlanted", (ResolverKit,), {"make": lambda self: FunctionOfTwo(function)})
        FAULTS.append(Fault(rule, what, kit, expects))
        return function

    return add


def last_write(one: Edit, other: Edit) -> ConflictDecision:
    return LastWriteWins().resolve(one, other)


@plant("test_order_of_the_two_makes_no_difference", "goes by the timestamp and keeps its own when in doubt")
@plant("test_replicas_agree_whatever_the_delivery", "goes by the timestamp and keeps its own when in doubt")
@plant("test_winner_has_the_higher_version_and_no_higher", "goes by the timestamp and keeps its own when in doubt")
def by_timestamp(one: Edit, other: Edit) -> ConflictDecision:
    return ConflictDecision(other if other.stamp.time > one.stamp.time else one, "timestamp")


@plant("test_order_of_the_two_makes_no_difference", "compares versions as floats")
def by_float(one: Edit, other: Edit) -> ConflictDecision:
    ours, theirs = float(one.stamp.version), float(other.stamp.version)
    return ConflictDecision(one if ours >= theirs else other, "version")


@plant("test_order_of_the_two_makes_no_difference", "names its rule by the order")
def by_order(one: Edit, other: Edit) -> ConflictDecision:
    winner = last_write(one, other).winner
    return ConflictDecision(winner, "ours" if winner == one else "theirs")


@plant("test_grouping_makes_no_difference", "takes each side's turn")
def by_remainder(one: Edit, other: Edit) -> ConflictDecision:
    # As in a game where each of three beats one other: both orders agree, and no three edits have a winner.
    if (one.stamp.node_id, one.value) == (other.stamp.node_id, other.value):
        return last_write(one, other)
    ours, theirs = (len(edit.value or b"") + ord(edit.stamp.node_id[0]) for edit in (one, other))
    return ConflictDecision(max(one, other, key=_key) if (ours + theirs) % 2 else min(one, other, key=_key), "turn")


def _key(edit: Edit) -> tuple[EditStamp, bytes]:
    return edit.stamp, edit.value or b""


@plant("test_edit_and_itself_are_that_edit", "counts a merge as an edit")
@plant("test_decision_stands_when_a_loser_comes_back", "counts a merge as an edit")
@plant("test_winner_has_the_higher_version_and_no_higher", "counts a merge as an edit")
def counting_up(one: Edit, other: Edit) -> ConflictDecision:
    winner = last_write(one, other).winner
    return ConflictDecision(
        attrs.evolve(winner, stamp=attrs.evolve(winner.stamp, version=winner.stamp.version + 1)), "merge"
    )


@plant("test_decision_stands_when_a_loser_comes_back", "adds what it merges")
def adding(one: Edit, other: Edit) -> ConflictDecision:
    if one == other:
        return ConflictDecision(one, "same")
    sizes = sorted([one.value or b"", other.value or b""])
    return ConflictDecision(Edit(max(one.stamp, other.stamp), sizes[0] + sizes[1]), "sum")


@plant("test_answer_depends_on_nothing_but_the_edits", "has a memory")
def remembering(one: Edit, other: Edit) -> ConflictDecision:
    return ConflictDecision(last_write(one, other).winner, f"decision {next(_COUNTER)}")


@plant("test_two_deletions_are_a_deletion", "takes two tombstones for an empty value")
def reviving(one: Edit, other: Edit) -> ConflictDecision:
    winner = last_write(one, other).winner
    return ConflictDecision(attrs.evolve(winner, value=winner.value or b""), "value")


@plant("test_decision_names_its_rule", "does not say why")
def silent(one: Edit, other: Edit) -> ConflictDecision:
    return ConflictDecision(last_write(one, other).winner, "")


@plant("test_any_value_is_borne", "reads every value as text", UnicodeDecodeError)
def reading(one: Edit, other: Edit) -> ConflictDecision:
    for edit in (one, other):
        if edit.value is not None and edit.value != b"\xff":
            edit.value.decode()
    return last_write(one, other)

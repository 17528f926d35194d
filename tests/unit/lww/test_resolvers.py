"""Which edit wins, and by which rule: the laws that hold for all of them are in tests/conformance."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

import clustercore_lww
from clustercore.interfaces import ConfigError, ConflictDecision, Edit, EditStamp, HybridTime, NodeId
from clustercore.runtime.plugins import CONFLICT_RESOLVER, load_plugin
from clustercore_lww import (
    LWW_RULES,
    FunctionResolver,
    LastWriteWins,
    LatticeResolver,
    MaxResolver,
    MinResolver,
    UnionResolver,
)
from tests.unit.docs_pages import table
from tests.unit.repository import reads_repository


def edit(value: bytes | None = b"1", *, version: int = 1, ms: int = 1000, logical: int = 0, node: str = "a") -> Edit:
    """Return an edit; what is not said is as usual."""
    return Edit(EditStamp(version, HybridTime(ms, logical), NodeId(node)), value)


@pytest.mark.parametrize(
    ("loser", "winner", "rule"),
    [
        (edit(ms=9000, node="z"), edit(version=2), "version"),
        (edit(version=2**53), edit(version=2**53 + 1), "version"),
        (edit(version=9), edit(version=10), "version"),
        (edit(None, node="z"), edit(ms=1001), "timestamp"),
        (edit(node="z"), edit(logical=1), "timestamp"),
        (edit(node="z"), edit(None), "tombstone"),
        (edit(b"9"), edit(b"1", node="b"), "node id"),
        (edit(node="\uffee"), edit(node="\U0001f6e9"), "node id"),
        (edit(b"1"), edit(b"2"), "bytes"),
    ],
)
def test_last_write_wins_by_the_first_rule_that_differs(loser: Edit, winner: Edit, rule: str) -> None:
    """Version, then time, then tombstone, then node id, then bytes, each against all that come after it."""
    resolver = LastWriteWins()

    assert resolver.resolve(loser, winner) == resolver.resolve(winner, loser) == ConflictDecision(winner, rule)


def test_last_write_of_the_same_edit_is_the_same() -> None:
    """An edit and itself are no conflict, and the rule says so."""
    assert LastWriteWins().resolve(edit(), edit()) == ConflictDecision(edit(), "same")
    assert [name for name, _ in LWW_RULES] == ["version", "timestamp", "tombstone", "node id", "bytes"]


def test_max_and_min_keep_the_number_whatever_the_version() -> None:
    """The value is the extreme one, the stamp the later one; integers beyond floats are told apart."""
    old, new = edit(b"9007199254740993"), edit(b"9007199254740992", version=2)

    assert MaxResolver().resolve(old, new) == ConflictDecision(Edit(new.stamp, b"9007199254740993"), "max")
    assert MinResolver().resolve(old, new) == ConflictDecision(Edit(new.stamp, b"9007199254740992"), "min")


@pytest.mark.parametrize("resolver", [MaxResolver(), MinResolver()])
@pytest.mark.parametrize("unread", [b"true", b"1.5", b'"7"', b"\xff", b""])
def test_number_wins_over_what_is_none(resolver: MaxResolver, unread: bytes) -> None:
    """What cannot be read as an integer loses to what can."""
    assert resolver.resolve(edit(unread), edit(b"0")).winner.value == b"0"


def test_union_has_each_element_once_in_order() -> None:
    """Elements are the same if their values are, however they were written."""
    assert UnionResolver().resolve(edit(b'["b", {"y":1,"x":2}]'), edit(b'[{"x": 2, "y": 1}, "a"]')) == ConflictDecision(
        edit(b'["a","b",{"x":2,"y":1}]'), "union"
    )


def test_tombstone_wins_over_what_is_merged() -> None:
    """A deletion is not undone by a merge, and bears the later stamp."""
    later = edit(b"7", version=3)

    assert MaxResolver().resolve(edit(None), later) == ConflictDecision(Edit(later.stamp, None), "tombstone")


def test_lattice_takes_the_least_state_at_or_after_both() -> None:
    """A state that the other leads to wins; two that lead to a third become that one."""
    lattice = LatticeResolver({"NEW": ["LEFT", "RIGHT"], "LEFT": ["BOTH"], "RIGHT": ["BOTH"], "BOTH": []})

    assert lattice.resolve(edit(b'"NEW"'), edit(b'"LEFT"')).winner.value == b'"LEFT"'
    assert lattice.resolve(edit(b'"LEFT"'), edit(b'"RIGHT"')) == ConflictDecision(edit(b'"BOTH"'), "lattice")
    assert lattice.resolve(edit(b'"UNHEARD OF"'), edit(b'"NEW"')).winner.value == b'"NEW"'


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"A": ["B"]}, "names 'B'"),
        ({"A": ["B"], "B": ["A"]}, "comes after itself"),
        ({"A": [], "B": []}, r"'A' and 'B' lead to \[\]"),
        ({"A": ["C", "D"], "B": ["C", "D"], "C": ["E"], "D": ["E"], "E": []}, r"'A' and 'B' lead to \['C', 'D', 'E'\]"),
    ],
)
def test_lattice_refuses_what_is_none(states: dict[str, list[str]], message: str) -> None:
    """States without one least common successor are refused, by name."""
    with pytest.raises(ConfigError, match=message):
        LatticeResolver(states)


def test_function_that_raises_lets_the_last_write_win(caplog: pytest.LogCaptureFixture) -> None:
    """The decision names the fallback, and the error is logged: nothing is lost without a word."""

    def fail(one: bytes, other: bytes) -> bytes:
        raise ZeroDivisionError("a bug")

    with caplog.at_level(logging.ERROR):
        decision = FunctionResolver(fail).resolve(edit(b"1"), edit(b"2", version=2))

    assert decision == ConflictDecision(edit(b"2", version=2), "fallback")
    assert "ZeroDivisionError: a bug" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HybridTime(-1), "physical_ms is -1"),
        (lambda: HybridTime(2**48), "physical_ms"),
        (lambda: HybridTime(0, 2**16), "logical is 65536"),
        (lambda: EditStamp(0, HybridTime(0), NodeId("a")), "version is 0"),
        (lambda: EditStamp(1, HybridTime(0), NodeId("")), "node_id is empty"),
    ],
)
def test_stamp_refuses_what_is_out_of_range(make: Callable[[], object], message: str) -> None:
    """A stamp that no node can have made says what is wrong with it."""
    with pytest.raises(ConfigError, match=message):
        make()


@reads_repository
def test_page_on_conflicts_has_the_rules_and_the_resolvers() -> None:
    """The rules are there in the order in which they are asked, and the names are those that are registered."""
    assert [row[0] for row in table("docs/how-to/resolve-conflicts.md", "rule")] == [name for name, _ in LWW_RULES]
    for name, class_name, _ in table("docs/how-to/resolve-conflicts.md", "name"):
        assert hasattr(clustercore_lww, class_name)
        assert not name or load_plugin(CONFLICT_RESOLVER, name).__name__ == class_name


def test_resolvers_are_found_by_name() -> None:
    """Each that needs no code of the user's is registered."""
    found = {name: load_plugin(CONFLICT_RESOLVER, name) for name in ("lattice", "lww", "max", "min", "union")}

    assert found["lww"] is LastWriteWins
    assert len(set(found.values())) == 5

"""What is remembered of others, however many there are."""

from __future__ import annotations

from clustercore.interfaces import Hello, NodeId
from clustercore.runtime.remembered import MAX_STRANGERS, Remembered
from clustercore.runtime.versions import CommandVersions
from tests.unit.runtime.fakes import introductions_of

A, B = NodeId("a"), NodeId("b")


def stranger(number: int) -> NodeId:
    """One of many."""
    return NodeId(f"stranger-{number:04}")


def test_strangers_noted_longest_ago_are_forgotten_and_members_never() -> None:
    """To be noted again is to be noted last; the newest value counts."""
    members = {A}
    remembered = Remembered[int](members.__contains__)
    remembered.note(A, 1)
    for number in range(MAX_STRANGERS):
        remembered.note(stranger(number), number)
    remembered.note(stranger(0), -1)
    remembered.note(B, 2)

    assert remembered.get(A) == 1
    assert remembered.get(B) == 2
    assert remembered.get(stranger(0)) == -1
    assert remembered.get(stranger(1)) is None
    assert len(remembered.all()) == MAX_STRANGERS + 1

    # One that is a member no more is a stranger like all others.
    members.clear()
    remembered.note(stranger(1), 1)
    assert remembered.get(A) is None
    assert len(remembered.all()) == MAX_STRANGERS


def test_pop_forgets() -> None:
    """Whether anything was noted or not."""
    remembered = Remembered[int](lambda node_id: False)
    remembered.note(A, 1)
    remembered.pop(A)
    remembered.pop(B)

    assert remembered.all() == {}


def test_hellos_in_any_number_of_names_fill_no_memory_issue_3() -> None:
    """Neither those that are taken nor those that are refused."""
    introductions = introductions_of("a", cluster_id="here")
    for number in range(2 * MAX_STRANGERS):
        assert not introductions.answer(Hello(stranger(number), A, election_timeout_s=1.0)).refusal
        assert introductions.answer(Hello(stranger(number), A, cluster_id="elsewhere")).refusal

    assert len(introductions.election_timeouts_s) == MAX_STRANGERS
    assert len(introductions._told.all()) == MAX_STRANGERS


def test_announcements_in_any_number_of_names_leave_those_of_members_issue_3() -> None:
    """What members announced goes on to count, this node's own word included."""
    asked: list[int] = []
    versions = CommandVersions(
        A, 3, members=lambda: (A, B), is_leader=lambda: True, enabled=lambda: 1, enable=asked.append
    )
    versions.announce(B, 2)
    for number in range(2 * MAX_STRANGERS):
        versions.announce(stranger(number), 1)

    assert asked[-1] == 2
    assert len(versions._announced.all()) == MAX_STRANGERS + 2

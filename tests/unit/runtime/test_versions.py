"""Switching on a version of the application's commands."""

from __future__ import annotations

import pytest

from clustercore.raft.types import NodeId
from clustercore.runtime.versions import CommandVersions, enabled_version

A, B, C = (NodeId(name) for name in "abc")


@pytest.mark.parametrize(
    ("announced", "members", "version"),
    [
        ({A: 2}, [A], 2),
        ({A: 2, B: 3}, [A, B], 2),
        ({A: 2, B: 3, C: 1}, [A, B], 2),
        ({A: 2, B: 3}, [A, B, C], 0),
        ({}, [], 0),
    ],
)
def test_highest_version_that_all_members_know_can_be_on(
    announced: dict[NodeId, int], members: list[NodeId], version: int
) -> None:
    """One who has not said anything may know nothing; one who is no member has no say."""
    assert enabled_version(announced, members) == version


def test_leader_switches_on_what_all_know_and_nobody_else_does() -> None:
    """It looks when it is told to, and asks until it is on."""
    asked: list[int] = []
    leads, enabled = [False], [1]
    versions = CommandVersions(
        A, 3, members=lambda: (A, B), is_leader=lambda: leads[0], enabled=lambda: enabled[0], enable=asked.append
    )
    versions.announce(B, 2)
    assert asked == []
    leads[0] = True
    versions.look()
    versions.look()
    assert asked == [2, 2]
    enabled[0] = 2
    versions.look()
    assert asked == [2, 2, 0]

    versions.announce(B, 4)

    assert asked == [2, 2, 0, 3]


def test_version_that_a_new_member_does_not_know_is_taken_back() -> None:
    """It was asked for and is not in the log yet, as the leader takes no proposals now. The new one would halt."""
    asked: list[int] = []
    members = [A, B]
    versions = CommandVersions(
        A, 2, members=lambda: members, is_leader=lambda: True, enabled=lambda: 1, enable=asked.append
    )
    versions.announce(B, 2)
    members.append(C)
    versions.look()

    assert asked == [2, 0]

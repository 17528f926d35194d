"""Quorum arithmetic."""

import pytest

from clustercore.raft.quorum import VoteResult, is_quorum, quorum_size, quorum_value, vote_result
from clustercore.raft.types import Configuration, LogIndex, NodeId


@pytest.mark.parametrize(("voters", "size"), [("a", 1), ("ab", 2), ("abc", 2), ("abcd", 3), ("abcde", 3)])
def test_quorum_size_is_a_majority(voters: str, size: int) -> None:
    """Any two quorums of one configuration share a voter (Raft §5.2)."""
    assert quorum_size(Configuration.of(voters).voters) == size
    assert 2 * size > len(voters)


@pytest.mark.parametrize(
    ("voters", "granted", "denied", "result"),
    [
        ("a", "", "", VoteResult.PENDING),
        ("a", "a", "", VoteResult.WON),
        ("a", "", "a", VoteResult.LOST),
        ("ab", "a", "", VoteResult.PENDING),
        ("ab", "a", "b", VoteResult.LOST),
        ("ab", "ab", "", VoteResult.WON),
        ("abc", "ab", "", VoteResult.WON),
        ("abc", "a", "b", VoteResult.PENDING),
        ("abc", "a", "bc", VoteResult.LOST),
        ("abc", "ax", "b", VoteResult.PENDING),
        ("abc", "axyz", "", VoteResult.PENDING),
        ("abcde", "ab", "cd", VoteResult.PENDING),
        ("abcde", "abe", "cd", VoteResult.WON),
        ("abcde", "ab", "cde", VoteResult.LOST),
    ],
)
def test_vote_result_counts_voters_only(voters: str, granted: str, denied: str, result: VoteResult) -> None:
    """An election is won by a majority of the voters, lost when none can be reached, and open otherwise."""
    votes = {NodeId(name): True for name in granted} | {NodeId(name): False for name in denied}

    assert vote_result(Configuration.of(voters), votes) is result


@pytest.mark.parametrize(
    ("match_indexes", "quorum"),
    [
        ({"a": 7}, 7),
        ({"a": 7, "b": 3}, 3),
        ({"a": 7, "b": 3, "c": 5}, 5),
        ({"a": 9, "b": 0, "c": 0}, 0),
        ({"a": 9, "b": 8, "c": 2, "d": 1}, 2),
        ({"a": 9, "b": 8, "c": 7, "d": 1, "e": 0}, 7),
    ],
)
def test_quorum_value_is_what_a_majority_holds(match_indexes: dict[str, int], quorum: int) -> None:
    """The index is the highest that a majority holds (Raft §5.3)."""
    known = {NodeId(name): LogIndex(index) for name, index in match_indexes.items()}

    assert quorum_value(Configuration.of(match_indexes), known) == quorum


def test_quorum_value_ignores_others_and_takes_the_unknown_for_nothing() -> None:
    """A node that is no voter counts for nothing, and a voter never heard of holds nothing."""
    known = {NodeId("a"): LogIndex(5), NodeId("x"): LogIndex(9), NodeId("y"): LogIndex(9)}

    assert quorum_value(Configuration.of("abc"), known) == 0


@pytest.mark.parametrize(
    ("granted", "denied", "result"),
    [
        ("ab", "", VoteResult.PENDING),
        ("cd", "", VoteResult.PENDING),
        ("abcd", "", VoteResult.WON),
        ("bc", "", VoteResult.PENDING),
        ("bcd", "", VoteResult.WON),
        ("cde", "ab", VoteResult.LOST),
        ("ab", "de", VoteResult.LOST),
        ("", "de", VoteResult.LOST),
    ],
)
def test_joint_configuration_needs_both_majorities(granted: str, denied: str, result: VoteResult) -> None:
    """From a, b, c to c, d, e: neither the old nor the new voters elect anybody alone (thesis §4.3)."""
    votes = {NodeId(name): True for name in granted} | {NodeId(name): False for name in denied}

    assert vote_result(Configuration.of("cde", old_voters="abc"), votes) is result


def test_joint_quorum_value_is_what_both_majorities_have_reached() -> None:
    """The lower of the two counts; a configuration of nobody reaches nothing."""
    joint = Configuration.of("cde", old_voters="abc")
    values = {NodeId(name): value for name, value in zip("abcde", (9, 8, 3, 7, 5), strict=True)}

    assert quorum_value(joint, values) == 5
    assert quorum_value(Configuration(), values) == 0


@pytest.mark.parametrize(
    ("members", "decides"),
    [("ab", False), ("cd", False), ("abcd", True), ("bcd", True), ("bce", True), ("cde", False), ("xyz", False)],
)
def test_quorum_of_a_joint_configuration_is_one_of_both(members: str, decides: bool) -> None:
    """From a, b, c to c, d, e; those who are no voters do not count, and nobody decides for nobody."""
    named = frozenset(map(NodeId, members))

    assert is_quorum(Configuration.of("cde", old_voters="abc"), named) is decides
    assert is_quorum(Configuration.of("abc"), named) is (len(named & set("abc")) >= 2)
    assert not is_quorum(Configuration(), named)

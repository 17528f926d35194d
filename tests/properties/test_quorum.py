"""Quorum arithmetic agrees with its definition: some set of nodes that holds a majority of every group of voters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustercore.raft.quorum import VoteResult, is_quorum, quorum_value, vote_result
from clustercore.raft.types import Configuration, NodeId
from clustercore.testing.strategies import configurations

# Done for ten thousand configurations under the ``ci`` profile, whatever that draws elsewhere.
EXAMPLES = 10_000 if settings.default is not None and settings.default.max_examples > 100 else 500

NODES = tuple(NodeId(name) for name in "abcdefg")


SUBSETS = [frozenset(some) for size in range(len(NODES) + 1) for some in combinations(NODES, size)]


def quorums(configuration: Configuration) -> list[frozenset[NodeId]]:
    """Return every set of nodes that holds more than half of the voters, and of the old voters if there are any."""
    return quorums_of(configuration.voters, configuration.old_voters)


@cache
def quorums_of(*groups: frozenset[NodeId]) -> list[frozenset[NodeId]]:
    """Return every set of nodes that holds more than half of each group that has anybody in it."""
    return [some for some in SUBSETS if all(2 * len(group & some) > len(group) for group in groups if group)]


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(configurations(), st.dictionaries(st.sampled_from(NODES), st.booleans()))
def test_vote_result_is_that_of_the_definition(configuration: Configuration, votes: Mapping[NodeId, bool]) -> None:
    """Won: a quorum granted. Lost: whatever the rest says, none will. Otherwise open."""
    granted = {node for node, vote in votes.items() if vote}
    open_or_granted = {node for node in NODES if votes.get(node, True)}

    if any(quorum <= granted for quorum in quorums(configuration)):
        expected = VoteResult.WON
    elif any(quorum <= open_or_granted for quorum in quorums(configuration)):
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.LOST
    assert vote_result(configuration, votes) is expected
    assert is_quorum(configuration, granted) is (expected is VoteResult.WON)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(configurations(), st.dictionaries(st.sampled_from(NODES), st.integers(0, 20)))
def test_quorum_value_is_that_of_the_definition(configuration: Configuration, values: Mapping[NodeId, int]) -> None:
    """The commit index is the best that any quorum has reached in all its members."""
    expected = max(min(values.get(node, 0) for node in quorum) for quorum in quorums(configuration))

    assert quorum_value(configuration, values) == expected

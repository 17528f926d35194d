"""What ``clustercore members`` shows."""

from __future__ import annotations

import json

import attrs
import click
import pytest

from clustercore.cli.members import _server, members_json, members_table
from clustercore.interfaces import Configuration, LogIndex, Members, NodeId, PeerStatus, Server, Term

N1, N2, N3 = (NodeId(name) for name in ("n1", "n2", "n3"))
FOUND = Members(
    configuration=Configuration.with_servers(
        [Server(N1, address="a:1", incarnation="disk"), Server(N2), Server(N3, is_voter=False, is_promoted=True)],
        cluster_id="c",
    ),
    index=LogIndex(12),
    is_committed=True,
    term=Term(4),
    leader_id=N1,
    peers=(PeerStatus(N2, LogIndex(9), LogIndex(10), 3, is_heard=True), PeerStatus(N3, lag=12)),
)


def test_table_tells_where_each_member_is_and_how_far() -> None:
    """Of the leader itself there is no lag; who does not answer is seen at once."""
    columns = [list(column.cells) for column in members_table(FOUND).columns]

    assert columns == [
        ["n1", "n2", "n3"],
        ["voter", "voter", "promoted next"],
        ["a:1", "as discovery says", "as discovery says"],
        ["", "3", "12"],
        ["leader", "yes", "no"],
    ]


def test_json_is_plain() -> None:
    """Every value is one that JSON has; whether a change is under way stands beside the members."""
    told = members_json(attrs.evolve(FOUND, is_committed=False))

    assert json.loads(json.dumps(told)) == told
    assert told["members"]["servers"][0] == {"node_id": "n1", "standing": "voter", "address": "a:1"}
    assert (told["index"], told["is_settled"], told["leader_id"]) == (12, False, "n1")
    assert told["peers"][0] == {"node_id": "n2", "match_index": 9, "next_index": 10, "lag": 3, "is_heard": True}


def test_member_on_the_command_line_may_have_an_address() -> None:
    """``ID`` alone leaves the address as it is."""
    assert _server("n1", is_voter=True) == Server(N1)
    assert _server("n1=a:1", is_voter=False) == Server(N1, is_voter=False, address="a:1")
    with pytest.raises(click.UsageError, match="names no node"):
        _server("=a:1", is_voter=True)

"""What two nodes check of each other before anything else is said."""

from __future__ import annotations

import logging
import math
from typing import Any

import attrs
import pytest

from clustercore.interfaces import (
    PROTOCOL_VERSION,
    Hello,
    HelloResponse,
    InvariantError,
    NodeId,
    StorageIdentity,
    TransportError,
)
from clustercore.runtime.introductions import Introduction, Introductions, ProtocolVersions
from tests.unit.runtime.fakes import introductions_of

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def speaking(node_id: str, oldest: int, newest: int) -> Introductions:
    """Return what speaks for a node of some version."""
    identity = StorageIdentity(NodeId(node_id), "first", 1)
    return Introductions(
        identity,
        on_identified=lambda peer, incarnation: None,
        election_timeout_s=1.0,
        versions=ProtocolVersions(oldest, newest),
    )


def meet(caller: Introductions, called: Introductions) -> None:
    """Have one node call another, as a link does. Raises: TransportError."""
    caller.check(called.identity.node_id, "there:1", called.answer(caller.hello(called.identity.node_id)))


def test_both_sides_learn_who_the_other_is() -> None:
    """Each tells its owner the other's incarnation, and remembers what it said."""
    told: list[tuple[NodeId, str]] = []
    a = introductions_of("a", starts=4, on_identified=lambda *said: told.append(said))
    b = introductions_of("b", incarnation="other", on_identified=lambda *said: told.append(said))

    meet(a, b)

    assert told == [(A, "first"), (B, "other")]
    assert (a.get(B), b.get(A)) == (
        Introduction("other", 1, PROTOCOL_VERSION, 1, 1.0),
        Introduction("first", 4, PROTOCOL_VERSION, 1, 1.0),
    )
    assert (a.refused, b.refused) == (0, 0)


def test_node_joins_one_cluster_in_its_life() -> None:
    """From then on it says so; another cluster's log is a bug."""
    a = introductions_of("a")

    assert a.join("k").cluster_id == "k" == a.hello(B).cluster_id
    with pytest.raises(InvariantError, match="belongs to cluster 'k', and its log says 'other'"):
        a.join("other")


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((2, 2), (2, 2), 2), ((1, 2), (3, 4), None), ((3, 4), (1, 2), None)],
)
def test_nodes_speak_the_newest_version_that_both_know(
    ours: tuple[int, int], theirs: tuple[int, int], agreed: int | None
) -> None:
    """The lower of both maxima, if it is not below the higher of both minima."""
    assert ProtocolVersions(*ours).agreed_with(ProtocolVersions(*theirs)) == agreed


def test_nodes_of_neighbouring_versions_understand_each_other() -> None:
    """While a cluster is upgraded node by node, the newer ones speak as the older ones do."""
    old, new = speaking("a", 2, 3), speaking("b", 3, 4)

    meet(old, new)

    assert [known.protocol_version for known in (old.get(B), new.get(A)) if known] == [3, 3]


def test_nodes_without_a_common_version_refuse_each_other() -> None:
    """The error names both nodes' versions and says what to do, on both sides."""
    old, new = speaking("a", 1, 1), speaking("b", 2, 3)

    with pytest.raises(TransportError, match=r"node 'b' speaks protocol 2 to 3, node 'a' speaks 1; upgrade"):
        meet(old, new)
    with pytest.raises(TransportError, match=r"node 'a' speaks protocol 1, node 'b' speaks 2 to 3; upgrade"):
        meet(new, old)
    assert (old.get(B), new.get(A)) == (None, None)


def test_hello_of_version_1_is_read_and_refused() -> None:
    """It names no oldest version, and so knows only the one."""
    answer = introductions_of("a").answer(Hello(B, A, 1, 0, "", "", 0, 0))

    assert answer.refusal.startswith("node 'a' speaks protocol 2 to 4, node 'b' speaks 1;")


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"), [("x", "y", True), ("x", "x", False), ("", "y", False), ("x", "", False)]
)
def test_nodes_of_two_clusters_refuse_each_other(ours: str, theirs: str, refused: bool) -> None:
    """Once both know their cluster it must be the same; one that belongs to none may still join."""
    a, b = introductions_of("a", cluster_id=ours), introductions_of("b", cluster_id=theirs)

    if refused:
        with pytest.raises(TransportError, match="belongs to cluster y, node 'a' to x"):
            meet(a, b)
        assert (a.refused, b.refused) == (1, 1)
    else:
        meet(a, b)


def test_the_called_node_may_be_the_one_that_refuses() -> None:
    """Whichever side finds the fault, the caller gets its reason."""
    a = introductions_of("a")

    with pytest.raises(TransportError, match="node 'b' refuses the link: not today"):
        a.check(B, "there:1", HelloResponse(B, refusal="not today"))

    assert a.get(B) is None


def test_address_of_another_node_is_refused() -> None:
    """The error names the address, who was meant and who answers."""
    with pytest.raises(TransportError, match=r"there:1 is to be the address of node 'b', but node 'c' answers there"):
        introductions_of("a").check(B, "there:1", HelloResponse(C))


def test_storage_that_was_put_back_is_refused() -> None:
    """Fewer starts of the same incarnation than were seen: what it promised since is forgotten."""
    a = introductions_of("a")
    meet(introductions_of("b", starts=7), a)

    with pytest.raises(TransportError, match="was seen at start 7 and is at start 6 now"):
        meet(introductions_of("b", starts=6), a)

    meet(introductions_of("b", starts=8), a)
    meet(introductions_of("b", incarnation="wiped", starts=1), a)
    assert a.get(B) == Introduction("wiped", 1, PROTOCOL_VERSION, 1, 1.0)


@pytest.mark.parametrize(("said_s", "known"), [(0.5, {B: 0.5}), (0.0, {}), (-1.0, {}), (math.inf, {}), (math.nan, {})])
def test_election_timeout_is_known_of_those_that_say_one(said_s: float, known: dict[NodeId, float]) -> None:
    """An older version says 0; what is no time is taken for that."""
    a = introductions_of("a")

    a.answer(attrs.evolve(introductions_of("b").hello(A), election_timeout_s=said_s))

    assert a.election_timeouts_s == known


def test_election_timeout_that_a_node_came_back_with_counts(caplog: pytest.LogCaptureFixture) -> None:
    """It is told anew on each link. One that is shorter than this node's is worth a warning, each time it is new."""
    caplog.set_level(logging.WARNING, logger="clustercore")
    a, b = introductions_of("a"), introductions_of("b")

    for said_s in (1.0, 0.5, 0.5, 2.0, 0.25):
        a.answer(attrs.evolve(b.hello(A), election_timeout_s=said_s))
        assert a.election_timeouts_s == {B: said_s}

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "node b has election_timeout_s = 0.5, node a has 1.0",
        "node b has election_timeout_s = 0.25, node a has 1.0",
    ]


def test_refusal_is_news_only_once(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that calls again and again fills no log; another reason, or the same after a success, is told."""
    caplog.set_level(logging.WARNING, logger="clustercore")
    a = introductions_of("a", cluster_id="x")
    stranger, friend = introductions_of("b", cluster_id="y"), introductions_of("b", cluster_id="x")

    for caller in (stranger, stranger, stranger):
        a.answer(caller.hello(A))
    assert (len(caplog.records), a.refused) == (1, 3)

    for caller in (friend, stranger):
        a.answer(caller.hello(A))
    assert (len(caplog.records), a.refused) == (2, 4)


def test_node_that_joined_says_so() -> None:
    """From then on it names its cluster, and refuses others."""
    a = introductions_of("a")

    assert a.join("x") == StorageIdentity(A, "first", 1, "x")

    assert a.hello(B).cluster_id == "x"
    assert a.answer(introductions_of("b", cluster_id="y").hello(A)).refusal != ""


# --- Names that are too long ---

LONG = "x" * 256


@pytest.mark.parametrize("field", ["node_id", "peer_id", "cluster_id", "incarnation"])
def test_hello_with_a_name_that_is_too_long_is_refused(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller is told which and by how much (issue 3). Nothing of it is remembered, or repeated in the log."""
    a = introductions_of("a")
    hello = Hello(B, A, incarnation="once", starts=1)
    long: dict[str, Any] = {field: LONG}
    halves: dict[str, Any] = {field: "\ud800" * 86}

    answer = a.answer(attrs.evolve(hello, **long))

    assert answer.refusal == f"of the caller's Hello, {field} has 256 bytes; at most 255 are allowed"
    assert (a.refused, a.get(B), a.get(NodeId(LONG))) == (1, None, None)
    assert caplog.messages == [f"a link with node (its name is too long) is refused: {answer.refusal}"]
    assert a.answer(attrs.evolve(hello, **halves)).refusal.startswith("of the caller's Hello")
    assert a.answer(attrs.evolve(hello, cluster_id="", incarnation="i" * 255)).refusal == ""


@pytest.mark.parametrize("field", ["node_id", "cluster_id", "incarnation"])
def test_answer_with_a_name_that_is_too_long_is_refused(field: str) -> None:
    """As the caller sees it: the address is in the error, and nothing of the name."""
    a = introductions_of("a")
    long: dict[str, Any] = {field: LONG}
    response = attrs.evolve(HelloResponse(B, incarnation="once", starts=1), **long)

    with pytest.raises(TransportError) as caught:
        a.check(B, "there:1", response)

    assert str(caught.value) == (
        "there:1 is to be the address of node 'b', but of what answers there "
        f"{field} has 256 bytes; at most 255 are allowed"
    )
    assert a.get(B) is None


def test_reason_of_a_refusal_is_cut() -> None:
    """It is the peer's, and of any length."""
    with pytest.raises(TransportError) as caught:
        introductions_of("a").check(B, "there:1", HelloResponse(B, refusal="no" * 10_000))

    assert len(str(caught.value)) < 2100

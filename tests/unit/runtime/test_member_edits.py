"""What each operation on the members makes of those there are."""

from __future__ import annotations

import pytest

from clustercore.interfaces import Configuration, InvalidChange, NodeId, Server
from clustercore.runtime.member_edits import (
    Edit,
    adding,
    applying,
    demoting,
    moving,
    promoting,
    removing,
    replacing,
)

A, B, C, D, E = (NodeId(name) for name in "abcde")


def server(name: NodeId, *, is_voter: bool = True, is_promoted: bool = False, address: str | None = None) -> Server:
    """A member at the address of its name, with a storage."""
    address = str(name) if address is None else address
    return Server(name, is_voter=is_voter, is_promoted=is_promoted, address=address, incarnation=f"disk of {name}")


def cluster(*servers: Server) -> Configuration:
    """Members of cluster "test"."""
    return Configuration.with_servers(servers, cluster_id="test")


# Three voters and a learner.
PRESENT = cluster(server(A), server(B), server(C), server(D, is_voter=False))
NEW_E = Server(E, is_voter=False, address="e")


CHANGES: dict[str, tuple[Edit, dict[NodeId, Server | None]]] = {
    "add a learner": (adding("e", "e", promote=False), {E: NEW_E}),
    "add one that discovery knows": (adding("e", "", promote=False), {E: Server(E, is_voter=False)}),
    "add one to be promoted": (
        adding("e", "e", promote=True),
        {E: Server(E, is_voter=False, is_promoted=True, address="e")},
    ),
    "have a learner promoted": (adding("d", "", promote=True), {D: server(D, is_voter=False, is_promoted=True)}),
    "add a learner again": (adding("d", "d", promote=False), {}),
    "add a voter again": (adding("a", "a", promote=True), {}),
    "promote": (promoting("d"), {D: server(D)}),
    "promote again": (promoting("a"), {}),
    "demote": (demoting("a"), {A: server(A, is_voter=False)}),
    "demote again": (demoting("d"), {}),
    "remove a voter": (removing("a"), {A: None}),
    "remove a learner": (removing("d"), {D: None}),
    "remove again": (removing("x"), {}),
    "replace": (replacing("a", "d"), {A: None, D: server(D)}),
    "replace again": (replacing("x", "a"), {}),
    "replace a learner by a voter": (replacing("d", "a"), {D: None}),
    "move": (moving("a", "z"), {A: server(A, address="z")}),
    "move again": (moving("a", "a"), {}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_operation_changes_just_what_it_is_for(name: str) -> None:
    """The rest stays as it is; and what holds already, which is most often a repetition, is the same again."""
    edit, changed = CHANGES[name]
    wanted = {one.node_id: one for one in PRESENT.servers} | changed

    edited = edit(PRESENT)

    assert edited == cluster(*(one for one in wanted.values() if one is not None))
    assert edit(edited) == edited


def test_learner_of_a_replaced_learner_stays_one() -> None:
    """The new one gets the role that the old one had."""
    present = cluster(server(A), server(D, is_voter=False), server(E, is_voter=False, is_promoted=True))

    assert replacing("d", "e")(present) == cluster(server(A), server(E, is_voter=False, is_promoted=True))


def test_target_is_completed_from_what_there_is() -> None:
    """Its author names who is to be; where they are and which disks they have need not be said again."""
    target = Configuration.with_servers(
        [Server(A), Server(D, is_promoted=True), Server(E, is_voter=False, address="e")]
    )

    assert applying(target)(PRESENT) == cluster(server(A), server(D), NEW_E)
    assert applying(PRESENT)(PRESENT) == PRESENT


REFUSED: list[tuple[Edit, str]] = [
    (adding("", "e", promote=False), "the node id is empty"),
    (adding("d" * 256, "e", promote=False), "node_id has 256 bytes; at most 255 are allowed"),
    (adding("e", "a", promote=False), "'a' is the address of node 'a', so node 'e' cannot be there"),
    (adding("a", "z", promote=True), "node 'a' is a member already, at 'a', not 'z'"),
    (adding("a", "", promote=False), "node 'a' votes already; demote it"),
    (promoting("x"), "node 'x' is no member; add it first; the members are a, b, c, d"),
    (demoting("x"), "node 'x' is no member; there is nothing to demote"),
    (moving("x", "z"), "node 'x' is no member; add it first"),
    (moving("a", ""), "the new address of node 'a' is empty"),
    (moving("a", "b"), "'b' is the address of node 'b'"),
    (replacing("a", "a"), "node 'a' cannot take its own place"),
    (replacing("a", "x"), "node 'x' is no member; add it as a learner"),
    (replacing("x", "d"), "node 'x' is no member; the members are"),
    (applying(Configuration.of("ab", old_voters="abc")), "the target is joint"),
    (applying(Configuration((Server(A), Server(B, False, is_leaving=True)))), "is joint; name only"),
    (applying(Configuration.of("ab", cluster_id="other")), "the target is of cluster 'other'"),
    (applying(Configuration.of("", learners="ab")), "the target has no voter"),
    (applying(Configuration((Server(A, address="b"), Server(B)))), "'b' is the address of node"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda number: REFUSED[number][1])
def test_operation_that_can_never_be_says_what_to_do(number: int) -> None:
    """What is wrong stands in the error, with who there is."""
    edit, text = REFUSED[number]

    with pytest.raises(InvalidChange) as refused:
        edit(PRESENT)

    assert text in str(refused.value)


@pytest.mark.parametrize("edit", [removing("a"), demoting("a")], ids=["remove", "demote"])
def test_last_voter_stays(edit: Edit) -> None:
    """A cluster without a voter could never agree on anything again."""
    with pytest.raises(InvalidChange, match="node 'a' is the last voter"):
        edit(cluster(server(A), server(D, is_voter=False)))


def test_address_that_only_discovery_knows_is_told_so() -> None:
    """The error does not name an empty address."""
    with pytest.raises(InvalidChange, match="at the address that discovery knows, not 'z'"):
        adding("a", "z", promote=True)(cluster(server(A, address="")))

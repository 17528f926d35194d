"""Where a node looks a member up."""

from __future__ import annotations

from clustercore.interfaces import Configuration, DiscoverySnapshot, Member, NodeId, Server
from clustercore.runtime.address_book import AddressBook

A, B, C = (NodeId(name) for name in "abc")


def book(*, discovered: dict[str, str], agreed: dict[str, str], reached: dict[str, str]) -> AddressBook:
    """The book of node a, which serves at "a:1"."""
    servers = tuple(Server(NodeId(name), address=address) for name, address in agreed.items())
    members = tuple(Member(NodeId(name), address) for name, address in discovered.items())
    return AddressBook(
        A,
        own_address=lambda: "a:1",
        configuration=lambda: Configuration(servers),
        known=lambda: DiscoverySnapshot(1, members, "test"),
        reached_at=lambda peer: reached.get(peer),
    )


def test_discovery_comes_first_and_each_address_once() -> None:
    """Then what the members agreed on, then where it was last; what nobody knows is nowhere."""
    found = book(discovered={"b": "b:1"}, agreed={"a": "", "b": "b:2", "c": "c:1"}, reached={"b": "b:3", "c": "c:1"})

    assert found.of(B) == ["b:1", "b:2", "b:3"]
    assert found.of(C) == ["c:1"]
    assert found.of(NodeId("d")) == []


def test_only_what_leads_somewhere_is_told() -> None:
    """An address that means nothing to others is passed over for one that does; this node tells where it serves."""
    found = book(discovered={"b": "0.0.0.0:1"}, agreed={"a": "", "b": "b:2", "c": ""}, reached={"c": "[::]:1"})

    assert found.told_of(A) == "a:1"
    assert found.told_of(B) == "b:2"
    assert found.told_of(C) is None
    assert found.of_peers() == {B: "b:2"}

"""What each operation on the members makes of those there are: pure functions from members to members.

Each returns the configuration it was given if the operation holds already, and refuses what can never be. What only a
leader knows (who has caught up, who answers) is checked there, in ``clustercore.raft.membership``.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from clustercore.interfaces.errors import InvalidChange
from clustercore.raft.types import Configuration, NodeId, Server
from clustercore.runtime.names import name_fault

__all__ = ["Edit", "adding", "applying", "demoting", "moving", "promoting", "removing", "replacing"]

# Raises InvalidChange.
Edit = Callable[[Configuration], Configuration]


def adding(node_id: str, address: str, *, promote: bool) -> Edit:
    """Make a node a learner, to be promoted or not. A voter is left as it is, if it was to become one anyway."""

    def edit(present: Configuration) -> Configuration:
        if not node_id:
            raise InvalidChange("the node id is empty; name the node that is to be added")
        if too_long := name_fault({"node_id": node_id}):
            raise InvalidChange(too_long)
        known = present.get(NodeId(node_id))
        if known is None:
            _check_address(present, node_id, address)
            return _with(present, Server(NodeId(node_id), is_voter=False, is_promoted=promote, address=address))
        if address not in ("", known.address):
            raise InvalidChange(
                f"node {node_id!r} is a member already, at {_place(known)}, not {address!r}; move it there, or add the "
                "new node under another id"
            )
        if known.is_voter and not promote:
            raise InvalidChange(f"node {node_id!r} votes already; demote it if it is to be a learner")
        if known.is_voter:
            return present
        return _with(present, attrs.evolve(known, is_promoted=known.is_promoted or promote))

    return edit


def promoting(node_id: str) -> Edit:
    """Make a learner a voter."""

    def edit(present: Configuration) -> Configuration:
        known = _member(present, node_id, "add it first")
        return _with(present, attrs.evolve(known, is_voter=True, is_promoted=False))

    return edit


def demoting(node_id: str) -> Edit:
    """Make a voter a learner."""

    def edit(present: Configuration) -> Configuration:
        known = _member(present, node_id, "there is nothing to demote")
        _check_not_last(present, node_id)
        return _with(present, attrs.evolve(known, is_voter=False, is_promoted=False))

    return edit


def removing(node_id: str) -> Edit:
    """Leave a member out; one that is none is left out already."""

    def edit(present: Configuration) -> Configuration:
        _check_not_last(present, node_id)
        return _without(present, node_id)

    return edit


def replacing(old: str, new: str) -> Edit:
    """Give a member's place to a learner that is there already."""

    def edit(present: Configuration) -> Configuration:
        before, after = present.get(NodeId(old)), present.get(NodeId(new))
        if old == new:
            raise InvalidChange(f"node {old!r} cannot take its own place; give the new node another id")
        if after is None:
            raise InvalidChange(f"node {new!r} is no member; add it as a learner, and let it catch up")
        if before is None:
            # Done already, or else there never was such a member.
            if after.is_voter:
                return present
            raise InvalidChange(f"node {old!r} is no member; {_named(present)}")
        is_voter = before.is_voter or after.is_voter
        taken = attrs.evolve(after, is_voter=is_voter, is_promoted=after.is_promoted and not is_voter)
        return _with(_without(present, old), taken)

    return edit


def moving(node_id: str, address: str) -> Edit:
    """Note another address of a member."""

    def edit(present: Configuration) -> Configuration:
        known = _member(present, node_id, "add it first")
        if not address:
            raise InvalidChange(f"the new address of node {node_id!r} is empty; name one")
        _check_address(present, node_id, address)
        return _with(present, attrs.evolve(known, address=address))

    return edit


def applying(target: Configuration) -> Edit:
    """Make the members just these; what the target leaves open stays as it is."""

    def edit(present: Configuration) -> Configuration:
        if target.is_joint or any(server.is_leaving for server in target.servers):
            raise InvalidChange("the target is joint; name only the members that are to be")
        if target.cluster_id not in ("", present.cluster_id):
            raise InvalidChange(
                f"the target is of cluster {target.cluster_id!r}, and this is {present.cluster_id!r}; ask the other one"
            )
        if not target.voters:
            raise InvalidChange("the target has no voter; name one at least")
        servers = [_completed(present, server) for server in target.servers]
        completed = Configuration.with_servers(servers, cluster_id=present.cluster_id)
        for server in completed.servers:
            _check_address(completed, server.node_id, server.address)
        return completed

    return edit


# --- Parts -----------------------------------------------------------------------------------------------------------


def _with(present: Configuration, server: Server) -> Configuration:
    others = [other for other in present.servers if other.node_id != server.node_id]
    return Configuration.with_servers([*others, server], cluster_id=present.cluster_id)


def _without(present: Configuration, node_id: str) -> Configuration:
    others = tuple(other for other in present.servers if other.node_id != node_id)
    return Configuration(others, cluster_id=present.cluster_id)


def _completed(present: Configuration, server: Server) -> Server:
    known = present.get(server.node_id)
    is_promoted = server.is_promoted and not server.is_voter
    if known is None:
        return attrs.evolve(server, is_promoted=is_promoted)
    return attrs.evolve(
        server, is_promoted=is_promoted, address=server.address or known.address, incarnation=known.incarnation
    )


def _member(present: Configuration, node_id: str, hint: str) -> Server:
    known = present.get(NodeId(node_id))
    if known is None:
        raise InvalidChange(f"node {node_id!r} is no member; {hint}; {_named(present)}")
    return known


def _named(present: Configuration) -> str:
    return f"the members are {', '.join(sorted(present.members))}"


def _place(server: Server) -> str:
    return repr(server.address) if server.address else "the address that discovery knows"


def _check_not_last(present: Configuration, node_id: str) -> None:
    if present.voters == {node_id}:
        raise InvalidChange(
            f"node {node_id!r} is the last voter, and without one nothing is ever agreed on; promote another first, or "
            "stop the node if the cluster is to end"
        )


def _check_address(present: Configuration, node_id: str, address: str) -> None:
    other = next(
        (one for one in present.servers if address and one.address == address and one.node_id != node_id), None
    )
    if other is not None:
        raise InvalidChange(
            f"{address!r} is the address of node {other.node_id!r}, so node {node_id!r} cannot be there; correct it, "
            f"or remove {other.node_id!r} first"
        )

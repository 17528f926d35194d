"""A table of members that is given once, and changes only by what this process registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import trio

from clustercore.interfaces import ConfigError, Discovery, DiscoverySnapshot, KnownMembers, Member, NodeId

__all__ = ["StaticDiscovery"]


class StaticDiscovery(Discovery):
    """Knows the members it was given.

    ``register`` and ``deregister`` concern this object alone and reach no other process: an address that changes must
    be changed in every node's configuration. A member that was given is never removed, only withdrawn.

    Args:
        members: Where each node can be reached, by node id: ``{"a": "127.0.0.1:7001", ...}``, in the transport's own
            form. It may be empty.

    Raises:
        ConfigError: an id or address is empty or no text, or two nodes have the same address.
    """

    is_fixed = True
    is_read_only = True
    # As snapshots name it.
    source: ClassVar[str] = "static"

    def __init__(self, members: Mapping[str, str]) -> None:
        given: object = members
        if not isinstance(given, Mapping):
            raise ConfigError(f"members = {given!r}: expected a table of node id = address")
        by_address: dict[str, str] = {}
        for node_id, address in members.items():
            _check(node_id, address)
            other_id = by_address.setdefault(address, node_id)
            if other_id != node_id:
                raise ConfigError(
                    f"members.{node_id} = {address!r}: members.{other_id} has this address already; each node needs "
                    "its own"
                )
        self._known = KnownMembers(self.source)
        self._known.tell(Member(NodeId(node_id), address) for node_id, address in members.items())

    async def register(self, member: Member) -> None:
        await trio.lowlevel.checkpoint()
        _check(member.node_id, member.address)
        for other in (await self._known.members()).members:
            if other.address == member.address and other.node_id != member.node_id:
                raise ConfigError(
                    f"node {member.node_id!r} is at {member.address!r}, and members has node {other.node_id!r} there; "
                    "give it that id, or an address of its own"
                )
        self._known.register(member)

    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()
        self._known.withdraw(node_id)

    async def members(self) -> DiscoverySnapshot:
        return await self._known.members()

    async def changed(self, since: int) -> DiscoverySnapshot:
        return await self._known.changed(since)


def _check(node_id: object, address: object) -> None:
    """Refuse what would be found out much later, by a node that nobody reaches."""
    if not isinstance(node_id, str) or not node_id:
        raise ConfigError(f"members: node id {node_id!r}: expected a text that is not empty")
    if not isinstance(address, str) or not address:
        raise ConfigError(f"members.{node_id} = {address!r}: expected an address, such as '127.0.0.1:7001'")

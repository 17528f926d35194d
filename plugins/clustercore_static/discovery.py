"""A table of members that is given once, and changes only by what this process registers."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from clustercore.interfaces import ConfigError, Discovery, DiscoverySnapshot, Member, NodeId

__all__ = ["StaticDiscovery"]

_SOURCE = "static"


class StaticDiscovery(Discovery):
    """Knows the members it was given.

    ``register`` and ``deregister`` change this object's table and reach no other process: an address that changes must
    be changed in every node's configuration.

    Args:
        members: Where each node can be reached, by node id: ``{"a": "127.0.0.1:7001", ...}``, in the transport's own
            form. It may be empty.

    Raises:
        ConfigError: an id or address is empty or no text, or two nodes have the same address.
    """

    is_fixed = True

    def __init__(self, members: Mapping[str, str]) -> None:
        given: object = members
        if not isinstance(given, Mapping):
            raise ConfigError(f"members = {given!r}: expected a table of node id = address")
        self._addresses: dict[NodeId, str] = {}
        for node_id, address in members.items():
            self._check(node_id, address)
            self._addresses[NodeId(node_id)] = address
        self._version = 1
        # Set, and replaced by a new one, at every change.
        self._changed = trio.Event()

    async def register(self, member: Member) -> None:
        await trio.lowlevel.checkpoint()
        if self._addresses.get(member.node_id) == member.address:
            return
        other_id = self._other_at(member.address, member.node_id)
        if other_id is not None:
            raise ConfigError(
                f"node {member.node_id!r} is at {member.address!r}, and members has node {other_id!r} there; give it "
                "that id, or an address of its own"
            )
        self._check(member.node_id, member.address)
        self._addresses[member.node_id] = member.address
        self._publish()

    async def deregister(self, node_id: NodeId) -> None:
        await trio.lowlevel.checkpoint()
        if self._addresses.pop(node_id, None) is not None:
            self._publish()

    async def members(self) -> DiscoverySnapshot:
        await trio.lowlevel.checkpoint()
        return self._snapshot()

    async def changed(self, since: int) -> DiscoverySnapshot:
        await trio.lowlevel.checkpoint()
        while self._version <= since:
            await self._changed.wait()
        return self._snapshot()

    def _publish(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()

    def _snapshot(self) -> DiscoverySnapshot:
        members = tuple(Member(node_id, address) for node_id, address in sorted(self._addresses.items()))
        return DiscoverySnapshot(self._version, members, _SOURCE)

    def _check(self, node_id: object, address: object) -> None:
        """Refuse what would be found out much later, by a node that nobody reaches."""
        if not isinstance(node_id, str) or not node_id:
            raise ConfigError(f"members: node id {node_id!r}: expected a text that is not empty")
        if not isinstance(address, str) or not address:
            raise ConfigError(f"members.{node_id} = {address!r}: expected an address, such as '127.0.0.1:7001'")
        other_id = self._other_at(address, node_id)
        if other_id is not None:
            raise ConfigError(
                f"members.{node_id} = {address!r}: members.{other_id} has this address already; each node needs its own"
            )

    def _other_at(self, address: str, node_id: str) -> NodeId | None:
        """Return who else is known to be at an address."""
        return next((other for other, where in self._addresses.items() if where == address and other != node_id), None)

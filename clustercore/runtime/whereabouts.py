"""Whether a member answers where it is said to be: asked before the members note that a node has moved.

A wrong address of a node that is well takes it out of the cluster as surely as a pulled plug, and with it, in a small
one, the majority. Nothing that is learned here is remembered: what counts of a peer is what it says on the node's own
links.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces.errors import ConfigError, LinkClosed, TransportError
from clustercore.interfaces.messages import HelloResponse, Message, StatusRequest, StatusResponse
from clustercore.interfaces.transport import Lane, Link, Transport
from clustercore.raft.types import Configuration, NodeId, Server
from clustercore.runtime.introductions import Introductions
from clustercore.runtime.names import name_fault

__all__ = ["Whereabouts"]


class Whereabouts:
    """Looks where members are to be."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        transport: Transport,
        introductions: Introductions,
        address_of: Callable[[NodeId], str | None],
        is_heard: Callable[[NodeId], bool],
        timeout_s: float,
    ) -> None:
        """Look nowhere yet.

        Args:
            node_id: This node's.
            transport: What to look with.
            introductions: What the peers said of themselves.
            address_of: Where this node reaches a member now.
            is_heard: Whether a member answers there.
            timeout_s: How long it may take to answer at the new place.
        """
        self._node_id = node_id
        self._transport = transport
        self._introductions = introductions
        self._address_of = address_of
        self._is_heard = is_heard
        self._timeout_s = timeout_s

    def misnamed(self, present: Configuration, target: Configuration) -> str:
        """Return what is wrong with a new name or address in the target: too long, or none of this transport."""
        for server in target.servers:
            too_long = name_fault({"a server's node_id": server.node_id, "its incarnation": server.incarnation})
            if too_long and present.get(server.node_id) is None:
                return too_long
        for server in _elsewhere(present, target):
            try:
                self._transport.check_address(server.address)
            except ConfigError as error:
                return f"node {server.node_id!r}: {error}"
        return ""

    async def missing(self, present: Configuration, target: Configuration) -> str:
        """Return which member that is well would be looked for where it is not, and what is there; empty if none is.

        One that does not answer where it is now may be on its way to anywhere, and is not looked for.

        Cancellation: no link is left.
        """
        for server in _elsewhere(present, target):
            node_id = server.node_id
            is_moved = present.get(node_id) is not None and server.address != self._address_of(node_id)
            if is_moved and (node_id == self._node_id or self._is_heard(node_id)):
                fault = await self._fault_at(node_id, server.address)
                if fault:
                    return (
                        f"node {node_id!r} is well at {self._address_of(node_id)!r}, and at {server.address!r} it is "
                        f"not found: {fault}; correct the address, or force the change"
                    )
        return ""

    async def _fault_at(self, node_id: NodeId, address: str) -> str:
        try:
            with trio.fail_after(self._timeout_s):
                async with await self._transport.connect(address, Lane.CONTROL) as link:
                    return await (self._ask_self(link) if node_id == self._node_id else self._ask(link, node_id))
        except trio.TooSlowError:
            return f"nobody answers within {self._timeout_s:g} s"
        except TransportError as error:
            return str(error)

    async def _ask(self, link: Link, node_id: NodeId) -> str:
        await link.send(self._introductions.hello(node_id))
        answer = await link.receive()
        if not isinstance(answer, HelloResponse):
            raise _unasked(answer)
        known = self._introductions.get(node_id)
        if answer.node_id != node_id:
            return f"node {answer.node_id!r} answers"
        if answer.refusal:
            return answer.refusal
        if known is not None and known.incarnation != answer.incarnation:
            return f"a node {node_id!r} with another storage answers"
        return ""

    async def _ask_self(self, link: Link) -> str:
        """Look for this node itself; it is introduced to nobody by that."""
        await link.send(StatusRequest(1))
        answer = await link.receive()
        if not isinstance(answer, StatusResponse):
            raise _unasked(answer)
        found = answer.status.node_id
        return "" if found == self._node_id else f"node {found!r} answers"


def _elsewhere(present: Configuration, target: Configuration) -> list[Server]:
    """Return the members of the target that have an address, and not the one they have now."""
    found = []
    for server in target.servers:
        known = present.get(server.node_id)
        if server.address and (known is None or known.address != server.address):
            found.append(server)
    return found


def _unasked(answer: Message) -> LinkClosed:
    return LinkClosed(f"a {type(answer).__name__} is answered, which was not asked for")

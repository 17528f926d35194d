"""Discovery: where the nodes are.

Discovery only suggests addresses. Who is a member is decided by Raft alone: no outage or lie of a discovery adds or
removes a voter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

import attrs

from clustercore.raft.types import NodeId

__all__ = ["Discovery", "DiscoverySnapshot", "Member"]


@attrs.frozen
class Member:
    """A node and where it can be reached."""

    node_id: NodeId
    # In the transport's own form; for those over IP it is "host:port".
    address: str


@attrs.frozen
class DiscoverySnapshot:
    """Everything a discovery knows, at one moment."""

    # Grows with every change; a larger one replaces a smaller one whole.
    version: int
    # Sorted by node id, each id once.
    members: tuple[Member, ...]
    # The plugin that says so, for logs.
    source: str
    # True when the source did not answer and these are the last members it told.
    is_stale: bool = False

    def address_of(self, node_id: NodeId) -> str | None:
        """Return where a node can be reached, or None if it is not known."""
        for member in self.members:
            if member.node_id == node_id:
                return member.address
        return None


class Discovery(ABC):
    """Finds the other nodes.

    Life: ``async with discovery:``; everything else is called inside, by several tasks at once. Its constructor's
    parameters are its options in a configuration file.

    A source that does not answer is no error, for a running cluster can do without: the plugin asks it again, and until
    it answers, what it told last holds, as ``is_stale``. What a method raises ends the node.

    ``clustercore.testing.conformance.DiscoveryConformance`` tests the rules below.
    """

    # Whether the members are part of the configuration: the same on every node and at every start. Only then may they
    # stand for the voters where none are named; others may be unknown for a while, and no quorum must shrink by that.
    is_fixed: ClassVar[bool] = False

    async def __aenter__(self) -> Self:
        """Make ready. The default does nothing.

        Called by: the node, when it starts, before it listens.
        Raises: ConfigError if the source cannot be the one that the configuration names.
        """
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give back all resources. The default does nothing."""
        return None

    @abstractmethod
    async def register(self, member: Member) -> None:
        """Make a node known, replacing what was known under its id. Idempotent.

        Returns once the next ``members`` here tells it. When others learn of it is the source's affair.

        Cancellation: it may or may not be known.
        Called by: the node, once, for itself, when it serves and knows its own address.
        Raises: ConfigError if the source can never take this member, such as one with another's address.
        """

    @abstractmethod
    async def deregister(self, node_id: NodeId) -> None:
        """Forget a node. Idempotent; one that is not known is forgotten already.

        Cancellation: it may or may not be forgotten.
        Called by: whoever removes a node for good. A node that stops is to come back, so it does not call this.
        Raises: ConfigError if the source can never forget it, such as one that may only be read.
        """

    @abstractmethod
    async def members(self) -> DiscoverySnapshot:
        """Return what is known now, waiting for the first answer if there is none yet.

        Cancellation: nothing happens.
        Called by: the node, once, before it listens. It waits for as long as this does.
        Raises: ConfigError if what the source tells can never be right, such as one id with two addresses.
        """

    @abstractmethod
    async def changed(self, since: int) -> DiscoverySnapshot:
        """Wait until there is a snapshot with a version above ``since`` and return the newest: never a backlog.

        Cancellation: nothing is lost; the next call returns what this one would have.
        Called by: one task of the node, again and again, with the version it got last.
        Raises: as ``members``.
        """

"""Discovery: where the nodes are.

Discovery only suggests addresses. Who is a member is decided by Raft alone: no outage or lie of a discovery adds or
removes a voter, or forms a second cluster; which cluster a node belongs to is checked on every connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import ClassVar, Self

import attrs

from clustercore.interfaces.errors import ConfigError
from clustercore.interfaces.values import NodeHealth
from clustercore.raft.types import NodeId

__all__ = ["Discovery", "DiscoverySnapshot", "Member", "MemberMetadata"]

_NUMBERS = ("protocol_version", "oldest_protocol_version")
_TEXTS = ("cluster_id", "role")


def _sorted_tags(tags: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    pairs = tags.items() if isinstance(tags, Mapping) else tags
    return tuple(sorted(dict(pairs).items()))


@attrs.frozen
class MemberMetadata:
    """What a node tells of itself by way of discovery. It helps to choose whom to ask, and proves nothing."""

    # The cluster it belongs to; empty while it belongs to none, or if that is not known.
    cluster_id: str = ""
    # "voter" or "learner", as its own log says; empty while it is neither, or if that is not known.
    role: str = ""
    # The newest and the oldest version of the protocol between nodes that it speaks; 0 if that is not known.
    protocol_version: int = 0
    oldest_protocol_version: int = 0
    # Whatever else is told, sorted by name, each name once; nothing in clustercore reads it. Give it as a mapping or as
    # pairs. The names of the fields above are theirs alone.
    tags: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_sorted_tags)

    def __attrs_post_init__(self) -> None:
        given: tuple[tuple[object, object], ...] = self.tags
        for name, value in given:
            if not isinstance(name, str) or not name or not isinstance(value, str):
                raise ConfigError(f"tags.{name} = {value!r}: expected a name that is not empty, and a text")
            if name in (*_NUMBERS, *_TEXTS):
                raise ConfigError(f"tags.{name} = {value!r}: this name is taken; give it as {name}")

    def to_mapping(self) -> dict[str, str]:
        """Return everything as texts by name, without what is not known: for a source that stores such pairs."""
        known = {name: str(getattr(self, name)) for name in (*_TEXTS, *_NUMBERS) if getattr(self, name)}
        return known | dict(self.tags)

    @classmethod
    def from_mapping(cls, pairs: Mapping[str, str]) -> MemberMetadata:
        """Return what ``to_mapping`` made. A version that is no number is not known; other names become tags."""
        return cls(
            pairs.get("cluster_id", ""),
            pairs.get("role", ""),
            _version(pairs.get("protocol_version", "")),
            _version(pairs.get("oldest_protocol_version", "")),
            {name: value for name, value in pairs.items() if name and name not in (*_TEXTS, *_NUMBERS)},
        )


def _version(text: str) -> int:
    # More digits are no version of anything, and Python may refuse to read them.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@attrs.frozen
class Member:
    """A node's registration: its id, where it can be reached, and what it tells of itself."""

    node_id: NodeId
    # In the transport's own form; for those over IP it is "host:port".
    address: str
    metadata: MemberMetadata = MemberMetadata()


@attrs.frozen
class DiscoverySnapshot:
    """Everything a discovery knows, at one moment."""

    # Grows with every change of what is below but ``as_of``; a larger one replaces a smaller one whole. It counts from
    # 1, for each discovery anew: two nodes' versions have nothing to do with each other.
    version: int
    # Sorted by node id, each id once.
    members: tuple[Member, ...]
    # The plugin that says so, for logs.
    source: str
    # True when the source does not answer, or answers what cannot be right, and these are the last members it told.
    is_stale: bool = False
    # When the source last confirmed this: Unix time in seconds; 0 if it never did. It is no part of the comparison of
    # two snapshots: to be told the same again is no news.
    as_of: float = attrs.field(default=0.0, eq=False)
    # Those of the members that were deregistered here while the source, which can only be read, goes on telling them;
    # and those of which the source itself says that they are not well. Nodes go on talking to them; work should go to
    # others.
    withdrawn: frozenset[NodeId] = frozenset()

    @property
    def in_service(self) -> tuple[Member, ...]:
        """The members without those that are withdrawn, sorted by node id."""
        return tuple(member for member in self.members if member.node_id not in self.withdrawn)

    def get(self, node_id: NodeId) -> Member | None:
        """Return a member, withdrawn or not, or None if it is not known."""
        return next((member for member in self.members if member.node_id == node_id), None)

    def address_of(self, node_id: NodeId) -> str | None:
        """Return where a node can be reached, withdrawn or not, or None if it is not known."""
        member = self.get(node_id)
        return None if member is None else member.address


class Discovery(ABC):
    """Finds the other nodes.

    Life: ``async with discovery:``; everything else is called inside, by several tasks at once. Its constructor's
    parameters are its options in a configuration file.

    A source that does not answer is no error, for a running cluster can do without: the plugin asks it again, and until
    it answers, what it told last holds, as ``is_stale``, for however long that takes. So it is with an answer that
    cannot be right (an id twice, a member without address), and with one that names nobody after there was somebody.
    What a method raises ends the node.

    ``KnownMembers`` keeps these rules for a plugin that asks a source now and then, and ``FollowingDiscovery`` does the
    rest of it but the asking.
    ``clustercore.testing.conformance.DiscoveryConformance`` tests the rules below.
    """

    # Whether the members are part of the configuration: the same on every node and at every start. Only then may they
    # stand for the voters where none are named; others may be unknown for a while, and no quorum must shrink by that.
    is_fixed: ClassVar[bool] = False

    # Whether the source can only be read. Then ``register`` and ``deregister`` concern this object alone.
    is_read_only: ClassVar[bool] = False

    async def __aenter__(self) -> Self:
        """Make ready. The default does nothing.

        Called by: the node, when it starts, before it listens.
        Raises: ConfigError if the source cannot be the one that the configuration names.
        """
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give back all resources. The default does nothing.

        Who is registered stays so: a node that stops is to come back, and one that is killed leaves no other way.
        """
        return None

    @abstractmethod
    async def register(self, member: Member) -> None:
        """Make a node known, replacing all that was known under its id; it is in service again. Idempotent.

        Returns once the next ``members`` here tells it, all of its metadata included; it waits for a source that does
        not answer. When others learn of it is the source's affair. What the source says of it later replaces it.

        Cancellation: it may or may not be known.
        Called by: the node, for itself, when it serves and knows its own address, and again when what it tells of
            itself has changed; and whoever deregistered a node that is well again.
        Raises: ConfigError if the source can never take this member, such as one with another's address.
        """

    @abstractmethod
    async def deregister(self, node_id: NodeId) -> None:
        """Forget a node, or withdraw it where the source can only be read. Idempotent; others change nothing.

        Returns once the next ``members`` here does not tell it as ``in_service``; it waits for a source that does not
        answer. A source that cannot forget it tells it still, as ``withdrawn``, until it is registered again here or
        the source does not tell it any more.

        Cancellation: it may or may not be forgotten.
        Called by: a node that was removed, and whoever finds that one is not well. A node that stops is to come back,
            so it does not call this.
        Raises: nothing of its own.
        """

    def use_health(self, ask: Callable[[], NodeHealth]) -> None:
        """Take what tells how the node of this process is, for a source that is told now and then that it lives.

        A node that should get no work is then one that the source withdraws. The default never asks.

        Args:
            ask: Answers at once, until the node has left its block.

        Called by: the node, once, before it registers itself.
        """
        return None

    @abstractmethod
    async def members(self) -> DiscoverySnapshot:
        """Return what is known now, waiting for the source's first answer if there is none yet.

        Cancellation: nothing happens.
        Called by: the node, before it listens, if it needs to know who forms the cluster. It waits for as long as this
            does.
        Raises: ConfigError if what the source tells can never be right. Only the first answer may be so: later ones are
            taken for no answer.
        """

    @abstractmethod
    async def changed(self, since: int) -> DiscoverySnapshot:
        """Wait until there is a snapshot with a version above ``since`` and return the newest: never a backlog.

        Cancellation: nothing is lost; the next call returns what this one would have.
        Called by: one task of the node, again and again, with the version it got last.
        Raises: as ``members``.
        """

    def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        """Iterate over the snapshots: what is known now, and then each time the newest. It never ends by itself.

        Whoever is slow misses those between and is never behind. Nothing is started: to stop iterating ends it.
        Cancellation: nothing is lost; the next step returns what this one would have. Raises: as ``members``.
        """
        return _Watch(self)


class _Watch:
    """No generator: one that is left half-way has to be closed, and this has nothing to close."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._version: int | None = None

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> DiscoverySnapshot:
        discovery, since = self._discovery, self._version
        snapshot = await (discovery.members() if since is None else discovery.changed(since))
        self._version = snapshot.version
        return snapshot

"""Who this node is, and who the others said they are: what both sides of a link check before anything else is said.

A link is refused between two clusters, between nodes that have no version of the protocol in common, and to a storage
that was copied or put back: it shows fewer starts than it was seen with before, so what it promised since is forgotten.
A storage that was wiped has a new incarnation; that is no reason to refuse it, but the core must hear of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import NoReturn

import attrs

from clustercore.interfaces.errors import InvariantError, TransportError
from clustercore.interfaces.messages import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    HelloResponse,
    Message,
)
from clustercore.interfaces.storage import StorageIdentity
from clustercore.raft.messages import InstallSnapshotRequest
from clustercore.raft.types import NodeId
from clustercore.runtime.founding import label_of
from clustercore.runtime.names import MAX_REFUSAL_CHARACTERS, name_fault
from clustercore.runtime.remembered import Remembered

__all__ = ["CHUNKS_SINCE", "Introduction", "Introductions", "ProtocolVersions", "needed_version"]

logger = logging.getLogger("clustercore")


@attrs.frozen
class ProtocolVersions:
    """The versions of the protocol that a node can speak, both bounds included."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"{self.oldest}" if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def agreed_with(self, other: ProtocolVersions) -> int | None:
        """Return the newest version that both speak; None if there is none."""
        newest = min(self.newest, other.newest)
        return newest if newest >= max(self.oldest, other.oldest) else None


SPOKEN = ProtocolVersions(OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
# Whom a peer is called that cannot be called by its name.
_STRANGER = NodeId("(its name is too long)")
# The version of the protocol that sends a snapshot in chunks. Before, a request was the whole snapshot.
CHUNKS_SINCE = 3


def needed_version(message: Message) -> int:
    """Return the oldest version of the protocol that does not misunderstand a message."""
    if isinstance(message, InstallSnapshotRequest) and not (message.offset == 0 and message.is_last):
        return CHUNKS_SINCE
    return OLDEST_PROTOCOL_VERSION


@attrs.frozen
class Introduction:
    """What a peer said of itself last."""

    incarnation: str
    starts: int
    # The version both sides speak.
    protocol_version: int
    # The newest version of commands its state machine understands.
    command_version: int
    # How long it protects a leader that it hears, in seconds; 0 if it did not say.
    election_timeout_s: float


class Introductions:
    """Says who this node is, and remembers who the others are."""

    def __init__(
        self,
        identity: StorageIdentity,
        *,
        on_identified: Callable[[NodeId, str], None],
        election_timeout_s: float,
        versions: ProtocolVersions = SPOKEN,
        command_version: int = 1,
        founding: str = "",
        is_member: Callable[[NodeId], bool] = lambda peer: False,
    ) -> None:
        """Speak for the node whose storage has this identity.

        Args:
            identity: The storage's.
            on_identified: Called with a peer and the incarnation of its storage each time it has said so.
            election_timeout_s: This node's, in seconds.
            versions: What this node speaks.
            command_version: The newest version of commands that its state machine understands.
            founding: The label of the cluster that this node waits for, if that is one that is founded.
            is_member: Says who belongs to the cluster now. Of others only so many are remembered.
        """
        self._founding = founding
        self._identity = identity
        self._on_identified = on_identified
        self._election_timeout_s = election_timeout_s
        self._versions = versions
        self._command_version = command_version
        self._known = Remembered[Introduction](is_member)
        # Where each peer answered last.
        self._reached: dict[NodeId, str] = {}
        # The newest reason for which each peer was refused: a peer that comes back with the same one is not news.
        self._told = Remembered[str](is_member)
        # How many links were refused since the start.
        self.refused = 0

    @property
    def identity(self) -> StorageIdentity:
        """This node's own."""
        return self._identity

    @property
    def election_timeouts_s(self) -> Mapping[NodeId, float]:
        """The election timeout of each peer, in seconds; those of older versions do not say theirs, and are missing."""
        return {
            peer: known.election_timeout_s for peer, known in self._known.all().items() if known.election_timeout_s > 0
        }

    def join(self, cluster_id: str) -> StorageIdentity:
        """Belong to a cluster from now on; return the identity that says so, to be stored.

        Raises: InvariantError if this node belongs to another: it must not have taken that one's log.
        """
        if self._identity.cluster_id:
            raise InvariantError(
                f"node {self._identity.node_id!r} belongs to cluster {self._identity.cluster_id!r}, and its log says "
                f"{cluster_id!r}"
            )
        self._identity = attrs.evolve(self._identity, cluster_id=cluster_id)
        return self._identity

    def protects_for(self, election_timeout_s: float) -> StorageIdentity:
        """Be bound by no longer election timeout from now on; return the identity that says so, to be stored."""
        self._identity = attrs.evolve(self._identity, election_timeout_s=election_timeout_s)
        return self._identity

    def get(self, peer: NodeId) -> Introduction | None:
        """Return what a peer said of itself last; None if it was not heard since this node started."""
        return self._known.get(peer)

    def reached_at(self, peer: NodeId) -> str | None:
        """Return where a peer answered last; None if it did not since this node started."""
        return self._reached.get(peer)

    def is_storage_of(self, peer: NodeId, incarnation: str) -> bool:
        """Whether a storage is the one that a peer said last that it has."""
        known = self._known.get(peer)
        return known is not None and known.incarnation == incarnation

    def hello(self, peer: NodeId) -> Hello:
        """Return what begins a link to a peer."""
        return Hello(self._identity.node_id, peer, *self._told_of_itself(), self._election_timeout_s)

    def answer(self, hello: Hello) -> HelloResponse:
        """Return the answer to a peer's Hello; what it says counts only if ``refusal`` is empty."""
        own = self._identity
        too_long = _too_long(hello)
        if too_long:
            # Nothing of it is remembered or repeated: not even whose name it is.
            refusal = f"of the caller's Hello, {too_long}"
            self._note_refusal(_STRANGER, refusal)
        elif hello.peer_id != own.node_id:
            # For the caller to see: it is looking for another node.
            refusal = f"this is node {own.node_id!r}, not {hello.peer_id!r}"
            logger.warning("node %s called here and meant node %s", hello.node_id, hello.peer_id)
        else:
            refusal = self._fault_of(hello.node_id, hello)
            if refusal:
                self._note_refusal(hello.node_id, refusal)
            else:
                self._remember(hello.node_id, hello)
        return HelloResponse(own.node_id, *self._told_of_itself(), refusal, self._election_timeout_s)

    def check(self, peer: NodeId, address: str, response: HelloResponse) -> int:
        """Make sure that whoever answered at an address is the peer that is meant; return the version to speak there.

        Raises: TransportError, saying why the link is refused, by either side.
        """
        too_long = _too_long(response)
        if too_long:
            self.refuse(peer, f"{address} is to be the address of node {peer!r}, but of what answers there {too_long}")
        if response.node_id != peer:
            self.refuse(
                peer, f"{address} is to be the address of node {peer!r}, but node {response.node_id!r} answers there"
            )
        if response.refusal:
            self.refuse(peer, f"node {peer!r} refuses the link: {response.refusal[:MAX_REFUSAL_CHARACTERS]}")
        refusal = self._fault_of(peer, response)
        if refusal:
            self.refuse(peer, refusal)
        self._reached[peer] = address
        return self._remember(peer, response).protocol_version

    def refuse(self, peer: NodeId, refusal: str) -> NoReturn:
        """Give up a link to a peer.

        Raises: TransportError, always.
        """
        self._note_refusal(peer, refusal)
        raise TransportError(refusal)

    def _told_of_itself(self) -> tuple[int, int, str, str, int, int]:
        """Return what both sides of a Hello say, in the order of its fields."""
        own, versions = self._identity, self._versions
        return versions.newest, versions.oldest, own.cluster_id, own.incarnation, own.starts, self._command_version

    def _fault_of(self, peer: NodeId, said: Hello | HelloResponse) -> str:
        """Return why a peer is refused, by what it says of itself; empty if it is not."""
        own, before = self._identity, self._known.get(peer)
        if own.cluster_id and said.cluster_id and own.cluster_id != said.cluster_id:
            return (
                f"node {own.node_id!r} belongs to cluster {own.cluster_id}, node {peer!r} to {said.cluster_id}; "
                "correct the address of one, or give the one that is to move an empty storage"
            )
        is_other = said.cluster_id and label_of(said.cluster_id) != self._founding
        if self._founding and not own.cluster_id and is_other:
            return (
                f"node {own.node_id!r} waits for a cluster that {self._founding!r} founds, node {peer!r} belongs to "
                f"{said.cluster_id}; start it with join, to be added there, or correct the address of one"
            )
        if self._versions.agreed_with(_versions_of(said)) is None:
            return (
                f"node {own.node_id!r} speaks protocol {self._versions}, node {peer!r} speaks {_versions_of(said)}; "
                "upgrade the older one to a version between"
            )
        if before is not None and before.incarnation == said.incarnation and said.starts < before.starts:
            return (
                f"the storage of node {peer!r} was seen at start {before.starts} and is at start {said.starts} now: it "
                "is a copy, or was put back, and has forgotten what it promised; stop the node, empty its storage, and "
                "start it again"
            )
        return ""

    def _remember(self, peer: NodeId, said: Hello | HelloResponse) -> Introduction:
        self._told.pop(peer)
        agreed = self._versions.agreed_with(_versions_of(said))
        assert agreed is not None
        before = self._known.get(peer)
        # What is no time protects nobody, and neither does what is none of this world.
        timeout_s = said.election_timeout_s if 0 < said.election_timeout_s < math.inf else 0.0
        known = Introduction(said.incarnation, said.starts, agreed, said.command_version or 1, timeout_s)
        self._known.note(peer, known)
        is_news = before is None or before.election_timeout_s != timeout_s
        if timeout_s and timeout_s < self._election_timeout_s and is_news:
            logger.warning(
                "node %s has election_timeout_s = %s, node %s has %s: all nodes should have the same. A leader with "
                "the longer one has leases as short as the other",
                peer,
                timeout_s,
                self._identity.node_id,
                self._election_timeout_s,
            )
        self._on_identified(peer, said.incarnation)
        return known

    def _note_refusal(self, peer: NodeId, refusal: str) -> None:
        self.refused += 1
        if self._told.get(peer) != refusal:
            self._told.note(peer, refusal)
            logger.warning("a link with node %s is refused: %s", peer, refusal)


def _too_long(said: Hello | HelloResponse) -> str:
    """Return which name a peer says is too long; empty if none is."""
    names = {"node_id": said.node_id, "cluster_id": said.cluster_id, "incarnation": said.incarnation}
    if isinstance(said, Hello):
        names["peer_id"] = said.peer_id
    return name_fault(names)


def _versions_of(said: Hello | HelloResponse) -> ProtocolVersions:
    return ProtocolVersions(said.oldest_protocol_version or said.protocol_version, said.protocol_version)

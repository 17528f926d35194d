"""What a node does by itself to belong to its cluster: ask to be added, say that it has moved, notice its removal.

All of it is asking from outside, like any operator: whoever is no member, or is looked for elsewhere, has no leader
that it could ask from inside. The core decides nothing by what is learned here; a removed node keeps quiet because
nobody votes for it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from clustercore.interfaces.discovery import DiscoverySnapshot
from clustercore.interfaces.errors import ChangeRefused, ConfigError, InvalidChange, OutcomeUnknown
from clustercore.interfaces.members import Members
from clustercore.interfaces.storage import StorageIdentity
from clustercore.interfaces.transport import Transport
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex, Role
from clustercore.runtime.addresses import is_for_peers
from clustercore.runtime.founding import FoundingWatch, label_of
from clustercore.runtime.member_changes import MemberChanges
from clustercore.runtime.remote_members import RemoteMembers
from clustercore.runtime.signals import Newest
from clustercore.runtime.waiting import Waiting

__all__ = ["MembershipDuties"]

logger = logging.getLogger("clustercore")

# So many election timeouts without a leader are no election any more: then a node looks whether it is still a member.
_PATIENCE = 3
# How long one attempt to be added may take, in election timeouts, before it is told why it does not work.
_ATTEMPT = 10


class MembershipDuties:
    """Looks after one node's place in the cluster."""

    def __init__(
        self,
        *,
        transport: Transport,
        identity: Callable[[], StorageIdentity],
        state: Callable[[], RaftState],
        known: Callable[[], DiscoverySnapshot],
        join: Sequence[str] | None,
        founding: FoundingWatch | None,
        on_removed: Callable[[], None],
        election_timeout_s: float,
    ) -> None:
        """Do nothing yet; ``run`` does.

        Args:
            transport: What to ask with.
            identity: This node's storage: which cluster it belongs to.
            state: The core's.
            known: What discovery knows.
            join: Whom to ask to be added, beside those that discovery knows; None if this node does not ask.
            founding: Looks for the cluster that is to be founded, and that this node then asks to be added to.
            on_removed: Called when this node finds that it was removed, or that it is a member again.
            election_timeout_s: In seconds.
        """
        self._identity = identity
        self._state = state
        self._known = known
        self._join = join
        self._founding = founding
        self._on_removed = on_removed
        self._timeout_s = election_timeout_s
        self._address = ""
        # A node asked waits for its leader, and that for a change, for an election timeout each.
        timeout_s = _PATIENCE * election_timeout_s
        self._remote = RemoteMembers(transport, lambda: list(self._others()), timeout_s=timeout_s)
        self._members = MemberChanges(self._remote.ask)
        self._complaint = Waiting(f"node {identity().node_id}:", logging.WARNING)
        # The members without this node, by their index, if it was removed from them.
        self.removed: Newest[LogIndex | None] = Newest(None)

    @property
    def is_removed(self) -> bool:
        """Whether this node was removed and has not been added again, as far as it knows."""
        return self.removed.value is not None and not self._has_leader()

    @property
    def waiting(self) -> str:
        """What keeps this node from being part of a cluster, for people; empty if it is, or is not known to be."""
        if self._has_leader():
            return ""
        state, own = self._state(), self._identity()
        known = state.configuration.get(own.node_id)
        learner = ""
        if known is not None and not known.is_voter:
            voters = ", ".join(sorted(state.configuration.voters))
            learner = f"is a learner of cluster {own.cluster_id}, and hears no leader; its voters are {voters}"
        founding = "" if self._founding is None else self._founding.waiting.text
        return "; ".join(text for text in (learner, founding, self._complaint.text) if text)

    async def run(self, address: str) -> None:
        """Look after a node that serves at an address, until cancelled.

        Raises: ConfigError if it can never be added as it is.
        """
        self._address = address
        try:
            if self._founding is not None:
                await self._be_founded(self._founding)
            elif self._join is not None and not self._identity().cluster_id:
                await self._be_added()
            while True:
                # What was asked is answered, and seldom asked again.
                await self._remote.aclose()
                await trio.sleep(_PATIENCE * self._timeout_s)
                await self._look()
        finally:
            with trio.CancelScope(shield=True):
                # Closing a link waits for nothing.
                await self._remote.aclose()

    # --- Being added ---

    async def _be_added(self) -> None:
        node_id = self._identity().node_id
        while not await self._attempt(self._ask_to_be_added):  # noqa: ASYNC110 - those outside have no event to wait for
            await trio.sleep(self._timeout_s)
        logger.info("node %s: the cluster has it among its members", node_id)

    async def _be_founded(self, founding: FoundingWatch) -> None:
        """Be part of the cluster that is founded, by this node or another."""
        while not self._identity().cluster_id:
            if await founding.look() and await self._attempt(self._ask_to_be_added):
                logger.info("node %s: the cluster has it among its members", self._identity().node_id)
                return
            await trio.sleep(self._timeout_s)

    async def _ask_to_be_added(self) -> None:
        node_id, give_up_s = self._identity().node_id, _ATTEMPT * self._timeout_s
        members = await self._members.get(give_up_s=give_up_s)
        if self._founding is not None and label_of(members.configuration.cluster_id) != self._founding.label:
            # Its address was that of a member a moment ago.
            cluster_id = members.configuration.cluster_id
            raise InvalidChange(f"does not ask to be added to {cluster_id}, which is another cluster")
        known = members.configuration.get(node_id)
        if known is not None and known.address not in ("", self._address) and _is_heard(members, node_id):
            # It may have stopped a moment ago, to be started again as this one.
            await trio.sleep(_PATIENCE * self._timeout_s)
            members = await self._members.get(give_up_s=give_up_s)
            known = members.configuration.get(node_id)
        if known is None or known.address in ("", self._address):
            try:
                await self._members.add_learner(node_id, self._address, promote=True, give_up_s=give_up_s)
            except InvalidChange as error:
                raise ConfigError(f"node {node_id!r} cannot be added to the cluster: {error}") from error
        elif _is_heard(members, node_id):
            raise ConfigError(
                f"node {node_id!r} is a member already, and answers at {known.address!r}; give this node, at "
                f"{self._address!r}, an id of its own"
            )
        else:
            await self._members.move(node_id, self._address, give_up_s=give_up_s)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that may not work now; say so once for each reason, and return whether it did."""
        try:
            await work()
        except (ChangeRefused, InvalidChange, OutcomeUnknown) as error:
            self._complaint.say(str(error))
            return False
        self._complaint.end()
        return True

    # --- Being a member ---

    async def _look(self) -> None:
        """See whether this node, if it has no leader, is a member still, and where it is looked for."""
        state, node_id = self._state(), self._identity().node_id
        was_member = state.configurations.newest_naming(node_id) is not None
        if self._has_leader():
            self._complaint.end()
            self._note_removed(None)
        elif not was_member:
            return
        elif state.is_configuration_committed and node_id not in state.configuration.members:
            self._note_removed(state.configurations.latest_index)
        else:
            await self._attempt(self._ask_about_itself)

    def _has_leader(self) -> bool:
        state = self._state()
        return state.role is Role.LEADER or state.leader_protected_until > trio.current_time()

    async def _ask_about_itself(self) -> None:
        node_id, give_up_s = self._identity().node_id, _PATIENCE * self._timeout_s
        members = await self._members.get(give_up_s=give_up_s)
        known = members.configuration.get(node_id)
        if self._has_leader() or not members.is_settled:
            return
        own, theirs = self._identity().cluster_id, members.configuration.cluster_id
        if own != theirs:
            # Its addresses lead elsewhere, or it has an empty disk: what they say is nothing to this node.
            if own:
                itself, remedy = f"to cluster {own}", "give it an empty storage and add it there"
            else:
                itself, remedy = "to no cluster yet", "add it there"
            raise InvalidChange(
                f"it belongs {itself}, and whom it asks to {theirs or 'none'}; {remedy}, or correct the addresses at "
                "which it looks for the others"
            )
        if known is None:
            self._note_removed(members.index)
        elif known.address != self._address and is_for_peers(self._address) and not _is_heard(members, node_id):
            where = known.address or "where discovery says"
            logger.warning("node %s is looked for at %s; it is at %s", node_id, where, self._address)
            await self._members.move(node_id, self._address, give_up_s=give_up_s)

    def _note_removed(self, index: LogIndex | None) -> None:
        if index is not None and self.removed.value is None:
            node_id = self._identity().node_id
            logger.info("node %s was removed from its cluster, at index %d at the latest", node_id, index)
        if index != self.removed.value:
            self.removed.set(index)
            self._on_removed()

    def _others(self) -> Iterator[str]:
        """Everywhere another member may be."""
        if self._founding is not None and not self._identity().cluster_id:
            # Discovery may name nodes of another cluster, and this one is to be added to none of those.
            yield from self._founding.members_at
            return
        yield from self._join or ()
        node_id = self._identity().node_id
        for member in self._known().members:
            if member.node_id != node_id:
                yield member.address
        for server in self._state().configuration.servers:
            if server.node_id != node_id and server.address:
                yield server.address


def _is_heard(members: Members, node_id: str) -> bool:
    """Whether the leader hears a node, or is it."""
    heard = {peer.node_id for peer in members.peers if peer.is_heard}
    return node_id in heard or node_id == members.leader_id

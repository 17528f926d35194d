"""When tombstones are collected: whom a node asks, and whom it waits for. ``collecting`` says what goes, and why.

A tombstone is safe to drop once nobody can have an edit that does not know of it and that this node has not seen. For
each other member that takes two steps, in this order. The member acknowledges that it holds the tombstone: whatever it
writes from then on knows of the deletion. Then a session with it ends with nothing kept back: so this node has all that
the member had written, or been told, before that. Who the members are the leader says: one that was added before the
question is waited for, however far behind this node is; one that is added later begins with what the others hold.

A member whose clock is so far behind that the tombstone waits there for its time acknowledges it, too, and may edit in
no knowledge of it until that has come. That takes clocks that differ by more than the age from which on tombstones are
collected. Such an edit is refused like any other against the ledger, unless it wins.

A member that does not answer holds collection back until it does, or is removed; so does a cluster without a leader.
Then the deletions stay, which costs room and nothing else. What a removed member, or an old copy of a disk, may bring
back is for the ledger in ``collecting``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from random import Random

import attrs
import trio

from clustercore.interfaces import ChangeRefused, NodeId, NodeSite, NodeStopped, OutcomeUnknown
from clustercore.sync.checkpoints import NO_PEER, peer_of
from clustercore.sync.entities import EntityStore
from clustercore.sync.schedule import SyncConfig

__all__ = ["CollectionStatus", "TombstoneCollector"]

logger = logging.getLogger("clustercore")


@attrs.frozen(kw_only=True)
class CollectionStatus:
    """What became of deletions since the service started."""

    # Deletions that every member knew of, and that were forgotten here.
    collected: int
    # When it was last looked for some, on Trio's clock; None: not yet.
    last_at: float | None
    # For how many deletions, which are old enough, each member was waited for then: it has not fetched them, or nothing
    # was fetched from it since.
    held_back_by: Mapping[NodeId, int]
    # Why nothing could be collected at all; "" if it could.
    obstacle: str


class TombstoneCollector:
    """Collects the tombstones of a node's store from time to time.

    Args:
        store: The node's.
        config: Says how often, and from which age on.
        rng: Draws jitter.
        passed: Returns up to which of the store's changes a member holds all, with all fetched from it since.
        forget: Is told of who is no member, and of whom nothing has to be remembered.
    """

    def __init__(
        self,
        store: EntityStore,
        config: SyncConfig,
        rng: Random,
        *,
        passed: Callable[[NodeId], int],
        forget: Callable[[Collection[NodeId]], None],
    ) -> None:
        self._store = store
        self._config = config
        self._rng = rng
        self._passed = passed
        self._forget = forget
        self._turn = trio.Lock()
        self.status = CollectionStatus(collected=0, last_at=None, held_back_by={}, obstacle="")

    async def run(self, site: NodeSite) -> None:
        """Collect until cancelled. Raises: StorageError."""
        while True:
            spread = self._config.jitter * self._rng.uniform(-1, 1)
            await trio.sleep(self._config.collect_interval_s * (1 + spread))
            await self.collect(site)

    async def collect(self, site: NodeSite) -> CollectionStatus:
        """Forget what everybody knows of, and return what became of it.

        Cancellation: what was collected stays so. Raises: StorageError.
        """
        async with self._turn:
            others = await self._ask_members(site)
            if isinstance(others, str):
                self._note(0, {}, others)
                return self.status
            await self._forget_strangers(others)
            passed = {member: self._passed(member) for member in others}
            report = await self._store.collect_tombstones(passed, grace_s=self._config.grace_s)
            self._note(report.collected, report.waiting_for, "")
            return self.status

    async def _ask_members(self, site: NodeSite) -> frozenset[NodeId] | str:
        """Return all other members, those that the leader knows and those that this node does; or why none."""
        if site.members() is None:
            return "this node is no member of a cluster"
        try:
            told = await site.node.members.get(give_up_s=self._config.call_timeout_s)
        except (ChangeRefused, OutcomeUnknown, NodeStopped) as error:
            return str(error)
        known = site.members()
        if known is None or self._store.node_id not in told.configuration.members:
            return "this node is no member of the cluster"
        # A removal that is not certain may be undone.
        if not told.is_settled:
            return f"the members are being changed, at index {told.index} of the log"
        return (known | told.configuration.members) - {self._store.node_id}

    async def _forget_strangers(self, others: Collection[NodeId]) -> None:
        """Drop the checkpoints of who is no member any more. One that comes back compares everything."""
        strangers = {peer_of(name) for name in self._store.checkpoints()} - {*others, NO_PEER}
        if strangers:
            self._forget(strangers)
            names = [name for name in self._store.checkpoints() if peer_of(name) in strangers]
            await self._store.apply((), checkpoints=dict.fromkeys(names))

    def _note(self, collected: int, held_back_by: Mapping[NodeId, int], obstacle: str) -> None:
        node_id, before = self._store.node_id, self.status
        self.status = CollectionStatus(
            collected=before.collected + collected,
            last_at=trio.current_time(),
            held_back_by=held_back_by,
            obstacle=obstacle,
        )
        if collected:
            logger.info("node %s: %d deletions that all members know of are forgotten", node_id, collected)
        if held_back_by.keys() - before.held_back_by.keys():
            logger.warning(
                "node %s: deletions older than %g s are kept because of members that have not fetched them, or that "
                "could not be fetched from since: %s. Remove whoever does not come back",
                node_id,
                self._config.grace_s,
                ", ".join(f"{member} ({number})" for member, number in sorted(held_back_by.items())),
            )

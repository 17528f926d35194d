"""What a discovery knows last: the rules of its snapshots, for a plugin that asks a source now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable

import attrs
import trio

from clustercore.interfaces.discovery import DiscoverySnapshot, Member
from clustercore.raft.types import NodeId

__all__ = ["KnownMembers"]

logger = logging.getLogger("clustercore")


@attrs.frozen
class _Registration:
    """What was registered here, which edit that was, and what the source had told of the node by then."""

    member: Member
    edit: int
    told_before: Member | None


class KnownMembers:
    """Turns what a source says, or fails to say, into snapshots that keep the contract of ``Discovery``.

    The plugin tells it of every answer; ``members`` and ``changed`` are the plugin's own methods then.

    Args:
        source: The plugin's name, for the snapshots and logs.
        clock: The time of day, Unix time in seconds.
    """

    def __init__(self, source: str, *, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        # What the source told last, by id; None before its first answer.
        self._told: dict[NodeId, Member] | None = None
        # What was registered here, by id: it holds over what the source tells, until that is something new.
        self._registered: dict[NodeId, _Registration] = {}
        # Who was forgotten, by id, and when, in edits: an answer to an earlier question may tell of it still.
        self._forgotten: dict[NodeId, int] = {}
        self._edits = 0
        self._withdrawn: set[NodeId] = set()
        # Those that the source itself says are not well.
        self._unwell: frozenset[NodeId] = frozenset()
        self._newest = DiscoverySnapshot(0, (), source)
        # Set, and replaced by a new one, at every change.
        self._changed = trio.Event()
        self._complaint = ""

    @property
    def newest(self) -> DiscoverySnapshot | None:
        """What is known now; None before the source's first answer."""
        return None if self._told is None else self._newest

    @property
    def complaint(self) -> str:
        """Why what is known is stale, in words; empty while the source answers."""
        return self._complaint

    @property
    def edits(self) -> int:
        """How often ``register`` and ``forget`` were called: what the source is asked now knows of these, if it can."""
        return self._edits

    async def members(self) -> DiscoverySnapshot:
        """Do as ``Discovery.members``."""
        return await self.changed(0)

    async def changed(self, since: int) -> DiscoverySnapshot:
        """Do as ``Discovery.changed``."""
        await trio.lowlevel.checkpoint()
        while self._newest.version <= max(since, 0):
            await self._changed.wait()
        return self._newest

    # --- What the source says ---

    def tell(
        self,
        members: Iterable[Member],
        *,
        as_of: float | None = None,
        asked_at: int | None = None,
        is_empty_certain: bool = False,
        unwell: Collection[NodeId] = (),
    ) -> bool:
        """Take an answer: all members that the source has. Return whether it was believed.

        An answer that cannot be right, or that names nobody after there was somebody, is none: see ``fail``.

        Args:
            members: In any order.
            as_of: When the source knew this, Unix time in seconds; None for now.
            asked_at: ``edits`` when the source was asked: an answer that was under way while somebody registered here
                does not undo that. None if nothing can have happened between.
            is_empty_certain: That there is nobody is no accident: the plugin has made sure of it.
            unwell: Those of the members of which the source says that they are not well: they are told as withdrawn
                until it says otherwise.
        """
        told: dict[NodeId, Member] = {}
        for member in members:
            fault = _fault_of(member, told.get(member.node_id))
            if fault:
                self.fail(fault)
                return False
            told[member.node_id] = member
        asked_at = self._edits if asked_at is None else asked_at
        self._forgotten = {node_id: edit for node_id, edit in self._forgotten.items() if edit > asked_at}
        for node_id in self._forgotten:
            told.pop(node_id, None)
        if not told and self._told and not is_empty_certain:
            self.fail("it names nobody, all of a sudden")
            return False
        for node_id, registration in list(self._registered.items()):
            if registration.edit <= asked_at and registration.told_before != told.get(node_id):
                # The source has heard of it, or of something newer.
                del self._registered[node_id]
        self._told = told
        self._withdrawn &= told.keys()
        self._unwell = frozenset(unwell) & told.keys()
        if self._complaint:
            logger.info("discovery %s answers again", self._source)
            self._complaint = ""
        self._publish(is_stale=False, as_of=self._clock() if as_of is None else as_of)
        return True

    def fail(self, reason: str) -> None:
        """Take note that the source does not answer, or not what can be right: what it told last holds, as stale.

        Args:
            reason: For the log, which has it when it begins and each time it is another.
        """
        if reason != self._complaint:
            self._complaint = reason
            held = "nothing is known yet" if self._told is None else f"the last {len(self._told)} members hold"
            logger.warning("discovery %s does not help: %s; %s", self._source, reason, held)
        if self._told is not None:
            self._publish(is_stale=True, as_of=self._newest.as_of)

    # --- What is said here ---

    def register(self, member: Member) -> None:
        """Know a member from now on, until the source says something new of it."""
        self._edits += 1
        self._withdrawn.discard(member.node_id)
        self._unwell -= {member.node_id}
        self._forgotten.pop(member.node_id, None)
        told_before = (self._told or {}).get(member.node_id)
        self._registered[member.node_id] = _Registration(member, self._edits, told_before)
        self._publish_if_known()

    def withdraw(self, node_id: NodeId) -> None:
        """Forget what was registered here; a member that the source tells is marked, for it cannot be told to stop."""
        self._registered.pop(node_id, None)
        if self._told is None or node_id in self._told:
            # Before the first answer it may come to be told.
            self._withdrawn.add(node_id)
        self._publish_if_known()

    def forget(self, node_id: NodeId) -> None:
        """Forget a member of which the source was told to forget it; its next answer counts again."""
        self._edits += 1
        self._registered.pop(node_id, None)
        self._withdrawn.discard(node_id)
        self._forgotten[node_id] = self._edits
        if self._told is not None:
            self._told.pop(node_id, None)
        self._publish_if_known()

    def _publish_if_known(self) -> None:
        if self._told is not None:
            self._publish(is_stale=self._newest.is_stale, as_of=self._newest.as_of)

    def _publish(self, *, is_stale: bool, as_of: float) -> None:
        registered = {node_id: registration.member for node_id, registration in self._registered.items()}
        by_id = {**(self._told or {}), **registered}
        members = tuple(by_id[node_id] for node_id in sorted(by_id))
        withdrawn = frozenset(self._withdrawn | self._unwell)
        before = self._newest
        newest = DiscoverySnapshot(before.version, members, self._source, is_stale, as_of, withdrawn)
        if newest == before and before.version > 0:
            self._newest = newest
            return
        self._newest = attrs.evolve(newest, version=before.version + 1)
        self._changed.set()
        self._changed = trio.Event()


def _fault_of(member: Member, other: Member | None) -> str:
    """Return why a source cannot mean this, beside what it said of the same id already; empty if it can."""
    if not member.node_id:
        return f"it tells of a member without id, at {member.address!r}"
    if not member.address:
        return f"it tells no address of node {member.node_id!r}"
    if other is not None and other != member:
        return f"it tells two things of node {member.node_id!r}: {other.address!r} and {member.address!r}"
    return ""

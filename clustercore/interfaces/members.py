"""The members of a running cluster: reading who they are, and changing them (Raft §6, thesis chapter 4).

A member has a vote, or is a learner: it receives the log, and its answers count in no majority (thesis §4.2.1). Every
change is an entry of the log, and the members that it names count from then on. One change at a time is under way; one
of several voters is *joint* while it is, and finishes by itself, whoever leads (thesis §4.3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import attrs

from clustercore.interfaces.values import PeerStatus
from clustercore.raft.types import Configuration, LogIndex, NodeId, Term

__all__ = ["Members", "MembersHandle"]


@attrs.frozen
class Members:
    """Who belongs to the cluster, as its leader knew at one moment."""

    configuration: Configuration
    # The log entry that names them. It grows with each change, so it serves as their version.
    index: LogIndex
    # Whether that entry is committed: only then it is certain to stay.
    is_committed: bool
    # Who told this, and in which term. The leader may have been removed by the very change it tells of.
    term: Term
    leader_id: NodeId | None
    # The leader's view of every other member, sorted by id.
    peers: tuple[PeerStatus, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether no change is under way."""
        return self.is_committed and not self.configuration.is_joint


class MembersHandle(ABC):
    """Reads and changes the members, on any node: what is not the leader passes it on.

    Each change is made by comparing and setting: it is worked out from the members that the leader names, refused if
    others count by then, and worked out anew. So two operators at once do not undo each other by accident. A change
    that holds already is a success: whoever does not know what became of one repeats it.

    Each waits for a change that is under way, for a leader, and until its own change is committed and not joint any
    more. All take these:

    * ``expected_index``: Make the change only if the members are still those of this ``Members.index``.
    * ``give_up_s``: Raise ChangeRefused or OutcomeUnknown after this many seconds. None waits on.

    Returns: the members once the change is finished.

    Cancellation: the change may or may not be made, also later, as with ``propose``; ``get`` tells.
    Raises:
        InvalidChange: never will be done: it contradicts itself or the members there are. The text says what to do.
        ChangeRefused: not done; ``reason`` and the text say what would help.
        OutcomeUnknown: may still be done: ``give_up_s`` passed, or the node stopped, after a leader was asked.
        NodeStopped: the node is not running; not done.
    """

    @abstractmethod
    async def get(self, *, give_up_s: float | None = None) -> Members:
        """Return the members now: at least as new as any change that was finished before the call."""

    @abstractmethod
    async def add_learner(
        self,
        node_id: str,
        address: str = "",
        *,
        promote: bool = False,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """Add a node that receives the log and has no vote. It may come up before or after.

        Args:
            node_id: Its name. One that is a learner already stays one, and may be given ``promote``.
            address: Where it is reached, in the transport's form; empty if every node's discovery knows it.
            promote: Let the leader give it a vote as soon as it has caught up.
        """

    @abstractmethod
    async def add(
        self, node_id: str, address: str = "", *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """Add a node, and wait until it votes: it is a learner until it has caught up, and then promoted by the leader.

        The node must be started to catch up. If this gives up, or is cancelled, the promotion still takes place by
        itself: ``remove`` takes the node out again.
        """

    @abstractmethod
    async def promote(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """Give a learner a vote. One that has not caught up is refused: it would keep a majority waiting."""

    @abstractmethod
    async def demote(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """Take a voter's vote away; it stays as a learner."""

    @abstractmethod
    async def remove(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """Remove a member; a node that is none is removed already. A leader may remove itself: another takes over.

        Refused while the voters that would be left do not answer: a change that cannot be committed is not begun.
        """

    @abstractmethod
    async def replace(
        self,
        old: str,
        new: str,
        address: str = "",
        *,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """Put a new node in the place of a member, which may be dead: the number of voters never falls.

        The new one is a learner first, and takes the old one's place in one joint change when it has caught up. Until
        then the old one stays. ``expected_index`` is that of the first of these two changes.
        """

    @abstractmethod
    async def move(
        self,
        node_id: str,
        address: str,
        *,
        force: bool = False,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """Note that a member is reached at another address. A node that is started at another one says so itself.

        Args:
            node_id: The member.
            address: Where it is, in the transport's form.
            force: Do not look there first. Without, a member that is well is not moved to where it does not answer
                with the storage that it has; one that does not answer where it is now is moved to anywhere.
        """

    @abstractmethod
    async def apply(
        self, target: Configuration, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """Change the members to just these, all at once.

        A voter in it that is none now must be a learner that has caught up.

        Args:
            target: All members that are to be. Addresses may be left empty where they stay the same; the cluster's id
                and the incarnations are filled in.
        """

"""Proposals on their way: waiting for room, for the leader, or for their commit.

Everything here but waiting for room is synchronous bookkeeping. A group is what is appended, forwarded and answered as
one; a local ``propose`` makes a group of one command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from clustercore.interfaces.errors import ClusterError, NodeStopped, OutcomeUnknown, ProposalRefused
from clustercore.interfaces.values import Applied
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.types import LogIndex, NodeId, Term
from clustercore.runtime.signals import Wakeup

__all__ = ["Group", "GroupResult", "Proposals", "kinds_of"]

_COMMAND = bytes([EntryKind.COMMAND])

# The outcome of a group: its results in order, or why there are none.
GroupResult = Sequence[Applied] | ClusterError


@attrs.define(eq=False)
class Group:
    """Commands that are appended together or not at all."""

    commands: tuple[bytes, ...]
    # Called once, when the outcome is known.
    on_done: Callable[[GroupResult], None]
    # False: answer "not the leader" rather than pass it on. So forwarding never goes round in circles.
    may_forward: bool
    # The ``EntryKind`` of each command, one byte each; given as empty if all are COMMAND.
    kinds: bytes = b""
    size_bytes: int = attrs.field(init=False)
    # Nobody waits for it to be tried again: once it is known not to be done, that is its answer.
    is_given_up: bool = attrs.field(init=False, default=False)
    # Set when appended to this leader's log.
    first_index: LogIndex | None = None
    results: list[Applied] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.size_bytes = sum(len(command) for command in self.commands)
        self.kinds = self.kinds or _COMMAND * len(self.commands)


class Proposals:
    """All groups a node holds, bounded in number of commands and in bytes."""

    def __init__(self, *, node_id: NodeId, max_commands: int, max_bytes: int) -> None:
        self._node_id = node_id
        self._max_commands = max_commands
        self._max_bytes = max_bytes
        self._commands = 0
        self._bytes = 0
        # Who waits for room, in order of arrival. The first stays in line until it enters, so that nobody passes it.
        self._line: deque[Wakeup] = deque()
        self._queued: deque[Group] = deque()
        # In this leader's log, ascending by first_index; their terms are all the present one.
        self._appended: deque[Group] = deque()
        # Who waits until there are none.
        self._settled = trio.lowlevel.ParkingLot()
        self._stopped = False

    @property
    def pending(self) -> int:
        """How many commands are held or waiting for room."""
        return self._commands + len(self._line)

    @property
    def has_queued(self) -> bool:
        """Whether any group waits to be appended or forwarded."""
        return bool(self._queued)

    async def wait_settled(self) -> None:
        """Wait until every group was answered."""
        while self._commands:
            await self._settled.park()

    async def wait_room(self) -> None:
        """Wait, in order of arrival, until another group may be added; the caller adds it before its next await.

        Raises: NodeStopped.
        """
        if self._is_full() or self._line:
            await self._stand_in_line()
        if self._stopped:
            raise self._not_done()

    async def _stand_in_line(self) -> None:
        turn = Wakeup()
        self._line.append(turn)
        try:
            while not self._stopped and (self._line[0] is not turn or self._is_full()):
                await turn.wait()
        finally:
            self._line.remove(turn)
            # Whoever was called and is cancelled before it runs hands its turn on.
            self._let_in_next()

    def add(self, group: Group) -> None:
        """Queue a group; there is room for it, or for one command at least."""
        self._commands += len(group.commands)
        self._bytes += group.size_bytes
        self._queued.append(group)
        self._let_in_next()

    def withdraw(self, group: Group) -> bool:
        """Take back a group that is still queued; return False if it is on its way already."""
        if group not in self._queued:
            return False
        self._queued.remove(group)
        self._release(group)
        return True

    def take_queued(self, max_bytes: int) -> list[Group]:
        """Take queued groups in order, up to about ``max_bytes`` but at least one if there is one."""
        taken: list[Group] = []
        size = 0
        while self._queued and (not taken or size + self._queued[0].size_bytes <= max_bytes):
            group = self._queued.popleft()
            size += group.size_bytes
            taken.append(group)
        return taken

    def put_back(self, groups: Sequence[Group]) -> None:
        """Queue again, in front, groups that were taken but are certainly not done. Those given up are refused."""
        if self._stopped:
            self._fail(groups, self._not_done)
            return
        self._queued.extendleft(reversed([group for group in groups if not group.is_given_up]))
        self._fail(
            [group for group in groups if group.is_given_up],
            lambda: ProposalRefused(f"node {self._node_id!r} could not reach a leader in time; nothing was done"),
        )

    def appended(self, groups: Sequence[Group], first_index: LogIndex) -> None:
        """Note that groups are in this leader's log, consecutively from ``first_index``."""
        for group in groups:
            group.first_index = first_index
            first_index = LogIndex(first_index + len(group.commands))
            self._appended.append(group)

    def applied(self, entry: Entry, result: bytes) -> None:
        """Note the result of an applied entry, and answer the group it completes."""
        if not self._appended:
            return
        group = self._appended[0]
        assert group.first_index is not None
        if entry.index < group.first_index:
            return
        group.results.append(Applied(entry.index, entry.term, result))
        if len(group.results) == len(group.commands):
            self._appended.popleft()
            self.finish(group, group.results)

    def leadership_lost(self, term: Term) -> None:
        """Answer all groups in the log of a leader that no longer leads ``term``: nobody here will learn their fate."""

        def unknown() -> OutcomeUnknown:
            return OutcomeUnknown(
                f"node {self._node_id!r} lost the leadership of term {term} before the command was known to be "
                "committed; it may still be applied"
            )

        self._fail(self._take_appended(), unknown)

    def refuse_unforwardable(self, make_error: Callable[[], ClusterError]) -> None:
        """Answer the queued groups that must not be passed on, on a node that does not lead."""
        refused = [group for group in self._queued if not group.may_forward]
        if refused:
            self._queued = deque(group for group in self._queued if group.may_forward)
            self._fail(refused, make_error)

    def finish(self, group: Group, result: GroupResult) -> None:
        """Answer a group that is neither queued nor appended any more."""
        self._release(group)
        group.on_done(result)

    def stop(self) -> None:
        """Answer everything: what was queued is not done, what was appended may be."""
        self._stopped = True
        queued = list(self._queued)
        self._queued.clear()
        self._fail(queued, self._not_done)
        self._fail(
            self._take_appended(),
            lambda: OutcomeUnknown(f"node {self._node_id!r} stopped before the command was known to be committed"),
        )
        for turn in self._line:
            turn.set()

    def _take_appended(self) -> list[Group]:
        groups = list(self._appended)
        self._appended.clear()
        return groups

    def _not_done(self) -> NodeStopped:
        return NodeStopped(f"node {self._node_id!r} has stopped; nothing was done")

    def _fail(self, groups: Sequence[Group], make_error: Callable[[], ClusterError]) -> None:
        # Each group gets an exception of its own: raised in several tasks, one would gather all their tracebacks.
        for group in groups:
            self.finish(group, make_error())

    def _release(self, group: Group) -> None:
        self._commands -= len(group.commands)
        self._bytes -= group.size_bytes
        if not self._commands:
            self._settled.unpark_all()
        self._let_in_next()

    def _let_in_next(self) -> None:
        """Call the first in line if there is room. It adds without another await, and that lets in the next."""
        if self._line and not self._is_full():
            self._line[0].set()

    def _is_full(self) -> bool:
        return self._commands >= self._max_commands or self._bytes >= self._max_bytes


def kinds_of(groups: Sequence[Group]) -> bytes:
    """Return the kind of each command of the groups, one byte each; nothing if all are COMMAND, as most are."""
    kinds = b"".join(group.kinds for group in groups)
    return kinds if kinds.strip(_COMMAND) else b""

"""Reads without a log entry: finding the index to read at, at the leader or from afar (thesis §6.4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces.errors import NodeStopped
from clustercore.interfaces.messages import ReadIndexReady, ReadIndexRefused, ReadIndexRequest
from clustercore.raft.types import LogIndex, NodeId, ReadId, Round, Term
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.signals import Wakeup

__all__ = ["ClockGuard", "Freshness", "OnReadIndex", "ReadIndexes"]

# How long to wait before asking again a leader that did not answer, or that says it does not lead. Hearing of another
# leader ends the wait.
RETRY_PAUSE_S = 0.05

# A leader starts a round once the one before is answered, so the one it names is among the last few.
_ROUNDS_REMEMBERED = 64

# Takes the index, or None if there is none to be had here and now.
OnReadIndex = Callable[[LogIndex | None], None]


@attrs.define(eq=False)
class _Waiter:
    """One read, until it has its index; None then means that the node stopped."""

    read_index: LogIndex | None = None
    done: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class _Question:
    """One attempt to get an index, for all reads that had gathered."""

    request_id: int
    leader_id: NodeId
    read_index: LogIndex | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)

    def answer(self, read_index: LogIndex | None) -> None:
        self.read_index = read_index
        self.answered.set()


class ReadIndexes:
    """Gets read indexes for the tasks of this node, one question at a time for all that wait.

    A read that arrives while a question is under way waits for the next one: the answer to the present one may be older
    than the read (thesis §6.4). So reads are batched without waiting for anything.
    """

    def __init__(
        self,
        node_id: NodeId,
        *,
        leader_id: Callable[[], NodeId | None],
        ask_core: Callable[[ReadId], None],
        outbox_to: Callable[[NodeId], Outbox | None],
        timeout_s: float,
    ) -> None:
        """Prepare; ``run`` makes it live."""
        self._node_id = node_id
        self._leader_id = leader_id
        self._ask_core = ask_core
        self._outbox_to = outbox_to
        self._timeout_s = timeout_s
        # Those the question under way is for, and those for the next one.
        self._asking: list[_Waiter] = []
        self._waiting: dict[_Waiter, None] = {}
        self._wakeup = Wakeup()
        self._question: _Question | None = None
        self._leader_changed = trio.Event()
        # Questions to this node's own core: its own and its peers'.
        self._asked: dict[ReadId, OnReadIndex] = {}
        self._last_id = 0
        self._is_stopped = False

    async def get(self) -> LogIndex:
        """Return an index at which a read is linearizable, waiting for a leader if none is known.

        Raises: NodeStopped.
        """
        waiter = _Waiter()
        if not self._is_stopped:
            self._waiting[waiter] = None
            self._wakeup.set()
            try:
                await waiter.done.wait()
            finally:
                self._waiting.pop(waiter, None)
        if waiter.read_index is None:
            raise NodeStopped(f"node {self._node_id!r} has stopped; nothing was read")
        return waiter.read_index

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._wakeup.wait()
            while self._waiting:
                self._asking, self._waiting = list(self._waiting), {}
                read_index = await self._ask_until_answered()
                for waiter in self._asking:
                    waiter.read_index = read_index
                    waiter.done.set()

    def stop(self) -> None:
        """End every wait with NodeStopped."""
        self._is_stopped = True
        for waiter in (*self._asking, *self._waiting):
            waiter.done.set()

    # --- This node's core, asked from here or by a peer ---

    def ask_core(self, on_answer: OnReadIndex) -> None:
        """Ask this node's own core; the callback gets None if it does not lead."""
        read_id = ReadId(self._next_id())
        self._asked[read_id] = on_answer
        self._ask_core(read_id)

    def answered_by_core(self, read_ids: tuple[ReadId, ...], read_index: LogIndex | None) -> None:
        """Take the core's answer."""
        for read_id in read_ids:
            self._asked.pop(read_id)(read_index)

    # --- The leader, asked from afar ---

    def receive(self, leader_id: NodeId, answer: ReadIndexReady | ReadIndexRefused) -> None:
        """Take a leader's answer; one to an earlier question changes nothing."""
        question = self._question
        if question is not None and (question.leader_id, question.request_id) == (leader_id, answer.request_id):
            question.answer(answer.read_index if isinstance(answer, ReadIndexReady) else None)

    def leader_changed(self) -> None:
        """Give up a question to an earlier leader, and ask the new one."""
        self._leader_changed.set()
        self._leader_changed = trio.Event()
        if self._question is not None and self._question.leader_id != self._node_id:
            self._question.answer(None)

    async def _ask_until_answered(self) -> LogIndex:
        while True:
            leader_id = self._leader_id()
            if leader_id is None:
                await self._leader_changed.wait()
                continue
            read_index = await self._ask(leader_id)
            if read_index is not None:
                return read_index
            with trio.move_on_after(RETRY_PAUSE_S):
                await self._leader_changed.wait()

    async def _ask(self, leader_id: NodeId) -> LogIndex | None:
        question = self._question = _Question(self._next_id(), leader_id)
        if leader_id == self._node_id:
            # The core answers when it can, and refuses when it leads no more.
            self.ask_core(question.answer)
            await question.answered.wait()
        else:
            outbox = self._outbox_to(leader_id)
            if outbox is not None:
                outbox.post(ReadIndexRequest(question.request_id))
                with trio.move_on_after(self._timeout_s):
                    await question.answered.wait()
        self._question = None
        return question.read_index

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


class Freshness:
    """How long ago it was, at most, that this node had applied everything its leader had committed.

    When a leader's word left it this node cannot know: it may have been long on its way. But the word names a round of
    heartbeats that this node had answered, so it left after this node heard of that round, and is taken to be as old.

    It remembers what the leader said at two moments: the earlier one that is not applied yet, and the newest.
    """

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self._fresh_at = -math.inf
        self._heard: list[tuple[LogIndex, float]] = []
        # When each round of heartbeats was first heard of, in order.
        self._rounds: deque[tuple[Term, Round, float]] = deque(maxlen=_ROUNDS_REMEMBERED)

    def heard_round(self, term: Term, number: Round, now: float) -> None:
        """Note that the leader was heard in one of its rounds."""
        if not self._rounds or self._rounds[-1][:2] < (term, number):
            self._rounds.append((term, number, now))

    def round_heard_at(self, term: Term, number: Round) -> float | None:
        """Return when a round was first heard of; None if it was not, or too long ago."""
        return next((heard_at for *which, heard_at in reversed(self._rounds) if which == [term, number]), None)

    def heard(self, commit_index: LogIndex, at: float) -> None:
        """Note what the leader had committed at some moment, or later."""
        self._heard = [*self._heard[:1], (commit_index, at)]

    def lag_s(self, last_applied: LogIndex, now: float) -> float:
        """Return for how many seconds, at most, this node has been behind; infinity if no leader was heard yet."""
        while self._heard and self._heard[0][0] <= last_applied:
            self._fresh_at = max(self._fresh_at, self._heard.pop(0)[1])
        return now - self._fresh_at


class ClockGuard:
    """Notices that the machine was suspended or its clock set: then what rests on the passing of time is void.

    The monotonic clock stands still while a machine is suspended, and a lease would live on; the wall clock does not.
    """

    def __init__(self, wall_clock: Callable[[], float], tolerance_s: float) -> None:
        """Compare from now on."""
        self._wall_clock = wall_clock
        self._tolerance_s = tolerance_s
        self._offset_s = wall_clock() - trio.current_time()
        self._stepped_at = -math.inf

    def stepped_at(self, now: float) -> float:
        """Return when the two clocks were last found to disagree; what was known before that is not to be relied on."""
        offset_s = self._wall_clock() - now
        if abs(offset_s - self._offset_s) > self._tolerance_s:
            self._stepped_at = now
            self._offset_s = offset_s
        return self._stepped_at

"""Passing proposals on to the leader, and keeping apart what is certainly not done from what may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum

import attrs
import trio

from clustercore.interfaces.errors import ClusterError, OutcomeUnknown, ProposalRefused, ResultLost
from clustercore.interfaces.messages import ForwardFailure, ForwardProposals, ProposalsApplied, ProposalsFailed
from clustercore.interfaces.values import Applied
from clustercore.raft.types import LogIndex, NodeId
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.proposals import Group, Proposals, kinds_of
from clustercore.runtime.signals import Wakeup

__all__ = ["Forwarder"]

# Requests to the leader that are not answered yet. While all are under way, proposals gather for the next one.
MAX_OPEN_REQUESTS = 4
MAX_REQUEST_BYTES = 1024 * 1024
# How long a leader is left alone that could not be reached or does not lead: half a heartbeat, since hearing of another
# leader ends the wait. Without it two nodes that disagree on who leads would talk as fast as they can.
RETRY_PAUSE_S = 0.05


class _Fate(Enum):
    """What is known of one request."""

    # Certainly not at the leader.
    UNSENT = "unsent"
    SENT = "sent"
    # Sent, and the answer will not come.
    LOST = "lost"
    ANSWERED = "answered"


@attrs.define(eq=False)
class _Request:
    request_id: int
    leader_id: NodeId
    groups: list[Group]
    fate: _Fate = _Fate.UNSENT
    # What the leader answered so far: results come in parts if they are large, in any order.
    first_index: LogIndex | None = None
    results: dict[LogIndex, Applied] = attrs.field(factory=dict)
    failure: ProposalsFailed | None = None
    settled: trio.Event = attrs.field(factory=trio.Event)
    # Takes the request back from its link if it is not sent yet.
    withdraw: Callable[[], object] = attrs.field(default=lambda: None)
    # Around the wait for the answer.
    patience: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def is_complete(self) -> bool:
        """Whether there is a result for every command."""
        return len(self.results) >= sum(len(group.commands) for group in self.groups)

    def take_results(self, part: ProposalsApplied) -> None:
        """Note the results of consecutive commands; the first part holds the first command's index, if not more."""
        first_index = part.first_index
        self.first_index = first_index if self.first_index is None else min(self.first_index, first_index)
        for offset, result in enumerate(part.results):
            index = LogIndex(first_index + offset)
            self.results[index] = Applied(index, part.term, result)


class Forwarder:
    """Sends queued proposals to the leader and hands its answers to the proposers.

    A request that was certainly not carried out goes back into the queue, for whoever leads next. One that may have
    been is answered OutcomeUnknown: only the proposer knows whether doing it twice is harmless.
    """

    def __init__(
        self,
        node_id: NodeId,
        proposals: Proposals,
        *,
        leader_id: Callable[[], NodeId | None],
        outbox_to: Callable[[NodeId], Outbox | None],
        wake_engine: Callable[[], None],
        timeout_s: float,
        farewell_s: float,
        max_request_bytes: int = MAX_REQUEST_BYTES,
    ) -> None:
        self._node_id = node_id
        self._proposals = proposals
        self._leader_id = leader_id
        self._outbox_to = outbox_to
        self._wake_engine = wake_engine
        self._timeout_s = timeout_s
        self._farewell_s = farewell_s
        self._max_request_bytes = max_request_bytes
        self._wakeup = Wakeup()
        self._open: dict[int, _Request] = {}
        self._last_request_id = 0
        # The leader that could not be reached, or said it leads no more, and until when it is left alone.
        self._resting: NodeId | None = None
        self._rests_until = -math.inf

    def wake(self) -> None:
        """Look again: proposals were queued, or the leader changed."""
        self._wakeup.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wakeup.wait()
                while (request := self._next_request()) is not None:
                    self._post(request)
                    nursery.start_soon(self._see_through, request)

    def receive(self, leader_id: NodeId, answer: ProposalsApplied | ProposalsFailed) -> None:
        """Take an answer; one to a request that is settled already changes nothing."""
        request = self._open.get(answer.request_id)
        if request is None or request.leader_id != leader_id or request.fate is not _Fate.SENT:
            return
        if isinstance(answer, ProposalsFailed):
            request.failure = answer
        else:
            request.take_results(answer)
        if request.failure is not None or request.is_complete:
            self._settle(request, _Fate.ANSWERED)

    def give_up_on(self, leader_id: NodeId) -> None:
        """The link to a leader broke: its open answers will not come."""
        for request in self._open.values():
            if request.leader_id == leader_id and not request.settled.is_set():
                self._settle(request, _Fate.LOST if request.fate is _Fate.SENT else _Fate.UNSENT)

    def leader_left(self, leader_id: NodeId) -> None:
        """A leader leads no more: what it was not sent goes to the next, and for its open answers there is a last wait.

        If it lives, it soon hears of that itself, and says which proposals it never appended.
        """
        for request in self._open.values():
            if request.leader_id == leader_id and not request.settled.is_set():
                if request.fate is _Fate.UNSENT:
                    self._settle(request, _Fate.UNSENT)
                else:
                    request.patience.deadline = min(request.patience.deadline, trio.current_time() + self._farewell_s)

    def _next_request(self) -> _Request | None:
        leader_id = self._leader_id()
        if leader_id is None or leader_id == self._node_id:
            return None
        if sum(request.leader_id == leader_id for request in self._open.values()) >= MAX_OPEN_REQUESTS:
            return None
        if leader_id == self._resting and trio.current_time() < self._rests_until:
            return None
        groups = self._proposals.take_queued(self._max_request_bytes)
        if not groups:
            return None
        self._last_request_id += 1
        request = _Request(self._last_request_id, leader_id, groups)
        self._open[request.request_id] = request
        return request

    def _post(self, request: _Request) -> None:
        outbox = self._outbox_to(request.leader_id)
        if outbox is None:
            self._settle(request, _Fate.UNSENT)
            return
        mail = outbox.post(
            ForwardProposals(
                request.request_id,
                tuple(command for group in request.groups for command in group.commands),
                kinds_of(request.groups),
            ),
            on_sent=lambda: self._sent(request),
            on_dropped=lambda: self._settle(request, _Fate.UNSENT),
        )
        request.withdraw = lambda: outbox.withdraw(mail)

    async def _see_through(self, request: _Request) -> None:
        """Wait for what becomes of a request; its groups are answered or queued again however this ends."""
        try:
            request.patience.deadline = min(request.patience.deadline, trio.current_time() + self._timeout_s)
            with request.patience:
                await request.settled.wait()
        finally:
            del self._open[request.request_id]
            # Its groups are queued again, and will leave in another request: this one must not leave as well.
            request.withdraw()
            is_done_with = self._conclude(request)
            self.wake()
        if not is_done_with:
            await self._leave_alone(request.leader_id)

    async def _leave_alone(self, leader_id: NodeId) -> None:
        """Ask another leader at once, but this one only after a pause."""
        self._resting, self._rests_until = leader_id, trio.current_time() + RETRY_PAUSE_S
        await trio.sleep(RETRY_PAUSE_S)
        self.wake()

    def _sent(self, request: _Request) -> None:
        request.fate = _Fate.SENT

    def _settle(self, request: _Request, fate: _Fate) -> None:
        request.fate = fate
        request.withdraw()
        request.settled.set()

    def _conclude(self, request: _Request) -> bool:
        """Answer a request's groups and return True, or queue them again and return False."""
        groups = self._hand_out(request)
        failure = request.failure
        match failure:
            case ProposalsFailed(failure=ForwardFailure.UNKNOWN):
                self._fail(groups, lambda: OutcomeUnknown(f"leader {request.leader_id!r}: {failure.detail}"))
            case ProposalsFailed(failure=ForwardFailure.NO_RESULT):
                self._fail(groups, lambda: ResultLost(f"leader {request.leader_id!r}: {failure.detail}"))
            case ProposalsFailed(failure=ForwardFailure.REFUSED):
                # It would refuse them again: a limit of its configuration is lower than here, or it is stopping.
                self._fail(groups, lambda: ProposalRefused(f"leader {request.leader_id!r}: {failure.detail}"))
            case None if request.fate is not _Fate.UNSENT:
                self._fail(
                    groups,
                    lambda: OutcomeUnknown(
                        f"leader {request.leader_id!r} got the command from {self._node_id!r} but gave no answer; it "
                        "may still be applied"
                    ),
                )
            case _:
                self._proposals.put_back(groups)
                # This node may be the leader by now.
                self._wake_engine()
                return False
        return True

    def _hand_out(self, request: _Request) -> list[Group]:
        """Answer the groups whose results are all there; return the others."""
        if request.first_index is None:
            return request.groups
        others: list[Group] = []
        end = request.first_index
        for group in request.groups:
            start, end = end, LogIndex(end + len(group.commands))
            results = [request.results[LogIndex(index)] for index in range(start, end) if index in request.results]
            if len(results) == len(group.commands):
                self._proposals.finish(group, results)
            else:
                others.append(group)
        return others

    def _fail(self, groups: Sequence[Group], make_error: Callable[[], ClusterError]) -> None:
        for group in groups:
            self._proposals.finish(group, make_error())

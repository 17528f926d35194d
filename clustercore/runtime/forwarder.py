"""Passing proposals on to the leader, and keeping apart what is certainly not done from what may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import attrs
import trio

from clustercore.interfaces.errors import ClusterError, OutcomeUnknown
from clustercore.interfaces.messages import ForwardFailure, ForwardProposals, ProposalsApplied, ProposalsFailed
from clustercore.interfaces.values import Applied
from clustercore.raft.types import LogIndex, NodeId
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.proposals import Group, Proposals
from clustercore.runtime.signals import Wakeup

__all__ = ["Forwarder"]

# Requests to the leader that are not answered yet. While all are under way, proposals gather for the next one.
MAX_OPEN_REQUESTS = 4
MAX_REQUEST_BYTES = 1024 * 1024


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
    answer: ProposalsApplied | ProposalsFailed | None = None
    settled: trio.Event = attrs.field(factory=trio.Event)


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
        timeout_s: float,
    ) -> None:
        """Prepare; ``run`` makes it live."""
        self._node_id = node_id
        self._proposals = proposals
        self._leader_id = leader_id
        self._outbox_to = outbox_to
        self._timeout_s = timeout_s
        self._wakeup = Wakeup()
        self._open: dict[int, _Request] = {}
        self._last_request_id = 0

    def wake(self) -> None:
        """Look again: proposals were queued, or the leader changed."""
        self._wakeup.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wakeup.wait()
                while (request := self._next_request()) is not None:
                    nursery.start_soon(self._forward, request)

    def receive(self, leader_id: NodeId, answer: ProposalsApplied | ProposalsFailed) -> None:
        """Take an answer; one to a request that is settled already changes nothing."""
        request = self._open.get(answer.request_id)
        if request is not None and request.leader_id == leader_id and request.fate is _Fate.SENT:
            request.answer = answer
            self._settle(request, _Fate.ANSWERED)

    def give_up_on(self, leader_id: NodeId) -> None:
        """The link to a leader broke, or it leads no more: its open answers will not come."""
        for request in list(self._open.values()):
            if request.leader_id == leader_id and request.fate is _Fate.SENT:
                self._settle(request, _Fate.LOST)

    def _next_request(self) -> _Request | None:
        leader_id = self._leader_id()
        if leader_id is None or leader_id == self._node_id or len(self._open) >= MAX_OPEN_REQUESTS:
            return None
        groups = self._proposals.take_queued(MAX_REQUEST_BYTES)
        if not groups:
            return None
        self._last_request_id += 1
        request = _Request(self._last_request_id, leader_id, groups)
        self._open[request.request_id] = request
        return request

    async def _forward(self, request: _Request) -> None:
        """Carry one request through; its groups are answered or queued again however this ends."""
        try:
            outbox = self._outbox_to(request.leader_id)
            if outbox is not None:
                commands = tuple(command for group in request.groups for command in group.commands)
                outbox.post(
                    ForwardProposals(request.request_id, commands),
                    on_sent=lambda: self._sent(request),
                    on_dropped=lambda: self._settle(request, _Fate.UNSENT),
                )
                with trio.move_on_after(self._timeout_s):
                    await request.settled.wait()
        finally:
            del self._open[request.request_id]
            self._conclude(request)
            self.wake()

    def _sent(self, request: _Request) -> None:
        request.fate = _Fate.SENT

    def _settle(self, request: _Request, fate: _Fate) -> None:
        request.fate = fate
        request.settled.set()

    def _conclude(self, request: _Request) -> None:
        answer = request.answer
        match answer:
            case ProposalsApplied():
                self._hand_out(request.groups, answer)
            case ProposalsFailed(failure=ForwardFailure.UNKNOWN):
                self._fail(request.groups, lambda: OutcomeUnknown(f"leader {request.leader_id!r}: {answer.detail}"))
            case ProposalsFailed():
                self._proposals.put_back(request.groups)
            case None if request.fate is _Fate.UNSENT:
                self._proposals.put_back(request.groups)
            case None:
                self._fail(
                    request.groups,
                    lambda: OutcomeUnknown(
                        f"leader {request.leader_id!r} got the command from {self._node_id!r} but gave no answer; it "
                        "may still be applied"
                    ),
                )

    def _hand_out(self, groups: Sequence[Group], answer: ProposalsApplied) -> None:
        if len(answer.results) != sum(len(group.commands) for group in groups):
            count = len(answer.results)
            self._fail(groups, lambda: OutcomeUnknown(f"the leader answered with {count} results, not one for each"))
            return
        applied = [
            Applied(LogIndex(answer.first_index + offset), answer.term, result)
            for offset, result in enumerate(answer.results)
        ]
        start = 0
        for group in groups:
            end = start + len(group.commands)
            self._proposals.finish(group, applied[start:end])
            start = end

    def _fail(self, groups: Sequence[Group], make_error: Callable[[], ClusterError]) -> None:
        for group in groups:
            self._proposals.finish(group, make_error())

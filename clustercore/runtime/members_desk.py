"""Where questions about the members are answered on a node: here if it leads, otherwise by the leader it knows.

A question is passed on once at most, so it never goes round in circles; each is answered in bounded time, with what is
known. ``member_changes`` asks until the outcome is certain.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces.errors import NodeStopped
from clustercore.interfaces.members import Members
from clustercore.interfaces.messages import (
    MEMBERS_PROTOCOL_VERSION,
    ChangeMembers,
    MembersFailed,
    MembersRequest,
    MembersResponse,
)
from clustercore.interfaces.values import NodeStatus
from clustercore.raft.effects import ConfigurationAppended, ConfigurationRefused
from clustercore.raft.types import ChangeRefusal, Configuration, LogIndex, NodeId, Role, Term
from clustercore.runtime.engine import Engine
from clustercore.runtime.introductions import Introductions
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.reads import OnReadIndex
from clustercore.runtime.whereabouts import Whereabouts

__all__ = ["MembersDesk"]

Answer = MembersResponse | MembersFailed


@attrs.define(eq=False)
class _Question:
    """Something asked of the core or of the leader; None for an answer means that the node stopped."""

    answer: LogIndex | ConfigurationAppended | ConfigurationRefused | Answer | None = None
    was_sent: bool = False
    is_answered: trio.Event = attrs.field(factory=trio.Event)

    def settle(self, answer: LogIndex | ConfigurationAppended | ConfigurationRefused | Answer | None) -> None:
        self.answer = answer
        self.is_answered.set()


class MembersDesk:
    """Answers what is asked about the members, by this node's own tasks, by its peers and from outside."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        engine: Engine,
        introductions: Introductions,
        ask_core: Callable[[OnReadIndex], None],
        status: Callable[[], NodeStatus],
        outbox_to: Callable[[NodeId], Outbox | None],
        address_of: Callable[[NodeId], str | None],
        whereabouts: Whereabouts,
        timeout_s: float,
    ) -> None:
        """Answer for the node that this engine drives.

        Args:
            ask_core: Asks the core for a read index; a leader that gives one still led when it was asked.
            address_of: Where this node would reach a member.
            whereabouts: Looks where members are to be.
            timeout_s: How long an answer may wait for a change to finish. A leader elsewhere gets twice that.
        """
        self._node_id = node_id
        self._engine = engine
        self._introductions = introductions
        self._ask_core = ask_core
        self._status = status
        self._outbox_to = outbox_to
        self._address_of = address_of
        self._whereabouts = whereabouts
        self._timeout_s = timeout_s
        self._open: set[_Question] = set()
        # Questions that were passed on, by their number.
        self._passed_on: dict[int, tuple[NodeId, _Question]] = {}
        self._last_request_id = 0
        self._is_stopped = False

    def stop(self) -> None:
        """End every wait with NodeStopped."""
        self._is_stopped = True
        for question in self._open:
            question.is_answered.set()

    async def answer(self, request: MembersRequest | ChangeMembers) -> Answer:
        """Answer a question, here or by the leader's word; in bounded time.

        Cancellation: a change may be made all the same.
        Raises: NodeStopped.
        """
        if self._is_stopped:
            raise self._stopped()
        leader_id = self._engine.role.value.leader_id
        if leader_id == self._node_id:
            answer = await (self._tell(request) if isinstance(request, MembersRequest) else self._change(request))
        elif leader_id is None:
            answer = self._not_leader("it knows no leader; ask again after an election")
        elif request.is_forwarded:
            answer = self._not_leader(f"ask {leader_id!r}")
        else:
            answer = await self._pass_on(leader_id, request)
        return attrs.evolve(answer, request_id=request.request_id)

    def receive(self, leader_id: NodeId, answer: Answer) -> None:
        """Take a leader's answer; one that nobody waits for any more changes nothing."""
        asked, question = self._passed_on.get(answer.request_id, (None, None))
        if question is not None and asked == leader_id:
            question.settle(answer)

    # --- As the leader ---

    async def _tell(self, request: MembersRequest) -> Answer:
        question = _Question()
        self._ask_core(question.settle)
        await self._wait(question)
        if question.answer is None:
            return self._not_leader("it leads no more")
        term = self._engine.role.value.term
        if request.is_settled:
            await self._wait_settled(term)
        if self._engine.role.value.role is not Role.LEADER or self._engine.role.value.term != term:
            return self._not_leader("it leads no more")
        return MembersResponse(0, self._members())

    async def _change(self, request: ChangeMembers) -> Answer:
        question = _Question()
        fault = await self._fault_of(request)
        if fault is not None:
            return fault
        target = self._with_addresses(request.target)
        self._engine.change_configuration(target, request.term, request.expected_index, question.settle)
        await self._wait(question)
        if isinstance(question.answer, ConfigurationRefused):
            return MembersFailed(0, question.answer.reason, question.answer.detail, self._engine.role.value.leader_id)
        # It is in the log. However long that takes to commit, it may: whoever asked is told how far it is.
        await self._wait_settled(request.term)
        return MembersResponse(0, self._members())

    async def _fault_of(self, request: ChangeMembers) -> MembersFailed | None:
        """Look whether the members can be where they are to be. What changes meanwhile, the core compares after it."""
        present, leader_id = self._engine.membership.value.configuration, self._engine.role.value.leader_id
        misnamed = self._whereabouts.misnamed(present, request.target)
        if misnamed:
            return MembersFailed(0, ChangeRefusal.INVALID, misnamed, leader_id)
        missing = "" if request.is_forced else await self._whereabouts.missing(present, request.target)
        if missing:
            return MembersFailed(0, ChangeRefusal.NOT_THERE, missing, leader_id)
        return None

    async def _wait_settled(self, term: Term) -> None:
        """Wait until no change is under way, this node leads no more, or the time is up."""
        with trio.move_on_after(self._timeout_s):
            async for membership in self._engine.membership:
                office = self._engine.role.value
                if membership.is_settled or office.role is not Role.LEADER or office.term != term:
                    return
        if self._is_stopped:
            raise self._stopped()

    def _members(self) -> Members:
        membership, status = self._engine.membership.value, self._status()
        return Members(
            configuration=membership.configuration,
            index=membership.index,
            is_committed=membership.is_committed,
            term=status.term,
            leader_id=status.leader_id,
            peers=status.peers,
        )

    def _with_addresses(self, target: Configuration) -> Configuration:
        """Write down where each member is: one that is added later may know another discovery, or none."""
        servers = (
            server if server.address else attrs.evolve(server, address=self._address_of(server.node_id) or "")
            for server in target.servers
        )
        return attrs.evolve(target, servers=tuple(servers))

    # --- Elsewhere ---

    async def _pass_on(self, leader_id: NodeId, request: MembersRequest | ChangeMembers) -> Answer:
        known = self._introductions.get(leader_id)
        if known is not None and known.protocol_version < MEMBERS_PROTOCOL_VERSION:
            return MembersFailed(
                0,
                ChangeRefusal.UNSUPPORTED,
                f"leader {leader_id!r} speaks protocol {known.protocol_version}, and members are changed from "
                f"{MEMBERS_PROTOCOL_VERSION} on; upgrade it, or let a newer node lead",
                leader_id,
            )
        outbox = self._outbox_to(leader_id)
        if outbox is None:
            return self._not_leader(f"it cannot reach leader {leader_id!r}")
        self._last_request_id += 1
        request_id, question = self._last_request_id, _Question()

        def sent() -> None:
            question.was_sent = True

        self._passed_on[request_id] = leader_id, question
        mail = outbox.post(
            attrs.evolve(request, request_id=request_id, is_forwarded=True),
            on_sent=sent,
            on_dropped=lambda: question.settle(self._not_leader(f"it cannot reach leader {leader_id!r}")),
        )
        try:
            with trio.move_on_after(2 * self._timeout_s):
                await self._wait(question)
        finally:
            del self._passed_on[request_id]
            outbox.withdraw(mail)
        if isinstance(question.answer, MembersResponse | MembersFailed):
            return question.answer
        may_be_done = question.was_sent and isinstance(request, ChangeMembers)
        failure = self._not_leader(f"leader {leader_id!r} gave it no answer")
        return attrs.evolve(failure, may_be_done=may_be_done)

    def _not_leader(self, detail: str) -> MembersFailed:
        leader_id = self._engine.role.value.leader_id
        return MembersFailed(0, ChangeRefusal.NOT_LEADER, f"node {self._node_id!r}: {detail}", leader_id)

    # --- Waiting ---

    async def _wait(self, question: _Question) -> None:
        """Wait for an answer.

        Raises: NodeStopped.
        """
        self._open.add(question)
        try:
            await question.is_answered.wait()
        finally:
            self._open.discard(question)
        if self._is_stopped:
            raise self._stopped()

    def _stopped(self) -> NodeStopped:
        return NodeStopped(f"node {self._node_id!r} has stopped; ask another for the members")

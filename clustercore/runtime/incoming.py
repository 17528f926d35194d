"""Answering the links that peers open."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from clustercore.interfaces.errors import NodeStopped, NotLeader, OutcomeUnknown, TransportError
from clustercore.interfaces.messages import (
    ChangeMembers,
    ForwardFailure,
    ForwardProposals,
    Hello,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    StatusRequest,
    StatusResponse,
)
from clustercore.interfaces.transport import Link
from clustercore.interfaces.values import Applied, NodeStatus
from clustercore.raft.entry import EntryKind
from clustercore.raft.messages import PreVoteRequest, RaftRequest, RequestVoteRequest
from clustercore.raft.types import LogIndex, NodeId
from clustercore.runtime.engine import Engine
from clustercore.runtime.founding import FirstVoters
from clustercore.runtime.introductions import Introductions
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.proposals import Group, GroupResult, Proposals
from clustercore.runtime.reads import ReadIndexes
from clustercore.runtime.session_entries import command_in

__all__ = ["Acceptor"]

logger = logging.getLogger("clustercore")

# Requests of one link that are not answered yet; then the link is not read until one is. Above any window of a leader,
# and far below what would fill memory.
MAX_OPEN_REQUESTS = 128


# Of a message that the transport carries, what is kept for all that is no result; and for each result, its own header.
_RESERVED_BYTES = 256
_RESULT_OVERHEAD_BYTES = 8

# Forwarded requests of one link that are recognised when they come again: many times what a sender has open at once.
_REQUESTS_REMEMBERED = 256


AnswerMembers = Callable[[MembersRequest | ChangeMembers], Awaitable[MembersResponse | MembersFailed]]


class Acceptor:
    """Takes the requests of accepted links to the engine, and its answers back."""

    def __init__(
        self,
        *,
        introductions: Introductions,
        engine: Engine,
        proposals: Proposals,
        read_indexes: ReadIndexes,
        answer_members: AnswerMembers,
        status: Callable[[float], NodeStatus],
        max_command_bytes: int,
        max_message_bytes: int | None,
        first_voters: FirstVoters | None = None,
    ) -> None:
        """Prepare to accept."""
        self._first_voters = first_voters
        self._introductions = introductions
        self._engine = engine
        self._proposals = proposals
        self._read_indexes = read_indexes
        self._members_answer = answer_members
        self._status = status
        self._max_command_bytes = max_command_bytes
        self._conversations: set[_Conversation] = set()
        # Who waits for answers to be sent.
        self._sent = trio.lowlevel.ParkingLot()
        self._max_message_bytes = math.inf if max_message_bytes is None else max_message_bytes

    async def accept(self, link: Link) -> None:
        """Answer one link until it ends. This is what ``Transport.serve`` calls."""
        conversation = _Conversation(self._sent.unpark_all)
        self._conversations.add(conversation)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conversation.outbox.send_all, link)
                while True:
                    message = await link.receive()
                    conversation.check_introduced(message)
                    if isinstance(message, ForwardProposals) and conversation.is_repeat(message.request_id):
                        # A transport may repeat; appended twice, the commands would be applied twice.
                        continue
                    await conversation.begin()
                    if isinstance(message, ForwardProposals):
                        # In a task of its own: while they wait for room, the link's other requests must be heard. They
                        # may be the entries of a new leader, and the only way to make room is to follow it.
                        nursery.start_soon(self._propose, message, conversation)
                    elif isinstance(message, MembersRequest | ChangeMembers):
                        # They wait for the leader, or for a change to be committed.
                        nursery.start_soon(self._answer_members, message, conversation)
                    else:
                        await self._take(message, conversation)
        except* TransportError as group:
            logger.debug("an accepted link ended: %s", group.exceptions[0])
        finally:
            self._conversations.discard(conversation)
            self._sent.unpark_all()

    async def wait_answers_sent(self) -> None:
        """Wait until every answer that was given is handed to its link."""
        while not all(conversation.outbox.is_idle for conversation in self._conversations):
            await self._sent.park()

    async def _take(self, message: Message, conversation: _Conversation) -> None:
        if isinstance(message, RaftRequest):
            await self._engine.receive(_sender_of(message), message, conversation.answer)
            return
        match message:
            case Hello():
                response = self._introductions.answer(message)
                conversation.peer = None if response.refusal else message.node_id
                conversation.answer(response)
            case ReadIndexRequest(request_id=request_id):
                self._read_indexes.ask_core(
                    lambda read_index: conversation.answer(self._read_index_answer(request_id, read_index))
                )
            case StatusRequest(request_id=request_id):
                # In a turn of the engine: a node whose consensus loop stands still is not well, and does not answer.
                self._engine.when_turned(
                    lambda late_s: conversation.answer(StatusResponse(self._status(late_s), request_id))
                )
            case _:
                raise TransportError(f"a peer sent {type(message).__name__} where only requests are expected")

    def _read_index_answer(self, request_id: int, read_index: LogIndex | None) -> ReadIndexReady | ReadIndexRefused:
        if read_index is None:
            return ReadIndexRefused(request_id, self._status(0.0).leader_id)
        return ReadIndexReady(request_id, read_index)

    async def _answer_members(self, message: MembersRequest | ChangeMembers, conversation: _Conversation) -> None:
        try:
            conversation.answer(await self._members_answer(message))
        except NodeStopped:
            # As for proposals: this task is about to be cancelled.
            return

    async def _propose(self, message: ForwardProposals, conversation: _Conversation) -> None:
        request_id = message.request_id
        fault = _fault_of(message, self._max_command_bytes)
        if fault is not None:
            conversation.answer(ProposalsFailed(request_id, ForwardFailure.REFUSED, None, fault))
            return
        if self._engine.is_leader and self._first_voters is not None and not self._first_voters.are_there():
            # As if there were no leader: the proposers wait where they are, and the sender asks again.
            detail = f"no command is taken yet: {self._first_voters}"
            conversation.answer(ProposalsFailed(request_id, ForwardFailure.NOT_LEADER, None, detail))
            return
        if self._engine.is_leader:
            # A full leader leaves its peers' requests open, of which each has few, and that is felt by the proposers.
            try:
                await self._proposals.wait_room()
            except NodeStopped:
                # The node is leaving its block, and this task is about to be cancelled: nobody is answered any more.
                return
        self._engine.propose(
            Group(
                message.commands,
                on_done=lambda result: conversation.answer(*_answers_of(request_id, result, self._max_message_bytes)),
                may_forward=False,
                kinds=message.kinds,
            )
        )


class _Conversation:
    """The answers to one link, and how many are owed."""

    def __init__(self, on_sent: Callable[[], object]) -> None:
        self.outbox = Outbox(drops=False, on_room=self._note_sent)
        self._on_sent = on_sent
        # Who called, once it has said so and was not refused.
        self.peer: NodeId | None = None
        self._open = 0
        self._taken: deque[int] = deque(maxlen=_REQUESTS_REMEMBERED)
        self._room = trio.lowlevel.ParkingLot()

    def check_introduced(self, message: Message) -> None:
        """Make sure that what only members may say comes from the one it names, who has said Hello.

        Raises: TransportError.
        """
        match message:
            case Hello() | StatusRequest() | MembersRequest() | ChangeMembers():
                # The last three are also asked from outside, by operators and by nodes that are to be added.
                return
            case _ if self.peer is None:
                raise TransportError(f"a peer sent {type(message).__name__}, and no Hello that was not refused")
        if isinstance(message, RaftRequest) and (sender := _sender_of(message)) != self.peer:
            raise TransportError(f"node {self.peer!r} sent {type(message).__name__} in the name of {sender!r}")

    def is_repeat(self, request_id: int) -> bool:
        """Whether these proposals were taken already. The sender counts its requests up and never uses one again."""
        if request_id in self._taken:
            return True
        self._taken.append(request_id)
        return False

    async def begin(self) -> None:
        """Count a request, waiting while too many are unanswered, or too much in answers is not sent."""
        while self._open >= MAX_OPEN_REQUESTS or not self.outbox.has_room:
            await self._room.park()
        self._open += 1

    def answer(self, *messages: Message) -> None:
        """Queue the answer to a request, be it of several messages."""
        self._open -= 1
        for message in messages:
            self.outbox.post(message)
        self._room.unpark()

    def _note_sent(self) -> None:
        self._room.unpark()
        self._on_sent()


def _sender_of(request: RaftRequest) -> NodeId:
    """Return the node that a request of Raft's own says it is from."""
    return request.candidate_id if isinstance(request, PreVoteRequest | RequestVoteRequest) else request.leader_id


def _fault_of(message: ForwardProposals, max_command_bytes: int) -> str | None:
    """Say why none of what is forwarded may be appended; None if it may be."""
    commands = message.commands
    kinds = message.kinds or bytes([EntryKind.COMMAND]) * len(commands)
    if not commands or len(kinds) != len(commands):
        return f"{len(commands)} commands of {len(kinds)} kinds; one kind for each, and at least one"
    try:
        sizes = [len(command_in(EntryKind(kind), command)) for kind, command in zip(kinds, commands, strict=True)]
    except ValueError as error:
        return str(error)
    too_large = [size for size in sizes if size > max_command_bytes]
    return f"commands of {too_large} bytes; at most {max_command_bytes} bytes are allowed" if too_large else None


def _answers_of(
    request_id: int, result: GroupResult, max_message_bytes: float
) -> list[ProposalsApplied | ProposalsFailed]:
    match result:
        case NodeStopped():
            # Not done, and another node will lead: for the sender it is as if this one had never led.
            return [ProposalsFailed(request_id, ForwardFailure.NOT_LEADER, None, str(result))]
        case NotLeader(leader_id=leader_id):
            return [ProposalsFailed(request_id, ForwardFailure.NOT_LEADER, leader_id, str(result))]
        case OutcomeUnknown():
            return [ProposalsFailed(request_id, ForwardFailure.UNKNOWN, None, str(result))]
        case Exception():
            return [ProposalsFailed(request_id, ForwardFailure.REFUSED, None, str(result))]
        case _:
            return _results_in_parts(request_id, result, max_message_bytes - _RESERVED_BYTES)


def _results_in_parts(
    request_id: int, results: Sequence[Applied], max_bytes: float
) -> list[ProposalsApplied | ProposalsFailed]:
    """Put results into as few answers as fit. A result that fits none is left out, and what is known of it said last.

    The first answer is of the first command, with a result or none, so that the caller can tell which results it got.
    """
    parts: list[list[bytes]] = [[]]
    firsts = [results[0].index]
    room = max_bytes
    too_large: list[Applied] = []
    for applied in results:
        size = len(applied.result) + _RESULT_OVERHEAD_BYTES
        if size > max_bytes:
            too_large.append(applied)
        # What follows a result that is left out is not consecutive with what came before it.
        if size > room or (too_large and too_large[-1].index == applied.index - 1):
            parts.append([])
            firsts.append(applied.index)
            room = max_bytes
        if size <= max_bytes:
            parts[-1].append(applied.result)
            room -= size
    answers: list[ProposalsApplied | ProposalsFailed] = [
        ProposalsApplied(request_id, results[0].term, first_index, tuple(part))
        for number, (first_index, part) in enumerate(zip(firsts, parts, strict=True))
        if part or number == 0
    ]
    if too_large:
        worst = max(too_large, key=lambda applied: len(applied.result))
        detail = (
            f"the command at index {worst.index} is applied, but its result of {len(worst.result)} bytes does not fit "
            f"into a message of {max_bytes:g} bytes; ask the leader itself, or raise max_message_bytes"
        )
        answers.append(ProposalsFailed(request_id, ForwardFailure.NO_RESULT, None, detail))
    return answers

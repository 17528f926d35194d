"""Reading and changing the members, by asking whoever leads, until the outcome is known.

Nothing here knows how a question travels: a node asks through its links (``members_desk``), a program from outside over
one of its own (``remote_members``).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from clustercore.interfaces.errors import ChangeRefused, InvalidChange, NodeStopped, OutcomeUnknown
from clustercore.interfaces.members import Members, MembersHandle
from clustercore.interfaces.messages import ChangeMembers, MembersFailed, MembersRequest, MembersResponse
from clustercore.raft.types import BEFORE_LOG, NO_TERM, ChangeRefusal, Configuration, LogIndex, NodeId, Term
from clustercore.runtime.member_edits import (
    Edit,
    adding,
    applying,
    demoting,
    moving,
    promoting,
    removing,
    replacing,
)

__all__ = ["AskMembers", "MemberChanges"]

# How long to wait before asking again whoever could not answer, or not yet.
RETRY_PAUSE_S = 0.1

# Asks one question and returns one answer, in bounded time. Raises NodeStopped if there is nobody to ask any more.
AskMembers = Callable[[MembersRequest | ChangeMembers], Awaitable[MembersResponse | MembersFailed]]

# What the leader may come to say yes to by itself.
_PASSING = frozenset(
    {
        ChangeRefusal.NOT_LEADER,
        ChangeRefusal.TRANSFERRING,
        ChangeRefusal.CHANGE_PENDING,
        ChangeRefusal.TERM_NOT_COMMITTED,
        ChangeRefusal.UNCHANGED,
        ChangeRefusal.CONFLICT,
    }
)


@attrs.define
class _Course:
    """How far an operation has come, to be told if it is given up."""

    give_up_at: float
    give_up_s: float | None
    # Why it is not done yet.
    reason: ChangeRefusal = ChangeRefusal.NOT_LEADER
    detail: str = "no leader is known"
    # Of the newest attempt that may be in a log, or come to be. It cannot any more once another change is in the log of
    # the leader it was for, or a later leader has committed an entry.
    tried_term: Term = NO_TERM
    tried_index: LogIndex = BEFORE_LOG
    # Whether a part of it is done, and the rest goes on by itself.
    is_begun: bool = False

    @property
    def may_be_done(self) -> bool:
        """Whether the change may still be made."""
        return self.is_begun or self.tried_term != NO_TERM

    def tried(self, members: Members) -> None:
        """Note that a change of these members is about to be asked for."""
        self.tried_term, self.tried_index = members.term, members.index

    def nothing_tried(self) -> None:
        """Note that what was asked for is not done, and will not be."""
        self.tried_term = NO_TERM

    def failed(self, answer: MembersFailed) -> None:
        """Note why there was no other answer."""
        self.reason, self.detail = answer.reason, answer.detail

    def waits_for(self, members: Members) -> None:
        """Note that another change is under way."""
        voters = ", ".join(sorted(members.configuration.all_voters))
        self.reason = ChangeRefusal.CHANGE_PENDING
        self.detail = f"the change at index {members.index} is not finished; it needs a majority of {voters}"

    def given_up(self) -> ChangeRefused | OutcomeUnknown:
        """Return what to raise once ``give_up_s`` has passed."""
        if self.may_be_done:
            return OutcomeUnknown(
                f"after {self.give_up_s} s the change of the members is not known to be finished, and may still be "
                f"made: {self.detail}; ask for the members to learn what became of it"
            )
        return ChangeRefused(
            self.reason, f"the members could not be asked or changed within {self.give_up_s} s: {self.detail}"
        )


class MemberChanges(MembersHandle):
    """The operations on members, each a loop of reading, working out the target, and asking for it."""

    def __init__(self, ask: AskMembers) -> None:
        self._ask = ask

    async def get(self, *, give_up_s: float | None = None) -> Members:
        """As ``MembersHandle`` says."""

        async def work(course: _Course) -> Members:
            return await self._read(course, is_settled=False)

        return await self._run(work, give_up_s)

    async def add_learner(
        self,
        node_id: str,
        address: str = "",
        *,
        promote: bool = False,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(adding(node_id, address, promote=promote), expected_index, give_up_s)

    async def add(
        self, node_id: str, address: str = "", *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """As ``MembersHandle`` says."""

        async def work(course: _Course) -> Members:
            members = await self._make(course, adding(node_id, address, promote=True), expected_index)
            course.is_begun = True
            while NodeId(node_id) not in members.configuration.voters or not members.is_settled:
                if members.configuration.get(NodeId(node_id)) is None:
                    raise ChangeRefused(
                        ChangeRefusal.CONFLICT, f"node {node_id!r} was removed again before it had caught up"
                    )
                lag = next((peer.lag for peer in members.peers if peer.node_id == node_id), 0)
                course.detail = (
                    f"node {node_id!r} is a learner that lacks {lag} entries; the leader promotes it as soon as it has "
                    "caught up, for which it must run"
                )
                await trio.sleep(RETRY_PAUSE_S)
                members = await self._read(course, is_settled=True)
            return members

        return await self._run(work, give_up_s)

    async def promote(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(promoting(node_id), expected_index, give_up_s)

    async def demote(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(demoting(node_id), expected_index, give_up_s)

    async def remove(
        self, node_id: str, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(removing(node_id), expected_index, give_up_s)

    async def replace(
        self,
        old: str,
        new: str,
        address: str = "",
        *,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """As ``MembersHandle`` says."""

        async def work(course: _Course) -> Members:
            def enter(present: Configuration) -> Configuration:
                entered = adding(new, address, promote=False)(present) if not _votes(present, new) else present
                # Nobody becomes a learner for a replacement that can never be.
                replacing(old, new)(entered)
                return entered

            await self._make(course, enter, expected_index)
            # The learner is there, and stays if the rest is given up: that is told as not done.
            return await self._make(course, replacing(old, new), None, waits_for_catch_up=True)

        return await self._run(work, give_up_s)

    async def move(
        self,
        node_id: str,
        address: str,
        *,
        force: bool = False,
        expected_index: int | None = None,
        give_up_s: float | None = None,
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(moving(node_id, address), expected_index, give_up_s, force=force)

    async def apply(
        self, target: Configuration, *, expected_index: int | None = None, give_up_s: float | None = None
    ) -> Members:
        """As ``MembersHandle`` says."""
        return await self._change(applying(target), expected_index, give_up_s)

    # --- Reading and changing ---

    async def _change(
        self, edit: Edit, expected_index: int | None, give_up_s: float | None, *, force: bool = False
    ) -> Members:
        async def work(course: _Course) -> Members:
            return await self._make(course, edit, expected_index, force=force)

        return await self._run(work, give_up_s)

    async def _run(self, work: Callable[[_Course], Awaitable[Members]], give_up_s: float | None) -> Members:
        give_up_at = math.inf if give_up_s is None else trio.current_time() + give_up_s
        course = _Course(give_up_at, give_up_s)
        try:
            with trio.move_on_at(give_up_at):
                return await work(course)
        except NodeStopped as error:
            if course.may_be_done:
                raise OutcomeUnknown(f"{error}; the change of the members may still be made") from error
            raise
        raise course.given_up()

    async def _read(self, course: _Course, *, is_settled: bool) -> Members:
        """Return the members as a leader knows them, who still led when it was asked."""
        while True:
            answer = await self._ask(MembersRequest(is_settled=is_settled))
            if isinstance(answer, MembersResponse):
                return answer.members
            course.failed(answer)
            if answer.reason is ChangeRefusal.UNSUPPORTED:
                raise ChangeRefused(answer.reason, answer.detail)
            await trio.sleep(RETRY_PAUSE_S)

    async def _make(
        self,
        course: _Course,
        edit: Edit,
        expected_index: int | None,
        *,
        waits_for_catch_up: bool = False,
        force: bool = False,
    ) -> Members:
        """Ask for what ``edit`` makes of the members until that is what they are, and no change is under way."""
        while True:
            members = await self._read(course, is_settled=True)
            if not members.is_settled:
                course.waits_for(members)
                continue
            if members.term > course.tried_term or members.index != course.tried_index:
                course.nothing_tried()
            if not members.configuration.is_formed:
                course.detail = "the cluster is not formed yet"
                await trio.sleep(RETRY_PAUSE_S)
                continue
            target = edit(members.configuration)
            if target == members.configuration:
                return members
            if expected_index is not None and members.index != expected_index:
                raise ChangeRefused(
                    ChangeRefusal.CONFLICT,
                    f"the members are those of index {members.index}, not {expected_index}; look at them, and decide "
                    "again",
                )
            course.tried(members)
            answer = await self._ask(ChangeMembers(members.term, members.index, target, is_forced=force))
            if isinstance(answer, MembersResponse):
                if answer.members.is_settled and edit(answer.members.configuration) == answer.members.configuration:
                    return answer.members
                course.detail = f"the change at index {answer.members.index} is not committed by a majority yet"
                continue
            course.failed(answer)
            # A conflict may be with this very change, if the question came twice.
            if not answer.may_be_done and answer.reason is not ChangeRefusal.CONFLICT:
                course.nothing_tried()
            self._check_refusal(answer, waits_for_catch_up=waits_for_catch_up)
            await trio.sleep(RETRY_PAUSE_S)

    def _check_refusal(self, answer: MembersFailed, *, waits_for_catch_up: bool) -> None:
        """Raise what a refusal means, unless asking again may help."""
        if answer.may_be_done or answer.reason in _PASSING:
            return
        if answer.reason is ChangeRefusal.NOT_CAUGHT_UP and waits_for_catch_up:
            return
        if answer.reason is ChangeRefusal.INVALID:
            raise InvalidChange(answer.detail)
        raise ChangeRefused(answer.reason, answer.detail)


def _votes(present: Configuration, node_id: str) -> bool:
    return node_id in present.voters

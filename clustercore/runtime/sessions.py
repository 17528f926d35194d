"""Client sessions: commands that are applied exactly once, however often they have to be sent (thesis §6.3).

What makes it so is the table that all nodes keep (``session_table``). This is the side that numbers the commands,
repeats them until there is an answer, remembers those whose outcome it did not learn, and tells the table what it is
done with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from clustercore.interfaces.errors import (
    ConfigError,
    NeverApplied,
    NodeStopped,
    OutcomeUnknown,
    ProposalError,
    ProposalRefused,
    ResultLost,
    SessionExpired,
    SessionLimit,
    TokenSettled,
    VersionNotEnabled,
)
from clustercore.interfaces.values import Applied, SessionToken
from clustercore.raft.entry import EntryKind
from clustercore.raft.types import LogIndex, Term
from clustercore.runtime.session_entries import (
    Answer,
    CloseSession,
    KeepAlive,
    MalformedOperation,
    OpenSession,
    Operation,
    Outcome,
    ResolveCommand,
    SessionCommand,
    decode_answer,
    encode_operation,
)
from clustercore.runtime.submitter import Fate, Submitter

__all__ = ["Session", "SessionClient"]

logger = logging.getLogger("clustercore")

# Between an attempt whose outcome is unknown and the next one: half a heartbeat, in which a new leader may be heard of.
RETRY_PAUSE_S = 0.05
# How long leaving a block waits for the session to be closed. If it is not, it expires by itself.
CLOSE_S = 1.0
# A session says something at least so many times before it would expire.
KEEP_ALIVES_PER_TTL = 3
MIN_TTL_S = 1.0
MAX_TTL_S = 30 * 24 * 3600.0

# What resolving a token finds where the command was not applied, and never will be.
_NOT_APPLIED = frozenset({Outcome.NEVER, Outcome.NO_ROOM, Outcome.NOT_ENABLED})


@attrs.define(eq=False)
class _Command:
    """One command whose outcome the cluster is to keep: the client is not done with it."""

    is_prepared: bool
    # A ``propose`` of it is running.
    is_active: bool = False
    # Its outcome was told.
    is_answered: bool = False
    fate: Fate = attrs.field(factory=Fate)


class SessionClient:
    """What all sessions opened on one node share: the way into the log."""

    def __init__(
        self,
        submitter: Submitter,
        *,
        check: Callable[[bytes, int], None],
        command_version: Callable[[], int],
        max_outstanding: int,
    ) -> None:
        """Prepare.

        Args:
            check: Raises if a command of a version may not be proposed.
            command_version: The highest version that is switched on, as far as this node has applied the log.
        """
        self._submitter = submitter
        self.check = check
        self.command_version = command_version
        self.max_outstanding = max_outstanding

    @asynccontextmanager
    async def open(self, nursery: trio.Nursery, ttl_s: float, give_up_s: float | None) -> AsyncIterator[Session]:
        """Open a session for the time of the block, with its keep-alive in ``nursery``. See ``Node.session``."""
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise ConfigError(f"ttl_s is {ttl_s}; it must be from {MIN_TTL_S} to {MAX_TTL_S} seconds")
        operation = OpenSession(int(ttl_s * 1000))
        fate = Fate()
        answer = await self.ask(lambda: operation, fate, _deadline(give_up_s))
        if answer.outcome is not Outcome.DONE:
            raise SessionLimit("the cluster keeps as many sessions as max_sessions allows; close some, or raise it")
        session = Session(self, answer.index, ttl_s, heard_at=fate.tried_at)
        keeping = trio.CancelScope()
        nursery.start_soon(session.keep_alive, keeping, name=f"keep-alive of session {answer.index}")
        try:
            yield session
        finally:
            keeping.cancel()
            await session.close()

    async def resolve(self, token: SessionToken, give_up_s: float | None) -> Applied | None:
        """Learn what became of a command, of this session or of another. See ``Node.resolve``."""
        operation = ResolveCommand(token.session_id, token.sequence)
        answer = await self.ask(lambda: operation, Fate(), _deadline(give_up_s))
        if answer.outcome is Outcome.APPLIED:
            return _applied(answer)
        if answer.outcome in _NOT_APPLIED:
            return None
        if answer.outcome is Outcome.SETTLED:
            raise TokenSettled(token)
        if answer.outcome is Outcome.NO_SESSION:
            raise SessionExpired(token.session_id, may_be_applied=True)
        raise SessionLimit(f"the session of {token} keeps as many outcomes as max_session_outstanding allows")

    async def ask(self, make: Callable[[], Operation], fate: Fate, give_up_at: float) -> Answer:
        """Have an operation carried out, again and again until there is an answer.

        Args:
            make: Returns the operation as it is to be said now.
            fate: Told whether any attempt may be in the log.
            give_up_at: Make no other attempt from then on (Trio's clock).

        Raises: ProposalRefused, NodeStopped: no attempt is or will be in the log. OutcomeUnknown: one may be.
        """
        while True:
            give_up_s = None if give_up_at == math.inf else max(0.0, give_up_at - trio.current_time())
            try:
                applied = await self._submitter.submit(
                    EntryKind.SESSION, encode_operation(make()), give_up_s=give_up_s, fate=fate
                )
                return decode_answer(applied.result)
            except OutcomeUnknown as error:
                if isinstance(error, ResultLost) or trio.current_time() >= give_up_at:
                    raise
                logger.debug("a session repeats what it asked: %s", error)
            except MalformedOperation as error:
                fate.may_be_appended = True
                raise OutcomeUnknown(f"the leader's answer cannot be read: {error}") from error
            except (ProposalRefused, NodeStopped) as error:
                if fate.may_be_appended:
                    raise OutcomeUnknown(f"an attempt before may be applied; the last one: {error}") from error
                raise
            await trio.sleep(RETRY_PAUSE_S)


class Session:
    """A client session: ``async with node.session() as s``. Any number of tasks may use it at once."""

    def __init__(self, client: SessionClient, session_id: int, ttl_s: float, *, heard_at: float) -> None:
        self._client = client
        self._id = session_id
        self._ttl_s = ttl_s
        # When what the cluster heard of this session last was sent, at the earliest (Trio's clock).
        self._heard_at = heard_at
        self._next_sequence = 1
        # By number, ascending: what the client is not done with.
        self._open: dict[int, _Command] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._has_ended = False

    @property
    def session_id(self) -> int:
        """The index of the log entry that opened it."""
        return self._id

    @property
    def has_ended(self) -> bool:
        """Whether it is known here that the session expired, or was closed."""
        return self._has_ended

    @property
    def unresolved(self) -> tuple[SessionToken, ...]:
        """The commands that may have been applied, or may be, and of which no answer came, the oldest first.

        Each waits for ``resolve``. When half of ``max_session_outstanding`` do, no command is taken any more.
        """
        return tuple(
            SessionToken(self._id, sequence)
            for sequence, command in self._open.items()
            if command.fate.may_be_appended and not command.is_active and not command.is_answered
        )

    def prepare(self) -> SessionToken:
        """Return a token for a command that is to be proposed: store it first, to be able to ask after a restart.

        What becomes of the command is kept until ``release``, however often it is asked for.

        Raises: SessionExpired; SessionLimit if too many commands have no outcome or were not released.
        """
        self._check_lives()
        return SessionToken(self._id, self._begin(is_prepared=True))

    async def propose(
        self, command: bytes, *, version: int = 1, token: SessionToken | None = None, give_up_s: float | None = None
    ) -> Applied:
        """Replicate a command and wait until it is applied, exactly once, on whatever leader it takes.

        Sends the command again where its outcome is unknown. Commands of several tasks may be applied in any order;
        those of one task are applied in its order.

        Args:
            command, version: As for ``Node.propose``.
            token: One of ``prepare``, not proposed before with another command.
            give_up_s: Send nothing more after so many seconds. None goes on.

        Cancellation: the outcome is unknown, unless nothing was sent. The session remembers the command's token:
            ``unresolved`` has it, and ``resolve`` tells what became of it.
        Raises:
            InvalidCommand: never will be done: refused by the state machine, or larger than the limit.
            VersionNotEnabled: not done: not every member of the cluster knows the version.
            SessionLimit: not done: too many results or outcomes are kept.
            ProposalRefused: not done: see ``give_up_s``; or the leader's limits are lower than here.
            NodeStopped: not done.
            SessionExpired: will not be done any more; ``may_be_applied`` says whether it may have been.
            OutcomeUnknown: may be done: ``give_up_s`` has passed, or the node has stopped. It has the token.
            ResultLost: done, but the result is too large to be brought here. It has the token.
            NeverApplied: never will be done: somebody resolved its token before it came.
            TokenSettled: ``token`` was released.
        """
        self._client.check(command, version)
        give_up_at = _deadline(give_up_s)
        sequence = await self._activate(token, give_up_at)
        state = self._open[sequence]
        operation = lambda: SessionCommand(self._id, sequence, *self._done_with(), version, command)  # noqa: E731
        try:
            answer = await self._client.ask(operation, state.fate, give_up_at)
            state.is_answered = answer.outcome is not Outcome.LIMIT
            self._heard_at = max(self._heard_at, state.fate.tried_at)
        except OutcomeUnknown as error:
            error.token = SessionToken(self._id, sequence)
            raise
        finally:
            state.is_active = False
            if not state.is_prepared and (state.is_answered or not state.fate.may_be_appended):
                del self._open[sequence]
            self._room.unpark_all()
        return self._result(answer, SessionToken(self._id, sequence), version, state.fate)

    async def resolve(self, token: SessionToken, *, give_up_s: float | None = None) -> Applied | None:
        """Learn what became of a command. If it was not applied, from now on it never will be.

        Repeats itself until there is an answer. The answer of a token that is not from ``prepare`` is told once.

        Returns: where it was applied, and its result; None if it was not and never will be.

        Cancellation: the command may or may not be kept from being applied; resolve it again.
        Raises:
            SessionExpired: it will not be applied any more, and whether it was is not known.
            TokenSettled: its answer was told before.
            SessionLimit: nothing was done: too many outcomes are kept.
            ProposalRefused, OutcomeUnknown: not known: ``give_up_s`` has passed, or the node has stopped. Ask again.
            NodeStopped: not known.
        """
        if token.session_id != self._id:
            return await self._client.resolve(token, give_up_s)
        if not 1 <= token.sequence < self._next_sequence:
            raise ValueError(f"{token} is not of this session, which has given out {self._next_sequence - 1} numbers")
        command = self._open.get(token.sequence)
        if command is None:
            raise TokenSettled(token)
        applied = await self._client.resolve(token, give_up_s)
        command.is_answered = True
        if not command.is_prepared and not command.is_active:
            self._open.pop(token.sequence, None)
        return applied

    def release(self, token: SessionToken) -> None:
        """Be done with a token: its outcome is safe with you, or of no interest, and is kept no longer.

        A command that has not been applied may still be, unless it was resolved. A token that is released already
        changes nothing.

        Raises: ValueError if a ``propose`` of it is running.
        """
        command = self._open.get(token.sequence)
        if token.session_id == self._id and command is not None:
            if command.is_active:
                raise ValueError(f"{token} is being proposed; release it when its outcome is known")
            del self._open[token.sequence]

    async def keep_alive(self, scope: trio.CancelScope) -> None:
        """Tell the cluster, while nothing else does, that the client lives and what it is done with. Ends with it."""
        with scope:
            while not self._has_ended:
                await trio.sleep_until(self._heard_at + self._ttl_s / KEEP_ALIVES_PER_TTL)
                if trio.current_time() < self._heard_at + self._ttl_s / KEEP_ALIVES_PER_TTL:
                    # A command was heard meanwhile.
                    continue
                fate = Fate()
                try:
                    answer = await self._client.ask(lambda: KeepAlive(self._id, *self._done_with()), fate, math.inf)
                except (ProposalError, NodeStopped) as error:
                    logger.debug("session %d could not be kept alive: %s", self._id, error)
                    await trio.sleep(RETRY_PAUSE_S)
                    continue
                self._heard_at = max(self._heard_at, fate.tried_at)
                if answer.outcome is Outcome.NO_SESSION:
                    self._has_ended = True

    async def close(self) -> None:
        """Let the cluster forget the session now, unless somebody may still ask what became of a command in it.

        Takes ``CLOSE_S`` at most. What cannot be closed in that time expires.
        """
        if self._has_ended:
            return
        self._has_ended = True
        if self._open:
            return
        with trio.move_on_after(CLOSE_S, shield=True):
            try:
                await self._client.ask(lambda: CloseSession(self._id), Fate(), trio.current_time() + CLOSE_S)
            except (ProposalError, NodeStopped) as error:
                logger.debug("session %d is left to expire: %s", self._id, error)

    # --- Numbers ---

    @property
    def _half(self) -> int:
        return self._client.max_outstanding // 2

    def _check_lives(self) -> None:
        if self._has_ended:
            raise SessionExpired(self._id, may_be_applied=False)

    async def _activate(self, token: SessionToken | None, give_up_at: float) -> int:
        """Wait until another command may be under way, and return its number."""
        with trio.move_on_at(give_up_at) as patience:
            await trio.lowlevel.checkpoint()
            while sum(command.is_active for command in self._open.values()) >= self._half:
                await self._room.park()
        if patience.cancelled_caught:
            raise ProposalRefused(f"session {self._id} had no room for the command in time; nothing was done")
        self._check_lives()
        if token is None:
            sequence = self._begin(is_prepared=False)
        else:
            sequence = self._prepared(token)
        self._open[sequence].is_active = True
        return sequence

    def _begin(self, *, is_prepared: bool) -> int:
        idle = sum(not command.is_active for command in self._open.values())
        if idle >= self._half:
            raise SessionLimit(
                f"session {self._id} keeps {idle} commands that were not resolved or released, and {self._half} are "
                "allowed; resolve those in unresolved, release those of prepare"
            )
        sequence = self._next_sequence
        self._next_sequence += 1
        self._open[sequence] = _Command(is_prepared)
        return sequence

    def _prepared(self, token: SessionToken) -> int:
        command = self._open.get(token.sequence)
        if token.session_id != self._id or not 1 <= token.sequence < self._next_sequence:
            raise ValueError(f"{token} is not of session {self._id}; use a token of its own prepare()")
        if command is None:
            raise TokenSettled(token)
        if command.is_active or not command.is_prepared:
            raise ValueError(f"{token} is not one of prepare(), or is being proposed already")
        return token.sequence

    def _done_with(self) -> tuple[int, tuple[int, ...]]:
        """Return the number below which the client is done with all, and those below it with which it is not."""
        active = [sequence for sequence, command in self._open.items() if command.is_active]
        below = min(active, default=self._next_sequence)
        if self._next_sequence - below > self._half:
            # Numbers from ``below`` on may all have an outcome, so there must not be too many of them.
            below = self._next_sequence
        return below, tuple(sequence for sequence in self._open if sequence < below)

    # --- Answers ---

    def _result(self, answer: Answer, token: SessionToken, version: int, fate: Fate) -> Applied:
        match answer.outcome:
            case Outcome.APPLIED:
                return _applied(answer)
            case Outcome.NO_SESSION:
                self._has_ended = True
                raise SessionExpired(self._id, may_be_applied=fate.may_be_appended)
            case Outcome.NO_ROOM:
                raise SessionLimit(
                    "the results that are kept for all sessions have as many bytes as max_session_result_bytes allows; "
                    "nothing was done"
                )
            case Outcome.NOT_ENABLED:
                raise VersionNotEnabled(version, self._client.command_version())
            case Outcome.LIMIT if not fate.may_be_appended:
                raise SessionLimit(
                    f"session {self._id} keeps more outcomes than the leader's max_session_outstanding allows; nothing "
                    "was done. Make the limits of all nodes the same"
                )
            case Outcome.LIMIT:
                raise OutcomeUnknown(
                    f"session {self._id} keeps too many outcomes to tell what became of {token}", token
                )
            case Outcome.SETTLED:
                raise TokenSettled(token)
            case _:
                raise NeverApplied(token)


def _deadline(give_up_s: float | None) -> float:
    return math.inf if give_up_s is None else trio.current_time() + give_up_s


def _applied(answer: Answer) -> Applied:
    return Applied(LogIndex(answer.index), Term(answer.term), answer.result)

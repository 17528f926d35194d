"""The loop that tries again, the same for every policy: a policy decides, this waits, calls and raises.

What must hold under any policy is held here, once: cancellation is nobody's to handle, the error raised at last is the
original one, retries inside retries run once, and no wait outlasts the deadline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import attrs
import trio

from clustercore.interfaces.retry_values import RetryCall, RetryDecision, StopReason

__all__ = ["Attempt", "Attempts", "RetryOperation", "Retrying"]

P = ParamSpec("P")
T = TypeVar("T")

# Starts the note that an error carries when it is given up.
_NOTE = "clustercore retry: "
# The attempts an error's note tells, from the last backwards: the policy bounds them, and one without bound must not
# make a note without bound.
_NOTED_ATTEMPTS = 10


class RetryOperation(ABC):
    """One call, from its first attempt to its end, as a policy sees it.

    Called by: the loop, from one task, in this order: ``hold_s``; then for each attempt ``succeeded`` or ``failed``;
    after a ``failed`` that grants a retry, either the next attempt or ``withdrawn``, which ends it. An attempt that is
    cancelled, or that raises what is no ``Exception``, ends the call without a word.
    """

    @abstractmethod
    def hold_s(self, remaining_s: float) -> float:
        """Return how long the first attempt is to wait, in seconds, because the target asked for it; mostly 0.

        Args:
            remaining_s: Until the call's deadline. Nothing is gained by waiting for longer.
        """

    @abstractmethod
    def failed(self, error: Exception, remaining_s: float) -> RetryDecision:
        """Take note that an attempt failed, and decide.

        Args:
            error: What the attempt raised.
            remaining_s: Until the call's deadline; at most 0 if it has passed. A delay must be shorter.
        """

    @abstractmethod
    def succeeded(self) -> None:
        """Take note that an attempt succeeded."""

    def may_hedge(self) -> bool:
        """Say whether another attempt may be made beside one that is slow, and take it from the target's budget if so.

        The default allows none. Called by: ``RetryPolicy.hedge``, while an attempt is under way.
        """
        return False

    @abstractmethod
    def withdrawn(self) -> None:
        """Take back the retry granted last: it will not be made, because the wait for it was cancelled."""


class Attempt:
    """One attempt: ``with attempt:`` around what is to be tried.

    An error that is to be tried again is held back, and the loop's next turn is the next attempt. Any other leaves.
    """

    def __init__(self, attempts: Attempts, number: int) -> None:
        self._attempts = attempts
        self._scope: Token[_Scope | None] | None = None
        self.number = number

    def __enter__(self) -> Self:
        self._scope = _scope.set(self._attempts.scope)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._scope is not None:
            _scope.reset(self._scope)
            self._scope = None
        return self._attempts.ended(exc)


@attrs.define(eq=False)
class _Scope:
    """An outermost call. A task that it started may outlive it, with a copy of its context: then it is closed."""

    is_open: bool = True


# The retried call that the task is inside of, if any.
_scope: ContextVar[_Scope | None] = ContextVar("clustercore_retry_scope", default=None)


def _is_nested() -> bool:
    scope = _scope.get()
    return scope is not None and scope.is_open


@contextmanager
def within_scope() -> Iterator[bool]:
    """Be inside a retried call, in the block; yields whether there is one further out, which does the retrying."""
    if _is_nested():
        yield True
        return
    scope = _Scope()
    token = _scope.set(scope)
    try:
        yield False
    finally:
        scope.is_open = False
        _scope.reset(token)


class Attempts(AsyncIterator[Attempt]):
    """The attempts of one call: ``async for attempt in policy: with attempt: ...``.

    Ends when an attempt succeeds. Leaving the loop early is fine. The waits are checkpoints, and so is each turn.
    """

    def __init__(self, operation: RetryOperation, timeout_s: float, is_nested: bool) -> None:
        self._operation = operation
        self._deadline = trio.current_time() + timeout_s
        self._is_nested = is_nested
        # What the outermost call shows those inside it; a nested one shows nothing of its own.
        self.scope = _scope.get() if is_nested else _Scope()
        self._number = 0
        # The wait before the next attempt; None: there is none.
        self._delay_s: float | None = None
        self._failures: list[str] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        if self._number == 0:
            self._delay_s = 0.0 if self._is_nested else self._operation.hold_s(self._remaining_s())
        if self._delay_s is None:
            self._close()
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        try:
            await trio.sleep(self._delay_s)
        except BaseException:
            # Cancelled: the retry that was granted is not made.
            if self._number:
                self._operation.withdrawn()
            self._close()
            raise
        self._delay_s = None
        self._number += 1
        return Attempt(self, self._number)

    def ended(self, exc: BaseException | None) -> bool:
        """Take note of how an attempt ended; return whether its error is held back. Called by: ``Attempt``."""
        if exc is None:
            self._close()
            self._operation.succeeded()
            return False
        if not isinstance(exc, Exception):
            # Cancelled, KeyboardInterrupt and their like, or a group with one of them: not ours to look at.
            self._close()
            return False
        decision = self._operation.failed(exc, self._remaining_s())
        self._failures.append(f"attempt {self._number}: {decision.classification}")
        if decision.delay_s is None or self._is_nested:
            self._close()
            self._note(exc, decision)
            return False
        self._delay_s = decision.delay_s
        return True

    def _remaining_s(self) -> float:
        now = trio.current_time()
        return min(self._deadline, trio.current_effective_deadline()) - now

    def _close(self) -> None:
        if not self._is_nested and self.scope is not None:
            self.scope.is_open = False

    def _note(self, error: Exception, decision: RetryDecision) -> None:
        """Say on the error itself what was tried, and why no more. One note: an error may be raised many times."""
        if decision.stop in (StopReason.NOT_AN_ERROR, StopReason.NESTED) or self._is_nested:
            return
        told = self._failures[-_NOTED_ATTEMPTS:]
        left_out = ["..."] if len(told) < len(self._failures) else []
        text = f"{_NOTE}not tried again: {decision.stop}; {'; '.join(left_out + told)}"
        notes = [note for note in getattr(error, "__notes__", ()) if not str(note).startswith(_NOTE)]
        error.__notes__ = [*notes, text]


@attrs.frozen
class Retrying:
    """A policy, applied to one kind of call. Many tasks may use it at once.

    Nested retries collapse into the outermost: inside a call that is retried, whatever its policy, another one is
    attempted once, and its error goes to the outermost, which decides. So three layers that each retry five times make
    six attempts, not 216. That holds for tasks started inside the call too, for as long as it lasts.
    """

    # Begins a call: the policy's ``begin``.
    begin: Callable[[RetryCall, bool], RetryOperation]
    # What the calls are.
    kind: RetryCall

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function until it succeeds or is not to be tried again.

        Returns: what it returned.
        Cancellation: leaves at once, from an attempt as from a wait. It is never classified, counted or retried.
        Raises: the function's last error itself, with a note that lists the attempts and says why there is no other.
        """
        async for attempt in self:
            with attempt:
                return await function(*args, **kwargs)
        raise AssertionError("attempts end by success, which returned, or by raising")

    def wrap(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Return a function that retries this one, for use as a decorator."""

        @wraps(function)
        async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return retried

    def __aiter__(self) -> Attempts:
        """Begin a call whose attempts are the loop's turns. Only inside ``trio.run``."""
        is_nested = _is_nested()
        return Attempts(self.begin(self.kind, is_nested), self.kind.timeout_s, is_nested)

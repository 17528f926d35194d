"""Retry policies: which errors are worth another attempt, when, and how often.

A policy serves clients of the cluster, discovery, health checks and data sync. Raft's own messages are none of its
business: the replicator sends again what matters, and a retry below it would only repeat what has gone stale.

The rules that every policy keeps:

1. Cancellation is never classified, counted or retried; nor is any ``BaseException`` that is no ``Exception``, a group
   that holds one, or the failure of the program itself (``MemoryError``, ``RecursionError``, ``AssertionError``,
   ``InvariantError``).
2. A call that is not idempotent is retried only after an error that shows that it certainly had no effect.
3. What a server says about when to come back counts for more than any table.
4. First attempts are never refused. The retries of a target are bounded by a budget that refills with time, so that
   an outage is not made worse, and does not last longer, by them.
5. Classification is pure and total: it raises nothing, waits for nothing and changes nothing.
6. What is in force may be lowered by experience, never raised above the policy's table, and every change can be undone.
7. Nested retries collapse into the outermost: see ``Retrying``.

``clustercore.testing.conformance.RetryPolicyConformance`` holds a policy to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from clustercore.interfaces.retry_hedge import hedged
from clustercore.interfaces.retry_loop import Attempts, Retrying, RetryOperation
from clustercore.interfaces.retry_values import (
    Classification,
    ErrorStatistics,
    LimitChange,
    RetryCall,
    RetryTable,
)

__all__ = ["RetryPolicy"]

P = ParamSpec("P")
T = TypeVar("T")


class RetryPolicy(ABC):
    """Decides about errors, keeps budgets by target, and counts.

    It has no life to manage: no task, no file, no ``async with``. Its constructor's parameters are its options in a
    configuration file. Many tasks of one Trio run use it at once; no method but ``call`` waits.

    ``call``, ``bind`` and ``async for attempt in policy`` are the way to use it. ``should_retry``, ``get_retry_delay``
    and ``record_retry`` are for loops of another shape, written by hand::

        for retry_count in itertools.count():
            try:
                result = await ask()
            except Exception as error:
                if retry_count:
                    policy.record_retry(last, success=False)
                if not policy.should_retry(error, retry_count):
                    raise
                last = error
                await trio.sleep(policy.get_retry_delay(error, retry_count))
            else:
                if retry_count:
                    policy.record_retry(last, success=True)
                return result
    """

    # What a call is if nothing else is said: a policy may have its own.
    default_call: RetryCall = RetryCall()

    # --- What an error is ---------------------------------------------------------------------------------------------

    @abstractmethod
    def explain(self, error: BaseException) -> Classification:
        """Return what an error is and which rule says so. Pure and total: it never raises."""

    @abstractmethod
    def table(self) -> RetryTable:
        """Return the limits and rules that it goes by, for people: the user's own rules first."""

    # --- Deciding by hand ---------------------------------------------------------------------------------------------

    @abstractmethod
    def should_retry(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> bool:
        """Decide whether to try again after an error, and if so, take the retry from the target's budget.

        Ask only when the answer is acted on; ``explain`` answers without taking anything. The call's timeout is the
        caller's to watch.

        Args:
            error: What the last attempt raised.
            retry_count: Retries made so far in this call: 0 after the first attempt.
            call: What the call is; None for the policy's default.

        Raises: ValueError if ``retry_count`` is negative.
        """

    @abstractmethod
    def get_retry_delay(self, error: BaseException, retry_count: int, call: RetryCall | None = None) -> float:
        """Return how long to wait before the next attempt, in seconds: finite, at least 0, and drawn anew each time.

        The server's own hint, if the error or the target has one, else by the category's limits. An error that is never
        retried has the delay 0.

        Args: as ``should_retry``.
        Raises: as ``should_retry``.
        """

    @abstractmethod
    def record_retry(self, error: BaseException, success: bool, call: RetryCall | None = None) -> None:
        """Take note of how a retry ended.

        Args:
            error: The error that the retry was made for, not the one that it may have ended with.
            success: Whether it succeeded.
            call: As ``should_retry``.
        """

    # --- What was learned ---------------------------------------------------------------------------------------------

    @abstractmethod
    def get_error_statistics(self) -> ErrorStatistics:
        """Return what was counted. Bounded: the targets that were not asked for longest are forgotten."""

    @abstractmethod
    def auto_adjust_configs(self) -> tuple[LimitChange, ...]:
        """Fit what is in force to the measured success of retries, and return the changes, if any.

        It goes by whether retries succeed, not by whether calls do: many failures are no reason to retry more. So in an
        outage it lowers the limits, and it raises them again, up to the table, once there is evidence to.
        """

    # --- Calling ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, call: RetryCall, is_nested: bool) -> RetryOperation:
        """Begin a call.

        Args:
            call: What it is.
            is_nested: A retry further out does the retrying: the one attempt of this call is counted, and takes nothing
                from a budget and gives it nothing. The loop grants it no retry, whatever the policy decides.

        Called by: ``Retrying``, for each call.
        """

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function with retries, as the policy's default kind of call. See ``Retrying.call``."""
        return await self.bind().call(function, *args, **kwargs)

    async def hedge(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        delay_s: float = 0.1,
        max_attempts: int = 2,
        target: str | None = None,
        operation: str | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """Call an async function, and again beside it while it is slow; return what comes first (gRFC A6, hedging).

        Only for what is idempotent, such as a read. An attempt that fails makes the next one due at once, or when the
        server says, unless the policy never retries such an error. Attempts beside the first are taken from the
        target's budget; when the first result is there, all others are cancelled.

        Args:
            function: What to call.
            delay_s: How long an attempt may take before the next one is made beside it, in seconds.
            max_attempts: With the first one.
            target, operation, timeout_s: As ``bind``.

        Cancellation: cancels all attempts.
        Raises: ConfigError if a number is out of range; the function's last error itself.
        """
        kind = self.bind(target=target, operation=operation, is_idempotent=True, timeout_s=timeout_s).kind
        return await hedged(self.begin, kind, function, delay_s=delay_s, max_attempts=max_attempts)

    def __aiter__(self) -> Attempts:
        """Begin a call of the default kind: ``async for attempt in policy: with attempt: ...``."""
        return self.bind().__aiter__()

    def bind(
        self,
        *,
        target: str | None = None,
        operation: str | None = None,
        is_idempotent: bool | None = None,
        timeout_s: float | None = None,
    ) -> Retrying:
        """Return this policy for one kind of call; what is None is as in ``default_call``.

        Raises: ConfigError if ``timeout_s`` is not above 0.
        """
        usual = self.default_call
        kind = RetryCall(
            target=usual.target if target is None else target,
            operation=usual.operation if operation is None else operation,
            is_idempotent=usual.is_idempotent if is_idempotent is None else is_idempotent,
            timeout_s=usual.timeout_s if timeout_s is None else timeout_s,
        )
        return Retrying(self.begin, kind)

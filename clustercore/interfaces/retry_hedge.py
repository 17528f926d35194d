"""Hedging: ask again beside an attempt that is slow, and take whichever answer comes first (gRFC A6, "Hedging policy").

It costs the server a second request where the first would have been answered, too. So each one beside the first is
taken from the target's budget, as a retry is, and only what is idempotent may be asked for so.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from clustercore.interfaces.errors import ConfigError
from clustercore.interfaces.retry_loop import RetryOperation, within_scope
from clustercore.interfaces.retry_values import RetryCall, StopReason

# What is here is for ``retry``.
__all__: list[str] = []

T = TypeVar("T")

# After these no other attempt can be of use, whatever is still under way.
_FATAL = frozenset({StopReason.NOT_AN_ERROR, StopReason.NEVER})


async def hedged(
    begin: Callable[[RetryCall, bool], RetryOperation],
    kind: RetryCall,
    ask: Callable[[], Awaitable[T]],
    *,
    delay_s: float,
    max_attempts: int,
) -> T:
    """Make attempts side by side until one succeeds. See ``RetryPolicy.hedge``."""
    if not (delay_s >= 0 and max_attempts >= 1):
        raise ConfigError(f"delay_s = {delay_s}, max_attempts = {max_attempts}: expected at least 0 and 1")
    with within_scope() as is_nested:
        # A retry further out does the asking again.
        return await _Hedge(begin(kind, is_nested), kind, ask, delay_s, 1 if is_nested else max_attempts).run(is_nested)


class _Hedge(Generic[T]):
    """One call, and its attempts."""

    def __init__(
        self,
        operation: RetryOperation,
        kind: RetryCall,
        ask: Callable[[], Awaitable[T]],
        delay_s: float,
        max_attempts: int,
    ) -> None:
        self._operation = operation
        self._ask = ask
        self._delay_s = delay_s
        self._left = max_attempts
        self._deadline = trio.current_time() + kind.timeout_s
        self._under_way = 0
        # When the next attempt is due, if nothing happens before (Trio's clock), and whether the policy has granted it.
        self._next_at = math.inf
        self._is_granted = False
        self._results: list[T] = []
        self._failures: list[Exception] = []
        # The last error was one after which no attempt is of use.
        self._is_over = False
        self._something_happened = trio.Event()

    async def run(self, is_nested: bool) -> T:
        """Return the first result, or raise the last error."""
        if not is_nested:
            await trio.sleep(self._operation.hold_s(self._remaining_s()))
        try:
            async with trio.open_nursery() as nursery:
                self._start(nursery)
                while not self._results and not self._is_over and (self._under_way or self._left):
                    await self._wait(nursery)
                nursery.cancel_scope.cancel()
        finally:
            if self._is_granted:
                self._operation.withdrawn()
        if self._results:
            return self._results[0]
        raise self._failures[-1]

    async def _wait(self, nursery: trio.Nursery) -> None:
        """Wait until an attempt has ended, or the next one is due; then make it, if the budget has it."""
        self._something_happened = trio.Event()
        with trio.move_on_at(self._next_at) as due:
            await self._something_happened.wait()
        if not due.cancelled_caught:
            return
        if self._is_granted or self._operation.may_hedge():
            self._is_granted = False
            self._start(nursery)
        else:
            self._left = 0
            self._next_at = math.inf

    def _start(self, nursery: trio.Nursery) -> None:
        self._left -= 1
        self._under_way += 1
        self._next_at = trio.current_time() + self._delay_s if self._left else math.inf
        nursery.start_soon(self._attempt)

    async def _attempt(self) -> None:
        try:
            result = await self._ask()
        except Exception as error:  # noqa: BLE001  # whatever an attempt raises is classified by the policy
            self._failed(error)
        else:
            if not self._results:
                # It settles a retry that was granted and is not made any more.
                self._operation.succeeded()
                self._is_granted = False
            self._results.append(result)
        finally:
            self._under_way -= 1
            self._something_happened.set()

    def _failed(self, error: Exception) -> None:
        decision = self._operation.failed(error, self._remaining_s())
        self._failures.append(error)
        if decision.delay_s is None:
            self._is_over = decision.stop in _FATAL
            self._left = 0
            return
        if not self._left or self._is_granted:
            # One other attempt is enough.
            self._operation.withdrawn()
            return
        self._is_granted = True
        # What is not fatal makes the next attempt due at once, but where the server has said when.
        self._next_at = trio.current_time() + (decision.classification.retry_after_s or 0.0)

    def _remaining_s(self) -> float:
        return min(self._deadline, trio.current_effective_deadline()) - trio.current_time()

"""Blocking calls in a thread, for an event loop that may be busy.

This file knows nothing of SQLite. It exists for one hazard of threads beside a busy event loop, which the plain
``trio.to_thread.run_sync`` has and which nothing warns of:

A thread that comes back from a system call must take the GIL. CPython makes the holder give it up only when the
thread has waited a whole switch interval (5 ms) without being woken. A loop with work to do polls its sockets at
every turn, with a timeout of zero, and so lets go of the GIL for about a microsecond each time: that wakes the
waiting thread, which starts its interval anew, but is too short for it to get on a processor. It can miss every one
of them. Beside one task that computes for 50 us at every turn, commits of 0.4 ms by a plain thread took up to 2 s
(``benchmarks/storage_writes.py``); beside four of 100 us, 1.1 s in the median and up to 17 s. A node under load would
all but stop writing.

The remedy: while a call is in flight and the loop is about to poll without waiting, it sleeps for a moment. The
thread then finds the GIL free. The same commits take 0.45 and 2 ms in the median. An idle loop never sleeps here,
since it waits in its poll.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import trio

__all__ = ["Worker"]

T = TypeVar("T")

# The shortest sleep there is; with the kernel's timer slack it takes about 60 us.
_PAUSE_S = 1e-6
# A commit asks for the GIL four times or so. These pauses come at once, so that it is done soon.
_PROMPT_PAUSES = 8
# A call that is still under way then waits for the disk, or for a processor on a machine that has none free. From there
# on the pauses double, up to one that is worth a thread's while, and take at most a tenth of the loop's time.
_FIRST_LONG_PAUSE_S, _LONGEST_PAUSE_S = 1e-4, 1e-3
_TIME_PER_PAUSE = 10
# Handing the call to the thread is a checkpoint of its own, at which there is no thread to make way for.
_TURNS_BEFORE_THE_THREAD = 1


class _GiveWay(trio.abc.Instrument):
    """Lets the thread have the GIL while a call is in flight."""

    def __init__(self) -> None:
        # Calls begun in the event loop and not yet finished in the thread.
        self.in_flight = 0
        self._turns = 0
        self._long_pause_s = _FIRST_LONG_PAUSE_S
        self._next_long_pause = 0.0

    def call_begins(self) -> None:
        self.in_flight += 1
        self._turns = 0
        self._long_pause_s = _FIRST_LONG_PAUSE_S

    def before_io_wait(self, timeout: float) -> None:
        if not self.in_flight or timeout > 0:
            return
        self._turns += 1
        if self._turns <= _TURNS_BEFORE_THE_THREAD:
            return
        now = time.perf_counter()
        if self._turns <= _TURNS_BEFORE_THE_THREAD + _PROMPT_PAUSES:
            self._next_long_pause = now + _TIME_PER_PAUSE * self._long_pause_s
            time.sleep(_PAUSE_S)
        elif now >= self._next_long_pause:
            time.sleep(self._long_pause_s)
            self._long_pause_s = min(2 * self._long_pause_s, _LONGEST_PAUSE_S)
            self._next_long_pause = now + _TIME_PER_PAUSE * self._long_pause_s


class Worker:
    """Runs blocking calls in a thread, one at a time, in the order in which they were asked for.

    Life: ``with worker:`` in the event loop; ``run`` is called inside. It starts no thread of its own: threads come
    from Trio's cache, and an idle one ends by itself.
    """

    def __init__(self) -> None:
        # Not Trio's default limiter: forty slow calls of the program around us would hold up the node's writes.
        self._limiter = trio.CapacityLimiter(1)
        self._give_way = _GiveWay()

    def __enter__(self) -> Self:
        """Begin to make way for the thread in this event loop."""
        trio.lowlevel.add_instrument(self._give_way)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the event loop as it was."""
        trio.lowlevel.remove_instrument(self._give_way)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what ``call()`` returns, or raise what it raises.

        Cancellation: may raise Cancelled before the call starts, never after; then its result is returned even if the
        scope is cancelled meanwhile. So ``run_sync`` behaves with ``abandon_on_cancel=False``: it has one checkpoint
        before the thread, and none after it.
        """
        self._give_way.call_begins()
        began = False

        def work() -> T:
            nonlocal began
            began = True
            try:
                return call()
            finally:
                # Here and not in the event loop: the result is on its way, and the loop needs no pause for that.
                self._give_way.in_flight -= 1

        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=False)
        finally:
            if not began:
                self._give_way.in_flight -= 1

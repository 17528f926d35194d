"""Two small ways for one task to tell another: wake up, and here is the newest value."""

from __future__ import annotations

from functools import partial
from typing import Generic, TypeVar

import trio

__all__ = ["Newest", "NewestIterator", "Wakeup"]

T = TypeVar("T")


class Wakeup:
    """Lets one task sleep until somebody has something for it. Waking it twice is waking it once."""

    def __init__(self) -> None:
        self._is_set = False
        # The task that sleeps, if it does.
        self._sleeper: trio.lowlevel.Task | None = None

    @property
    def has_sleeper(self) -> bool:
        """Whether the task sleeps, and nobody has woken it."""
        return self._sleeper is not None

    def set(self) -> None:
        """Wake the task, or keep it from falling asleep the next time."""
        self._is_set = True
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

    async def wait(self, timer: trio.CancelScope | None = None) -> bool:
        """Sleep until ``set``, and consume it. Cancellation consumes nothing.

        Args:
            timer: The innermost scope around the call. If it is cancelled the call returns False, and raises nothing:
                the exception that would end with the scope costs more than most of what a timer leads to.
        """
        if self._is_set:
            await trio.lowlevel.checkpoint()
        else:
            assert self._sleeper is None, "only one task may wait"
            self._sleeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(partial(self._give_up, timer))
            if not self._is_set:
                return False
        self._is_set = False
        return True

    def _give_up(self, timer: trio.CancelScope | None, raise_cancel: object) -> trio.lowlevel.Abort:
        sleeper, self._sleeper = self._sleeper, None
        if timer is None or not timer.cancel_called:
            return trio.lowlevel.Abort.SUCCEEDED
        # If more than the timer is cancelled, the next checkpoint outside of it says so.
        assert sleeper is not None
        trio.lowlevel.reschedule(sleeper)
        return trio.lowlevel.Abort.FAILED


class Newest(Generic[T]):
    """A value that changes; whoever watches it sees the newest, and may miss those between."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = trio.Event()
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether there will be no other value."""
        return self._has_ended

    @property
    def value(self) -> T:
        """The value now."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake all who wait for a change."""
        self._value = value
        self._changed.set()
        self._changed = trio.Event()

    def end(self) -> None:
        """Let all iterators end: the value changes no more."""
        self._has_ended = True
        self._changed.set()

    async def changed(self) -> None:
        """Wait for the next ``set``, or the end."""
        await self._changed.wait()

    def __aiter__(self) -> NewestIterator[T]:
        """Iterate over the present value and then each newer one."""
        return NewestIterator(self)


class NewestIterator(Generic[T]):
    """Yields the present value first, then each time the newest one, once, and never falls behind."""

    def __init__(self, newest: Newest[T]) -> None:
        """Iterate over ``newest``."""
        self._newest = newest
        self._seen: list[T] = []

    def __aiter__(self) -> NewestIterator[T]:
        """Return itself."""
        return self

    async def __anext__(self) -> T:
        """Return the newest value not returned yet, waiting for it if need be. Cancellation loses nothing."""
        await trio.lowlevel.checkpoint()
        while not self._newest.has_ended and self._seen and self._seen[0] is self._newest.value:
            await self._newest.changed()
        if self._newest.has_ended:
            raise StopAsyncIteration
        self._seen = [self._newest.value]
        return self._newest.value

"""Cancel a call before it begins and at its n-th checkpoint, for every n, deterministically.

A checkpoint is where Trio takes a task off and puts it on again. A call can be cancelled at two moments of each: while
the task waits, so that the wait itself is cut short; and just before the task goes on with what it waited for, so that
Cancelled meets it at the checkpoint after. Both leave another state behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum

import attrs
import trio

__all__ = ["Attempt", "Moment", "cancel_at_every_checkpoint", "running_tasks"]

# Far beyond the checkpoints of any call: a call that passes more goes round in circles.
MOST_CHECKPOINTS = 300


class Moment(Enum):
    """When, at its checkpoint, a call is cancelled."""

    WAITING = "waiting"
    GOING_ON = "going on"


@attrs.frozen
class Attempt:
    """One call that was, or was to be, cancelled."""

    # Which checkpoint, from 1; 0 is before the call.
    checkpoint: int
    # Whether the call came so far; otherwise it ended by itself before.
    was_reached: bool
    # Whether Cancelled came out of it. A call that was reached may still have had its result.
    was_cancelled: bool


@attrs.define(eq=False)
class _CancelAt(trio.abc.Instrument):
    """Counts the checkpoints of one task, and cancels a scope at one of them."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    checkpoint: int
    moment: Moment
    seen: int = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count: the task waits now."""
        if task is self.task:
            self.seen += 1
            if self.seen == self.checkpoint and self.moment is Moment.WAITING:
                self.scope.cancel()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Its wait has ended."""
        if task is self.task and self.seen == self.checkpoint and self.moment is Moment.GOING_ON:
            self.scope.cancel()


async def cancel_at_every_checkpoint(
    call: Callable[[], Awaitable[object]], moment: Moment, look: Callable[[Attempt], Awaitable[None]]
) -> list[Attempt]:
    """Make a call again and again, cancelled before it, at its first, second, ... checkpoint, until it ends before.

    Looks at what each attempt left, the last of them not reached. Errors of the call come out of here.

    Returns: the attempts that were reached, one for each checkpoint of the longest but the one before the call.
    """
    reached: list[Attempt] = []
    for checkpoint in range(MOST_CHECKPOINTS):
        with trio.CancelScope() as scope:
            if checkpoint == 0:
                scope.cancel()
            instrument = _CancelAt(trio.lowlevel.current_task(), scope, checkpoint, moment)
            trio.lowlevel.add_instrument(instrument)
            try:
                await call()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        attempt = Attempt(checkpoint, scope.cancel_called, scope.cancelled_caught)
        await look(attempt)
        if not attempt.was_reached:
            return reached
        if checkpoint > 0:
            reached.append(attempt)
    raise AssertionError(f"the call passes more than {MOST_CHECKPOINTS} checkpoints")


def running_tasks() -> Counter[str]:
    """Return how many tasks of each name run now, in the whole program."""
    found: Counter[str] = Counter()
    left = [trio.lowlevel.current_root_task()]
    while left:
        task = left.pop()
        if task is not None:
            found[task.name] += 1
            left += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found

"""Which task runs next, decided by chance; and processes, which can be stopped and killed between any two steps.

Trio runs all tasks that can run as one batch, in an order by chance. Its generator of that chance is replaced here for
the length of a run, by one that the run's seed decides. It sees every batch before it runs, and so it is also the place
to hold back the tasks of a process that is stopped, as SIGSTOP does, and to count the steps up to a crash.

Names of Trio that are not public are used in this file and nowhere else: those that Hypothesis's plugin for Trio uses,
and the queue of tasks that can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs
import trio
from trio._core import _run as trio_scheduler
from trio.lowlevel import Task

from clustercore.testing.simulation.chance import Chance

__all__ = ["Process", "Scheduler", "seeded_scheduler"]


@attrs.define(eq=False)
class Process:
    """A simulated process: the tasks that were started from inside it, directly or not.

    All of them, and only they, stand still while it is stopped. Time goes on for it, and timeouts run out.
    """

    name: str
    _scheduler: Scheduler
    is_stopped: bool = False
    # Tasks that could run and are held back.
    held: list[Task] = attrs.field(factory=list)
    # Steps of its tasks until ``on_countdown`` is called; None if it is not counted.
    countdown: int | None = None
    on_countdown: Callable[[], None] | None = None
    _resumed: trio.Event = attrs.field(factory=trio.Event)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in this process: the calling task for the length of the block, and the tasks it starts, for good."""
        token = _process.set(self)
        try:
            yield
        finally:
            _process.reset(token)

    async def wait_running(self) -> None:
        """Wait until it is not stopped."""
        while self.is_stopped:
            await self._resumed.wait()

    def stop(self) -> None:
        """Let none of its tasks take a step, as SIGSTOP does."""
        if not self.is_stopped:
            self.is_stopped, self._resumed = True, trio.Event()
            self._scheduler.watched += 1

    def resume(self) -> None:
        """Let its tasks go on."""
        if self.is_stopped:
            self.is_stopped = False
            self._scheduler.watched -= 1
            self._resumed.set()
            held, self.held = self.held, []
            trio_scheduler.GLOBAL_RUN_CONTEXT.runner.runq.extend(held)

    def call_after(self, steps: int, callback: Callable[[], None]) -> None:
        """Call back once its tasks have taken so many more steps, between two of them. Replaces an earlier request."""
        self.cancel_call()
        self.countdown, self.on_countdown = steps, callback
        self._scheduler.watched += 1

    def cancel_call(self) -> None:
        """Take back ``call_after``."""
        if self.countdown is not None:
            self.countdown = self.on_countdown = None
            self._scheduler.watched -= 1


_process: ContextVar[Process | None] = ContextVar("clustercore_simulated_process", default=None)


class Scheduler:
    """What Trio asks for the order of a batch of tasks."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        # Processes that are stopped or counted; while there is none, batches are not looked at.
        self.watched = 0
        # Steps of tasks so far: a measure of how much a run did.
        self.steps = 0

    def process(self, name: str) -> Process:
        """Return a new process, without tasks."""
        return Process(name, self)

    def shuffle(self, batch: list[Task]) -> None:
        """Put a batch into the order in which it runs, without those that may not."""
        self.steps += len(batch)
        if self.watched:
            for task in list(batch):
                process = task.context.get(_process)
                if process is not None:
                    self._look_at(process, task, batch)
        if len(batch) > 1:
            self._chance.shuffle(batch)

    def _look_at(self, process: Process, task: Task, batch: list[Task]) -> None:
        if process.is_stopped:
            batch.remove(task)
            process.held.append(task)
        elif process.countdown is not None:
            process.countdown -= 1
            if process.countdown <= 0:
                callback = process.on_countdown
                process.cancel_call()
                assert callback is not None
                callback()

    def random(self) -> float:
        """Return a number as ``Random.random`` does: Trio asks for it if it schedules by its usual way."""
        return self._chance.random()


@contextmanager
def seeded_scheduler(chance: Chance) -> Iterator[Scheduler]:
    """Let chance decide in which order Trio runs tasks that could run at once, for the runs inside the block."""
    scheduler = Scheduler(chance)
    names = vars(trio_scheduler)
    before = names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"]
    names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"] = True, scheduler
    try:
        yield scheduler
    finally:
        names["_ALLOW_DETERMINISTIC_SCHEDULING"], names["_r"] = before

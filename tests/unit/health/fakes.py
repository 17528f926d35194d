"""A node that is well until it is told otherwise, and a generator that draws what the test wants."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from clustercore.interfaces import CheckOutcome, CheckResult, Probe
from tests import waiting

OK = CheckResult(CheckOutcome.OK)
WARN = CheckResult(CheckOutcome.WARN, "slow")
FAIL = CheckResult(CheckOutcome.FAIL, "broken")
UNKNOWN = CheckResult(CheckOutcome.UNKNOWN)
DRAIN = CheckResult(CheckOutcome.FAIL, "NOT_SERVING", is_decisive=True)


async def off_the_grid() -> None:
    """Let the test do nothing at the very moment at which checks begin: which comes first is then left to chance."""
    await trio.sleep(0.37)


async def until(condition: Callable[[], object], *, step_s: float = 0.01) -> None:
    """Wait until a condition holds, for at most 1000 seconds."""
    with trio.fail_after(1000):
        await waiting.until(condition, step_s=step_s)


class FakeProbe(Probe):
    """Answers what it is told to, at once or never, and notes when it was asked."""

    def __init__(self, answer: CheckResult | Exception | None = OK, *, takes_s: float = 0.0) -> None:
        # None: it never answers.
        self.answer = answer
        self.takes_s = takes_s
        self.asked_at: list[float] = []
        self.under_way = 0
        self.most_under_way = 0
        self.report: Callable[[CheckResult], None] | None = None
        self.is_watched = False

    async def check(self) -> CheckResult:
        self.asked_at.append(trio.current_time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.takes_s:
                await trio.sleep(self.takes_s)
            if self.answer is None:
                await trio.sleep_forever()
            if isinstance(self.answer, Exception):
                raise self.answer
            assert self.answer is not None
            return self.answer
        finally:
            self.under_way -= 1

    async def watch(self, report: Callable[[CheckResult], None]) -> None:
        self.report = report
        self.is_watched = True
        try:
            await trio.sleep_forever()
        finally:
            self.is_watched = False


class Latest(Random):
    """Draws the longest jitter and the last slot, always: the worst case."""

    def random(self) -> float:
        return 1 - 2**-53

    def getrandbits(self, k: int) -> int:
        return (1 << k) - 1

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return (start if stop is None else stop) - 1

"""Campaigns: many seeds of one level of simulation, one after another or on several cores.

A level runs one seed and says what came of it; the campaign counts. Levels are found by name in ``LEVELS``, and
imported when they are used.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

import attrs

from clustercore.interfaces import ConfigError
from clustercore.testing.trace import Trace

__all__ = [
    "LEVELS",
    "CampaignResult",
    "Level",
    "SeedResult",
    "level_of",
    "run_campaign",
    "run_protocol_campaign",
]

# Each level by its name: the module, and the class in it.
LEVELS: dict[str, str] = {
    "node": "clustercore.testing.simulation.level:NodeLevel",
    "protocol": "clustercore.testing.protocol.level:ProtocolLevel",
    "sync": "clustercore.testing.replicas.level:SyncLevel",
}
# Seeds that wait for a worker, for each worker: enough that none waits for the next.
QUEUED_SEEDS = 4


@attrs.frozen
class SeedResult:
    """What came of one seed."""

    seed: int
    # The world that the seed drew, in one line.
    world: str
    # What happened in it: what the level calls an event. Those until the failure, if there is one.
    events: int
    # Seconds of processor time, all checks included.
    seconds: float
    # How often each kind of thing happened, by its name.
    coverage: Mapping[str, int]
    # The property that broke, by its name, and what was seen; None if all held. Several that broke at once have commas
    # between them.
    violated: str | None = None
    text: str = ""


class Level(ABC):
    """One level of simulation. The same seed must give the same run, in any process."""

    name: str
    # What a campaign of some hundred seeds is expected to reach: names of coverage counters.
    expected: Sequence[str] = ()

    @abstractmethod
    def run(self, seed: int) -> SeedResult:
        """Run a seed. What breaks is a result, and no error."""

    @abstractmethod
    def trace(self, seed: int, path: Path) -> SeedResult:
        """Run a seed again under a recorder, and write the trace.

        Raises: OSError if the file cannot be written.
        """

    def replay(self, trace: Trace) -> tuple[SeedResult, str]:
        """Run again what a trace is of, on the code as it is now; return the result, and the hash of the new trace.

        Raises: ConfigError if the trace does not say how.
        """
        raise ConfigError(f"a trace of level {trace.header.level!r} is repeated by its seed: {trace.header.seed}")

    @abstractmethod
    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Make the run of a failing seed short, write the trace of that, and return it as lines that people can read.

        Args:
            seed: It fails.
            path: Where the trace goes.
            say: Told in a few words how far it is.

        Raises: OSError if the file cannot be written.
        """


def level_of(name: str) -> Level:
    """Return the level of a name.

    Raises: ConfigError if there is none.
    """
    place = LEVELS.get(name)
    if place is None:
        raise ConfigError(f"level = {name!r} is not allowed; {' or '.join(sorted(LEVELS))} is")
    module, _, found = place.partition(":")
    level = getattr(import_module(module), found)()
    assert isinstance(level, Level)
    return level


@attrs.frozen
class CampaignResult:
    """What came of many seeds."""

    level: str
    seeds: int
    events: int
    # Seconds of processor time that the runs took together, and seconds of the clock.
    seconds: float
    elapsed_s: float
    coverage: Mapping[str, int]
    # In the order in which they were found.
    failures: Sequence[SeedResult]

    @property
    def violated(self) -> str | None:
        """The property that broke first, by its name; None if all held in all runs."""
        return self.failures[0].violated if self.failures else None

    @property
    def events_per_second(self) -> float:
        """Events in a second of processor time: what one core does that has nothing else to do."""
        return self.events / self.seconds if self.seconds else 0.0


@attrs.define
class _Tally:
    level: str
    started: float
    seeds: int = 0
    events: int = 0
    seconds: float = 0.0
    coverage: Counter[str] = attrs.field(factory=Counter)
    failures: list[SeedResult] = attrs.field(factory=list)

    def add(self, result: SeedResult) -> None:
        self.seeds += 1
        self.events += result.events
        self.seconds += result.seconds
        self.coverage.update(result.coverage)
        if result.violated is not None:
            self.failures.append(result)

    def result(self) -> CampaignResult:
        return CampaignResult(
            self.level,
            self.seeds,
            self.events,
            self.seconds,
            time.monotonic() - self.started,
            dict(sorted(self.coverage.items())),
            tuple(self.failures),
        )


def run_campaign(
    level: Level,
    seeds: Iterable[int],
    *,
    jobs: int = 1,
    for_s: float | None = None,
    stops_at_failure: bool = True,
    on_result: Callable[[SeedResult], object] = lambda result: None,
) -> CampaignResult:
    """Run seeds until there are no more, or time is up, or one fails.

    Args:
        level: The level of simulation.
        seeds: Without end if there is ``for_s``.
        jobs: With more than one, so many processes. They are forked where that is possible, so that whatever was done
            to the code here holds there.
        for_s: Begin no seed after so many seconds; None for no limit.
        stops_at_failure: Begin no seed after one that failed.
        on_result: Called with each result, in the order in which they come.

    Raises: KeyboardInterrupt at once, and no worker is left.
    """
    tally = _Tally(level.name, time.monotonic())
    ends = time.monotonic() + for_s if for_s is not None else None
    wanted = itertools.takewhile(lambda seed: ends is None or time.monotonic() < ends, seeds)
    results = map(level.run, wanted) if jobs == 1 else _in_processes(level, wanted, jobs)
    for result in results:
        tally.add(result)
        on_result(result)
        if stops_at_failure and tally.failures:
            break
    return tally.result()


def _in_processes(level: Level, seeds: Iterable[int], jobs: int) -> Iterable[SeedResult]:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    waiting = iter(seeds)
    running: deque[Future[SeedResult]] = deque()
    executor = ProcessPoolExecutor(jobs, mp_context=context)
    try:
        while True:
            for seed in itertools.islice(waiting, QUEUED_SEEDS * jobs - len(running)):
                running.append(executor.submit(level.run, seed))
            if not running:
                return
            # In the order of the seeds, so that the first failure is the same however many work.
            yield running.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def run_protocol_campaign(
    seeds: Iterable[int], *, jobs: int = 1, for_s: float | None = None, stops_at_failure: bool = True
) -> CampaignResult:
    """Run seeds at the protocol level: ``violated`` says what broke first, after so many ``events`` and ``seconds``."""
    return run_campaign(level_of("protocol"), seeds, jobs=jobs, for_s=for_s, stops_at_failure=stops_at_failure)

"""HealthChecker, on a mock clock."""

from __future__ import annotations

import json
import logging
import threading
import time
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import HealthChecker, HealthConfig
from clustercore.interfaces import CheckOutcome, ConfigError, ErrorCategory, HealthStatus, NodeId, StatusChange
from tests.unit.health.fakes import DRAIN, FAIL, OK, UNKNOWN, FakeProbe, Latest, off_the_grid, until

HEALTHY, UNHEALTHY = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY

Told = list[tuple[str, HealthStatus, HealthStatus]]


def notes(checker: HealthChecker) -> Told:
    """Return a list to which the checker's changes are added."""
    told: Told = []
    checker.on_status_change(lambda node_id, old, new: told.append((node_id, old, new)))
    return told


# --- How soon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        HealthConfig(),
        HealthConfig(check_interval=4.0, timeout=0.5, failure_threshold=1, jitter=0.25),
        HealthConfig(check_interval=2.0, timeout=1.5, failure_threshold=5, jitter=0.0),
    ],
)
async def test_detection_takes_the_worst_case_and_no_longer(config: HealthConfig, autojump_clock: MockClock) -> None:
    """A node that stops to answer just after it was asked is unhealthy after exactly the time that the formula says."""
    async with HealthChecker(config, rng=Latest()) as checker:
        node, other = FakeProbe(), FakeProbe()
        checker.start_monitoring("n", node)
        checker.start_monitoring("other", other)
        turned: list[float] = []
        checker.first_hooks.append(lambda change: turned.append(change.at) if change.new is UNHEALTHY else None)
        await until(lambda: checker.status("n") is HEALTHY)

        died_at = node.asked_at[-1]
        node.answer = None
        await trio.sleep(2 * config.worst_case_detection_s)

        assert turned[0] - died_at == config.worst_case_detection_s
        expected = config.check_interval * (1 + config.jitter) * config.failure_threshold + config.timeout
        assert config.worst_case_detection_s == expected


@pytest.mark.parametrize("seed", range(20))
async def test_detection_never_takes_longer(seed: int, autojump_clock: MockClock) -> None:
    """Whatever the jitter draws and whenever it dies, a node is unhealthy within the worst case."""
    rng = Random(seed)
    config = HealthConfig()
    async with HealthChecker(config, rng=Random(seed)) as checker:
        node = FakeProbe()
        checker.start_monitoring("n", node)
        checker.start_monitoring("other", FakeProbe())
        await off_the_grid()
        await trio.sleep(30 + rng.random() * 60)
        turned: list[float] = []
        checker.first_hooks.append(lambda change: turned.append(change.at))
        died_at = trio.current_time()

        node.answer = None
        await trio.sleep(2 * config.worst_case_detection_s)

        assert 0 < turned[0] - died_at <= config.worst_case_detection_s


async def test_node_that_never_was_well_is_found_within_the_worst_case(autojump_clock: MockClock) -> None:
    """A node that is ill from the beginning needs the threshold, too, and the first check comes within an interval."""
    config = HealthConfig()
    async with HealthChecker(config, rng=Latest()) as checker:
        node = FakeProbe(None)
        checker.start_monitoring("n", node)

        await off_the_grid()
        await trio.sleep(config.worst_case_detection_s)

        assert checker.status("n") is UNHEALTHY
        assert len(node.asked_at) == config.failure_threshold


@pytest.mark.slow
async def test_day_of_fifty_nodes(autojump_clock: MockClock) -> None:
    """A simulated day of 50 nodes, some of which fail and come back, keeps every interval and every threshold."""
    config, rng = HealthConfig(), Random(50)
    probes = {f"n{number}": FakeProbe() for number in range(50)}
    async with HealthChecker(config, rng=Random(7)) as checker:
        told = notes(checker)
        for name, probe in probes.items():
            checker.start_monitoring(name, probe)
        for _ in range(24):
            ill = rng.sample(sorted(probes), 3)
            for name in ill:
                probes[name].answer = FAIL
            await trio.sleep(600)
            assert all(checker.status(name) is UNHEALTHY for name in ill)
            for name in ill:
                probes[name].answer = OK
            await trio.sleep(3000)
            assert all(checker.status(name) is HEALTHY for name in probes)
    checks = sum(len(probe.asked_at) for probe in probes.values())
    # Each node's rate is fixed: 8,640 intervals, fewer while it was ill.
    assert 50 * 8640 * 0.99 < checks <= 50 * 8641
    for probe in probes.values():
        gaps = [after - before for before, after in zip(probe.asked_at, probe.asked_at[1:], strict=False)]
        # Of those that fall together, the last may wait a moment for its turn.
        assert min(gaps) >= 8.8
        assert max(gaps) <= 61.2
    # Three nodes an hour turn unhealthy and healthy again; those of the first hour were not known to be well before.
    assert len(told) == 50 + 24 * 3 * 2 - 3
    assert trio.current_time() >= 24 * 3600


# --- The schedule -----------------------------------------------------------------------------------------------------


async def test_checks_of_a_node_never_overlap_and_missed_ticks_are_skipped(autojump_clock: MockClock) -> None:
    """A check that waited for its turn makes no burst later, and no node is asked twice at a time."""
    config = HealthConfig(max_concurrent_checks=1, jitter=0.0)
    async with HealthChecker(config, rng=Random(1)) as checker:
        probes = [FakeProbe(takes_s=1.9) for _ in range(10)]
        for number, probe in enumerate(probes):
            checker.start_monitoring(f"n{number}", probe)

        await off_the_grid()
        await trio.sleep(600)

        for probe in probes:
            assert probe.most_under_way == 1
            gaps = [after - before for before, after in zip(probe.asked_at, probe.asked_at[1:], strict=False)]
            assert min(gaps) > 0.5 * config.check_interval
        # 10 checks of 1.9 s do not fit into 10 s one after the other.
        assert checker.snapshot()["skipped_checks"] > 0
        assert sum(len(probe.asked_at) for probe in probes) <= 600 / 1.9 + 1


async def test_checks_are_spread(autojump_clock: MockClock) -> None:
    """The first checks of many nodes are spread over the interval."""
    async with HealthChecker(rng=Random(2)) as checker:
        probes = [FakeProbe() for _ in range(100)]
        for number, probe in enumerate(probes):
            checker.start_monitoring(f"n{number}", probe)
        await trio.sleep(9.99)

        firsts = [probe.asked_at[0] for probe in probes]
        in_each = [sum(second <= first < second + 1 for first in firsts) for second in range(10)]
        assert max(in_each) <= 25
        assert min(in_each) >= 2


async def test_concurrency_and_rate_are_bounded(autojump_clock: MockClock) -> None:
    """No more checks than allowed are under way, or begun in a second."""
    config = HealthConfig(max_concurrent_checks=4, max_checks_per_s=10.0)
    async with HealthChecker(config, rng=Random(3)) as checker:
        probe = FakeProbe(takes_s=0.3)
        for number in range(200):
            checker.start_monitoring(f"n{number}", probe)

        await off_the_grid()
        await trio.sleep(100)

        assert probe.most_under_way <= 4
        asked = probe.asked_at
        assert max(sum(at <= other < at + 1 for other in asked) for at in asked) <= 11
        assert len(asked) > 900


async def test_unhealthy_node_is_asked_less_and_less_often(autojump_clock: MockClock) -> None:
    """A dead node costs less with time, but is asked once a minute at least; one answer, and it is asked as usual."""
    config = HealthConfig(jitter=0.0)
    async with HealthChecker(config, rng=Random(0)) as checker:
        node = FakeProbe(FAIL)
        checker.start_monitoring("n", node)
        checker.start_monitoring("other", FakeProbe())
        await off_the_grid()
        await trio.sleep(1000)

        gaps = [round(b - a, 6) for a, b in zip(node.asked_at, node.asked_at[1:], strict=False)]
        assert gaps[:11] == [10] * 9 + [20, 40]
        assert set(gaps[11:]) == {60}

        node.answer = OK
        await trio.sleep(60 + 10 + 0.1)
        assert checker.status("n") is HEALTHY


async def test_paused_and_removed_nodes_stop_at_once(autojump_clock: MockClock) -> None:
    """A node that is paused or removed in the middle of a check is asked no more, and the check counts for nothing."""
    async with HealthChecker(rng=Random(0)) as checker:
        told = notes(checker)
        paused, removed = FakeProbe(None), FakeProbe(None)
        checker.start_monitoring("paused", paused)
        checker.start_monitoring("removed", removed)
        checker.check_soon("paused")
        checker.check_soon("removed")
        await until(lambda: paused.under_way and removed.under_way)

        checker.pause_node("paused")
        checker.stop_monitoring_node("removed")
        await wait_all_tasks_blocked()
        assert (paused.under_way, removed.under_way) == (0, 0)
        assert (paused.is_watched, removed.is_watched) == (False, False)
        counts = len(paused.asked_at), len(removed.asked_at)
        await off_the_grid()
        await trio.sleep(1000)

        assert (len(paused.asked_at), len(removed.asked_at)) == counts
        assert told == []
        assert checker.monitored == (NodeId("paused"),)
        paused.answer = OK
        checker.resume_node("paused")
        await trio.sleep(10)
        assert checker.status("paused") is HEALTHY


async def test_cancelled_check_changes_nothing(autojump_clock: MockClock) -> None:
    """Whatever ends a block in the middle of a check: the check counts neither as good nor as failed."""
    config = HealthConfig(failure_threshold=1)
    checker = HealthChecker(config, rng=Random(0))
    node = FakeProbe(None)
    with trio.CancelScope() as scope:
        async with checker:
            checker.start_monitoring("n", node)
            await until(lambda: node.under_way)
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert node.under_way == 0
    assert checker.status("n") is HealthStatus.UNKNOWN
    assert checker.history("n").checks == ()


async def test_error_in_the_block_leaves_it_as_it_is(autojump_clock: MockClock) -> None:
    """What the body of the block raises leaves it alone, in no group."""

    async def fail() -> None:
        async with HealthChecker(rng=Random(0)) as checker:
            checker.start_monitoring("n", FakeProbe(None))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await fail()


async def test_checker_is_used_inside_its_block(autojump_clock: MockClock) -> None:
    """Outside its block a checker monitors nothing, and it is entered once."""
    checker = HealthChecker(rng=Random(0))
    with pytest.raises(RuntimeError, match="async with"):
        checker.start_monitoring("n", FakeProbe())
    async with checker:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await checker.__aenter__()


# --- What a check says ------------------------------------------------------------------------------------------------


async def test_timeout_and_exception_are_failures_with_their_times(autojump_clock: MockClock) -> None:
    """No answer is a failure that took the timeout; an exception is one that took as long as it did, and no crash."""
    async with HealthChecker(HealthConfig(jitter=0.0), rng=Random(0)) as checker:
        silent, broken = FakeProbe(None), FakeProbe(OSError("no route"), takes_s=0.25)
        checker.start_monitoring("silent", silent)
        checker.start_monitoring("broken", broken)
        checker.start_monitoring("well", FakeProbe())
        await off_the_grid()
        await trio.sleep(12.5)

        (first, *_) = checker.history("silent").checks
        assert (first.result.outcome, first.result.category) == (CheckOutcome.FAIL, ErrorCategory.TIMEOUT_ERROR)
        assert first.latency_s == 2.0
        (first, *_) = checker.history("broken").checks
        assert (first.result.category, first.result.detail) == (ErrorCategory.NETWORK_ERROR, "no route")
        assert first.latency_s == pytest.approx(0.25)


async def test_watched_word_counts_at_once(autojump_clock: MockClock) -> None:
    """A server that says that it drains is unhealthy that moment, and unknown when it does not know the service."""
    async with HealthChecker(rng=Random(0)) as checker:
        node = FakeProbe()
        checker.start_monitoring("n", node)
        await off_the_grid()
        await trio.sleep(10)
        assert node.report is not None
        assert checker.status("n") is HEALTHY

        node.report(DRAIN)
        assert checker.status("n") is UNHEALTHY
        node.report(UNKNOWN)
        assert checker.status("n") is HealthStatus.UNKNOWN
        checker.stop_monitoring_node("n")
        node.report(OK)
        assert checker.monitored == ()


async def test_watch_that_fails_is_logged_and_checks_go_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe whose watch raises is still checked."""

    class Broken(FakeProbe):
        async def watch(self, report: object) -> None:
            raise ValueError("no watch here")

    async with HealthChecker(rng=Random(0)) as checker:
        checker.start_monitoring("n", Broken())
        await off_the_grid()
        await trio.sleep(20)
        assert checker.status("n") is HEALTHY
    assert "no watch here" in caplog.text


async def test_maintenance_hides_the_checks_and_ends(autojump_clock: MockClock) -> None:
    """In maintenance a node is nothing else, gets no work, and is what its checks say afterwards."""
    async with HealthChecker(rng=Random(0)) as checker:
        told = notes(checker)
        node = FakeProbe()
        checker.start_monitoring("n", node)
        await off_the_grid()
        await trio.sleep(20)
        checker.set_maintenance("n", True)
        node.answer = FAIL
        await trio.sleep(60)
        assert checker.status("n") is HealthStatus.MAINTENANCE
        assert not checker.is_routable("n")
        checker.set_maintenance("n", False)
        await wait_all_tasks_blocked()

        assert told == [
            ("n", HealthStatus.UNKNOWN, HEALTHY),
            ("n", HEALTHY, HealthStatus.MAINTENANCE),
            ("n", HealthStatus.MAINTENANCE, UNHEALTHY),
        ]


async def test_new_probe_keeps_what_is_known(autojump_clock: MockClock) -> None:
    """A node that moved is asked at its new place, and is what it was until that says otherwise."""
    async with HealthChecker(rng=Random(0)) as checker:
        old, new = FakeProbe(), FakeProbe(FAIL)
        checker.start_monitoring("n", old)
        await off_the_grid()
        await trio.sleep(50)
        asked = len(old.asked_at)

        checker.start_monitoring("n", new)
        assert checker.status("n") is HEALTHY
        await trio.sleep(35)

        assert len(old.asked_at) == asked
        assert checker.status("n") is UNHEALTHY
        assert len(checker.history("n").checks) == asked + len(new.asked_at)


async def test_snapshot_is_json_and_history_is_bounded(autojump_clock: MockClock) -> None:
    """A snapshot can be written as JSON; of each node the last hundred checks and changes are kept."""
    config = HealthConfig(failure_threshold=1, success_threshold=1, jitter=0.0)
    async with HealthChecker(config, rng=Random(0)) as checker:
        node = FakeProbe(takes_s=0.5)
        checker.start_monitoring("n", node)
        checker.start_monitoring("other", FakeProbe())
        await off_the_grid()
        for turn in range(150):
            node.answer = FAIL if turn % 2 else OK
            await trio.sleep(10)

        told = json.loads(json.dumps(checker.snapshot(with_history=True)))
        seen = told["nodes"]["n"]
        assert (len(seen["checks"]), len(seen["changes"])) == (100, 100)
        assert seen["statistics"]["count"] == 100
        assert seen["statistics"]["success_rate"] == 0.5
        assert seen["statistics"]["good"]["p99_s"] == pytest.approx(0.5)
        assert seen["is_flapping"] is True
        assert seen["changes"][-1]["sequence"] >= 149
        assert "checks" not in checker.snapshot()["nodes"]["n"]


async def test_stale_is_a_node_that_nobody_asked_for_long(autojump_clock: MockClock) -> None:
    """What is known of a node that is paused for long is marked as stale."""
    async with HealthChecker(rng=Random(0)) as checker:
        checker.start_monitoring("n", FakeProbe())
        await off_the_grid()
        await trio.sleep(50)
        assert checker.snapshot()["nodes"]["n"]["is_stale"] is False
        checker.pause_node("n")
        await trio.sleep(80)

        assert checker.snapshot()["nodes"]["n"]["is_stale"] is True


# --- Who is told ------------------------------------------------------------------------------------------------------


async def test_slow_and_raising_callbacks_delay_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each callback hears of each change once and in order, whatever others do; checks go on at their rate."""
    config = HealthConfig(failure_threshold=1, success_threshold=1, jitter=0.0, flap_changes=1000)
    prompt: list[tuple[float, StatusChange]] = []
    slow: list[StatusChange] = []
    raised = 0

    async def take_long(change: StatusChange) -> None:
        await trio.sleep(1000)
        slow.append(change)

    def fail(change: StatusChange) -> None:
        nonlocal raised
        raised += 1
        raise RuntimeError("not today")

    async with HealthChecker(config, rng=Random(4)) as checker:
        checker.subscribe(take_long)
        checker.subscribe(fail)
        checker.subscribe(lambda change: prompt.append((trio.current_time(), change)))
        node = FakeProbe()
        checker.start_monitoring("n", node)
        checker.start_monitoring("other", FakeProbe())
        await off_the_grid()
        for turn in range(20):
            node.answer = FAIL if turn % 2 else OK
            await trio.sleep(10)
        of_node = [(at, change) for at, change in prompt if change.node_id == "n"]

        assert [change.sequence for _, change in of_node] == list(range(1, 21))
        assert all(at == change.at for at, change in prompt)
        assert raised == len(prompt)
        assert len(node.asked_at) == 20
        await trio.sleep(1000 * 25)
        assert [change for change in slow if change.node_id == "n"] == [change for _, change in of_node]
        assert checker.snapshot()["callbacks"] == [
            {"waiting": 0, "missed": 0, "failed": 0},
            {"waiting": 0, "missed": 0, "failed": raised},
            {"waiting": 0, "missed": 0, "failed": 0},
        ]
    assert "not today" in caplog.text


async def test_blocking_callback_in_a_thread_delays_no_check() -> None:
    """A plain callback that blocks its thread for a while leaves the event loop alone."""
    release = threading.Event()
    heard: list[str] = []

    def block(change: StatusChange) -> None:
        release.wait(60)
        heard.append(change.node_id)

    config = HealthConfig(check_interval=0.02, timeout=0.01, max_check_interval_s=0.02, failure_threshold=1)
    async with HealthChecker(config, rng=Random(0)) as checker:
        checker.subscribe(block, in_thread=True)
        node = FakeProbe()
        checker.start_monitoring("n", node)
        await until(lambda: len(node.asked_at) >= 5)
        assert heard == []
        release.set()
        await until(lambda: heard)
    assert heard == ["n"]


async def test_callback_may_add_and_remove_nodes_and_itself(autojump_clock: MockClock) -> None:
    """A callback may change what is monitored, and may end itself."""
    async with HealthChecker(rng=Random(0)) as checker:
        heard: list[str] = []

        async def on_change(node_id: NodeId, old: HealthStatus, new: HealthStatus) -> None:
            heard.append(node_id)
            checker.stop_monitoring_node(node_id)
            checker.start_monitoring(f"{node_id}+", FakeProbe())
            if len(heard) == 3:
                remove()

        remove = checker.on_status_change(on_change)
        checker.start_monitoring("n", FakeProbe())
        await off_the_grid()
        await trio.sleep(200)

        assert heard == ["n", "n+", "n++"]
        assert checker.monitored == ("n+++",)


async def test_callback_that_hangs_misses_what_is_too_much(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue of a callback is bounded: beyond it changes are counted and logged, and nobody else is hurt."""
    monkeypatch.setattr("clustercore.health.callbacks.MAX_WAITING", 3)
    async with HealthChecker(HealthConfig(failure_threshold=1, success_threshold=1), rng=Random(0)) as checker:
        told = notes(checker)

        async def hang(change: StatusChange) -> None:
            await trio.sleep_forever()

        checker.subscribe(hang)
        node = FakeProbe()
        checker.start_monitoring("n", node)
        await off_the_grid()
        await trio.sleep(10)
        assert node.report is not None
        for turn in range(10):
            node.report(OK if turn % 2 else FAIL)
            await wait_all_tasks_blocked()

        assert len(told) == 11
        # One is being told, three wait.
        assert checker.snapshot()["callbacks"][1] == {"waiting": 3, "missed": 7, "failed": 0}
    assert caplog.text.count("hears no more until it returns") == 1


# --- The checker itself -----------------------------------------------------------------------------------------------


async def test_checker_doubts_itself_when_all_fail(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """If every check of two nodes or more fails, the checker's timeouts grow with its score, and shrink again."""
    caplog.set_level(logging.WARNING)
    async with HealthChecker(HealthConfig(jitter=0.0), rng=Random(1)) as checker:
        probes = [FakeProbe(None), FakeProbe(None)]
        for name, probe in zip("ab", probes, strict=True):
            checker.start_monitoring(name, probe)
        await off_the_grid()
        await trio.sleep(75)

        assert checker.own_score.score >= 3
        assert checker.own_score.is_frozen
        latencies = [record.latency_s for record in checker.history("a").checks]
        assert latencies == sorted(latencies)
        assert latencies[0] == 2.0
        assert latencies[-1] >= 6.0
        assert "doubts itself (all checks fail)" in caplog.text

        for probe in probes:
            probe.answer = OK
        await trio.sleep(300)
        assert checker.own_score.score == 0


async def test_checker_does_not_doubt_itself_for_one_ill_node(autojump_clock: MockClock) -> None:
    """One node that fails, alone or among others, says nothing against the checker."""
    for others in (0, 1):
        await off_the_grid()
        async with HealthChecker(rng=Random(0)) as checker:
            checker.start_monitoring("ill", FakeProbe(None))
            for number in range(others):
                checker.start_monitoring(f"well{number}", FakeProbe())
            await trio.sleep(300)
            assert checker.own_score.score == 0


async def test_lag_of_the_event_loop_counts_against_the_checker() -> None:
    """An event loop that is blocked for longer than half a timeout raises the score."""
    config = HealthConfig(check_interval=0.05, timeout=0.02, max_check_interval_s=0.05)
    async with HealthChecker(config, rng=Random(0)) as checker:
        checker.start_monitoring("n", FakeProbe())
        await trio.sleep(0.01)
        time.sleep(0.12)  # noqa: ASYNC251 - blocking the event loop is what is tested
        await trio.sleep(0.001)
        await until(lambda: checker.own_score.signs, step_s=0.001)

        assert checker.own_score.signs == {"loop lag"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"timeout": 9.5}, "below the shortest interval, 9 seconds"),
        ({"timeout": 0}, "timeout is 0"),
        ({"failure_threshold": 0}, "failure_threshold is 0"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"flap_changes": 1}, "flap_changes is 1"),
        ({"max_removed_share": 1.5}, "max_removed_share is 1.5"),
        ({"deregister_after_s": -1}, "deregister_after_s is -1"),
        ({"max_check_interval_s": 5}, "max_check_interval_s is 5"),
    ],
)
def test_config_refuses_what_makes_no_sense(wrong: dict[str, float], says: str) -> None:
    """A number out of range is refused with its name and what is allowed."""
    with pytest.raises(ConfigError, match=says):
        HealthConfig(**wrong)  # type: ignore[arg-type]  # what a configuration file might hold
